//! The queue of asynchronous invocations: tries, bounds, keys, and that no interleaving of what may happen to it and its
//! owner loses or doubles anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use bytes::Bytes;
use littoral_control::queue::{
    ANSWERS_BYTES_MAX, Added, BACKOFF_MAX_US, DEAD_KEEP_US, ENTRIES_MAX, Queue, Settings, WAITING_BYTES_MAX,
};
use littoral_model::id::InvocationId;
use littoral_model::invocation::{Answer, BODY_BYTES_MAX, Request, State, StateKind};
use proptest::prelude::*;

const SECOND_US: i64 = 1_000_000;
const SETTINGS: Settings = Settings {
    attempts: 3,
    max_age_us: 1_000 * SECOND_US,
    backoff_us: SECOND_US,
    keep_us: 100 * SECOND_US,
    concurrency: 2,
};

fn id(number: u64) -> InvocationId {
    InvocationId::from_parts(number, 7)
}

fn request(body: &str) -> Request {
    Request { method: "POST".to_owned(), uri: "/".to_owned(), headers: Vec::new(), body: body.to_owned().into() }
}

fn answer(status: u16, body: &str) -> Answer {
    Answer { status, headers: Vec::new(), body: Some(body.to_owned().into()) }
}

/// A queue beside its log.
struct Owner {
    queue: Queue,
    committed: BTreeMap<u32, Bytes>,
}

impl Owner {
    fn new() -> Self {
        Self { queue: Queue::restore(SETTINGS, 1, std::iter::empty()).unwrap(), committed: BTreeMap::new() }
    }

    fn commit(&mut self) {
        for (slot, bytes) in self.queue.take_changes().unwrap() {
            match bytes.is_empty() {
                true => self.committed.remove(&slot),
                false => self.committed.insert(slot, bytes),
            };
        }
    }

    /// Another owner goes on with what was committed.
    fn replaced(&mut self) {
        let committed = self.committed.iter().map(|(slot, bytes)| (*slot, bytes.as_ref()));
        self.queue = Queue::restore(SETTINGS, 2, committed).unwrap();
    }

    /// Accepts a call without a key.
    fn add(&mut self, number: u64, now: i64) {
        let added = self.queue.add(now, id(number), None, request("x"));
        assert_eq!(added, Added::Accepted { id: id(number), repeated: false });
        self.commit();
    }

    /// Runs what is due; how many tries that is.
    fn run(&mut self, now: i64, status: u16) -> usize {
        let runs = self.queue.start(now);
        runs.iter().for_each(|run| self.queue.answered(now, run.id, answer(status, "said")));
        self.commit();
        runs.len()
    }

    fn state(&self, number: u64) -> State {
        self.queue.get(id(number)).unwrap().state.clone()
    }
}

#[test]
fn what_is_not_committed_is_not_run() {
    let mut owner = Owner::new();
    owner.queue.add(0, id(1), None, request("x"));
    assert_eq!(owner.queue.start(0), []);
    owner.commit();
    let runs = owner.queue.start(0);
    assert_eq!((runs.len(), runs[0].attempt, &runs[0].request), (1, 1, &request("x")));
    assert_eq!(owner.queue.start(0), [], "it runs already");
}

#[test]
fn as_many_run_at_once_as_may_and_the_oldest_first() {
    let mut owner = Owner::new();
    (1..=5).for_each(|number| owner.add(number, number as i64));
    let runs: Vec<_> = owner.queue.start(10).into_iter().map(|run| run.id).collect();
    assert_eq!(runs, [id(1), id(2)]);
    owner.queue.answered(10, id(1), answer(200, "ok"));
    owner.commit();
    assert_eq!(owner.queue.start(10)[0].id, id(3));
}

