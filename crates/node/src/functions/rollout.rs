//! Replaces a version of a function by another one: the new one is started beside the old one, answers when it is ready, and is
//! watched while it answers its first requests; where `control::rollout` says so, the old one comes back.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use littoral_control::rollout::{self, Verdict, Why};

use super::version::Version;
use super::{Functions, Key, RETRY_MAX, RETRY_MIN};
use crate::admin::events::EventKind;
use crate::sync::lock;

/// How often a new version's outcomes are looked at.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// Why a function is not served as it is to be; by it one roll-out is told from another.
pub(super) type Trouble = Arc<Mutex<Option<String>>>;

impl Functions {
    /// Brings in a version, until it stays or the one before it is back.
    pub(super) async fn roll(self: Arc<Self>, key: Key, artifact: String, trouble: Trouble) {
        let new = self.load_at_last(&key, &artifact, &trouble).await;
        let Some(old) = self.begin(&key, &new, &trouble) else { return };
        // One that differs in how it is asked only has the same instances: there is nothing to go back to.
        let old = old.filter(|old| !old.shares_instances(&new));
        if let Err((why, reason)) = is_ready(&new, old.is_some(), &trouble).await {
            return self.go_back(&key, &new, &trouble, &format!("{why}, at last: {reason}")).await;
        }
        if !self.replace(&key, &new, old.clone(), &trouble) {
            return;
        }
        let Some(old) = old else { return };
        if let Some(why) = watch(&new, &old).await {
            return self.go_back(&key, &new, &trouble, &why.to_string()).await;
        }
        let mut served = self.lock_served();
        let former = served.get_mut(&key).filter(|served| Arc::ptr_eq(&served.trouble, &trouble));
        if let Some(former) = former.and_then(|served| served.former.take()) {
            tokio::spawn(former.retire());
        }
    }

    /// Loads a version, however often it takes: what is missing may come yet.
    async fn load_at_last(&self, key: &Key, artifact: &str, trouble: &Trouble) -> Arc<Version> {
        let mut wait = RETRY_MIN;
        loop {
            match self.load(key, artifact).await {
                Ok(version) => return Arc::new(version),
                Err(reason) => {
                    tracing::warn!(app = %key.0, function = %key.1, reason, "a function cannot be served yet");
                    set(trouble, Some(reason));
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// The version that answers now, if any does; nothing if another roll-out has begun.
    fn begin(&self, key: &Key, new: &Arc<Version>, trouble: &Trouble) -> Option<Option<Arc<Version>>> {
        let mut served = self.lock_served();
        let served = served.get_mut(key).filter(|served| Arc::ptr_eq(&served.trouble, trouble))?;
        served.incoming = Some(Arc::clone(new));
        for left in served.left.drain(..) {
            if left.shares_instances(new) {
                left.pass_on(new);
            } else {
                tokio::spawn(left.retire());
            }
        }
        Some(served.current.clone())
    }

    /// Has the new version answer, and the old one rest; whether this roll-out is still the one.
    fn replace(&self, key: &Key, new: &Arc<Version>, old: Option<Arc<Version>>, trouble: &Trouble) -> bool {
        let mut all = self.lock_served();
        let Some(served) = all.get_mut(key).filter(|served| Arc::ptr_eq(&served.trouble, trouble)) else {
            return false;
        };
        served.incoming = None;
        let before = served.current.replace(Arc::clone(new));
        self.serve(key, Some(new));
        if let Some(before) = before.filter(|before| before.shares_instances(new)) {
            before.pass_on(new);
        }
        if let Some(old) = &old {
            old.rest(true);
        }
        served.former = old;
        if !new.counts_starts() {
            let name = format!("{}/{}", key.0, key.1);
            metrics::counter!("littoral_function_starts_total", "function" => name).increment(1);
        }
        set(trouble, None);
        true
    }

    /// Has the old version answer again, and says why, unless another roll-out has begun.
    async fn go_back(&self, key: &Key, new: &Arc<Version>, trouble: &Trouble, why: &str) {
        let text = format!(
            "version {} is not used: {why}; the version before it answers until another one is deployed",
            new.release
        );
        {
            let mut all = self.lock_served();
            let Some(served) = all.get_mut(key).filter(|served| Arc::ptr_eq(&served.trouble, trouble)) else { return };
            served.incoming = None;
            if let Some(old) = served.former.take() {
                self.serve(key, Some(&old));
                old.rest(false);
                served.current = Some(old);
            }
            served.refused = Some(text.clone());
            set(trouble, None);
        }
        tracing::warn!(app = %key.0, function = %key.1, text, "a function goes back to the version before");
        metrics::counter!("littoral_function_rollbacks_total", "function" => format!("{}/{}", key.0, key.1))
            .increment(1);
        tokio::spawn(Arc::clone(new).retire());
        self.events.note(&key.0.app, format!("function {}", key.1), EventKind::Action, text).await;
    }
}

/// Waits until a version is ready. Where there is another one that answers, not for ever.
async fn is_ready(new: &Version, may_go_back: bool, trouble: &Trouble) -> Result<(), (Why, String)> {
    let mut failed_starts = 0;
    loop {
        let standing = new.until_ready(failed_starts + 1).await;
        if standing.was_ready {
            return Ok(());
        }
        failed_starts = standing.failed_starts;
        let reason = standing.error.unwrap_or_default();
        set(trouble, Some(reason.clone()));
        if let (Verdict::Back(why), true) = (rollout::before_ready(failed_starts), may_go_back) {
            return Err((why, reason));
        }
    }
}

/// Looks at a new version's first requests; why it is to go, if it is.
async fn watch(new: &Version, old: &Version) -> Option<Why> {
    let since = Instant::now();
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        let ready_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        match rollout::once_ready(ready_ms, new.outcomes(), old.outcomes()) {
            Verdict::Watch => {}
            Verdict::Stay => return None,
            Verdict::Back(why) => return Some(why),
        }
    }
}

pub(super) fn set(trouble: &Trouble, reason: Option<String>) {
    *lock(trouble) = reason;
}
