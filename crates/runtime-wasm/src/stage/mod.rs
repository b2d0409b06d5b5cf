//! Instances of the world `littoral:flow/stage`.

pub(crate) mod bindings;
mod columns;

use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use wasmtime::Store;

use self::bindings::exports::littoral::flow::processor::Step;
use self::columns::{Borrowed, batch_out, schema_out};
use crate::access::Access;
use crate::artifact::Artifact;
use crate::engine::Wasm;
use crate::fabric::{Invocation, Surroundings};
use crate::fault::Fault;
use crate::host::{Host, Setup, within};
use crate::limits::Limits;
use crate::logs::{Discard, LogSink};
use crate::meter::{Meter, Usage, bytes_of};

/// How many outputs a stage may declare: more than anybody connects, few enough to list in a message.
const PORTS_MAX: usize = 64;

/// Why a stage's call failed.
pub type StageError = Fault;

/// How to run a stage.
#[derive(Clone)]
pub struct StageSettings {
    /// What it may use.
    pub limits: Limits,
    /// What the manifest sets for it; its configuration and its environment variables.
    pub config: Vec<(String, String)>,
    /// What it may reach.
    pub access: Arc<Access>,
    /// What lies around it.
    pub surroundings: Arc<Surroundings>,
    /// Where its output goes.
    pub logs: Arc<dyn LogSink>,
    /// Where what it uses is counted.
    pub usage: Arc<Usage>,
}

impl Default for StageSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            config: Vec::new(),
            access: Arc::default(),
            surroundings: Arc::default(),
            logs: Arc::new(Discard),
            usage: Arc::default(),
        }
    }
}

/// One of a stage's outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The columns of what it puts out.
    pub schema: SchemaRef,
}

/// A row that a stage rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its place in the batch, from 0.
    pub row: u32,
    /// Why.
    pub reason: String,
}

/// What one call of a stage did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StageOutput {
    /// Rows by the name of the port.
    pub outputs: Vec<(String, RecordBatch)>,
    /// Rows that were rejected; each is a row of the batch.
    pub rejected: Vec<Rejection>,
    /// The key groups whose state changed.
    pub dirty: Vec<u32>,
    /// When to call [`Stage::on_timer`] next, in microseconds since 1970, instead of any earlier timer.
    pub timer_us: Option<i64>,
}

/// An instance of a stage, on the thread that calls it.
///
/// After any error but [`Fault::Rejected`], [`Fault::Protocol`] and [`Fault::Input`] the instance is gone, and so it is
/// if a call's future is dropped before it is done; every later call then answers [`Fault::Gone`].
pub struct Stage {
    wasm: Wasm,
    meter: Meter,
    usage: Arc<Usage>,
    store: Store<Host>,
    guest: bindings::Stage,
    config: Vec<(String, String)>,
    ports: Vec<Port>,
    gone: bool,
}

macro_rules! call {
    ($stage:ident, |$store:ident, $processor:ident| $call:expr) => {{
        let deadline = $stage.begin()?;
        let _ticking = $stage.wasm.tick();
        let outcome = {
            let $processor = $stage.guest.littoral_flow_processor();
            let $store = &mut $stage.store;
            $stage.meter.over(within(deadline, $call)).await
        };
        $stage.end(outcome)
    }};
}

impl Stage {
    /// Makes an instance.
    ///
    /// # Errors
    /// When the component is no stage, or does not start within its limits.
    pub async fn instantiate(wasm: &Wasm, artifact: &Artifact, settings: StageSettings) -> Result<Self, StageError> {
        let Some(pre) = artifact.stage() else {
            return Err(Fault::Protocol {
                reason: "it exports no `littoral:flow/processor@0.1`; build it as a stage".to_owned(),
            });
        };
        let StageSettings { limits, config, access, surroundings, logs, usage } = &settings;
        let meter = Meter::new(Some(usage));
        meter.lasts();
        let (limits, environment) = (*limits, config);
        let setup = Setup { limits, meter: &meter, command: None, environment, access, surroundings, logs };
        let store = Host::store(&wasm.flavor(artifact.concurrency()).engine, setup);
        let mut store = store.map_err(|error| Fault::Setup { reason: format!("{error:#}") })?;
        let _ticking = wasm.tick();
        let deadline = Host::begin(&mut store);
        let instantiated = meter.over(within(deadline, pre.instantiate_async(&mut store))).await;
        match instantiated {
            Ok(guest) => Ok(Self {
                wasm: wasm.clone(),
                meter,
                usage: settings.usage,
                store,
                guest,
                config: settings.config,
                ports: Vec::new(),
                gone: false,
            }),
            Err(error) => Err(Fault::new(&error, store.data())),
        }
    }

