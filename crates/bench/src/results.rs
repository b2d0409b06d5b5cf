//! Samples, their medians and spreads, the table and the file of a benchmark.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

/// What one configuration measured, in the order of the runs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Series {
    /// Whose.
    pub(crate) name: String,
    /// Version and configuration, so that it can be run again.
    pub(crate) configuration: String,
    /// The unit of the samples.
    pub(crate) unit: &'static str,
    /// One for each run.
    pub(crate) samples: Vec<f64>,
    /// The latency of a batch in each run, in milliseconds: median and 95th percentile.
    pub(crate) batch_ms: Vec<(f64, f64)>,
}

/// Everything that a benchmark measured.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it ran on.
    pub(crate) machine: String,
    /// How busy the machine was before and after: the load average of one minute.
    pub(crate) load: (f64, f64),
    /// All configurations, the peer first.
    pub(crate) series: Vec<Series>,
    /// The worst ratio over the pairs' medians, by key.
    pub(crate) ratios: BTreeMap<String, f64>,
}

/// The middle of some samples.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.get(middle.saturating_sub(1))) {
        (Some(upper), Some(lower)) if sorted.len().is_multiple_of(2) => f64::midpoint(*upper, *lower),
        (Some(middle), _) => *middle,
        _ => 0.0,
    }
}

/// The median of the ratios of pairs that ran one after the other.
pub(crate) fn paired_ratio(ours: &[f64], peer: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(peer).map(|(ours, peer)| ours / peer).collect();
    median(&ratios)
}

/// The load average of the last minute.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// The machine, in words.
pub(crate) fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} cores,{}", model.trim_start_matches([' ', '\t', ':']))
}

impl Results {
    /// Prints the table and writes the file.
    pub(crate) fn publish(&self) -> anyhow::Result<()> {
        println!("\n{} on {}; load {:.2} before, {:.2} after", self.name, self.machine, self.load.0, self.load.1);
        println!("{:<28} {:>14} {:>12} {:>12} {:>14} {:>10}", "", "median", "min", "max", "batch p50/p95", "unit");
        for series in &self.series {
            let (min, max) =
                series.samples.iter().fold((f64::MAX, 0.0_f64), |(min, max), s| (min.min(*s), max.max(*s)));
            let p50: Vec<f64> = series.batch_ms.iter().map(|(p50, _)| *p50).collect();
            let p95: Vec<f64> = series.batch_ms.iter().map(|(_, p95)| *p95).collect();
            let batch = format!("{:.2}/{:.2} ms", median(&p50), median(&p95));
            println!(
                "{:<28} {:>14.0} {min:>12.0} {max:>12.0} {batch:>14} {:>10}",
                series.name,
                median(&series.samples),
                series.unit
            );
        }
        for (key, ratio) in &self.ratios {
            println!("{key} = {ratio:.3}");
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let folder = target.join("bench");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}.json", self.name));
        std::fs::write(&file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("samples: {}", file.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!((paired_ratio(&[1.0, 2.0, 9.0], &[2.0, 4.0, 9.0]) - 0.5).abs() < f64::EPSILON);
    }
}
