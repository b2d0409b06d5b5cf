//! What belongs to one instance on the host's side: its WASI context, its limits, its deadline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView,
    WasiHttpHooks, WasiHttpView,
};

use crate::access::Access;
use crate::egress;
use crate::fabric::{Present, Surroundings};
use crate::limits::{Limiter, Limits, Refused};
use crate::logs::{GuestOutput, LogSink, LogStream};
use crate::meter::Meter;
use crate::turns;

/// How many random bytes one call may ask for, so that a guest cannot make the host allocate at will.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// How many things of the host's an instance that serves others may hold at once: files, sockets, headers, timers, parts of
/// requests. Each takes memory that no limit of the guest's counts, and some a file descriptor, of which the node has a few
/// ten thousand for all. Enough for a hundred requests under way at once. A command has the machine to itself.
pub(crate) const RESOURCES_MAX: usize = 1_024;
/// How much memory of the host's the values may take that cross to it in one call: lists may overlap in the guest's memory,
/// and would take many times as much as it has. As much as a guest has by default; Wasmtime's own default, too.
const CROSSING_BYTES_MAX: usize = 128 << 20;
/// How large the headers or trailers of one message may be that a guest makes, in bytes: as much as servers take.
const FIELDS_BYTES_MAX: usize = 32 << 10;
/// How much of a body a guest writes at once, and how many such parts may wait to be sent.
const BODY_CHUNK_BYTES_MAX: usize = 64 << 10;
const BODY_CHUNKS_BUFFERED: usize = 2;
/// A guest gives way after this many ticks of a millisecond.
pub(crate) const TICKS_BEFORE_YIELD: u64 = 1;

/// The error by which a guest is stopped whose time is up.
#[derive(Debug, thiserror::Error)]
#[error("the deadline passed")]
pub(crate) struct DeadlinePassed;

/// The error by which a guest is stopped that has used its CPU time.
#[derive(Debug, thiserror::Error)]
#[error("the CPU time is used up")]
pub(crate) struct CpuUsedUp;

/// What an instance is given.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) limits: Limits,
    pub(crate) meter: &'a Meter,
    /// For commands: its arguments, the first of which is its name. They have this process's standard input and output.
    pub(crate) command: Option<&'a [String]>,
    pub(crate) environment: &'a [(String, String)],
    pub(crate) access: &'a Arc<Access>,
    pub(crate) surroundings: &'a Arc<Surroundings>,
    pub(crate) logs: &'a Arc<dyn LogSink>,
}

impl Setup<'_> {
    /// What WASI is to show the guest.
    pub(crate) fn wasi(&self, stdout: &GuestOutput, stderr: &GuestOutput) -> wasmtime::Result<WasiCtxBuilder> {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(stdout.clone()).stderr(stderr.clone()).envs(self.environment).max_random_size(RANDOM_BYTES_MAX);
        if let Some(arguments) = self.command {
            wasi.inherit_stdio().args(arguments);
        }
        self.access.apply(&mut wasi, stderr)?;
        Ok(wasi)
    }
}

/// The data of one instance's store.
pub(crate) struct Host {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: Hooks,
    limits: Limits,
    limiter: Limiter,
    meter: Meter,
    deadline: Instant,
    /// Of calls that wait for a turn, the one that is due earlier goes first; at the deadline, or earlier if it waited to begin.
    due: Instant,
    /// How many slices the call has used up, or [counts as having used](turns::slices_before).
    slices: u32,
    stdout: GuestOutput,
    stderr: GuestOutput,
    surroundings: Arc<Surroundings>,
    pub(crate) present: Present,
}