    /// Tells the stage the columns of its input; answers its outputs.
    ///
    /// # Errors
    /// [`Fault::Rejected`] if it cannot work with them, else as [`process`](Self::process).
    pub async fn open(&mut self, input: &Schema) -> Result<Vec<Port>, StageError> {
        let config = self.config.clone();
        let config: Vec<(&str, &str)> = config.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let fields = columns::fields(input).map_err(|reason| Fault::Input { reason })?;
        let schema = columns::schema(&fields);
        let opened = call!(self, |store, processor| processor.call_open(store, schema, &config))?;
        let declared = opened.map_err(|reason| Fault::Rejected { reason })?;
        if declared.len() > PORTS_MAX {
            return Err(Fault::Protocol {
                reason: format!("it declares {} ports; {PORTS_MAX} are allowed", declared.len()),
            });
        }
        let mut ports: Vec<Port> = Vec::with_capacity(declared.len());
        for port in declared {
            if ports.iter().any(|other| other.name == port.name) {
                return Err(Fault::Protocol { reason: format!("it declares the port `{}` twice", port.name) });
            }
            let schema = schema_out(port.schema).map_err(|reason| Fault::Protocol { reason })?;
            ports.push(Port { name: port.name, schema });
        }
        self.ports = ports.clone();
        Ok(ports)
    }

    /// Processes rows of the columns that [`open`](Self::open) was given.
    ///
    /// # Errors
    /// What the guest did wrong, or its own error.
    pub async fn process(&mut self, batch: &RecordBatch, watermark_us: i64) -> Result<StageOutput, StageError> {
        self.usage.invoked();
        self.usage.received(bytes_of(batch.columns()));
        let borrowed = Borrowed::new(batch).map_err(|reason| Fault::Input { reason })?;
        let columns = borrowed.columns();
        let rows = borrowed.batch(&columns);
        let step = call!(self, |store, processor| processor.call_process(store, rows, watermark_us))?;
        self.output(step, batch.num_rows())
    }

    /// Fires the timer that the last call set.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub async fn on_timer(&mut self, time_us: i64) -> Result<StageOutput, StageError> {
        let step = call!(self, |store, processor| processor.call_on_timer(store, time_us))?;
        self.output(step, 0)
    }

    /// The whole state of key groups; empty bytes for a group without state.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub async fn snapshot(&mut self, groups: &[u32]) -> Result<Vec<(u32, Bytes)>, StageError> {
        let states = call!(self, |store, processor| processor.call_snapshot(store, groups))?;
        Ok(states.into_iter().map(|(group, bytes)| (group, Bytes::from(bytes))).collect())
    }

    /// Gives the state of key groups back.
    ///
    /// # Errors
    /// [`Fault::Rejected`] if it is no state of this stage, else as [`process`](Self::process).
    pub async fn restore(&mut self, groups: Vec<(u32, Bytes)>) -> Result<(), StageError> {
        let groups: Vec<(u32, &[u8])> = groups.iter().map(|(group, bytes)| (*group, bytes.as_ref())).collect();
        let restored = call!(self, |store, processor| processor.call_restore(store, &groups))?;
        restored.map_err(|reason| Fault::Rejected { reason })
    }

    fn begin(&mut self) -> Result<Instant, StageError> {
        if self.gone {
            return Err(Fault::Gone);
        }
        // A call whose future is dropped half way never comes to `end`.
        self.gone = true;
        self.store.data_mut().present.begin(Invocation::default());
        Ok(Host::begin(&mut self.store))
    }

    fn end<T>(&mut self, outcome: wasmtime::Result<T>) -> Result<T, StageError> {
        let outcome = outcome.map_err(|error| Fault::new(&error, self.store.data()));
        self.store.data().end();
        self.gone = outcome.is_err();
        outcome
    }

    fn output(&self, step: Result<Step, String>, rows: usize) -> Result<StageOutput, StageError> {
        let step = step.map_err(|reason| Fault::Rejected { reason })?;
        let mut outputs = Vec::with_capacity(step.outputs.len());
        for (place, batch) in step.outputs {
            let Some(port) = self.ports.get(place as usize) else {
                return Err(Fault::Protocol { reason: format!("it put rows on port {place} of {}", self.ports.len()) });
            };
            let batch = batch_out(&port.schema, batch);
            let batch =
                batch.map_err(|reason| Fault::Protocol { reason: format!("on port `{}`, {reason}", port.name) })?;
            self.usage.sent(bytes_of(batch.columns()));
            outputs.push((port.name.clone(), batch));
        }
        let rejected =
            step.rejected.into_iter().map(|rejection| Rejection { row: rejection.row, reason: rejection.reason });
        let rejected: Vec<_> = rejected.filter(|_| rows > 0).collect();
        if let Some(rejection) = rejected.iter().find(|rejection| rejection.row as usize >= rows) {
            return Err(Fault::Protocol { reason: format!("it rejected row {} of {rows}", rejection.row) });
        }
        Ok(StageOutput { outputs, rejected, dirty: step.dirty, timer_us: step.timer })
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("ports", &self.ports).field("gone", &self.gone).finish_non_exhaustive()
    }
}
