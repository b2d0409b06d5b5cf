//! Nothing: each example is a component of its own.
