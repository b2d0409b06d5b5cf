//! `littoral flow`.

mod picture;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use littoral_model::entry::PORT_MAIN;
use littoral_model::id::FlowName;
use littoral_model::manifest::{Flow, Sink};
use littoral_node::admin::types::{FlowStatus, PlacementRow, PlanReport, PredictionRow};
use littoral_sql::Column;
use serde::Serialize;

use crate::app::App;
use crate::args::ExplainArgs;
use crate::client::Client;
use crate::commands::plan;
use crate::composition;
use crate::failure::Usage;
use crate::output::{self, Tabular, bytes};

/// Shows what an app's flows come to. Status 1 if the app would be refused.
pub(super) async fn explain(args: &ExplainArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let app = App::load(&args.app, args.output)?;
    composition::check(&app)?;
    // Of a statement that comes to several flows all are shown.
    let is_wanted = |name: &FlowName, wanted: &String| {
        let statement = app.program.flows.get(name).map(|flow| &flow.statement);
        name.as_str() == wanted || statement.is_some_and(|statement| statement.as_str() == wanted)
    };
    if let Some(wanted) = &args.flow
        && !app.manifest.flows.keys().any(|name| is_wanted(name, wanted))
    {
        let names: Vec<&str> = app.manifest.flows.keys().map(|name| name.as_str()).collect();
        return Err(Usage::new(format!("the app has no flow {wanted}"))
            .hint(format!("it has {}", names.join(", ")))
            .into());
    }
    let bundle = app.bundle_of_what_is_there()?;
    let report = client.plan(&bundle).await?;
    if !report.accepted {
        return plan::show(client, &bundle, args.output).await;
    }
    let running: Vec<FlowStatus> = client.flows().await?;
    let flows = app.manifest.flows.iter();
    let flows = flows.filter(|(name, _)| args.flow.as_ref().is_none_or(|wanted| is_wanted(name, wanted)));
    let explained = flows.map(|(name, flow)| {
        let status = running.iter().find(|status| status.app == report.app && status.name == name.as_str());
        Explanation::new(&app, name.as_str(), flow, &report, status)
    });
    let explained: Vec<Explanation> = explained.collect();
    if let Some(file) = &args.svg {
        if explained.is_empty() {
            return Err(Usage::new("the app has no flows to draw").into());
        }
        std::fs::write(file, picture::draw(&explained)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    output::print(&output::render(&explained, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// A flow, from its graph to what was measured.
#[derive(Debug, Serialize)]
struct Explanation {
    flow: String,
    /// The stream that it reads, with the columns that are known of it.
    source: StreamNode,
    /// Its functions and queries, in order.
    functions: Vec<FunctionNode>,
    /// Where it ends, and by port where else its rows go.
    outputs: Vec<Output>,
    /// Its stages after fusion, and where they would run.
    stages: Vec<PlacementRow>,
    /// How long a record is predicted to take.
    prediction: Option<PredictionRow>,
    /// What is measured, if the app runs.
    measured: Option<FlowStatus>,
}

#[derive(Debug, Serialize)]
struct StreamNode {
    name: String,
    columns: Vec<Column>,
}

#[derive(Debug, Serialize)]
struct FunctionNode {
    name: String,
    /// What a query does; empty for a component.
    operators: Vec<String>,
    /// How many bytes a query is expected to put out for a hundred that it takes in, by which it is placed; a guess.
    expected_percent: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Output {
    port: String,
    to: StreamNode,
}

impl Explanation {
    fn new(app: &App, name: &str, flow: &Flow, report: &PlanReport, status: Option<&FlowStatus>) -> Self {
        let node = |stream: &str| StreamNode {
            name: stream.to_owned(),
            columns: app
                .program
                .columns
                .iter()
                .find(|(known, _)| known.as_str() == stream)
                .map(|(_, columns)| columns.clone())
                .unwrap_or_default(),
        };
        let functions = flow.stages.iter().map(|function| FunctionNode {
            name: function.to_string(),
            operators: app.program.stage(function).map(|plan| plan.operators()).unwrap_or_default(),
            expected_percent: app.manifest.queries.get(function).map(|query| f64::from(query.output_permille) / 10.0),
        });
        let sink = flow.sink.as_ref().map(|sink| match sink {
            Sink::Stream(stream) => stream.as_str(),
            Sink::Function(function) => function.as_str(),
        });
        let main = sink.map(|sink| (PORT_MAIN, sink));
        let side = flow.outputs.iter().map(|(port, stream)| (port.as_str(), stream.as_str()));
        let dead = flow.dead_letter.iter().map(|stream| ("dead-letter", stream.as_str()));
        let outputs = main.into_iter().chain(side).chain(dead);
        let is_stage = |row: &&PlacementRow| {
            row.kind == "stage" && row.name.split_once(": ").is_some_and(|(flow, _)| flow == name)
        };
        Self {
            flow: name.to_owned(),
            source: node(flow.source.as_str()),
            functions: functions.collect(),
            outputs: outputs.map(|(port, stream)| Output { port: port.to_owned(), to: node(stream) }).collect(),
            stages: report.placements.iter().filter(is_stage).cloned().collect(),
            prediction: report.predictions.iter().find(|prediction| prediction.flow == name).cloned(),
            measured: status.cloned(),
        }
    }

    /// How much of what the first stage takes in goes on to where the flow ends, once something has. Each stage counts from when it was
    /// started, so that what it takes in and what it puts out are compared with one another alone.
    fn carried(&self) -> Option<String> {
        let measured = self.measured.as_ref()?;
        let mut bytes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for stage in &measured.stages {
            let (taken, on) = bytes.entry(&stage.name).or_default();
            (*taken, *on) = (*taken + stage.bytes_in, *on + stage.bytes_on);
        }
        let share: f64 = bytes.values().map(|(taken, on)| *on as f64 / *taken as f64).product();
        let end = self.outputs.iter().find(|output| output.port == PORT_MAIN)?;
        let told =
            format!("{:.1} % of the bytes that come from {} go on to {}", share * 100.0, self.source.name, end.to.name);
        (share.is_finite() && share > 0.0).then_some(told)
    }

    fn write(&self, out: &mut Vec<String>) {
        out.push(format!("flow {}", self.flow));
        out.push(format!("  from {}", self.source.told()));
        for function in &self.functions {
            let expected = function.expected_percent.filter(|percent| *percent != 100.0);
            let expected = expected.map_or_else(String::new, |percent| {
                format!(" (expected to put out {percent:.1} % of the bytes that it takes in)")
            });
            out.push(format!("   └ {}{expected}", function.name));
            out.extend(function.operators.iter().map(|operator| format!("       {operator}")));
        }
        out.extend(self.outputs.iter().map(|output| format!("  {} to {}", output.port, output.to.told())));
        for stage in &self.stages {
            let functions = stage.name.split_once(": ").map_or("", |(_, functions)| functions);
            let partition = stage.partition.map_or_else(String::new, |partition| format!(", partition {partition}"));
            let because = stage.reasons.first().map_or_else(String::new, |reason| format!(" ({reason})"));
            out.push(format!("  stage {functions}{partition}: on {}{because}", stage.nodes.join(", ")));
        }
        if let Some(prediction) = &self.prediction {
            let objective = prediction.slo_p95_ms.map_or_else(String::new, |slo| format!(" of {slo} ms"));
            out.push(format!(
                "  predicted p95 {:.1} ms{objective}: {}",
                prediction.predicted_p95_ms,
                prediction.parts.join(", ")
            ));
        }
        let Some(measured) = &self.measured else {
            out.push("  measured: it does not run yet".to_owned());
            return;
        };
        for stage in &measured.stages {
            let variants =
                stage.runs.iter().flat_map(|runs| &runs.variants).filter(|(function, variant)| function != variant);
            let shed = if stage.rows_shed > 0 { format!(", {} shed", stage.rows_shed) } else { String::new() };
            let variants: String = variants.map(|(function, variant)| format!(", {function} as {variant}")).collect();
            out.push(format!(
                "  measured {}/{} on {}{}: {} rows in ({}), {} out ({}), {} rejected{shed}, p95 of a batch {:.1} ms",
                stage.name,
                stage.partition,
                stage.owner.as_deref().unwrap_or("-"),
                variants,
                stage.rows_in,
                bytes(stage.bytes_in),
                stage.rows_out,
                bytes(stage.bytes_on),
                stage.rows_rejected,
                stage.latency.p95_ms
            ));
        }
        for sink in &measured.sinks {
            out.push(format!(
                "  measured at {}: {} rows ({}), p95 of their age {:.1} ms",
                sink.name,
                sink.rows,
                bytes(sink.bytes),
                sink.latency.p95_ms
            ));
        }
        out.extend(self.carried().map(|carried| format!("  {carried}")));
    }
}

impl StreamNode {
    fn told(&self) -> String {
        if self.columns.is_empty() {
            return self.name.clone();
        }
        let columns: Vec<String> = self.columns.iter().map(|column| format!("{} {}", column.name, column.ty)).collect();
        format!("{} ({})", self.name, columns.join(", "))
    }
}

impl Tabular for Vec<Explanation> {
    fn table(&self, _: bool) -> String {
        let mut lines = Vec::new();
        for (place, explanation) in self.iter().enumerate() {
            if place > 0 {
                lines.push(String::new());
            }
            explanation.write(&mut lines);
        }
        lines.join("\n") + "\n"
    }
}
