//! Finds who owns a unit of work, anywhere in the fabric.
//!
//! Works of a group that this node takes part in are known here; for others any node of the work's site is asked, and
//! the answer kept until it turns out wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::id::NodeId;
use littoral_model::work::{Assignment, WorkId};

use crate::groups::Groups;
use crate::sync::lock;
use crate::wiring::ask;

/// How many owners elsewhere are remembered.
const REMEMBERED_MAX: usize = 10_000;
/// How long one node of the site may take to answer.
const LOCATE_DEADLINE: Duration = Duration::from_millis(800);

/// Where works are.
pub(crate) struct Directory {
    mesh: Arc<dyn Mesh>,
    groups: Arc<Groups>,
    remembered: Mutex<HashMap<WorkId, Assignment>>,
}

impl Directory {
    pub(crate) fn new(mesh: Arc<dyn Mesh>, groups: Arc<Groups>) -> Self {
        Self { mesh, groups, remembered: Mutex::default() }
    }

    /// The assignment of a work, as far as it can be found out now.
    pub(crate) async fn locate(&self, work: &WorkId) -> Option<Assignment> {
        if let Some(assignment) = self.here(work) {
            return Some(assignment);
        }
        if let Some(known) = self.lock().get(work) {
            return Some(known.clone());
        }
        let members = self.mesh.members().borrow().clone();
        for (node, digest) in members.iter() {
            if digest.site != work.site || node == self.mesh.node() {
                continue;
            }
            let answer = ask(&self.mesh, node, Method::Locate, Priority::Control, LOCATE_DEADLINE, work).await;
            match answer {
                Ok(Some(assignment)) => {
                    self.learn(&assignment);
                    return Some(assignment);
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%node, %work, %error, "a node of the work's site does not answer"),
            }
        }
        None
    }

    /// What this node's own groups say.
    pub(crate) fn here(&self, work: &WorkId) -> Option<Assignment> {
        self.groups.assignment(work)
    }

    /// Remembers a newer assignment of a work elsewhere.
    pub(crate) fn learn(&self, assignment: &Assignment) {
        let mut remembered = self.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        match remembered.get(&assignment.work) {
            Some(known) if known.epoch > assignment.epoch => {}
            _ => drop(remembered.insert(assignment.work.clone(), assignment.clone())),
        }
    }

    /// Forgets what was known of a work: its owner did not answer, or said it is not.
    pub(crate) fn forget(&self, work: &WorkId) {
        self.lock().remove(work);
    }

    /// The owner to ask for a work.
    pub(crate) async fn owner(&self, work: &WorkId) -> Option<NodeId> {
        self.locate(work).await.map(|assignment| assignment.owner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<WorkId, Assignment>> {
        lock(&self.remembered)
    }
}
