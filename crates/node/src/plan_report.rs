//! A placement, or a refusal, as the admin API shows it.

use littoral_model::manifest::{Manifest, Sink};
use littoral_plan::{Hop, Placement, Reason, Refusal, Role, Step, Unplaceable};

use crate::admin::types::{PlacementRow, PlanReport, PredictionRow, RefusalRow};

/// What came of planning an app.
pub(crate) fn report(manifest: &Manifest, compiled: Result<&Placement, &Refusal>) -> PlanReport {
    let mut report = PlanReport {
        app: manifest.name.to_string(),
        accepted: compiled.is_ok(),
        placements: Vec::new(),
        predictions: Vec::new(),
        refusals: Vec::new(),
    };
    match compiled {
        Ok(placement) => {
            report.placements = placements(placement);
            report.predictions = predictions(manifest, placement);
        }
        Err(refusal) => report.refusals = refusal.findings.iter().map(refused).collect(),
    }
    report
}

fn placements(placement: &Placement) -> Vec<PlacementRow> {
    let mut rows = Vec::with_capacity(placement.works.len() + placement.instances.len());
    for placed in &placement.works {
        let (kind, name) = match &placed.role {
            Role::StreamPartition { stream, .. } => ("stream", stream.to_string()),
            Role::Queue { function, .. } => ("queue", function.to_string()),
            Role::Source { source, .. } => ("source", source.to_string()),
            Role::Sink { sink, .. } => ("sink", sink.to_string()),
            Role::Stage { flow, functions, .. } => {
                let names: Vec<&str> = functions.iter().map(|stage| stage.function.as_str()).collect();
                ("stage", format!("{flow}: {}", names.join("+")))
            }
        };
        rows.push(PlacementRow {
            kind: kind.to_owned(),
            name,
            partition: Some(placed.work.partition),
            nodes: vec![placed.owner.to_string()],
            replicas: placed.replicas.iter().filter(|node| **node != placed.owner).map(ToString::to_string).collect(),
            reasons: told(&placed.reasons, false),
            excluded: told(&placed.reasons, true),
        });
    }
    for instance in &placement.instances {
        rows.push(PlacementRow {
            kind: "function".to_owned(),
            name: instance.function.to_string(),
            partition: None,
            nodes: vec![instance.node.to_string()],
            replicas: Vec::new(),
            reasons: told(&instance.reasons, false),
            excluded: told(&instance.reasons, true),
        });
    }
    rows
}

/// The reasons for a choice, or for what was not chosen.
pub(crate) fn told(reasons: &[Reason], excluded: bool) -> Vec<String> {
    let wanted = reasons.iter().filter(|reason| matches!(reason, Reason::Excluded { .. }) == excluded);
    wanted.map(ToString::to_string).collect()
}

fn predictions(manifest: &Manifest, placement: &Placement) -> Vec<PredictionRow> {
    let ms = |us: u64| us as f64 / 1_000.0;
    let row = |prediction: &littoral_plan::FlowPrediction| {
        let sink = manifest.flows.get(&prediction.flow).and_then(|flow| flow.sink.as_ref()).map(|sink| match sink {
            Sink::Stream(stream) => stream.to_string(),
            Sink::Function(function) => function.to_string(),
        });
        PredictionRow {
            flow: prediction.flow.to_string(),
            sink: sink.unwrap_or_else(|| "-".to_owned()),
            predicted_p95_ms: ms(prediction.p95_us),
            slo_p95_ms: prediction.slo_us.map(ms),
            parts: prediction.hops.iter().map(part).collect(),
        }
    };
    placement.predictions.iter().map(row).collect()
}

fn part(hop: &Hop) -> String {
    let what = match &hop.step {
        Step::Commit => format!("commit on {}", hop.node),
        Step::Link { from, .. } => format!("{from} to {}", hop.node),
        Step::Execute { function } => format!("{function} on {}", hop.node),
    };
    format!("{what} {:.1} ms", hop.p95_us as f64 / 1_000.0)
}

fn refused(finding: &Unplaceable) -> RefusalRow {
    let hint = match &finding.nearest_miss {
        Some(miss) => format!("the nearest miss is {}, which {}", miss.node, miss.why),
        None => "no live node comes near; `littoral get nodes` lists them".to_owned(),
    };
    RefusalRow {
        subject: finding.what.clone(),
        constraint: finding.constraint.clone(),
        message: finding.to_string(),
        hint,
    }
}
