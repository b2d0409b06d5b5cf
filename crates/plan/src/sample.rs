//! Whom a scheduler considers in a large fabric: some nodes near to it and to what the app has already, some at random.
//!
//! A scheduler that looked at every node would cost more the larger the fabric is; one that looked at near ones only would
//! never find that another place is better (serverless computing fabric IV.D; power of several choices).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use littoral_model::digest::NodeDigest;
use littoral_model::id::NodeId;
use littoral_model::work::Assignment;

use crate::admission::NodeFacts;
use crate::coordinate::{estimate_us, is_known};
use crate::spec::{AppSpec, Constraints};

/// A fabric of so many nodes is considered as a whole.
pub const WHOLE_MAX: usize = 96;
/// For each set of constraints, so many of the nearest nodes that satisfy it.
const NEAR_MAX: usize = 24;
/// And so many of the others that do, drawn at random.
const RANDOM_MAX: usize = 8;
/// The most nodes in a sample, aside from those that hold something of the app or are to write a stream of it.
pub const SAMPLE_MAX: usize = 256;

/// Of the live nodes, `own` among them, those that a scheduler considers for an app: who holds something of it, for each set
/// of constraints in it the nearest nodes and some at random, drawn with `seed`, and all nodes that may have a partition of
/// a stream that has one on each. Looks at each node once for each set of constraints, and at no pairs of others.
#[must_use]
pub fn sample<'a>(
    own: &NodeId,
    live: Vec<&'a NodeDigest>,
    spec: &AppSpec,
    existing: &[Assignment],
    seed: u64,
) -> Vec<&'a NodeDigest> {
    if live.len() <= WHOLE_MAX {
        return live;
    }
    let own = live.iter().find(|digest| digest.node == *own).copied();
    let mut chosen: BTreeSet<&NodeId> = BTreeSet::new();
    for constraints in asked(spec) {
        if chosen.len() >= SAMPLE_MAX {
            break;
        }
        let fit = live.iter().filter(|digest| constraints.admits(NodeFacts::from(**digest)));
        let mut fit: Vec<_> =
            fit.map(|digest| (distance(own, digest), drawn(seed, &digest.node), &digest.node)).collect();
        fit.sort_unstable();
        let mut far = fit.split_off(fit.len().min(NEAR_MAX));
        far.sort_unstable_by_key(|(_, drawn, _)| *drawn);
        far.truncate(RANDOM_MAX);
        chosen.extend(fit.into_iter().chain(far).map(|(_, _, node)| node));
    }
    for stream in spec.streams.values().filter(|stream| stream.partitions.is_none()) {
        let fit = live.iter().filter(|digest| stream.placement.admits(NodeFacts::from(**digest)));
        chosen.extend(fit.map(|digest| &digest.node));
    }
    chosen.extend(existing.iter().flat_map(|held| held.replicas.iter().chain([&held.owner])));
    live.iter().filter(|digest| chosen.contains(&digest.node)).copied().collect()
}

/// The different constraints of an app.
fn asked(spec: &AppSpec) -> Vec<&Constraints> {
    let functions = spec.functions.values().map(|function| &function.placement);
    let streams = spec.streams.values().map(|stream| &stream.placement);
    let mut asked: Vec<&Constraints> = Vec::new();
    for constraints in functions.chain(streams) {
        if !asked.contains(&constraints) {
            asked.push(constraints);
        }
    }
    asked
}

/// How far a node is: whether it is of another site, and the round trip, in microseconds, as measured or by coordinates.
fn distance(own: Option<&NodeDigest>, other: &NodeDigest) -> (bool, u64) {
    let Some(own) = own else { return (true, u64::MAX) };
    let measured = own.links.iter().find(|link| link.peer == other.node).map(|link| link.rtt_us);
    let estimated = || {
        let both = own.condition.coordinate.as_ref().zip(other.condition.coordinate.as_ref());
        both.filter(|(a, b)| is_known(a, b)).map(|(a, b)| estimate_us(a, b))
    };
    (own.site != other.site, measured.or_else(estimated).unwrap_or(u64::MAX))
}

