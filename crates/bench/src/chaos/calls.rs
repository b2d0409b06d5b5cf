//! The HTTP calls under way: at every node, at fixed times, whatever becomes of those before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use tokio::sync::watch;

use super::nodes::ROLES;
use super::schedule::{Disturbance, Kind};
use super::wire;
use crate::client::Place;

/// How often each node is called.
const EVERY: Duration = Duration::from_millis(250);
/// How long a caller waits: twice the function's `timeout`.
const DEADLINE: Duration = Duration::from_secs(2);
/// How many successes one after the other mean that a node answers again.
const SUCCESSES: usize = 10;
const BODY: &[u8] = b"hello";

/// The calls at one node: when each was due, and when it was answered; none for a failure.
#[derive(Default)]
pub(super) struct Calls {
    made: Mutex<Vec<Made>>,
}

#[derive(Clone, Copy)]
struct Made {
    due: Instant,
    /// Whether it was answered and when; none while it is under way.
    ended: Option<(bool, Instant)>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Vec<Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After how long since a moment a row of successes began, if one did.
    pub(super) fn resumed(&self, since: Instant) -> Option<Duration> {
        let made = self.lock();
        let later = made.partition_point(|call| call.due < since);
        let row = made.get(later..)?.windows(SUCCESSES).find(|row| row.iter().all(is_answered))?;
        row.first()?.ended.map(|(_, at)| at - since)
    }

    /// How many were made since a moment, and how many of these have failed.
    pub(super) fn failed(&self, since: Instant) -> (usize, usize) {
        let made = self.lock();
        let later = made.iter().filter(|call| call.due >= since);
        let failed = later.clone().filter(|call| call.ended.is_some_and(|(answered, _)| !answered));
        (later.count(), failed.count())
    }
}

fn is_answered(call: &Made) -> bool {
    call.ended.is_some_and(|(answered, _)| answered)
}

/// Whether a node can be called during a disturbance: not the struck one, nor a node that is cut off from all that serve.
pub(super) fn survives(number: usize, disturbance: Disturbance) -> bool {
    let (Some(role), Some(struck)) = (ROLES.get(number), ROLES.get(disturbance.slot)) else { return false };
    match disturbance.kind {
        Kind::Cut => role.site != struck.site || matches!(role.tier, "edge" | "cloud"),
        Kind::Kill | Kind::Pause | Kind::Wipe => number != disturbance.slot,
    }
}

/// Calls a node until told to stop.
pub(super) async fn call(place: Place, calls: Arc<Calls>, stop: watch::Receiver<bool>) {
    let path = format!("/{}", super::apps::CALLED);
    let mut ticks = tokio::time::interval(EVERY);
    while !*stop.borrow() {
        ticks.tick().await;
        let number = {
            let mut made = calls.lock();
            made.push(Made { due: Instant::now(), ended: None });
            made.len() - 1
        };
        let (place, path, calls) = (place.clone(), path.clone(), Arc::clone(&calls));
        tokio::spawn(async move {
            let answer = wire::ask(&place, Method::POST, &path, Bytes::from_static(BODY), DEADLINE).await;
            let answered = answer.is_ok_and(|(status, body)| status.is_success() && body == BODY);
            if let Some(call) = calls.lock().get_mut(number) {
                call.ended = Some((answered, Instant::now()));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_answers_again_with_the_first_of_a_row_of_successes() {
        let calls = Calls::default();
        let since = Instant::now();
        let at = |number: usize| since + EVERY * u32::try_from(number).unwrap();
        let make = |number: usize, answered: bool| {
            calls.lock().push(Made { due: at(number), ended: Some((answered, at(number))) });
        };
        (0..SUCCESSES - 1).for_each(|number| make(number, true));
        make(SUCCESSES - 1, false);
        (SUCCESSES..2 * SUCCESSES - 1).for_each(|number| make(number, true));
        assert_eq!(calls.resumed(since), None);
        make(2 * SUCCESSES - 1, true);
        assert_eq!(calls.resumed(since), Some(at(SUCCESSES) - since));
        assert_eq!(calls.failed(since), (2 * SUCCESSES, 1));
        assert_eq!(calls.failed(at(SUCCESSES)), (SUCCESSES, 0));
    }
}
