//! The functions that this node serves, and calls of those that others serve; `calls` are those of other functions by their
//! names. Those that other functions call by their interfaces are started and stopped here, too, and called in `exports`.

mod calls;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use littoral_mesh::{Call, Method, Priority};
use littoral_model::id::{AppId, FunctionName};
use littoral_model::wire;
use littoral_runtime::composition::ExporterSettings;
use littoral_runtime::http::{Body, HttpFunction, HttpSettings, HttpStats, full};
use littoral_runtime::interfaces::InterfaceFunction;
use littoral_runtime::{LogSink, Shards};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use crate::admin::types::AdminError;
use crate::guests::{Loader, settings_of};
use crate::intent::IntentStore;
use crate::nearest::serving;

/// The largest body that goes to another node, either way: it must fit into a message.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;
/// How long a call of another node may take on top of the function's own time.
const LINK_ALLOWANCE: Duration = Duration::from_secs(5);
/// The first wait before a function that did not load is tried again; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(500);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(30);

type Key = (AppId, FunctionName);

/// A function that is served or being loaded.
struct Served {
    artifact: String,
    /// What it was started with.
    settings: String,
    loading: AbortHandle,
    error: Arc<Mutex<Option<String>>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.loading.abort();
    }
}

/// The functions of this node.
pub(crate) struct Functions {
    loader: Arc<Loader>,
    intent: Arc<IntentStore>,
    shards: Shards,
    served: Mutex<HashMap<Key, Served>>,
    ready: Arc<RwLock<HashMap<Key, Arc<HttpFunction>>>>,
    turn: AtomicUsize,
}

/// A function that was loaded: what answers its HTTP requests, and what answers other functions' calls.
#[derive(Default)]
struct Loaded {
    http: Option<HttpFunction>,
    interfaces: Option<InterfaceFunction>,
}

/// A request that goes to another node.
#[derive(Debug, Serialize, Deserialize)]
struct Invocation {
    app: AppId,
    function: FunctionName,
    method: String,
    uri: String,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    status: u16,
    headers: Vec<(String, Bytes)>,
    body: Bytes,
}

impl Functions {
    pub(crate) fn new(loader: Arc<Loader>, intent: Arc<IntentStore>, shards: Shards) -> Self {
        let (served, ready) = (Mutex::default(), Arc::default());
        Self { loader, intent, shards, served, ready, turn: AtomicUsize::new(0) }
    }

    /// Serves a function; until it is loaded, the one served so far goes on.
    pub(crate) fn start(self: &Arc<Self>, app: AppId, function: FunctionName, artifact: String) {
        let key = (app, function);
        let digest = artifact.clone();
        let error = Arc::new(Mutex::new(None));
        let (this, id, seen) = (Arc::clone(self), key.clone(), Arc::clone(&error));
        let loading = tokio::spawn(async move {
            let mut wait = RETRY_MIN;
            loop {
                match this.load(&id, &artifact).await {
                    Ok(loaded) => {
                        this.serve(&id, loaded);
                        *seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
                        return;
                    }
                    Err(reason) => {
                        tracing::warn!(app = %id.0, function = %id.1, reason, "a function cannot be served yet");
                        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                    }
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_MAX);
            }
        });
        let settings = self.settings(&key);
        let served = Served { artifact: digest, settings, loading: loading.abort_handle(), error };
        self.served.lock().unwrap_or_else(PoisonError::into_inner).insert(key, served);
    }

    /// After intent has changed: starts functions anew that have other settings now.
    pub(crate) fn reconsider(self: &Arc<Self>) {
        let changed: Vec<(Key, String)> = {
            let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = served.iter().filter(|(key, served)| served.settings != self.settings(key));
            changed.map(|(key, served)| (key.clone(), served.artifact.clone())).collect()
        };
        for ((app, function), artifact) in changed {
            self.start(app, function, artifact);
        }
    }

