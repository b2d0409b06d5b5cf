//! The keeper's rules, by example and by chance.
#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn node(number: usize) -> NodeId {
    NodeId::new(format!("n{number}")).unwrap()
}

fn work(number: usize) -> WorkId {
    format!("default/app/stream/s{number}/0@hall").parse().unwrap()
}

fn nodes(numbers: &[usize]) -> Vec<NodeId> {
    numbers.iter().map(|number| node(*number)).collect()
}

fn create(keeping: &mut Keeping, replicas: &[usize]) -> Assignment {
    let command = KeeperCommand::Create { work: work(0), owner: node(replicas[0]), replicas: nodes(replicas) };
    match apply(keeping, command) {
        KeeperAnswer::Applied(Some(assignment)) => assignment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn new_work_is_in_sync_with_its_owner_only_and_is_made_once() {
    let mut keeping = Keeping::default();
    let made = create(&mut keeping, &[1, 2]);
    assert_eq!((made.epoch, &made.in_sync, &made.replicas), (Epoch(1), &nodes(&[1]), &nodes(&[1, 2])));
    assert_eq!(create(&mut keeping, &[2]), made);
}

#[test]
fn only_who_is_in_sync_becomes_owner() {
    let mut keeping = Keeping::default();
    create(&mut keeping, &[1, 2]);
    let to_two = KeeperCommand::Move { work: work(0), epoch: Epoch(1), owner: node(2), exclude_old: true };
    assert!(matches!(apply(&mut keeping, to_two.clone()), KeeperAnswer::Refused(Some(_))));
    let both = nodes(&[1, 2]);
    let resync = KeeperCommand::Resync { work: work(0), epoch: Epoch(1), replicas: both.clone(), in_sync: both };
    assert!(matches!(apply(&mut keeping, resync), KeeperAnswer::Applied(Some(_))));
    let KeeperAnswer::Applied(Some(moved)) = apply(&mut keeping, to_two.clone()) else { panic!("refused") };
    assert_eq!((moved.owner, moved.epoch, moved.in_sync), (node(2), Epoch(2), nodes(&[2])));
    assert!(matches!(apply(&mut keeping, to_two), KeeperAnswer::Refused(Some(_))));
}

#[test]
fn an_epoch_survives_removal() {
    let mut keeping = Keeping::default();
    create(&mut keeping, &[1]);
    apply(&mut keeping, KeeperCommand::Remove { work: work(0) });
    assert_eq!(create(&mut keeping, &[1]).epoch, Epoch(2));
}

#[test]
fn replicas_leave_the_in_sync_set_but_never_enter_it() {
    let mut keeping = Keeping::default();
    create(&mut keeping, &[1, 2]);
    let command =
        |replicas: &[usize]| KeeperCommand::Replicas { work: work(0), epoch: Epoch(1), replicas: nodes(replicas) };
    let KeeperAnswer::Applied(Some(grown)) = apply(&mut keeping, command(&[1, 3])) else { panic!("refused") };
    assert_eq!((grown.in_sync, grown.replicas), (nodes(&[1]), nodes(&[1, 3])));
    assert!(matches!(apply(&mut keeping, command(&[3])), KeeperAnswer::Refused(Some(_))));
}

fn proposal(sequence: u64, floor: u64, incarnation: u64) -> Proposal {
    let command = KeeperCommand::Move { work: work(0), epoch: Epoch(sequence), owner: node(1), exclude_old: false };
    Proposal { node: node(1), incarnation, sequence, floor, given_up: BTreeSet::new(), command }
}

#[test]
fn a_repeat_gets_the_first_answer_and_a_given_up_proposal_never_happens() {
    let mut keeping = Keeping::default();
    create(&mut keeping, &[1]);
    let first = keeping.propose(proposal(1, 1, 1));
    assert!(matches!(&first, Outcome::Decided(KeeperAnswer::Applied(_))));
    assert_eq!(keeping.propose(proposal(1, 1, 1)), first);
    // 2 was given up and 3 decided; then 2 arrives.
    assert!(matches!(keeping.propose(proposal(3, 3, 1)), Outcome::Decided(KeeperAnswer::Refused(_))));
    assert_eq!(keeping.propose(proposal(2, 1, 1)), Outcome::Stale(1));
    // 5 was given up while 4 is still open, and 6 decided; then 5 arrives.
    let sixth = Proposal { given_up: BTreeSet::from([5]), ..proposal(6, 4, 1) };
    assert!(matches!(keeping.propose(sixth), Outcome::Decided(_)));
    assert_eq!(keeping.propose(proposal(5, 4, 1)), Outcome::Stale(1));
    assert!(matches!(keeping.propose(proposal(4, 4, 1)), Outcome::Decided(_)));
    // The proposer started anew: what it proposed before is void.
    assert!(matches!(keeping.propose(proposal(2, 1, 2)), Outcome::Decided(KeeperAnswer::Applied(_))));
    assert_eq!(keeping.propose(proposal(9, 9, 1)), Outcome::Stale(2));
}

fn some_nodes() -> impl Strategy<Value = Vec<NodeId>> {
    proptest::collection::vec((0..4_usize).prop_map(node), 0..4)
}

fn some_command() -> impl Strategy<Value = KeeperCommand> {
    let work = || (0..2_usize).prop_map(work);
    let owner = || (0..4_usize).prop_map(node);
    let epoch = || (0..6_u64).prop_map(Epoch);
    prop_oneof![
        (work(), owner(), some_nodes()).prop_map(|(work, owner, replicas)| KeeperCommand::Create {
            work,
            owner,
            replicas
        }),
        (work(), epoch(), owner(), any::<bool>()).prop_map(|(work, epoch, owner, exclude_old)| KeeperCommand::Move {
            work,
            epoch,
            owner,
            exclude_old
        }),
        (work(), epoch(), some_nodes(), some_nodes())
            .prop_map(|(work, epoch, replicas, in_sync)| KeeperCommand::Resync { work, epoch, replicas, in_sync }),
        (work(), epoch(), some_nodes()).prop_map(|(work, epoch, replicas)| KeeperCommand::Replicas {
            work,
            epoch,
            replicas
        }),
        work().prop_map(|work| KeeperCommand::Remove { work }),
    ]
}

proptest! {
    #[test]
    fn what_must_hold_always_holds(commands in proptest::collection::vec(some_command(), 1..120)) {
        let mut keeping = Keeping::default();
        let mut highest: BTreeMap<WorkId, Epoch> = BTreeMap::new();
        for command in commands {
            let before = keeping.assignments.clone();
            apply(&mut keeping, command.clone());
            for (work, now) in &keeping.assignments {
                let highest = highest.entry(work.clone()).or_default();
                prop_assert!(now.epoch >= *highest);
                *highest = now.epoch;
                prop_assert!(now.in_sync.contains(&now.owner));
                prop_assert!(now.in_sync.iter().all(|node| now.replicas.contains(node)));
                if let Some(old) = before.get(work) && old.owner != now.owner {
                    prop_assert!(old.in_sync.contains(&now.owner));
                    prop_assert!(now.epoch > old.epoch);
                }
            }
        }
    }
}
