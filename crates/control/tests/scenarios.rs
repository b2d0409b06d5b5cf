//! One agent, told things by hand.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{
    agent, agent_of_group, app, assignment, assignments, digest, intent, link, members, names, node, placed, placement,
    proposals, voters, work,
};
use littoral_control::demand::{Demand, LOOK_MS, SAVED_US_MIN};
use littoral_control::partition::Policy;
use littoral_control::{Agent, Command, Event, Intent};
use littoral_model::digest::NodeDigest;
use littoral_model::id::{Epoch, Tier};
use littoral_model::work::KeeperCommand;
use littoral_plan::{Constraints, PlacedFunction, Placement, Serving};

const READINGS: &str = "stream/readings/0@hall-7";
const MINUTE_MS: u64 = 60_000;

fn edges() -> Vec<NodeDigest> {
    vec![digest("edge-1", Tier::Edge, "hall-7"), digest("edge-2", Tier::Edge, "hall-7")]
}

fn with_clouds() -> Vec<NodeDigest> {
    let mut all = edges();
    all[0].links = vec![link("cloud-1", 60_000), link("cloud-2", 40_000)];
    all.extend(["cloud-1", "cloud-2"].map(|name| digest(name, Tier::Cloud, "central")));
    all.push(digest("device-1", Tier::Device, "field-1"));
    all
}

/// edge-2 leads hall-7, edge-1 owns the work.
fn leader() -> Agent {
    let mut agent = agent("edge-2", "hall-7");
    agent.step(0, members(&edges()));
    agent.step(0, intent(placement(vec![placed(READINGS, "edge-1", &["edge-2"])], Vec::new())));
    agent.step(0, assignments(&[assignment(READINGS, "edge-1", 1, &["edge-1", "edge-2"])]));
    let commands = agent.step(0, Event::Leadership(true));
    assert_eq!(proposals(&commands), []);
    agent
}

#[test]
fn a_dead_owner_is_replaced_by_exactly_one_move() {
    let mut agent = leader();
    let commands = agent.step(1_000, members(&edges()[1..]));
    let expected =
        KeeperCommand::Move { work: work(READINGS), epoch: Epoch(1), owner: node("edge-2"), exclude_old: true };
    assert_eq!(proposals(&commands), [expected]);
    assert_eq!(proposals(&agent.step(1_100, Event::Tick)), []);
    assert_eq!(proposals(&agent.step(1_200, members(&edges()[1..]))), []);
    let commands = agent.step(1_300, assignments(&[assignment(READINGS, "edge-2", 2, &["edge-2"])]));
    assert_eq!(proposals(&commands), []);
    assert!(commands.contains(&Command::StartWork { work: work(READINGS), epoch: Epoch(2) }));
}

#[test]
fn a_lost_proposal_is_made_again() {
    let mut agent = leader();
    assert_eq!(proposals(&agent.step(1_000, members(&edges()[1..]))).len(), 1);
    assert_eq!(proposals(&agent.step(10_000, Event::Tick)).len(), 1);
}

#[test]
fn a_node_that_returns_becomes_a_replica_and_gets_nothing_back() {
    let mut agent = leader();
    agent.step(1_000, members(&edges()[1..]));
    agent.step(1_300, assignments(&[assignment(READINGS, "edge-2", 2, &["edge-2"])]));
    let commands = agent.step(21_000, members(&edges()));
    let replicas = vec![node("edge-2"), node("edge-1")];
    let expected = KeeperCommand::Replicas { work: work(READINGS), epoch: Epoch(2), replicas };
    assert_eq!(proposals(&commands), [expected]);
    let commands = agent.step(21_100, assignments(&[assignment(READINGS, "edge-2", 2, &["edge-2", "edge-1"])]));
    assert_eq!(commands, []);
}

#[test]
fn a_paused_owner_stops_when_it_learns_of_its_successor() {
    let mut agent = agent("edge-1", "hall-7");
    agent.step(0, members(&edges()));
    agent.step(0, intent(placement(vec![placed(READINGS, "edge-1", &["edge-2"])], Vec::new())));
    let commands = agent.step(0, assignments(&[assignment(READINGS, "edge-1", 1, &["edge-1", "edge-2"])]));
    assert!(commands.contains(&Command::StartWork { work: work(READINGS), epoch: Epoch(1) }));
    let commands = agent.step(20_000, assignments(&[assignment(READINGS, "edge-2", 2, &["edge-2"])]));
    assert!(commands.contains(&Command::StopWork { work: work(READINGS) }));
    assert!(!commands.iter().any(|command| matches!(command, Command::StartWork { .. })));
}

