//! What the stage of a flow does with its rows.

use std::sync::Arc;
use std::time::Duration;

use littoral_model::manifest::Partitioning;

use crate::aggregate::Aggregate;
use crate::expr::Expr;
use crate::types::{Column, Type};
use crate::user_function::UserFunction;

/// A thousand thousandths: as much as before.
const SAME_PERMILLE: u64 = 1_000;
/// Of a thousand rows how many a condition is expected to pass: a third, as for ranges in System R (Selinger et al., "Access Path
/// Selection in a Relational Database Management System", 1979).
const PASSED_PERMILLE: u64 = 333;
/// How many groups a thousand rows are expected to be of in a window.
const GROUPS_PERMILLE: u64 = 100;
/// More than ten times as many bytes as before are not told apart.
const PERMILLE_MAX: u64 = 10_000;

/// The stage of a flow, as its query came to.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The columns of the rows that it reads: those that count, and with a stream for late rows all.
    pub(crate) input: Vec<Column>,
    /// Whether the rows are records as they were published, not what is in them.
    pub(crate) is_record: bool,
    /// Which of them count.
    pub(crate) filter: Option<Expr>,
    /// What becomes of them.
    pub(crate) shape: Shape,
    /// The columns of the rows that it puts out.
    pub(crate) output: Vec<Column>,
    /// Whether there is a stream for rows that come too late.
    pub(crate) has_late_port: bool,
    /// Equal for plans that can go on with one another's state, over however many partitions rows are spread by their keys.
    pub(crate) state_layout: u64,
    /// Over how many partitions the rows that it reads are spread by their keys, if they are.
    pub(crate) keyed_partitions: Option<u32>,
    /// Equal for plans that do the same.
    pub(crate) fingerprint: u64,
}

impl Plan {
    /// The columns of the rows that it reads, and of those that come too late.
    pub(crate) fn input(&self) -> &[Column] {
        &self.input
    }

    /// The columns of the rows that it puts out.
    #[must_use]
    pub fn output(&self) -> &[Column] {
        &self.output
    }

    /// Equal for plans that do the same, as one version of Littoral reads them; another one may have another.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What it asks of the partitions of its input.
    #[must_use]
    pub fn partitioning(&self) -> Partitioning {
        match &self.shape {
            // The rows that a join reads have come together by their keys.
            Shape::Project(_) | Shape::Join(_) => Partitioning::Any,
            Shape::Shard(sharding) => Partitioning::ByKey(sharding.producers),
            // Rows of one key are in one partition already.
            Shape::Group(grouping) if grouping.producers.is_some() => Partitioning::Any,
            Shape::Group(_) => Partitioning::Single,
        }
    }

    /// After how long without rows it is to be told that [its partition is idle](crate::Stage::idle), if ever.
    #[must_use]
    pub fn idle_after(&self) -> Option<Duration> {
        let Shape::Shard(sharding) = &self.shape else { return None };
        Some(Duration::from_micros(u64::try_from(sharding.idle_us?).ok()?))
    }

    /// Whether its rows were brought together by their keys before, so that each says how far others are.
    #[must_use]
    pub fn is_keyed(&self) -> bool {
        match &self.shape {
            Shape::Project(_) | Shape::Shard(_) => false,
            Shape::Group(grouping) => grouping.producers.is_some(),
            Shape::Join(_) => true,
        }
    }

    /// Whether it [may have more](crate::Stage::has_more) to put out than it does at once.
    #[must_use]
    pub fn may_have_more(&self) -> bool {
        match &self.shape {
            Shape::Group(_) | Shape::Join(_) => true,
            Shape::Shard(sharding) => sharding.partial.is_some(),
            Shape::Project(_) => false,
        }
    }

