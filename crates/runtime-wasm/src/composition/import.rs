//! Links a component's imports of other functions' interfaces with host functions that call those.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use littoral_model::composition::{CALL_DEPTH_MAX, ComposedCall, ComposedImport};
use littoral_model::id::FunctionName;
use wasmtime::component::{Linker, Val};

use super::export::{CallContext, Exporter};
use super::types::{Interfaces, Signature};
use super::values;
use crate::artifact::LoadError;
use crate::fabric::Present;
use crate::host::Host;

/// What ends so shortly before its caller's time is up ended because of that: calls over the mesh give up a little sooner.
const LATE_MARGIN: Duration = Duration::from_millis(10);

/// Finds the functions of an app that export what others import.
pub trait Exporters: Send + Sync + 'static {
    /// One that runs in this process.
    fn here(&self, function: &FunctionName) -> Option<Exporter>;

    /// Calls one wherever else it runs; answers its results, or why it failed. It need not end by itself when the caller's
    /// time is up.
    fn elsewhere(&self, function: &FunctionName, call: ComposedCall) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// How a component's imports are linked.
#[derive(Clone)]
pub struct Linking {
    /// Whose export each import is.
    pub imports: Vec<ComposedImport>,
    /// Where these functions are.
    pub exporters: Arc<dyn Exporters>,
}

/// The error with which an import of a guest ends when the function behind it fails: a function of an interface need not
/// have a result that could say so.
#[derive(Debug, Clone, thiserror::Error)]
#[error("its call of `{name}` in `{import}`, which function {function} exports, failed: {reason}")]
pub(crate) struct ComposedCallFailed {
    pub(crate) name: String,
    pub(crate) import: String,
    pub(crate) function: FunctionName,
    pub(crate) reason: String,
    /// Whether the caller's time ran out.
    pub(crate) is_late: bool,
}

/// What a host function that stands for another function's knows.
struct Import {
    composed: ComposedImport,
    name: String,
    signature: Signature,
    hash: u64,
    exporters: Arc<dyn Exporters>,
}

/// Defines all imports of a component that are other functions'.
///
/// # Errors
/// When `linking` does not say whose an import is.
pub(crate) fn link(linker: &mut Linker<Host>, interfaces: &Interfaces, linking: &Linking) -> Result<(), LoadError> {
    let refused = |error: wasmtime::Error| LoadError::Import(format!("{error:#}"));
    for (name, interface) in interfaces.imports.iter().filter(|(_, interface)| !interface.functions.is_empty()) {
        let composed = linking.imports.iter().find(|composed| composed.import == *name);
        let composed = composed.ok_or_else(|| LoadError::Unlinked(name.clone()))?;
        let mut instance = linker.instance(name).map_err(refused)?;
        for (function, signature) in &interface.functions {
            let import = Arc::new(Import {
                composed: composed.clone(),
                name: function.clone(),
                hash: signature.hash(),
                signature: signature.clone(),
                exporters: Arc::clone(&linking.exporters),
            });
            let called = instance.func_new_async(function, move |mut store, _, arguments, results| {
                let depth = Present::of(&mut store).depth + 1;
                let context = CallContext { deadline: store.data().deadline(), depth };
                let import = Arc::clone(&import);
                Box::new(async move {
                    let returned = import.call(arguments, context).await?;
                    results.iter_mut().zip(returned).for_each(|(result, value)| *result = value);
                    Ok(())
                })
            });
            called.map_err(refused)?;
        }
    }
    Ok(())
}

impl Import {
    async fn call(&self, arguments: &[Val], context: CallContext) -> Result<Vec<Val>, ComposedCallFailed> {
        let ComposedImport { function, export, .. } = &self.composed;
        if context.depth > CALL_DEPTH_MAX {
            return Err(self.failed(format!("calls between functions are nested more than {CALL_DEPTH_MAX} deep")));
        }
        let called = async {
            match self.exporters.here(function) {
                Some(exporter) => {
                    let called = exporter.call(export, &self.name, arguments, context).await;
                    called.map_err(|fault| self.failed(fault.to_string()))
                }
                None => self.call_elsewhere(arguments, context).await,
            }
        };
        let outcome = tokio::time::timeout_at(context.deadline.into(), called).await;
        outcome.unwrap_or_else(|_| Err(self.failed("there was no answer in time".to_owned()))).map_err(|mut failed| {
            failed.is_late = Instant::now() + LATE_MARGIN >= context.deadline;
            failed
        })
    }

    async fn call_elsewhere(&self, arguments: &[Val], context: CallContext) -> Result<Vec<Val>, ComposedCallFailed> {
        let parameters = self.signature.parameters.iter().map(|(_, parameter)| parameter);
        let encoded = values::encode(parameters, arguments);
        let remaining = context.deadline.saturating_duration_since(Instant::now());
        let call = ComposedCall {
            interface: self.composed.export.clone(),
            name: self.name.clone(),
            signature: self.hash,
            depth: context.depth,
            remaining_us: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
            arguments: encoded.map_err(|error| self.failed(format!("its arguments cannot be sent: {error}")))?,
        };
        let answered = self.exporters.elsewhere(&self.composed.function, call).await;
        let bytes = answered.map_err(|reason| self.failed(reason))?;
        values::decode(&self.signature.result, &bytes)
            .map_err(|error| self.failed(format!("its result cannot be read: {error}")))
    }

    fn failed(&self, reason: String) -> ComposedCallFailed {
        let (name, composed) = (self.name.clone(), self.composed.clone());
        ComposedCallFailed { name, import: composed.import, function: composed.function, reason, is_late: false }
    }
}
