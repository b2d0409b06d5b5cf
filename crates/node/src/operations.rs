//! The admin API's operations, carried out by this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_flow::reader::Source;
use littoral_mesh::identity::{Root, unix_now};
use littoral_mesh::{Members, Mesh, Method, Priority};
use littoral_model::digest::NodeDigest;
use littoral_model::entry::ProducerSequence;
use littoral_model::id::{AppId, AppName, FlowName, FunctionName, NodeId, StreamName, TenantId};
use littoral_model::invocation::{InvocationName, Record, StateKind};
use littoral_model::manifest::{Function, Manifest};
use littoral_model::topic::TopicPattern;
use littoral_model::work::Assignment;
use littoral_plan::sample::sample;
use littoral_plan::{AppSpec, Fabric, SAME_PERMILLE, rate_behind_bps, traffic};
use littoral_sql::Program;
use tokio_util::sync::CancellationToken;

use crate::admin::events::EventsReport;
use crate::admin::operations::{Answers, Operations, TailStart};
use crate::admin::queue::{InvocationState, InvocationStatus, InvocationsReport};
use crate::admin::types::{
    AdminError, AdminErrorKind, AppBundle, AppEnd, AppHistory, AppStatus, ConnectorStatus, FindingReport, FlowStatus,
    FunctionStatus, LogLine, MoveReport, MoveRequest, NodeState, NodeStatus, PlanReport, PublishRecord, Published,
    Readiness, Revocation, SiteStatus, StreamStatus, TailRow, TokenGrant, TokenRequest,
};
use crate::admin::usage::{ChainReports, UsageReport};
use crate::artifacts::Artifacts;
use crate::auction::{Auction, AuctionError, needs_of};
use crate::composition::compose_bundle;
use crate::core::Core;
use crate::events::Events;
use crate::functions::Functions;
use crate::health::Health;
use crate::intent::{Apps, EditError, Exchange, IntentStore, read_manifest};
use crate::log_reader::LogReader;
use crate::logs::Logs;
use crate::metering::{UsageAnswer, UsageReader, UsageRequest};
use crate::moving::Mover;
use crate::plan_report;
use crate::publish::Publisher;
use crate::queue::Queues;
use crate::queue::http::{checked_key, kept};
use crate::report::{Reporter, assignments};
use crate::services::Services;
use crate::sites;
use crate::spec::{app_id, app_spec, partitions_before, take_measured};
use crate::status::{self, Picture};
use crate::sync::lock;
use crate::tail::tail;
use crate::token_book::Book;
use crate::wiring::ask;

/// How long the nodes have to take a deployment; those that do not answer learn of it as soon as they are back.
const SPREAD_DEADLINE: Duration = Duration::from_secs(2);

/// How many nodes are remembered that are gone, for showing them and for planning around them.
const LOST_MAX: usize = 1_024;

/// What lets others in; only on the node where the fabric was made.
pub(crate) struct Admitting {
    pub(crate) root: Root,
    pub(crate) book: Arc<Book>,
    /// Where the join service listens, `host:port`.
    pub(crate) join: Vec<String>,
}

/// A running node, as its admin API sees it.
pub(crate) struct NodeOperations {
    mesh: Arc<dyn Mesh>,
    intent: Arc<IntentStore>,
    artifacts: Artifacts,
    functions: Arc<Functions>,
    publisher: Arc<Publisher>,
    queues: Arc<Queues>,
    source: Arc<dyn Source>,
    reporter: Arc<Reporter>,
    mover: Mover,
    logs: Arc<Logs>,
    usage: UsageReader,
    events: Arc<Events>,
    health: Arc<Health>,
    admitting: Option<Admitting>,
    stop: CancellationToken,
    /// What nodes are drawn with of a large fabric: other ones for each plan.
    seed: AtomicU64,
    /// The last digest of each node that was seen, of those that are lost at most [`LOST_MAX`].
    seen: Mutex<BTreeMap<NodeId, Arc<NodeDigest>>>,
}

