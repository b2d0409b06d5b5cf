//! The components of `crates/bench/guests`.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::results::target;

/// A component by its package's name in Rust.
pub(crate) fn guest(name: &str) -> anyhow::Result<PathBuf> {
    let path = target().join(format!("guests/bench/wasm32-wasip2/release/{name}.wasm"));
    path.canonicalize().with_context(|| format!("{} is not there: run `make bench-guests`", path.display()))
}

/// The same component under another digest: with a section of its own that nobody reads (custom, id 0).
pub(crate) fn distinct(component: &[u8], number: u8) -> Vec<u8> {
    let mut bytes = component.to_vec();
    // Id, size, length of the name, the name, one byte of content.
    bytes.extend_from_slice(&[0, 7, 5]);
    bytes.extend_from_slice(b"bench");
    bytes.push(number);
    bytes
}
