//! Why a guest's call failed, in words that its author understands.

use std::fmt::Write as _;
use std::time::Duration;

use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::composition::ComposedCallFailed;
use crate::host::{CpuUsedUp, DeadlinePassed, Host, RESOURCES_MAX};
use crate::limits::Refused;

/// How many functions of a trapped guest's stack are named.
const FRAMES_NAMED_MAX: usize = 4;

/// What Wasmtime says, without a type of its own, of a component that is made of more core modules than it may.
const TOO_MANY_CORE_INSTANCES: &str = "resource limit exceeded: instance count too high";

/// Why a guest's call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The guest trapped or exited. The instance is gone.
    #[error("it trapped: {cause}")]
    Trap {
        /// The kind of trap, the guest's last words, and where it happened.
        cause: String,
    },
    /// The call took longer than it may. The instance is gone.
    #[error("it ran for longer than {limit:?}; raise `timeout` in the manifest if it needs more")]
    Timeout {
        /// How long it may take.
        limit: Duration,
    },
    /// The guest asked for more memory than it may have, and then gave up. The instance is gone.
    #[error("it needs more memory than {limit_bytes} bytes; raise `memory` in the manifest if it does ({cause})")]
    Memory {
        /// How much it may have.
        limit_bytes: u64,
        /// How it ended.
        cause: String,
    },
    /// The call used more CPU time than it may. The instance is gone.
    #[error("it used more CPU time than {limit:?}; raise `limits.cpu` in the manifest if it needs more")]
    Cpu {
        /// How much it may use.
        limit: Duration,
    },
    /// The guest needs more of something than it may have. The instance is gone, if there ever was one.
    #[error("it needs more than {limit} {what}; raise `limits.{key}` in the manifest if it does ({cause})")]
    Limit {
        /// What of.
        what: &'static str,
        /// How many it may have.
        limit: u64,
        /// The key of the manifest that says so.
        key: &'static str,
        /// How it ended.
        cause: String,
    },
    /// The body of the request is longer than it may be.
    #[error(
        "the request's body has more than {limit_bytes} bytes; raise `limits.request` in the manifest if it may, up to 8MiB"
    )]
    RequestTooLarge {
        /// How long it may be.
        limit_bytes: u64,
    },
    /// The body of the response is longer than it may be.
    #[error("its response's body has more than {limit_bytes} bytes; raise `limits.response` in the manifest if it may")]
    ResponseTooLarge {
        /// How long it may be.
        limit_bytes: u64,
    },
    /// As many requests of the function are being answered as may be at once.
    #[error(
        "{limit} requests of it are being answered, and no more may be at once; try again, or raise `limits.concurrency` in the manifest"
    )]
    Concurrency {
        /// How many.
        limit: usize,
    },
    /// The guest itself says that it cannot do this.
    #[error("{reason}")]
    Rejected {
        /// Its words.
        reason: String,
    },
    /// The guest's answer is not what the interface asks for.
    #[error("its answer is not valid: {reason}")]
    Protocol {
        /// What is wrong with it.
        reason: String,
    },
    /// The input cannot be handed to a guest.
    #[error("its input cannot be handed to a guest: {reason}")]
    Input {
        /// What is wrong with it.
        reason: String,
    },
    /// What it is granted cannot be given to it.
    #[error("it cannot be given what it is granted: {reason}")]
    Setup {
        /// What, and why.
        reason: String,
    },
    /// No instance of the function has room, and none can be started in time.
    #[error("no instance of it is ready: {reason}; try again")]
    Unready {
        /// Why.
        reason: String,
    },
    /// The node runs as many instances as it has room for.
    #[error("the node has no room for another instance; try again, or raise its capacity")]
    Busy,
    /// A function of an interface that it imports from another function failed.
    #[error("{call}")]
    Composed {
        /// Which one, whose it is, and how it failed.
        call: String,
        /// Whether the time of this call ran out meanwhile.
        is_late: bool,
    },
    /// The instance ended with an earlier call.
    #[error("the instance ended with an earlier call; make a new one")]
    Gone,
}

impl Fault {
    /// Reads an error of Wasmtime that ended a call into `host`'s guest.
    pub(crate) fn new(error: &wasmtime::Error, host: &Host) -> Self {
        if error.is::<DeadlinePassed>() {
            return Self::Timeout { limit: host.limits().timeout };
        }
        if error.is::<CpuUsedUp>() {
            return Self::Cpu { limit: host.limits().cpu.unwrap_or_default() };
        }
        if let Some(failed) = error.downcast_ref::<ComposedCallFailed>() {
            return Self::Composed { call: failed.to_string(), is_late: failed.is_late };
        }
        if error.is::<PoolConcurrencyLimitError>() {
            return Self::Busy;
        }
        let cause = cause(error, host);
        let limits = host.limits();
        if cause.contains(TOO_MANY_CORE_INSTANCES) {
            let limit = u64::from(limits.core_instances);
            return Self::Limit { what: "core instances", limit, key: "core-instances", cause };
        }
        match host.refused() {
            Some(Refused::Memory) => Self::Memory { limit_bytes: limits.memory_bytes, cause },
            Some(Refused::TableElements) => {
                let limit = u64::from(limits.table_elements);
                Self::Limit { what: "elements in a table", limit, key: "table-elements", cause }
            }
            None => Self::Trap { cause },
        }
    }
}

/// One line: what happened, the guest's last words, where.
fn cause(error: &wasmtime::Error, host: &Host) -> String {
    let mut text = if let Some(trap) = error.downcast_ref::<Trap>() {
        trap_text(*trap)
    } else if let Some(exit) = error.downcast_ref::<I32Exit>() {
        format!("it exited with status {}", exit.0)
    } else if matches!(error.root_cause().downcast_ref(), Some(ResourceTableError::Full)) {
        format!("it holds more than {RESOURCES_MAX} files, sockets, headers, timers or parts of requests at once")
    } else {
        error.root_cause().to_string()
    };
    if let Some(words) = host.last_words() {
        // Writing to a String cannot fail, here and below.
        let _ = write!(text, ", after writing `{words}`");
    }
    let names = error.downcast_ref::<WasmBacktrace>().map(frame_names).unwrap_or_default();
    if !names.is_empty() {
        let _ = write!(text, ", in {}", names.join(" < "));
    }
    text
}

fn trap_text(trap: Trap) -> String {
    match trap {
        Trap::UnreachableCodeReached => "it gave up (`unreachable`)".to_owned(),
        Trap::StackOverflow => "its calls are nested too deeply (stack overflow)".to_owned(),
        other => other.to_string(),
    }
}

/// The innermost functions that are the guest's own rather than its standard library's machinery for panics.
fn frame_names(backtrace: &WasmBacktrace) -> Vec<String> {
    const MACHINERY: [&str; 6] = ["std::", "core::", "alloc::", "__rust", "rust_", "abort"];
    // The alternate form leaves out the hash that ends Rust's mangled names and helps nobody.
    let name = |mangled: &str| format!("{:#}", rustc_demangle::demangle(mangled));
    let named = backtrace.frames().iter().filter_map(|frame| frame.func_name().map(name));
    let own = named.filter(|name| !MACHINERY.iter().any(|prefix| name.trim_start_matches('<').starts_with(prefix)));
    own.take(FRAMES_NAMED_MAX).collect()
}
