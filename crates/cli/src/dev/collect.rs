//! Reads what came out of flows, and compares it with what went in: by the records' ids, not by anybody's counters.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use littoral_model::manifest::{Flow, Manifest, Sink};
use serde::Serialize;
use serde_json::Value;

use crate::client::Client;

/// Which streams of a flow say what became of its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The stream with a row for each record.
    pub(super) scored: String,
    /// The stream of rejected records.
    pub(super) rejected: Option<String>,
    /// The stream at the flow's end, if it is another one.
    pub(super) sink: Option<String>,
}

impl Outcome {
    /// The streams of the flow that reads `stream`. Every record is looked for in the first of its outputs, or in its
    /// sink where it has no other outputs.
    pub(super) fn of(manifest: &Manifest, stream: &str) -> Option<Self> {
        let flow: &Flow = manifest.flows.values().find(|flow| flow.source.as_str() == stream)?;
        let sink = match &flow.sink {
            Some(Sink::Stream(sink)) => Some(sink.to_string()),
            _ => None,
        };
        let scored = flow.outputs.values().next().map(ToString::to_string).or_else(|| sink.clone())?;
        let rejected = flow.dead_letter.as_ref().map(ToString::to_string);
        Some(Self { sink: sink.filter(|sink| *sink != scored), scored, rejected })
    }

    /// All of them.
    pub(super) fn streams(&self) -> impl Iterator<Item = &String> {
        [Some(&self.scored), self.rejected.as_ref(), self.sink.as_ref()].into_iter().flatten()
    }
}

/// Writes a stream from its beginning to a file; how many rows.
pub(super) async fn dump(client: &Client, app: &str, stream: &str, path: &Path) -> anyhow::Result<u64> {
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
    let mut lines = client.tail(app, stream, "?from=start").await?;
    let mut rows = 0;
    while let Some(line) = lines.next().await? {
        file.write_all(&line)?;
        file.write_all(b"\n")?;
        rows += 1;
    }
    file.flush()?;
    Ok(rows)
}

/// What became of the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    /// Records published.
    pub(super) records_in: u64,
    /// Of these, malformed on purpose.
    pub(super) malformed: u64,
    /// Records with a row in the output.
    pub(super) scored: u64,
    /// Records in the dead-letter stream.
    pub(super) dead_lettered: u64,
    /// Records that are in neither.
    pub(super) lost: u64,
    /// Rows too many.
    pub(super) duplicated: u64,
    /// Rows of records that were not published.
    pub(super) unexpected: u64,
}

/// Compares the files in a run's folder.
pub(super) fn tally(out: &Path, outcome: &Outcome) -> anyhow::Result<Tally> {
    // By key and value for every record; a well-formed one is also known by its key and number.
    let mut published: HashMap<(String, String), i64> = HashMap::new();
    let mut numbers: HashMap<(String, u64), (String, String)> = HashMap::new();
    let mut tally = Tally::default();
    for entry in std::fs::read_dir(out.join("input"))? {
        each(&entry?.path(), |row| {
            let (key, value) = (text(row, "key")?, text(row, "value")?);
            tally.records_in += 1;
            match well_formed(&value) {
                Some(number) => drop(numbers.insert((key.clone(), number), (key.clone(), value.clone()))),
                None => tally.malformed += 1,
            }
            *published.entry((key, value)).or_default() += 1;
            Some(())
        })?;
    }
    let output = out.join("output");
    each(&output.join(format!("{}.ndjson", outcome.scored)), |row| {
        let record = numbers.get(&(text(row, "sensor")?, row.get("seq")?.as_u64()?));
        tally.scored += 1;
        match record.and_then(|record| published.get_mut(record)) {
            Some(left) => *left -= 1,
            None => tally.unexpected += 1,
        }
        Some(())
    })?;
    if let Some(rejected) = &outcome.rejected {
        each(&output.join(format!("{rejected}.ndjson")), |row| {
            let record: Value = serde_json::from_str(row.get("row")?.as_str()?).ok()?;
            tally.dead_lettered += 1;
            match published.get_mut(&(text(&record, "key")?, text(&record, "value")?)) {
                Some(left) => *left -= 1,
                None => tally.unexpected += 1,
            }
            Some(())
        })?;
    }
    for left in published.into_values() {
        match u64::try_from(left) {
            Ok(left) => tally.lost += left,
            Err(_) => tally.duplicated += left.unsigned_abs(),
        }
    }
    Ok(tally)
}

