//! What apps do in a cut: who stops, who goes on, and that a singleton is never served twice.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::needless_range_loop)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::{agent, app, digest, members, node, placed, placement};
use littoral_control::partition::{Policy, is_serving_work, serving_work};
use littoral_control::{Agent, Command, Event, Intent};
use littoral_model::id::{Epoch, NodeId, Tier};
use littoral_model::work::{Assignment, KeeperCommand, WorkId};
use littoral_plan::{PlacedFunction, Placement};
use proptest::collection::vec;
use proptest::prelude::*;

fn function(on: &str) -> PlacedFunction {
    let (function, artifact) = ("f".parse().unwrap(), "0".repeat(64));
    PlacedFunction { function, node: node(on), artifact, reasons: Vec::new() }
}

fn intent(placement: Placement, policy: Policy) -> Event {
    let apps = BTreeMap::from([(app(), Arc::new(placement))]);
    let policies = BTreeMap::from([(app(), policy)]);
    Event::Intent(Arc::new(Intent { apps, policies, ..Intent::default() }))
}

fn seen(names: &[&str]) -> Event {
    members(&names.iter().map(|name| digest(name, Tier::Edge, "hall")).collect::<Vec<_>>())
}

fn halts(commands: &[Command]) -> Vec<String> {
    let reason = |command: &Command| match command {
        Command::Halt { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    commands.iter().filter_map(reason).collect()
}

#[test]
fn an_app_stops_after_a_while_without_most_of_its_nodes_and_goes_on_with_them() {
    let mut one = agent("a", "hall");
    let placement = placement(vec![placed("stream/s/0@hall", "b", &["c"])], vec![function("a")]);
    one.step(0, common::assignments(&[]));
    one.step(0, intent(placement, Policy::StopAfter(60_000)));
    let started = one.step(0, seen(&["a", "b", "c", "other"]));
    assert!(halts(&started).is_empty());
    // One of three is out of reach: nothing happens, however long.
    one.step(1_000, seen(&["a", "b", "other"]));
    assert!(halts(&one.step(1_000_000, Event::Tick)).is_empty());
    // Two are, and nodes that have nothing of the app do not count.
    one.step(1_000_000, seen(&["a", "other"]));
    assert!(halts(&one.step(1_059_999, Event::Tick)).is_empty());
    let stopped = one.step(1_060_000, Event::Tick);
    assert!(halts(&stopped)[0].contains("60 s") && halts(&stopped)[0].contains("1 of the 3 nodes"), "{stopped:?}");
    assert!(stopped.iter().any(|command| matches!(command, Command::StopFunction { .. })));
    assert!(halts(&one.step(2_000_000, Event::Tick)).is_empty(), "it is said once");
    let healed = one.step(2_000_001, seen(&["a", "c"]));
    assert!(healed.iter().any(|command| matches!(command, Command::Admit { .. })), "{healed:?}");
    assert!(healed.iter().any(|command| matches!(command, Command::StartFunction { .. })));
    // A short cut again counts from its own beginning.
    one.step(2_000_002, seen(&["a"]));
    assert!(halts(&one.step(2_060_001, Event::Tick)).is_empty());
}

#[test]
fn of_two_halves_the_one_with_the_first_name_goes_on() {
    for (name, stops) in [("a", false), ("b", true)] {
        let mut one = agent(name, "hall");
        one.step(0, common::assignments(&[]));
        one.step(0, intent(placement(vec![], vec![function("a"), function("b")]), Policy::StopAfter(1_000)));
        one.step(0, seen(&["a", "b"]));
        one.step(1, seen(&[name]));
        assert_eq!(!halts(&one.step(5_000, Event::Tick)).is_empty(), stops, "{name}");
    }
}

/// How far the real time goes in a step, in milliseconds.
const STEP_MS: u64 = 100;
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Clocks of the three, per cent of real time: one is slow, one is fast.
const RATES: [u64; 3] = [96, 100, 104];

/// Something on its way to a node.
enum Way {
    Assignments,
    Renewed { asked_ms: u64, assignment: Assignment },
}

/// Three nodes of a site and the group's state machine, which whoever is with a majority can change.
struct Site {
    now_ms: u64,
    agents: Vec<Agent>,
    /// What each node's gate was last told: from when until when it may serve, on its own clock.
    gates: [(u64, u64); 3],
    /// Which of them are cut off from the others.
    alone: [bool; 3],
    paused: [bool; 3],
    assignments: BTreeMap<WorkId, Assignment>,
    /// Proposals on their way: when they arrive, whose they are, and the renewal's time if they are one.
    proposals: Vec<(u64, usize, KeeperCommand, Option<u64>)>,
    ways: Vec<(u64, usize, Way)>,
    delay_ms: u64,
    served: BTreeSet<NodeId>,
}

impl Site {
    fn new() -> Self {
        let agents = NAMES.map(|name| agent(name, "hall")).into();
        let mut site = Self {
            now_ms: 0,
            agents,
            gates: [(0, 0); 3],
            alone: [false; 3],
            paused: [false; 3],
            assignments: BTreeMap::new(),
            proposals: Vec::new(),
            ways: Vec::new(),
            delay_ms: 0,
            served: BTreeSet::new(),
        };
        let placement = placement(vec![], NAMES.map(function).into());
        for at in 0..3 {
            site.tell(at, common::assignments(&[]));
            site.tell(at, intent(placement.clone(), Policy::Singleton));
        }
        site.look();
        site
    }

    /// The app is deployed again.
    fn deploy(&mut self, placement: &Placement) {
        for at in 0..3 {
            self.tell(at, intent(placement.clone(), Policy::Singleton));
        }
    }

    fn clock(&self, at: usize) -> u64 {
        self.now_ms * RATES[at] / 100
    }

    fn tell(&mut self, at: usize, event: Event) {
        let now_ms = self.clock(at);
        for command in self.agents[at].step(now_ms, event) {
            // Slower and faster in turn, so that what overtakes what differs.
            self.delay_ms = (self.delay_ms + 700) % 3_000;
            match command {
                Command::Lease { from_ms, until_ms, .. } => self.gates[at] = (from_ms, until_ms),
                Command::Propose(proposal) => self.proposals.push((self.now_ms + self.delay_ms, at, proposal, None)),
                Command::Renew { asked_ms, renewal, .. } => {
                    self.proposals.push((self.now_ms + self.delay_ms, at, renewal, Some(asked_ms)));
                }
                _ => {}
            }
        }
    }

    /// Tells everybody whom they see, and who leads: the first that is with a majority and runs.
    fn look(&mut self) {
        let together: Vec<usize> = (0..3).filter(|at| !self.alone[*at]).collect();
        let leader = together.iter().copied().find(|at| !self.paused[*at] && together.len() >= 2);
        for at in 0..3 {
            if self.paused[at] {
                continue;
            }
            let sees: Vec<&str> = if self.alone[at] {
                vec![NAMES[at]]
            } else {
                together.iter().filter(|other| !self.paused[**other]).map(|other| NAMES[*other]).collect()
            };
            self.tell(at, seen(&sees));
            self.tell(at, Event::Leadership(leader == Some(at)));
        }
    }

    fn with_majority(&self, at: usize) -> bool {
        let others = (0..3).filter(|other| *other != at && !self.alone[*other] && !self.paused[*other]).count();
        !self.alone[at] && others >= 1
    }

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        let now_ms = self.now_ms;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.proposals).into_iter().partition(|(at_ms, ..)| *at_ms <= now_ms);
        self.proposals = later;
        for (_, from, command, asked_ms) in due {
            // Who is cut off tries again until somebody answers: a renewal may be decided on much later.
            if !self.with_majority(from) {
                self.proposals.push((now_ms + 500, from, command, asked_ms));
                continue;
            }
            let work = match &command {
                KeeperCommand::Create { work, .. }
                | KeeperCommand::Move { work, .. }
                | KeeperCommand::Resync { work, .. } => work.clone(),
                other => panic!("{other:?}"),
            };
            assert!(is_serving_work(&work));
            let mut group = common::Group { assignments: std::mem::take(&mut self.assignments), ..Default::default() };
            group.apply(command);
            self.assignments = group.assignments;
            for at in 0..3 {
                self.ways.push((now_ms + 300 * at as u64, at, Way::Assignments));
            }
            if let Some(asked_ms) = asked_ms {
                let assignment = self.assignments[&work].clone();
                self.ways.push((now_ms + self.delay_ms / 2, from, Way::Renewed { asked_ms, assignment }));
            }
        }
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ways)
            .into_iter()
            .partition(|(at_ms, at, _)| *at_ms <= now_ms && !self.paused[*at]);
        self.ways = later;
        for (_, at, way) in due {
            match way {
                Way::Assignments if self.alone[at] => self.ways.push((now_ms + 200, at, Way::Assignments)),
                Way::Assignments => self.tell(at, Event::Assignments(Arc::new(self.assignments.clone()))),
                Way::Renewed { asked_ms, assignment } => {
                    self.tell(at, Event::Renewed { app: app(), asked_ms, assignment });
                }
            }
        }
        for at in 0..3 {
            if !self.paused[at] {
                self.tell(at, Event::Tick);
            }
        }
        let serving = self.serving();
        assert!(serving.len() <= 1, "{serving:?} serve at once at {now_ms} ms");
        self.served.extend(serving.iter().map(|at| node(NAMES[*at])));
    }

    /// Who would answer a request now. One that was paused and wakes looks at its clock before all else.
    fn serving(&self) -> Vec<usize> {
        let open = |at: &usize| {
            let (from_ms, until_ms) = self.gates[*at];
            (from_ms..until_ms).contains(&self.clock(*at))
        };
        (0..3).filter(open).collect()
    }

    /// Runs until one serves; answers with which.
    fn until_served(&mut self, ms: u64) -> usize {
        for _ in 0..ms / STEP_MS {
            self.step();
            if let [one] = self.serving()[..] {
                return one;
            }
        }
        panic!("nobody serves after {ms} ms");
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.step();
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Cut(usize),
    Heal(usize),
    Pause(usize),
    Resume(usize),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..3usize).prop_map(Act::Cut),
        (0..3usize).prop_map(Act::Heal),
        (0..3usize).prop_map(Act::Pause),
        (0..3usize).prop_map(Act::Resume),
        (1..120u64).prop_map(|steps| Act::Wait(steps * STEP_MS)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn a_singleton_is_never_served_twice_and_is_served_again_after_the_heal(acts in vec(act(), 0..40)) {
        let mut site = Site::new();
        site.until_served(15_000);
        for act in acts {
            match act {
                Act::Cut(at) => site.alone[at] = true,
                Act::Heal(at) => site.alone[at] = false,
                Act::Pause(at) => site.paused[at] = true,
                Act::Resume(at) => site.paused[at] = false,
                Act::Wait(ms) => site.run(ms),
            }
            site.look();
        }
        (site.alone, site.paused) = ([false; 3], [false; 3]);
        site.look();
        site.until_served(30_000);
    }
}

