//! Who may answer for an app now: asked for each request, so that nobody answers for longer than it may, also after a
//! pause in which nothing could be told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use littoral_model::id::AppId;
use rustix::time::{ClockId, clock_gettime};

/// What stands between requests and the functions of apps that do not simply go on in a cut.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Whether any app is watched at all: most nodes have none, and do not look further.
    watches: AtomicBool,
    watched: RwLock<HashMap<AppId, Watched>>,
}

#[derive(Debug)]
enum Watched {
    Halted(String),
    Leased { from_ms: u64, until_ms: u64 },
}

impl Gate {
    /// Closes for an app, for a reason.
    pub(crate) fn halt(&self, app: AppId, reason: String) {
        self.set(app, Some(Watched::Halted(reason)));
    }

    /// Is open for an app only between these times of the agents' clock.
    pub(crate) fn lease(&self, app: AppId, from_ms: u64, until_ms: u64) {
        self.set(app, Some(Watched::Leased { from_ms, until_ms }));
    }

    /// Is open for an app.
    pub(crate) fn admit(&self, app: AppId) {
        self.set(app, None);
    }

    /// Why it is closed for an app now; none if it is open.
    pub(crate) fn closed(&self, app: &AppId) -> Option<String> {
        if !self.watches.load(Ordering::Acquire) {
            return None;
        }
        let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        match watched.get(app)? {
            Watched::Halted(reason) => Some(format!("{} is stopped on this node: {reason}", app.app)),
            Watched::Leased { from_ms, until_ms } if (*from_ms..*until_ms).contains(&now_ms()) => None,
            Watched::Leased { .. } => Some(format!(
                "{} is served by one node at a time, with a majority of its site (`partition = \"singleton\"` in its \
                 manifest), and this node is not that one now",
                app.app
            )),
        }
    }

    fn set(&self, app: AppId, state: Option<Watched>) {
        let mut watched = self.watched.write().unwrap_or_else(PoisonError::into_inner);
        match state {
            Some(state) => drop(watched.insert(app, state)),
            None => drop(watched.remove(&app)),
        }
        self.watches.store(!watched.is_empty(), Ordering::Release);
    }
}

/// The agents' clock, in milliseconds: it never goes back, and goes on while the machine is suspended, so that no lease
/// outlives a suspension.
pub(crate) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or_default().saturating_mul(1_000).saturating_add(nanoseconds.unwrap_or_default() / 1_000_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use littoral_model::id::{AppName, TenantId};

    use super::*;

    #[test]
    fn it_is_closed_for_what_is_halted_and_outside_of_leases() {
        let app = |name| AppId { tenant: TenantId::default_tenant(), app: AppName::new(name).unwrap() };
        let gate = Gate::default();
        assert_eq!(gate.closed(&app("a")), None);
        gate.halt(app("a"), "it is cut off".to_owned());
        assert!(gate.closed(&app("a")).unwrap().contains("it is cut off"));
        assert_eq!(gate.closed(&app("b")), None);
        gate.admit(app("a"));
        assert_eq!(gate.closed(&app("a")), None);
        gate.lease(app("a"), 0, u64::MAX);
        assert_eq!(gate.closed(&app("a")), None);
        gate.lease(app("a"), u64::MAX - 1, u64::MAX);
        assert!(gate.closed(&app("a")).unwrap().contains("one node at a time"));
        gate.lease(app("a"), 0, 0);
        assert!(gate.closed(&app("a")).is_some());
    }
}
