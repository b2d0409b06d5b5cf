//! Metering: what each function of this node uses, measured, and written down each minute so that it survives a crash.
//!
//! The counters are the functions' own ([`Usage`]); here they are found by name, compared with the clocks of the node's
//! threads (`clocks`), cut into spans of time, and kept in the chain of [`UsageLog`]. See
//! docs/explanation/metering.md.

mod clocks;
mod gather;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context as _;
use littoral_flow::stats::now_us;
use littoral_model::id::{AppId, FunctionName, NodeId};
use littoral_runtime::container::Containers;
use littoral_runtime::{Usage, UsageTotals};
use littoral_store::disk::RealDisk;
use littoral_store::usage::{UsageLog, UsageLogOptions, UsageRecord, UsageRow};
use tokio_util::sync::CancellationToken;

use self::clocks::{ThreadClocks, process_ns};
use crate::admin::usage::{ChainReport, FunctionUsage, NodeUsage};
use crate::data_dir::DataDir;
use crate::sync::lock;

pub(crate) use gather::{UsageAnswer, UsageReader, UsageRequest};

/// How often a record is written unless the settings say otherwise.
pub(crate) const PERIOD_DEFAULT: Duration = Duration::from_secs(60);
/// How often at the most: each record is synced to the disk.
pub(crate) const PERIOD_MIN: Duration = Duration::from_secs(1);
/// How often the threads' clocks are read, so that little is missed of those that end.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How many rows a record has; a node with more functions than this writes several. Each has some hundred bytes.
const ROWS_MAX: usize = 4_000;

type Key = (AppId, FunctionName);

/// Meters the functions of this node.
pub(crate) struct Metering {
    node: NodeId,
    log: UsageLog,
    functions: Mutex<HashMap<Key, Arc<Usage>>>,
    span: Mutex<Span>,
}

/// The span of time that is not written down yet.
struct Span {
    from_us: i64,
    clocks: ThreadClocks,
    /// What had been used when it began.
    functions: HashMap<Key, UsageTotals>,
    threads_ns: u64,
    process_ns: u64,
}

/// Where a span ends that is being written down.
struct Cut {
    record: UsageRecord,
    functions: HashMap<Key, UsageTotals>,
    threads_ns: u64,
    process_ns: u64,
}

