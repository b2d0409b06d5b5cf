//! User functions: plain functions that a component exports, called over Arrow columns.
//!
//! One that takes single values is called row by row; one that takes lists is given whole columns, and answers with one. Which it is,
//! and which of its values may be missing, its types say ([`Shape`]). All calls are made in one instance, one after the other. A
//! row on which a call fails has a reason in place of a value. Where a call over several rows fails, those that it fails on are
//! found by calling it over fewer; a function is to come to the same for a row, whatever rows stand beside it.

mod columns;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{Array as _, ArrayRef};
use arrow_schema::DataType;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Func, Instance, Lower, Val};

use self::columns::{Filled, Input, accepts, sql_types};
use crate::artifact::Artifact;
use crate::composition::{Interface, Interfaces, Kind, Primitive, Signature, Type};
use crate::engine::Wasm;
use crate::fabric::Invocation;
use crate::fault::Fault;
use crate::host::{Host, Setup, within};
use crate::meter::{Meter, bytes_of};
use crate::stage::StageSettings;
use crate::turns;

/// How much of the reason is kept that a guest gives for having no value.
const REASON_BYTES_MAX: usize = 1 << 10;
/// For how long rows are called one after the other before others on the thread have their turn: as long as a guest's slice.
const GIVE_WAY_AFTER: Duration = Duration::from_millis(1);
/// On so many rows of a call its time may run out; then it is to be made again over fewer, so that those that are done are not
/// lost while the next ones take theirs.
const SLOW_MAX: usize = 8;
/// How many columns of doubles are handed over as they lie in memory; more go value by value.
const DOUBLES_MAX: usize = 3;
/// How many names are listed in a message.
const NAMES_MAX: usize = 8;

/// How a function is called over columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Whether it is given whole columns.
    is_batch: bool,
    parameters: Vec<Taken>,
    result: Returned,
}

/// A value that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    name: Arc<str>,
    primitive: Primitive,
    /// Whether it is called where there is none.
    is_option: bool,
}

/// What it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Returned {
    primitive: Primitive,
    is_option: bool,
    /// Whether there may be a reason in place of a value.
    is_result: bool,
    /// Whether there may be one in place of a whole column.
    may_fail: bool,
}

impl Shape {
    /// How a function of that signature is called.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn of(signature: &Signature) -> Result<Self, String> {
        if signature.is_async {
            return Err("it is async".to_owned());
        }
        let Some(result) = &signature.result else { return Err("it returns nothing".to_owned()) };
        let lists = signature.parameters.iter().filter(|(_, ty)| matches!(&*ty.kind, Kind::List(_))).count();
        if lists > 0 && lists < signature.parameters.len() {
            return Err("it takes lists and single values; whole columns are all lists".to_owned());
        }
        let is_batch = lists > 0;
        let parameters = signature.parameters.iter().map(|(name, ty)| {
            let item = match &*ty.kind {
                Kind::List(item) => item,
                _ => ty,
            };
            let (primitive, is_option) =
                optional(item).ok_or_else(|| format!("it takes `{name}`, which is {NO_VALUE}"))?;
            Ok(Taken { name: Arc::clone(name), primitive, is_option })
        });
        let parameters = parameters.collect::<Result<_, String>>()?;
        let (item, may_fail) = match (is_batch, fallible(result)) {
            (true, Some(column)) => (list_item(column), true),
            (true, None) => (list_item(result), false),
            (false, _) => (Some(result), false),
        };
        let item = item.ok_or("it takes lists, and does not return one")?;
        let (value, is_result) = fallible(item).map_or((item, false), |value| (value, true));
        let (primitive, is_option) = optional(value).ok_or_else(|| format!("it returns what is {NO_VALUE}"))?;
        Ok(Self { is_batch, parameters, result: Returned { primitive, is_option, is_result, may_fail } })
    }

    /// Whether all that it takes and returns are doubles, each of which is there.
    fn is_of_doubles(&self) -> bool {
        let Returned { primitive, is_option, is_result, may_fail } = self.result;
        let is_plain = |primitive, is_option: bool| primitive == Primitive::F64 && !is_option;
        let are_plain = self.parameters.iter().all(|taken| is_plain(taken.primitive, taken.is_option));
        let returns_plain = is_plain(primitive, is_option) && !is_result && !may_fail;
        self.is_batch && self.parameters.len() <= DOUBLES_MAX && are_plain && returns_plain
    }

    /// Why it does not take columns of these types and return one of that, if it does not.
    #[must_use]
    pub fn refuses(&self, parameters: &[DataType], result: &DataType) -> Option<String> {
        if self.parameters.len() != parameters.len() {
            return Some(format!("it takes {} arguments, and is given {}", self.parameters.len(), parameters.len()));
        }
        let other = self.parameters.iter().zip(parameters).find(|(taken, ty)| !accepts(taken.primitive, ty));
        if let Some((Taken { name, primitive, .. }, _)) = other {
            return Some(format!("`{name}` is {}, which takes {}", primitive.as_str(), sql_types(*primitive)));
        }
        let primitive = self.result.primitive;
        let fits = accepts(primitive, result);
        (!fits).then(|| format!("it returns {}, which is {}", primitive.as_str(), sql_types(primitive)))
    }
}