    /// How many bytes it is expected to put out for a thousand of rows of these columns; a guess, of what is usual.
    pub(crate) fn output_permille(&self, read: &[Column]) -> u32 {
        let width = |columns: &[Column]| columns.iter().map(|column| column.ty.usual_bytes()).sum::<u64>().max(1);
        let by_row = width(&self.output) * SAME_PERMILLE / width(read);
        let by_filter =
            |permille: u64| self.filter.as_ref().map_or(permille, |_| permille * PASSED_PERMILLE / SAME_PERMILLE);
        let by_groups =
            |permille: u64, window: Window| permille * window.most_at_once() * GROUPS_PERMILLE / SAME_PERMILLE;
        let permille = match &self.shape {
            // How many rows join one another is anybody's guess.
            Shape::Project(_) | Shape::Join(_) => by_filter(by_row),
            Shape::Shard(sharding) => match &sharding.partial {
                Some(partial) => by_groups(by_filter(by_row), partial.window),
                None => by_filter(by_row),
            },
            // Partial aggregates of few partitions come together.
            Shape::Group(grouping) if grouping.phase == Phase::Final => by_row,
            Shape::Group(grouping) => by_groups(by_filter(by_row), grouping.window),
        };
        u32::try_from(permille.clamp(1, PERMILLE_MAX)).unwrap_or(u32::MAX)
    }

    /// The functions of the app that it calls, each once.
    #[must_use]
    pub fn functions(&self) -> Vec<Arc<UserFunction>> {
        let mut functions: Vec<Arc<UserFunction>> = Vec::new();
        for expr in self.filter.iter().chain(self.shape.exprs()) {
            expr.each_user_function(&mut |function| {
                if !functions.contains(function) {
                    functions.push(Arc::clone(function));
                }
            });
        }
        functions
    }

    /// The same with its fingerprint.
    pub(crate) fn identified(self) -> Self {
        let Self { input, is_record, filter, shape, output, has_late_port, keyed_partitions, .. } = &self;
        let mut described = format!("{input:?} {is_record} {filter:?} {shape:?} {output:?} {has_late_port}");
        described.extend(keyed_partitions.map(|partitions| format!(" over {partitions}")));
        Self { fingerprint: hash(described.as_bytes()), ..self }
    }

    /// Gives its result these columns, which differ from its own in their names and in what may be missing.
    pub(crate) fn put_out(&mut self, columns: &[Column]) {
        self.output = columns.to_vec();
        self.fingerprint = hash(format!("{:016x} {columns:?}", self.fingerprint).as_bytes());
    }

    /// What it does, an operator a line, in the order in which rows come through.
    #[must_use]
    pub fn operators(&self) -> Vec<String> {
        let mut operators = vec![format!("decode {}", columns(&self.input))];
        let called = |of: Arc<UserFunction>| format!("call {} of function {}", of.signature(), of.function);
        operators.extend(self.functions().into_iter().map(called));
        operators.extend(self.filter.as_ref().map(|_| "filter".to_owned()));
        match &self.shape {
            Shape::Project(_) => {}
            Shape::Join(joining) => {
                operators.push(joining.told());
                operators.extend(joining.on.as_ref().map(|_| "filter pairs that join".to_owned()));
                operators.extend(joining.filter.as_ref().map(|_| "filter pairs".to_owned()));
            }
            Shape::Shard(sharding) => {
                let idle = sharding.idle_us.map_or_else(String::new, |us| format!(", idle after {}", seconds(us)));
                operators.extend(sharding.partial.as_ref().map(|partial| format!("partial {}", partial.told())));
                operators.push(format!(
                    "spread by {} keys over {} partitions, watermark {} behind{idle}",
                    sharding.keys().count(),
                    sharding.partitions,
                    seconds(sharding.delay_us)
                ));
            }
            Shape::Group(grouping) => {
                operators.push(grouping.told());
                operators.extend(grouping.having.as_ref().map(|_| "filter groups".to_owned()));
            }
        }
        operators.push(format!("project {}", columns(&self.output)));
        operators
    }
}

/// What becomes of the rows that count.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// Each becomes one.
    Project(Vec<Expr>),
    /// They go to the groups of their keys, which are in several partitions.
    Shard(Box<Sharding>),
    /// They are grouped by keys and windows.
    Group(Box<Grouping>),
    /// Those of two streams make pairs.
    Join(Box<Joining>),
}

