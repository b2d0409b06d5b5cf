//! What was started needlessly: each node counts what it starts (`littoral_work_starts_total` and
//! `littoral_function_starts_total` of its metrics), and a start is needed where a disturbance is its cause.
//!
//! A unit of work is started for a reason when it has run nowhere before, or when the node on which it was started last
//! has been struck: killed, paused or wiped, and not everything was well again since. A cut strikes no node; what its sides start anew, and what a heal makes
//! them start, is needless. A function is started for a reason once in a process's life.

use std::collections::{BTreeMap, BTreeSet};

use super::nodes::Nodes;
use super::schedule::{Disturbance, Kind};
use super::wire;
use bytes::Bytes;
use hyper::Method;
use std::time::Duration;

/// What a node counts of the units of work and of the functions that it started.
const WORK: &str = "littoral_work_starts_total{";
const FUNCTION: &str = "littoral_function_starts_total{";
/// How long a node may take to say so; one that is slower is asked again later.
const ANSWER: Duration = Duration::from_secs(2);

/// What was seen so far.
#[derive(Default)]
pub(super) struct Restarts {
    /// By node: its process and what it had counted by then.
    counted: BTreeMap<usize, (u32, BTreeMap<String, u64>)>,
    /// Where each unit of work was started last.
    started_at: BTreeMap<String, usize>,
    /// Units of work whose node was struck, until all is well again.
    lost: BTreeSet<String>,
    /// How many starts there were of work, and each that was needless.
    pub(super) work_starts: u64,
    pub(super) needless: Vec<String>,
}

impl Restarts {
    /// Takes note that a node is about to be struck.
    pub(super) fn struck(&mut self, disturbance: Disturbance) {
        if disturbance.kind != Kind::Cut {
            let its = self.started_at.iter().filter(|(_, node)| **node == disturbance.slot);
            self.lost.extend(its.map(|(work, _)| work.clone()));
        }
    }

    /// Takes note that all work has been well since the last [`look`](Self::look): what starts from now on does so for another
    /// reason than what was struck before.
    pub(super) fn well(&mut self) {
        self.lost.clear();
    }

    /// Asks every node; whether all have answered.
    pub(super) async fn look(&mut self, nodes: &Nodes) -> bool {
        let mut all = true;
        for number in 0..super::nodes::ROLES.len() {
            let process = nodes.process(number);
            let asked = wire::ask(&nodes.admin(number), Method::GET, "/metrics", Bytes::new(), ANSWER).await;
            // A node that was killed while it answered has nothing to say.
            if let Ok((status, text)) = asked
                && status.is_success()
                && process == nodes.process(number)
            {
                self.take(number, process, &String::from_utf8_lossy(&text));
            } else {
                all = false;
            }
        }
        all
    }

    fn take(&mut self, number: usize, process: u32, metrics: &str) {
        let now = counts(metrics);
        let before = self.counted.insert(number, (process, now.clone()));
        let before = before.filter(|(known, _)| *known == process).map(|(_, counts)| counts).unwrap_or_default();
        for (name, count) in now {
            let mut new = count.saturating_sub(before.get(&name).copied().unwrap_or_default());
            if new == 0 {
                continue;
            }
            if let Some(work) = name.strip_prefix(WORK) {
                self.work_starts += new;
                let last = self.started_at.insert(work.to_owned(), number);
                let is_needed = last.is_none() || self.lost.remove(work);
                new -= u64::from(is_needed);
            } else {
                new -= u64::from(!before.contains_key(&name));
            }
            if new > 0 {
                let node = super::nodes::ROLES.get(number).map_or("", |role| role.name);
                self.needless.push(format!("{new} × {} at {node}", name.trim_end_matches('}')));
            }
        }
    }
}

/// The counters of starts, by name and labels.
fn counts(metrics: &str) -> BTreeMap<String, u64> {
    let lines = metrics.lines().filter(|line| line.starts_with(WORK) || line.starts_with(FUNCTION));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    pairs.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(work: u32, function: u32) -> String {
        format!("other{{a=\"b\"}} 3\n{WORK}work=\"w 1\"}} {work}\n{FUNCTION}function=\"f\"}} {function}\n")
    }

    #[test]
    fn a_start_is_needless_unless_its_node_was_struck() {
        let mut restarts = Restarts::default();
        restarts.take(1, 100, &metrics(1, 1));
        restarts.take(1, 100, &metrics(1, 1));
        assert_eq!((restarts.needless.len(), restarts.work_starts), (0, 1));
        // Taken over by another one while the first was paused; not taken back without a reason.
        restarts.struck(Disturbance { kind: Kind::Pause, slot: 1 });
        restarts.take(2, 200, &metrics(1, 1));
        assert_eq!(restarts.needless.len(), 0);
        restarts.take(1, 100, &metrics(2, 1));
        assert_eq!(
            restarts.needless,
            ["1 × littoral_work_starts_total{work=\"w 1\" at "]
                .map(|text| text.to_owned() + super::super::nodes::ROLES[1].name)
        );
        // Nor is what was struck a reason once all is well again, though the work was not started since.
        restarts.struck(Disturbance { kind: Kind::Kill, slot: 1 });
        restarts.well();
        restarts.take(2, 200, &metrics(2, 1));
        assert_eq!(restarts.needless.len(), 2);
        restarts.take(1, 100, &metrics(3, 1));
        assert_eq!(restarts.needless.len(), 3);
        // A cut is no reason.
        restarts.struck(Disturbance { kind: Kind::Cut, slot: 1 });
        restarts.take(1, 100, &metrics(4, 1));
        assert_eq!(restarts.needless.len(), 4);
    }

    #[test]
    fn a_function_is_started_once_in_a_process() {
        let mut restarts = Restarts::default();
        restarts.take(1, 100, &metrics(1, 1));
        restarts.struck(Disturbance { kind: Kind::Kill, slot: 1 });
        restarts.take(1, 101, &metrics(1, 1));
        assert_eq!(restarts.needless.len(), 0);
        restarts.take(1, 101, &metrics(1, 2));
        assert_eq!(restarts.needless.len(), 1);
    }
}