#[test]
fn work_without_a_live_copy_waits() {
    let mut agent = leader();
    agent.step(0, assignments(&[assignment(READINGS, "edge-1", 1, &["edge-1"])]));
    assert_eq!(proposals(&agent.step(1_000, members(&edges()[1..]))), []);
}

#[test]
fn a_leader_that_has_just_started_gives_the_others_time_to_appear() {
    let mut agent = agent("edge-2", "hall-7");
    agent.step(0, members(&edges()[1..]));
    agent.step(0, intent(placement(vec![placed(READINGS, "edge-1", &["edge-2"])], Vec::new())));
    agent.step(0, assignments(&[assignment(READINGS, "edge-1", 1, &["edge-1", "edge-2"])]));
    assert_eq!(proposals(&agent.step(0, Event::Leadership(true))), []);
    assert_eq!(proposals(&agent.step(9_000, Event::Tick)), []);
    assert_eq!(proposals(&agent.step(10_000, Event::Tick)).len(), 1);
}

#[test]
fn intended_work_is_created_once_and_retired_work_removed() {
    let mut agent = leader();
    let wanted = vec![placed(READINGS, "edge-1", &["edge-2"]), placed("stream/scores/0@hall-7", "edge-2", &["edge-1"])];
    let elsewhere = placed("stream/alerts/0@central", "cloud-1", &[]);
    let mut next = placement(wanted.into_iter().chain([elsewhere]).collect(), Vec::new());
    next.retired = vec![work("stage/health.0/0@hall-7")];
    let expected = KeeperCommand::Create {
        work: work("stream/scores/0@hall-7"),
        owner: node("edge-2"),
        replicas: vec![node("edge-2"), node("edge-1")],
    };
    assert_eq!(proposals(&agent.step(100, intent(next))), [expected]);
    assert_eq!(proposals(&agent.step(200, Event::Tick)), []);
    let held = [
        assignment(READINGS, "edge-1", 1, &["edge-1", "edge-2"]),
        assignment("stage/health.0/0@hall-7", "edge-1", 1, &["edge-1", "edge-2"]),
        assignment("stream/scores/0@hall-7", "edge-2", 1, &["edge-2", "edge-1"]),
    ];
    let commands = agent.step(300, assignments(&held));
    assert_eq!(proposals(&commands), [KeeperCommand::Remove { work: work("stage/health.0/0@hall-7") }]);
}

#[test]
fn a_deleted_app_is_removed_and_an_unknown_one_left_alone() {
    let mut agent = leader();
    let nothing = Event::Intent(Intent::default().into());
    assert_eq!(proposals(&agent.step(100, nothing)), []);
    let ended = Intent { ended: [common::app()].into(), ..Intent::default() };
    let commands = agent.step(200, Event::Intent(ended.into()));
    assert_eq!(proposals(&commands), [KeeperCommand::Remove { work: work(READINGS) }]);
}

#[test]
fn new_work_of_a_dead_owner_goes_to_a_live_node() {
    let mut agent = leader();
    agent.step(1_000, assignments(&[assignment(READINGS, "edge-2", 2, &["edge-2"])]));
    agent.step(1_000, members(&edges()[1..]));
    let wanted = vec![placed(READINGS, "edge-1", &["edge-2"]), placed("stream/scores/0@hall-7", "edge-1", &["edge-2"])];
    let commands = agent.step(1_100, intent(placement(wanted, Vec::new())));
    let (work, owner) = (work("stream/scores/0@hall-7"), node("edge-2"));
    assert_eq!(proposals(&commands), [KeeperCommand::Create { work, owner: owner.clone(), replicas: vec![owner] }]);
}

