//! The call in which a guest runs: what the caller said of it, and what is drawn only when the guest asks.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Request};
use littoral_model::id::InvocationId;
use ring::rand::{SecureRandom, SystemRandom};
use wasmtime::StoreContextMut;
use wasmtime::component::GuestTaskId;

use crate::host::Host;

/// The header that carries a trace (W3C Trace Context, section 3.2).
const TRACEPARENT: &str = "traceparent";
/// How many of the latest requests of one instance are told apart; more than run in it at once.
const TASKS_KEPT_MAX: usize = 64;

/// One call of a function, as its caller sees it. An HTTP request carries it as an extension; one without is a call from
/// outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Its id; drawn when the guest asks if there is none.
    pub id: Option<InvocationId>,
    /// Which try it is, from 1.
    pub attempt: u32,
    /// When the caller stops waiting, if that is before the function's own time is up.
    pub deadline: Option<Instant>,
    /// How many functions called one another before; 0 for a call from outside.
    pub depth: u32,
    /// The trace it belongs to; a new one if there is none, or what there is makes no sense.
    pub traceparent: Option<HeaderValue>,
}

impl Default for Invocation {
    fn default() -> Self {
        Self { id: None, attempt: 1, deadline: None, depth: 0, traceparent: None }
    }
}

impl Invocation {
    /// The invocation of a request.
    pub(crate) fn of<B>(request: &mut Request<B>) -> Self {
        let told = request.extensions_mut().remove::<Self>();
        told.unwrap_or_else(|| Self { traceparent: request.headers().get(TRACEPARENT).cloned(), ..Self::default() })
    }

    /// When a request's call ends that may take so long.
    pub(crate) fn due<B>(request: &Request<B>, limit: Duration) -> Instant {
        let told = request.extensions().get::<Self>();
        Instant::now() + told.map_or(limit, |told| told.timeout(limit))
    }

    /// How long the function may take that may otherwise take so long.
    pub(crate) fn timeout(&self, limit: Duration) -> Duration {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(limit, |left| left.min(limit))
    }

    /// Its id, the same each time.
    pub(super) fn id(&mut self) -> InvocationId {
        *self.id.get_or_insert_with(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let time_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            InvocationId::from_parts(time_ms, u128::from_be_bytes(random()))
        })
    }

    /// Its trace, the same each time.
    pub(super) fn traceparent(&mut self) -> HeaderValue {
        if !self.traceparent.as_ref().is_some_and(is_traceparent) {
            self.traceparent = None;
        }
        self.traceparent.get_or_insert_with(new_traceparent).clone()
    }
}

/// The invocations in one instance: one, or several at once with WASI 0.3.
#[derive(Default)]
pub(crate) struct Present {
    only: Invocation,
    tasks: VecDeque<(GuestTaskId, Invocation)>,
}

impl Present {
    /// The instance is called.
    pub(crate) fn begin(&mut self, invocation: Invocation) {
        self.only = invocation;
    }

    /// A task of the instance is called, perhaps beside others.
    pub(crate) fn begin_task(&mut self, task: GuestTaskId, invocation: Invocation) {
        if self.tasks.len() >= TASKS_KEPT_MAX {
            self.tasks.pop_front();
        }
        self.tasks.push_back((task, invocation));
    }

    /// The invocation in which a guest calls its host.
    pub(crate) fn of<'s>(store: &'s mut StoreContextMut<'_, Host>) -> &'s mut Invocation {
        let place = if store.data().present.tasks.is_empty() { None } else { Self::place(store) };
        let present = &mut store.data_mut().present;
        match place.and_then(|place| present.tasks.get_mut(place)) {
            Some((_, invocation)) => invocation,
            None => &mut present.only,
        }
    }

    /// Which of the tasks called the host.
    fn place(store: &mut StoreContextMut<'_, Host>) -> Option<usize> {
        let callers: Vec<GuestTaskId> = store.async_call_stack().ok()?.collect();
        let tasks = &store.data().present.tasks;
        // Ids are used again: the latest is meant.
        tasks.iter().rposition(|(task, _)| callers.contains(task))
    }
}

/// Whether it is a trace context of version 0 (section 3.2.2): its lengths, its digits, and ids that are not all zeros.
fn is_traceparent(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    let parts: Vec<&str> = text.split('-').take(5).collect();
    match parts.as_slice() {
        ["00", trace, parent, flags] if text.bytes().all(digit) => {
            let zeros = |id: &str| id.bytes().all(|byte| byte == b'0');
            (trace.len(), parent.len(), flags.len()) == (32, 16, 2) && !zeros(trace) && !zeros(parent)
        }
        _ => false,
    }
}

/// A trace of its own, not sampled.
fn new_traceparent() -> HeaderValue {
    let hexadecimal = |text: String, byte: &u8| {
        let mut text = text;
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    };
    let trace = random::<16>().iter().fold(String::new(), hexadecimal);
    let parent = random::<8>().iter().fold(String::new(), hexadecimal);
    HeaderValue::try_from(format!("00-{trace}-{parent}-00")).unwrap_or(HeaderValue::from_static(""))
}

/// Random bytes that are not all zeros.
fn random<const COUNT: usize>() -> [u8; COUNT] {
    let mut bytes = [0; COUNT];
    // It fails only where the system has no randomness at all; then the id is not random, but still one.
    if SystemRandom::new().fill(&mut bytes).is_err() || bytes == [0; COUNT] {
        bytes.fill(1);
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn ids_are_drawn_once_and_differ() {
        let (mut one, mut other) = (Invocation::default(), Invocation::default());
        assert_eq!(one.id(), one.id());
        assert_ne!(one.id(), other.id());
        assert_eq!(one.traceparent(), one.traceparent());
        assert!(is_traceparent(&one.traceparent()), "{:?}", one.traceparent());
        assert_ne!(one.traceparent(), other.traceparent());
    }

    #[test]
    fn a_request_keeps_its_trace_unless_it_makes_no_sense() {
        let of = |trace: &str| {
            let mut request = Request::get("/").header("traceparent", trace).body(()).unwrap();
            Invocation::of(&mut request).traceparent()
        };
        assert_eq!(of(TRACE), TRACE);
        for wrong in [
            "",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_ne!(of(wrong), wrong);
        }
    }

    #[test]
    fn what_the_caller_says_comes_first_and_shortens_the_time() {
        let mut request = Request::get("/").header("traceparent", TRACE).body(()).unwrap();
        let told = Invocation { depth: 3, deadline: Some(Instant::now()), ..Invocation::default() };
        request.extensions_mut().insert(told.clone());
        let found = Invocation::of(&mut request);
        assert_eq!(found, told);
        assert_eq!(found.timeout(Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(Invocation::default().timeout(Duration::from_secs(1)), Duration::from_secs(1));
    }
}
