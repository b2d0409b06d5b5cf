//! Makes several stages of one whose rows have to come together by their keys: those of groups, where the source has several
//! partitions, and those of two streams that are joined.

use std::collections::{BTreeMap, BTreeSet};

use crate::aggregate::Aggregate;
use crate::expr::Expr;
use crate::plan::{
    Argument, Grouping, JoinSide, Joining, Lateness, Pairing, Phase, Plan, Shape, Sharding, Turn, hash, hash_on,
};
use crate::query::used;
use crate::shard;
use crate::types::{Column, Type, are_of_record};

/// Over how many partitions the rows of a flow are spread by their keys at most: each partition of the source sends to each.
pub(crate) const KEYED_PARTITIONS_MAX: u32 = 16;

/// In how many windows a row may be whose groups are aggregated in two phases: what is sent is more for each of them.
const WINDOWS_OF_PARTIALS_MAX: u64 = 4;

/// Over how many partitions rows are spread by their keys where the flow does not say it: as many as they come from.
pub(crate) fn usual_partitions(producers: u32) -> u32 {
    producers.min(KEYED_PARTITIONS_MAX)
}

/// What spreads rows by their keys.
pub(crate) struct Spread {
    pub(crate) parts: Vec<Part>,
    /// Over how many partitions.
    pub(crate) partitions: u32,
}

/// What spreads the rows of one stream.
pub(crate) struct Part {
    /// What it is called, behind the name of the flow.
    pub(crate) name: &'static str,
    /// The stream.
    pub(crate) source: String,
    pub(crate) plan: Plan,
}

/// What groups the rows of several partitions, in two: what each of these does with its rows, and what becomes of all that are of
/// one group.
pub(crate) fn spread(
    plan: Plan,
    source: &str,
    (producers, partitions): (u32, u32),
    idle_us: Option<i64>,
    are_two_phases: bool,
) -> (Option<Spread>, Plan) {
    let Shape::Group(mut grouping) = plan.shape else { return (None, plan.identified()) };
    let types: Vec<Type> = grouping.keys.iter().map(|(_, ty)| *ty).collect();
    let mut sharding = Sharding {
        producers,
        first: 0,
        partitions,
        time: grouping.time,
        lateness: Lateness::Closed { window: grouping.window, allowed_us: grouping.lateness_us },
        delay_us: grouping.delay_us,
        idle_us,
        keys: Vec::new(),
        arguments: Vec::new(),
        partial: None,
    };
    let (columns, state_layout) = if are_two_phases {
        let partial = Grouping { having: None, project: Vec::new(), phase: Phase::Partial, ..(*grouping).clone() };
        let parts = partial.aggregates.iter().filter_map(Aggregate::parts).flatten();
        let columns = shard::columns_of_partials(types.into_iter(), parts);
        sharding.partial = Some(Box::new(partial));
        grouping.phase = Phase::Final;
        grouping.aggregates.iter_mut().for_each(|of| (of.argument, of.filter) = (None, None));
        (columns, hash_on(plan.state_layout, b" in two phases"))
    } else {
        sharding.arguments = taken_apart(&mut grouping);
        sharding.keys = grouping.keys.iter().map(|(key, _)| key.clone()).collect();
        (shard::columns(types.into_iter(), sharding.arguments.iter().map(|of| of.ty)), plan.state_layout)
    };
    grouping.keys.iter_mut().zip(shard::KEYS..).for_each(|((key, _), place)| *key = Expr::Column(place));
    (grouping.time, grouping.producers) = (shard::MOMENT, Some(producers));
    let group = Plan {
        input: columns.clone(),
        is_record: false,
        filter: None,
        shape: Shape::Group(grouping),
        output: plan.output,
        has_late_port: false,
        keyed_partitions: Some(partitions),
        state_layout,
        ..plan
    };
    let plan = Plan { shape: Shape::Shard(Box::new(sharding)), output: columns, state_layout, ..plan };
    let part = Part { name: "by-key", source: source.to_owned(), plan: plan.identified() };
    (Some(Spread { parts: vec![part], partitions }), group.identified())
}

/// Why groups cannot be aggregated in two phases, if so.
pub(crate) fn refuses_phases(grouping: &Grouping, waits_for_idle: bool) -> Option<&'static str> {
    if grouping.window.turn == Turn::Sessions {
        Some("a session may go on in another partition")
    } else if waits_for_idle {
        Some("what a partition that falls idle (IDLE AFTER) has not sent yet would be missing")
    } else if grouping.aggregates.iter().any(|of| of.parts().is_none()) {
        Some("count(DISTINCT …), approx_count_distinct and approx_quantile keep more of a group than a few values")
    } else if grouping.window.most_at_once() > WINDOWS_OF_PARTIALS_MAX {
        Some("a row is in more than 4 windows")
    } else {
        None
    }
}

