//! Lays sources and sinks: one unit of work each, beside the stream that it feeds or reads unless something else is asked.

use std::collections::BTreeSet;

use littoral_model::entry::{PORT_MAIN, partition_port};
use littoral_model::id::{SiteId, StreamName};
use littoral_model::work::{WorkId, WorkKind};

use crate::board::Ask;
use crate::compile::{Planner, reason_of};
use crate::explain;
use crate::objective::Terms;
use crate::placement::{PlacedWork, Role, Source};
use crate::spec::{ConnectorSpec, Direction};

impl Direction {
    /// What kind of work it is.
    pub(crate) fn kind(self) -> WorkKind {
        match self {
            Self::In => WorkKind::Source,
            Self::Out => WorkKind::Sink,
        }
    }
}

impl ConnectorSpec {
    /// What it is called, as `source readings`.
    pub(crate) fn title(&self) -> String {
        let what = match self.direction {
            Direction::In => "source",
            Direction::Out => "sink",
        };
        format!("{what} {}", self.name)
    }

    pub(crate) fn ask(&self) -> Ask<'_> {
        Ask { placement: &self.placement, memory_bytes: 0, ack: None, has_copies: true }
    }
}

impl Planner<'_> {
    /// Lays all that are not there yet; what is there stays, for it remembers how far it has come.
    pub(crate) fn place_connectors(&mut self) {
        let spec = self.spec;
        for connector in &spec.connectors {
            let kept = self.kept.connectors.get(&(connector.direction, connector.name.clone())).cloned();
            let spot = kept.as_ref().map(|kept| kept.spot).or_else(|| self.connector_spot(connector));
            let Some(spot) = spot else {
                let finding = self.nowhere(&connector.title(), connector.ask(), &BTreeSet::new());
                self.findings.insert(finding);
                continue;
            };
            let Some(site) = self.board.view(spot).map(|view| view.site.clone()) else { continue };
            let ack = self.board.effective_ack(spot, None, &connector.placement);
            let (Some(owner), replicas) = self.holders(kept.as_ref(), spot, ack, &connector.placement) else {
                continue;
            };
            let new = || WorkId {
                app: spec.app.clone(),
                kind: connector.direction.kind(),
                name: connector.name.to_string(),
                partition: 0,
                site: site.clone(),
            };
            let work = kept.as_ref().map_or_else(new, |kept| kept.work.clone());
            let mut reasons: Vec<_> = kept.iter().map(|kept| reason_of(&kept.how)).collect();
            reasons.extend(explain::satisfied(connector.ask()));
            reasons.extend(explain::excluded(&self.board, spot, connector.ask()));
            let role = self.connector_role(connector, &work);
            let (requires, memory_bytes) = (connector.placement.clone(), 0);
            self.connectors.push(PlacedWork { work, owner, replicas, ack, role, requires, memory_bytes, reasons });
        }
    }

    /// Of the nodes that will do, the one that is the nearest to the stream, then the least loaded.
    fn connector_spot(&self, connector: &ConnectorSpec) -> Option<usize> {
        let options = self.board.candidates(connector.ask());
        let options = self.related(&connector.title(), &connector.placement, options, &BTreeSet::new());
        let options = self.wished(options, &connector.placement);
        let partitions = self.streams.iter().filter(|((stream, _), _)| *stream == connector.stream);
        let partitions: Vec<usize> = partitions.filter_map(|(_, placed)| self.board.spot(&placed.owner)).collect();
        let cost = |spot: &usize| {
            let hops = partitions.iter().map(|partition| self.board.hop(*partition, *spot).score(self.spec.objectives));
            let wait = Terms::latency(self.board.queue_us(*spot)).score(self.spec.objectives);
            (hops.min().unwrap_or_default().saturating_add(wait), self.board.load(*spot), *spot)
        };
        options.into_iter().min_by_key(cost)
    }

    /// What it does. A source feeds the partitions of its own site, or all where there are none: as what is published there.
    fn connector_role(&mut self, connector: &ConnectorSpec, work: &WorkId) -> Role {
        let (name, stream) = (connector.name.clone(), connector.stream.clone());
        match connector.direction {
            Direction::In => {
                let partitions = self.fed_from(&stream, &work.site);
                for partition in &partitions {
                    let source = Source { work: work.clone(), port: partition_port(*partition) };
                    self.connect(&stream, *partition, source);
                }
                Role::Source { source: name, stream, partitions }
            }
            Direction::Out => {
                let partitions = self.streams.iter().filter(|((of, _), _)| *of == stream);
                let source = |placed: &PlacedWork| Source { work: placed.work.clone(), port: PORT_MAIN.to_owned() };
                Role::Sink { sink: name, sources: partitions.map(|(_, placed)| source(placed)).collect() }
            }
        }
    }

    fn fed_from(&self, stream: &StreamName, site: &SiteId) -> Vec<u32> {
        let all = || self.streams.iter().filter(|((of, _), _)| of == stream);
        let near: Vec<u32> = all().filter(|(_, placed)| placed.work.site == *site).map(|((_, at), _)| *at).collect();
        if near.is_empty() { all().map(|((_, at), _)| *at).collect() } else { near }
    }
}
