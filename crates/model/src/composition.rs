//! Functions that import what other functions of their app export: which is whose, and what nodes say to one another when
//! such a call leaves its machine.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{AppId, FunctionName};

/// The most bytes that the arguments, or the results, of one call may have between two nodes: they must fit into a
/// message, with room for what surrounds them.
pub const VALUES_BYTES_MAX: usize = 8 << 20;
/// How deeply composed calls may be nested. A cycle ends here, if its deadline does not end it before.
pub const CALL_DEPTH_MAX: u32 = 16;

/// What each function of an app imports from others; settled when the app is deployed.
pub type Composition = BTreeMap<FunctionName, Vec<ComposedImport>>;

/// An interface that one function imports and another one exports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposedImport {
    /// The interface as it is imported, `acme:vision/detect@1.0.0`.
    pub import: String,
    /// The function that exports it.
    pub function: FunctionName,
    /// The interface as it is exported: of a compatible version.
    pub export: String,
}

/// Calls a function of an interface that is exported by a function of another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeRequest {
    /// The app of both functions.
    pub app: AppId,
    /// The function that exports the interface.
    pub function: FunctionName,
    /// What is called.
    pub call: ComposedCall,
}

/// One call of a function of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposedCall {
    /// The interface, as it is exported.
    pub interface: String,
    /// The function in it.
    pub name: String,
    /// A hash of the types that the caller knows. Another one is refused: the arguments would be read wrongly.
    pub signature: u64,
    /// How many composed calls this one is nested in.
    pub depth: u32,
    /// How long the caller waits, in microseconds.
    pub remaining_us: u64,
    /// The arguments, at most [`VALUES_BYTES_MAX`]; their types are known to both sides.
    pub arguments: Bytes,
}

/// What became of a composed call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ComposeReply {
    /// It returned these results.
    Returned(Bytes),
    /// It failed, and why.
    Failed(String),
    /// The asked node does not serve the function, or not yet; nothing was done.
    NotServed,
}