    fn settings(&self, key: &Key) -> String {
        self.intent.now().apps.get(&key.0).map(|app| settings_of(app, &key.1)).unwrap_or_default()
    }

    /// Serves a function no more; calls in flight are finished.
    pub(crate) fn stop(&self, app: &AppId, function: &FunctionName) {
        let key = (app.clone(), function.clone());
        self.served.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.serve(&key, Loaded::default());
    }

    fn serve(&self, key: &Key, loaded: Loaded) {
        self.loader.exports.set(key, loaded.interfaces);
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        match loaded.http {
            Some(function) => drop(ready.insert(key.clone(), Arc::new(function))),
            None => drop(ready.remove(key)),
        }
    }

    async fn load(&self, key: &Key, digest: &str) -> Result<Loaded, String> {
        let apps = self.intent.now();
        let app = apps.apps.get(&key.0).ok_or("the app is gone")?;
        let loaded = self.loader.load(app, &key.1, digest).await.map_err(|error| format!("{error:#}"))?;
        let (runtime, name) = (&self.loader.runtime, format!("{}/{}", key.0, key.1));
        let logs: Arc<dyn LogSink> = loaded.logs;
        let exporter = ExporterSettings {
            limits: loaded.limits,
            environment: loaded.config.clone(),
            access: Arc::clone(&loaded.access),
            surroundings: Arc::clone(&loaded.surroundings),
            logs: Arc::clone(&logs),
            usage: Arc::clone(&loaded.usage),
            concurrency_max: loaded.concurrency,
            ..ExporterSettings::default()
        };
        let interfaces = InterfaceFunction::new(runtime, &loaded.artifact, &name, exporter);
        if interfaces.is_some() && !loaded.artifact.is_handler() {
            return Ok(Loaded { http: None, interfaces });
        }
        let settings = HttpSettings {
            name,
            limits: loaded.limits,
            concurrency_max: loaded.concurrency,
            environment: loaded.config,
            access: loaded.access,
            surroundings: loaded.surroundings,
            logs,
            usage: loaded.usage,
        };
        let http = HttpFunction::new(runtime, &loaded.artifact, settings).map_err(|error| error.to_string())?;
        Ok(Loaded { http: Some(http), interfaces })
    }

    /// A function that this node serves.
    pub(crate) fn here(&self, app: &AppId, function: &FunctionName) -> Option<Arc<HttpFunction>> {
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        ready.get(&(app.clone(), function.clone())).cloned()
    }

