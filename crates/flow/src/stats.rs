//! What a running unit of work has measured of itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

/// The longest latency that is told apart, in microseconds: an hour. Longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Two significant digits: quantiles within 1 %.
const DIGITS: u8 = 2;

/// Counters and latencies of one unit of work; shared between its task and whoever reports.
#[derive(Debug, Default)]
pub struct Stats(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rows_in: u64,
    rows_out: BTreeMap<String, u64>,
    rejected: u64,
    bytes_in: u64,
    process: Option<Histogram<u64>>,
    end_to_end: Option<Histogram<u64>>,
    last_error: Option<String>,
}

/// Quantiles of a latency, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50_us: u64,
    /// The 95th percentile.
    pub p95_us: u64,
    /// The 99th percentile.
    pub p99_us: u64,
}

/// The state of a [`Stats`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Rows consumed and committed.
    pub rows_in: u64,
    /// Rows put out, by port.
    pub rows_out: BTreeMap<String, u64>,
    /// Rows rejected.
    pub rejected: u64,
    /// Encoded bytes consumed.
    pub bytes_in: u64,
    /// Time in the guests, by row of a batch.
    pub process: Quantiles,
    /// From a record's publication until this work has committed what became of it.
    pub end_to_end: Quantiles,
    /// The last failure, for people.
    pub last_error: Option<String>,
}

/// What one committed step did.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// Rows consumed.
    pub rows_in: u64,
    /// Encoded bytes consumed.
    pub bytes_in: u64,
    /// Rows put out, by port.
    pub rows_out: Vec<(String, u64)>,
    /// Rows rejected.
    pub rejected: u64,
    /// Time in the guests.
    pub process: Option<Duration>,
    /// When the oldest record was published, in microseconds since 1970.
    pub origin_us: Option<i64>,
}

impl Stats {
    /// Takes note of a step that is committed now.
    pub fn committed(&self, step: &Step) {
        let now_us = now_us();
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.rows_in += step.rows_in;
        inner.bytes_in += step.bytes_in;
        inner.rejected += step.rejected;
        for (port, rows) in &step.rows_out {
            match inner.rows_out.get_mut(port) {
                Some(sum) => *sum += rows,
                None => drop(inner.rows_out.insert(port.clone(), *rows)),
            }
        }
        if let Some(process) = step.process {
            record(&mut inner.process, u64::try_from(process.as_micros()).unwrap_or(u64::MAX), step.rows_in);
        }
        if let Some(origin_us) = step.origin_us {
            record(&mut inner.end_to_end, u64::try_from(now_us - origin_us).unwrap_or(0), step.rows_in);
        }
    }

    /// Takes note of a failure.
    pub fn failed(&self, error: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last_error = Some(error.to_owned());
    }

    /// The present state.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            rows_in: inner.rows_in,
            rows_out: inner.rows_out.clone(),
            rejected: inner.rejected,
            bytes_in: inner.bytes_in,
            process: quantiles(inner.process.as_ref()),
            end_to_end: quantiles(inner.end_to_end.as_ref()),
            last_error: inner.last_error.clone(),
        }
    }

    /// Forgets the latencies measured so far, so that a new phase is measured by itself.
    pub fn reset_latency(&self) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.process = None;
        inner.end_to_end = None;
    }
}

/// The wall clock, in microseconds since 1970.
#[must_use]
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn record(histogram: &mut Option<Histogram<u64>>, value_us: u64, count: u64) {
    if histogram.is_none() {
        *histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS).ok();
    }
    if let Some(histogram) = histogram {
        histogram.saturating_record_n(value_us.clamp(1, LATENCY_US_MAX), count);
    }
}

fn quantiles(histogram: Option<&Histogram<u64>>) -> Quantiles {
    let Some(histogram) = histogram.filter(|histogram| !histogram.is_empty()) else {
        return Quantiles::default();
    };
    Quantiles {
        count: histogram.len(),
        p50_us: histogram.value_at_quantile(0.5),
        p95_us: histogram.value_at_quantile(0.95),
        p99_us: histogram.value_at_quantile(0.99),
    }
}
