//! WASI 0.3: instances that answer several requests, one after the other and at once, on Wasmtime's own machinery.
//!
//! Each data-plane thread has workers of its own, so that no request crosses threads. Wasmtime's queue has no bound;
//! whoever calls bounds the requests that run at once.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, Instance, InstantiationError, Proxy, ProxyHandler, ShouldAccept, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::instances::{THREADS_MAX, this_thread};
use super::{Body, BodyError, HandlerSettings, Reuse};
use crate::engine::{Concurrency, Wasm};
use crate::fabric::Invocation;
use crate::fault::Fault;
use crate::host::{Host, within};
use crate::meter::Meter;
use crate::ticker::Ticking;
use crate::turns::{self, Unanswered};

/// Answers requests with instances that are used again.
pub(super) struct Reused {
    making: Arc<Making>,
    of_threads: Box<[OnceLock<ProxyHandler<Workers>>]>,
}

/// What makes an instance.
struct Making {
    wasm: Wasm,
    pre: ServicePre<Host>,
    settings: HandlerSettings,
}

impl Reused {
    pub(super) fn new(wasm: Wasm, pre: ServicePre<Host>, settings: HandlerSettings) -> Self {
        let of_threads = (0..THREADS_MAX).map(|_| OnceLock::new()).collect();
        Self { making: Arc::new(Making { wasm, pre, settings }), of_threads }
    }

    pub(super) async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Fault> {
        let Some(slot) = self.of_threads.get(this_thread()) else { return Err(Fault::Busy) };
        let handler = slot
            .get_or_init(|| ProxyHandler::new(Workers { making: Arc::clone(&self.making), failed: Arc::default() }));
        let HandlerSettings { limits, usage, .. } = &self.making.settings;
        let due = Invocation::due(&request, limits.timeout);
        let begins = turns::first_in_task(usage.function(), usage.expect(), due).await;
        let unanswered = begins.map_err(|turns::Late| Fault::Timeout { limit: limits.timeout })?;
        let invocation = Invocation::of(&mut request);
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        match handler.handle(Asked { invocation, due, unanswered }, request).await {
            Ok(response) => Ok(response.map(|body| {
                body.map_err(|error: wasmtime_wasi_http::Error| BodyError::Broken(error.to_string())).boxed_unsync()
            })),
            Err(error) => Err(self.fault(&error, handler.state())),
        }
    }

    fn fault(&self, error: &wasmtime::Error, workers: &Workers) -> Fault {
        if error.is::<ExpirationError>() {
            return Fault::Timeout { limit: self.making.settings.limits.timeout };
        }
        if let Some(error) = error.downcast_ref::<InstantiationError<Asked>>() {
            return match error.error.downcast_ref::<Failed>() {
                Some(Failed(fault)) => fault.clone(),
                None => Fault::Trap { cause: error.error.to_string() },
            };
        }
        if let Some(code) = error.downcast_ref::<ErrorCode>() {
            return Fault::Rejected { reason: format!("the handler answered with the error {}", error_name(code)) };
        }
        // The worker that failed said why before it let go of its requests.
        let failed = workers.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failed.unwrap_or_else(|| Fault::Trap { cause: error.to_string() })
    }
}

fn error_name(code: &ErrorCode) -> String {
    match code {
        ErrorCode::InternalError(Some(reason)) => format!("internal-error: {reason}"),
        other => format!("{other:?}"),
    }
}

/// A fault on its way through Wasmtime's machinery.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failed(Fault);

/// What is known of a request when it begins.
struct Asked {
    invocation: Invocation,
    /// Among calls that wait, it goes by this: it is of when it came.
    due: Instant,
    unanswered: Unanswered,
}

/// The workers of one thread.
struct Workers {
    making: Arc<Making>,
    /// How the last worker that failed did.
    failed: Arc<Mutex<Option<Fault>>>,
}

impl HandlerState for Workers {
    type StoreData = Host;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    fn spawn(&self, worker: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(Meter::new(Some(&self.making.settings.usage)).over_task(worker));
    }