impl NodeOperations {
    pub(crate) fn new(core: &Core, services: &Services, admitting: Option<Admitting>, stop: CancellationToken) -> Self {
        Self {
            mesh: Arc::clone(&core.mesh),
            intent: Arc::clone(&core.intent),
            artifacts: core.artifacts.clone(),
            functions: Arc::clone(&services.functions),
            publisher: Arc::clone(&services.publisher),
            queues: Arc::clone(&services.queues),
            source: Arc::clone(&core.source),
            reporter: Arc::clone(&services.reporter),
            mover: Mover {
                mesh: Arc::clone(&core.mesh),
                intent: Arc::clone(&core.intent),
                reporter: Arc::clone(&services.reporter),
                events: Arc::clone(&core.events),
            },
            logs: Arc::clone(&core.logs),
            usage: UsageReader { mesh: Arc::clone(&core.mesh), metering: Arc::clone(&core.metering) },
            events: Arc::clone(&core.events),
            health: Arc::clone(&services.health),
            admitting,
            stop,
            seed: AtomicU64::new(unix_now()),
            seen: Mutex::default(),
        }
    }

    async fn picture(&self) -> Picture {
        Picture::new(self.intent.now(), self.reporter.gather().await)
    }

    /// Everybody who is here now, and everybody who was.
    fn known_nodes(&self) -> (Arc<Members>, BTreeMap<NodeId, Arc<NodeDigest>>) {
        let live = self.mesh.members().borrow().clone();
        let mut seen = lock(&self.seen);
        remember(&mut seen, &live);
        (live, seen.clone())
    }

    /// What an app is placed on, and who holds something of it; fills in what its functions were measured to take.
    async fn ground(&self, spec: &mut AppSpec) -> (Fabric, Vec<Assignment>) {
        let (live, seen) = self.known_nodes();
        let revoked = Arc::clone(&self.intent.now().revoked);
        let dead = seen.iter().filter(|(node, _)| !live.contains_key(*node) && !revoked.contains(*node));
        let reports = self.reporter.gather().await;
        take_measured(spec, &reports, &live);
        if let Some(deployed) = self.intent.now().apps.get(&spec.app) {
            for (name, stream) in &mut spec.streams {
                stream.before = partitions_before(deployed, name, stream.partitions);
            }
        }
        let existing = assignments(&reports);
        let existing: Vec<Assignment> = existing.into_values().filter(|held| held.work.app == spec.app).collect();
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let considered = sample(self.mesh.node(), live.values().map(AsRef::as_ref).collect(), spec, &existing, seed);
        let mut fabric = Fabric::from_digests(considered, dead.map(|(_, digest)| digest.as_ref()));
        self.book_other_apps(&mut fabric, &spec.app);
        (fabric, existing)
    }

    /// What other apps were promised is not to be had.
    fn book_other_apps(&self, fabric: &mut Fabric, app: &AppId) {
        let apps = self.intent.now();
        for other in apps.apps.values().filter(|other| other.id != *app) {
            for (node, bytes) in needs_of(other) {
                fabric.nodes.entry(node).and_modify(|view| view.memory_promised_bytes += bytes);
            }
            let manifest = &other.manifest;
            let rate_bps = |flow: &FlowName, stage: Option<&FunctionName>| {
                let flow = manifest.flows.get(flow)?;
                let rate = manifest.streams.get(&flow.source)?.rate?;
                let output_permille =
                    |name: &_| manifest.queries.get(name).map_or(SAME_PERMILLE, |query| query.output_permille);
                Some(rate_behind_bps(rate.as_bits_per_second(), &flow.stages, stage, output_permille))
            };
            fabric.promised.extend(traffic(&other.placement, rate_bps));
        }
    }

