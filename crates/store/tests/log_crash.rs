//! Random operations on a disk that loses its power, fails and writes half: what is found afterwards must be what was
//! there after some number of the steps, and no fewer than had been reported durable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::executor::block_on;
use littoral_model::entry::Entry;
use littoral_model::id::Epoch;
use littoral_store::fake::FaultyDisk;
use littoral_store::{Append, Log, LogOptions, StoreError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const WORKS: [&str; 4] = ["default/app/stream/a/0@hall", "default/app/stage/b.0/0@hall", "~intent", "~raft/hall"];
const SEEDS: u64 = 60;
const LIVES: usize = 6;
const STEPS: usize = 250;

/// The log of a work as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    first: u64,
    base: u64,
    last: u64,
    entries: VecDeque<(u64, Bytes)>,
}

impl Model {
    fn new() -> Self {
        Self { first: 1, base: 0, last: 0, entries: VecDeque::new() }
    }

    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn epoch_at(&self, index: u64) -> u64 {
        if index + 1 == self.first { self.base } else { self.entries[(index - self.first) as usize].0 }
    }
}

type State = BTreeMap<String, Model>;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 4096, cache_bytes: 700 }
}

/// Reads everything.
fn observe(log: &Log) -> Result<State, StoreError> {
    let observe = |name: String| {
        let head = log.head(&name).unwrap();
        let mut entries = VecDeque::new();
        let mut from = head.first;
        while from < head.next {
            let read = log.read(&name, from, 900)?;
            assert!(!read.is_empty(), "{name} holds {from}");
            for Entry { index, epoch, payload } in read {
                assert_eq!(index, from);
                assert_eq!(log.epoch_at(&name, index), Some(epoch));
                entries.push_back((epoch.0, payload));
                from += 1;
            }
        }
        let base = log.epoch_at(&name, head.first - 1).unwrap().0;
        Ok((name, Model { first: head.first, base, last: head.last_epoch.0, entries }))
    };
    log.works().into_iter().map(observe).collect()
}

fn brief(state: &State) -> String {
    let of_entry = |(epoch, payload): &(u64, Bytes)| {
        let text = String::from_utf8_lossy(payload).into_owned();
        format!("{epoch}:{}", text.split(' ').nth(1).unwrap_or("?"))
    };
    let of_work = |(name, model): (&String, &Model)| {
        let entries: Vec<_> = model.entries.iter().map(of_entry).collect();
        format!("  {name}: first {} base {} last {} [{}]\n", model.first, model.base, model.last, entries.join(" "))
    };
    state.iter().map(of_work).collect()
}

/// The states after each step since the log was opened, and who waits for which.
struct Run {
    random: StdRng,
    states: Vec<State>,
    waiting: Vec<(usize, Append)>,
    durable: usize,
    unique: u64,
}

impl Run {
    fn now(&self) -> State {
        self.states.last().unwrap().clone()
    }

    fn settle(&mut self, state: State) {
        self.states.push(state);
    }

    fn wait(&mut self, append: Append) {
        self.waiting.push((self.states.len() - 1, append));
    }

    /// Waits for all who wait; false when the log failed.
    fn drain(&mut self) -> bool {
        let mut alive = true;
        for (state, append) in std::mem::take(&mut self.waiting) {
            match block_on(append.durable()) {
                Ok(()) => self.durable = self.durable.max(state),
                Err(StoreError::Failed { .. } | StoreError::Closed) => alive = false,
                Err(error) => panic!("{error}"),
            }
        }
        alive
    }

    fn step(&mut self, log: &Log) -> Result<(), StoreError> {
        let name = WORKS[self.random.random_range(0..WORKS.len())];
        let mut state = self.now();
        let model = state.get(name).cloned();
        let choice = self.random.random_range(0..100);
        match (choice, model) {
            (0..60, model) => self.append(log, name, model.unwrap_or_else(Model::new))?,
            (60..68, Some(mut model)) => {
                let from = self.random.random_range(model.first..=model.next());
                let append = log.truncate(name, from)?;
                if from < model.next() {
                    model.entries.truncate((from - model.first) as usize);
                    model.last = model.epoch_at(from - 1);
                    state.insert(name.to_owned(), model);
                    self.settle(state);
                }
                self.wait(append);
            }
            (68..84, Some(mut model)) => {
                let below = self.random.random_range(model.first..=model.next());
                log.trim(name, below)?;
                if below > model.first {
                    model.base = model.epoch_at(below - 1);
                    model.entries.drain(..(below - model.first) as usize);
                    model.first = below;
                    state.insert(name.to_owned(), model);
                    self.settle(state);
                }
            }
            (84..86, model) => {
                if model.is_none() {
                    state.insert(name.to_owned(), Model::new());
                    self.settle(state.clone());
                }
                let next = self.random.random_range(1..100);
                let append = log.reset(name, next, Epoch(next))?;
                let empty = Model { first: next, base: next, last: next, entries: VecDeque::new() };
                state.insert(name.to_owned(), empty);
                self.settle(state);
                self.wait(append);
            }
            (86..87, Some(_)) => {
                let append = log.drop_work(name)?;
                state.remove(name);
                self.settle(state);
                self.wait(append);
            }
            (87..90, _) => drop(self.drain()),
            (90..92, _) => assert_eq!(observe(log)?, state),
            _ => {}
        }
        Ok(())
    }

