//! Samples, their medians and spreads, the table and the file of a benchmark.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

/// What one configuration measured, in the order of the runs.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Series {
    /// Whose, and of what.
    pub(crate) name: String,
    /// Version and configuration, so that it can be run again.
    pub(crate) configuration: String,
    /// The unit of the samples.
    pub(crate) unit: &'static str,
    /// One for each run.
    pub(crate) samples: Vec<f64>,
    /// What else each run measured, by name with the unit last.
    pub(crate) further: BTreeMap<&'static str, Vec<f64>>,
    /// The median of the ratios to a peer's runs, for the samples and by name for what else was measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) against: Vec<Against>,
}

/// A ratio to a peer in the same run.
#[derive(Debug, Serialize)]
pub(crate) struct Against {
    /// The peer.
    pub(crate) peer: String,
    /// Of what: a unit or a name of `further`.
    pub(crate) of: String,
    /// The median over the pairs.
    pub(crate) ratio: f64,
}

/// Everything that a benchmark measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Results {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it ran on.
    pub(crate) machine: String,
    /// How busy the machine was before and after: the load average of one minute.
    pub(crate) load: (f64, f64),
    /// Whether it was the short form, for trying out; such figures are not to be quoted.
    pub(crate) short: bool,
    /// All configurations, the peer first.
    pub(crate) series: Vec<Series>,
    /// What could not be measured, and why. A ratio that would need it is not there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) failed: BTreeMap<String, String>,
    /// The worst over the configurations, by key.
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

/// The sample below which this share of them lies.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(place).or(sorted.last()).copied().unwrap_or_default()
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

impl Series {
    /// An empty one.
    pub(crate) fn new(name: impl Into<String>, configuration: impl Into<String>, unit: &'static str) -> Self {
        Self { name: name.into(), configuration: configuration.into(), unit, ..Self::default() }
    }

    /// Adds what one run measured.
    pub(crate) fn note(&mut self, sample: f64, further: &[(&'static str, f64)]) {
        self.samples.push(sample);
        further.iter().for_each(|(name, value)| self.note_further(name, *value));
    }

    /// Adds what else a run measured.
    pub(crate) fn note_further(&mut self, name: &'static str, value: f64) {
        self.further.entry(name).or_default().push(value);
    }

    /// What runs measured under a name: the unit of the samples, or a name of `further`.
    pub(crate) fn of(&self, name: &str) -> &[f64] {
        if name == self.unit { &self.samples } else { self.further.get(name).map_or(&[], Vec::as_slice) }
    }

    /// Notes the ratio of what is called `of` to a peer's, pair by pair, and returns it.
    pub(crate) fn compare(&mut self, peer: &Self, of: &str) -> f64 {
        let ratio = paired_ratio(self.of(of), peer.of(of));
        self.against.push(Against { peer: peer.name.clone(), of: of.to_owned(), ratio });
        ratio
    }
}

impl Results {
    /// An empty one, begun now.
    pub(crate) fn begin(name: &'static str, short: bool) -> Self {
        Self { name, machine: machine(), load: (load(), 0.0), short, ..Self::default() }
    }

    /// Prints the table and writes the file.
    pub(crate) fn publish(&self) -> anyhow::Result<()> {
        let form = if self.short { " (short form)" } else { "" };
        println!("\n{}{form} on {}; load {:.2} before, {:.2} after", self.name, self.machine, self.load.0, self.load.1);
        let width = self.series.iter().map(|series| series.name.chars().count()).max().unwrap_or_default();
        println!("{:<width$} {:>12} {:>12} {:>12}  {:<10}", "", "median", "min", "max", "unit");
        for series in &self.series {
            let (min, max) =
                series.samples.iter().fold((f64::MAX, 0.0_f64), |(min, max), s| (min.min(*s), max.max(*s)));
            let [middle, min, max] = [median(&series.samples), min, max].map(number);
            let further =
                series.further.iter().map(|(name, values)| format!("{name} {}", number(median(values)).trim()));
            let against = series.against.iter().map(|a| format!("[{} × {:.3} of {}]", a.of, a.ratio, a.peer));
            let rest = further.chain(against).collect::<Vec<_>>().join("  ");
            println!("{:<width$} {middle:>12} {min:>12} {max:>12}  {:<10} {rest}", series.name, series.unit);
        }
        for (what, why) in &self.failed {
            println!("{what}: FAILED: {why}");
        }
        for (key, ratio) in &self.ratios {
            println!("{key} = {ratio:.3}");
        }
        let folder = target().join("bench");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}.json", self.name));
        std::fs::write(&file, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        println!("samples: {}", file.display());
        Ok(())
    }
}

/// Where builds go.
pub(crate) fn target() -> PathBuf {
    let here = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(here, PathBuf::from)
}

/// As many digits as mean something.
fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
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

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((quantile(&samples, 0.99) - 99.0).abs() < f64::EPSILON);
        assert!((quantile(&samples, 1.0) - 100.0).abs() < f64::EPSILON);
        assert!((quantile(&[7.0], 0.5) - 7.0).abs() < f64::EPSILON);
        assert!(quantile(&[], 0.5).abs() < f64::EPSILON);
    }
}