    /// Sends what is new to every live node; who has it now, this node among them. Those that cannot be reached ask for it when they are
    /// back.
    async fn spread(&self, offer: Exchange) -> BTreeSet<NodeId> {
        let members = self.mesh.members().borrow().clone();
        let others = members.keys().filter(|node| *node != self.mesh.node());
        let (mesh, offer) = (&self.mesh, &offer);
        let told = others.map(|node| async move {
            let told: Result<Exchange, _> =
                ask(mesh, node, Method::Intent, Priority::Control, SPREAD_DEADLINE, offer).await;
            told.inspect_err(|error| tracing::info!(%node, %error, "a node will learn of it later"))
                .ok()
                .map(|_| node.clone())
        });
        let told = futures::future::join_all(told).await;
        told.into_iter().flatten().chain([self.mesh.node().clone()]).collect()
    }
}

/// Takes in who is here. Where too many others were, those with the first names are forgotten.
fn remember(seen: &mut BTreeMap<NodeId, Arc<NodeDigest>>, live: &Members) {
    seen.extend(live.iter().map(|(node, digest)| (node.clone(), Arc::clone(digest))));
    let mut surplus = seen.len().saturating_sub(live.len() + LOST_MAX);
    seen.retain(|node, _| {
        let stays = surplus == 0 || live.contains_key(node);
        surplus -= usize::from(!stays);
        stays
    });
}

/// An app of the default tenant.
fn app_of(app: AppName) -> AppId {
    AppId { tenant: TenantId::default_tenant(), app }
}

/// Refuses an app with a route that leads to another one.
fn free_routes(apps: &Apps, app: &AppId, manifest: &Manifest) -> Result<(), AdminError> {
    let others = apps.apps.values().filter(|other| other.id != *app);
    let taken = others.flat_map(|other| other.manifest.routes.iter().map(move |route| (&route.path, &other.id)));
    let taken: BTreeMap<&String, &AppId> = taken.collect();
    for route in &manifest.routes {
        if let Some(other) = taken.get(&route.path) {
            let text = format!("the route {} leads to the app {} already", route.path, other.app);
            return Err(AdminError::refused(text).hint("give it another path, or delete that app first"));
        }
    }
    Ok(())
}

/// The artefacts of a function, by the names that a bundle has them by.
fn named(name: &FunctionName, function: &Function) -> Vec<String> {
    let is_component = !function.is_contained() || function.is_hybrid();
    let components = function.fidelities(name).filter(|_| is_component).map(|component| component.artifact);
    components.chain(function.container_artifact(name)).collect()
}

/// Refuses an app that takes messages which another one takes already.
fn free_topics(apps: &Apps, app: &AppId, manifest: &Manifest) -> Result<(), AdminError> {
    let taking = |manifest: &Manifest| -> Vec<TopicPattern> {
        let patterns = manifest.mqtt.iter().filter_map(|(text, topic)| Some((text.parse().ok()?, topic)));
        patterns.filter(|(pattern, topic)| topic.takes_messages(pattern)).map(|(pattern, _)| pattern).collect()
    };
    let ours = taking(manifest);
    for other in apps.apps.values().filter(|other| other.id != *app) {
        for theirs in taking(&other.manifest) {
            if let Some(ours) = ours.iter().find(|ours| ours.filter().overlaps(theirs.filter())) {
                let (ours, theirs, app) = (ours.as_str(), theirs.as_str(), &other.id.app);
                let text = format!("messages that match `{ours}` may match `{theirs}` of the app {app}");
                return Err(
                    AdminError::refused(text).hint("begin its topics with the app's name, or delete that app first")
                );
            }
        }
    }
    Ok(())
}

fn not_edited(error: EditError) -> AdminError {
    match error {
        EditError::Overtaken { ref app, .. } => AdminError::new(AdminErrorKind::Conflict, error.to_string())
            .hint(format!("look at it with `littoral history {}`, then do it again", app.app)),
        EditError::Bundle(error) => AdminError::refused(error.to_string()),
        EditError::Failed(reason) => AdminError::unavailable(reason),
    }
}

fn parse(bundle: &AppBundle) -> Result<(Manifest, Program), AdminError> {
    let read = read_manifest(&bundle.manifest);
    read.map_err(|findings| {
        let mut error = AdminError::invalid("the manifest is not valid");
        error.findings = findings
            .iter()
            .map(|finding| FindingReport {
                file: finding.file.clone(),
                line: u32::try_from(finding.line).unwrap_or(u32::MAX),
                column: u32::try_from(finding.column).unwrap_or(u32::MAX),
                message: finding.message.clone(),
                hint: finding.suggestion.clone().or_else(|| finding.expected.clone()),
            })
            .collect();
        error
    })
}

