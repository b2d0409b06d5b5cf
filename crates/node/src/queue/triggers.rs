//! What calls a function by itself: the ticks of schedules, and the records of streams.
//!
//! What a trigger calls and how far it has come are one entry of the queue's log, so that each tick and each record is one
//! call, whatever fails. Of the ticks that passed while nobody owned the queue, only the last is made up for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::select_all;
use littoral_control::queue::Queue;
use littoral_flow::batch;
use littoral_flow::reader::{Input, Part, Reader, Received, Source};
use littoral_model::entry::{InputPosition, Position};
use littoral_model::id::{Epoch, FunctionName};
use littoral_model::invocation::{BODY_BYTES_MAX, Request};
use littoral_model::schedule::{Schedule, Zone};
use littoral_model::work::WorkId;
use littoral_plan::Role;

use super::http::{STREAM, TRIGGER};
use crate::intent::App;

/// How many ticks that were missed are passed over in search of the last.
const MISSED_MAX: usize = 1_000_000;
/// How often it is told at most that records of a stream are passed over: a stream of such must not drive out other events.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// A row of a stream as JSON, and the position after it; none where there is only progress.
type Row = (Option<String>, Position);

/// The triggers of one queue.
#[derive(Default)]
pub(super) struct Triggers {
    schedules: Vec<Timetable>,
    lanes: Vec<Lane>,
}

struct Timetable {
    /// By which the queue remembers its last tick.
    name: String,
    schedule: Schedule,
    zone: Zone,
    text: String,
}

/// One partition of a stream.
struct Lane {
    input: Input,
    reader: Reader,
    epoch: Epoch,
    /// Rows that have arrived and are not taken in yet.
    rows: VecDeque<Row>,
    /// How far rows were taken in, committed or not.
    reached: Position,
    /// How many rows were too large since that was told last, and the position after the last of them.
    too_large: Option<(u64, Position)>,
    /// When it was told last.
    told: Option<Instant>,
}

/// Something that a trigger has come to.
pub(super) struct Fired {
    /// The call; none where there is only progress.
    pub(super) request: Option<Request>,
    pub(super) mark: Mark,
}

/// What is to be remembered of it.
pub(super) enum Mark {
    Tick { name: String, at_us: i64 },
    Row { lane: usize },
}

impl Triggers {
    /// The triggers that a queue fires. Its readers go on from what was committed.
    pub(super) fn new(
        app: &App,
        function: &FunctionName,
        queue: &WorkId,
        source: Arc<dyn Source>,
        restored: &[InputPosition],
    ) -> Self {
        // The first queue fires the triggers of the function; the placement gives it the streams.
        let is_first = queue.partition == 0;
        let of_it = app.manifest.triggers.iter().filter(|trigger| is_first && trigger.function == *function);
        let schedules = of_it.filter_map(|trigger| {
            let text = trigger.schedule.clone()?;
            let zone_text = trigger.zone.clone().unwrap_or_else(|| "UTC".to_owned());
            // Both were checked with the manifest.
            let (schedule, zone) = (text.parse().ok()?, zone_text.parse().ok()?);
            Some(Timetable { name: format!("{text} {zone_text}"), schedule, zone, text })
        });
        let inputs = match app.placement.work(queue).map(|placed| &placed.role) {
            Some(Role::Queue { sources, .. }) => sources.as_slice(),
            _ => &[],
        };
        let lanes = inputs.iter().map(|from| {
            let known = restored.iter().find(|known| known.work == from.work);
            let (epoch, reached) = known.map_or((Epoch(0), Position::START), |known| (known.epoch, known.position));
            let input = Input { work: from.work.clone(), port: from.port.clone() };
            let reader = Reader::start(Arc::clone(&source), queue.clone(), input.clone(), reached, epoch);
            Lane { input, reader, epoch, rows: VecDeque::new(), reached, too_large: None, told: None }
        });
        Self { schedules: schedules.collect(), lanes: lanes.collect() }
    }

    /// When a schedule ticks next, if one does.
    pub(super) fn next_us(&self, queue: &Queue, now: i64) -> Option<i64> {
        if self.lanes.iter().any(|lane| !lane.rows.is_empty()) {
            return Some(now);
        }
        let next = self.schedules.iter().filter_map(|table| {
            queue.tick(&table.name).map_or(Some(now), |last| table.schedule.next(last, table.zone))
        });
        next.min()
    }

    /// Waits until records of a stream have arrived.
    pub(super) async fn arrived(&mut self) {
        if self.lanes.is_empty() {
            return std::future::pending().await;
        }
        let next = self.lanes.iter_mut().map(|lane| {
            Box::pin(async move {
                // What has arrived is taken in first.
                if !lane.rows.is_empty() {
                    return std::future::pending().await;
                }
                match lane.reader.next().await {
                    Some(received) => lane.take(received),
                    None => std::future::pending().await,
                }
            })
        });
        let ((), _, _) = select_all(next).await;
    }

    /// What a trigger has come to by now, if one has.
    pub(super) fn next(&self, queue: &Queue, now: i64) -> Option<Fired> {
        let tick = self.schedules.iter().find_map(|table| table.due(queue, now));
        tick.or_else(|| self.lanes.iter().enumerate().find_map(|(place, lane)| lane.next(place)))
    }