#[test]
fn errors_are_tried_again_with_growing_waits_and_then_given_up() {
    let mut owner = Owner::new();
    owner.add(1, 0);
    let mut now = 0;
    for attempt in 1..=3 {
        assert_eq!(owner.run(now, 500), 1, "attempt {attempt}");
        if let State::Pending { due_us } = owner.state(1) {
            assert!(due_us - now <= SECOND_US << (attempt - 1), "{due_us} {now}");
            now = due_us;
        }
    }
    assert_eq!(owner.state(1), State::Dead { at_us: now });
    let record = owner.queue.get(id(1)).unwrap();
    assert_eq!((record.attempts, record.error.as_deref()), (3, Some("the function answered 500: said")));
    // Once more from the beginning.
    assert!(!owner.queue.retry(now, id(9)) && owner.queue.retry(now, id(1)));
    owner.commit();
    assert_eq!(owner.run(now, 200), 1);
    assert!(matches!(owner.state(1), State::Done { .. }));
    assert!(!owner.queue.retry(now, id(1)), "it is no dead letter");
}

#[test]
fn what_does_not_reach_the_function_is_tried_until_it_is_too_old() {
    let mut owner = Owner::new();
    owner.add(1, 0);
    let (mut now, mut tries) = (0, 0);
    while let State::Pending { due_us } = owner.state(1) {
        assert!(due_us - now <= BACKOFF_MAX_US);
        now = due_us.max(now + 1);
        owner.queue.expire(now);
        tries += owner.run(now, 503);
    }
    assert!(tries > 10 && now >= SETTINGS.max_age_us, "{tries} tries until {now}");
    assert_eq!(owner.queue.get(id(1)).unwrap().attempts, 0);
    // A dead letter is kept long, and its request with it, so that it can be run again.
    let kept = owner.queue.get(id(1)).unwrap();
    assert_eq!(kept.request, Some(request("x")));
    owner.queue.expire(now + DEAD_KEEP_US - 1);
    assert!(owner.queue.get(id(1)).is_some());
    owner.queue.expire(now + DEAD_KEEP_US);
    assert!(owner.queue.get(id(1)).is_none());
}

#[test]
fn what_has_ended_is_told_once_and_with_its_commit() {
    let mut owner = Owner::new();
    let ended = |owner: &Owner| owner.queue.ended().collect::<Vec<_>>();
    (1..=4).for_each(|number| owner.add(number, 0));
    assert_eq!(ended(&owner), [], "they wait");
    let runs = owner.queue.start(0);
    owner.queue.answered(0, runs[0].id, answer(200, "done"));
    owner.queue.answered(0, runs[1].id, answer(500, "tried again"));
    assert!(owner.queue.forget(id(3)));
    assert_eq!(ended(&owner), [], "it is not committed");
    owner.commit();
    assert_eq!(ended(&owner), [runs[0].id, id(3)]);
    owner.commit();
    assert_eq!(ended(&owner), []);
    owner.queue.expire(SETTINGS.max_age_us);
    owner.commit();
    assert_eq!(ended(&owner), [id(1), id(2), id(4)], "the first is forgotten, the others are dead");
    owner.queue.retry(SETTINGS.max_age_us, id(4));
    owner.commit();
    assert_eq!(ended(&owner), [], "it waits again");
    owner.replaced();
    assert_eq!(ended(&owner), []);
}

#[test]
fn a_clock_that_was_ahead_stops_no_queue() {
    let mut owner = Owner::new();
    let ahead = 3_600 * SECOND_US;
    owner.add(1, ahead);
    owner.add(2, BACKOFF_MAX_US);
    owner.add(3, 0);
    owner.replaced();
    let runs: Vec<_> = owner.queue.start(0).into_iter().map(|run| run.id).collect();
    assert_eq!(runs, [id(3), id(1)], "what is due within the longest wait is waited for");
    // The next try is by the present clock.
    owner.queue.answered(0, id(1), answer(500, "not yet"));
    assert!(matches!(owner.state(1), State::Pending { due_us } if due_us <= SECOND_US), "{:?}", owner.state(1));
}

#[test]
fn what_stands_so_is_found_behind_all_that_is_later() {
    let mut owner = Owner::new();
    owner.add(0, 0);
    (1..=3).for_each(|attempt| assert_eq!(owner.run(attempt * 100 * SECOND_US, 500), 1));
    (1..=50).for_each(|number| owner.add(number, number as i64));
    assert_eq!(owner.run(60, 200), 2);
    let latest = |of| owner.queue.latest(of).into_iter().map(|record| record.id).collect::<Vec<_>>();
    assert_eq!(latest(Some(StateKind::Dead)), [id(0)]);
    assert_eq!(latest(Some(StateKind::Done)), [id(2), id(1)]);
    assert_eq!((latest(Some(StateKind::Pending)).len(), latest(None).len()), (48, 51));
    assert_eq!((latest(None)[0], latest(None)[50]), (id(50), id(0)));
}

