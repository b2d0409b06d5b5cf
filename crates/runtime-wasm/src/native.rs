//! Loads machine code from the artefact cache: the only `unsafe` of this crate.
//!
//! `Component::deserialize_file` is unsafe because it maps and runs what it is given: a file that Wasmtime did not make
//! itself, or one that changes while it is mapped, can do anything that this process can. It is sound here because the
//! file is [`Verified`], which only the cache makes, and only after it has checked an HMAC-SHA256 over its content under
//! a key that this node drew at random and keeps readable for itself alone; and because the cache never writes to a file
//! that has its name, but renames a new one over it. Folder and file belong to the node's user alone: whoever could
//! change the file could read the key, and the node's memory, already. That the code was made for this engine and
//! processor is part of what the HMAC covers, and Wasmtime checks it once more.
#![allow(unsafe_code)]

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::cache::Verified;

/// Maps a component that this node compiled.
pub(crate) fn load(engine: &Engine, code: &Verified) -> wasmtime::Result<Component> {
    // SAFETY: `Verified` is unmodified output of `Component::serialize` of this node, see above.
    unsafe { Component::deserialize_file(engine, code.path()) }
}
