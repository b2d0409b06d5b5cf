//! Functions of the app that expressions call: what statements declare of them, and how a stage has them computed.
//!
//! A stage knows neither components nor where they run: it asks [`Functions`] for the values of a [`Call`] over columns. An answer may
//! take its time, and expressions are computed without waiting. So a call to which an expression comes is noted ([`Calls`]), and once its
//! values are there the expressions are computed again, from the beginning up to the next call ([`computed`]): what is computed
//! twice is little beside a call, and depends on the rows alone.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arrow_array::{Array as _, ArrayRef};
use arrow_schema::ArrowError;
use littoral_model::id::FunctionName;

use crate::stage::StageError;
use crate::types::Type;

/// A function of the app, as `CREATE FUNCTION` declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFunction {
    /// What expressions call it.
    pub name: String,
    /// The function of the app.
    pub function: FunctionName,
    /// What the component of that exports.
    pub export: String,
    /// The names and types of what it takes.
    pub parameters: Vec<(String, Type)>,
    /// The type of what it returns.
    pub result: Type,
}

impl UserFunction {
    /// How it is called.
    #[must_use]
    pub fn signature(&self) -> String {
        let parameters: Vec<String> = self.parameters.iter().map(|(name, ty)| format!("{name} {ty}")).collect();
        format!("{}({})", self.name, parameters.join(", "))
    }
}

/// What a stage wants to know of a function.
#[derive(Clone, Debug)]
pub struct Call {
    /// The function.
    pub function: Arc<UserFunction>,
    /// A column for each parameter, of its type.
    pub arguments: Vec<ArrayRef>,
    /// How many values each of them has.
    pub rows: usize,
}

/// What a call came to.
#[derive(Clone, Debug)]
pub struct Called {
    /// A value for each row, of the type of the result; null where it failed.
    pub values: ArrayRef,
    /// The rows on which it failed, and why.
    pub faults: BTreeMap<usize, String>,
}

/// Why there are no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// What comes of so many rows at once is too large; fewer may do.
    #[error("{0}")]
    TooLarge(String),
    /// It cannot be called now, whatever the rows.
    #[error("{0}")]
    Unavailable(String),
}

/// A call under way.
pub type Calling<'a> = Pin<Box<dyn Future<Output = Result<Called, CallError>> + 'a>>;

/// Has functions of the app computed. The same arguments must come to the same values, however they are spread over calls.
pub trait Functions {
    /// Calls a function.
    fn call<'a>(&'a mut self, call: &'a Call) -> Calling<'a>;
}

/// What stages have that call none.
pub(crate) struct NoFunctions;

impl Functions for NoFunctions {
    fn call<'a>(&'a mut self, call: &'a Call) -> Calling<'a> {
        let reason = format!("nothing here calls functions as `{}`", call.function.name);
        Box::pin(std::future::ready(Err(CallError::Unavailable(reason))))
    }
}

/// The outcome of what waits for functions alone, where there are [none](NoFunctions).
pub(crate) fn at_once<T>(future: impl Future<Output = Result<T, StageError>>) -> Result<T, StageError> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(StageError::Function("it waits for a function".to_owned())),
    }
}

/// The calls to which expressions over some rows come, in their order.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// What they came to as far as they were made.
    made: Vec<Called>,
    /// How many the expressions have come to this time.
    met: usize,
    /// The one to which they have come and that is not made.
    wanted: Option<Call>,
}

impl Calls {
    /// What a call came to, if it was made.
    ///
    /// # Errors
    /// When it is to be made first: nothing more can be computed.
    pub(crate) fn meet(&mut self, call: Call) -> Result<Called, ArrowError> {
        match self.made.get(self.met) {
            Some(called) => {
                self.met += 1;
                Ok(called.clone())
            }
            None => {
                self.wanted = Some(call);
                Err(ArrowError::ComputeError("a function is to be called".to_owned()))
            }
        }
    }

    /// Takes what is to be called, if anything is, to begin again with what that comes to.
    fn begin_again(&mut self) -> Option<Call> {
        self.met = 0;
        self.wanted.take()
    }
}

/// Computes something of rows, and has functions called where that comes to them.
pub(crate) async fn computed<T>(
    functions: &mut dyn Functions,
    compute: impl Fn(&mut Calls) -> Result<T, ArrowError>,
) -> Result<T, StageError> {
    let mut calls = Calls::default();
    loop {
        let outcome = compute(&mut calls);
        let Some(call) = calls.begin_again() else { return Ok(outcome?) };
        let called = functions.call(&call).await.map_err(|error| match error {
            CallError::TooLarge(reason) => StageError::Arrow(reason),
            CallError::Unavailable(reason) => StageError::Function(reason),
        })?;
        let (count, ty) = (called.values.len(), called.values.data_type());
        if count != call.rows || *ty != call.function.result.arrow() {
            let UserFunction { name, .. } = &*call.function;
            return Err(StageError::Function(format!("`{name}` of {} rows came to {count} of {ty}", call.rows)));
        }
        calls.made.push(called);
    }
}
