//! Makes two stages of one that groups rows, where those are in several partitions.

use crate::expr::Expr;
use crate::plan::{Argument, Plan, Shape, Sharding};
use crate::shard;
use crate::types::Type;

/// Over how many partitions the rows of a flow are spread by their keys at most: each partition of the source sends to each.
const KEYED_PARTITIONS_MAX: u32 = 16;

/// What spreads rows by their keys.
pub(crate) struct Spread {
    pub(crate) plan: Plan,
    /// Over how many partitions.
    pub(crate) partitions: u32,
}

/// What groups the rows of several partitions, in two: what each of these does with its rows, and what becomes of all that are of
/// one group.
pub(crate) fn spread(plan: Plan, producers: u32, idle_us: Option<i64>) -> (Option<Spread>, Plan) {
    let Shape::Group(mut grouping) = plan.shape else { return (None, plan.identified()) };
    let mut arguments: Vec<Argument> = Vec::new();
    let types: Vec<Type> = grouping.keys.iter().map(|(_, ty)| *ty).collect();
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
        aggregate.argument = Some(Expr::Column(shard::KEYS + types.len() + place));
    }
    let columns = shard::columns(types.into_iter(), &arguments);
    let keys = (shard::KEYS..).zip(&mut grouping.keys);
    let partitions = producers.min(KEYED_PARTITIONS_MAX);
    let sharding = Sharding {
        producers,
        partitions,
        time: std::mem::replace(&mut grouping.time, shard::MOMENT),
        window: grouping.window,
        delay_us: grouping.delay_us,
        lateness_us: grouping.lateness_us,
        idle_us,
        keys: keys.map(|(place, (key, _))| std::mem::replace(key, Expr::Column(place))).collect(),
        arguments,
    };
    grouping.producers = Some(producers);
    let group = Plan {
        input: columns.clone(),
        is_record: false,
        filter: None,
        shape: Shape::Group(grouping),
        output: plan.output,
        has_late_port: false,
        ..plan
    };
    let plan = Plan { shape: Shape::Shard(Box::new(sharding)), output: columns, ..plan };
    (Some(Spread { plan: plan.identified(), partitions }), group.identified())
}
