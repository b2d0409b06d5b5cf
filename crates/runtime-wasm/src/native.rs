//! Loads machine code from the artefact cache: the only `unsafe` of this crate.
//!
//! `Component::deserialize` is unsafe because it runs what it is given: bytes that Wasmtime did not make itself can do
//! anything that this process can. It is sound here because the bytes are [`Verified`], which only the cache makes, and
//! only after it has checked an HMAC-SHA256 over them under a key that this node drew at random and keeps readable for
//! itself alone. Whoever could forge that could read the node's memory already. That the code was made for this engine
//! and processor is part of what the HMAC covers, and Wasmtime checks it once more.
#![allow(unsafe_code)]

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::Verified;

/// Loads a component that this node compiled.
pub(crate) fn deserialize(engine: &Engine, code: &Verified) -> wasmtime::Result<Component> {
    // SAFETY: `Verified` is unmodified output of `Component::serialize` of this node, see above.
    unsafe { Component::deserialize(engine, code.bytes()) }
}