impl Shape {
    /// All that it computes.
    fn exprs(&self) -> Vec<&Expr> {
        match self {
            Self::Project(exprs) => exprs.iter().collect(),
            Self::Shard(sharding) => {
                let arguments = sharding.arguments.iter().flat_map(|of| of.value.iter().chain(&of.filter));
                let partial = sharding.partial.iter().flat_map(|partial| partial.exprs());
                sharding.keys.iter().chain(arguments).chain(partial).collect()
            }
            Self::Group(grouping) => grouping.exprs().collect(),
            Self::Join(joining) => joining.on.iter().chain(&joining.filter).chain(&joining.project).collect(),
        }
    }

    /// Does something with the place of each column of the input.
    pub(crate) fn each_column(&mut self, of: &mut dyn FnMut(&mut usize)) {
        match self {
            Self::Project(exprs) => exprs.iter_mut().for_each(|expr| expr.each_column(of)),
            Self::Shard(sharding) => sharding.each_column(of),
            Self::Group(grouping) => grouping.each_column(of),
            // Its columns are those of the stream between.
            Self::Join(_) => {}
        }
    }
}

/// Rows on their way to the groups of their keys, from several partitions of the source to several of the groups.
#[derive(Clone, Debug)]
pub(crate) struct Sharding {
    /// How many partitions the source has.
    pub(crate) producers: u32,
    /// Which number the first of them has among those of all streams whose rows come together.
    pub(crate) first: u32,
    /// How many there are of groups.
    pub(crate) partitions: u32,
    /// The column with the moment of a row.
    pub(crate) time: usize,
    /// Which rows come too late.
    pub(crate) lateness: Lateness,
    /// How much the moments may be out of order.
    pub(crate) delay_us: i64,
    /// After how long without rows a partition of the source is not waited for.
    pub(crate) idle_us: Option<i64>,
    /// Nothing of these where rows are aggregated in two phases.
    pub(crate) keys: Vec<Expr>,
    /// What aggregates take of rows.
    pub(crate) arguments: Vec<Argument>,
    /// What is sent in place of rows where they are aggregated in two phases: what those of each group come to.
    pub(crate) partial: Option<Box<Grouping>>,
}

/// Which rows come too late, and are not sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lateness {
    /// None.
    Never,
    /// Those that are older than the watermark.
    Older,
    /// Those whose windows have been closed for the time that is allowed.
    Closed { window: Window, allowed_us: i64 },
}

/// What an aggregate takes of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Argument {
    /// None where it only counts that there is a row.
    pub(crate) value: Option<Expr>,
    pub(crate) ty: Type,
    /// Which rows it takes.
    pub(crate) filter: Option<Expr>,
}

impl Sharding {
    /// Whether a row of a moment is late where the watermark of its partition is `past`.
    pub(crate) fn is_late(&self, time_us: i64, past: Option<i64>) -> bool {
        match self.lateness {
            Lateness::Never => false,
            Lateness::Older => past.is_some_and(|watermark| time_us < watermark),
            Lateness::Closed { window, allowed_us } => window.open(time_us, past, allowed_us).next().is_none(),
        }
    }

    /// What says where a row goes.
    fn keys(&self) -> impl Iterator<Item = &Expr> {
        let of_groups = self.partial.iter().flat_map(|partial| partial.keys.iter().map(|(key, _)| key));
        self.keys.iter().chain(of_groups)
    }

    /// Does something with the place of each column of the input.
    fn each_column(&mut self, of: &mut dyn FnMut(&mut usize)) {
        of(&mut self.time);
        self.partial.iter_mut().for_each(|partial| partial.each_column(of));
        self.keys.iter_mut().for_each(|key| key.each_column(of));
        let arguments = self.arguments.iter_mut().flat_map(|of| of.value.iter_mut().chain(&mut of.filter));
        arguments.for_each(|expr| expr.each_column(of));
    }
}

