//! Lays the partitions of streams on nodes.

use std::collections::BTreeSet;

use littoral_model::id::{StreamName, Tier};
use littoral_model::work::{WorkId, WorkKind};

use crate::board::Ask;
use crate::compile::{Planner, flow_outputs, reason_of};
use crate::explain;
use crate::kept::How;
use crate::objective::Terms;
use crate::placement::{PlacedWork, Role, Source};
use crate::reason::Reason;
use crate::spec::StreamSpec;

/// What storing a record is taken to cost a core, in microseconds: copying, a checksum and its share of a write.
pub(crate) const STORE_US: u64 = 20;

impl Planner<'_> {
    /// Streams that devices write: their partitions go round the matching nodes, so that each device writes to its own.
    pub(crate) fn place_device_streams(&mut self) {
        for (name, stream) in &self.spec.streams {
            if !self.is_device_stream(name, stream) {
                continue;
            }
            let matching = self.stream_options(name, stream);
            for partition in 0..self.partitions(name) {
                if let Some(spot) = self.fixed_spot(name, partition) {
                    self.lay_stream(name, partition, spot, Vec::new());
                    continue;
                }
                let held = |spot: usize| {
                    let node = self.board.view(spot).map(|view| &view.node);
                    let placed = self.streams.iter().filter(|((s, _), work)| s == name && Some(&work.owner) == node);
                    let kept =
                        self.kept.streams.iter().filter(|((s, p), w)| s == name && *p > partition && w.spot == spot);
                    placed.count() + kept.count()
                };
                match matching.iter().min_by_key(|spot| (held(**spot), **spot)) {
                    Some(&spot) => {
                        self.lay_stream(name, partition, spot, vec![Reason::OnePerNode]);
                    }
                    None => {
                        self.findings.insert(self.stream_nowhere(name, ask(stream)));
                    }
                }
            }
        }
    }

    /// Partitions that no flow has placed: where nothing waits.
    pub(crate) fn place_streams_left(&mut self) {
        for (name, stream) in &self.spec.streams {
            for partition in 0..self.partitions(name) {
                if self.streams.contains_key(&(name.clone(), partition)) {
                    continue;
                }
                if let Some(spot) = self.fixed_spot(name, partition) {
                    self.lay_stream(name, partition, spot, Vec::new());
                    continue;
                }
                let options = self.wished(self.stream_options(name, stream), &stream.placement);
                let least = |spot: &&usize| {
                    let terms = Terms::latency(self.board.queue_us(**spot)).and(self.board.execution(**spot, STORE_US));
                    (terms.score(self.spec.objectives), self.board.load(**spot), **spot)
                };
                match options.iter().min_by_key(least) {
                    Some(&spot) => {
                        self.lay_stream(name, partition, spot, Vec::new());
                    }
                    None => {
                        self.findings.insert(self.stream_nowhere(name, ask(stream)));
                    }
                }
            }
        }
    }

    /// Where a partition of a stream may be.
    pub(crate) fn stream_options(&self, name: &StreamName, stream: &StreamSpec) -> Vec<usize> {
        self.related(name.as_str(), &stream.placement, self.board.candidates(ask(stream)), &BTreeSet::new())
    }

    /// Lays an output of a work that runs on `writer`: where its constraints allow and the hop is the cheapest, without
    /// constraints beside the writer. None if no node will do; that is then a finding.
    pub(crate) fn lay_output(&mut self, name: &StreamName, partition: u32, writer: usize, by: &str) -> Option<()> {
        let stream = self.spec.streams.get(name)?;
        let mut reasons = Vec::new();
        let spot = if let Some(spot) = self.fixed_spot(name, partition) {
            spot
        } else if is_free(stream)
            && self.unrelated(name.as_str(), &stream.placement, writer, &BTreeSet::new()).is_empty()
        {
            reasons.push(Reason::Beside { writer: by.to_owned() });
            writer
        } else {
            let options = self.wished(self.stream_options(name, stream), &stream.placement);
            let cost = |spot: &usize| {
                let terms = self.board.hop(writer, *spot).and(Terms::latency(self.board.queue_us(*spot)));
                let terms = terms.and(self.board.execution(*spot, STORE_US));
                (terms.score(self.spec.objectives), self.board.load(*spot), *spot)
            };
            let Some(spot) = options.into_iter().min_by_key(cost) else {
                self.findings.insert(self.stream_nowhere(name, ask(stream)));
                return None;
            };
            reasons.extend(explain::near(&self.board, writer, spot));
            spot
        };
        self.lay_stream(name, partition, spot, reasons);
        Some(())
    }

    /// Lays a partition on a node, unless it lies somewhere; answers with its name.
    pub(crate) fn lay_stream(
        &mut self,
        name: &StreamName,
        partition: u32,
        spot: usize,
        reasons: Vec<Reason>,
    ) -> Option<WorkId> {
        let key = (name.clone(), partition);
        if let Some(placed) = self.streams.get(&key) {
            return Some(placed.work.clone());
        }
        let stream = self.spec.streams.get(name)?;
        let kept = self.kept.streams.get(&key).cloned();
        let site = self.board.view(spot)?.site.clone();
        let ack = self.board.effective_ack(spot, stream.ack, &stream.placement);
        let (owner, replicas) = self.holders(kept.as_ref(), spot, ack, &stream.placement);
        let new =
            || WorkId { app: self.spec.app.clone(), kind: WorkKind::Stream, name: name.to_string(), partition, site };
        let work = kept.as_ref().map_or_else(new, |kept| kept.work.clone());
        let mut all: Vec<Reason> = kept.iter().map(|kept| reason_of(&kept.how)).collect();
        if kept.is_none_or(|kept| kept.how != How::Waits) {
            all.extend(explain::satisfied(ask(stream)));
        }
        all.extend(reasons);
        all.extend(explain::excluded(&self.board, spot, ask(stream)));
        let placed = PlacedWork {
            work: work.clone(),
            owner: owner?,
            replicas,
            ack,
            role: Role::StreamPartition { stream: name.clone(), sources: Vec::new() },
            requires: stream.placement.clone(),
            memory_bytes: 0,
            reasons: all,
        };
        self.streams.insert(key, placed);
        self.locate(name.as_str(), spot);
        Some(work)
    }

    /// Lets a partition take in a port of a work.
    pub(crate) fn connect(&mut self, name: &StreamName, partition: u32, source: Source) {
        if let Some(placed) = self.streams.get_mut(&(name.clone(), partition))
            && let Role::StreamPartition { sources, .. } = &mut placed.role
            && !sources.contains(&source)
        {
            sources.push(source);
        }
    }

    /// Where a partition lies already, in this placement or since an earlier one.
    pub(crate) fn fixed_spot(&self, name: &StreamName, partition: u32) -> Option<usize> {
        let key = (name.clone(), partition);
        let placed = self.streams.get(&key).and_then(|placed| self.board.spot(&placed.owner));
        placed.or_else(|| self.kept.streams.get(&key).map(|kept| kept.spot))
    }

    /// How many partitions a stream has. The number never falls.
    pub(crate) fn partitions(&self, name: &StreamName) -> u32 {
        let Some(stream) = self.spec.streams.get(name) else { return 0 };
        let kept = self.kept.streams.iter().filter(|((stream, _), _)| stream == name);
        let count = self.laid(name);
        let wanted = match stream.partitions {
            Some(partitions) => partitions,
            None if self.is_device_stream(name, stream) => {
                let taken: BTreeSet<usize> = kept.map(|(_, work)| work.spot).collect();
                // Placing changes nothing of what satisfies tiers, sites and labels, so this stays the same throughout.
                let matching = self.board.candidates(ask(stream));
                let without = matching.iter().filter(|spot| !taken.contains(spot)).count();
                count.saturating_add(u32::try_from(without).unwrap_or(u32::MAX))
            }
            None => 1,
        };
        wanted.max(count).max(stream.before.map_or(1, |before| before.most)).max(1)
    }

    /// How many partitions a stream has had before this placement.
    pub(crate) fn laid(&self, name: &StreamName) -> u32 {
        let kept = self.kept.streams.keys().filter(|(stream, _)| stream == name);
        kept.map(|(_, partition)| partition.saturating_add(1)).max().unwrap_or_default()
    }

    fn is_device_stream(&self, name: &StreamName, stream: &StreamSpec) -> bool {
        let from_flow = self.spec.flows.values().any(|flow| flow_outputs(flow).any(|output| output == name));
        !from_flow && stream.placement.tiers.len() == 1 && stream.placement.tiers.contains(&Tier::Device)
    }
}

/// What a stream asks of a node.
pub(crate) fn ask(stream: &StreamSpec) -> Ask<'_> {
    Ask { placement: &stream.placement, memory_bytes: 0, ack: stream.ack, has_copies: true }
}

/// Whether a stream may follow its writer anywhere.
pub(crate) fn is_free(stream: &StreamSpec) -> bool {
    stream.placement.is_any() && stream.ack != Some(crate::Ack::Site)
}
