//! What a run showed, for people and as JSON; and whether all of it held.

use std::fmt::Write as _;
use std::path::Path;

use littoral_model::manifest::{Manifest, Sensor};
use littoral_node::admin::events::{EventKind, EventsReport};
use littoral_node::admin::types::{FlowStatus, FunctionStatus, PlanReport};
use serde::Serialize;

use super::collect::{Outcome, Tally};
use super::incidents::{Evaluation, evaluate, windows_of};
use crate::output::{Table, Tabular as _, bytes, milliseconds};

/// How many of the labelled failures of the first labelled series must be detected.
const WINDOWS_MIN: usize = 3;
/// How many false incidents that series may have.
const FALSE_MAX: usize = 3;

/// What was measured while the run went on.
#[derive(Debug, Default, Serialize)]
pub(super) struct Measured {
    /// Where everything was placed, and why.
    pub(super) plan: Option<PlanReport>,
    /// The functions at the end of the paced phase.
    pub(super) functions: Vec<FunctionStatus>,
    /// The flows at the end of the paced phase.
    pub(super) flows: Vec<FlowStatus>,
    /// Records published at full speed, and the seconds until all had come out.
    pub(super) full_speed: Option<(u64, f64)>,
    /// Seconds that the paced phase took.
    pub(super) paced_seconds: f64,
    /// Bytes that crossed the links between edge and cloud.
    pub(super) uplink_bytes: u64,
    /// Bytes of keys and values that were published.
    pub(super) raw_bytes: u64,
    /// Writes of replaced owners that were refused, as the nodes count them.
    pub(super) refused_writes: Option<u64>,
    /// The nodes that held a stage when they were struck, by fault: whether they did, and whether it was taken from them.
    pub(super) strikes: Vec<Strike>,
}

/// What a fault showed.
#[derive(Debug, Serialize)]
pub(super) struct Strike {
    pub(super) fault: String,
    /// How many stages the node held at that moment.
    pub(super) stages_held: usize,
    /// How many of these had another owner, or a higher epoch, at the end.
    pub(super) stages_moved: usize,
    /// Whether the process was stopped for a while, so that it may have written late.
    pub(super) may_write_late: bool,
    /// Of a slow node, what the fabric said and did about the objective; nothing of other faults.
    pub(super) story: Option<EventsReport>,
}

impl Strike {
    /// What did not happen although the node was slow.
    fn missing(&self) -> impl Iterator<Item = EventKind> {
        let wanted = self.story.as_ref().map(|story| {
            let told = |kind: &EventKind| !story.events.iter().any(|event| event.kind == *kind);
            [EventKind::Violated, EventKind::Action, EventKind::Restored].into_iter().filter(told).collect::<Vec<_>>()
        });
        wanted.into_iter().flatten()
    }
}

/// One labelled series.
#[derive(Debug, Serialize)]
struct Detection {
    sensor: String,
    evaluation: Evaluation,
    /// Whether the run stands and falls with it.
    decides: bool,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    app: String,
    measured: Measured,
    tally: Tally,
    /// The objective of the flow, and its 95th percentile, in milliseconds, with the number of records behind it.
    objective: Option<(f64, f64, u64)>,
    detections: Vec<Detection>,
    scored_stream: String,
    /// What did not hold; empty if all did.
    pub(super) failures: Vec<String>,
}

/// What a run is judged by.
pub(super) struct Demands {
    /// How many malformed records were mixed in.
    pub(super) malformed: u64,
    /// Whether the objective has to be met: not while a node is down.
    pub(super) objective: bool,
    /// Whether whole series were replayed, so that detection can be judged.
    pub(super) detection: bool,
}

impl Report {
    /// Judges a run.
    pub(super) fn new(
        manifest: &Manifest,
        folder: &Path,
        outcome: &Outcome,
        (measured, tally): (Measured, Tally),
        alarms: &std::collections::BTreeMap<String, Vec<i64>>,
        demands: &Demands,
    ) -> anyhow::Result<Self> {
        let mut detections = Vec::new();
        if demands.detection {
            let sensors = manifest.dev.iter().flat_map(|dev| &dev.sensors);
            for sensor in sensors {
                let Some(windows) = windows(folder, sensor)? else { continue };
                let none = Vec::new();
                let evaluation = evaluate(alarms.get(&sensor.name).unwrap_or(&none), &windows);
                let decides = detections.is_empty();
                detections.push(Detection { sensor: sensor.name.clone(), evaluation, decides });
            }
        }
        let mut report = Self {
            app: manifest.name.to_string(),
            objective: objective(&measured.flows, outcome),
            measured,
            tally,
            detections,
            scored_stream: outcome.scored.clone(),
            failures: Vec::new(),
        };
        report.failures = report.judge(demands);
        Ok(report)
    }