    /// What this node serves or is to serve: what was measured of the function once it is loaded, and why it is not.
    pub(crate) fn all(&self) -> Vec<(Key, Option<HttpStats>, Option<String>)> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let all = served.iter().map(|(key, served)| {
            let error = served.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (key.clone(), self.stats(key), error)
        });
        all.collect()
    }

    /// What was measured of a function that is loaded, of both ways in which it may be called.
    fn stats(&self, (app, function): &Key) -> Option<HttpStats> {
        let http = self.here(app, function).map(|http| http.stats());
        let interfaces = self.loader.exports.here(app, function).map(|interfaces| interfaces.stats());
        match (http, interfaces) {
            (Some(http), Some(interfaces)) => Some(http.and(interfaces)),
            (http, interfaces) => http.or(interfaces),
        }
    }

    /// Calls a function, wherever it runs: here if it does, else on the live nodes that serve it in turn, nearest first.
    pub(crate) async fn call(
        &self,
        app: &AppId,
        function: &FunctionName,
        mut request: Request<Bytes>,
    ) -> Result<Response<Bytes>, AdminError> {
        // HTTP/1.1 demands one; who calls by name has none in mind.
        request.headers_mut().entry(HOST).or_insert(HeaderValue::from_static("localhost"));
        if let Some(local) = self.here(app, function) {
            return self.call_here(local, request).await;
        }
        if self.loader.exports.here(app, function).is_some() {
            let text = format!("{}/{function} answers no HTTP: it exports interfaces for other functions", app.app);
            return Err(AdminError::refused(text).hint("call a function that imports them"));
        }
        let apps = self.intent.now();
        let known = apps.apps.get(app).and_then(|app| app.manifest.functions.get(function));
        let Some(known) = known else {
            return Err(AdminError::not_found(format!("there is no function {}/{function}", app.app))
                .hint("`littoral get functions` lists those there are"));
        };
        let deadline = Duration::from(known.timeout) + LINK_ALLOWANCE;
        let (parts, body) = request.into_parts();
        let invocation = Invocation {
            app: app.clone(),
            function: function.clone(),
            method: parts.method.to_string(),
            uri: parts.uri.to_string(),
            headers: headers_out(&parts.headers),
            body,
        };
        let payload = wire::encode(&invocation).map_err(|error| AdminError::invalid(error.to_string()))?;
        let mesh = &self.loader.mesh;
        let mut last = format!("no live node serves {}/{function}", app.app);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for node in serving(mesh, &self.intent, turn, app, function) {
            let call = Call::new(Method::Invoke, payload.clone(), Priority::Data, deadline, mesh.invocation());
            match mesh.call(&node, call).await {
                Ok(reply) => {
                    let answer: Option<Answer> =
                        wire::decode(&reply).map_err(|error| AdminError::internal(error.to_string()))?;
                    match answer {
                        Some(answer) => return response(answer),
                        None => last = format!("{node} does not serve it yet"),
                    }
                }
                // Only a refusal is certain to have had no effect: a call is not repeated elsewhere after anything else.
                Err(littoral_mesh::CallError::Refused { reason, .. }) => last = format!("{node}: {reason}"),
                Err(error) => return Err(AdminError::unavailable(format!("{node}: {error}"))),
            }
        }
        Err(AdminError::unavailable(last).hint("`littoral get functions` tells where it runs and why it does not"))
    }

    /// Answers another node's [`Method::Invoke`]; with nothing if this node does not serve the function.
    pub(crate) async fn answer(&self, payload: &Bytes) -> Result<Bytes, String> {
        let invocation: Invocation = wire::decode(payload).map_err(|error| error.to_string())?;
        let Some(function) = self.here(&invocation.app, &invocation.function) else {
            if self.loader.exports.here(&invocation.app, &invocation.function).is_some() {
                return Err("it answers no HTTP: it exports interfaces for other functions".to_owned());
            }
            return wire::encode(&None::<Answer>).map_err(|error| error.to_string());
        };
        let mut request = Request::builder().method(invocation.method.as_str()).uri(invocation.uri);
        for (name, value) in &invocation.headers {
            request = request.header(name, value.as_ref());
        }
        let request = request.body(invocation.body).map_err(|error| error.to_string())?;
        let response = self.call_here(function, request).await.map_err(|error| error.to_string())?;
        let (parts, body) = response.into_parts();
        let answer = Answer { status: parts.status.as_u16(), headers: headers_out(&parts.headers), body };
        wire::encode(&Some(answer)).map_err(|error| error.to_string())
    }

    async fn call_here(
        &self,
        function: Arc<HttpFunction>,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, AdminError> {
        let called = self.shards.spawn(self.shards.pick(), move || async move {
            let (parts, body) = function.call(request.map(|body| -> Body { full(body) })).await.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
            (parts, body.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string()))
        });
        let (parts, body) = called.await.map_err(|error| AdminError::unavailable(error.to_string()))?;
        let body =
            body.map_err(|error| AdminError::unavailable(format!("the function's answer broke off: {error}")))?;
        Ok(Response::from_parts(parts, body))
    }
}

fn headers_out(headers: &http::HeaderMap) -> Vec<(String, Bytes)> {
    headers.iter().map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

fn response(answer: Answer) -> Result<Response<Bytes>, AdminError> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value.as_ref());
    }
    response.body(answer.body).map_err(|error| AdminError::internal(error.to_string()))
}