#[test]
fn what_waits_for_nobody_is_too_old_without_a_try() {
    let mut owner = Owner::new();
    owner.add(1, 0);
    assert_eq!(owner.queue.next_us(), Some(0));
    owner.queue.expire(SETTINGS.max_age_us);
    assert_eq!(owner.state(1), State::Dead { at_us: SETTINGS.max_age_us });
    assert_eq!(owner.queue.start(SETTINGS.max_age_us), []);
}

#[test]
fn a_key_stands_for_one_call_as_long_as_its_result_is_kept() {
    let mut owner = Owner::new();
    let key = || Some("k".to_owned());
    assert_eq!(owner.queue.add(0, id(1), key(), request("x")), Added::Accepted { id: id(1), repeated: false });
    assert_eq!(owner.queue.add(0, id(2), key(), request("x")), Added::Accepted { id: id(1), repeated: true });
    assert_eq!(owner.queue.add(0, id(3), key(), request("other")), Added::KeyTaken);
    owner.commit();
    assert_eq!(owner.run(0, 200), 1);
    owner.replaced();
    assert_eq!(owner.queue.add(1, id(4), key(), request("x")), Added::Accepted { id: id(1), repeated: true });
    owner.queue.expire(SETTINGS.keep_us);
    assert_eq!(owner.queue.add(1, id(5), key(), request("x")), Added::Accepted { id: id(5), repeated: false });
}

#[test]
fn results_without_a_key_make_room_and_others_do_not() {
    let mut owner = Owner::new();
    for number in 0..ENTRIES_MAX as u64 {
        let key = (number != 7).then(|| number.to_string());
        owner.queue.add(number as i64, id(number), key, request(""));
    }
    let full = |added| matches!(added, Added::Full(_));
    assert!(full(owner.queue.add(0, id(1 << 20), None, request(""))), "all wait");
    owner.commit();
    while owner.run(i64::MAX - (1 << 50), 200) > 0 {}
    let added = owner.queue.add(0, id(1 << 20), Some("new".to_owned()), request(""));
    assert_eq!(added, Added::Accepted { id: id(1 << 20), repeated: false });
    assert!(owner.queue.get(id(7)).is_none(), "the one without a key made room");
    assert!(full(owner.queue.add(0, id(1 << 21), None, request(""))), "keys are promises");
}

#[test]
fn requests_and_answers_are_bounded_in_bytes() {
    let mut owner = Owner::new();
    let body = "b".repeat(BODY_BYTES_MAX - 1_000);
    let mut taken = 0;
    while let Added::Accepted { .. } = owner.queue.add(0, id(taken), None, request(&body)) {
        taken += 1;
    }
    assert!(taken as usize * BODY_BYTES_MAX <= WAITING_BYTES_MAX + BODY_BYTES_MAX, "{taken}");
    owner.commit();
    let large = "a".repeat(BODY_BYTES_MAX);
    let kept = |owner: &Owner| {
        let bodies = (0..1_000).filter(|number| {
            let record = owner.queue.get(id(*number));
            record.is_some_and(|record| matches!(&record.state, State::Done { answer, .. } if answer.body.is_some()))
        });
        bodies.count()
    };
    for round in 0..200 {
        owner.queue.add(round, id(500 + round as u64), None, request("x"));
        owner.commit();
        for run in owner.queue.start(SECOND_US) {
            owner.queue.answered(round, run.id, answer(200, &large));
        }
        owner.queue.expire(round);
        owner.commit();
    }
    assert_eq!(kept(&owner), ANSWERS_BYTES_MAX / BODY_BYTES_MAX);
}

/// The largest entry that a log takes (`store::replica::COMMIT_BYTES_MAX`).
const COMMIT_BYTES_MAX: usize = 12 << 20;