#[test]
fn a_singleton_moves_to_the_majority_and_the_one_that_was_cut_off_stops_by_itself() {
    let mut site = Site::new();
    let first = site.until_served(15_000);
    site.alone[first] = true;
    site.look();
    site.run(5_000);
    let second = site.until_served(20_000);
    assert_ne!(first, second);
    assert_eq!(site.served.len(), 2);
    // Paused for as long as it takes to be replaced, it finds its lease gone when it wakes.
    site.alone[first] = false;
    site.paused[second] = true;
    site.look();
    site.run(5_000);
    let third = site.until_served(20_000);
    assert_ne!(third, second);
    site.paused[second] = false;
    assert!(!site.serving().contains(&second));
}

#[test]
fn a_singleton_that_is_deployed_again_is_served_where_it_was() {
    let mut site = Site::new();
    let first = site.until_served(15_000);
    let mut again = placement(vec![], NAMES.map(function).into());
    // As earlier programs placed it: what no work of the placement is was to be forgotten.
    again.retired = site.assignments.keys().cloned().collect();
    assert!(again.retired.iter().all(is_serving_work));
    site.deploy(&again);
    site.run(20_000);
    assert_eq!(site.until_served(5_000), first);
    assert_eq!(site.served, BTreeSet::from([node(NAMES[first])]));
}

#[test]
fn a_singleton_is_forgotten_where_its_app_is_none_any_more_or_is_served_elsewhere() {
    let work = serving_work(&app(), &"hall".parse().unwrap());
    let held = Assignment {
        work: work.clone(),
        owner: node("a"),
        epoch: Epoch(1),
        replicas: vec![node("a")],
        in_sync: vec![node("a")],
    };
    let cases = [
        (Policy::Singleton, "a", false),
        (Policy::StopAfter(60_000), "a", true),
        (Policy::Singleton, "far", true),
        // Nobody knows where that one is: it may be a node of the site that is down.
        (Policy::Singleton, "unknown", false),
    ];
    for (policy, on, forgets) in cases {
        let mut one = agent("a", "hall");
        one.step(0, common::assignments(std::slice::from_ref(&held)));
        one.step(0, members(&[digest("a", Tier::Edge, "hall"), digest("far", Tier::Edge, "yard")]));
        one.step(0, intent(placement(vec![], vec![function(on)]), policy));
        let proposed = common::proposals(&one.step(0, Event::Leadership(true)));
        assert_eq!(proposed.contains(&KeeperCommand::Remove { work: work.clone() }), forgets, "{policy:?} on {on}");
    }
}
