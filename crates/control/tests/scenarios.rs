//! One agent, told things by hand.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{
    agent, agent_of_group, assignment, assignments, digest, intent, link, members, names, node, placed, placement,
    proposals, voters, work,
};
use littoral_control::{Agent, Command, Event, Intent};
use littoral_model::digest::NodeDigest;
use littoral_model::id::{Epoch, Tier};
use littoral_model::work::KeeperCommand;
use littoral_plan::PlacedFunction;

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
        let commands = agent.step(*retry_at_ms, Event::Tick);
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