#[test]
fn answers_that_make_room_fit_an_entry_together_with_their_headers() {
    let mut queue = Queue::restore(Settings { concurrency: 100, ..SETTINGS }, 1, std::iter::empty()).unwrap();
    let mut answer_all = |numbers: std::ops::Range<u64>, answer: &Answer| {
        numbers.clone().for_each(|number| {
            queue.add(0, id(number), Some("k".repeat(250) + &number.to_string()), request("x"));
        });
        queue.take_changes().unwrap();
        for run in queue.start(0) {
            queue.answered(run.id.0.timestamp_ms() as i64, run.id, answer.clone());
        }
        let mut turns = 0;
        loop {
            queue.expire(1);
            let bytes: usize = queue.take_changes().unwrap().iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(bytes <= COMMIT_BYTES_MAX, "{numbers:?}: an entry of {bytes} bytes");
            turns += 1;
            if queue.next_us() != Some(0) {
                break turns;
            }
        }
    };
    let with_headers = |value: usize, body: usize| Answer {
        status: 200,
        headers: vec![("x-large".to_owned(), "h".repeat(value).into())],
        body: Some("b".repeat(body).into()),
    };
    let small = with_headers(3_000, 10);
    (0..90).for_each(|hundred| assert_eq!(answer_all(hundred * 100..(hundred + 1) * 100, &small), 1));
    let large = with_headers(3_000, BODY_BYTES_MAX);
    let turns: usize = (0..40).map(|one| answer_all(9_000 + 4 * one..9_004 + 4 * one, &large)).sum();
    assert!((40..60).contains(&turns), "{turns} turns");
    let kept = (0..10_000).filter_map(|number| match &queue.get(id(number))?.state {
        State::Done { answer, .. } => Some(answer.bytes()),
        _ => None,
    });
    let kept: usize = kept.sum();
    assert!((ANSWERS_BYTES_MAX - 5 * BODY_BYTES_MAX..=ANSWERS_BYTES_MAX).contains(&kept), "{kept} bytes are kept");
}

#[test]
fn what_is_too_old_fits_an_entry_with_its_errors() {
    let mut queue = Queue::restore(Settings { concurrency: ENTRIES_MAX, ..SETTINGS }, 1, std::iter::empty()).unwrap();
    (0..ENTRIES_MAX as u64).for_each(|number| {
        queue.add(0, id(number), None, request("x"));
    });
    queue.take_changes().unwrap();
    for run in queue.start(0) {
        queue.answered(0, run.id, answer(500, &"\u{1f9ed}".repeat(1_000)));
    }
    queue.take_changes().unwrap();
    while queue.counts().1 < ENTRIES_MAX {
        queue.expire(SETTINGS.max_age_us);
        let bytes: usize = queue.take_changes().unwrap().iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes > 0 && bytes <= COMMIT_BYTES_MAX, "an entry of {bytes} bytes");
    }
}