    fn judge(&self, demands: &Demands) -> Vec<String> {
        let tally = &self.tally;
        let mut failures = Vec::new();
        let mut demand = |holds: bool, what: String| {
            if !holds {
                failures.push(what);
            }
        };
        demand(tally.lost == 0, format!("{} records are lost", tally.lost));
        demand(tally.duplicated == 0, format!("{} rows are duplicates", tally.duplicated));
        demand(tally.unexpected == 0, format!("{} rows are of no record that was published", tally.unexpected));
        demand(
            tally.dead_lettered == demands.malformed && tally.malformed == demands.malformed,
            format!(
                "{} records were dead-lettered instead of the {} malformed ones",
                tally.dead_lettered, demands.malformed
            ),
        );
        if demands.objective
            && let Some((slo_ms, p95_ms, _)) = self.objective
        {
            demand(
                p95_ms <= slo_ms,
                format!("the objective of {} is missed: {}", milliseconds(slo_ms), milliseconds(p95_ms)),
            );
        }
        for detection in self.detections.iter().filter(|detection| detection.decides) {
            let (found, all) = (detection.evaluation.windows_detected, detection.evaluation.windows);
            demand(
                found >= WINDOWS_MIN.min(all),
                format!("{}: {found} of {all} failures were detected", detection.sensor),
            );
            let wrong = detection.evaluation.incidents_false();
            demand(wrong <= FALSE_MAX, format!("{}: {wrong} false incidents", detection.sensor));
        }
        for strike in &self.measured.strikes {
            demand(strike.stages_held > 0, format!("{}: the node held no stage when it was struck", strike.fault));
            // Of a slow node only what makes an objective fail is moved.
            let moved = strike.story.is_some() || strike.stages_moved == strike.stages_held;
            demand(moved, format!("{}: a stage was not taken from the node", strike.fault));
            for kind in strike.missing() {
                demand(false, format!("{}: no event `{kind}`", strike.fault));
            }
            let refused = self.measured.refused_writes.unwrap_or_default() > 0;
            demand(refused || !strike.may_write_late, format!("{}: no late write was refused", strike.fault));
        }
        failures
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        _ = writeln!(text, "\nPLACEMENT of {}", self.app);
        if let Some(plan) = &self.measured.plan {
            text.push_str(&indented(&plan.table(false)));
        }
        self.records(&mut text);
        self.latency(&mut text);
        self.bytes(&mut text);
        self.detection(&mut text);
        for strike in &self.measured.strikes {
            _ = writeln!(
                text,
                "\nFAULT {}\n  the node held {} stage partitions, of which {} were taken over by others",
                strike.fault, strike.stages_held, strike.stages_moved
            );
            if let Some(refused) = self.measured.refused_writes.filter(|_| strike.may_write_late) {
                _ = writeln!(text, "  late writes refused: {refused}");
            }
            if let Some(story) = &strike.story {
                _ = writeln!(text, "\nEVENTS");
                text.push_str(&indented(&story.table(false)));
            }
        }
        if self.failures.is_empty() {
            text.push_str("\nALL OF IT HOLDS\n");
        } else {
            text.push_str("\nFAILED\n");
            for failure in &self.failures {
                _ = writeln!(text, "  {failure}");
            }
        }
        text
    }

    fn records(&self, text: &mut String) {
        let tally = &self.tally;
        let mut table = Table::new(&["PUBLISHED", "SCORED", "DEAD-LETTERED", "LOST", "DUPLICATED"]);
        let counts = [tally.records_in, tally.scored, tally.dead_lettered, tally.lost, tally.duplicated];
        table.row(counts.map(|count| count.to_string()));
        _ = writeln!(text, "\nRECORDS, compared by id; `{}` has a row for each", self.scored_stream);
        text.push_str(&indented(&table.render()));
        if let Some((records, seconds)) = self.measured.full_speed {
            let rate = records as f64 / seconds.max(f64::MIN_POSITIVE);
            _ = writeln!(
                text,
                "  at full speed: {records} records in {seconds:.1} s, until all had come out: {rate:.0} records/s"
            );
        }
    }

