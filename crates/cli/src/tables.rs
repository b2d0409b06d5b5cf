//! How each kind of answer looks as a table.

use littoral_node::admin::types::{
    AppStatus, ConnectorDirection, ConnectorStatus, FlowStatus, FunctionStatus, Health, InstancesStatus, NodeState,
    NodeStatus, PlanReport, Quantiles, SiteStatus, StageStatus, StreamStatus, TokenGrant, VariantStatus, VoterStatus,
};

use crate::output::{Table, Tabular, list, milliseconds, optional};

fn health(state: Health) -> String {
    match state {
        Health::Healthy => "healthy",
        Health::Starting => "starting",
        Health::Degraded => "degraded",
        Health::Refused => "refused",
        Health::Deleting => "deleting",
    }
    .to_owned()
}

fn quantiles(latency: &Quantiles) -> String {
    if latency.count == 0 {
        return "-".to_owned();
    }
    [latency.p50_ms, latency.p95_ms, latency.p99_ms].map(milliseconds).join(" / ")
}

/// Sentences under a table, each behind what it is about.
fn remarks<'a>(of: impl IntoIterator<Item = (String, &'a [String])>) -> String {
    let mut text = String::new();
    for (subject, reasons) in of {
        for reason in reasons {
            text.push_str(&format!("{subject}: {reason}\n"));
        }
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

impl Tabular for Vec<NodeStatus> {
    fn table(&self, wide: bool) -> String {
        let mut columns = vec!["NODE", "TIER", "SITE", "STATE", "WORKS", "HTTP", "NEIGHBOURS"];
        if wide {
            columns.extend(["VERSION", "LABELS", "SITUATION", "FUNCTIONS"]);
        }
        let mut table = Table::new(&columns);
        for node in self {
            let state = match node.state {
                _ if node.revoked => "revoked",
                NodeState::Alive => "alive",
                NodeState::Stopping => "stopping",
                NodeState::Lost => "lost",
            };
            let links: Vec<String> =
                node.links.iter().map(|link| format!("{} {}", link.peer, milliseconds(link.rtt_ms))).collect();
            let mut row = vec![
                node.id.clone(),
                node.tier.clone(),
                node.site.clone(),
                state.to_owned(),
                node.works.to_string(),
                optional(node.http.as_ref()),
                list(&links),
            ];
            if wide {
                let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                row.extend([node.version.clone(), list(&labels), list(&node.situation), list(&node.functions)]);
            }
            table.row(row);
        }
        table.render()
    }
}

impl Tabular for Vec<SiteStatus> {
    fn table(&self, _wide: bool) -> String {
        let mut table = Table::new(&["SITE", "NODES", "LEADER", "VOTERS", "DECIDES"]);
        for site in self {
            let voter = |voter: &VoterStatus| {
                if voter.alive { voter.node.clone() } else { format!("{} (missing)", voter.node) }
            };
            let voters: Vec<String> = site.voters.iter().map(voter).collect();
            let decides = if site.decides { "yes" } else { "no" };
            table.row(vec![
                site.name.clone(),
                list(&site.nodes),
                optional(site.leader.as_ref()),
                list(&voters),
                decides.to_owned(),
            ]);
        }
        let reasons = self.iter().map(|site| (site.name.clone(), site.reasons.as_slice()));
        format!("{}{}", table.render(), remarks(reasons))
    }
}

impl Tabular for Vec<AppStatus> {
    fn table(&self, wide: bool) -> String {
        let mut columns = vec!["APP", "VERSION", "STATE", "FUNCTIONS", "FLOWS", "STREAMS"];
        if wide {
            columns.extend(["ROUTES", "GENERATION", "AUTHOR", "DIGEST", "DESCRIPTION"]);
        }
        let mut table = Table::new(&columns);
        for app in self {
            let mut row = vec![
                app.name.clone(),
                app.version.clone(),
                health(app.state),
                list(&app.functions),
                list(&app.flows),
                list(&app.streams),
            ];
            if wide {
                let edit = [app.generation.to_string(), app.author.clone()];
                row.push(list(&app.routes));
                row.extend(edit);
                row.extend([app.digest.clone(), optional(app.description.as_ref())]);
            }
            table.row(row);
        }
        let said = |app: &AppStatus| (app.name.clone(), [app.reasons.as_slice(), app.notes.as_slice()].concat());
        let said: Vec<_> = self.iter().map(said).collect();
        table.render() + &remarks(said.iter().map(|(app, said)| (app.clone(), said.as_slice())))
    }
}

impl Tabular for AppStatus {
    fn table(&self, wide: bool) -> String {
        vec![self.clone()].table(wide)
    }
}

/// How many there are of how many there are to be, where and why.
fn instances(instances: &InstancesStatus) -> String {
    let InstancesStatus { node, ready, starting, wanted, reason, .. } = instances;
    let starting = if *starting > 0 { format!(", {starting} starting") } else { String::new() };
    format!("{node}: {ready} of {wanted}{starting} ({reason})")
}

impl Tabular for Vec<FunctionStatus> {
    fn table(&self, wide: bool) -> String {
        let mut columns = vec!["FUNCTION", "NODES", "CALLS", "ERRORS", "P50 / P95 / P99", "OBJECTIVE", "MET"];
        if wide {
            columns.extend(["INSTANCES", "VARIANT", "PRIORITY", "HELD", "LAST ERROR"]);
        }
        let mut table = Table::new(&columns);
        for function in self {
            let mut row = vec![
                format!("{}/{}", function.app, function.name),
                list(&function.nodes),
                function.invocations.to_string(),
                function.errors.to_string(),
                quantiles(&function.latency),
                optional(function.slo_p95_ms.map(|slo| format!("p95 < {}", milliseconds(slo)))),
                optional(function.slo_met.map(|met| if met { "yes" } else { "NO" })),
            ];
            if wide {
                let instances: Vec<String> = function.instances.iter().map(instances).collect();
                let (priority, held) = (function.priority.clone(), list(&function.held));
                let variant = |it: &VariantStatus| format!("{}: {} ({})", it.node, it.variant, it.reason);
                let variants: Vec<String> = function.variants.iter().map(variant).collect();
                let error = optional(function.last_error.as_ref());
                row.extend([list(&instances), list(&variants), priority, held, error]);
            }
            table.row(row);
        }
        table.render()
    }
}

/// The functions of a stage that run another component than their own, with the name of the variant.
pub(crate) fn variants(stage: &StageStatus) -> String {
    let runs = stage.runs.iter().flat_map(|runs| &runs.variants);
    let others = runs.filter(|(function, variant)| function != variant);
    list(&others.map(|(function, variant)| format!("{function}: {variant}")).collect::<Vec<_>>())
}

impl Tabular for Vec<FlowStatus> {
    fn table(&self, wide: bool) -> String {
        let mut columns =
            vec!["FLOW", "STATE", "STAGE", "FUNCTIONS", "NODE", "IN", "OUT", "REJECTED", "P50 / P95 / P99"];
        if wide {
            columns.extend(["SHED", "VARIANT", "EPOCH", "IN SYNC", "WHY THERE"]);
        }
        let mut table = Table::new(&columns);
        let mut sinks = Table::new(&["SINK", "ROWS", "AGE P50 / P95 / P99", "OBJECTIVE", "MET"]);
        for flow in self {
            let name = format!("{}/{}", flow.app, flow.name);
            if flow.stages.is_empty() {
                table.row([name.clone(), health(flow.state)]);
            }
            for stage in &flow.stages {
                let mut row = vec![
                    name.clone(),
                    health(flow.state),
                    format!("{}/{}@{}", stage.name, stage.partition, stage.site),
                    stage.functions.join(" > "),
                    optional(stage.owner.as_ref()),
                    stage.rows_in.to_string(),
                    stage.rows_out.to_string(),
                    stage.rows_rejected.to_string(),
                    quantiles(&stage.latency),
                ];
                if wide {
                    row.extend([
                        stage.rows_shed.to_string(),
                        variants(stage),
                        stage.epoch.to_string(),
                        list(&stage.in_sync),
                        stage.reasons.join("\n"),
                    ]);
                }
                table.row(row);
            }
            for sink in &flow.sinks {
                let met = sink.slo_met.map(|met| if met { "yes" } else { "no" });
                sinks.row([
                    format!("{name} > {}", sink.name),
                    sink.rows.to_string(),
                    quantiles(&sink.latency),
                    optional(sink.slo_p95_ms.map(|slo| format!("p95 < {}", milliseconds(slo)))),
                    optional(met),
                ]);
            }
        }
        let mut text = table.render();
        if self.iter().any(|flow| !flow.sinks.is_empty()) {
            text.push('\n');
            text.push_str(&sinks.render());
        }
        text + &remarks(self.iter().map(|flow| (format!("{}/{}", flow.app, flow.name), flow.reasons.as_slice())))
    }
}

impl Tabular for Vec<StreamStatus> {
    fn table(&self, wide: bool) -> String {
        let mut columns = vec!["STREAM", "PARTITION", "NODE", "FIRST", "NEXT"];
        if wide {
            columns.extend(["EPOCH", "IN SYNC"]);
        }
        let mut table = Table::new(&columns);
        for stream in self {
            for partition in &stream.partitions {
                let mut row = vec![
                    format!("{}/{}", stream.app, stream.name),
                    format!("{}@{}", partition.partition, partition.site),
                    optional(partition.owner.as_ref()),
                    partition.first.to_string(),
                    partition.next.to_string(),
                ];
                if wide {
                    row.extend([partition.epoch.to_string(), list(&partition.in_sync)]);
                }
                table.row(row);
            }
        }
        table.render()
    }
}

impl Tabular for Vec<ConnectorStatus> {
    fn table(&self, wide: bool) -> String {
        let title = match self.first().map(|first| first.direction) {
            Some(ConnectorDirection::Out) => "SINK",
            _ => "SOURCE",
        };
        let mut columns = vec![title, "STREAM", "STATE", "NODE", "RECORDS", "PASSED OVER"];
        if wide {
            columns.extend(["BYTES", "EPOCH", "IN SYNC"]);
        }
        let mut table = Table::new(&columns);
        for connector in self {
            let mut row = vec![
                format!("{}/{}", connector.app, connector.name),
                connector.stream.clone(),
                health(connector.state),
                optional(connector.owner.as_ref()),
                connector.records.to_string(),
                connector.passed_over.to_string(),
            ];
            if wide {
                row.extend([connector.bytes.to_string(), connector.epoch.to_string(), list(&connector.in_sync)]);
            }
            table.row(row);
        }
        let said = |connector: &ConnectorStatus| {
            let reasons: Vec<String> = connector.reason.iter().cloned().collect();
            (format!("{}/{}", connector.app, connector.name), reasons)
        };
        let said: Vec<_> = self.iter().map(said).collect();
        table.render() + &remarks(said.iter().map(|(name, said)| (name.clone(), said.as_slice())))
    }
}

impl Tabular for PlanReport {
    fn table(&self, wide: bool) -> String {
        let mut text = String::new();
        if !self.placements.is_empty() {
            let mut columns = vec!["KIND", "NAME", "NODES"];
            if wide {
                columns.push("COPIES");
            }
            columns.push("WHY");
            let mut table = Table::new(&columns);
            for placed in &self.placements {
                let name = match placed.partition {
                    Some(partition) => format!("{}/{partition}", placed.name),
                    None => placed.name.clone(),
                };
                let mut row = vec![placed.kind.clone(), name, list(&placed.nodes)];
                if wide {
                    row.push(list(&placed.replicas));
                }
                let excluded = placed.excluded.iter().filter(|_| wide);
                row.push(placed.reasons.iter().chain(excluded).map(String::as_str).collect::<Vec<_>>().join("\n"));
                table.row(row);
            }
            text.push_str(&table.render());
        }
        if !self.predictions.is_empty() {
            let mut table = Table::new(&["FLOW", "SINK", "PREDICTED P95", "OBJECTIVE", "MADE OF"]);
            for row in &self.predictions {
                let missed = row.slo_p95_ms.is_some_and(|slo| row.predicted_p95_ms > slo);
                let objective =
                    row.slo_p95_ms.map(|slo| format!("{}{}", milliseconds(slo), if missed { " VIOLATED" } else { "" }));
                table.row([
                    row.flow.clone(),
                    row.sink.clone(),
                    milliseconds(row.predicted_p95_ms),
                    optional(objective),
                    row.parts.join(if wide { "\n" } else { " + " }),
                ]);
            }
            text.push_str(&format!("\n{}", table.render()));
        }
        for refusal in &self.refusals {
            text.push_str(&format!(
                "\nrefused: {} cannot be placed: {}\n  constraint: {}\n  help: {}\n",
                refusal.subject, refusal.message, refusal.constraint, refusal.hint
            ));
        }
        text
    }
}

impl Tabular for TokenGrant {
    fn table(&self, _wide: bool) -> String {
        // Nothing but the token, so that `TOKEN=$(littoral token create)` works.
        format!("{}\n", self.token)
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
