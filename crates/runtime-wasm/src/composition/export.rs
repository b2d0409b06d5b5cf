//! Answers calls of the functions that a component exports in interfaces: a fresh instance for each call, on the thread
//! that calls, with limits of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use littoral_model::composition::{CALL_DEPTH_MAX, ComposedCall};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Val};

use super::types::{Interfaces, Signature};
use super::values;
use crate::access::Access;
use crate::artifact::Artifact;
use crate::engine::{Concurrency, Wasm};
use crate::fabric::{Invocation, Surroundings};
use crate::fault::Fault;
use crate::host::{Host, Setup, within};
use crate::limits::Limits;
use crate::logs::{Discard, LogSink};
use crate::meter::{Meter, Usage};

/// How many calls of one exporter run at once unless its settings say otherwise; as of a function that answers HTTP.
const CONCURRENCY_DEFAULT: usize = 256;
/// The longest that a caller on another node is believed to wait, in microseconds: a day, longer than anything that a
/// manifest is for.
const REMAINING_US_MAX: u64 = 86_400_000_000;

/// How to answer calls.
#[derive(Clone)]
pub struct ExporterSettings {
    /// What each call may use; of its timeout and the caller's remaining time, the shorter one counts.
    pub limits: Limits,
    /// How many calls may run at once; more are refused.
    pub concurrency_max: usize,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// What it may reach.
    pub access: Arc<Access>,
    /// What lies around it.
    pub surroundings: Arc<Surroundings>,
    /// Where its output goes.
    pub logs: Arc<dyn LogSink>,
    /// Where what it uses is counted.
    pub usage: Arc<Usage>,
    /// Is told of each call.
    pub observer: Arc<dyn CallObserver>,
}

impl Default for ExporterSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            concurrency_max: CONCURRENCY_DEFAULT,
            environment: Vec::new(),
            access: Arc::default(),
            surroundings: Arc::default(),
            logs: Arc::new(Discard),
            usage: Arc::default(),
            observer: Arc::new(Unobserved),
        }
    }
}

/// Is told what became of calls.
pub trait CallObserver: Send + Sync + 'static {
    /// A call took so long, and ended with this fault if it failed.
    fn called(&self, took: Duration, fault: Option<&Fault>);
}

/// Does not care.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl CallObserver for Unobserved {
    fn called(&self, _: Duration, _: Option<&Fault>) {}
}

/// Where a call comes from.
#[derive(Clone, Copy, Debug)]
pub struct CallContext {
    /// Until when the caller waits.
    pub deadline: Instant,
    /// How many calls between functions it is nested in, this one among them, by name or by interface.
    pub depth: u32,
}

/// What a component exports in interfaces, ready to be instantiated.
#[derive(Clone)]
pub(crate) struct Exports {
    pre: InstancePre<Host>,
    /// By interface and name.
    functions: Arc<BTreeMap<String, BTreeMap<String, Exported>>>,
    /// Those in no interface.
    loose: Arc<BTreeMap<String, Exported>>,
    interfaces: Arc<Interfaces>,
}

struct Exported {
    index: ComponentExportIndex,
    signature: Signature,
    /// Of the signature.
    hash: u64,
}

impl Exports {
    /// None if it exports neither interfaces nor functions.
    pub(crate) fn new(interfaces: &Interfaces, component: &Component, pre: &InstancePre<Host>) -> Option<Self> {
        if interfaces.exports.is_empty() && interfaces.functions.is_empty() {
            return None;
        }
        let exported = |index: ComponentExportIndex, signature: &Signature| Exported {
            index,
            signature: signature.clone(),
            hash: signature.hash(),
        };
        let of_interface = |(name, interface): (&String, &super::types::Interface)| {
            let place = component.get_export_index(None, name)?;
            let functions = interface.functions.iter().filter_map(|(function, signature)| {
                let index = component.get_export_index(Some(&place), function)?;
                Some((function.clone(), exported(index, signature)))
            });
            Some((name.clone(), functions.collect()))
        };
        let functions = interfaces.exports.iter().filter_map(of_interface).collect();
        let loose = interfaces.functions.iter().filter_map(|(function, signature)| {
            let index = component.get_export_index(None, function)?;
            Some((function.clone(), exported(index, signature)))
        });
        let (loose, interfaces) = (Arc::new(loose.collect()), Arc::new(interfaces.clone()));
        Some(Self { pre: pre.clone(), functions: Arc::new(functions), loose, interfaces })
    }

