//! Carries out what `control::variants` says of a function that is a component and a container: measures both, has the other one
//! answer once it can, and says why. Off the way of requests; those that are under way end where they began.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use littoral_control::variants::{Seen, Variant, Variants, Why};
use littoral_model::id::AppName;
use littoral_runtime::Usage;
use littoral_runtime::http::{HttpFunction, VariantStats};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::instances::{Duty, Instances};
use crate::admin::events::EventKind;
use crate::events::Events;
use crate::sync::lock;

/// How often a function is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a container may take until it is ready to answer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Which variant of a function answers, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chosen {
    pub(crate) variant: Variant,
    /// Why.
    pub(crate) reason: String,
}

/// What chooses between the variants of a version; it ends with this.
pub(super) struct Choice {
    chosen: Arc<Mutex<Chosen>>,
    rests: Arc<AtomicBool>,
    instances: Arc<Instances>,
    task: AbortHandle,
}

impl Drop for Choice {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Choice {
    /// Begins with one of the two.
    pub(super) fn run(chooser: Chooser, begins: Variant) -> Self {
        let reason = match begins {
            Variant::Component => "it begins",
            Variant::Container => "it answered before",
        };
        let begun = Chosen { variant: begins, reason: reason.to_owned() };
        if let (Variant::Container, Some(http)) = (begins, chooser.http.upgrade()) {
            http.answer_by_container(true);
        }
        let (chosen, rests) = (Arc::new(Mutex::new(begun)), Arc::<AtomicBool>::default());
        let instances = Arc::clone(&chooser.instances);
        let task = tokio::spawn(chooser.run(begins, Arc::clone(&chosen), Arc::clone(&rests))).abort_handle();
        Self { chosen, rests, instances, task }
    }

    pub(super) fn chosen(&self) -> Chosen {
        lock(&self.chosen).clone()
    }

    /// Another version answers now, or not any more: nothing is chosen meanwhile.
    pub(super) fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Release);
        let by_container = lock(&self.chosen).variant == Variant::Container;
        self.instances.charge(match (rests, by_container) {
            (true, _) => Duty::Replaced,
            (false, true) => Duty::Answer,
            (false, false) => Duty::Relieved,
        });
    }
}

/// Follows one function's variants.
pub(super) struct Chooser {
    /// Its name in metrics, `tenant/app/function`.
    pub(super) name: String,
    pub(super) events: (Arc<Events>, AppName),
    /// The version may go while this looks at it.
    pub(super) http: Weak<HttpFunction>,
    pub(super) instances: Arc<Instances>,
    /// What both use, and what of that its containers do.
    pub(super) whole: Arc<Usage>,
    pub(super) contained: Arc<Usage>,
}

impl Chooser {
    async fn run(self, begins: Variant, chosen: Arc<Mutex<Chosen>>, rests: Arc<AtomicBool>) {
        let begun = Instant::now();
        let now_ms = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut variants = Variants::new(0, begins);
        self.gauge(begins);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if rests.load(Ordering::Acquire) {
                continue;
            }
            let Some(seen) = self.seen(variants.serving()) else { return };
            let Some(why) = variants.look(now_ms(), seen) else { continue };
            let to = variants.serving().other();
            if let Err(reason) = self.switch_to(to, &rests).await {
                if rests.load(Ordering::Acquire) {
                    self.instances.charge(Duty::Replaced);
                    continue;
                }
                variants.failed(now_ms());
                self.tell(EventKind::Helpless, format!("its {to} cannot answer: {reason}")).await;
                continue;
            }
            let (Some(seen), Some(then)) = (self.seen(variants.serving()), self.seen(to)) else { return };
            variants.switched(now_ms(), why, seen, then);
            // It may have been replaced while the container was being started.
            if rests.load(Ordering::Acquire) {
                self.instances.charge(Duty::Replaced);
            }
            *lock(&chosen) = Chosen { variant: to, reason: why.to_string() };
            let labels = [("function", self.name.clone()), ("to", to.to_string()), ("why", label(why).to_owned())];
            metrics::counter!("littoral_function_switches_total", &labels).increment(1);
            self.gauge(to);
            self.tell(EventKind::Action, format!("its {to} answers now: {why}")).await;
        }
    }

    /// What a variant has done so far; nothing once the version is gone.
    fn seen(&self, variant: Variant) -> Option<Seen> {
        let [by_component, by_container] = self.http.upgrade()?.answered_by()?;
        // What is counted in between is missing in the part, not in the whole.
        let contained = self.contained.now().memory_byte_us;
        let whole = self.whole.now().memory_byte_us;
        let (VariantStats { calls, took, failed, in_flight }, memory_byte_us) = match variant {
            Variant::Component => (by_component, whole.wrapping_sub(contained)),
            Variant::Container => (by_container, contained),
        };
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Some(Seen { calls, took_us, memory_byte_us, failed, in_flight })
    }

    fn gauge(&self, serving: Variant) {
        let is_contained = f64::from(u8::from(serving == Variant::Container));
        metrics::gauge!("littoral_function_contained", "function" => self.name.clone()).set(is_contained);
    }

    /// Has a variant answer, the container only once one is ready.
    async fn switch_to(&self, to: Variant, rests: &AtomicBool) -> Result<(), String> {
        if to == Variant::Container {
            self.instances.charge(Duty::Prepare);
            let failed_before = self.instances.standing().failed_starts;
            let ready = self.instances.until(|standing| {
                standing.ready > 0 || standing.failed_starts > failed_before || rests.load(Ordering::Acquire)
            });
            let in_time = timeout(READY_WITHIN, ready).await.is_ok();
            let standing = self.instances.standing();
            if standing.ready == 0 {
                self.instances.charge(Duty::Relieved);
                let late = || format!("none was ready within {} s", READY_WITHIN.as_secs());
                return Err(standing.error.filter(|_| in_time).unwrap_or_else(late));
            }
        }
        if let Some(http) = self.http.upgrade() {
            http.answer_by_container(to == Variant::Container);
        }
        self.instances.charge(if to == Variant::Container { Duty::Answer } else { Duty::Relieved });
        Ok(())
    }

    async fn tell(&self, kind: EventKind, text: String) {
        let (events, app) = &self.events;
        let function = self.name.rsplit('/').next().unwrap_or_default();
        tracing::info!(function = self.name, text, "variants");
        events.note(app, format!("function {function}"), kind, text).await;
    }
}

/// What a metric calls the reason.
fn label(why: Why) -> &'static str {
    match why {
        Why::Cheaper { .. } => "cheaper",
        Why::Failing { .. } => "failing",
        Why::Trial { .. } => "trial",
        Why::Idle { .. } => "idle",
    }
}
