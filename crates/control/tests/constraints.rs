//! Every constraint that a manifest accepts is enforced: at first, by a refusal that names it and the nearest miss, and as
//! things change, by a departure. The scenarios are compared with the manifest's schema, so that a key without one fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{agent, app, digest, intent, members, names, node, proposals};
use littoral_control::{Agent, Command, Event};
use littoral_model::digest::NodeDigest;
use littoral_model::id::{Epoch, NodeId, SiteId, Tier};
use littoral_model::manifest::{self, Objectives, Partitioning};
use littoral_model::situation::{FailureDomain, PowerSource};
use littoral_model::work::{Assignment, KeeperCommand};
use littoral_plan::{
    AppSpec, Constraints, Fabric, FunctionSpec, Interface, PlacedWork, Placement, Refusal, SAME_PERMILLE, StreamSpec,
    compile,
};
use serde_json::Value;

/// How a node comes to violate a constraint, and what is said of it.
struct Scenario {
    /// The keys, and values of keys, that it is about.
    covers: &'static [&'static str],
    /// The constraint, as a manifest has it.
    placement: &'static str,
    /// Makes a node satisfy it.
    good: fn(&mut NodeDigest),
    /// Makes a node violate it.
    bad: fn(&mut NodeDigest),
    /// Makes all nodes such that nothing can be placed; each violates it if there is none.
    hopeless: Option<fn(&mut NodeDigest)>,
    /// What the refusal names.
    constraint: &'static str,
    /// What it says of the nearest miss.
    why: &'static str,
    /// What becomes of a work when its owner's digest has changed.
    departure: Departure,
}

#[derive(Clone, Copy, PartialEq)]
enum Departure {
    /// It goes to another node that holds it.
    Moves,
    /// It goes there because a node leaves a site only together with the fabric.
    Leaves,
    /// It waits: what it must be with has left the site.
    Waits,
    /// Its owner stays, and the copy that must not be where it is goes elsewhere.
    Respreads,
}

const DEFAULT: Scenario = Scenario {
    covers: &[],
    placement: "",
    good: |_| {},
    bad: |_| {},
    hopeless: None,
    constraint: "",
    why: "",
    departure: Departure::Moves,
};

fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            covers: &["tier"],
            placement: "tier = \"edge\"",
            bad: |digest| digest.tier = Tier::Region,
            constraint: "tier=edge",
            why: "is of tier region",
            ..DEFAULT
        },
        Scenario {
            covers: &["site"],
            placement: "site = \"hall-7\"",
            bad: |digest| digest.site = "hall-9".parse().unwrap(),
            constraint: "site=hall-7",
            why: "is in site hall-9",
            departure: Departure::Leaves,
            ..DEFAULT
        },
        Scenario {
            covers: &["region"],
            placement: "region = [\"eu-north\", \"eu-west\"]",
            good: |digest| digest.situation.region = Some("eu-west".parse().unwrap()),
            bad: |digest| digest.situation.region = Some("us-east".parse().unwrap()),
            constraint: "region=eu-north|eu-west",
            why: "is in region us-east",
            ..DEFAULT
        },
        Scenario {
            covers: &["labels"],
            placement: "labels = { rack = \"seven\" }",
            good: |digest| drop(digest.labels.insert("rack".to_owned(), "seven".to_owned())),
            bad: |digest| drop(digest.labels.remove("rack")),
            constraint: "label rack=seven",
            why: "has no label rack",
            ..DEFAULT
        },
        Scenario {
            covers: &["accelerators"],
            placement: "accelerators = [\"gpu\"]",
            good: |digest| {
                digest.situation.accelerators.insert("gpu".parse().unwrap());
            },
            bad: |digest| digest.situation.accelerators.clear(),
            constraint: "accelerator gpu",
            why: "has no accelerator gpu",
            ..DEFAULT
        },
        Scenario {
            covers: &["within.position", "within.radius"],
            placement: "within = { position = \"59.3293,18.0686\", radius = \"2km\" }",
            good: |digest| digest.situation.position = Some("59.3294,18.0687".parse().unwrap()),
            bad: |digest| digest.situation.position = Some("59.3593,18.0686".parse().unwrap()),
            constraint: "within 2km of 59.3293,18.0686",
            why: "is 3336m away from there",
            ..DEFAULT
        },
        Scenario {
            covers: &["battery-above"],
            placement: "battery-above = \"30%\"",
            good: |digest| battery(digest, 31),
            bad: |digest| battery(digest, 30),
            constraint: "battery-above=30%",
            why: "has 30% left in its battery",
            ..DEFAULT
        },
        Scenario {
            covers: &["mains-only"],
            placement: "mains-only = true",
            good: |digest| digest.situation.power.source = PowerSource::Mains,
            bad: |digest| digest.situation.power.source = PowerSource::Battery,
            constraint: "mains-only",
            why: "is on its battery",
            ..DEFAULT
        },
        Scenario {
            covers: &["stationary"],
            placement: "stationary = true",
            good: |digest| digest.situation.moving = false,
            bad: |digest| digest.situation.moving = true,
            constraint: "stationary",
            why: "is moving",
            ..DEFAULT
        },
        Scenario {
            covers: &["affinity.with", "affinity.scope=node"],
            placement: "labels = { here = \"yes\" }, affinity = [{ with = \"anchor\" }]",
            good: |digest| digest.labels = labels(&["anchor", "here"]),
            bad: |digest| digest.labels = labels(&["here"]),
            hopeless: Some(|digest| {
                digest.labels = labels(if digest.node == node("edge-1") { &["anchor"] } else { &["here"] });
            }),
            constraint: "affinity=anchor (on one node)",
            why: "is not where anchor",
            ..DEFAULT
        },
        Scenario {
            covers: &["affinity.scope=site"],
            placement: "labels = { here = \"yes\" }, affinity = [{ with = \"anchor\", scope = \"site\" }]",
            good: |digest| *digest = in_site(digest, "hall-7", &["anchor", "here"]),
            bad: |digest| *digest = in_site(digest, "hall-9", &["here"]),
            hopeless: Some(|digest| {
                let is_first = digest.node == node("edge-1");
                *digest = if is_first {
                    in_site(digest, "hall-7", &["anchor"])
                } else {
                    in_site(digest, "hall-9", &["here"])
                };
            }),
            constraint: "affinity=anchor (in one site)",
            why: "is not where anchor",
            departure: Departure::Waits,
        },
        Scenario {
            covers: &["anti-affinity.with", "anti-affinity.scope=node"],
            placement: "labels = { here = \"yes\" }, anti-affinity = [{ with = \"anchor\" }]",
            good: |digest| digest.labels = labels(&["here"]),
            bad: |digest| digest.labels = labels(&["anchor", "here"]),
            hopeless: Some(|digest| {
                digest.labels = labels(if digest.node == node("cloud-1") { &["anchor", "here"] } else { &[] });
            }),
            constraint: "anti-affinity=anchor (on another node)",
            why: "is where",
            ..DEFAULT
        },
        Scenario {
            covers: &["anti-affinity.scope=site"],
            placement: "labels = { here = \"yes\" }, anti-affinity = [{ with = \"anchor\", scope = \"site\" }]",
            good: |digest| *digest = in_site(digest, "hall-7", &["here"]),
            bad: |digest| *digest = in_site(digest, "hall-9", &["anchor", "here"]),
            hopeless: Some(|digest| {
                let keys: &[&str] = if digest.node == node("cloud-1") { &["anchor", "here"] } else { &[] };
                *digest = in_site(digest, "hall-7", keys);
            }),
            constraint: "anti-affinity=anchor (in another site)",
            why: "is where",
            departure: Departure::Waits,
        },
        Scenario {
            covers: &["spread=power"],
            placement: "spread = [\"power\"]",
            good: |digest| domain(digest, FailureDomain::Power, None),
            bad: |digest| domain(digest, FailureDomain::Power, Some("circuit-c")),
            constraint: "spread=power (two nodes",
            why: "share",
            departure: Departure::Respreads,
            ..DEFAULT
        },
        Scenario {
            covers: &["spread=uplink"],
            placement: "spread = [\"uplink\"]",
            good: |digest| domain(digest, FailureDomain::Uplink, None),
            bad: |digest| domain(digest, FailureDomain::Uplink, Some("fibre-c")),
            constraint: "spread=uplink (two nodes",
            why: "share",
            departure: Departure::Respreads,
            ..DEFAULT
        },
    ]
}

/// What is a wish and keeps nothing from a node: `near` chooses among nodes that satisfy the rest. Its scenarios are those
/// of `plan`.
const WISHES: [&str; 2] = ["near", "prefer"];

fn battery(digest: &mut NodeDigest, percent: u8) {
    digest.situation.power.source = PowerSource::Battery;
    digest.situation.power.battery_percent = Some(percent);
}