/// What the aggregates of groups take of rows, each once; they take it from where it is among the columns of rows on their way.
fn taken_apart(grouping: &mut Grouping) -> Vec<Argument> {
    let first = shard::KEYS + grouping.keys.len();
    let mut arguments: Vec<Argument> = Vec::new();
    for aggregate in &mut grouping.aggregates {
        let (value, filter) = (aggregate.argument.take(), aggregate.filter.take());
        if value.is_none() && filter.is_none() {
            // It counts all rows.
            continue;
        }
        let ty = if value.is_some() { aggregate.ty } else { Type::Boolean };
        let argument = Argument { value, ty, filter };
        let place = arguments.iter().position(|known| *known == argument).unwrap_or_else(|| {
            arguments.push(argument);
            arguments.len() - 1
        });
        aggregate.argument = Some(Expr::Column(first + place));
    }
    arguments
}

/// A join, as it was checked. In what is said of pairs the columns of the left side come first, and behind them those of the right one.
pub(crate) struct Checked {
    pub(crate) sides: [CheckedSide; 2],
    /// The types of the key's columns.
    pub(crate) keys: Vec<Type>,
    pub(crate) pairing: Pairing,
    pub(crate) on: Option<Expr>,
    pub(crate) filter: Option<Expr>,
    pub(crate) project: Vec<Expr>,
    pub(crate) output: Vec<Column>,
    pub(crate) has_late_port: bool,
    pub(crate) idle_us: Option<i64>,
    /// Over how many partitions its rows are spread, if the flow says it.
    pub(crate) partitions: Option<u32>,
}

/// One side of it.
#[derive(Debug)]
pub(crate) struct CheckedSide {
    pub(crate) source: String,
    pub(crate) columns: Vec<Column>,
    /// How many partitions the stream has.
    pub(crate) partitions: u32,
    /// The place of its moments.
    pub(crate) time: usize,
    /// How much these may be out of order.
    pub(crate) delay_us: i64,
    pub(crate) is_outer: bool,
    pub(crate) keys: Vec<Expr>,
    /// Which of its rows count at all.
    pub(crate) filter: Option<Expr>,
}

/// What of the columns of a side goes where in the stream between.
#[derive(Debug, Default)]
struct Laid {
    /// Where those are that count.
    columns: Vec<(usize, Type)>,
    /// By place among the values what goes there; the rest is the key.
    values: BTreeMap<usize, usize>,
}

/// A join in three: what spreads the rows of either side, and what makes pairs of them.
pub(crate) fn pair(mut join: Checked) -> (Spread, Plan) {
    let mut wanted = BTreeSet::new();
    join.each_column(&mut |place| {
        wanted.insert(*place);
    });
    join.each_column(&mut |place| *place = wanted.range(..*place).count());
    let usual = usual_partitions(join.sides.iter().map(|side| side.partitions).max().unwrap_or(1));
    let partitions = join.partitions.unwrap_or(usual);
    let state_layout = join.layout(&wanted);
    let Checked { sides: [left, right], keys, pairing, on, filter, project, output, has_late_port, idle_us, .. } = join;
    let start = left.columns.len();
    // Values of one type of both sides share their places, for a row has those of one side.
    let mut types = Vec::new();
    let of_left = left.lay(wanted.range(..start).copied(), keys.len(), &mut types);
    let of_right = right.lay(wanted.range(start..).map(|place| place - start), keys.len(), &mut types);
    let columns = shard::columns(keys.iter().copied(), types.iter().copied());
    let side = |of: &CheckedSide, laid: &Laid| JoinSide {
        producers: of.partitions,
        delay_us: of.delay_us,
        is_outer: of.is_outer,
        columns: laid.columns.clone(),
    };
    let sides = [side(&left, &of_left), side(&right, &of_right)];
    let joining = Joining { sides, keys: keys.len(), pairing, on, filter, project };
    let plan = Plan {
        input: columns.clone(),
        is_record: false,
        filter: None,
        shape: Shape::Join(Box::new(joining)),
        output,
        has_late_port: false,
        state_layout,
        keyed_partitions: Some(partitions),
        fingerprint: 0,
    };
    // A version is never late: it is valid from then on.
    let of_right_rows = match pairing {
        Pairing::Within { .. } => Lateness::Older,
        Pairing::Version => Lateness::Never,
    };
    let behind_left = left.partitions;
    let of_sides =
        [("left", left, of_left, 0, Lateness::Older), ("right", right, of_right, behind_left, of_right_rows)];
    let parts = of_sides.map(|(name, side, laid, first, lateness)| {
        let argument = |(at, ty): (usize, &Type)| Argument {
            value: Some(laid.values.get(&at).map_or_else(|| Expr::null(*ty), |place| Expr::Column(*place))),
            ..nothing(*ty)
        };
        let arguments = types.iter().enumerate().map(argument).collect();
        let has_late_port = has_late_port && lateness != Lateness::Never;
        let sharding = side.sharding((first, partitions), lateness, idle_us, arguments);
        side.part(name, sharding, &columns, has_late_port)
    });
    (Spread { parts: parts.into(), partitions }, plan.identified())
}

