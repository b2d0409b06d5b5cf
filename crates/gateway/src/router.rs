//! Where a request goes; supplied by whoever starts the gateway.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderName, Request, Response};
use littoral_runtime::http::{Body, HttpFunction};

/// Answers one request that no local function answers: a stream's records, another node's function, the node's health.
pub type Responder = Box<dyn FnOnce(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send>;

/// Where a request goes.
pub enum Target {
    /// To a function, on the thread that has the connection.
    Function(Arc<HttpFunction>),
    /// To whatever answers it; also on that thread.
    Respond(Responder),
}

impl Target {
    /// A target that answers at once.
    #[must_use]
    pub fn answer(response: Response<Body>) -> Self {
        Self::Respond(Box::new(move |_| Box::pin(std::future::ready(response))))
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Function(function) => f.debug_tuple("Function").field(&function.name()).finish(),
            Self::Respond(_) => f.write_str("Respond"),
        }
    }
}

/// Says where requests go.
pub trait Router: Send + Sync + 'static {
    /// Where this request goes. Called for each request on a data-plane thread: it must not block.
    fn route(&self, request: &Parts) -> Target;

    /// The headers that only the node itself may tell functions: those of clients are dropped before anything reads them.
    fn reserved(&self) -> &'static [HeaderName] {
        &[]
    }
}

/// A router that sends every request to one function.
#[must_use]
pub fn single(function: Arc<HttpFunction>) -> Arc<dyn Router> {
    struct Single(Arc<HttpFunction>);
    impl Router for Single {
        fn route(&self, _request: &Parts) -> Target {
            Target::Function(Arc::clone(&self.0))
        }
    }
    Arc::new(Single(function))
}