fn labels(keys: &[&str]) -> BTreeMap<String, String> {
    keys.iter().map(|key| ((*key).to_owned(), "yes".to_owned())).collect()
}

fn in_site(digest: &NodeDigest, site: &str, keys: &[&str]) -> NodeDigest {
    NodeDigest { site: site.parse().unwrap(), labels: labels(keys), ..digest.clone() }
}

/// A failure domain of that name, else of its own.
fn domain(digest: &mut NodeDigest, domain: FailureDomain, name: Option<&str>) {
    let name = name.unwrap_or(digest.node.as_str()).parse().unwrap();
    digest.situation.domains.insert(domain, name);
}

#[test]
fn each_key_of_the_schema_has_a_scenario() {
    let schema = manifest::schema().to_value();
    let mut keys = BTreeSet::new();
    walk(&schema, &schema["$defs"]["Placement"], "", &mut keys);
    let covered: BTreeSet<String> = scenarios().iter().flat_map(|s| s.covers).map(|key| (*key).to_owned()).collect();
    let is_of = |key: &str, wish: &str| key.split('=').next() == Some(wish);
    let is_wish = |key: &str| WISHES.iter().any(|wish| is_of(key, wish));
    let missing: Vec<&String> = keys.iter().filter(|key| !covered.contains(*key) && !is_wish(key)).collect();
    assert!(missing.is_empty(), "no scenario violates {missing:?}");
    let gone: Vec<&String> = covered.iter().filter(|key| !keys.contains(*key)).collect();
    let forgotten: Vec<&&str> = WISHES.iter().filter(|wish| !keys.iter().any(|key| is_of(key, wish))).collect();
    assert!(gone.is_empty() && forgotten.is_empty(), "there is no key {gone:?} {forgotten:?}");
}

/// Notes each key of a table, of tables in it as `outer.inner`, and each constant that it may be as `key=constant`. Names
/// and tiers are values like any other.
fn walk(schema: &Value, table: &Value, prefix: &str, keys: &mut BTreeSet<String>) {
    for (key, property) in table["properties"].as_object().unwrap() {
        let path = format!("{prefix}{key}");
        let mut inner = resolve(schema, property);
        if let Some(items) = inner.get("items") {
            inner = resolve(schema, items);
        }
        let constants = inner["oneOf"].as_array().into_iter().flatten().filter_map(|one| one["const"].as_str());
        let constants: Vec<&str> = constants.collect();
        if inner.get("properties").is_some() {
            walk(schema, inner, &format!("{path}."), keys);
        } else if constants.is_empty() {
            keys.insert(path);
        } else {
            keys.extend(constants.iter().map(|constant| format!("{path}={constant}")));
        }
    }
}

/// What a schema is of, past references and the possibility to leave it out.
fn resolve<'s>(schema: &'s Value, of: &'s Value) -> &'s Value {
    if let Some(name) = of["$ref"].as_str() {
        return resolve(schema, &schema["$defs"][name.rsplit('/').next().unwrap()]);
    }
    let choices = of["anyOf"].as_array().into_iter().flatten().filter(|choice| choice["type"] != "null");
    match choices.collect::<Vec<_>>().as_slice() {
        [one] => resolve(schema, one),
        _ => of,
    }
}

#[test]
fn what_no_node_satisfies_is_refused_with_its_name_and_the_nearest_miss() {
    for scenario in scenarios() {
        let mut digests = fabric(&scenario, &[]);
        if let Some(hopeless) = scenario.hopeless {
            digests.iter_mut().for_each(hopeless);
        }
        for refusal in [place(&scenario, &digests, true), place(&scenario, &digests, false)] {
            let findings = refusal.err().unwrap_or_else(|| panic!("{} was not refused", scenario.placement)).findings;
            let named = findings.iter().find(|finding| finding.constraint.contains(scenario.constraint));
            let named = named.unwrap_or_else(|| panic!("{} is not named: {findings:?}", scenario.constraint));
            let miss = named.nearest_miss.as_ref().unwrap();
            assert!(miss.why.contains(scenario.why), "{}: {}", scenario.placement, miss.why);
        }
    }
}

