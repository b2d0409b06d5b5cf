//! Turns committed entries into derived state, all works of the node together, and lets the log forget what nobody
//! needs any more.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use littoral_model::work::WorkId;
use tokio::time::{Instant, MissedTickBehavior};

use super::Retention;
use super::keys::Changes;
use super::promote::{Collect, collect};
use super::work::{Shared, Work};
use crate::blocking::blocking;
use crate::derived::Applied;
use crate::error::StoreError;

/// How often entries are applied at least.
const APPLY_EVERY: Duration = Duration::from_secs(1);
/// They are applied sooner when so many bytes wait; also the most that is applied at once of one work.
pub(super) const APPLY_BYTES: usize = 8 << 20;
/// How many marks of time and size are kept of a work, for its retention; when there are more, every other one goes.
const MARKS_MAX: usize = 512;

type Known = Mutex<HashMap<WorkId, Arc<Work>>>;

/// When a work's log was how long, and how many bytes had gone through it.
#[derive(Clone, Copy, Debug)]
struct Mark {
    when: Instant,
    index: u64,
    bytes: u64,
}

type Marks = VecDeque<Mark>;

/// Applies until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, works: Arc<Known>) {
    let mut marks: HashMap<WorkId, Marks> = HashMap::new();
    let mut tick = tokio::time::interval(APPLY_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.apply_now.notified() => {}
        }
        shared.fresh_bytes.store(0, Ordering::Relaxed);
        let known: Vec<Arc<Work>> = works.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        marks.retain(|id, _| known.iter().any(|work| work.id == *id));
        match round(&shared, &known).await {
            Ok(sizes) => {
                for (work, bytes) in known.iter().zip(sizes) {
                    let marks = marks.entry(work.id.clone()).or_default();
                    mark(marks, Instant::now(), work.applied(), bytes);
                    trim(work, marks);
                }
            }
            Err(StoreError::Closed) => return,
            // Nothing is lost: it stays in the log, and is tried again.
            Err(error) => tracing::error!(%error, "committed entries cannot be applied"),
        }
    }
}

/// Applies what is committed of each work; how many bytes of each that was.
async fn round(shared: &Arc<Shared>, known: &[Arc<Work>]) -> Result<Vec<u64>, StoreError> {
    let _applying = shared.applying.lock().await;
    let ranges: Vec<(String, u64, u64)> =
        known.iter().map(|work| (work.name.clone(), work.applied() + 1, work.committed())).collect();
    if ranges.iter().all(|(_, from, upto)| from > upto) {
        return Ok(vec![0; known.len()]);
    }
    let of = Arc::clone(shared);
    let (batch, sizes) = blocking(move || {
        let mut batch = Vec::new();
        let sizes =
            ranges.iter().map(|(name, from, upto)| gather(&of, name, *from, *upto, &mut batch)).collect::<Vec<_>>();
        of.derived.apply(&batch)?;
        Ok((batch, sizes))
    })
    .await?;
    let applied: HashMap<&str, u64> = batch.iter().map(|applied| (applied.work.as_str(), applied.index)).collect();
    for work in known {
        if let Some(index) = applied.get(work.name.as_str()) {
            work.set_applied(*index);
            if work.committed() > *index {
                // There was more than is applied at once.
                shared.apply_now.notify_one();
            }
        }
    }
    Ok(sizes)
}

/// Adds the changes of one work. One that cannot be read does not stop the others.
fn gather(shared: &Shared, name: &str, from: u64, upto: u64, batch: &mut Vec<Applied>) -> u64 {
    let mut changes = Changes::new();
    match collect(&shared.log, name, from, upto, APPLY_BYTES, &mut changes) {
        Ok(None) => 0,
        Ok(Some(collected)) => {
            let (index, epoch) = collected.last;
            batch.push(Applied { work: name.to_owned(), index, epoch, changes: changes.into_iter().collect() });
            collected.bytes as u64
        }
        Err(Collect::Store(error)) => {
            tracing::error!(work = name, %error, "committed entries cannot be read");
            0
        }
        Err(Collect::Wire(error)) => {
            tracing::error!(work = name, %error, "a committed entry cannot be read");
            0
        }
    }
}

fn mark(marks: &mut Marks, when: Instant, index: u64, bytes: u64) {
    let last = marks.back().copied();
    if last.is_some_and(|last| last.index == index) {
        return;
    }
    if marks.len() >= MARKS_MAX {
        let mut keep = false;
        marks.retain(|_| {
            keep = !keep;
            keep
        });
    }
    marks.push_back(Mark { when, index, bytes: last.map_or(0, |last| last.bytes) + bytes });
}

/// Below which index a retention allows to forget.
fn expired(retention: Retention, marks: &Marks, now: Instant) -> u64 {
    let total = marks.back().map_or(0, |mark| mark.bytes);
    let gone = |mark: &&Mark| {
        let old = retention.age.is_some_and(|age| now.duration_since(mark.when) >= age);
        let far = retention.bytes.is_some_and(|bytes| total - mark.bytes >= bytes);
        old || far
    };
    marks.iter().rev().find(gone).map_or(0, |mark| mark.index + 1)
}

/// Lets the log forget what is applied and neither a consumer, nor the retention, nor a replica that keeps up needs.
fn trim(work: &Work, marks: &Marks) {
    let below = {
        let state = work.state();
        let applied = work.applied() + 1;
        match (&state.ownership, &state.config) {
            (None, _) => applied.min(state.trim_below),
            (Some(_), None) => return,
            (Some(ownership), Some(config)) => {
                let mut inner = ownership.inner();
                let mut below = applied;
                for consumer in &config.consumers {
                    below = below.min(inner.consumers.get(consumer).map_or(0, |position| position.index));
                }
                if let Some(retention) = config.retention {
                    below = below.min(expired(retention, marks, Instant::now()));
                }
                for follower in inner.followers.values().filter(|follower| !follower.silent) {
                    below = below.min(follower.matched + 1);
                }
                inner.trim_below = inner.trim_below.max(below);
                below
            }
        }
    };
    if let Err(error) = work.shared.log.trim(&work.name, below) {
        tracing::warn!(work = %work.name, %error, "old entries cannot be forgotten");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_or_too_much_expires() {
        let (mut marks, mut now) = (Marks::new(), Instant::now());
        for index in 1..=10 {
            mark(&mut marks, now, index, 100);
            now += Duration::from_secs(1);
        }
        let retention = |age: Option<u64>, bytes| Retention { age: age.map(Duration::from_secs), bytes };
        assert_eq!(expired(retention(None, None), &marks, now), 0);
        assert_eq!(expired(retention(Some(4), None), &marks, now), 8);
        assert_eq!(expired(retention(None, Some(250)), &marks, now), 8);
        assert_eq!(expired(retention(Some(100), Some(10_000)), &marks, now), 0);
    }

    #[test]
    fn marks_are_bounded() {
        let mut marks = Marks::new();
        for index in 1..=5_000 {
            mark(&mut marks, Instant::now(), index, 1);
        }
        assert!(marks.len() <= MARKS_MAX);
        assert!(marks.iter().zip(marks.iter().skip(1)).all(|(one, next)| one.index < next.index));
    }
}