impl Metering {
    /// Opens what is on the disk, and begins to count.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub(crate) fn open(node: NodeId, data: &DataDir) -> anyhow::Result<Self> {
        let disk = RealDisk::open(&data.usage())?;
        let log =
            UsageLog::open(Arc::new(disk), UsageLogOptions::default()).context("cannot open the usage records")?;
        // From the process's beginning: what it took to start is part of the first span.
        let (clocks, functions) = (ThreadClocks::default(), HashMap::new());
        let span = Span { from_us: now_us(), clocks, functions, threads_ns: 0, process_ns: 0 };
        Ok(Self { node, log, functions: Mutex::default(), span: Mutex::new(span) })
    }

    /// The counters of a function; the same ones each time it is started on this node.
    pub(crate) fn of(&self, app: &AppId, function: &FunctionName) -> Arc<Usage> {
        let mut functions = lock(&self.functions);
        Arc::clone(functions.entry((app.clone(), function.clone())).or_default())
    }

    /// Writes down what was used, each `period` and at the end; and how far that of containers was counted, which a later process may
    /// take up.
    pub(crate) async fn keep(
        self: Arc<Self>,
        containers: Option<Arc<Containers>>,
        period: Duration,
        stop: CancellationToken,
    ) {
        let mut looks = tokio::time::interval(LOOK_EVERY.min(period));
        let mut records = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = records.tick() => self.write_down(containers.clone()).await,
                _ = looks.tick() => drop(self.span().clocks.look()),
            }
        }
        self.write_down(containers).await;
    }

    async fn write_down(self: &Arc<Self>, containers: Option<Arc<Containers>>) {
        let this = Arc::clone(self);
        let closed = tokio::task::spawn_blocking(move || {
            this.close()?;
            // Afterwards: what a crash in between loses is what was used in the moment, and nothing is counted twice.
            containers
                .map_or(Ok(()), |containers| containers.note_counted().context("cannot note what containers used"))
        });
        match closed.await {
            Ok(Ok(())) => {}
            // What was used stays in the span, and is written down with the next record.
            Ok(Err(error)) => tracing::error!(%error, "cannot write down what functions used; trying again"),
            Err(error) => tracing::error!(%error, "writing down what functions used was interrupted"),
        }
    }

    /// Ends the span: writes it down, and begins the next one where it ends.
    fn close(&self) -> anyhow::Result<()> {
        let mut span = self.span();
        let cut = self.cut(&mut span);
        let until_us = cut.record.until_us;
        for record in split(cut.record) {
            self.log.append(record)?;
        }
        span.from_us = until_us;
        span.functions = cut.functions;
        (span.threads_ns, span.process_ns) = (cut.threads_ns, cut.process_ns);
        self.forget_ended(&mut span);
        Ok(())
    }

    /// Measures what was used in the span until now.
    fn cut(&self, span: &mut Span) -> Cut {
        let (threads_ns, process_ns) = (span.clocks.look(), process_ns());
        let functions: HashMap<Key, UsageTotals> = {
            let functions = lock(&self.functions);
            functions.iter().map(|(key, usage)| (key.clone(), usage.now())).collect()
        };
        let mut rows = Vec::new();
        let mut functions_ns = 0;
        for (key, now) in &functions {
            let before = span.functions.get(key).copied().unwrap_or_default();
            functions_ns += now.cpu_ns.saturating_sub(before.cpu_ns);
            rows.extend(row(key, before, *now));
        }
        rows.sort_by(|a, b| (&a.tenant, &a.app, &a.function).cmp(&(&b.tenant, &b.app, &b.function)));
        let host_ns = threads_ns.saturating_sub(span.threads_ns).saturating_sub(functions_ns);
        let record = UsageRecord {
            sequence: 0,
            node: self.node.to_string(),
            from_us: span.from_us,
            until_us: now_us(),
            rows,
            host_cpu_us: host_ns / 1_000,
            process_cpu_us: process_ns.saturating_sub(span.process_ns) / 1_000,
        };
        Cut { record, functions, threads_ns, process_ns }
    }

    /// Lets go of the counters of functions that nobody runs any more.
    fn forget_ended(&self, span: &mut Span) {
        let mut functions = lock(&self.functions);
        let unchanged = |key: &Key, usage: &Usage| span.functions.get(key).is_some_and(|seen| *seen == usage.now());
        functions.retain(|key, usage| Arc::strong_count(usage) > 1 || !unchanged(key, usage));
        span.functions.retain(|key, _| functions.contains_key(key));
    }

    /// What was used since a time (microseconds since 1970), the span under way included.
    pub(crate) fn used(&self, since_us: i64) -> anyhow::Result<NodeUsage> {
        // Held, so that no record is written between the two looks and counted twice.
        let mut span = self.span();
        let mut records = self.log.read(since_us)?;
        records.push(self.cut(&mut span).record);
        Ok(sum(self.node.to_string(), &records))
    }

    /// Checks the chain on this node's disk.
    pub(crate) fn check(&self) -> anyhow::Result<ChainReport> {
        let checked = self.log.check()?;
        Ok(ChainReport {
            node: self.node.to_string(),
            records: checked.records,
            first: checked.first,
            last: checked.last,
            head: checked.head.map(|hash| hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            problems: checked.problems,
        })
    }

    fn span(&self) -> MutexGuard<'_, Span> {
        lock(&self.span)
    }
}

/// What a function used between two moments; none if that is nothing.
fn row((app, function): &Key, before: UsageTotals, now: UsageTotals) -> Option<UsageRow> {
    let row = UsageRow {
        tenant: app.tenant.to_string(),
        app: app.app.to_string(),
        function: function.to_string(),
        cpu_us: now.cpu_ns.saturating_sub(before.cpu_ns) / 1_000,
        memory_byte_s: now.memory_byte_us.wrapping_sub(before.memory_byte_us) / 1_000_000,
        bytes_in: now.bytes_in.saturating_sub(before.bytes_in),
        bytes_out: now.bytes_out.saturating_sub(before.bytes_out),
        invocations: now.invocations.saturating_sub(before.invocations),
    };
    let used = [row.cpu_us, row.memory_byte_s, row.bytes_in, row.bytes_out, row.invocations];
    used.iter().any(|used| *used > 0).then_some(row)
}

