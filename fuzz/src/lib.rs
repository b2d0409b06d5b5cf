//! What is fuzzed, as functions of bytes: each fails by a panic. `fuzz_targets` hands them to libFuzzer, `tests/corpus.rs`
//! runs them over the committed inputs in a plain `cargo test`.
//!
//! Modules of crates that need Wasmtime or Zenoh are taken in by their path: neither engine is built with a sanitizer for
//! it, and nothing of them is made public for it.

pub mod cache;
pub mod host;
pub mod image;
pub mod log;
pub mod manifest;
pub mod mqtt;
pub mod sql;
pub mod wire;

#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../crates/mesh/src/call.rs"]
mod call;
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../crates/mesh/src/frame.rs"]
mod frame;
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../crates/mesh/src/identity.rs"]
mod identity;
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../crates/mesh/src/join.rs"]
mod join;
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../crates/mesh/src/zenoh_mesh/direct/frame.rs"]
mod line;
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../crates/mesh/src/token.rs"]
mod token;

/// Panics where an input shows a mistake.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 8] = [
    ("manifest", manifest::run),
    ("host", host::run),
    ("wire", wire::run),
    ("log", log::run),
    ("cache", cache::run),
    ("image", image::run),
    ("sql", sql::run),
    ("mqtt", mqtt::run),
];