#[test]
fn ticks_are_remembered_by_the_next_owner() {
    let mut owner = Owner::new();
    let known = ["a".to_owned(), "b".to_owned()];
    owner.queue.ticked("a", 10, &known);
    owner.queue.ticked("b", 20, &known);
    owner.commit();
    owner.replaced();
    assert_eq!((owner.queue.tick("a"), owner.queue.tick("b")), (Some(10), Some(20)));
    owner.queue.ticked("b", 30, &known[1..]);
    assert_eq!((owner.queue.tick("a"), owner.queue.tick("b")), (None, Some(30)));
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Step {
    /// A client calls with this key, and may hear nothing and repeat with the same id.
    Call {
        key: Option<u8>,
        number: u8,
    },
    /// The owner writes down what has changed, and tells the clients.
    Commit,
    /// What is due runs.
    Start,
    /// The oldest of those that run has an end.
    End {
        status: u16,
    },
    /// No answer comes.
    Lose,
    /// The owner dies: what was not committed is as if it had never been.
    Die,
    Pass {
        seconds: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let status = prop_oneof![5 => Just(200_u16), 1 => Just(404_u16), 1 => Just(500_u16), 1 => Just(503_u16)];
    let step = prop_oneof![
        4 => (proptest::option::of(0..4_u8), 0..40_u8).prop_map(|(key, number)| Step::Call { key, number }),
        4 => Just(Step::Commit),
        3 => Just(Step::Start),
        3 => status.prop_map(|status| Step::End { status }),
        1 => Just(Step::Lose),
        1 => Just(Step::Die),
        2 => (1..20_u8).prop_map(|seconds| Step::Pass { seconds }),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost_and_no_keyed_result_doubled(steps in steps()) {
        let mut owner = Owner::new();
        let mut now = 0;
        // What clients were told: accepted, by which key; and answers, once committed.
        let mut acknowledged: BTreeMap<InvocationId, Option<String>> = BTreeMap::new();
        let mut untold: Vec<(InvocationId, Option<String>)> = Vec::new();
        let mut results: BTreeMap<String, (InvocationId, Answer)> = BTreeMap::new();
        let mut running: Vec<InvocationId> = Vec::new();
        let mut answers = 0;
        for step in steps {
            match step {
                Step::Call { key, number } => {
                    let key = key.map(|key| key.to_string());
                    // What a key's call asks for is always the same.
                    let body = key.clone().unwrap_or_else(|| format!("n{number}"));
                    let drawn = id(u64::from(number) + if key.is_some() { 1_000 } else { 0 });
                    match owner.queue.add(now, drawn, key.clone(), request(&body)) {
                        Added::Accepted { id, .. } => untold.push((id, key)),
                        // The same number with another key is another request.
                        Added::KeyTaken => {}
                        Added::Full(reason) => prop_assert!(false, "{}", reason),
                    }
                }
                Step::Commit => {
                    owner.commit();
                    acknowledged.extend(untold.drain(..));
                }
                Step::Start => {
                    // An owner commits before it acts.
                    owner.commit();
                    acknowledged.extend(untold.drain(..));
                    running.extend(owner.queue.start(now).into_iter().map(|run| run.id));
                    prop_assert!(running.len() <= SETTINGS.concurrency);
                }
                Step::End { status } if !running.is_empty() => {
                    answers += 1;
                    owner.queue.answered(now, running.remove(0), answer(status, &answers.to_string()));
                }
                Step::Lose if !running.is_empty() => {
                    owner.queue.unanswered(now, running.remove(0), "lost".to_owned());
                }
                Step::Die => {
                    owner.replaced();
                    untold.clear();
                    running.clear();
                }
                Step::Pass { seconds } => {
                    // Short enough that no result is forgotten: keys must hold throughout.
                    now += i64::from(seconds) * 1_000;
                    owner.queue.expire(now);
                }
                Step::End { .. } | Step::Lose => {}
            }
            // What is committed is what a reader may see.
            let committed = owner.committed.iter().map(|(slot, bytes)| (*slot, bytes.as_ref()));
            let seen = Queue::restore(SETTINGS, 0, committed).unwrap();
            for (id, key) in &acknowledged {
                let record = seen.get(*id);
                prop_assert!(record.is_some(), "{} was acknowledged and is lost", id);
                if let (Some(key), State::Done { answer, .. }) = (key, &record.unwrap().state) {
                    let (first, result) = results.entry(key.clone()).or_insert_with(|| (*id, answer.clone()));
                    prop_assert_eq!(first, id, "two invocations of one key");
                    prop_assert_eq!(result, answer, "two results of one key");
                }
            }
        }
        // Left alone, everything comes to an end.
        for _ in 0..10_000 {
            owner.commit();
            owner.queue.expire(now);
            let runs = owner.queue.start(now);
            runs.iter().for_each(|run| owner.queue.answered(now, run.id, answer(200, "at last")));
            running.drain(..).for_each(|id| owner.queue.answered(now, id, answer(200, "at last")));
            owner.commit();
            if owner.queue.counts().0 == 0 {
                break;
            }
            now = owner.queue.next_us().unwrap_or(now).max(now);
        }
        prop_assert_eq!(owner.queue.counts().0, 0);
        for id in acknowledged.keys() {
            let record = owner.queue.get(*id);
            let has_ended = record.is_none_or(|record| !matches!(record.state, State::Pending { .. }));
            prop_assert!(has_ended, "{} has no end", id);
        }
    }
}
