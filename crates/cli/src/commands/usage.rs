//! `littoral usage`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use littoral_node::admin::usage::{ChainReports, FunctionUsage, NodeUsage, UsageReport};

use crate::app::parse_time;
use crate::args::UsageArgs;
use crate::client::Client;
use crate::output::{self, Table, Tabular, bytes, optional};

/// Shows what functions have used, or checks the records of it.
pub(super) async fn run(args: &UsageArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let node = args.node.as_ref().map(|node| format!("&node={node}")).unwrap_or_default();
    if args.verify {
        let reports = client.usage_check(&node.replacen('&', "?", 1)).await?;
        output::print(&output::render(&reports, args.output)?)?;
        let whole = reports.nodes.iter().all(|report| report.problems.is_empty()) && reports.missing.is_empty();
        return Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let since_us = before(parse_time("--since", &args.since)?);
    let app = args.app.as_ref().map(|app| format!("&app={app}")).unwrap_or_default();
    let report = client.usage(&format!("?since_us={since_us}{app}{node}")).await?;
    output::print(&output::render(&report, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// A time ago, in microseconds since 1970.
pub(super) fn before(time: Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.saturating_sub(time).as_micros()).unwrap_or(i64::MAX)
}

/// CPU time, in seconds with milliseconds.
fn cpu(us: u64) -> String {
    format!("{:.3}s", Duration::from_micros(us).as_secs_f64())
}

fn cells(used: &FunctionUsage) -> [String; 5] {
    [
        used.invocations.to_string(),
        cpu(used.cpu_us),
        format!("{}\u{b7}s", bytes(used.memory_byte_s)),
        bytes(used.bytes_in),
        bytes(used.bytes_out),
    ]
}

/// Functions over all nodes.
fn summed(report: &UsageReport) -> Vec<FunctionUsage> {
    let mut sums: Vec<FunctionUsage> = Vec::new();
    for used in report.nodes.iter().flat_map(|node| &node.functions) {
        let same = |sum: &&mut FunctionUsage| {
            (&sum.tenant, &sum.app, &sum.function) == (&used.tenant, &used.app, &used.function)
        };
        match sums.iter_mut().find(same) {
            Some(sum) => {
                sum.cpu_us += used.cpu_us;
                sum.memory_byte_s += used.memory_byte_s;
                sum.bytes_in += used.bytes_in;
                sum.bytes_out += used.bytes_out;
                sum.invocations += used.invocations;
            }
            None => sums.push(used.clone()),
        }
    }
    sums.sort_by(|a, b| (&a.tenant, &a.app, &a.function).cmp(&(&b.tenant, &b.app, &b.function)));
    sums
}

/// One line for a node: what its process used, and what that is made up of.
fn balance(node: &NodeUsage) -> String {
    format!(
        "{}: functions {} + host {} = {} of the process's {} ({:+.2} %), in {} s\n",
        node.node,
        cpu(node.functions_cpu_us),
        cpu(node.host_cpu_us),
        cpu(node.functions_cpu_us + node.host_cpu_us),
        cpu(node.process_cpu_us),
        node.difference() * 100.0,
        (node.until_us - node.from_us) / 1_000_000,
    )
}

impl Tabular for UsageReport {
    fn table(&self, wide: bool) -> String {
        let used = ["CALLS", "CPU", "MEMORY", "IN", "OUT"];
        let mut table;
        if wide {
            table = Table::new(&[&["NODE", "TENANT", "APP", "FUNCTION"][..], &used].concat());
            for node in &self.nodes {
                for function in &node.functions {
                    let names = [&node.node, &function.tenant, &function.app, &function.function];
                    table.row(names.into_iter().cloned().chain(cells(function)));
                }
            }
        } else {
            table = Table::new(&[&["APP", "FUNCTION"][..], &used].concat());
            for function in summed(self) {
                table.row([function.app.clone(), function.function.clone()].into_iter().chain(cells(&function)));
            }
        }
        let nodes: String = self.nodes.iter().map(balance).collect();
        format!("{}\n{nodes}{}", table.render(), missing(&self.missing))
    }
}

impl Tabular for ChainReports {
    fn table(&self, _wide: bool) -> String {
        let mut table = Table::new(&["NODE", "RECORDS", "FIRST", "LAST", "HASH OF THE LAST", "WHOLE"]);
        let mut problems = String::new();
        for report in &self.nodes {
            let whole = if report.problems.is_empty() { "yes" } else { "no" };
            table.row([
                report.node.clone(),
                report.records.to_string(),
                optional(report.first),
                optional(report.last),
                optional(report.head.as_ref()),
                whole.to_owned(),
            ]);
            problems.extend(report.problems.iter().map(|problem| format!("{}: {problem}\n", report.node)));
        }
        format!("{}{}{}", table.render(), problems, missing(&self.missing))
    }
}

fn missing(nodes: &[String]) -> String {
    nodes.iter().map(|reason| format!("missing: {reason}\n")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    fn used(cpu_us: u64) -> FunctionUsage {
        let mut used = FunctionUsage { cpu_us, memory_byte_s: 3 << 20, invocations: 2, ..FunctionUsage::default() };
        (used.tenant, used.app, used.function) = ("default".into(), "shop".into(), "pay".into());
        used
    }

    #[test]
    fn functions_are_summed_over_nodes_and_each_node_is_balanced() {
        let node = |name: &str, host_cpu_us| NodeUsage {
            node: name.to_owned(),
            until_us: 60_000_000,
            functions: vec![used(1_500_000)],
            functions_cpu_us: 1_500_000,
            host_cpu_us,
            process_cpu_us: 2_000_000,
            ..NodeUsage::default()
        };
        let report =
            UsageReport { nodes: vec![node("a", 500_000), node("b", 400_000)], missing: vec!["c: cut off".into()] };
        assert_eq!(
            report.table(false),
            "APP   FUNCTION  CALLS  CPU     MEMORY    IN  OUT\n\
             shop  pay       4      3.000s  6.0MiB\u{b7}s  0B  0B\n\n\
             a: functions 1.500s + host 0.500s = 2.000s of the process's 2.000s (+0.00 %), in 60 s\n\
             b: functions 1.500s + host 0.400s = 1.900s of the process's 2.000s (-5.00 %), in 60 s\n\
             missing: c: cut off\n"
        );
        assert!(report.table(true).starts_with("NODE  TENANT   APP   FUNCTION"));
    }
}