#[test]
fn a_function_is_served_elsewhere_when_its_node_does_not_satisfy_it_any_more() {
    for scenario in scenarios() {
        let name = scenario.placement;
        let before = fabric(&scenario, &["edge-1"]);
        let placement = place(&scenario, &before, true).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let mut agents = agents(&before);
        assert_eq!(serve(&mut agents, &placement, &before), names(&["edge-1"]), "{name}");
        // Another one will do now, too. What is served well stays where it is.
        let both = fabric(&scenario, &["edge-1", "edge-2"]);
        assert!(serve(&mut agents, &placement, &both).contains(&node("edge-1")), "{name}");
        let mut after = fabric(&scenario, &["edge-2"]);
        if scenario.departure == Departure::Leaves {
            after.retain(|digest| digest.node != node("edge-1"));
            agents.remove("edge-1");
        }
        assert_eq!(serve(&mut agents, &placement, &after), names(&["edge-2"]), "{name}");
    }
}

#[test]
fn a_work_leaves_an_owner_that_does_not_satisfy_its_constraints_any_more() {
    for scenario in scenarios() {
        let name = scenario.placement;
        let mut digests = fabric(&scenario, &["edge-1", "edge-2", "edge-3"]);
        if scenario.departure == Departure::Waits {
            // The anchor is outside of what the work's site alone decides.
            digests.retain(|digest| digest.node != node("edge-3"));
        }
        let placement = place(&scenario, &digests, false).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let placed = placement.works.first().unwrap().clone();
        let held = Assignment {
            work: placed.work.clone(),
            owner: placed.owner.clone(),
            epoch: Epoch(1),
            replicas: placed.replicas.clone(),
            in_sync: placed.replicas.clone(),
        };
        let other = placed.replicas[1].clone();
        let mut owner = agent(placed.owner.as_str(), "hall-7");
        let mut leader = agent(other.as_str(), "hall-7");
        leader.step(0, Event::Leadership(true));
        for agent in [&mut owner, &mut leader] {
            agent.step(0, members(&digests));
            agent.step(0, common::assignments(std::slice::from_ref(&held)));
        }
        let started = owner.step(0, intent(placement.clone()));
        assert!(started.iter().any(|command| matches!(command, Command::StartWork { .. })), "{name}: {started:?}");
        let settled = proposals(&leader.step(0, intent(placement)));
        assert!(settled.is_empty(), "{name}: nothing was to be done but {settled:?}");
        departs(&scenario, &placed, digests, (&mut owner, &mut leader));
    }
}

/// Checks what becomes of a work once its owner's digest (or a copy's) has changed.
fn departs(
    scenario: &Scenario,
    placed: &PlacedWork,
    mut digests: Vec<NodeDigest>,
    (owner, leader): (&mut Agent, &mut Agent),
) {
    let name = scenario.placement;
    let changes = |digest: &NodeDigest| match scenario.departure {
        Departure::Respreads => placed.replicas[1..].contains(&digest.node),
        Departure::Waits => true,
        _ => digest.node == placed.owner,
    };
    digests.iter_mut().filter(|digest| changes(digest)).for_each(scenario.bad);
    if scenario.departure == Departure::Waits {
        // The site's nodes stay where they are; the anchor has gone from them, or come to them.
        digests.iter_mut().for_each(|digest| digest.site = "hall-7".parse().unwrap());
    }
    if scenario.departure == Departure::Leaves {
        digests.retain(|digest| digest.node != placed.owner);
    }
    if scenario.departure == Departure::Moves {
        // An anchor that is apart from it has nowhere else to be.
        digests.retain(|digest| digest.node != node("cloud-1"));
    }
    let stopped = owner.step(1, members(&digests));
    let is_stopped = stopped.iter().any(|command| matches!(command, Command::StopWork { .. }));
    let proposed = proposals(&leader.step(1, members(&digests)));
    match (scenario.departure, proposed.as_slice()) {
        (Departure::Moves, [KeeperCommand::Move { owner, exclude_old: false, .. }]) => {
            assert!(placed.replicas[1..].contains(owner), "{name}: {owner}");
            assert!(is_stopped, "{name}: {stopped:?}");
        }
        (Departure::Leaves, [KeeperCommand::Move { owner, exclude_old: true, .. }]) => {
            assert!(placed.replicas[1..].contains(owner), "{name}: {owner}");
        }
        (Departure::Waits, proposed) => {
            assert!(!proposed.iter().any(|one| matches!(one, KeeperCommand::Move { .. })), "{name}: {proposed:?}");
            assert!(is_stopped, "{name}: {stopped:?}");
        }
        (Departure::Respreads, [KeeperCommand::Replicas { replicas, .. }]) => {
            let domains =
                |node: &NodeId| digests.iter().find(|digest| digest.node == *node).unwrap().situation.domains.clone();
            let different: BTreeSet<_> = replicas.iter().map(domains).collect();
            assert_eq!(different.len(), replicas.len(), "{name}: {replicas:?}");
            assert!(!is_stopped, "{name}");
        }
        _ => panic!("{name}: {proposed:?}"),
    }
}

