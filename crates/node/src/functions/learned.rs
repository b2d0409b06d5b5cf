//! What is learned of the functions of this node from each of their invocations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use littoral_model::condition::{SERVED_MAX, Served};
use littoral_model::digest::NodeDigest;
use littoral_plan::profile::{ProfileKey, input_bucket};
use littoral_plan::sketch::Sketch;
use littoral_runtime::http::Observer;
use littoral_runtime::latency::Latency;

use super::Functions;
use crate::routing::profile_of;
use crate::sync::lock;

/// The invocations of one function. Each has its own, so that those that are called a lot do not wait for one another.
#[derive(Default)]
pub(super) struct Learner(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Since the last look at the function's objective, if it has one.
    recent: Option<Latency>,
    /// Those that the profiles lack, by the bucket of their input's size, of which there are seventeen.
    latest: BTreeMap<u8, Sketch>,
    all: Sketch,
}

impl Observer for Learner {
    fn invoked(&self, input_bytes: u64, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut seen = self.seen();
        seen.latest.entry(input_bucket(input_bytes)).or_default().record(took_us);
        if let Some(recent) = &mut seen.recent {
            recent.record(took, 1);
        }
    }
}

impl Learner {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.0)
    }
}

impl Functions {
    /// What observes a function's invocations.
    pub(super) fn learner(&self, key: &super::Key) -> Arc<Learner> {
        let mut learners = lock(&self.learners);
        Arc::clone(learners.entry(key.clone()).or_default())
    }

    /// What the invocations of a function took that this node has answered since this was asked last; nothing at first.
    pub(super) fn take_recent(&self, key: &super::Key) -> Latency {
        let learners = lock(&self.learners);
        let recent = learners.get(key).and_then(|learner| learner.seen().recent.replace(Latency::default()));
        recent.unwrap_or_default()
    }

    /// Takes in what was observed since, and says how the functions fare that this node serves.
    pub(crate) fn learn(&self, own: &NodeDigest) -> Vec<Served> {
        let mut learners = lock(&self.learners);
        let mut profiles = lock(&self.routing.profiles);
        let started = lock(&self.served);
        learners.retain(|key, learner| {
            let (app, function) = key;
            let mut seen = learner.seen();
            for (input, sketch) in std::mem::take(&mut seen.latest) {
                let key = ProfileKey { input, ..profile_of(format!("{app}/{function}"), own, 0) };
                profiles.merge(&key, &sketch);
                seen.all.merge(&sketch);
            }
            started.contains_key(key)
        });
        drop((profiles, started));
        let micros = |value: Option<u64>| u32::try_from(value.unwrap_or(0)).unwrap_or(u32::MAX);
        let served = learners.iter().filter_map(|((app, function), learner)| {
            let local = self.here(app, function)?;
            let sketch = &learner.seen().all;
            (sketch.count() > 0).then(|| Served {
                function: format!("{app}/{function}"),
                p50_us: micros(sketch.quantile(0.5)),
                p95_us: micros(sketch.quantile(0.95)),
                samples: sketch.count(),
                queue: u32::try_from(local.in_flight()).unwrap_or(u32::MAX),
            })
        });
        let mut served: Vec<Served> = served.collect();
        served.sort_by(|a, b| b.samples.cmp(&a.samples).then_with(|| a.function.cmp(&b.function)));
        served.truncate(SERVED_MAX);
        // In a fixed order: else two that are called as often would change places, and that be told to everybody.
        served.sort_by(|a, b| a.function.cmp(&b.function));
        served
    }
}