#[test]
fn failed_work_starts_again_later_each_time() {
    let mut agent = leader();
    agent.step(0, assignments(&[assignment(READINGS, "edge-2", 1, &["edge-2", "edge-1"])]));
    let mut now_ms = 0;
    let mut waits = Vec::new();
    for attempt in 1..=12 {
        let failed = Event::WorkFailed { work: work(READINGS), epoch: Epoch(1), reason: "trap".to_owned() };
        let commands = agent.step(now_ms, failed);
        let [Command::ReportFailure { attempts, retry_at_ms, .. }] = &commands[..] else { panic!("{commands:?}") };
        assert_eq!(*attempts, attempt);
        assert_eq!(agent.step(retry_at_ms - 1, Event::Tick), []);
        assert!(agent.is_waiting(), "ticks must come often until then");
        let commands = agent.step(*retry_at_ms, Event::Tick);
        assert!(!agent.is_waiting());
        assert_eq!(commands[0], Command::StartWork { work: work(READINGS), epoch: Epoch(1) });
        waits.push(retry_at_ms - now_ms);
        now_ms = *retry_at_ms;
    }
    assert!((150..=250).contains(&waits[0]), "{waits:?}");
    assert!(waits[..7].is_sorted() && waits.iter().all(|wait| *wait <= 37_500), "{waits:?}");
    // Having run for a while, it has the first failure's short wait again.
    agent.step(now_ms, Event::WorkStarted { work: work(READINGS), epoch: Epoch(1) });
    now_ms += MINUTE_MS;
    let failed = Event::WorkFailed { work: work(READINGS), epoch: Epoch(1), reason: "trap".to_owned() };
    assert!(matches!(agent.step(now_ms, failed)[..], [Command::ReportFailure { attempts: 1, .. }]));
}

#[test]
fn changed_work_is_started_anew_and_functions_follow_intent() {
    let mut agent = agent("edge-1", "hall-7");
    let instance = |artifact: &str| PlacedFunction {
        function: "status".parse().unwrap(),
        artifact: artifact.to_owned(),
        node: node("edge-1"),
        reasons: Vec::new(),
    };
    let start = |artifact: &str| Command::StartFunction {
        app: common::app(),
        function: "status".parse().unwrap(),
        artifact: artifact.to_owned(),
    };
    agent.step(0, members(&edges()));
    agent.step(0, assignments(&[assignment(READINGS, "edge-1", 1, &["edge-1", "edge-2"])]));
    let commands = agent.step(0, intent(placement(vec![placed(READINGS, "edge-1", &[])], vec![instance("one")])));
    assert!(commands.contains(&start("one")));
    let announced = Command::Announce { works: 1, functions: vec!["default/demo/status".to_owned()] };
    assert!(commands.contains(&announced));
    let mut changed = placed(READINGS, "edge-1", &[]);
    changed.ack = littoral_plan::Ack::Local;
    let commands = agent.step(10, intent(placement(vec![changed], vec![instance("two")])));
    let restarted = [
        Command::StopWork { work: work(READINGS) },
        Command::StartWork { work: work(READINGS), epoch: Epoch(1) },
        start("two"),
        announced,
    ];
    assert_eq!(commands, restarted);
    let ended = Intent { ended: [common::app()].into(), ..Intent::default() };
    let commands = agent.step(20, Event::Intent(ended.into()));
    assert!(commands.iter().any(|command| matches!(command, Command::StopFunction { .. })));
    assert!(commands.contains(&Command::Announce { works: 0, functions: Vec::new() }));
}

#[test]
fn a_lone_node_votes_alone() {
    let mut agent = agent("cloud-1", "central");
    agent.step(0, members(&[digest("cloud-1", Tier::Cloud, "central"), digest("edge-1", Tier::Edge, "hall-7")]));
    agent.step(0, Event::Voters(names(&["cloud-1"])));
    assert_eq!(voters(&agent.step(0, Event::Leadership(true))), None);
}

#[test]
fn a_site_of_two_borrows_the_nearest_vote_of_a_higher_tier() {
    let mut agent = agent("edge-1", "hall-7");
    agent.step(0, Event::Leadership(true));
    agent.step(0, Event::Voters(names(&["edge-1"])));
    assert_eq!(voters(&agent.step(0, members(&edges()))), None, "two voters are worse than one");
    let wanted = names(&["edge-1", "edge-2", "cloud-2"]);
    assert_eq!(voters(&agent.step(100, members(&with_clouds()))), Some(wanted.clone()));
    assert_eq!(voters(&agent.step(200, Event::Tick)), None, "asked for already");
    assert_eq!(voters(&agent.step(10_000, Event::Tick)), Some(wanted.clone()), "it was lost");
    // The cloud is cut off for some minutes, then for longer; another node of the tier remains.
    agent.step(11_000, Event::Voters(wanted));
    let cut: Vec<NodeDigest> = with_clouds().into_iter().filter(|digest| digest.node != node("cloud-2")).collect();
    assert_eq!(voters(&agent.step(MINUTE_MS, members(&cut))), None);
    assert_eq!(voters(&agent.step(5 * MINUTE_MS, members(&cut))), None);
    let commands = agent.step(6 * MINUTE_MS, members(&cut));
    assert_eq!(voters(&commands), Some(names(&["edge-1", "edge-2", "cloud-1"])));
}

