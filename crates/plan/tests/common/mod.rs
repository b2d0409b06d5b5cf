//! Reads a scenario: one thing a line, words apart by blanks.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::digest::LinkReport;
use littoral_model::id::{AppId, AppName, Epoch, NodeId, TenantId};
use littoral_model::manifest::{Affinity, Objectives, Partitioning, Scope};
use littoral_model::situation::{FailureDomain, Power, Situation};
use littoral_model::work::Assignment;
use littoral_plan::{
    Ack, AppSpec, Constraints, Fabric, FlowSpec, FunctionSpec, Interface, NodeView, PartitionsBefore, QueueSpec,
    SAME_PERMILLE, Sink, StreamSpec, Traffic,
};

/// What a scenario describes.
pub(crate) struct Scenario {
    pub(crate) spec: AppSpec,
    pub(crate) fabric: Fabric,
    pub(crate) existing: Vec<Assignment>,
}

/// Reads a scenario's text.
pub(crate) fn parse(text: &str) -> Scenario {
    let mut nodes = Vec::new();
    let mut reports = Vec::new();
    let mut existing = Vec::new();
    let mut promised = Vec::new();
    let app = AppId { tenant: TenantId::default_tenant(), app: AppName::new("demo").unwrap() };
    let mut spec = AppSpec {
        app,
        functions: BTreeMap::new(),
        streams: BTreeMap::new(),
        flows: BTreeMap::new(),
        queues: BTreeMap::new(),
        connectors: Vec::new(),
        objectives: Objectives::default(),
    };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let settings = Settings(&words);
        match words[0] {
            // `promised FROM TO mbit=N`: to another app.
            "promised" => promised.push(Traffic {
                from: words[1].parse().unwrap(),
                to: words[2].parse().unwrap(),
                bps: settings.number("mbit").unwrap() * 1_000_000,
            }),
            "node" => nodes.push(NodeView {
                node: words[1].parse().unwrap(),
                tier: words[2].parse().unwrap(),
                site: words[3].parse().unwrap(),
                labels: settings.labels(),
                situation: settings.situation(),
                cores: settings.number("cores").unwrap_or(2) as u32,
                memory_bytes: settings.number("memory-mib").unwrap_or(1024) << 20,
                memory_promised_bytes: 0,
                works: settings.number("works").unwrap_or(0) as u32,
                alive: !words.contains(&"dead"),
            }),
            "link" => {
                let bandwidth_bps = settings.number("mbit").map(|mbit| mbit * 1_000_000);
                let rtt_us = settings.number("us").unwrap();
                reports.push((
                    words[1].parse().unwrap(),
                    LinkReport { peer: words[2].parse().unwrap(), rtt_us, bandwidth_bps },
                ));
            }
            "function" | "http" => {
                let function = FunctionSpec {
                    artifact: format!("digest-of-{}", words[1]),
                    interface: if words[0] == "http" { Interface::Http } else { Interface::Stage },
                    memory_bytes: settings.number("memory-mib").unwrap_or(32) << 20,
                    placement: settings.placement(),
                    execution_us: settings.number("us"),
                    partitioning: match settings.get("rows") {
                        Some("in-one") => Partitioning::Single,
                        Some(by_key) => {
                            Partitioning::ByKey(by_key.strip_prefix("by-key-of-").unwrap().parse().unwrap())
                        }
                        None => Partitioning::Any,
                    },
                    output_permille: settings
                        .number("puts-out-permille")
                        .map_or(SAME_PERMILLE, |permille| permille as u32),
                };
                spec.functions.insert(words[1].parse().unwrap(), function);
            }
            "stream" => {
                let ack = settings.get("ack").map(|ack| if ack == "site" { Ack::Site } else { Ack::Local });
                let partitions = settings.number("partitions").map(|n| n as u32);
                let rate_bps = settings.number("rate-mbit").map(|mbit| mbit * 1_000_000);
                // How many it had at first, and at most.
                let before = settings.pairs("had").next().map(|(first, most)| PartitionsBefore {
                    first: first.parse().unwrap(),
                    most: most.parse().unwrap(),
                });
                let stream = StreamSpec { partitions, placement: settings.placement(), ack, rate_bps, before };
                spec.streams.insert(words[1].parse().unwrap(), stream);
            }
            "flow" => {
                let flow = FlowSpec {
                    source: settings.get("source").unwrap().parse().unwrap(),
                    stages: settings.get("stages").unwrap().split(',').map(|name| name.parse().unwrap()).collect(),
                    sink: settings.get("sink").map(|sink| Sink::Stream(sink.parse().unwrap())),
                    outputs: settings.pairs("output").map(|(p, s)| (p.to_owned(), s.parse().unwrap())).collect(),
                    dead_letter: settings.get("dead-letter").map(|stream| stream.parse().unwrap()),
                    slo_us: settings.number("slo-ms").map(|ms| ms * 1000),
                };
                spec.flows.insert(words[1].parse().unwrap(), flow);
            }
            "objectives" => {
                let weight = |key| settings.number(key).unwrap_or(0) as u32;
                spec.objectives = Objectives {
                    latency: weight("latency"),
                    cost: weight("cost"),
                    energy: weight("energy"),
                    carbon: weight("carbon"),
                    locality: weight("locality"),
                };
            }
            "queue" => {
                let streams = settings.get("streams").into_iter().flat_map(|list| list.split(','));
                let streams = streams.map(|name| name.parse().unwrap()).collect();
                spec.queues.insert(words[1].parse().unwrap(), QueueSpec { ack: None, streams });
            }
            "held" => existing.push(held(&words)),
            other => panic!("a scenario has no {other}"),
        }
    }
    Scenario { spec, fabric: Fabric { promised, ..Fabric::new(nodes, reports) }, existing }
}

