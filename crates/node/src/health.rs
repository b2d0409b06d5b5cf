//! Whether this node can do its work. Being cut off from other sites, the cloud among them, does not make it unready.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use littoral_store::log::Log;

use crate::admin::types::Readiness;
use crate::groups::Groups;

/// What readiness depends on.
pub(crate) struct Health {
    pub(crate) log: Log,
    pub(crate) groups: Arc<Groups>,
    pub(crate) stopping: AtomicBool,
}

impl Health {
    /// The present readiness.
    pub(crate) fn now(&self) -> Readiness {
        let mut reasons = Vec::new();
        let mut ready = true;
        if self.stopping.load(Ordering::Acquire) {
            ready = false;
            reasons.push("the node is stopping".to_owned());
        }
        if let Some(error) = self.log.stats().failed {
            ready = false;
            reasons.push(format!("the node's log has failed: {error}"));
        }
        let group = self.groups.own();
        if let Some(error) = group.as_ref().and_then(|group| group.failure()) {
            ready = false;
            reasons.push(format!("the keeper's part on this node has ended: {error}; restart the node"));
        }
        match group {
            None => ready = false,
            Some(group) if group.leader().is_none() => {
                // What runs goes on; only moves and new work wait for a leader.
                reasons.push(format!("the keeper of {} has no leader now: nothing is moved or created", group.site()));
            }
            Some(_) => {}
        }
        Readiness { ready, reasons }
    }
}
