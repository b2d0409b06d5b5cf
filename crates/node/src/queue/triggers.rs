//! What calls a function by itself: the ticks of schedules, and the records of streams.
//!
//! What a trigger calls and how far it has come are one entry of the queue's log, so that each tick and each record is one
//! call, whatever fails. Of the ticks that passed while nobody owned the queue, only the last is made up for.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::select_all;
use littoral_control::queue::Queue;
use littoral_flow::batch;
use littoral_flow::reader::{Input, Reader, Received, Source};
use littoral_model::entry::{InputPosition, Position};
use littoral_model::id::{Epoch, FunctionName};
use littoral_model::invocation::Request;
use littoral_model::schedule::{Schedule, Zone};
use littoral_model::work::WorkId;
use littoral_plan::Role;

use crate::intent::App;

/// The header that says what has called the function.
const TRIGGER_HEADER: &str = "littoral-trigger";
/// How many ticks that were missed are passed over in search of the last.
const MISSED_MAX: usize = 1_000_000;

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
    /// Rows that have arrived and are not taken in yet, with the position after each.
    rows: VecDeque<(Option<String>, Position)>,
    /// How far rows were taken in, committed or not.
    reached: Position,
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
            Lane { input, reader, epoch, rows: VecDeque::new(), reached }
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
        for (index, rows) in received.batches {
            let skip = if index == received.from.index { received.from.row } else { 0 };
            let decoded = batch::decode(&rows).and_then(|rows| batch::to_json_lines(&rows));
            match decoded {
                Ok(text) => {
                    let rows = text.lines().enumerate().skip(usize::try_from(skip).unwrap_or(usize::MAX));
                    self.rows.extend(rows.map(|(row, line)| {
                        let row = u32::try_from(row).unwrap_or(u32::MAX).saturating_add(1);
                        (Some(line.to_owned()), Position { index, row })
                    }));
                }
                Err(error) => {
                    tracing::error!(stream = %self.input.work, index, %error, "records cannot be read, and call nothing");
                }
            }
        }
        self.rows.push_back((None, received.next));
    }

    fn next(&self, place: usize) -> Option<Fired> {
        let (line, _) = self.rows.front()?;
        let request = line.as_ref().map(|line| {
            let mut request = request("stream", Bytes::from(line.clone()));
            request.headers.push(("littoral-stream".to_owned(), Bytes::from(self.input.work.name.clone())));
            request
        });
        Some(Fired { request, mark: Mark::Row { lane: place } })
    }
}

fn request(trigger: &'static str, body: Bytes) -> Request {
    let headers = vec![
        (TRIGGER_HEADER.to_owned(), Bytes::from_static(trigger.as_bytes())),
        ("content-type".to_owned(), Bytes::from_static(b"application/json")),
    ];
    Request { method: "POST".to_owned(), uri: "/".to_owned(), headers, body }
}
