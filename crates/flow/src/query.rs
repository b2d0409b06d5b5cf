//! The stage of a flow in SQL, beside the guests of a chain: it runs in the node itself, without a component.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::entry::{PORT_CHANGES, PORT_MAIN, handover_port, partition_port};
use littoral_model::id::FunctionName;
use littoral_runtime::stage::{Rejection, StageError, StageOutput};
use littoral_runtime::user_function::{CallFailure, Callee};
use littoral_sql::{
    Call, CallError, Called, Calling, Functions, Notice, Output, PORT_LATE, Partitions, Plan, Rescaling, Stage,
};

use crate::chain::Operator;

/// A query that runs.
#[derive(Debug)]
pub struct Query {
    stage: Stage,
    callees: Callees,
}

/// The components that a query calls, by the function of the app.
#[derive(Debug)]
struct Callees(BTreeMap<FunctionName, Callee>);

impl Query {
    /// A query without state, over that partition of its input, with an instance of each function of the app that it calls. Where
    /// the number of partitions by key is changed, its numbers are `known`.
    #[must_use]
    pub fn new(
        plan: Arc<Plan>,
        partition: u32,
        known: Option<Partitions>,
        callees: BTreeMap<FunctionName, Callee>,
    ) -> Self {
        Self { stage: Stage::new(plan, partition).changing(known), callees: Callees(callees) }
    }
}

impl Functions for Callees {
    fn call<'a>(&'a mut self, call: &'a Call) -> Calling<'a> {
        Box::pin(async move {
            let function = &call.function;
            let missing = || CallError::Unavailable(format!("function {} is not there", function.function));
            let callee = self.0.get_mut(&function.function).ok_or_else(missing)?;
            let called = callee.call(&function.export, (&call.arguments, call.rows), &function.result.arrow()).await;
            let outcome = called.map_err(|failure| match failure {
                CallFailure::TooLarge(reason) => CallError::TooLarge(format!("{}: {reason}", function.name)),
                CallFailure::Unavailable(fault) => {
                    CallError::Unavailable(format!("function {}: {fault}", function.function))
                }
            })?;
            Ok(Called { values: outcome.values, faults: outcome.faults })
        })
    }
}

#[async_trait(?Send)]
impl Operator for Query {
    async fn open(&mut self, schema: &Schema) -> Result<(), StageError> {
        self.stage.open(schema).map_err(rejected)
    }

    async fn process(&mut self, rows: &RecordBatch, _: i64) -> Result<StageOutput, StageError> {
        let outcome = self.stage.process_with(rows, &mut self.callees).await;
        // What cannot be taken of a change is no row that could be left out.
        let fault = if Notice::is_of(rows.schema_ref()) { unready } else { rejected };
        Ok(by_port(outcome.map_err(fault)?))
    }

    async fn on_timer(&mut self, _: i64) -> Result<StageOutput, StageError> {
        // It asks for none: time is what its rows say.
        Ok(StageOutput::default())
    }

    async fn on_idle(&mut self) -> Result<StageOutput, StageError> {
        Ok(by_port(self.stage.idle().map_err(rejected)?))
    }

    fn has_more(&self) -> bool {
        self.stage.has_more()
    }

    fn comes_first(&self) -> bool {
        self.stage.comes_first()
    }

    fn rescaling(&self) -> Rescaling {
        self.stage.rescaling()
    }

    async fn go_on(&mut self) -> Result<StageOutput, StageError> {
        Ok(by_port(self.stage.go_on_with(&mut self.callees).await.map_err(rejected)?))
    }

    async fn snapshot(&mut self, groups: &[u32]) -> Result<Vec<(u32, Bytes)>, StageError> {
        Ok(self.stage.snapshot(groups).into_iter().map(|(group, bytes)| (group, Bytes::from(bytes))).collect())
    }

    async fn restore(&mut self, groups: Vec<(u32, Bytes)>) -> Result<(), StageError> {
        let groups: Vec<(u32, &[u8])> = groups.iter().map(|(group, bytes)| (*group, bytes.as_ref())).collect();
        self.stage.restore(&groups).map_err(rejected)
    }
}

fn by_port(output: Output) -> StageOutput {
    let main = output.rows.map(|rows| (PORT_MAIN.to_owned(), rows));
    let spread = output.spread.into_iter().map(|(partition, rows)| (partition_port(partition), rows));
    let handed = output.handed.into_iter().map(|(partition, rows)| (handover_port(partition), rows));
    let announced = output.announced.map(|rows| (PORT_CHANGES.to_owned(), rows));
    let late = output.late.map(|rows| (PORT_LATE.to_owned(), rows));
    // A group is of no row of the batch.
    let failed = output.failed.into_iter().map(|reason| Rejection { row: u32::MAX, reason });
    let rejected = output.rejected.into_iter().map(|(row, reason)| Rejection { row, reason }).chain(failed);
    StageOutput {
        outputs: main.into_iter().chain(spread).chain(handed).chain(announced).chain(late).collect(),
        rejected: rejected.collect(),
        dirty: output.dirty,
        timer_us: None,
    }
}

fn rejected(error: littoral_sql::StageError) -> StageError {
    match error {
        // Nothing is wrong with the rows.
        littoral_sql::StageError::Function(_) | littoral_sql::StageError::State(_) => unready(error),
        error => StageError::Rejected { reason: error.to_string() },
    }
}

fn unready(error: littoral_sql::StageError) -> StageError {
    StageError::Unready { reason: error.to_string() }
}