impl Host {
    /// A store for one instance that gives way each millisecond and ends when its deadline passes.
    ///
    /// # Errors
    /// When something that is granted cannot be had.
    pub(crate) fn store(engine: &Engine, setup: Setup<'_>) -> wasmtime::Result<Store<Self>> {
        let Setup { limits, meter, access, surroundings, logs, .. } = setup;
        let (rate, allowance) = (limits.log_lines_per_second, meter.allowance());
        let output = |stream| GuestOutput::new(Arc::clone(logs), stream, rate, Arc::clone(&allowance));
        let (stdout, stderr) = (output(LogStream::Stdout), output(LogStream::Stderr));
        let wasi = setup.wasi(&stdout, &stderr)?.build();
        let mut table = ResourceTable::new();
        if setup.command.is_none() {
            table.set_max_capacity(RESOURCES_MAX);
        }
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        let deadline = Instant::now() + limits.timeout;
        let host = Self {
            wasi,
            http,
            table,
            hooks: Hooks { access: Arc::clone(access), output: stderr.clone() },
            limits,
            limiter: Limiter::new(limits, meter.clone()),
            meter: meter.clone(),
            deadline,
            due: deadline,
            slices: 0,
            stdout,
            stderr,
            surroundings: Arc::clone(surroundings),
            present: Present::default(),
        };
        let mut store = Store::new(engine, host);
        store.limiter(|host| &mut host.limiter);
        store.set_hostcall_fuel(CROSSING_BYTES_MAX);
        store.epoch_deadline_callback(|mut context| {
            let host = context.data_mut();
            host.slices = host.slices.saturating_add(1);
            if Instant::now() >= host.deadline {
                return Err(DeadlinePassed.into());
            }
            host.check_cpu()?;
            let turn = turns::next(host.meter.function(), host.slices, host.due);
            Ok(UpdateDeadline::YieldCustom(TICKS_BEFORE_YIELD, Box::pin(turn)))
        });
        store.set_epoch_deadline(TICKS_BEFORE_YIELD);
        Ok(store)
    }

    /// Begins a call: its deadline counts from now.
    pub(crate) fn begin(store: &mut Store<Self>) -> Instant {
        let deadline = store.data_mut().renew_deadline();
        store.data().stderr.begin();
        store.set_epoch_deadline(TICKS_BEFORE_YIELD);
        deadline
    }

    /// The instance waits for its call, on nobody's account.
    pub(crate) fn rest(&self) {
        self.meter.holds(0);
    }

    /// The call that the instance waited for has come, and may take so long.
    pub(crate) fn wake(&mut self, timeout: Duration) {
        self.limits.timeout = timeout;
        self.meter.holds(self.limiter.memory().load(Ordering::Relaxed));
    }

    /// From now on, the guest has its whole time again.
    pub(crate) fn renew_deadline(&mut self) -> Instant {
        self.deadline = Instant::now() + self.limits.timeout;
        self.due = self.deadline;
        self.slices = turns::slices_before(self.meter.expects_ns());
        if self.limits.cpu.is_some() {
            self.meter.begin_call();
        }
        self.deadline
    }

    /// The call that has begun came earlier: it goes before those that came after it.
    pub(crate) fn goes_by(&mut self, due: Instant) {
        self.due = due;
    }

    fn check_cpu(&self) -> wasmtime::Result<()> {
        match self.limits.cpu {
            Some(limit) if self.meter.call_cpu() > limit => Err(CpuUsedUp.into()),
            _ => Ok(()),
        }
    }

    /// Ends a call: what was written reaches the log.
    pub(crate) fn end(&self) {
        self.stdout.flush();
        self.stderr.flush();
    }

    /// Adds a line of the host's own to the guest's log.
    pub(crate) fn report(&self, text: &str) {
        self.stderr.host_line(text);
    }

    /// When the call under way ends.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn access(&self) -> &Access {
        &self.hooks.access
    }

    pub(crate) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// What the guest asked for last and did not get.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.limiter.refused()
    }

    /// How much memory the guest has, in bytes; it never gives any back.
    pub(crate) fn memory(&self) -> Arc<AtomicU64> {
        Arc::clone(self.limiter.memory())
    }

    /// The last line that the guest wrote to standard error in this call.
    pub(crate) fn last_words(&self) -> Option<String> {
        self.stderr.last_words()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// Ends a call whose time is up while it waits; one that computes ends by itself.
pub(crate) async fn within<T>(
    deadline: Instant,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    match tokio::time::timeout_at(deadline.into(), call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(DeadlinePassed.into()),
    }
}

/// How a guest's HTTP meets the world.
struct Hooks {
    access: Arc<Access>,
    output: GuestOutput,
}

type Sent = Result<
    (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>),
    wasmtime_wasi_http::Error,
>;

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(egress::send(Arc::clone(&self.access), self.output.clone(), request, options))
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        static FILTER: OnceLock<ForbiddenHeaderFilter> = OnceLock::new();
        Arc::clone(FILTER.get_or_init(|| Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name))))
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BODY_CHUNKS_BUFFERED
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES_MAX
    }
}
