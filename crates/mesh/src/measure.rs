//! What is measured of a link: its round-trip time, smoothed, and its bandwidth, the best of late.

use std::time::Duration;

use littoral_model::digest::LinkReport;
use littoral_model::id::NodeId;
use tokio::time::Instant;

/// Transfers below this say more of the round trip than of the bandwidth.
const TRANSFER_BYTES_MIN: usize = 64 << 10;
/// A best bandwidth older than this no longer counts: links change.
const WINDOW: Duration = Duration::from_secs(60);

/// The measurements of one link.
#[derive(Debug, Default)]
pub(crate) struct Link {
    smoothed: Option<Duration>,
    least: Option<Duration>,
    /// The best of the running window and of the one before: a filter for the maximum of about a window.
    best: [Option<(Instant, u64)>; 2],
}

impl Link {
    /// Notes a round trip; smoothed as TCP does it (RFC 6298: an eighth of each sample).
    pub(crate) fn round_trip(&mut self, took: Duration) {
        self.smoothed = Some(self.smoothed.map_or(took, |old| (old * 7 + took) / 8));
        self.least = Some(self.least.map_or(took, |old| old.min(took)));
    }

    /// Notes a call that moved `bytes`; the receiver's own time is in `took`, so this never says too much.
    pub(crate) fn transfer(&mut self, now: Instant, bytes: usize, took: Duration) {
        if bytes < TRANSFER_BYTES_MIN {
            return;
        }
        let moving = took.saturating_sub(self.least.unwrap_or_default()).max(took / 8).max(Duration::from_micros(1));
        let rate = (bytes as u128 * 8 * 1_000_000 / moving.as_micros().max(1)).min(u128::from(u64::MAX));
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let [current, before] = &mut self.best;
        match current {
            Some((since, best)) if now.duration_since(*since) < WINDOW => *best = (*best).max(rate),
            _ => {
                *before = *current;
                *current = Some((now, rate));
            }
        }
    }

    /// What there is to say of it, if anything was measured.
    pub(crate) fn report(&self, peer: NodeId, now: Instant) -> Option<LinkReport> {
        let rtt_us = u64::try_from(self.smoothed?.as_micros()).unwrap_or(u64::MAX);
        let fresh = |(since, _): &&(Instant, u64)| now.duration_since(*since) < 2 * WINDOW;
        let bandwidth_bps = self.best.iter().flatten().filter(fresh).map(|(_, rate)| *rate).max();
        Some(LinkReport { peer, rtt_us, bandwidth_bps })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn round_trips_are_smoothed_and_small_transfers_say_nothing_of_bandwidth() {
        let mut link = Link::default();
        let now = Instant::now();
        let node = NodeId::new("a").unwrap();
        assert_eq!(link.report(node.clone(), now), None);
        link.round_trip(Duration::from_micros(1000));
        link.round_trip(Duration::from_micros(9000));
        link.transfer(now, 1000, Duration::from_micros(1));
        let report = link.report(node.clone(), now).unwrap();
        assert_eq!((report.rtt_us, report.bandwidth_bps), (2000, None));
        link.transfer(now, 1_000_000, Duration::from_millis(81));
        link.transfer(now, 100_000, Duration::from_millis(200));
        assert_eq!(link.report(node.clone(), now).unwrap().bandwidth_bps, Some(100_000_000));
        assert_eq!(link.report(node, now + WINDOW * 3).unwrap().bandwidth_bps, None);
    }
}