const NO_VALUE: &str = "no bool, integer, float or string";

/// What is in a type for which there may be none.
fn optional(ty: &Type) -> Option<(Primitive, bool)> {
    match &*ty.kind {
        Kind::Primitive(Primitive::Char) => None,
        Kind::Primitive(primitive) => Some((*primitive, false)),
        Kind::Option(some) => match &*some.kind {
            Kind::Primitive(Primitive::Char) => None,
            Kind::Primitive(primitive) => Some((*primitive, true)),
            _ => None,
        },
        _ => None,
    }
}

/// What is in a type in place of which there may be a reason.
fn fallible(ty: &Type) -> Option<&Type> {
    match &*ty.kind {
        Kind::Result(Some(value), Some(reason)) if *reason.kind == Kind::Primitive(Primitive::String) => Some(value),
        _ => None,
    }
}

fn list_item(ty: &Type) -> Option<&Type> {
    match &*ty.kind {
        Kind::List(item) => Some(item),
        _ => None,
    }
}

impl Interfaces {
    /// The function that a component exports under a name: by itself, in the only interface that has one of that name, or in the interface
    /// before a `#`.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn user_function(&self, export: &str) -> Result<Exported<'_>, String> {
        let alone = self.functions.iter().map(|(name, signature)| (None, name.as_str(), signature));
        let of_interface = |(interface, of)| {
            let (interface, of): (&String, &Interface) = (interface, of);
            of.functions.iter().map(move |(name, signature)| (Some(interface.as_str()), name.as_str(), signature))
        };
        let all: Vec<Exported<'_>> = alone.chain(self.exports.iter().flat_map(of_interface)).collect();
        let in_full = |(interface, name, _): &Exported<'_>| match interface {
            Some(interface) => format!("{interface}#{name}"),
            None => (*name).to_owned(),
        };
        if let Some(exact) = all.iter().find(|exported| in_full(exported) == export) {
            return Ok(*exact);
        }
        let named: Vec<&Exported<'_>> = all.iter().filter(|(_, name, _)| *name == export).collect();
        match named.as_slice() {
            [only] => Ok(**only),
            [] => {
                let names: Vec<String> = all.iter().take(NAMES_MAX).map(|of| format!("`{}`", in_full(of))).collect();
                let exports = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                Err(format!("its component exports no function `{export}`; it exports {exports}"))
            }
            [first, ..] => Err(format!(
                "several interfaces of its component have a function `{export}`; say which one is meant, as '{}'",
                in_full(first)
            )),
        }
    }
}

/// A function that a component exports: its interface, if it is in one, its name and its types.
pub type Exported<'a> = (Option<&'a str>, &'a str, &'a Signature);

/// What a function came to over columns.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// A value for each row; null where there is none.
    pub values: ArrayRef,
    /// The rows on which it failed, and why.
    pub faults: BTreeMap<usize, String>,
}

/// Why a function came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// What it came to over so many rows is too large; fewer may do.
    #[error("{0}")]
    TooLarge(String),
    /// It cannot be called at all.
    #[error("{0}")]
    Unavailable(#[from] Fault),
}

/// A component whose functions are called, in an instance on the thread that calls. One that ends with a fault is replaced for the next call.
pub struct Callee {
    wasm: Wasm,
    artifact: Arc<Artifact>,
    settings: StageSettings,
    known: BTreeMap<String, (ComponentExportIndex, Arc<Shape>)>,
    live: Option<Live>,
}