impl Checked {
    /// Does something with the place of each column in what is said of pairs.
    fn each_column(&mut self, of: &mut dyn FnMut(&mut usize)) {
        let exprs = self.on.iter_mut().chain(&mut self.filter).chain(&mut self.project);
        exprs.for_each(|expr| expr.each_column(of));
    }

    /// What the state of the pairs depends on: the streams and their numbers of partitions, the columns that are `wanted` of them,
    /// the key, which moments pairs have, and for rows that come out alone what they are not joined by.
    fn layout(&self, wanted: &BTreeSet<usize>) -> u64 {
        let [left, right] = &self.sides;
        let of = |side: &CheckedSide, start: usize| {
            let named = |place: &usize| side.columns.get(*place).map(|column| (column.name.clone(), column.ty));
            let places: Vec<usize> = wanted.iter().filter_map(|place| place.checked_sub(start)).collect();
            let columns: Vec<_> = places.iter().filter_map(named).collect();
            let mut keys = side.keys.clone();
            let mut of_keys = Vec::new();
            let mut name = |place: &mut usize| {
                of_keys.extend(named(place));
                *place = of_keys.len();
            };
            keys.iter_mut().for_each(|key| key.each_column(&mut name));
            let time = side.columns.get(side.time).map(|column| column.name.as_str());
            format!(
                "{} of {} {time:?} {columns:?} {keys:?} {of_keys:?} {}",
                side.source, side.partitions, side.is_outer
            )
        };
        // Whether a row was joined is kept of it; with versions it is asked only when the row comes out.
        let keeps_joined = (left.is_outer || right.is_outer) && self.pairing != Pairing::Version;
        let on = self.on.as_ref().filter(|_| keeps_joined);
        let (left, right) = (of(left, 0), of(right, left.columns.len()));
        let pairing = match self.pairing {
            Pairing::Within { low_us, high_us } => format!("{low_us} {high_us}"),
            Pairing::Version => "version".to_owned(),
        };
        hash(format!("join {left} {right} {:?} {pairing} {on:?}", self.keys).as_bytes())
    }
}

impl CheckedSide {
    /// Gives the columns at the places that are wanted one in the stream between: that of the moment or the key which they are, or one
    /// of the values, of which there are more then if there is none of the type.
    fn lay(&self, wanted: impl Iterator<Item = usize>, keys: usize, types: &mut Vec<Type>) -> Laid {
        let mut laid = Laid::default();
        for place in wanted {
            let Some(column) = self.columns.get(place) else { continue };
            let key = self.keys.iter().position(|key| *key == Expr::Column(place));
            let at = match key {
                _ if place == self.time => shard::MOMENT,
                Some(key) => shard::KEYS + key,
                None => {
                    let is_free = |at: &usize| types.get(*at) == Some(&column.ty) && !laid.values.contains_key(at);
                    let at = (0..types.len()).find(is_free).unwrap_or_else(|| {
                        types.push(column.ty);
                        types.len() - 1
                    });
                    laid.values.insert(at, place);
                    shard::KEYS + keys + at
                }
            };
            laid.columns.push((at, column.ty));
        }
        laid
    }

    fn sharding(
        &self,
        (first, partitions): (u32, u32),
        lateness: Lateness,
        idle_us: Option<i64>,
        arguments: Vec<Argument>,
    ) -> Sharding {
        Sharding {
            producers: self.partitions,
            first,
            partitions,
            time: self.time,
            lateness,
            delay_us: self.delay_us,
            idle_us,
            keys: self.keys.clone(),
            arguments,
            partial: None,
        }
    }

    fn part(self, name: &'static str, sharding: Sharding, between: &[Column], has_late_port: bool) -> Part {
        let Self { source, columns, mut filter, .. } = self;
        let time = columns.get(sharding.time).map(|column| column.name.as_str());
        let state_layout = hash(format!("{name} of a join {source} of {} {time:?}", sharding.producers).as_bytes());
        let mut shape = Shape::Shard(Box::new(sharding));
        let is_record = are_of_record(&columns);
        let input = if has_late_port { columns } else { used(&columns, &mut filter, &mut shape) };
        let output = between.to_vec();
        let plan = Plan {
            input,
            is_record,
            filter,
            shape,
            output,
            has_late_port,
            state_layout,
            keyed_partitions: None,
            fingerprint: 0,
        };
        Part { name, source, plan: plan.identified() }
    }
}

/// A value that is not there.
fn nothing(ty: Type) -> Argument {
    Argument { value: Some(Expr::null(ty)), ty, filter: None }
}