/// `held WORK by OWNER copies=A,B in-sync=A,B`
fn held(words: &[&str]) -> Assignment {
    let settings = Settings(words);
    let nodes = |key| -> Vec<NodeId> {
        settings.get(key).map_or_else(
            || vec![words[3].parse().unwrap()],
            |list| list.split(',').map(|n| n.parse().unwrap()).collect(),
        )
    };
    Assignment {
        work: format!("default/demo/{}", words[1]).parse().unwrap(),
        owner: words[3].parse().unwrap(),
        epoch: Epoch(1),
        replicas: nodes("copies"),
        in_sync: nodes("in-sync"),
    }
}

struct Settings<'a>(&'a [&'a str]);

impl<'a> Settings<'a> {
    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.get(key).map(|value| value.parse().unwrap())
    }

    fn pairs(&self, key: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let key = key.to_owned();
        self.0.iter().filter_map(move |word| word.strip_prefix(&*key)?.strip_prefix('=')?.split_once(':'))
    }

    fn labels(&self) -> BTreeMap<String, String> {
        self.pairs("label").map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn placement(&self) -> Constraints {
        Constraints {
            tiers: self.get("tier").into_iter().map(|tier| tier.parse().unwrap()).collect(),
            sites: self.get("site").into_iter().map(|site| site.parse().unwrap()).collect(),
            labels: self.labels(),
            near: self.get("near").map(|stream| stream.parse().unwrap()),
            regions: self.get("region").into_iter().map(|region| region.parse().unwrap()).collect(),
            affinity: self.related("with"),
            anti_affinity: self.related("apart"),
            spread: self.get("spread").into_iter().map(domain).collect(),
            prefer: self.get("prefer").map(|tier| tier.parse().unwrap()),
            ..Constraints::any()
        }
    }

    /// `with=NAME:node`
    fn related(&self, key: &str) -> BTreeSet<Affinity> {
        let scope = |text| if text == "site" { Scope::Site } else { Scope::Node };
        self.pairs(key).map(|(with, text)| Affinity { with: with.to_owned(), scope: scope(text) }).collect()
    }

    fn situation(&self) -> Situation {
        Situation {
            region: self.get("region").map(|region| region.parse().unwrap()),
            power: Power {
                carbon_g_per_kwh: self.number("carbon").map(|grams| grams as u32),
                core_milliwatts: self.number("core-mw").map(|milliwatts| milliwatts as u32),
                ..Power::default()
            },
            core_hour_price_micros: self.number("price"),
            domains: self.pairs("domain").map(|(kind, name)| (domain(kind), name.parse().unwrap())).collect(),
            ..Situation::default()
        }
    }
}

fn domain(text: &str) -> FailureDomain {
    if text == "power" { FailureDomain::Power } else { FailureDomain::Uplink }
}