/// Groups of rows.
#[derive(Clone, Debug)]
pub(crate) struct Grouping {
    /// The column whose moments say which window a row is of.
    pub(crate) time: usize,
    pub(crate) window: Window,
    /// How much the moments may be out of order.
    pub(crate) delay_us: i64,
    /// How much later a row still changes the result of its window.
    pub(crate) lateness_us: i64,
    /// Of how many partitions of the source the rows are, where they were spread by their keys.
    pub(crate) producers: Option<u32>,
    pub(crate) keys: Vec<(Expr, Type)>,
    pub(crate) aggregates: Vec<Aggregate>,
    /// Which groups count; over a group's row.
    pub(crate) having: Option<Expr>,
    /// What a group becomes; over its row.
    pub(crate) project: Vec<Expr>,
    pub(crate) phase: Phase,
}

/// Which part of the way from rows to results it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// All of it.
    Single,
    /// From the rows of one partition of the source to what its aggregates have taken in.
    Partial,
    /// From there to results.
    Final,
}

impl Grouping {
    fn exprs(&self) -> impl Iterator<Item = &Expr> {
        let aggregates = self.aggregates.iter().flat_map(|of| of.argument.iter().chain(&of.filter));
        let of_groups = self.having.iter().chain(&self.project);
        self.keys.iter().map(|(key, _)| key).chain(aggregates).chain(of_groups)
    }

    fn told(&self) -> String {
        let aggregates: Vec<&str> = self.aggregates.iter().map(|aggregate| aggregate.kind.name()).collect();
        let behind = match self.producers {
            None => format!("watermark {} behind", seconds(self.delay_us)),
            Some(producers) => format!("watermark the least of {producers} partitions"),
        };
        format!(
            "{}, {} keys, {behind}, {}",
            self.window.told(),
            self.keys.len(),
            if aggregates.is_empty() { "no aggregates".to_owned() } else { aggregates.join(", ") }
        )
    }

    /// Does something with the place of each column of the input.
    pub(crate) fn each_column(&mut self, of: &mut dyn FnMut(&mut usize)) {
        of(&mut self.time);
        self.keys.iter_mut().for_each(|(key, _)| key.each_column(of));
        for aggregate in &mut self.aggregates {
            let exprs = aggregate.argument.iter_mut().chain(&mut aggregate.filter);
            exprs.for_each(|expr| expr.each_column(of));
        }
    }
}

/// Pairs of rows of two streams.
#[derive(Clone, Debug)]
pub(crate) struct Joining {
    /// The left and the right one.
    pub(crate) sides: [JoinSide; 2],
    /// How many columns the key has.
    pub(crate) keys: usize,
    /// Which moments rows of a pair have.
    pub(crate) pairing: Pairing,
    /// Which rows join beyond that; over the row of a pair, which has the columns of the left side and then those of the right.
    pub(crate) on: Option<Expr>,
    /// Which pairs count, and rows that come out alone.
    pub(crate) filter: Option<Expr>,
    /// What they become.
    pub(crate) project: Vec<Expr>,
}

/// With which rows of the right side, of those with its key, a row of the left one makes pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// All that are later by so much: at least, and at most. Negative where they are earlier.
    Within { low_us: i64, high_us: i64 },
    /// The last that is not later: the version that was valid then.
    Version,
}

/// One side of a join.
#[derive(Clone, Debug)]
pub(crate) struct JoinSide {
    /// How many partitions its stream has.
    pub(crate) producers: u32,
    /// How much its moments may be out of order.
    pub(crate) delay_us: i64,
    /// Whether its rows come out alone that no row of the other side joins.
    pub(crate) is_outer: bool,
    /// Where in the rows of the stream between the columns are that count.
    pub(crate) columns: Vec<(usize, Type)>,
}

impl Joining {
    fn told(&self) -> String {
        let [left, right] = &self.sides;
        let kind = match (left.is_outer, right.is_outer) {
            (false, false) => "inner",
            (true, false) => "left",
            (false, true) => "right",
            (true, true) => "full",
        };
        let which = match self.pairing {
            Pairing::Within { low_us, high_us } => {
                format!("the right row {} to {} after the left one", seconds(low_us), seconds(high_us))
            }
            Pairing::Version => "the right row that was valid at the left one".to_owned(),
        };
        format!(
            "{kind} join by {} keys, {which}, watermarks the least of {} and of {} partitions",
            self.keys, left.producers, right.producers
        )
    }
}

