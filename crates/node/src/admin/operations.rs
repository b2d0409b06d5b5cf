//! What a node can be asked to do by those who administer it.
//!
//! The router ([`super::router`]) parses requests and calls exactly one method of [`Operations`] for each; the node
//! implements it. Nothing here knows HTTP servers, and nothing in the router decides.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use littoral_model::entry::ProducerSequence;
use littoral_model::id::{AppName, FunctionName, NodeId, StreamName};
use littoral_model::invocation::{InvocationName, Record};

use super::types::{
    AdminError, AppBundle, AppEnd, AppHistory, AppStatus, ConnectorStatus, FlowStatus, FunctionStatus, LogLine,
    MoveReport, MoveRequest, NodeStatus, PlanReport, PublishRecord, Published, Readiness, Revocation, SiteStatus,
    StreamStatus, TailRow, TokenGrant, TokenRequest,
};

use super::events::EventsReport;
use super::queue::{InvocationState, InvocationStatus, InvocationsReport};
use super::usage::{ChainReports, UsageReport};

/// A stream of answers that may go on for as long as the asker listens; ends after the first error. Dropping it ends
/// the work behind it.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, AdminError>> + Send + 'static>>;

/// Where a tail of a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailStart {
    /// With the oldest record that is still held.
    Start,
    /// With the next record that arrives.
    End,
    /// With the last so many records of each partition.
    Last(u64),
}