/// A record as one, or as several if it has more rows than one may have. The host's share stands in the first.
fn split(mut record: UsageRecord) -> Vec<UsageRecord> {
    let mut more = Vec::new();
    while record.rows.len() > ROWS_MAX {
        let rows = record.rows.split_off(record.rows.len() - ROWS_MAX);
        more.push(UsageRecord { rows, host_cpu_us: 0, process_cpu_us: 0, ..record.clone() });
    }
    std::iter::once(record).chain(more).collect()
}

/// Adds records up, function by function.
fn sum(node: String, records: &[UsageRecord]) -> NodeUsage {
    let mut functions: BTreeMap<[String; 3], FunctionUsage> = BTreeMap::new();
    for row in records.iter().flat_map(|record| &record.rows) {
        let key = [row.tenant.clone(), row.app.clone(), row.function.clone()];
        let of = functions.entry(key).or_insert_with(|| FunctionUsage::new(&row.tenant, &row.app, &row.function));
        of.cpu_us += row.cpu_us;
        of.memory_byte_s += row.memory_byte_s;
        of.bytes_in += row.bytes_in;
        of.bytes_out += row.bytes_out;
        of.invocations += row.invocations;
    }
    let functions: Vec<FunctionUsage> = functions.into_values().collect();
    NodeUsage {
        node,
        from_us: records.first().map_or(0, |record| record.from_us),
        until_us: records.last().map_or(0, |record| record.until_us),
        functions_cpu_us: functions.iter().map(|function| function.cpu_us).sum(),
        host_cpu_us: records.iter().map(|record| record.host_cpu_us).sum(),
        process_cpu_us: records.iter().map(|record| record.process_cpu_us).sum(),
        functions,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use littoral_model::id::TenantId;

    use super::*;

    fn metering(folder: &tempfile::TempDir) -> Metering {
        Metering::open(NodeId::new("edge-1").unwrap(), &DataDir::new(folder.path())).unwrap()
    }

    fn key(function: &str) -> Key {
        let app = AppId { tenant: TenantId::default_tenant(), app: "shop".parse().unwrap() };
        (app, function.parse().unwrap())
    }

    #[test]
    fn what_was_used_is_there_before_and_after_it_is_written_down_and_after_a_new_start() {
        let folder = tempfile::tempdir().unwrap();
        let metering = metering(&folder);
        let (app, function) = key("pay");
        let usage = metering.of(&app, &function);
        usage.invoked();
        usage.received(10);
        let seen = |metering: &Metering| {
            let used = metering.used(0).unwrap();
            used.functions
                .iter()
                .map(|used| (used.function.clone(), used.invocations, used.bytes_in))
                .collect::<Vec<_>>()
        };
        assert_eq!(seen(&metering), [("pay".to_owned(), 1, 10)]);
        metering.close().unwrap();
        assert_eq!(seen(&metering), [("pay".to_owned(), 1, 10)]);
        metering.of(&app, &function).invoked();
        assert_eq!(seen(&metering), [("pay".to_owned(), 2, 10)], "started anew, it goes on with the same counters");
        metering.close().unwrap();
        drop(metering);
        let again = self::metering(&folder);
        assert_eq!(seen(&again), [("pay".to_owned(), 2, 10)]);
        let checked = again.check().unwrap();
        assert_eq!((checked.records, checked.problems.len()), (2, 0));
    }

    #[test]
    fn counters_that_nobody_uses_are_forgotten_once_they_are_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let metering = metering(&folder);
        let (app, function) = key("pay");
        metering.of(&app, &function).invoked();
        metering.close().unwrap();
        assert!(metering.functions.lock().unwrap().is_empty());
        assert_eq!(metering.used(0).unwrap().functions[0].invocations, 1);
    }

    #[test]
    fn many_rows_are_several_records_and_the_host_is_counted_once() {
        let rows = (0..2 * ROWS_MAX + 1).map(|number| UsageRow { function: number.to_string(), ..UsageRow::default() });
        let record = UsageRecord { rows: rows.collect(), host_cpu_us: 5, ..UsageRecord::default() };
        let records = split(record);
        assert_eq!(records.iter().map(|record| record.rows.len()).collect::<Vec<_>>(), [1, ROWS_MAX, ROWS_MAX]);
        assert_eq!(sum(String::new(), &records).host_cpu_us, 5);
    }
}