/// Three nodes of a site, those of `good` such that they satisfy the constraint, and another one that never does; it is
/// where the anchor may be, which scenarios are with or apart from.
fn fabric(scenario: &Scenario, good: &[&str]) -> Vec<NodeDigest> {
    let mut digests: Vec<NodeDigest> =
        ["edge-1", "edge-2", "edge-3"].map(|name| digest(name, Tier::Edge, "hall-7")).into();
    let mut other = digest("cloud-1", Tier::Edge, "hall-9");
    (scenario.bad)(&mut other);
    digests.push(other);
    for digest in &mut digests[..3] {
        let change = if good.contains(&digest.node.as_str()) { scenario.good } else { scenario.bad };
        change(digest);
    }
    digests
}

/// A function, or a stream, with the constraint, and what it may be with or apart from.
fn place(scenario: &Scenario, digests: &[NodeDigest], function: bool) -> Result<Placement, Refusal> {
    let anchor = "[functions.anchor]\ncomponent = \"a.wasm\"\nplacement = { labels = { anchor = \"yes\" } }\nmemory = \"1MiB\"\n";
    let anchor = if scenario.placement.contains("anchor") { anchor } else { "" };
    let kind = if function { "[functions.subject]\ncomponent = \"s.wasm\"" } else { "[streams.subject]" };
    let text = format!("name = \"demo\"\nversion = \"1\"\n{anchor}{kind}\nplacement = {{ {} }}\n", scenario.placement);
    let manifest = manifest::parse("littoral.toml", &text).unwrap_or_else(|findings| panic!("{findings}"));
    let functions = manifest.functions.iter().map(|(name, function)| {
        let spec = FunctionSpec {
            artifact: name.to_string(),
            interface: Interface::Http,
            memory_bytes: function.memory.into(),
            placement: Constraints::from(&function.placement),
            execution_us: None,
            partitioning: Partitioning::Any,
            output_permille: SAME_PERMILLE,
        };
        (name.clone(), spec)
    });
    let streams = manifest.streams.iter().map(|(name, stream)| {
        let placement = Constraints::from(&stream.placement);
        (name.clone(), StreamSpec { placement, ..StreamSpec::default() })
    });
    let spec = AppSpec {
        app: app(),
        functions: functions.collect(),
        streams: streams.collect(),
        flows: BTreeMap::new(),
        queues: BTreeMap::new(),
        connectors: Vec::new(),
        objectives: Objectives::default(),
    };
    compile(&spec, &Fabric::from_digests(digests, []), &[])
}

/// The agents by their nodes, each with its site and whether it serves the function.
type Agents = BTreeMap<String, (Agent, SiteId, bool)>;

fn agents(digests: &[NodeDigest]) -> Agents {
    let edges = digests.iter().filter(|digest| digest.node != node("cloud-1"));
    let agent = |digest: &NodeDigest| (agent(digest.node.as_str(), digest.site.as_str()), digest.site.clone(), false);
    edges.map(|digest| (digest.node.to_string(), agent(digest))).collect()
}

/// Lets all agents see the digests; answers with the nodes that serve the function then, each by its own decision.
fn serve(agents: &mut Agents, placement: &Placement, digests: &[NodeDigest]) -> BTreeSet<NodeId> {
    for (name, (agent, site, serves)) in agents.iter_mut() {
        let now = &digests.iter().find(|digest| digest.node.as_str() == name).unwrap().site;
        if now != site {
            // A node of another site is another one, which begins anew.
            *agent = common::agent(name, now.as_str());
            (*site, *serves) = (now.clone(), false);
        }
        for event in [members(digests), intent(placement.clone())] {
            for command in agent.step(0, event) {
                match command {
                    Command::StartFunction { function, .. } if function.as_str() == "subject" => *serves = true,
                    Command::StopFunction { function, .. } if function.as_str() == "subject" => *serves = false,
                    _ => {}
                }
            }
        }
    }
    agents.iter().filter(|(_, (_, _, serves))| *serves).map(|(name, _)| node(name)).collect()
}