struct Live {
    meter: Meter,
    store: Store<Host>,
    instance: Instance,
}

impl Callee {
    /// Makes an instance.
    ///
    /// # Errors
    /// When the component exports no functions, or does not start within its limits.
    pub async fn new(wasm: &Wasm, artifact: &Arc<Artifact>, settings: StageSettings) -> Result<Self, Fault> {
        let (wasm, artifact) = (wasm.clone(), Arc::clone(artifact));
        let mut callee = Self { wasm, artifact, settings, known: BTreeMap::new(), live: None };
        callee.live = Some(callee.instantiate().await?);
        Ok(callee)
    }

    /// Calls a function over columns of so many values each.
    ///
    /// # Errors
    /// When it cannot be called, whatever the rows, or what comes of them is too large.
    pub async fn call(
        &mut self,
        export: &str,
        (columns, rows): (&[ArrayRef], usize),
        result: &DataType,
    ) -> Result<Outcome, CallFailure> {
        let (index, shape) = self.resolve(export)?;
        let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
        if let Some(reason) = shape.refuses(&types, result) {
            return Err(Fault::Protocol { reason: format!("`{export}`: {reason}") }.into());
        }
        let usage = Arc::clone(&self.settings.usage);
        usage.invoked();
        usage.received(bytes_of(columns));
        let inputs: Vec<Input<'_>> = columns.iter().map(Input::of).collect();
        let mut filled = Filled::new(result, rows);
        let mut asked = Vec::with_capacity(rows);
        for row in 0..rows {
            let mut of_row = inputs.iter().zip(&shape.parameters);
            if of_row.clone().any(|(input, taken)| !taken.is_option && input.is_null(row)) {
                continue;
            }
            match of_row.find_map(|(input, taken)| input.out_of_range(row, taken.primitive)) {
                Some(reason) => filled.fail(row, reason),
                None => asked.push(row),
            }
        }
        let _ticking = self.wasm.clone().tick();
        let asked = Asked { index, shape: &shape, inputs: &inputs, rows: &asked };
        if shape.is_batch {
            self.whole(asked, &mut filled).await?;
        } else {
            self.each(asked, &mut filled).await?;
        }
        let outcome = filled.finish().map_err(CallFailure::TooLarge)?;
        usage.sent(bytes_of(std::slice::from_ref(&outcome.values)));
        Ok(outcome)
    }

    fn resolve(&mut self, export: &str) -> Result<(ComponentExportIndex, Arc<Shape>), Fault> {
        if let Some((index, shape)) = self.known.get(export) {
            return Ok((*index, Arc::clone(shape)));
        }
        let protocol = |reason| Fault::Protocol { reason };
        let exports = self.artifact.exports().ok_or_else(|| protocol("it exports no functions".to_owned()))?;
        let (index, signature) = exports.user_function(export).map_err(protocol)?;
        let shape = Arc::new(Shape::of(signature).map_err(|reason| protocol(format!("`{export}`: {reason}")))?);
        self.known.insert(export.to_owned(), (index, Arc::clone(&shape)));
        Ok((index, shape))
    }

    /// Calls a function for each row.
    async fn each(&mut self, asked: Asked<'_>, filled: &mut Filled) -> Result<(), CallFailure> {
        let (mut slow, mut slices, mut begun) = (0, 0, Instant::now());
        for row in asked.rows {
            let arguments: Vec<Val> = asked
                .inputs
                .iter()
                .zip(&asked.shape.parameters)
                .map(|(input, taken)| input.value(*row, taken))
                .collect();
            match self.run(async |store, instance| values(store, instance, asked.index, &arguments).await).await? {
                Ok(value) => filled.put(*row, asked.shape.result.read(value)),
                Err(fault) => {
                    asked.note(&fault, &mut slow)?;
                    filled.fail(*row, fault.to_string());
                }
            }
            if begun.elapsed() >= GIVE_WAY_AFTER
                && let Some(live) = &self.live
            {
                slices += 1;
                turns::next(live.meter.function(), slices, Instant::now() + self.settings.limits.timeout).await;
                begun = Instant::now();
            }
        }
        Ok(())
    }

