//! The admin API's operations, carried out by this node.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_flow::reader::Source;
use littoral_mesh::identity::{Root, unix_now};
use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::digest::NodeDigest;
use littoral_model::entry::ProducerSequence;
use littoral_model::id::{AppId, AppName, FunctionName, NodeId, StreamName, TenantId};
use littoral_model::manifest::{self, Manifest};
use littoral_model::work::Assignment;
use littoral_plan::{Fabric, Placement, Refusal};
use tokio_util::sync::CancellationToken;

use crate::admin::operations::{Answers, Operations, TailStart};
use crate::admin::types::{
    AdminError, AdminErrorKind, AppBundle, AppStatus, FindingReport, FlowStatus, FunctionStatus, LogLine, NodeState,
    NodeStatus, PlanReport, PublishRecord, Published, Readiness, StreamStatus, TailRow, TokenGrant, TokenRequest,
};
use crate::admin::usage::{ChainReports, UsageReport};
use crate::artifacts::Artifacts;
use crate::composition::compose_bundle;
use crate::core::Core;
use crate::functions::Functions;
use crate::health::Health;
use crate::intent::{Exchange, IntentStore};
use crate::log_reader::LogReader;
use crate::logs::Logs;
use crate::metering::{UsageAnswer, UsageReader, UsageRequest};
use crate::plan_report;
use crate::publish::Publisher;
use crate::report::{Reporter, assignments};
use crate::services::Services;
use crate::spec::{app_id, app_spec};
use crate::status::{self, Picture};
use crate::tail::tail;
use crate::token_book::Book;
use crate::wiring::ask;

/// How long the nodes have to take a deployment; those that do not answer learn of it as soon as they are back.
const SPREAD_DEADLINE: Duration = Duration::from_secs(2);

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
    source: Arc<dyn Source>,
    reporter: Arc<Reporter>,
    logs: Arc<Logs>,
    usage: UsageReader,
    health: Arc<Health>,
    admitting: Option<Admitting>,
    stop: CancellationToken,
    /// The last digest of each node that was ever seen, for showing those that are lost.
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
            source: Arc::clone(&core.source),
            reporter: Arc::clone(&services.reporter),
            logs: Arc::clone(&core.logs),
            usage: UsageReader { mesh: Arc::clone(&core.mesh), metering: Arc::clone(&core.metering) },
            health: Arc::clone(&services.health),
            admitting,
            stop,
            seen: Mutex::default(),
        }
    }

    async fn picture(&self) -> Picture {
        Picture::new(self.intent.now(), self.reporter.gather().await)
    }

    /// Everybody who is here now, and everybody who was.
    fn known_nodes(&self) -> (Arc<littoral_mesh::Members>, BTreeMap<NodeId, Arc<NodeDigest>>) {
        let live = self.mesh.members().borrow().clone();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(live.iter().map(|(node, digest)| (node.clone(), Arc::clone(digest))));
        (live, seen.clone())
    }

    /// Where everything of a bundle would run now.
    async fn compile(&self, manifest: &Manifest, bundle: &AppBundle) -> Result<Placement, Refusal> {
        let spec = app_spec(manifest, &bundle.artifacts);
        let (live, seen) = self.known_nodes();
        let dead = seen.iter().filter(|(node, _)| !live.contains_key(*node));
        let mut fabric =
            Fabric::from_digests(live.values().map(AsRef::as_ref), dead.map(|(_, digest)| digest.as_ref()));
        self.book_other_apps(&mut fabric, &spec.app);
        let existing = assignments(&self.reporter.gather().await);
        let existing: Vec<Assignment> = existing.into_values().filter(|held| held.work.app == spec.app).collect();
        littoral_plan::compile(&spec, &fabric, &existing)
    }

    /// What other apps were promised is not to be had.
    fn book_other_apps(&self, fabric: &mut Fabric, app: &AppId) {
        let apps = self.intent.now();
        for other in apps.apps.values().filter(|other| other.id != *app) {
            for placed in &other.placement.works {
                for node in &placed.replicas {
                    if let Some(view) = fabric.nodes.get_mut(node) {
                        view.memory_promised_bytes += placed.memory_bytes;
                    }
                }
            }
            for instance in &other.placement.instances {
                let memory =
                    other.manifest.functions.get(&instance.function).map_or(0, |function| function.memory.into());
                if let Some(view) = fabric.nodes.get_mut(&instance.node) {
                    view.memory_promised_bytes += memory;
                }
            }
        }
    }

    /// Sends an app's record to every live node. Those that cannot be reached ask for it when they are back.
    async fn spread(&self, app: &AppId) {
        let offer = self.intent.offer_with(app);
        let members = self.mesh.members().borrow().clone();
        let others = members.keys().filter(|node| *node != self.mesh.node());
        let (mesh, offer) = (&self.mesh, &offer);
        let told = others.map(|node| async move {
            let told: Result<Exchange, _> =
                ask(mesh, node, Method::Intent, Priority::Control, SPREAD_DEADLINE, offer).await;
            if let Err(error) = told {
                tracing::info!(%node, %error, "a node will learn of the deployment later");
            }
        });
        futures::future::join_all(told).await;
    }
}