#[async_trait]
impl Operations for NodeOperations {
    async fn node(&self) -> Result<NodeStatus, AdminError> {
        let (live, _) = self.known_nodes();
        let own = live.get(self.mesh.node()).ok_or_else(|| AdminError::unavailable("the node is starting"))?;
        let stopping = self.health.stopping.load(Ordering::Acquire);
        Ok(status::node(own, if stopping { NodeState::Stopping } else { NodeState::Alive }))
    }

    async fn nodes(&self) -> Result<Vec<NodeStatus>, AdminError> {
        let (live, seen) = self.known_nodes();
        let revoked = Arc::clone(&self.intent.now().revoked);
        let mut nodes = status::nodes(&live, &seen);
        nodes.iter_mut().for_each(|node| node.revoked = revoked.iter().any(|other| other.as_str() == node.id));
        Ok(nodes)
    }

    async fn sites(&self) -> Result<Vec<SiteStatus>, AdminError> {
        let (live, seen) = self.known_nodes();
        let reports = self.reporter.gather().await;
        Ok(sites::sites(&live, seen.values().map(|digest| &digest.site), &reports))
    }

    async fn apps(&self) -> Result<Vec<AppStatus>, AdminError> {
        Ok(self.picture().await.apps())
    }

    async fn functions(&self) -> Result<Vec<FunctionStatus>, AdminError> {
        Ok(self.picture().await.functions())
    }

    async fn flows(&self) -> Result<Vec<FlowStatus>, AdminError> {
        Ok(self.picture().await.flows())
    }

    async fn connectors(&self) -> Result<Vec<ConnectorStatus>, AdminError> {
        Ok(self.picture().await.connectors())
    }

    async fn streams(&self) -> Result<Vec<StreamStatus>, AdminError> {
        Ok(self.picture().await.streams())
    }

    async fn has_artifact(&self, digest: &str) -> Result<bool, AdminError> {
        self.artifacts.has(digest).map_err(|error| AdminError::invalid(error.to_string()))
    }

    async fn put_artifact(&self, artifact: Bytes) -> Result<String, AdminError> {
        self.artifacts.put(artifact).await.map_err(|error| AdminError::unavailable(error.to_string()))
    }

    async fn plan(&self, bundle: AppBundle) -> Result<PlanReport, AdminError> {
        let (manifest, _) = parse(&bundle)?;
        let mut spec = app_spec(&manifest, &bundle.artifacts);
        let (fabric, existing) = self.ground(&mut spec).await;
        let compiled = littoral_plan::compile(&spec, &fabric, &existing);
        Ok(plan_report::report(&manifest, compiled.as_ref()))
    }