#[test]
fn a_third_node_of_the_site_takes_the_borrowed_vote() {
    let mut agent = agent_of_group("cloud-2", "central", "hall-7");
    agent.step(0, Event::Leadership(true));
    agent.step(0, Event::Voters(names(&["edge-1", "edge-2", "cloud-2"])));
    assert_eq!(voters(&agent.step(0, members(&with_clouds()))), None);
    let mut grown = with_clouds();
    grown.push(digest("edge-3", Tier::Edge, "hall-7"));
    assert_eq!(voters(&agent.step(0, members(&grown))), Some(names(&["edge-1", "edge-2", "edge-3"])));
}

#[test]
fn a_voter_that_is_down_for_a_moment_stays() {
    let mut agent = agent("edge-1", "hall-7");
    let four: Vec<NodeDigest> =
        ["edge-1", "edge-2", "edge-3", "edge-4"].map(|name| digest(name, Tier::Edge, "hall-7")).into();
    agent.step(0, Event::Leadership(true));
    agent.step(0, Event::Voters(names(&["edge-1", "edge-2", "edge-3"])));
    assert_eq!(voters(&agent.step(0, members(&four))), None);
    let without: Vec<NodeDigest> = four.iter().filter(|digest| digest.node != node("edge-2")).cloned().collect();
    assert_eq!(voters(&agent.step(1_000, members(&without))), None);
    assert_eq!(voters(&agent.step(4 * MINUTE_MS, Event::Tick)), None);
    let commands = agent.step(6 * MINUTE_MS, Event::Tick);
    assert_eq!(voters(&commands), Some(names(&["edge-1", "edge-3", "edge-4"])));
}

#[test]
fn the_vote_and_the_copies_of_a_node_that_is_shut_out_go_to_others_at_once() {
    let mut agent = agent("edge-1", "hall-7");
    let three: Vec<NodeDigest> = ["edge-1", "edge-3", "edge-4"].map(|name| digest(name, Tier::Edge, "hall-7")).into();
    let placed = placement(vec![placed(READINGS, "edge-1", &["edge-2"])], vec![]);
    agent.step(0, intent(placed.clone()));
    agent.step(0, Event::Leadership(true));
    agent.step(0, Event::Voters(names(&["edge-1", "edge-2", "edge-3"])));
    let mut held = assignment(READINGS, "edge-1", 1, &["edge-1"]);
    held.replicas.extend(["edge-2", "edge-3"].map(node));
    agent.step(0, assignments(&[held]));
    let commands = agent.step(0, members(&three));
    assert_eq!((voters(&commands), proposals(&commands)), (None, vec![]), "it may return");

    let apps = BTreeMap::from([(common::app(), Arc::new(placed))]);
    let revoked = Arc::new(names(&["edge-2"]));
    let commands = agent.step(1_000, Event::Intent(Arc::new(Intent { apps, revoked, ..Intent::default() })));
    assert_eq!(voters(&commands), Some(names(&["edge-1", "edge-3", "edge-4"])));
    let [KeeperCommand::Replicas { replicas, .. }] = &proposals(&commands)[..] else { panic!("{commands:?}") };
    assert_eq!(*replicas, ["edge-1", "edge-3", "edge-4"].map(node));
}

/// What ten calls to a function of the app have cost a node's callers in a look.
fn demand(saved_us: u64, late: u64) -> Event {
    let asked = Demand { calls: 10, waited_us: saved_us, saved_us, late };
    Event::Demand(Arc::new(BTreeMap::from([((app(), "greet".parse().unwrap()), asked)])))
}