    /// Takes note of that; a stream's progress is to be committed with the call.
    pub(super) fn taken(&mut self, queue: &mut Queue, mark: Mark) -> Option<InputPosition> {
        match mark {
            Mark::Tick { name, at_us } => {
                let known: Vec<String> = self.schedules.iter().map(|table| table.name.clone()).collect();
                queue.ticked(&name, at_us, &known);
                None
            }
            Mark::Row { lane } => {
                let lane = self.lanes.get_mut(lane)?;
                let (_, position) = lane.rows.pop_front()?;
                lane.reached = position;
                Some(InputPosition { work: lane.input.work.clone(), epoch: lane.epoch, position })
            }
        }
    }

    /// What people are to know of records that were passed over, if anything.
    pub(super) fn passed_over(&mut self) -> Vec<String> {
        self.lanes.iter_mut().filter_map(Lane::passed_over).collect()
    }

    /// Everything that was taken in is committed: the streams may forget it.
    pub(super) fn committed(&self) {
        for lane in &self.lanes {
            lane.reader.committed().reached(lane.reached);
        }
    }
}

impl Timetable {
    fn due(&self, queue: &Queue, now: i64) -> Option<Fired> {
        let Some(last) = queue.tick(&self.name) else {
            // It begins now.
            return Some(Fired { request: None, mark: Mark::Tick { name: self.name.clone(), at_us: now } });
        };
        let ticks = std::iter::successors(self.schedule.next(last, self.zone), |at| self.schedule.next(*at, self.zone));
        let at_us = ticks.take_while(|at| *at <= now).take(MISSED_MAX).last()?;
        let body = serde_json::json!({ "schedule": self.text, "zone": self.zone.to_string(), "time_us": at_us });
        Some(Fired {
            request: Some(request("schedule", Bytes::from(body.to_string()))),
            mark: Mark::Tick { name: self.name.clone(), at_us },
        })
    }
}

impl Lane {
    /// Cuts what has arrived into rows.
    fn take(&mut self, received: Received) {
        self.epoch = received.epoch;
        let next = received.next;
        for Part { index, row, skip, rows, .. } in received.into_parts() {
            let decoded = batch::decode(&rows).and_then(|rows| batch::to_json_lines(&rows));
            match decoded {
                Ok(text) => {
                    let rows = cut(&text, Position { index, row }, skip);
                    for (_, after) in rows.iter().filter(|(line, _)| line.is_none()) {
                        let before = self.too_large.map_or(0, |(count, _)| count);
                        self.too_large = Some((before.saturating_add(1), *after));
                    }
                    self.rows.extend(rows);
                }
                Err(error) => {
                    tracing::error!(stream = %self.input.work, index, %error, "records cannot be read, and call nothing");
                }
            }
        }
        self.rows.push_back((None, next));
    }

    fn next(&self, place: usize) -> Option<Fired> {
        let (line, _) = self.rows.front()?;
        let request = line.as_ref().map(|line| {
            let mut request = request("stream", Bytes::from(line.clone()));
            request.headers.push((STREAM.to_owned(), Bytes::from(self.input.work.name.clone())));
            request
        });
        Some(Fired { request, mark: Mark::Row { lane: place } })
    }

    fn passed_over(&mut self) -> Option<String> {
        if self.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return None;
        }
        let (count, Position { index, row }) = self.too_large.take()?;
        self.told = Some(Instant::now());
        Some(format!(
            "{count} records of {} have more than {BODY_BYTES_MAX} bytes as JSON, and call nothing; the last is row {row} \
             of entry {index}",
            self.input.work
        ))
    }
}

/// The rows of a batch after the first ones, and the places behind them. One that is too large for a request counts as read: an entry of the queue's
/// log could not hold it, however often it were tried, and what comes after it would wait for ever.
fn cut(text: &str, begin: Position, skip: u32) -> Vec<Row> {
    let lines = text.lines().enumerate().skip(usize::try_from(skip).unwrap_or(usize::MAX));
    let rows = lines.map(|(row, line)| {
        let row = u32::try_from(row).unwrap_or(u32::MAX).saturating_add(begin.row).saturating_add(1);
        let line = Some(line).filter(|line| line.len() <= BODY_BYTES_MAX);
        (line.map(str::to_owned), Position { row, ..begin })
    });
    rows.collect()
}

fn request(trigger: &'static str, body: Bytes) -> Request {
    let headers = vec![
        (TRIGGER.to_owned(), Bytes::from_static(trigger.as_bytes())),
        ("content-type".to_owned(), Bytes::from_static(b"application/json")),
    ];
    Request { method: "POST".to_owned(), uri: "/".to_owned(), headers, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_too_large_calls_nothing_and_counts_as_read() {
        let (fits, large) = ("x".repeat(BODY_BYTES_MAX), "x".repeat(BODY_BYTES_MAX + 1));
        let text = format!("first\n{fits}\n{large}\nlast\n");
        let at = |row| Position { index: 7, row };
        let expected = [(Some(fits), at(2)), (None, at(3)), (Some("last".to_owned()), at(4))];
        assert!(cut(&text, at(0), 1) == expected);
        assert!(cut(&text, at(0), 4).is_empty());
        // Its batch may not be the first of its entry.
        assert_eq!(cut(&text, at(9), 3), [(Some("last".to_owned()), at(13))]);
    }
}
