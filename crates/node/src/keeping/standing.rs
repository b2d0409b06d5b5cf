//! How an objective stands, in words: the same ones for flows and for functions.

use littoral_control::slo::{Change, Watch};
use littoral_plan::reason::Milliseconds;

use crate::admin::events::EventKind;

/// What is said of a change: `what` is late, records or calls; `helped` is by what it holds again.
pub(crate) fn told(watch: &Watch, change: Change, what: &str, helped: impl FnOnce() -> String) -> (EventKind, String) {
    let limit = Milliseconds(watch.limit_us());
    match change {
        Change::Threatened { p95_us, expected_us } => {
            let (p95, expected) = (Milliseconds(p95_us), Milliseconds(expected_us));
            let text = format!(
                "p95 is {p95} and rising; it will be {expected} in ten seconds if it goes on, and {limit} is the objective"
            );
            (EventKind::Threatened, text)
        }
        Change::Violated { late_permille, p95_us } => {
            let (late, left) = (late_permille / 10, watch.budget_left_permille() / 10);
            let p95 = Milliseconds(p95_us);
            let text = format!(
                "{late} % of the {what} took longer than {limit}, p95 is {p95}; {left} % of the error budget is left"
            );
            (EventKind::Violated, text)
        }
        Change::Restored { after_ms } => {
            (EventKind::Restored, format!("holds again after {} s: {}", after_ms / 1_000, helped()))
        }
    }
}
