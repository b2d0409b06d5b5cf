//! The functions of this node that export interfaces for others of their app, and calls of those on other nodes.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use littoral_mesh::{CallError, Mesh, Method, Priority};
use littoral_model::composition::{ComposeReply, ComposeRequest, ComposedCall};
use littoral_model::id::{AppId, FunctionName};
use littoral_runtime::Shards;
use littoral_runtime::interfaces::InterfaceFunction;

use crate::gate::Gate;
use crate::routing::Routing;
use crate::wiring::ask;

/// How much sooner than its caller a call over the mesh gives up, so that the reason still reaches the caller.
const ANSWER_ALLOWANCE: Duration = Duration::from_millis(5);

type Key = (AppId, FunctionName);

/// What is exported, here and elsewhere.
pub(crate) struct Exports {
    mesh: Arc<dyn Mesh>,
    routing: Arc<Routing>,
    shards: Shards,
    gate: Arc<Gate>,
    ready: RwLock<HashMap<Key, Arc<InterfaceFunction>>>,
}

impl Exports {
    /// Nothing yet.
    pub(crate) fn new(mesh: Arc<dyn Mesh>, routing: Arc<Routing>, shards: Shards, gate: Arc<Gate>) -> Self {
        Self { mesh, routing, shards, gate, ready: RwLock::default() }
    }

    /// Answers calls of a function from now on, or not any more.
    pub(crate) fn set(&self, key: &Key, function: Option<Arc<InterfaceFunction>>) {
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        match function {
            Some(function) => drop(ready.insert(key.clone(), function)),
            None => drop(ready.remove(key)),
        }
    }

    /// A function that runs here and may answer now.
    pub(crate) fn here(&self, app: &AppId, function: &FunctionName) -> Option<Arc<InterfaceFunction>> {
        if self.gate.closed(app).is_some() {
            return None;
        }
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        ready.get(&(app.clone(), function.clone())).cloned()
    }

    /// Calls a function on the live nodes that serve it, the nearest first.
    pub(crate) async fn call(
        self: Arc<Self>,
        app: AppId,
        function: FunctionName,
        call: ComposedCall,
    ) -> Result<Bytes, String> {
        let deadline = Duration::from_micros(call.remaining_us).saturating_sub(ANSWER_ALLOWANCE);
        let request = ComposeRequest { app, function, call };
        let ComposeRequest { app, function, .. } = &request;
        let mut last = format!("no live node serves {}/{function}", app.app);
        for node in self.routing.others(app, function) {
            let _under_way = self.routing.begin(&node);
            match ask(&self.mesh, &node, Method::Compose, Priority::Data, deadline, &request).await {
                Ok(ComposeReply::Returned(results)) => return Ok(results),
                Ok(ComposeReply::Failed(reason)) => return Err(format!("on {node}, {reason}")),
                Ok(ComposeReply::NotServed) => last = format!("{node} does not serve it yet"),
                // Only a refusal is certain to have had no effect: a call is not repeated elsewhere after anything else.
                Err(CallError::Refused { reason, .. }) => last = format!("{node}: {reason}"),
                Err(error) => return Err(format!("{node}: {error}")),
            }
        }
        Err(last)
    }

    /// Answers another node's [`Method::Compose`].
    pub(crate) async fn answer(&self, request: ComposeRequest) -> ComposeReply {
        let ComposeRequest { app, function, call } = request;
        let Some(function) = self.here(&app, &function) else { return ComposeReply::NotServed };
        let called =
            self.shards.spawn(self.shards.pick_near(), move || async move { function.exporter().answer(&call).await });
        match called.await {
            Ok(Ok(results)) => ComposeReply::Returned(results),
            Ok(Err(reason)) => ComposeReply::Failed(reason),
            Err(error) => ComposeReply::Failed(error.to_string()),
        }
    }
}