    async fn deploy(&self, bundle: AppBundle) -> Result<AppStatus, AdminError> {
        let (manifest, program) = parse(&bundle)?;
        let app = app_id(&manifest);
        self.intent.check(&app, &bundle).map_err(|error| AdminError::refused(error.to_string()))?;
        free_routes(&self.intent.now(), &app, &manifest)?;
        free_topics(&self.intent.now(), &app, &manifest)?;
        for name in manifest.functions.iter().flat_map(|(name, function)| named(name, function)) {
            let digest = bundle.artifacts.get(&name).ok_or_else(|| {
                AdminError::invalid(format!("the bundle has no artefact of function {name}"))
                    .hint("build the app first")
            })?;
            if !self.has_artifact(digest).await? {
                let text = format!("this node does not hold the artefact {digest} of function {name}");
                return Err(AdminError::new(AdminErrorKind::Conflict, text).hint("upload it, then deploy again"));
            }
        }
        let composition = compose_bundle(&self.artifacts, (&manifest, &program), &bundle).await?;
        let mut spec = app_spec(&manifest, &bundle.artifacts);
        let (fabric, existing) = self.ground(&mut spec).await;
        let auction = Auction { mesh: &self.mesh, spec: &spec, existing: &existing };
        let (placement, bids) = auction.run(fabric).await.map_err(|error| match error {
            AuctionError::Refused(refusal) => {
                AdminError::refused(refusal.to_string()).hint("`littoral plan` shows what would go where")
            }
            AuctionError::Contended(_) => AdminError::unavailable(error.to_string()).hint("deploy again"),
        })?;
        if let Err(error) = self.intent.deploy(app.clone(), bundle, placement, composition).await {
            // Nothing comes of what was committed to.
            auction.release(&bids).await;
            return Err(not_edited(error));
        }
        tracing::info!(%app, version = manifest.version, "deployed");
        let told = self.spread(self.intent.offer_with(&app)).await;
        // Who has the deployment needs no lease for it; one that stayed would outlive an app that is deleted soon.
        auction.release(&bids.into_iter().filter(|(node, _)| told.contains(node)).collect()).await;
        let apps = self.intent.now();
        let deployed =
            apps.apps.get(&app).ok_or_else(|| AdminError::new(AdminErrorKind::Conflict, "deleted meanwhile"))?;
        Ok(self.picture().await.app(deployed))
    }

    async fn delete(&self, app: AppName, end: AppEnd) -> Result<(), AdminError> {
        let id = app_of(app);
        if !self.intent.now().apps.contains_key(&id) {
            return Err(AdminError::not_found(format!("there is no app {}", id.app)));
        }
        self.intent.end(id.clone(), end).await.map_err(not_edited)?;
        tracing::info!(app = %id, "deleted");
        self.spread(self.intent.offer_with(&id)).await;
        Ok(())
    }

    async fn relocate(&self, app: AppName, request: MoveRequest) -> Result<MoveReport, AdminError> {
        self.mover.run(app_of(app), request).await
    }

    async fn revoke(&self, revocation: Revocation) -> Result<(), AdminError> {
        let node = revocation.node.clone();
        self.intent.revoke(revocation).await.map_err(AdminError::refused)?;
        tracing::warn!(%node, "a node was shut out of the fabric");
        self.spread(self.intent.offer()).await;
        Ok(())
    }

    async fn history(&self, app: AppName) -> Result<AppHistory, AdminError> {
        Ok(self.intent.history(&app_of(app)))
    }