/// The number of a well-formed record, `number,time,value`.
fn well_formed(value: &str) -> Option<u64> {
    let fields: Vec<&str> = value.split(',').collect();
    let [number, time, value] = fields.as_slice() else { return None };
    let value: f64 = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    super::incidents::time_us(time)?;
    number.parse().ok().filter(|_| (-459.67..=10_000.0).contains(&value))
}

/// The times of alarms in the output, by sensor.
pub(super) fn alarms(out: &Path, outcome: &Outcome) -> anyhow::Result<BTreeMap<String, Vec<i64>>> {
    let mut alarms: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    each(&out.join("output").join(format!("{}.ndjson", outcome.scored)), |row| {
        if row.get("alarm").and_then(Value::as_bool) == Some(true) {
            let time = text(row, "time")?.replace('T', " ");
            let time = super::incidents::time_us(time.trim_end_matches('Z'))?;
            alarms.entry(text(row, "sensor")?).or_default().push(time);
        }
        Some(())
    })?;
    Ok(alarms)
}

fn text(row: &Value, name: &str) -> Option<String> {
    Some(row.get(name)?.as_str()?.to_owned())
}

/// Calls back for each line; one that is not as expected is an error.
fn each(path: &Path, mut take: impl FnMut(&Value) -> Option<()>) -> anyhow::Result<()> {
    let file = BufReader::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?);
    for (number, line) in file.lines().enumerate() {
        let row: Value = serde_json::from_str(&line?)?;
        take(&row).with_context(|| {
            format!("{}:{} is no row of records with key and value, or sensor and seq", path.display(), number + 1)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(scores: &str, rejects: &str) -> Tally {
        let folder = tempfile::tempdir().unwrap();
        for part in ["input", "output"] {
            std::fs::create_dir(folder.path().join(part)).unwrap();
        }
        let input = "{\"key\":\"a\",\"value\":\"1,2014-01-01 00:00:00,5\"}\n{\"key\":\"a\",\"value\":\"2,2014-01-01 00:05:00,6\"}\n{\"key\":\"a\",\"value\":\"junk\"}\n";
        std::fs::write(folder.path().join("input/d.ndjson"), input).unwrap();
        std::fs::write(folder.path().join("output/scores.ndjson"), scores).unwrap();
        std::fs::write(folder.path().join("output/rejects.ndjson"), rejects).unwrap();
        let outcome = Outcome { scored: "scores".into(), rejected: Some("rejects".into()), sink: None };
        tally(folder.path(), &outcome).unwrap()
    }

    #[test]
    fn what_is_whole_is_told_from_what_is_not() {
        let one = "{\"sensor\":\"a\",\"seq\":1}\n";
        let two = "{\"sensor\":\"a\",\"seq\":2}\n";
        let junk = "{\"row\":\"{\\\"key\\\":\\\"a\\\",\\\"value\\\":\\\"junk\\\"}\"}\n";
        let whole = run(&format!("{one}{two}"), junk);
        assert_eq!((whole.records_in, whole.malformed, whole.scored, whole.dead_lettered), (3, 1, 2, 1));
        assert_eq!((whole.lost, whole.duplicated, whole.unexpected), (0, 0, 0));
        let broken = run(&format!("{one}{one}{{\"sensor\":\"b\",\"seq\":1}}\n"), "");
        assert_eq!((broken.lost, broken.duplicated, broken.unexpected), (2, 1, 1));
    }
}
