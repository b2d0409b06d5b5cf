//! The vocabulary of Littoral: ids, quantities, the manifest, digests, wire messages and hybrid logical time.
//!
//! Everything here is plain data with parsing and validation. No I/O, no clock, no randomness: whoever needs a time
//! or a random number passes it in.

pub mod composition;
pub mod condition;
pub mod digest;
pub mod edit;
pub mod entry;
pub mod file_header;
pub mod grant;
pub mod hlc;
pub mod id;
pub mod invocation;
pub mod library;
pub mod manifest;
pub mod oci;
pub mod schedule;
pub mod situation;
pub mod topic;
pub mod unit;
pub mod wire;
pub mod work;
