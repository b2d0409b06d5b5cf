//! The next level of the variants of a stage's functions: what its owner is to be asked for, and how that is told.

use littoral_model::work::WorkId;

use crate::fidelity::{ladder, running};
use crate::intent::App;
use crate::report::Report;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the next cheaper variants.
    Down,
    /// To the next better ones.
    Up,
}

/// A step from one level to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The artefacts that run.
    pub(super) from: Vec<String>,
    /// Those that are to.
    pub(super) to: Vec<String>,
    /// The functions that change, each with its variant.
    pub(super) told: String,
}

/// The step from what a stage runs by its owner's report, if there is one.
pub(super) fn next(app: &App, work: &WorkId, report: &Report, way: Way) -> Option<Step> {
    let role = &app.placement.work(work)?.role;
    let from = &report.runs.iter().find(|run| run.work == *work)?.artifacts;
    let ladder = ladder(app, role);
    let at = ladder.iter().position(|level| level == from)?;
    let to = match way {
        Way::Down => ladder.get(at + 1)?,
        Way::Up => ladder.get(at.checked_sub(1)?)?,
    };
    let before = running(app, role, from);
    let changed = running(app, role, to).into_iter().filter(|(name, variant)| before.get(name) != Some(variant));
    let told: Vec<String> = changed
        .map(|(name, variant)| if name == variant { format!("{name} itself") } else { format!("variant {variant} of {name}") })
        .collect();
    Some(Step { from: from.clone(), to: to.clone(), told: told.join(", ") })
}