/// Windows of a length, one after every `slide_us`; or such that grow by so much at a time up to their length, or sessions with a gap
/// of that length between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) size_us: i64,
    pub(crate) slide_us: i64,
    pub(crate) turn: Turn,
}

/// How one window follows another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Slides,
    Grows,
    Sessions,
}

impl Window {
    /// The windows that a moment is in, the one that ends first first. Of sessions what the moment alone would make.
    pub(crate) fn of(self, time_us: i64) -> impl Iterator<Item = (i64, i64)> {
        let Self { size_us, slide_us, turn } = self;
        let floor = |to: i64| time_us.saturating_sub(time_us.rem_euclid(to));
        let (start, steps) = (floor(size_us), size_us / slide_us);
        let hops = (size_us - 1) / slide_us;
        let (last, passed) = (floor(slide_us), time_us.rem_euclid(size_us) / slide_us);
        let count = match turn {
            Turn::Slides => hops + 1,
            Turn::Grows => steps - passed,
            Turn::Sessions => 1,
        };
        let window = move |number: i64| match turn {
            Turn::Slides => {
                let start = last.saturating_sub((hops - number).saturating_mul(slide_us));
                (start, start.saturating_add(size_us))
            }
            Turn::Grows => (start, start.saturating_add((passed + 1 + number).saturating_mul(slide_us))),
            Turn::Sessions => (time_us, time_us.saturating_add(size_us)),
        };
        (0..count).map(window).filter(move |(_, end)| time_us < *end)
    }

    /// In how many windows a moment is at most.
    pub(crate) fn most_at_once(self) -> u64 {
        if self.turn == Turn::Sessions { 1 } else { (self.size_us - 1).div_euclid(self.slide_us).unsigned_abs() + 1 }
    }

    /// The same, but for those that are closed where the watermark is `past`, and have been for the lateness that is allowed.
    pub(crate) fn open(
        self,
        time_us: i64,
        past: Option<i64>,
        lateness_us: i64,
    ) -> impl Iterator<Item = (i64, i64)> + use<> {
        let is_gone = move |end: i64| {
            past.is_some_and(|watermark| match self.turn {
                Turn::Slides | Turn::Grows => end.saturating_add(lateness_us) <= watermark,
                // What it belongs to may be closed.
                Turn::Sessions => time_us < watermark,
            })
        };
        self.of(time_us).filter(move |(_, end)| !is_gone(*end))
    }

    fn told(self) -> String {
        let Self { size_us, slide_us, turn } = self;
        match turn {
            Turn::Sessions => format!("sessions {} apart", seconds(size_us)),
            Turn::Grows => format!("cumulate {} up to {}", seconds(slide_us), seconds(size_us)),
            Turn::Slides if size_us == slide_us => format!("tumble {}", seconds(size_us)),
            Turn::Slides => format!("hop {} every {}", seconds(size_us), seconds(slide_us)),
        }
    }

    /// Whether a window ends after the one moment and not after the other. Sessions may end at any.
    pub(crate) fn ends_between(self, from_us: i64, to_us: i64) -> bool {
        let over = |us: i64| us.saturating_sub(self.size_us).div_euclid(self.slide_us);
        if self.turn == Turn::Sessions { from_us < to_us } else { over(from_us) < over(to_us) }
    }

    /// The begin of the window with an end, where that says it.
    pub(crate) fn start_of(self, end_us: i64) -> i64 {
        if self.turn == Turn::Grows {
            let last = end_us.saturating_sub(1);
            last.saturating_sub(last.rem_euclid(self.size_us))
        } else {
            end_us.saturating_sub(self.size_us)
        }
    }
}

/// A hash that is the same on every machine and in every version (FNV-1a).
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    hash_on(0xcbf2_9ce4_8422_2325, bytes)
}

/// The hash of something with these bytes behind it.
pub(crate) fn hash_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn columns(columns: &[Column]) -> String {
    let columns: Vec<String> = columns.iter().map(|column| format!("{} {}", column.name, column.ty)).collect();
    columns.join(", ")
}

fn seconds(us: i64) -> String {
    format!("{} s", us as f64 / 1e6)
}
