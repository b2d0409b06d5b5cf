//! Answers what other nodes ask: one place where a method of the mesh meets what carries it out.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use littoral_mesh::{Handling, Incoming, Method, Service};
use littoral_model::id::NodeId;
use littoral_model::wire;
use littoral_model::work::{KeeperCommand, WorkId};
use littoral_runtime::Shards;
use littoral_store::replica::Works;

use crate::artifacts::Artifacts;
use crate::auction::Bidder;
use crate::events::Events;
use crate::exports::Exports;
use crate::fidelity::Vary;
use crate::functions::Functions;
use crate::groups::Groups;
use crate::intent::{Exchange, IntentStore};
use crate::logs::Logs;
use crate::metering::Metering;
use crate::queue::Queues;
use crate::report::Reporter;
use crate::runner::Runner;
use crate::wiring::answer;

/// What answers.
pub(crate) struct Parts {
    pub(crate) works: Arc<Works>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) intent: Arc<IntentStore>,
    pub(crate) artifacts: Artifacts,
    pub(crate) functions: Arc<Functions>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) exports: Arc<Exports>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) metering: Arc<Metering>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) shards: Shards,
    pub(crate) bidder: Bidder,
    pub(crate) events: Arc<Events>,
}

/// The service behind the mesh. The mesh is opened first, what answers needs it: until that is there, callers are told
/// to try again.
#[derive(Default)]
pub(crate) struct Dispatch {
    groups: OnceLock<Arc<Groups>>,
    parts: OnceLock<Parts>,
}

impl Dispatch {
    /// Consensus begins before the rest is there.
    pub(crate) fn consensus_is_ready(&self, groups: Arc<Groups>) {
        // Each is set once, while the node starts.
        let _ = self.groups.set(groups);
    }

    /// The rest is there.
    pub(crate) fn is_ready(&self, parts: Parts) {
        let _ = self.parts.set(parts);
    }
}

#[async_trait]
impl Service for Dispatch {
    /// What calls a function is handled on the thread that runs it.
    fn run(&self, method: Method, handling: Handling) -> Option<Handling> {
        match (self.parts.get(), method) {
            (Some(parts), Method::Invoke | Method::Call | Method::Compose) => {
                let shards = &parts.shards;
                drop(shards.spawn(shards.pick_near(), move || handling));
                None
            }
            _ => Some(handling),
        }
    }

    async fn handle(&self, from: NodeId, call: Incoming) -> Result<Bytes, String> {
        let starting = || "this node is starting".to_owned();
        let payload = &call.payload;
        if call.method == Method::Consensus {
            return self.groups.get().ok_or_else(starting)?.handle(&from, payload).await;
        }
        let parts = self.parts.get().ok_or_else(starting)?;
        let works = &parts.works;
        match call.method {
            Method::Locate => answer(payload, |work: WorkId| async move { parts.groups.assignment(&work) }).await,
            Method::Fetch => answer(payload, |request| works.fetch(request)).await,
            Method::Publish => answer(payload, |request| works.publish(request)).await,
            Method::Replicate => {
                let request = wire::decode(payload).map_err(|error| error.to_string())?;
                let reply = works.handle_replicate(request).await.map_err(|error| error.to_string())?;
                wire::encode(&reply).map_err(|error| error.to_string())
            }
            Method::Install => {
                let install =
                    |request| async move { works.handle_install(request).await.map_err(|error| error.to_string()) };
                answer(payload, install).await
            }
            Method::Keeper => answer(payload, |command: KeeperCommand| parts.groups.propose(command)).await,
            Method::Intent => {
                let exchange: Exchange = wire::decode(payload).map_err(|error| error.to_string())?;
                let reply = parts.intent.exchange(exchange).await?;
                wire::encode(&reply).map_err(|error| error.to_string())
            }
            Method::Artifact => parts.artifacts.answer(payload).await,
            Method::Invoke => parts.functions.answer(payload).await,
            Method::Call => parts.functions.answer_call(&call).await,
            Method::Compose => answer(payload, |request| parts.exports.answer(request)).await,
            Method::Bid => answer(payload, |request| async { parts.bidder.answer(request) }).await,
            Method::Events => answer(payload, |request| async move { parts.events.answer(&request) }).await,
            Method::Queue => answer(payload, |request| parts.queues.answer(request)).await,
            Method::Vary => answer(payload, |asked: Vary| async move { parts.runner.vary(&asked).await }).await,
            Method::Logs => parts.logs.answer(payload),
            Method::Usage => answer(payload, |request| parts.metering.answer(request)).await,
            Method::Admin => parts.reporter.answer(payload),
            Method::Ping | Method::Hello | Method::Deliver | Method::Consensus => {
                Err(format!("{from} asked for {}, which the mesh itself answers", call.method.as_str()))
            }
        }
    }
}
