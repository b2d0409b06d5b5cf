//! Functions that export interfaces for other functions of their app.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use littoral_runtime_wasm::composition::{CallObserver, Exporter, ExporterSettings};
use littoral_runtime_wasm::{Artifact, Fault};
use metrics::{Counter, Histogram};

use crate::Runtime;
use crate::http::HttpStats;
use crate::latency::Latency;

/// A function that is called by others, with what was measured of it.
#[derive(Debug)]
pub struct InterfaceFunction {
    exporter: Exporter,
    measured: Arc<Measured>,
}

struct Measured {
    answered: Counter,
    failed: Counter,
    duration: Histogram,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    errors: u64,
    latency: Latency,
    last_error: Option<String>,
}

impl InterfaceFunction {
    /// A function of this component, `name` (`tenant/app/function`) in metrics and messages. None if it exports no
    /// interface for others.
    #[must_use]
    pub fn new(runtime: &Runtime, artifact: &Arc<Artifact>, name: &str, settings: ExporterSettings) -> Option<Self> {
        let labels = |outcome: &'static str| [("function", name.to_owned()), ("outcome", outcome.to_owned())];
        let measured = Arc::new(Measured {
            answered: metrics::counter!("littoral_function_calls_total", &labels("answered")),
            failed: metrics::counter!("littoral_function_calls_total", &labels("failed")),
            duration: metrics::histogram!("littoral_function_seconds", "function" => name.to_owned()),
            seen: Mutex::default(),
        });
        let observer: Arc<dyn CallObserver> = Arc::clone(&measured) as _;
        let exporter = Exporter::new(runtime, artifact, ExporterSettings { observer, ..settings })?;
        Some(Self { exporter, measured })
    }

    /// What answers its calls.
    #[must_use]
    pub fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// What was measured so far: how long calls took in this process, wherever they came from.
    #[must_use]
    pub fn stats(&self) -> HttpStats {
        let seen = self.measured.seen();
        HttpStats { errors: seen.errors, latency: seen.latency.quantiles(), last_error: seen.last_error.clone() }
    }
}

impl Measured {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallObserver for Measured {
    fn called(&self, took: Duration, fault: Option<&Fault>) {
        self.duration.record(took.as_secs_f64());
        let mut seen = self.seen();
        seen.latency.record(took, 1);
        match fault {
            None => self.answered.increment(1),
            Some(fault) => {
                self.failed.increment(1);
                seen.errors += 1;
                seen.last_error = Some(fault.to_string());
            }
        }
    }
}

impl std::fmt::Debug for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measured").finish_non_exhaustive()
    }
}
