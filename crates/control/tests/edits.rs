//! Intent converges: whatever is edited where, in whatever order and however often it is heard of.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use littoral_control::edits::{LOST_MAX, Merged, Tips, Version};
use littoral_model::edit::{Edit, EditId};
use littoral_model::hlc::Hlc;
use proptest::collection::vec;
use proptest::prelude::*;

const CENTURY_US: u64 = 100 * 365 * 86_400 * 1_000_000;

/// A node that knows edits of one key.
type Node = Tips<()>;

/// Makes edits with ids of their own.
#[derive(Default)]
struct Authors {
    made: u64,
    all: BTreeMap<EditId, Version<()>>,
}

impl Authors {
    /// Somebody edits at a node, having been shown what that node knows.
    fn edit(&mut self, at: &mut Node, ends: bool, now_us: u64, author: &str) -> EditId {
        let shown: Vec<EditId> = at.lost().iter().map(|lost| lost.id).collect();
        let author = author.to_owned();
        let edit = match at.holds() {
            None => Edit { ends, ..Edit::first(now_us, author) },
            Some(holds) => holds.edit.next(holds.id, &shown, ends, now_us, author),
        };
        self.made += 1;
        let mut id = [0; 32];
        // Not in the order of their making: ids are hashes.
        id[..8].copy_from_slice(&self.made.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let version = Version { id: EditId(id), edit, says: () };
        self.all.insert(version.id, version.clone());
        assert_eq!(at.merge(version), Merged::Holds, "an edit always works where it is made");
        EditId(id)
    }
}

fn exchange(one: &mut Node, other: &mut Node) {
    for version in other.all().to_vec() {
        one.merge(version);
    }
    for version in one.all().to_vec() {
        other.merge(version);
    }
}

#[derive(Clone, Debug)]
enum Act {
    Edit { at: usize, ends: bool, ahead: u8 },
    Exchange { one: usize, other: usize },
}

fn act(nodes: usize) -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..nodes, prop::bool::weighted(0.2), 0..3u8).prop_map(|(at, ends, ahead)| Act::Edit { at, ends, ahead }),
        2 => (0..nodes, 0..nodes).prop_map(|(one, other)| Act::Exchange { one, other }),
    ]
}

/// Lets the nodes edit and meet; what they know then, and all edits.
fn play(nodes: usize, acts: &[Act]) -> (Vec<Node>, Authors) {
    let (mut world, mut authors) = (vec![Node::default(); nodes], Authors::default());
    for (now, act) in acts.iter().enumerate() {
        match *act {
            Act::Edit { at, ends, ahead } => {
                // Some clocks are an hour off, some a century.
                let wrong_us = [0, 3_600_000_000, CENTURY_US][usize::from(ahead)];
                authors.edit(&mut world[at], ends, now as u64 + wrong_us, &format!("at-{at}"));
            }
            Act::Exchange { one, other } if one != other => {
                let mut theirs = std::mem::take(&mut world[other]);
                exchange(&mut world[one], &mut theirs);
                world[other] = theirs;
            }
            Act::Exchange { .. } => {}
        }
    }
    (world, authors)
}

/// Everything that was ever edited, taken in in some order.
fn merged<'a>(versions: impl IntoIterator<Item = &'a Version<()>>) -> Node {
    let mut node = Node::default();
    for version in versions {
        node.merge(version.clone());
    }
    node
}