/// An app of the default tenant.
fn app_of(app: AppName) -> AppId {
    AppId { tenant: TenantId::default_tenant(), app }
}

fn parse(bundle: &AppBundle) -> Result<Manifest, AdminError> {
    manifest::parse("littoral.toml", &bundle.manifest).map_err(|findings| {
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
        Ok(status::nodes(&live, &seen))
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
        let manifest = parse(&bundle)?;
        let compiled = self.compile(&manifest, &bundle).await;
        Ok(plan_report::report(&manifest, compiled.as_ref()))
    }

    async fn deploy(&self, bundle: AppBundle) -> Result<AppStatus, AdminError> {
        let manifest = parse(&bundle)?;
        let app = app_id(&manifest);
        self.intent.check(&app, &bundle).map_err(|error| AdminError::refused(error.to_string()))?;
        for name in manifest.functions.keys() {
            let digest = bundle.artifacts.get(name.as_str()).ok_or_else(|| {
                AdminError::invalid(format!("the bundle has no artefact of function {name}"))
                    .hint("build the app first")
            })?;
            if !self.has_artifact(digest).await? {
                let text = format!("this node does not hold the artefact {digest} of function {name}");
                return Err(AdminError::new(AdminErrorKind::Conflict, text).hint("upload it, then deploy again"));
            }
        }
        let composition = compose_bundle(&self.artifacts, &manifest, &bundle).await?;
        let placement = self.compile(&manifest, &bundle).await.map_err(|refusal| {
            AdminError::refused(refusal.to_string()).hint("`littoral plan` shows what would go where")
        })?;
        self.intent.deploy(app.clone(), bundle, placement, composition).await.map_err(AdminError::unavailable)?;
        tracing::info!(%app, version = manifest.version, "deployed");
        self.spread(&app).await;
        let apps = self.intent.now();
        let deployed =
            apps.apps.get(&app).ok_or_else(|| AdminError::new(AdminErrorKind::Conflict, "deleted meanwhile"))?;
        Ok(self.picture().await.app(deployed))
    }

    async fn delete(&self, app: AppName) -> Result<(), AdminError> {
        let id = app_of(app);
        if !self.intent.now().apps.contains_key(&id) {
            return Err(AdminError::not_found(format!("there is no app {}", id.app)));
        }
        self.intent.end(id.clone()).await.map_err(AdminError::unavailable)?;
        tracing::info!(app = %id, "deleted");
        self.spread(&id).await;
        Ok(())
    }

    async fn call(
        &self,
        app: AppName,
        function: FunctionName,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, AdminError> {
        self.functions.call(&app_of(app), &function, request).await
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