    async fn instantiate(&self) -> wasmtime::Result<Instance<Host, Expiration, Worker>> {
        let Making { wasm, pre, settings } = &*self.making;
        let ticking = wasm.tick();
        let engine = &wasm.flavor(Concurrency::Concurrent).engine;
        let meter = Meter::of_task().unwrap_or_else(|| Meter::new(Some(&settings.usage)));
        meter.lasts();
        let store = Host::store(engine, settings.setup(&meter));
        let mut store = store.map_err(|error| Failed(Fault::Setup { reason: format!("{error:#}") }))?;
        let deadline = Host::begin(&mut store);
        let service = match within(deadline, pre.instantiate_async(&mut store)).await {
            Ok(service) => service,
            Err(error) => {
                let fault = Fault::new(&error, store.data());
                store.data().report(&fault.to_string());
                return Err(Failed(fault).into());
            }
        };
        let (timeout, reuse) = (settings.limits.timeout, settings.reuse);
        let memory = store.data().memory();
        // What a request leaves behind, or what waits to be sent, may fill half of what the first had; then a fresh instance
        // takes over before the limit makes a request fail.
        let begun_bytes = memory.load(Ordering::Relaxed);
        let full_bytes = begun_bytes + settings.limits.memory_bytes.saturating_sub(begun_bytes) / 2;
        Ok(Instance {
            store,
            proxy: Proxy::P3(service),
            view: <Host as WasiHttpView>::http as fn(&mut Host) -> WasiHttpCtxView<'_>,
            expiration: Expiration { timeout, idle: reuse.idle, until: None },
            state: Worker { timeout, reuse, memory, full_bytes, failed: Arc::clone(&self.failed), _ticking: ticking },
        })
    }
}

/// One instance.
struct Worker {
    timeout: Duration,
    reuse: Reuse,
    memory: Arc<AtomicU64>,
    /// An instance that has more memory than this takes no more requests.
    full_bytes: u64,
    failed: Arc<Mutex<Option<Fault>>>,
    _ticking: Ticking,
}

impl WorkerState for Worker {
    type StoreData = Host;
    type RequestData = Asked;

    fn should_accept_request(&self, concurrent_count: usize, total_count: usize) -> ShouldAccept {
        if total_count >= self.reuse.requests_max || self.memory.load(Ordering::Relaxed) > self.full_bytes {
            ShouldAccept::Never
        } else if concurrent_count >= self.reuse.concurrency_max {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        mut store: StoreContextMut<'_, Host>,
        Asked { invocation, due, unanswered }: Asked,
        task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        let host = store.data_mut();
        host.renew_deadline();
        host.goes_by(due);
        let sleep = tokio::time::sleep(invocation.timeout(self.timeout));
        host.present.begin_task(task, invocation);
        // This is dropped when the request has its answer, also if nobody waits for that any more.
        Box::pin(async move {
            let _unanswered = unanswered;
            sleep.await;
        })
    }

    fn drop(&self, store: Store<Host>, result: wasmtime::Result<()>) {
        if let Err(error) = result {
            let fault = Fault::new(&error, store.data());
            store.data().report(&fault.to_string());
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
    }
}

/// When an instance ends: some time after it became idle, or when its latest request has had its time. That counts here,
/// too, because a guest that computes keeps Wasmtime from looking at the request's own clock.
struct Expiration {
    timeout: Duration,
    idle: Duration,
    until: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        let allowed = match status {
            WorkerStatus::Idle => self.idle,
            WorkerStatus::Requests | WorkerStatus::PostReturn => self.timeout,
        };
        let end = start + allowed;
        match &mut self.until {
            Some((until, sleep)) => {
                if *until != end {
                    *until = end;
                    sleep.as_mut().reset(end.into());
                }
                sleep.as_mut().poll(context)
            }
            until @ None => {
                let (_, sleep) = until.insert((end, Box::pin(tokio::time::sleep_until(end.into()))));
                sleep.as_mut().poll(context)
            }
        }
    }
}