/// Everything that the admin API offers. Each method answers for the whole fabric as this node knows it, unless it
/// says otherwise.
#[async_trait]
pub trait Operations: Send + Sync + 'static {
    /// This node.
    ///
    /// # Errors
    /// When the node is stopping.
    async fn node(&self) -> Result<NodeStatus, AdminError>;

    /// All nodes that this node knows, itself among them, the lately lost ones too.
    ///
    /// # Errors
    /// When the node is stopping.
    async fn nodes(&self) -> Result<Vec<NodeStatus>, AdminError>;

    /// All sites that this node knows, with who decides there.
    ///
    /// # Errors
    /// When the node is stopping.
    async fn sites(&self) -> Result<Vec<SiteStatus>, AdminError>;

    /// The apps that are or should be running.
    ///
    /// # Errors
    /// When the node is stopping.
    async fn apps(&self) -> Result<Vec<AppStatus>, AdminError>;

    /// The functions of all apps, with what was measured of them.
    ///
    /// # Errors
    /// When the node is stopping.
    async fn functions(&self) -> Result<Vec<FunctionStatus>, AdminError>;

    /// The flows of all apps, where their stages are, why there, and how they fare.
    ///
    /// # Errors
    /// When the node is stopping.
    async fn flows(&self) -> Result<Vec<FlowStatus>, AdminError>;

    /// The streams of all apps with their partitions.
    ///
    /// # Errors
    /// When the node is stopping.
    async fn streams(&self) -> Result<Vec<StreamStatus>, AdminError>;

    /// The sources and sinks of all apps, and how they fare.
    ///
    /// # Errors
    /// When the node is stopping.
    async fn connectors(&self) -> Result<Vec<ConnectorStatus>, AdminError>;

    /// Whether this node holds the artefact with this digest (SHA-256, 64 lower-case hexadecimal digits).
    ///
    /// # Errors
    /// [`AdminErrorKind::Invalid`](super::types::AdminErrorKind::Invalid) when it is no digest.
    async fn has_artifact(&self, digest: &str) -> Result<bool, AdminError>;

    /// Keeps an artefact and answers its digest (SHA-256, 64 lower-case hexadecimal digits).
    ///
    /// # Errors
    /// When it cannot be stored.
    async fn put_artifact(&self, artifact: Bytes) -> Result<String, AdminError>;

    /// Says where everything of a bundle would run now, and why, and changes nothing. A bundle that cannot be placed
    /// is no error: the report then lists the refusals.
    ///
    /// # Errors
    /// When the manifest is invalid.
    async fn plan(&self, bundle: AppBundle) -> Result<PlanReport, AdminError>;

    /// Makes the bundle the wanted state of its app. Answers once that is durable, not once the app is healthy.
    ///
    /// # Errors
    /// When the manifest is invalid, an artefact is missing, no placement meets its hard constraints, or the bundle's edit
    /// does not follow what holds.
    async fn deploy(&self, bundle: AppBundle) -> Result<AppStatus, AdminError>;

    /// Ends an app and forgets its streams.
    ///
    /// # Errors
    /// When there is no such app, or the end does not follow what holds.
    async fn delete(&self, app: AppName, end: AppEnd) -> Result<(), AdminError>;

    /// Moves stages of a flow, or partitions of a stream, to another node of their site, one after the other. Answers once
    /// the node works on them.
    ///
    /// # Errors
    /// When there is no such thing or node, the node may not have it or is at another site, or the site's keeper does not
    /// decide; what was moved before that stays so.
    async fn relocate(&self, app: AppName, request: MoveRequest) -> Result<MoveReport, AdminError>;

    /// Shuts a node out of the fabric for good; durable here, and told to all that can be reached, before it answers.
    ///
    /// # Errors
    /// When no administrator has signed it.
    async fn revoke(&self, revocation: Revocation) -> Result<(), AdminError>;

    /// What holds of an app, and what lost; also of one that was ended, or never was.
    ///
    /// # Errors
    /// When the node is stopping.
    async fn history(&self, app: AppName) -> Result<AppHistory, AdminError>;

    /// Calls a function, wherever it runs. An error of the function itself is its response, not an error here.
    ///
    /// # Errors
    /// When there is no such function or none of its instances can be reached.
    async fn call(
        &self,
        app: AppName,
        function: FunctionName,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, AdminError>;

    /// Accepts a call that is made later; answers once that is durable. The same key is the same call.
    ///
    /// # Errors
    /// When there is no such function, it has no queue, its queue is full or cannot be reached, or the key was used for
    /// another call.
    async fn call_later(
        &self,
        app: AppName,
        function: FunctionName,
        key: Option<String>,
        request: http::Request<Bytes>,
    ) -> Result<InvocationStatus, AdminError>;

    /// The asynchronous invocations that are known, of one app or one of its functions or all, those only that stand so if
    /// that is said.
    ///
    /// # Errors
    /// None today; a queue that does not answer is named.
    async fn invocations(
        &self,
        app: Option<AppName>,
        function: Option<FunctionName>,
        state: Option<InvocationState>,
    ) -> Result<InvocationsReport, AdminError>;

    /// An asynchronous invocation; waits for its end up to so many milliseconds.
    ///
    /// # Errors
    /// When it is not known (any more), or its queue cannot be reached.
    async fn invocation(&self, name: InvocationName, wait_ms: u32) -> Result<Record, AdminError>;

    /// Runs a dead letter once more.
    ///
    /// # Errors
    /// When it is none, or its queue cannot be reached.
    async fn retry_invocation(&self, name: InvocationName) -> Result<(), AdminError>;

    /// Forgets an asynchronous invocation.
    ///
    /// # Errors
    /// When it is not known, or its queue cannot be reached.
    async fn forget_invocation(&self, name: InvocationName) -> Result<(), AdminError>;

    /// Appends records to a stream; answers once they are durable as the stream's `ack` asks.
    ///
    /// # Errors
    /// When there is no such stream, the records are refused, or no owner can be reached.
    async fn publish(
        &self,
        app: AppName,
        stream: StreamName,
        records: Vec<PublishRecord>,
        producer: Option<ProducerSequence>,
    ) -> Result<Published, AdminError>;

    /// Reads a stream's committed records, partition by partition in order; with `follow` it goes on with those to
    /// come.
    ///
    /// # Errors
    /// When there is no such stream.
    async fn tail(
        &self,
        app: AppName,
        stream: StreamName,
        start: TailStart,
        follow: bool,
    ) -> Result<Answers<TailRow>, AdminError>;

    /// The last `last` lines logged by an app's functions, or of the system when no app is named; with `follow` it
    /// goes on with those to come.
    ///
    /// # Errors
    /// When there is no such app.
    async fn logs(&self, app: Option<AppName>, follow: bool, last: usize) -> Result<Answers<LogLine>, AdminError>;

    /// What happened since a time (microseconds since 1970), of one app or all, on all live nodes.
    ///
    /// # Errors
    /// None today; a node that does not answer is named.
    async fn events(&self, since_us: i64, app: Option<AppName>) -> Result<EventsReport, AdminError>;

    /// What functions have used since a time (microseconds since 1970), of one app or all, on one live node or all.
    ///
    /// # Errors
    /// When there is no such node.
    async fn usage(&self, since_us: i64, app: Option<AppName>, node: Option<NodeId>)
    -> Result<UsageReport, AdminError>;

    /// Checks the chains of usage records of one live node or all.
    ///
    /// # Errors
    /// When there is no such node.
    async fn usage_chains(&self, node: Option<NodeId>) -> Result<ChainReports, AdminError>;

    /// Grants a token with which nodes may join the fabric.
    ///
    /// # Errors
    /// [`AdminErrorKind::Refused`](super::types::AdminErrorKind::Refused) when this node may not admit others.
    async fn token(&self, request: TokenRequest) -> Result<TokenGrant, AdminError>;

    /// This node's metrics in Prometheus' text format.
    async fn metrics(&self) -> String;

    /// Whether this node can do its work. Being cut off from the cloud does not make it unready.
    async fn ready(&self) -> Readiness;

    /// Begins a graceful stop of this node and answers at once.
    ///
    /// # Errors
    /// When the node is stopping already.
    async fn stop(&self) -> Result<(), AdminError>;
}