    async fn call(
        &self,
        app: AppName,
        function: FunctionName,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, AdminError> {
        self.functions.call(&app_of(app), &function, request).await
    }

    async fn call_later(
        &self,
        app: AppName,
        function: FunctionName,
        key: Option<String>,
        request: http::Request<Bytes>,
    ) -> Result<InvocationStatus, AdminError> {
        let key = key.as_deref().map(checked_key).transpose()?;
        let (parts, body) = request.into_parts();
        let accepted = self.queues.add(&app_of(app), &function, key, kept(&parts, body)?).await?;
        let record = self.queues.show(&accepted.name, 0).await?;
        Ok(InvocationStatus::of(&accepted.name, &record))
    }

    async fn invocations(
        &self,
        app: Option<AppName>,
        function: Option<FunctionName>,
        state: Option<InvocationState>,
    ) -> Result<InvocationsReport, AdminError> {
        let state = state.map(StateKind::from);
        let (found, queues) = self.queues.list(app.map(app_of).as_ref(), function.as_ref(), state).await;
        let invocations = found.iter().map(|(name, record)| InvocationStatus::of(name, record)).collect();
        Ok(InvocationsReport { invocations, queues })
    }

    async fn invocation(&self, name: InvocationName, wait_ms: u32) -> Result<Record, AdminError> {
        self.queues.show(&name, wait_ms).await
    }

    async fn retry_invocation(&self, name: InvocationName) -> Result<(), AdminError> {
        self.queues.retry(&name).await
    }

    async fn forget_invocation(&self, name: InvocationName) -> Result<(), AdminError> {
        self.queues.forget(&name).await
    }

    async fn publish(
        &self,
        app: AppName,
        stream: StreamName,
        records: Vec<PublishRecord>,
        producer: Option<ProducerSequence>,
    ) -> Result<Published, AdminError> {
        self.publisher.publish(&app_of(app), &stream, records, producer).await
    }

    async fn tail(
        &self,
        app: AppName,
        stream: StreamName,
        start: TailStart,
        follow: bool,
    ) -> Result<Answers<TailRow>, AdminError> {
        let partitions = self.publisher.partitions(&app_of(app), &stream)?;
        Ok(tail(Arc::clone(&self.source), partitions, start, follow))
    }

    async fn logs(&self, app: Option<AppName>, follow: bool, last: usize) -> Result<Answers<LogLine>, AdminError> {
        if let Some(name) = &app
            && !self.intent.now().apps.contains_key(&app_of(name.clone()))
        {
            return Err(AdminError::not_found(format!("there is no app {name}")));
        }
        let reader = LogReader { mesh: Arc::clone(&self.mesh), logs: Arc::clone(&self.logs) };
        Ok(reader.read(app, follow, last))
    }

    async fn events(&self, since_us: i64, app: Option<AppName>) -> Result<EventsReport, AdminError> {
        Ok(self.events.gather(&self.mesh, since_us, app).await)
    }

    async fn usage(
        &self,
        since_us: i64,
        app: Option<AppName>,
        node: Option<NodeId>,
    ) -> Result<UsageReport, AdminError> {
        let (answers, missing) = self.usage.ask(UsageRequest::Used { since_us }, node.as_ref()).await?;
        let mut report = UsageReport { nodes: Vec::new(), missing };
        for answer in answers {
            if let UsageAnswer::Used(mut used) = answer {
                used.functions.retain(|used| app.as_ref().is_none_or(|app| used.app == app.as_str()));
                report.nodes.push(used);
            }
        }
        Ok(report)
    }

    async fn usage_chains(&self, node: Option<NodeId>) -> Result<ChainReports, AdminError> {
        let (answers, missing) = self.usage.ask(UsageRequest::Check, node.as_ref()).await?;
        let checked = answers.into_iter().filter_map(|answer| match answer {
            UsageAnswer::Checked(checked) => Some(checked),
            UsageAnswer::Used(_) => None,
        });
        Ok(ChainReports { nodes: checked.collect(), missing })
    }

    async fn token(&self, request: TokenRequest) -> Result<TokenGrant, AdminError> {
        let Some(admitting) = &self.admitting else {
            return Err(AdminError::refused("this node cannot let others in")
                .hint("ask the node where the fabric was made with `littoral init`"));
        };
        if admitting.join.is_empty() {
            return Err(
                AdminError::refused("this node does not listen for joining nodes").hint("start it with --join-listen")
            );
        }
        let root = admitting.root.hash().map_err(|error| AdminError::internal(error.to_string()))?;
        let granted = admitting.book.grant(root, admitting.join.clone(), unix_now(), request.ttl_seconds).await;
        let token = granted.map_err(|error| AdminError::unavailable(error.to_string()))?;
        Ok(TokenGrant { token: token.to_text(), expires_s: token.expires_unix })
    }

    async fn metrics(&self) -> String {
        crate::telemetry::render()
    }

    async fn ready(&self) -> Readiness {
        self.health.now()
    }

    async fn stop(&self) -> Result<(), AdminError> {
        self.stop.cancel();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::spec::tests::digest;

    #[test]
    fn the_lost_nodes_that_are_remembered_are_bounded() {
        let mut seen = BTreeMap::new();
        let here = |name: String| {
            let names = ["always".to_owned(), name];
            Members::from(names.map(|name| (name.parse().unwrap(), Arc::new(digest(&name, "hall")))))
        };
        for number in 0..2 * LOST_MAX {
            remember(&mut seen, &here(format!("edge-{number}")));
        }
        assert_eq!(seen.len(), 2 + LOST_MAX);
        assert!(seen.contains_key(&"always".parse::<NodeId>().unwrap()), "who is here is known");
    }
}