    /// Whether it exports interfaces.
    pub(crate) fn has_interfaces(&self) -> bool {
        !self.functions.is_empty()
    }

    pub(crate) fn pre(&self) -> &InstancePre<Host> {
        &self.pre
    }

    /// The function that is exported [under that name](Interfaces::user_function).
    ///
    /// # Errors
    /// When there is none, or several.
    pub(crate) fn user_function(&self, export: &str) -> Result<(ComponentExportIndex, &Signature), String> {
        let (interface, name, _) = self.interfaces.user_function(export)?;
        let exported = match interface {
            Some(interface) => self.functions.get(interface).and_then(|functions| functions.get(name)),
            None => self.loose.get(name),
        };
        let exported = exported.ok_or_else(|| format!("its component has no function `{export}`"))?;
        Ok((exported.index, &exported.signature))
    }
}

/// Answers calls of what a component exports. Cheap to clone.
#[derive(Clone)]
pub struct Exporter(Arc<Inner>);

struct Inner {
    wasm: Wasm,
    concurrency: Concurrency,
    exports: Exports,
    settings: ExporterSettings,
    running: Semaphore,
    /// Held, so that who loads the same component again finds it in memory.
    _artifact: Arc<Artifact>,
}

impl Exporter {
    /// An exporter of this component; none if it exports no interface but those of the host.
    #[must_use]
    pub fn new(wasm: &Wasm, artifact: &Arc<Artifact>, settings: ExporterSettings) -> Option<Self> {
        let exports = artifact.exports().filter(|exports| exports.has_interfaces())?.clone();
        Some(Self(Arc::new(Inner {
            wasm: wasm.clone(),
            concurrency: artifact.concurrency(),
            exports,
            running: Semaphore::new(settings.concurrency_max.min(Semaphore::MAX_PERMITS)),
            settings,
            _artifact: Arc::clone(artifact),
        })))
    }

    /// Answers a call from another node. It runs on the thread that polls this.
    ///
    /// # Errors
    /// Why it failed, for the caller's author: its types may not be the caller's, its arguments may be damaged, or the
    /// guest failed.
    pub async fn answer(&self, call: &ComposedCall) -> Result<Bytes, String> {
        let exported = self.exported(&call.interface, &call.name).map_err(|fault| fault.to_string())?;
        let signature = &exported.signature;
        if exported.hash != call.signature {
            return Err(format!(
                "its types are others than the caller's: it has `{}`; deploy both in one version of the app",
                signature.shown(&call.name)
            ));
        }
        let parameters = signature.parameters.iter().map(|(_, parameter)| parameter);
        let arguments = values::decode(parameters, &call.arguments).map_err(|error| error.to_string())?;
        let context = CallContext {
            deadline: Instant::now() + Duration::from_micros(call.remaining_us.min(REMAINING_US_MAX)),
            depth: call.depth,
        };
        let results = self.call(&call.interface, &call.name, &arguments, context).await;
        let results = results.map_err(|fault| fault.to_string())?;
        values::encode(&signature.result, &results).map_err(|error| format!("its result cannot be sent: {error}"))
    }

