//! Nodes that are heard and not seen, or not reached: who pings one whose network does not tell of it, or finds nobody where it leads, is
//! told so, and declares itself anew.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use littoral_model::id::NodeId;
use tokio::time::{Instant, sleep_until};

use super::Agent;
use crate::carrier::Carrier;
use crate::sync::lock;

/// A node that pings and is not seen or not reached for so long is told so: what it has declared should have come by then.
const UNSEEN_MAX: Duration = Duration::from_secs(2);
/// Pauses between declarations of this node to those who miss it: each costs a message to every node.
const DECLARE_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// Over how much time, for each member, those spread their declarations that are told at the same moment: who sees nobody tells all.
const DECLARE_SPREAD: Duration = Duration::from_millis(10);
/// Over how much time at most.
const DECLARE_SPREAD_MAX: Duration = Duration::from_secs(5);

/// When and for whom this node last declared itself anew, and how long it does not do so again.
#[derive(Default)]
pub(super) struct Redeclaring {
    last: Option<(NodeId, Instant)>,
    pause: Duration,
    times: u64,
}

impl Redeclaring {
    /// When to do so for somebody who misses it, if it is time; then it counts as done.
    fn due(&mut self, me: &NodeId, unaware: &NodeId, members: usize, now: Instant) -> Option<Instant> {
        let since = self.last.as_ref().map(|(node, at)| (node, now.saturating_duration_since(*at)));
        if since.is_some_and(|(_, since)| since < self.pause) {
            return None;
        }
        // It did not help whom it was done for, if that is the one that misses it still.
        let in_vain = since.is_some_and(|(node, since)| node == unaware && since < self.pause * 2);
        self.pause = if in_vain { (self.pause * 2).min(DECLARE_PAUSE.1) } else { DECLARE_PAUSE.0 };
        self.times += 1;
        let at = now + delay(me, self.times, members);
        self.last = Some((unaware.clone(), at));
        Some(at)
    }
}

/// How long a node waits before it declares itself anew once more: others than another node, among so many members.
fn delay(me: &NodeId, times: u64, members: usize) -> Duration {
    let spread = DECLARE_SPREAD.saturating_mul(u32::try_from(members).unwrap_or(u32::MAX)).min(DECLARE_SPREAD_MAX);
    let mut hasher = DefaultHasher::new();
    (me, times).hash(&mut hasher);
    let spread_us = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(hasher.finish() % spread_us.max(1))
}

impl<C: Carrier> Agent<C> {
    /// Tells the network of this node again, as somebody says that it is not told.
    pub(super) fn declare_anew(self: &Arc<Self>, unaware: &NodeId, now: Instant) {
        let members = self.members.borrow().len();
        let Some(at) = lock(&self.redeclaring).due(&self.me, unaware, members, now) else { return };
        tracing::info!(node = %unaware, "it hears this node but does not see or reach it: declaring this node anew");
        let agent = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = sleep_until(at) => agent.carrier.declare_anew().await,
                () = agent.cancel.cancelled() => {}
            }
        });
    }

    /// Whether a node that pings should have been seen and reached by now, is not, and is to be told so; other pings it has answered as
    /// ever, so that it learns what there is to learn.
    pub(super) fn tells_unseen(&self, node: &NodeId) -> bool {
        let now = Instant::now();
        let mut peers = lock(&self.peers);
        let Some(peer) = peers.get_mut(node) else { return false };
        let since = match &mut peer.unreached {
            _ if peer.routes.is_empty() => peer.unseen.get_or_insert(now),
            Some(since) => since,
            None => return false,
        };
        let is_due = now.duration_since(*since) > UNSEEN_MAX;
        if is_due {
            *since = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn a_node_declares_itself_anew_less_often_for_whom_that_does_not_help() {
        let (me, a, b) = (node("me"), node("a"), node("b"));
        let mut redeclaring = Redeclaring::default();
        let mut is_due = |unaware: &NodeId, now| redeclaring.due(&me, unaware, 0, now).is_some();
        let mut now = Instant::now();
        assert!(is_due(&a, now) && !is_due(&b, now));
        for pause_s in [5, 10, 20, 40, 80, 160, 300, 300] {
            now += Duration::from_secs(pause_s);
            assert!(!is_due(&a, now - Duration::from_millis(1)), "{pause_s}");
            assert!(is_due(&a, now), "{pause_s}");
        }
        // Another one's complaint is not that it was in vain.
        now += Duration::from_secs(300);
        assert!(is_due(&b, now));
        now += Duration::from_secs(5);
        assert!(is_due(&a, now));
    }

    #[test]
    fn nodes_that_are_told_at_the_same_moment_declare_themselves_one_after_another() {
        let (unaware, now) = (node("unaware"), Instant::now());
        let at = |members: usize| {
            let due = |me: usize| Redeclaring::default().due(&node(&format!("n{me}")), &unaware, members, now).unwrap();
            let mut at: Vec<_> = (0..members).map(|me| due(me) - now).collect();
            at.sort();
            at
        };
        for (members, within_ms) in [(3, 30), (100, 1_000), (4_000, 5_000)] {
            let at = at(members);
            assert!(*at.last().unwrap() < Duration::from_millis(within_ms), "{members}");
            // In no tenth of that time more than twice as many as on average.
            let tenths =
                at.chunk_by(|a, b| a.as_millis() * 10 / within_ms as u128 == b.as_millis() * 10 / within_ms as u128);
            assert!(members < 100 || tenths.map(<[_]>::len).all(|most| most <= members / 5), "{at:?}");
        }
    }

    #[test]
    fn the_pause_begins_when_a_node_has_declared_itself() {
        let (me, unaware) = (node("me"), node("unaware"));
        let mut redeclaring = Redeclaring::default();
        let now = Instant::now();
        let first = redeclaring.due(&me, &unaware, 400, now).unwrap();
        assert!(first > now);
        assert_eq!(redeclaring.due(&me, &unaware, 400, first + DECLARE_PAUSE.0 - Duration::from_millis(1)), None);
        let second = redeclaring.due(&me, &unaware, 400, first + DECLARE_PAUSE.0).unwrap();
        assert_ne!(second - (first + DECLARE_PAUSE.0), first - now, "it waits for another time");
    }
}
