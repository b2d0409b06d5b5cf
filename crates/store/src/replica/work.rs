//! One work on this node: what it was last told about it, and whether it owns it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use littoral_model::id::{Epoch, NodeId};
use littoral_model::work::{Assignment, WorkId};
use tokio::sync::Notify;

use super::epochs::Epochs;
use super::owner::{Lost, Ownership};
use super::{Keeper, Peers, Standing, WorkConfig};
use crate::blocking::blocking;
use crate::derived::Derived;
use crate::error::StoreError;
use crate::log::Log;

/// What all works of a node share.
pub(super) struct Shared {
    pub(super) node: NodeId,
    pub(super) log: Log,
    pub(super) derived: Derived,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) keeper: Arc<dyn Keeper>,
    pub(super) epochs: Epochs,
    /// Held while derived state is changed.
    pub(super) applying: tokio::sync::Mutex<()>,
    /// Bytes committed since the applier last looked, and how it is woken when they are many.
    pub(super) fresh_bytes: AtomicUsize,
    pub(super) apply_now: Notify,
    /// The node stops: nothing that takes long is begun or tried again.
    pub(super) stopped: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        node: NodeId,
        log: Log,
        derived: Derived,
        peers: Arc<dyn Peers>,
        keeper: Arc<dyn Keeper>,
        epochs: Epochs,
    ) -> Self {
        let (applying, fresh_bytes, apply_now, stopped) = Default::default();
        Self { node, log, derived, peers, keeper, epochs, applying, fresh_bytes, apply_now, stopped }
    }

    /// Takes note of bytes that the applier will have to do.
    pub(super) fn fresh(&self, bytes: usize) {
        if self.fresh_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= super::apply::APPLY_BYTES {
            self.apply_now.notify_one();
        }
    }
}

/// One work on this node.
pub(super) struct Work {
    pub(super) id: WorkId,
    pub(super) name: String,
    pub(super) shared: Arc<Shared>,
    /// Held by what changes the log as a replica, and while this node becomes owner.
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
    /// The index of the last entry in the derived state.
    pub(super) applied: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) assignment: Option<Assignment>,
    pub(super) config: Option<WorkConfig>,
    /// The highest epoch heard of; lower ones are refused.
    pub(super) fence: Epoch,
    pub(super) ownership: Option<Arc<Ownership>>,
    /// As a replica: what the owner says is committed and may be forgotten.
    pub(super) committed: u64,
    pub(super) trim_below: u64,
}

impl State {
    fn disown(&mut self) {
        if let Some(ownership) = self.ownership.take() {
            self.committed = self.committed.max(ownership.committed());
        }
    }
}

impl Work {
    pub(super) fn open(id: WorkId, shared: Arc<Shared>) -> Arc<Self> {
        let name = id.to_string();
        let last_epoch = shared.log.head(&name).map_or(Epoch(0), |head| head.last_epoch);
        let applied = shared.derived.applied(&name).unwrap_or_else(|error| {
            tracing::error!(work = %name, %error, "the derived state cannot be read; it is built anew");
            0
        });
        let fence = last_epoch.max(shared.epochs.known(&name));
        let state = State { fence, committed: applied, ..State::default() };
        let (gate, applied) = (Arc::default(), Arc::new(AtomicU64::new(applied)));
        Arc::new(Self { id, name, shared, gate, applied, state: Mutex::new(state) })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ownership, while it lasts.
    pub(super) fn ownership(&self) -> Option<Arc<Ownership>> {
        self.state().ownership.clone().filter(|ownership| !ownership.is_lost())
    }

    pub(super) fn assignment(&self) -> Option<Assignment> {
        self.state().assignment.clone()
    }

    pub(super) fn configure(&self, config: WorkConfig) {
        let mut state = self.state();
        if let Some(ownership) = &state.ownership {
            ownership.configure(config.clone());
        }
        state.config = Some(config);
    }

    pub(super) fn assigned(&self, assignment: Assignment) {
        let mut state = self.state();
        if state.assignment.as_ref().is_some_and(|known| known.epoch > assignment.epoch) {
            return;
        }
        let mine = assignment.owner == self.shared.node;
        state.assignment = Some(assignment.clone());
        if let Some(ownership) = &state.ownership {
            if ownership.epoch == assignment.epoch && mine {
                ownership.set_replicas(&assignment.replicas);
            }
            // Also an ownership that ended early is not begun again at its epoch.
            if ownership.epoch >= assignment.epoch {
                return;
            }
            ownership.end(Lost::Fenced(assignment.epoch));
        }
        if assignment.epoch < state.fence {
            return;
        }
        state.fence = assignment.epoch;
        state.disown();
        if mine {
            state.ownership = Some(Ownership::begin(self, assignment, state.config.clone()));
        }
    }

    /// Gives way to an owner of a higher epoch; says which one is known if that is even higher.
    pub(super) fn give_way(&self, epoch: Epoch) -> Result<(), Epoch> {
        let mut state = self.state();
        if epoch < state.fence {
            return Err(state.fence);
        }
        if let Some(ownership) = &state.ownership {
            if ownership.epoch >= epoch {
                return Err(ownership.epoch);
            }
            ownership.end(Lost::Fenced(epoch));
            state.disown();
        }
        state.fence = epoch;
        Ok(())
    }

    pub(super) fn committed(&self) -> u64 {
        let state = self.state();
        match &state.ownership {
            Some(ownership) => ownership.committed(),
            None => state.committed,
        }
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    pub(super) fn set_applied(&self, index: u64) {
        self.applied.store(index, Ordering::Release);
    }

    /// Refuses lower epochs from now on; for who waits at the gate.
    fn raise_fence(&self, epoch: Epoch) {
        let mut state = self.state();
        state.fence = epoch.max(state.fence);
    }

    /// Drops all that is held of the work, which was removed at `ended`; where that is not known, at the latest epoch heard
    /// of.
    pub(super) async fn remove(&self, ended: Option<Epoch>) -> Result<(), StoreError> {
        self.stop();
        let _gate = self.gate.lock().await;
        let _applying = self.shared.applying.lock().await;
        let heard = self.state().assignment.take().map_or(Epoch(0), |assignment| assignment.epoch);
        // Both are written before either is waited for: who remembers that it was removed has nothing of it left.
        let dropped = self.shared.log.drop_work(&self.name)?;
        self.shared.epochs.remove(&self.name, ended.unwrap_or(heard)).await?;
        dropped.durable().await?;
        self.raise_fence(self.shared.epochs.known(&self.name));
        let (derived, name) = (self.shared.derived.clone(), self.name.clone());
        blocking(move || derived.drop_work(&name)).await
    }

    pub(super) fn stop(&self) {
        if let Some(ownership) = &self.state().ownership {
            ownership.end(Lost::Stopped);
        }
    }

    pub(super) fn standing(&self) -> Standing {
        let head = self.shared.log.head(&self.name);
        let (leads, epoch) = {
            let state = self.state();
            (state.ownership.as_ref().is_some_and(|ownership| ownership.is_ready()), state.fence)
        };
        Standing {
            work: self.id.clone(),
            leads,
            epoch,
            first: head.map_or(1, |head| head.first),
            last: head.map_or(0, |head| head.next - 1),
            committed: self.committed(),
            applied: self.applied(),
        }
    }
}
