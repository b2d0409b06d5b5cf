//! The process's metrics, in Prometheus' text format.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// There is one recorder in a process, whoever runs in it.
static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts to record; before anything is counted.
pub(crate) fn install() {
    RECORDER.get_or_init(|| match PrometheusBuilder::new().install_recorder() {
        Ok(handle) => Some(handle),
        Err(error) => {
            tracing::warn!(%error, "metrics are recorded elsewhere in this process; /metrics stays empty");
            None
        }
    });
}

/// Everything recorded so far.
pub(crate) fn render() -> String {
    RECORDER.get().and_then(Option::as_ref).map(PrometheusHandle::render).unwrap_or_default()
}

/// Keeps what is recorded bounded; to be called every few seconds.
pub(crate) fn upkeep() {
    if let Some(handle) = RECORDER.get().and_then(Option::as_ref) {
        handle.run_upkeep();
    }
}
