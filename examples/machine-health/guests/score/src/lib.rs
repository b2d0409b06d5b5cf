//! `score`: judges each reading of each sensor by what has been normal for that sensor, and raises alerts.
//!
//! Input: what `clean` puts out. The main port has alerts only, as they cross to the cloud; the port `scored` has every
//! reading with its score, and stays near. Rows that fill a gap keep the averages going and are not put out. State: one
//! [`detector::Detector`] per sensor, the same few numbers however long it runs.

pub mod detector;

use detector::{Detector, NORMAL_HALF_LIFE_US, RECENT_HALF_LIFE_US, Settings};
use littoral_sdk::prelude::*;

/// The port of all readings with their scores.
pub const SCORED: &str = "scored";

const HOUR_US: i64 = 3_600_000_000;

/// Scores readings and raises alerts.
#[derive(Debug)]
pub struct Score {
    settings: Settings,
    detectors: Keyed<Detector>,
}

impl Stage for Score {
    fn open(input: &Schema, _config: &Config) -> Result<Self> {
        input.find("sensor", Type::Utf8)?;
        input.find("seq", Type::S64)?;
        input.find("time", Type::Timestamp)?;
        input.find("value", Type::F64)?;
        input.find("filled", Type::Bool)?;
        input.find("published", Type::Timestamp)?;
        Ok(Self { settings: Settings::default(), detectors: Keyed::new() })
    }

    fn ports(&self) -> Vec<Port> {
        vec![
            Port::main([
                Field::new("sensor", Type::Utf8),
                Field::new("seq", Type::S64),
                Field::new("time", Type::Timestamp),
                Field::new("value", Type::F64),
                Field::new("score", Type::F64),
                Field::new("reason", Type::Utf8),
                Field::new("published", Type::Timestamp),
            ]),
            Port::side(
                SCORED,
                [
                    Field::new("sensor", Type::Utf8),
                    Field::new("seq", Type::S64),
                    Field::new("time", Type::Timestamp),
                    Field::new("value", Type::F64),
                    Field::new("score", Type::F64),
                    Field::new("alarm", Type::Bool),
                    Field::new("published", Type::Timestamp),
                ],
            ),
        ]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (sensors, seqs, times) = (batch.utf8("sensor")?, batch.s64("seq")?, batch.timestamp("time")?);
        let (values, filled) = (batch.f64("value")?, batch.bool("filled")?);
        let published = batch.timestamp("published")?;
        for row in 0..batch.rows() {
            let (Some(sensor), Some(time), Some(value), Some(filled), Some(published)) =
                (sensors.get(row), times.get(row), values.get(row), filled.get(row), published.get(row))
            else {
                out.reject(row, "a column has no value; expected what `clean` puts out");
                continue;
            };
            let seq = seqs.get(row);
            if seq.is_none() && !filled {
                out.reject(row, "a reading has no number; expected what `clean` puts out");
                continue;
            }
            let detector = self.detectors.entry(sensor);
            let verdict = detector.observe(&self.settings, time, value, !filled);
            let Some(seq) = seq.filter(|_| !filled) else { continue };
            out.row(SCORED)
                .utf8(sensor)
                .s64(seq)
                .timestamp(time)
                .f64(value)
                .f64(verdict.score)
                .bool(verdict.alarm)
                .timestamp(published);
            if verdict.alert {
                out.row(MAIN)
                    .utf8(sensor)
                    .s64(seq)
                    .timestamp(time)
                    .f64(value)
                    .f64(verdict.score)
                    .utf8(&reason(detector, verdict.score))
                    .timestamp(published);
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.detectors]
    }
}

littoral_sdk::stage!(Score);

/// Why an alert was raised, for an operator.
fn reason(detector: &Detector, score: f64) -> String {
    let (recent, normal) = detector.averages();
    let side = if score < 0.0 { "below" } else { "above" };
    format!(
        "the recent average ({} h) is {recent:.1}, {:.1} deviations {side} the normal {normal:.1} ({} d)",
        RECENT_HALF_LIFE_US / HOUR_US,
        score.abs(),
        NORMAL_HALF_LIFE_US / (24 * HOUR_US),
    )
}