    fn latency(&self, text: &mut String) {
        _ = writeln!(text, "\nLATENCY while paced ({:.0} s)", self.measured.paced_seconds);
        let mut table = Table::new(&["", "COUNT", "P50", "P95", "P99", "OBJECTIVE"]);
        for function in &self.measured.functions {
            let latency = function.latency;
            let quantiles = [latency.p50_ms, latency.p95_ms, latency.p99_ms].map(milliseconds);
            let row = [format!("stage {}", function.name), latency.count.to_string()].into_iter().chain(quantiles);
            table.row(row.chain(["-".to_owned()]));
        }
        for flow in &self.measured.flows {
            for sink in &flow.sinks {
                let latency = sink.latency;
                let quantiles = [latency.p50_ms, latency.p95_ms, latency.p99_ms].map(milliseconds);
                let objective =
                    sink.slo_p95_ms.map_or_else(|| "-".to_owned(), |slo| format!("p95 < {}", milliseconds(slo)));
                let row =
                    [format!("end to end, {}", sink.name), latency.count.to_string()].into_iter().chain(quantiles);
                table.row(row.chain([objective]));
            }
        }
        text.push_str(&indented(&table.render()));
        if let Some((slo, p95, count)) = self.objective {
            let verdict = if p95 <= slo { "met" } else { "MISSED" };
            _ = writeln!(
                text,
                "  objective {verdict}: p95 {} of {count} rows, at most {}",
                milliseconds(p95),
                milliseconds(slo)
            );
        }
    }

    fn bytes(&self, text: &mut String) {
        let (crossed, raw) = (self.measured.uplink_bytes, self.measured.raw_bytes);
        let share = 100.0 * crossed as f64 / (raw as f64).max(1.0);
        _ = writeln!(
            text,
            "\nBYTES\n  crossed the edge-cloud link, everything included: {}; published: {} of keys and values ({share:.0} %)",
            bytes(crossed),
            bytes(raw)
        );
    }

    fn detection(&self, text: &mut String) {
        if self.detections.is_empty() {
            return;
        }
        _ = writeln!(text, "\nDETECTION of the failures that people labelled");
        let mut table = Table::new(&["SERIES", "DETECTED", "INCIDENTS", "FALSE", ""]);
        for detection in &self.detections {
            let evaluation = &detection.evaluation;
            table.row([
                detection.sensor.clone(),
                format!("{} of {}", evaluation.windows_detected, evaluation.windows),
                evaluation.incidents.len().to_string(),
                evaluation.incidents_false().to_string(),
                if detection.decides { String::new() } else { "same parameters, shown as it is".to_owned() },
            ]);
        }
        text.push_str(&indented(&table.render()));
    }
}

/// The labelled windows of a sensor's series, if it has any.
fn windows(folder: &Path, sensor: &Sensor) -> anyhow::Result<Option<Vec<super::incidents::Window>>> {
    let Some(labels) = &sensor.labels else { return Ok(None) };
    let json = std::fs::read_to_string(folder.join(labels))?;
    let name = Path::new(&sensor.file).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Some(windows_of(&json, &name).map_err(anyhow::Error::msg)?))
}

/// The flow's objective beside what was measured: at its sink, or where too little arrives there, at the stream that has a
/// row for each record.
fn objective(flows: &[FlowStatus], outcome: &Outcome) -> Option<(f64, f64, u64)> {
    let sinks = || flows.iter().flat_map(|flow| &flow.sinks);
    let slo = sinks().find_map(|sink| sink.slo_p95_ms)?;
    let measured = sinks().filter(|sink| sink.slo_p95_ms.is_some() || sink.name == outcome.scored);
    let worst =
        measured.filter(|sink| sink.latency.count > 0).max_by(|a, b| a.latency.p95_ms.total_cmp(&b.latency.p95_ms))?;
    Some((slo, worst.latency.p95_ms, worst.latency.count))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect()
}
