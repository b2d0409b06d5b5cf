//! The mesh keys of a node.

use littoral_model::digest::NodeDigest;
use littoral_model::id::{NodeId, TenantId};

/// What is added to the number of a session in its keys each time that it declares itself anew, so that those who know it by
/// its number before are not disturbed. A node has fewer sessions.
const ANEW: usize = 1 << 16;

/// The mesh keys of a node.
pub(super) struct NodeKeys {
    prefix: String,
    site: String,
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
}

impl NodeKeys {
    pub(super) fn new(fabric: &str, tenant: &TenantId, digest: &NodeDigest) -> Self {
        Self {
            prefix: format!("littoral/{fabric}/{tenant}"),
            site: digest.site.to_string(),
            node: digest.node.clone(),
            incarnation: digest.incarnation,
        }
    }

    /// The number of a session in its keys once it has declared itself anew so many times.
    pub(super) fn number(line: usize, times: usize) -> usize {
        line + times * ANEW
    }

    pub(super) fn call(&self, line: usize) -> String {
        format!("{}/{}/{}/call/{line}", self.prefix, self.site, self.node)
    }

    pub(super) fn alive(&self, line: usize) -> String {
        format!("{}/{}/{}/alive/{}/{line}", self.prefix, self.site, self.node, self.incarnation)
    }

    pub(super) fn everybody(&self) -> String {
        format!("{}/*/*/alive/*/*", self.prefix)
    }

    /// The session id follows from who it belongs to, so that links can be told apart by node.
    pub(super) fn zid(&self, node: &NodeId, incarnation: u64, line: usize) -> String {
        let hash = crate::identity::hash(format!("{}/{node}/{incarnation}/{line}", self.prefix).as_bytes());
        let number = hash.iter().take(16).fold(0u128, |number, byte| (number << 8) | u128::from(*byte));
        format!("{:x}", number | 1)
    }

    /// Reads a liveliness key; node, incarnation, the key that answers its calls, and its session id.
    pub(super) fn parse_alive(&self, key: &str) -> Option<(NodeId, u64, String, String)> {
        let mut parts = key.strip_prefix(&self.prefix)?.strip_prefix('/')?.split('/');
        let (site, node, alive) = (parts.next()?, parts.next()?, parts.next()?);
        let (incarnation, line) = (parts.next()?.parse().ok()?, parts.next()?.parse::<usize>().ok()?);
        if alive != "alive" || parts.next().is_some() {
            return None;
        }
        let id = NodeId::new(node).ok()?;
        let call = format!("{}/{site}/{node}/call/{line}", self.prefix);
        let zid = self.zid(&id, incarnation, line % ANEW);
        Some((id, incarnation, call, zid))
    }
}
