//! What one instance may use, and the count of what Wasmtime asks about: memories, tables, core instances.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use littoral_model::manifest;
pub use littoral_model::manifest::limits::CONCURRENCY_DEFAULT;
use wasmtime::ResourceLimiter;

use crate::meter::Meter;

/// How many tables an instance may have.
const TABLES_MAX: usize = 100;
/// How many linear memories an instance may have; what they hold together is limited by [`Limits::memory_bytes`].
const MEMORIES_MAX: usize = 16;

/// What one instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All its linear memories together, in bytes.
    pub memory_bytes: u64,
    /// How long one call may take, waiting included.
    pub timeout: Duration,
    /// How much CPU time one call may use; none leaves it to the timeout. Where an instance answers several requests at
    /// once, it is what the instance has used since the last of them came.
    pub cpu: Option<Duration>,
    /// The longest body of a request, in bytes.
    pub request_bytes: u64,
    /// The longest body of a response, in bytes.
    pub response_bytes: u64,
    /// How many lines a second it may log for ever; ten seconds' worth may come at once.
    pub log_lines_per_second: u32,
    /// How many elements each table may have.
    pub table_elements: u32,
    /// How many core modules a component may be made of.
    pub core_instances: u32,
}

impl Limits {
    /// What a manifest says.
    #[must_use]
    pub fn of(function: &manifest::Function) -> Self {
        Self { memory_bytes: function.memory.into(), timeout: function.timeout.into(), ..Self::from(&function.limits) }
    }
}

impl Default for Limits {
    /// 128 MiB, enough for guests with a garbage-collected language's runtime inside, and 30 seconds, as long as
    /// people wait for an answer; otherwise what holds where a manifest says nothing.
    fn default() -> Self {
        Self::from(&manifest::Limits::default())
    }
}

impl From<&manifest::Limits> for Limits {
    fn from(limits: &manifest::Limits) -> Self {
        Self {
            memory_bytes: 128 << 20,
            timeout: Duration::from_secs(30),
            cpu: limits.cpu.map(Duration::from),
            request_bytes: limits.request.into(),
            response_bytes: limits.response.into(),
            log_lines_per_second: limits.log_rate,
            table_elements: limits.table_elements,
            core_instances: limits.core_instances,
        }
    }
}

/// What a guest asked for and was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Memory,
    TableElements,
}

/// Counts what an instance takes.
pub(crate) struct Limiter {
    limits: Limits,
    meter: Meter,
    memory_bytes: Arc<AtomicU64>,
    refused: Option<Refused>,
}

impl Limiter {
    pub(crate) fn new(limits: Limits, meter: Meter) -> Self {
        Self { limits, meter, memory_bytes: Arc::default(), refused: None }
    }

    /// How much memory the guest has, in bytes; it never gives any back.
    pub(crate) fn memory(&self) -> &Arc<AtomicU64> {
        &self.memory_bytes
    }

    /// The last thing that the guest asked for and did not get.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.refused
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let held = self.memory_bytes.load(Ordering::Relaxed);
        let wanted = held.saturating_add(desired.saturating_sub(current) as u64);
        if wanted > self.limits.memory_bytes {
            self.refused = Some(Refused::Memory);
            return Ok(false);
        }
        self.memory_bytes.store(wanted, Ordering::Relaxed);
        self.meter.holds(wanted);
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired as u64 <= u64::from(self.limits.table_elements);
        if !allowed {
            self.refused = Some(Refused::TableElements);
        }
        Ok(allowed)
    }

    fn instances(&self) -> usize {
        self.limits.core_instances as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}