    /// Calls a function over all rows, and where that fails over fewer.
    async fn whole(&mut self, asked: Asked<'_>, filled: &mut Filled) -> Result<(), CallFailure> {
        let (mut slow, mut left) = (0, vec![asked.rows]);
        while let Some(rows) = left.pop().filter(|rows| !rows.is_empty()) {
            let done = match self.column(asked, rows).await? {
                Ok(done) => done,
                Err(fault) => {
                    asked.note(&fault, &mut slow)?;
                    Err(fault.to_string())
                }
            };
            match (done, rows) {
                (Ok(Column::Doubles(values)), _) => filled.put_doubles(rows, values),
                (Ok(Column::Values(values)), _) => {
                    rows.iter().zip(values).for_each(|(row, value)| filled.put(*row, asked.shape.result.read(value)));
                }
                (Err(reason), [row]) => filled.fail(*row, reason),
                (Err(_), _) => {
                    let (first, second) = rows.split_at(rows.len() / 2);
                    left.extend([second, first]);
                }
            }
        }
        Ok(())
    }

    /// One call over rows: what it returned for each, why it returned no such thing, or why it failed.
    async fn column(
        &mut self,
        asked: Asked<'_>,
        rows: &[usize],
    ) -> Result<Result<Result<Column, String>, Fault>, Fault> {
        let Asked { index, shape, inputs, .. } = asked;
        if shape.is_of_doubles() {
            let columns: Vec<Cow<'_, [f64]>> = inputs.iter().filter_map(|input| input.doubles(rows)).collect();
            let called = self.run(async |store, instance| doubles(store, instance, index, &columns).await).await?;
            return Ok(called.map(|values| of_rows(values, rows.len()).map(Column::Doubles)));
        }
        let list =
            |(input, taken): (&Input<'_>, &Taken)| Val::List(rows.iter().map(|row| input.value(*row, taken)).collect());
        let arguments: Vec<Val> = inputs.iter().zip(&shape.parameters).map(list).collect();
        let called = self.run(async |store, instance| values(store, instance, index, &arguments).await).await?;
        Ok(called.map(|value| shape.result.column(value, rows.len()).map(Column::Values)))
    }

    /// One call: what it came to, or why it failed.
    ///
    /// # Errors
    /// When there is no room for an instance, whatever it would do.
    async fn run<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Store<Host>, &Instance) -> wasmtime::Result<T>,
    ) -> Result<Result<T, Fault>, Fault> {
        // A call whose future is dropped half way leaves no instance behind.
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.instantiate().await?,
        };
        let Live { meter, store, instance } = &mut live;
        store.data_mut().present.begin(Invocation::default());
        let deadline = Host::begin(store);
        let called = meter.over(within(deadline, call(store, instance))).await;
        let called = called.map_err(|error| Fault::new(&error, store.data()));
        store.data().end();
        match called {
            Ok(returned) => {
                self.live = Some(live);
                Ok(Ok(returned))
            }
            Err(Fault::Busy) => Err(Fault::Busy),
            Err(fault) => {
                store.data().report(&fault.to_string());
                Ok(Err(fault))
            }
        }
    }

    async fn instantiate(&self) -> Result<Live, Fault> {
        let exports = self.artifact.exports();
        let exports = exports.ok_or_else(|| Fault::Protocol { reason: "it exports no functions".to_owned() })?;
        let StageSettings { limits, config, access, surroundings, logs, usage } = &self.settings;
        let meter = Meter::new(Some(usage));
        meter.lasts();
        let (limits, environment) = (*limits, config);
        let setup = Setup { limits, meter: &meter, command: None, environment, access, surroundings, logs };
        let store = Host::store(&self.wasm.flavor(self.artifact.concurrency()).engine, setup);
        let mut store = store.map_err(|error| Fault::Setup { reason: format!("{error:#}") })?;
        let _ticking = self.wasm.tick();
        let deadline = Host::begin(&mut store);
        let instantiated = meter.over(within(deadline, exports.pre().instantiate_async(&mut store))).await;
        match instantiated {
            Ok(instance) => Ok(Live { meter, store, instance }),
            Err(error) => Err(Fault::new(&error, store.data())),
        }
    }
}