    /// Calls a function in this process.
    ///
    /// # Errors
    /// When there is no such function, too many calls run, or the guest fails.
    pub(crate) async fn call(
        &self,
        interface: &str,
        name: &str,
        arguments: &[Val],
        context: CallContext,
    ) -> Result<Vec<Val>, Fault> {
        let exported = self.exported(interface, name)?;
        if context.depth > CALL_DEPTH_MAX {
            let reason = format!("calls between functions are nested more than {CALL_DEPTH_MAX} deep");
            return Err(Fault::Rejected { reason });
        }
        let begun = Instant::now();
        let outcome = match self.0.running.try_acquire() {
            Err(_) => Err(Fault::Busy),
            Ok(_permit) => {
                let results = usize::from(exported.signature.result.is_some());
                match self.0.concurrency {
                    Concurrency::Sequential => self.run(exported.index, arguments, results, context).await,
                    Concurrency::Concurrent => self.run_apart(exported.index, arguments, results, context).await,
                }
            }
        };
        self.0.settings.observer.called(begun.elapsed(), outcome.as_ref().err());
        outcome
    }

    fn exported(&self, interface: &str, name: &str) -> Result<&Exported, Fault> {
        let functions = self.0.exports.functions.get(interface);
        functions
            .and_then(|functions| functions.get(name))
            .ok_or_else(|| Fault::Protocol { reason: format!("it exports no function `{name}` in `{interface}`") })
    }

    /// In a task of its own, on the same thread where there is one only: Wasmtime does not run one event loop within
    /// another, and the caller may be in one.
    async fn run_apart(
        &self,
        index: ComponentExportIndex,
        arguments: &[Val],
        results: usize,
        context: CallContext,
    ) -> Result<Vec<Val>, Fault> {
        let (this, arguments) = (self.clone(), arguments.to_vec());
        let task = tokio::spawn(async move { this.run(index, &arguments, results, context).await });
        let mut task = Ending(task);
        (&mut task.0).await.unwrap_or(Err(Fault::Gone))
    }

    async fn run(
        &self,
        index: ComponentExportIndex,
        arguments: &[Val],
        results: usize,
        context: CallContext,
    ) -> Result<Vec<Val>, Fault> {
        let Inner { wasm, exports, settings, concurrency, .. } = &*self.0;
        let remaining = context.deadline.saturating_duration_since(Instant::now());
        let own = settings.limits.timeout;
        let limits = Limits { timeout: own.min(remaining), ..settings.limits };
        let ExporterSettings { environment, access, surroundings, logs, usage, .. } = settings;
        usage.invoked();
        let meter = Meter::new(Some(usage));
        let setup = Setup { limits, meter: &meter, command: None, environment, access, surroundings, logs };
        let store = meter.charge(|| Host::store(&wasm.flavor(*concurrency).engine, setup));
        let mut store = store.map_err(|error| Fault::Setup { reason: format!("{error:#}") })?;
        store.data_mut().present.begin(Invocation { depth: context.depth, ..Invocation::default() });
        let _ticking = wasm.tick();
        let deadline = Host::begin(&mut store);
        let mut values = vec![Val::Bool(false); results];
        let outcome = meter.over(within(deadline, async {
            let instance = exports.pre.instantiate_async(&mut store).await?;
            let function = instance.get_func(&mut store, index);
            let function = function.ok_or_else(|| wasmtime::Error::msg("the function is not there"))?;
            function.call_async(&mut store, arguments, &mut values).await
        }));
        let outcome = outcome.await;
        match outcome {
            Ok(()) => Ok(values),
            Err(error) => {
                let fault = match Fault::new(&error, store.data()) {
                    Fault::Timeout { .. } if remaining < own => {
                        Fault::Rejected { reason: "the caller's time was up before it was done".to_owned() }
                    }
                    fault => fault,
                };
                store.data().report(&fault.to_string());
                Err(fault)
            }
        }
    }
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("interfaces", &self.0.exports.functions.keys()).finish_non_exhaustive()
    }
}

/// A task that ends with whoever waits for it.
struct Ending(JoinHandle<Result<Vec<Val>, Fault>>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}