fn drawn(seed: u64, node: &NodeId) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, node).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeMap;

    use littoral_model::condition::{Condition, Coordinate};
    use littoral_model::digest::LinkReport;
    use littoral_model::id::{AppId, AppName, Epoch, TenantId, Tier};
    use littoral_model::manifest::{Objectives, Partitioning};
    use littoral_model::situation::Situation;
    use littoral_model::wire::VersionRange;

    use super::*;
    use crate::spec::{FunctionSpec, Interface, SAME_PERMILLE, StreamSpec};

    pub(crate) fn digest(node: &str, site: &str, tier: Tier) -> NodeDigest {
        NodeDigest {
            node: node.parse().unwrap(),
            tier,
            site: site.parse().unwrap(),
            labels: BTreeMap::new(),
            incarnation: 1,
            sequence: 1,
            protocol: VersionRange::OURS,
            program: "0.1.0".to_owned(),
            cores: 4,
            memory_bytes: 8 << 30,
            works: 0,
            http: Some("192.0.2.1:8080".to_owned()),
            functions: Vec::new(),
            links: Vec::new(),
            intent: 0,
            situation: Situation::default(),
            condition: Condition::default(),
        }
    }

    /// A cloud of so many nodes and half as many edges. The first edge has measured the clouds of even numbers, and the
    /// others are where their coordinates say: in both cases, low numbers are near to it.
    fn fabric(clouds: usize) -> Vec<NodeDigest> {
        let located = |number: usize| {
            let point_us = [i32::try_from(100 * (number + 1)).unwrap(), 0, 0];
            Some(Coordinate { point_us, height_us: 0, error_permille: 50 })
        };
        let mut nodes: Vec<NodeDigest> = (0..clouds / 2)
            .map(|number| digest(&format!("e{number}"), &format!("hall-{number}"), Tier::Edge))
            .collect();
        nodes[0].condition.coordinate = Some(Coordinate { point_us: [0; 3], height_us: 0, error_permille: 50 });
        for number in 0..clouds {
            let mut cloud = digest(&format!("c{number}"), &format!("dc-{number}"), Tier::Cloud);
            if number % 2 == 0 {
                let rtt_us = 100 * (number as u64 + 1);
                nodes[0].links.push(LinkReport { peer: cloud.node.clone(), rtt_us, bandwidth_bps: None });
            } else {
                cloud.condition.coordinate = located(number);
            }
            nodes.push(cloud);
        }
        nodes
    }

    fn spec(tiers: &[Tier]) -> AppSpec {
        let function = |tier: &Tier| {
            let placement = Constraints::tier(*tier);
            let (artifact, interface) = (String::new(), Interface::Http);
            let spec = FunctionSpec {
                artifact,
                interface,
                memory_bytes: 1,
                placement,
                execution_us: None,
                partitioning: Partitioning::Any,
                output_permille: SAME_PERMILLE,
            };
            (format!("f-{tier}").parse().unwrap(), spec)
        };
        let app = AppId { tenant: TenantId::default_tenant(), app: AppName::new("demo").unwrap() };
        let functions = tiers.iter().map(function).collect();
        let (streams, flows, objectives) = (BTreeMap::new(), BTreeMap::new(), Objectives::default());
        AppSpec { app, functions, streams, flows, queues: BTreeMap::new(), connectors: Vec::new(), objectives }
    }

    fn sampled(nodes: &[NodeDigest], spec: &AppSpec, existing: &[Assignment], seed: u64) -> BTreeSet<String> {
        let sampled = sample(&"e0".parse().unwrap(), nodes.iter().collect(), spec, existing, seed);
        sampled.into_iter().map(|digest| digest.node.to_string()).collect()
    }

    #[test]
    fn a_small_fabric_is_considered_as_a_whole() {
        assert_eq!(sampled(&fabric(64), &spec(&[Tier::Cloud]), &[], 1).len(), 96);
    }

    #[test]
    fn of_a_large_one_the_nearest_and_some_others_are() {
        let (nodes, spec) = (fabric(2_000), spec(&[Tier::Cloud, Tier::Edge]));
        let first = sampled(&nodes, &spec, &[], 1);
        assert!(first.len() <= 2 * (NEAR_MAX + RANDOM_MAX), "{}", first.len());
        for number in 0..NEAR_MAX {
            assert!(first.contains(&format!("c{number}")), "c{number} is near");
        }
        let others = first.difference(&sampled(&nodes, &spec, &[], 2)).count();
        assert!(others > RANDOM_MAX / 2, "another seed draws others: {others}");
        assert_eq!(first, sampled(&nodes, &spec, &[], 1));
    }

    #[test]
    fn who_holds_or_is_to_write_something_is_always_considered() {
        let (nodes, mut spec) = (fabric(400), spec(&[Tier::Cloud]));
        let replicas: Vec<NodeId> = ["c399", "c398"].map(|node| node.parse().unwrap()).to_vec();
        let work = "default/demo/stream/s/0@dc-399".parse().unwrap();
        let held =
            Assignment { work, owner: replicas[0].clone(), epoch: Epoch(1), in_sync: replicas.clone(), replicas };
        let first = sampled(&nodes, &spec, &[held], 1);
        assert!(first.contains("c399") && first.contains("c398"));
        let everywhere = StreamSpec { placement: Constraints::tier(Tier::Edge), ..StreamSpec::default() };
        spec.streams.insert("s".parse().unwrap(), everywhere);
        let edges = sampled(&nodes, &spec, &[], 1).into_iter().filter(|node| node.starts_with('e')).count();
        assert_eq!(edges, 200, "one partition for each");
    }
}