    fn append(&mut self, log: &Log, name: &str, mut model: Model) -> Result<(), StoreError> {
        let epoch = model.last.max(1) + u64::from(self.random.random_bool(0.1));
        let count = self.random.random_range(1..4);
        let payload = |run: &mut Self| {
            run.unique += 1;
            let length = run.random.random_range(0..600);
            let text = format!("{name} {} {}", run.unique, "x".repeat(length));
            Bytes::from(text)
        };
        let payloads: Vec<Bytes> = (0..count).map(|_| payload(self)).collect();
        let append = if self.random.random_bool(0.5) {
            block_on(log.append_wait(name, Epoch(epoch), payloads.clone()))?
        } else {
            let entry = |(payload, index)| Entry { index, epoch: Epoch(epoch), payload };
            match log.append_at(name, payloads.iter().cloned().zip(model.next()..).map(entry).collect()) {
                Err(StoreError::Busy { .. }) => return Ok(()),
                done => done?,
            }
        };
        assert_eq!((append.first, append.last), (model.next(), model.next() + count - 1));
        let mut state = self.now();
        if !state.contains_key(name) {
            state.insert(name.to_owned(), Model::new());
            self.settle(state.clone());
        }
        for payload in payloads {
            model.entries.push_back((epoch, payload));
            model.last = epoch;
            state.insert(name.to_owned(), model.clone());
            self.settle(state.clone());
        }
        self.wait(append);
        Ok(())
    }
}

#[test]
fn what_was_durable_is_there_after_any_failure() {
    // Other seeds: LITTORAL_SEED=1000 cargo test ...
    let begin = std::env::var("LITTORAL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in begin..begin + SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let mut disk = FaultyDisk::new(seed);
        let mut before: (Vec<State>, usize) = (vec![State::new()], 0);
        for life in 0..LIVES {
            if random.random_bool(0.2) {
                // The power is lost while the log is being opened.
                disk.crash_after(random.random_range(0..20));
                drop(Log::open_on(Arc::new(disk.clone()), options()));
                disk = disk.crash();
            }
            let log = Log::open_on(Arc::new(disk.clone()), options())
                .unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
            let found = observe(&log).unwrap();
            let (states, durable) = &before;
            assert!(
                states[*durable..].contains(&found),
                "seed {seed}, life {life}: found\n{}, known {:?}; durable was\n{}, the last state was\n{}",
                brief(&found),
                states.iter().position(|state| *state == found),
                brief(&states[*durable]),
                brief(states.last().unwrap()),
            );
            let random_of_life = StdRng::seed_from_u64(random.random());
            let mut run = Run {
                random: random_of_life,
                states: vec![found],
                waiting: Vec::new(),
                durable: 0,
                unique: life as u64 * 10_000,
            };
            disk.set_short_writes(random.random_bool(0.3));
            if random.random_bool(0.7) {
                disk.crash_after(random.random_range(0..300));
            }
            for _ in 0..STEPS {
                if random.random_bool(0.01) {
                    disk.fail_syncs(random.random_range(1..3));
                }
                if random.random_bool(0.01) {
                    disk.fail_writes(1);
                }
                if run.step(&log).is_err() {
                    break;
                }
            }
            if random.random_bool(0.3) {
                run.drain();
            }
            let crashed = if random.random_bool(0.5) { Some(disk.crash()) } else { None };
            run.drain();
            drop(log);
            // Else only the process ends, and the system's memory stays.
            disk.fail_syncs(0);
            disk.fail_writes(0);
            disk = crashed.unwrap_or_else(|| if random.random_bool(0.5) { disk.crash() } else { disk.reopen() });
            before = (run.states, run.durable);
        }
    }
}