/// A function that one node is to serve, the cloud if it lives.
fn greet_in_the_cloud(requires: Constraints) -> Placement {
    let serving = Serving {
        function: "greet".parse().unwrap(),
        artifact: "abc".to_owned(),
        requires,
        memory_bytes: 1 << 20,
        wanted: 1,
        first: vec![node("cloud-1")],
    };
    Placement { serving: vec![serving], ..placement(Vec::new(), Vec::new()) }
}

/// What an edge node does in looks 10 s apart, with such demand in each.
fn looks(agent: &mut Agent, from: u64, looks: &[Event]) -> Vec<Vec<Command>> {
    let at = |look: usize| LOOK_MS * (from + look as u64);
    looks.iter().enumerate().map(|(look, event)| agent.step(at(look), event.clone())).collect()
}

fn edge_that_knows(placement: Placement) -> Agent {
    let mut agent = agent("edge-1", "hall-7");
    agent.step(0, members(&with_clouds()));
    agent.step(0, assignments(&[]));
    agent.step(0, intent(placement));
    agent
}

fn brings(commands: &[Command]) -> bool {
    let is_told = commands.iter().any(|command| matches!(command, Command::Bring { .. }));
    let is_done = commands.iter().any(|command| matches!(command, Command::StartFunction { .. }));
    assert_eq!(is_told, is_done, "{commands:?}");
    is_done
}

#[test]
fn a_function_is_brought_to_its_callers_and_goes_when_they_do() {
    let mut agent = edge_that_knows(greet_in_the_cloud(Constraints::any()));
    let (much, none) = (demand(SAVED_US_MIN, 0), Event::Demand(Arc::default()));
    let first = looks(&mut agent, 1, &[much.clone(), none.clone(), much.clone()]);
    assert!(!first.iter().any(|commands| brings(commands)), "not for a moment: {first:?}");
    let much_later = looks(&mut agent, 400, std::slice::from_ref(&much));
    assert!(!brings(&much_later[0]), "those are not two in a row: {much_later:?}");
    let second = looks(&mut agent, 401, std::slice::from_ref(&much));
    assert!(brings(&second[0]), "{second:?}");
    let announced = second[0].iter().any(
        |command| matches!(command, Command::Announce { functions, .. } if functions.as_slice() == ["default/demo/greet"]),
    );
    assert!(announced, "others are to know: {second:?}");
    let lull: Vec<Event> = vec![none; 29];
    assert!(looks(&mut agent, 402, &lull).concat().is_empty(), "a lull is no reason to go");
    looks(&mut agent, 431, &[demand(0, 0)]);
    assert!(looks(&mut agent, 432, &lull).concat().is_empty(), "they have come back meanwhile");
    let gone = looks(&mut agent, 461, &lull[..1]).concat();
    assert!(gone.iter().any(|command| matches!(command, Command::LetGo { .. })), "{gone:?}");
    assert!(gone.iter().any(|command| matches!(command, Command::StopFunction { .. })), "{gone:?}");
}

#[test]
fn callers_whose_objective_is_violated_get_an_instance_and_few_that_wait_little_do_not() {
    let mut agent = edge_that_knows(greet_in_the_cloud(Constraints::any()));
    let little = looks(&mut agent, 1, &vec![demand(SAVED_US_MIN - 1, 0); 9]);
    assert!(!little.iter().any(|commands| brings(commands)), "{little:?}");
    let late = looks(&mut agent, 10, &vec![demand(0, 10); 2]);
    assert!(brings(&late[1]), "{late:?}");
}

#[test]
fn demand_brings_nothing_where_it_may_not_be() {
    let much = vec![demand(SAVED_US_MIN, 10); 9];
    let elsewhere = Constraints { tiers: [Tier::Cloud].into(), ..Constraints::any() };
    let mut agent = edge_that_knows(greet_in_the_cloud(elsewhere));
    assert!(looks(&mut agent, 1, &much).concat().is_empty(), "its constraints exclude this node");

    let mut agent = edge_that_knows(greet_in_the_cloud(Constraints::any()));
    let policies = BTreeMap::from([(app(), Policy::Singleton)]);
    let apps = BTreeMap::from([(app(), Arc::new(greet_in_the_cloud(Constraints::any())))]);
    agent.step(0, Event::Intent(Arc::new(Intent { apps, policies, ..Intent::default() })));
    let commands = looks(&mut agent, 1, &much);
    assert!(!commands.iter().any(|commands| brings(commands)), "one node at a time serves it: {commands:?}");
}