/// Six acts make at most that many tips.
const FEW: usize = LOST_MAX - 1;

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_idempotent(
        acts in vec(act(5), 0..FEW),
        order in vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let (_, authors) = play(5, &acts);
        let all: Vec<&Version<()>> = authors.all.values().collect();
        let expected = merged(all.iter().copied());
        prop_assert_eq!(&merged(all.iter().rev().copied()), &expected);
        // In any order, and some more than once.
        let picked = order.iter().filter(|_| !all.is_empty()).map(|index| *index.get(&all));
        prop_assert_eq!(&merged(picked.chain(all.iter().copied())), &expected);
        // In groups that are merged first.
        for split in 0..=all.len() {
            let (left, right) = (merged(all[..split].iter().copied()), merged(all[split..].iter().copied()));
            prop_assert_eq!(&merged(left.all().iter().chain(right.all())), &expected);
            prop_assert_eq!(&merged(right.all().iter().chain(left.all())), &expected);
        }
    }

    #[test]
    fn nodes_that_meet_agree_whatever_happened_while_they_were_apart(acts in vec(act(4), 0..60)) {
        let (mut world, _) = play(4, &acts);
        for _ in 0..2 {
            for other in 1..4 {
                let (first, rest) = world.split_at_mut(1);
                exchange(&mut first[0], &mut rest[other - 1]);
            }
        }
        for node in &world {
            prop_assert_eq!(node.holds(), world[0].holds());
        }
    }

    #[test]
    fn what_was_ended_stays_ended_whoever_edited_it_meanwhile(
        before in vec(act(3), 1..20),
        // Only edits: nobody hears of the end.
        apart in vec((1..3usize, 0..3u8), 0..40),
    ) {
        let (mut world, mut authors) = play(3, &before);
        for other in [1, 2, 1] {
            let (first, rest) = world.split_at_mut(1);
            exchange(&mut first[0], &mut rest[other - 1]);
        }
        if world[0].holds().is_none_or(|holds| holds.edit.ends) {
            authors.edit(&mut world[0], false, 50, "ann");
            let (first, rest) = world.split_at_mut(1);
            rest.iter_mut().for_each(|node| exchange(&mut first[0], node));
        }
        let incarnation = world[0].holds().unwrap().edit.incarnation;
        authors.edit(&mut world[0], true, 0, "ann");
        for (at, ahead) in apart {
            let wrong_us = [0, 3_600_000_000, CENTURY_US][usize::from(ahead)];
            authors.edit(&mut world[at], false, 60 + wrong_us, "bob");
        }
        for other in [1, 2, 1] {
            let (first, rest) = world.split_at_mut(1);
            exchange(&mut first[0], &mut rest[other - 1]);
        }
        for node in &world {
            let holds = &node.holds().unwrap().edit;
            prop_assert!(holds.ends && holds.incarnation == incarnation, "{:?}", holds);
        }
        // And what is deployed again is a new one, that holds.
        let again = authors.edit(&mut world[2], false, 0, "bob");
        let (first, rest) = world.split_at_mut(1);
        exchange(&mut first[0], &mut rest[1]);
        prop_assert_eq!(world[0].holds().unwrap().id, again);
        prop_assert_eq!(world[0].holds().unwrap().edit.incarnation, incarnation + 1);
    }
}

#[test]
fn a_clock_a_century_ahead_wins_nothing_but_a_tie_and_locks_nobody_out() {
    let (mut wrong, mut right, mut authors) = (Node::default(), Node::default(), Authors::default());
    authors.edit(&mut wrong, false, CENTURY_US, "wrong");
    exchange(&mut wrong, &mut right);
    let mended = authors.edit(&mut right, false, 1, "right");
    assert_eq!(right.holds().unwrap().edit.time, Hlc { physical_us: 1, logical: 0 }, "it is not followed");
    exchange(&mut wrong, &mut right);
    assert_eq!(wrong.holds().unwrap().id, mended);
    // Apart, two edits here are more than one there.
    authors.edit(&mut wrong, false, CENTURY_US, "wrong");
    authors.edit(&mut right, false, 2, "right");
    let last = authors.edit(&mut right, false, 3, "right");
    exchange(&mut wrong, &mut right);
    assert_eq!((wrong.holds().unwrap().id, right.holds().unwrap().id), (last, last));
    assert_eq!(wrong.lost().len(), 1, "and what lost is shown");
}

#[test]
fn a_lost_edit_is_shown_everywhere_until_somebody_who_was_shown_it_edits_again() {
    let (mut one, mut two, mut three, mut authors) =
        (Node::default(), Node::default(), Node::default(), Authors::default());
    authors.edit(&mut one, false, 1, "ann");
    exchange(&mut one, &mut two);
    exchange(&mut one, &mut three);
    let (ann, bob) = (authors.edit(&mut one, false, 2, "ann"), authors.edit(&mut two, false, 3, "bob"));
    exchange(&mut one, &mut two);
    exchange(&mut two, &mut three);
    for node in [&one, &two, &three] {
        assert_eq!(node.holds().unwrap().id, bob);
        assert_eq!(node.lost().iter().map(|lost| lost.id).collect::<Vec<_>>(), [ann]);
    }
    // Who edits next was shown it; nobody is told again, whoever they hear it from.
    authors.edit(&mut three, false, 4, "cid");
    authors.edit(&mut three, false, 5, "cid");
    exchange(&mut three, &mut one);
    exchange(&mut one, &mut two);
    exchange(&mut two, &mut three);
    for node in [&one, &two, &three] {
        assert_eq!((node.holds().unwrap().edit.author.as_str(), node.lost().len()), ("cid", 0));
    }
}