/// What is asked of a function in a call over columns.
#[derive(Clone, Copy)]
struct Asked<'a> {
    index: ComponentExportIndex,
    shape: &'a Shape,
    inputs: &'a [Input<'a>],
    /// The rows that it is given.
    rows: &'a [usize],
}

impl Asked<'_> {
    /// Notes that a guest failed.
    ///
    /// # Errors
    /// When the time of too many has run out.
    fn note(&self, fault: &Fault, slow: &mut usize) -> Result<(), CallFailure> {
        *slow += usize::from(matches!(fault, Fault::Timeout { .. } | Fault::Cpu { .. }));
        if *slow > SLOW_MAX && self.rows.len() > SLOW_MAX {
            return Err(CallFailure::TooLarge(format!("the time of more than {SLOW_MAX} calls ran out: {fault}")));
        }
        Ok(())
    }
}

/// What a function of lists returned.
enum Column {
    Doubles(Vec<f64>),
    Values(Vec<Val>),
}

fn function(store: &mut Store<Host>, instance: &Instance, index: ComponentExportIndex) -> wasmtime::Result<Func> {
    instance.get_func(store, index).ok_or_else(|| wasmtime::Error::msg("the function is not there"))
}

/// Calls a function with values of any types.
async fn values(
    store: &mut Store<Host>,
    instance: &Instance,
    index: ComponentExportIndex,
    arguments: &[Val],
) -> wasmtime::Result<Val> {
    let mut results = [Val::Bool(false)];
    function(store, instance, index)?.call_async(store, arguments, &mut results).await?;
    let [value] = results;
    Ok(value)
}

/// Calls a function with lists of doubles, which are copied as they lie in memory.
async fn doubles(
    store: &mut Store<Host>,
    instance: &Instance,
    index: ComponentExportIndex,
    columns: &[Cow<'_, [f64]>],
) -> wasmtime::Result<Vec<f64>> {
    let function = function(store, instance, index)?;
    match columns {
        [a] => typed(store, function, (&**a,)).await,
        [a, b] => typed(store, function, (&**a, &**b)).await,
        [a, b, c] => typed(store, function, (&**a, &**b, &**c)).await,
        _ => Err(wasmtime::Error::msg("there are other columns")),
    }
}

async fn typed<P>(store: &mut Store<Host>, function: Func, arguments: P) -> wasmtime::Result<Vec<f64>>
where
    P: ComponentNamedList + Lower + Send + Sync,
{
    let (values,) = function.typed::<P, (Vec<f64>,)>(&*store)?.call_async(store, arguments).await?;
    Ok(values)
}

/// What was returned, if it is for so many rows.
fn of_rows<T>(values: Vec<T>, rows: usize) -> Result<Vec<T>, String> {
    if values.len() == rows {
        return Ok(values);
    }
    Err(format!("its answer is not valid: it has {} values for {rows} rows", values.len()))
}

impl std::fmt::Debug for Callee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Callee").field("artifact", &self.artifact).finish_non_exhaustive()
    }
}

impl Returned {
    /// The value in what was returned for a row.
    fn read(self, value: Val) -> Result<Option<Val>, String> {
        let value = match (self.is_result, value) {
            (true, Val::Result(Ok(Some(value)))) => *value,
            (true, Val::Result(Err(Some(reason)))) => return Err(said(*reason)),
            (_, value) => value,
        };
        match (self.is_option, value) {
            (true, Val::Option(value)) => Ok(value.map(|value| *value)),
            (_, value) => Ok(Some(value)),
        }
    }

    /// The values in what was returned for so many rows.
    fn column(self, value: Val, rows: usize) -> Result<Vec<Val>, String> {
        let value = match (self.may_fail, value) {
            (true, Val::Result(Ok(Some(value)))) => *value,
            (true, Val::Result(Err(Some(reason)))) => return Err(said(*reason)),
            (_, value) => value,
        };
        match value {
            Val::List(values) if values.len() == rows => Ok(values),
            Val::List(values) => {
                Err(format!("its answer is not valid: it has {} values for {rows} rows", values.len()))
            }
            _ => Err("its answer is not valid: it is no list".to_owned()),
        }
    }
}

/// The reason that a guest gives, as far as it is kept: there may be one for each row.
fn said(reason: Val) -> String {
    match reason {
        Val::String(mut reason) => {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            reason
        }
        _ => "it gives no reason".to_owned(),
    }
}
