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
/// How many marks of time are kept of a work, for its retention; when there are more, every other one goes.
const MARKS_MAX: usize = 512;

type Known = Mutex<HashMap<WorkId, Arc<Work>>>;

/// When a work's log was how long.
#[derive(Clone, Copy, Debug)]
struct Mark {
    when: Instant,
    index: u64,
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
            Ok(()) => {
                for work in &known {
                    let marks = marks.entry(work.id.clone()).or_default();
                    mark(marks, Instant::now(), work.applied());
                    trim(work, marks);
                }
            }
            Err(StoreError::Closed) => return,
            // Nothing is lost: it stays in the log, and is tried again.
            Err(error) => tracing::error!(%error, "committed entries cannot be applied"),
        }
    }
}

/// Applies what is committed of each work.
async fn round(shared: &Arc<Shared>, known: &[Arc<Work>]) -> Result<(), StoreError> {
    let _applying = shared.applying.lock().await;
    let ranges: Vec<(String, u64, u64)> =
        known.iter().map(|work| (work.name.clone(), work.applied() + 1, work.committed())).collect();
    if ranges.iter().all(|(_, from, upto)| from > upto) {
        return Ok(());
    }
    let of = Arc::clone(shared);
    let batch = blocking(move || {
        let batch: Vec<_> = ranges.iter().filter_map(|(name, from, upto)| gather(&of, name, *from, *upto)).collect();
        of.derived.apply(&batch)?;
        Ok(batch)
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
    Ok(())
}

/// The changes of one work. One that cannot be read does not stop the others.
fn gather(shared: &Shared, name: &str, from: u64, upto: u64) -> Option<Applied> {
    let mut changes = Changes::new();
    match collect(&shared.log, name, from, upto, APPLY_BYTES, &mut changes) {
        Ok(collected) => {
            let (index, epoch) = collected?.last;
            Some(Applied { work: name.to_owned(), index, epoch, changes: changes.into_iter().collect() })
        }
        Err(Collect::Store(error)) => {
            tracing::error!(work = name, %error, "committed entries cannot be read");
            None
        }
        Err(Collect::Wire(error)) => {
            tracing::error!(work = name, %error, "a committed entry cannot be read");
            None
        }
    }
}

fn mark(marks: &mut Marks, when: Instant, index: u64) {
    if marks.back().is_some_and(|last| last.index == index) {
        return;
    }
    if marks.len() >= MARKS_MAX {
        let mut keep = false;
        marks.retain(|_| {
            keep = !keep;
            keep
        });
    }
    marks.push_back(Mark { when, index });
}

/// Below which index a retention allows to forget.
fn expired(retention: Retention, marks: &Marks, now: Instant) -> u64 {
    let Some(age) = retention.age else { return 0 };
    let old = marks.iter().rev().find(|mark| now.duration_since(mark.when) >= age);
    old.map_or(0, |mark| mark.index + 1)
}

/// Lets the log forget what is applied and needed by nobody, as far as the retention allows.
fn trim(work: &Work, marks: &Marks) {
    let (ownership, replicated) = {
        let state = work.state();
        (state.ownership.clone(), state.trim_below)
    };
    let below = match &ownership {
        None => Some(replicated.min(work.applied() + 1)),
        Some(ownership) => ownership.forgettable(|retention| expired(retention, marks, Instant::now())),
    };
    let Some(below) = below else { return };
    if let Err(error) = work.shared.log.trim(&work.name, below) {
        tracing::warn!(work = %work.name, %error, "old entries cannot be forgotten");
    }
    if let Some(ownership) = ownership {
        ownership.room_changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_expires() {
        let (mut marks, mut now) = (Marks::new(), Instant::now());
        for index in 1..=10 {
            mark(&mut marks, now, index);
            now += Duration::from_secs(1);
        }
        let retention = |age: Option<u64>| Retention { age: age.map(Duration::from_secs) };
        assert_eq!(expired(retention(None), &marks, now), 0);
        assert_eq!(expired(retention(Some(4)), &marks, now), 8);
        assert_eq!(expired(retention(Some(100)), &marks, now), 0);
    }

    #[test]
    fn marks_are_bounded() {
        let mut marks = Marks::new();
        for index in 1..=5_000 {
            mark(&mut marks, Instant::now(), index);
        }
        assert!(marks.len() <= MARKS_MAX);
        assert!(marks.iter().zip(marks.iter().skip(1)).all(|(one, next)| one.index < next.index));
    }
}
