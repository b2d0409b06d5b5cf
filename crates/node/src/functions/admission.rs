//! Requests that state how long their clients wait (`Littoral-Timeout: 250ms`): refused at once where they could not be
//! answered by then (`control::admission`), else given no longer than that.
//!
//! A request without the header is neither counted nor refused; its deadline is the function's timeout, and it goes behind
//! those with earlier ones.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request};
use littoral_control::admission::{Admission, Admitted, Refused};
use littoral_model::unit::Time;
use littoral_runtime::fabric::Invocation;
use littoral_runtime::http::HttpFunction;

use super::Functions;
use crate::admin::types::AdminError;
use crate::sync::lock;

/// How long the client waits.
pub(crate) const HEADER: &str = "littoral-timeout";

/// The deadlines of the requests that run on this node.
pub(crate) struct Deadlines {
    admission: Mutex<Admission>,
    since: Instant,
}

/// A request that was admitted; its end is when this is dropped.
pub(crate) struct Ticket {
    deadlines: Arc<Deadlines>,
    admitted: Admitted,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.deadlines.lock().ended(self.admitted);
    }
}

impl Deadlines {
    pub(super) fn new(cores: usize) -> Self {
        let admission = Mutex::new(Admission::new(u32::try_from(cores).unwrap_or(u32::MAX)));
        Self { admission, since: Instant::now() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Admission> {
        lock(&self.admission)
    }
}

/// A request that was refused, and after how long another try may do.
pub(crate) struct Unfit {
    pub(crate) error: AdminError,
    pub(crate) retry_after: Duration,
}

impl From<AdminError> for Unfit {
    fn from(error: AdminError) -> Self {
        Self { error, retry_after: Duration::ZERO }
    }
}

impl From<Unfit> for AdminError {
    fn from(unfit: Unfit) -> Self {
        unfit.error
    }
}

/// How long a client says that it waits.
pub(crate) fn stated(headers: &HeaderMap) -> Result<Option<Duration>, AdminError> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let time = value.to_str().ok().and_then(|text| text.trim().parse::<Time>().ok());
    let time = time.ok_or_else(|| AdminError::invalid(format!("`{HEADER}` is a time with its unit, as 250ms")))?;
    Ok(Some(time.into()))
}

impl Functions {
    /// Admits a request to a function of this node, if it states a deadline, and has the function know of it.
    pub(crate) fn admit<B>(&self, function: &HttpFunction, request: &mut Request<B>) -> Result<Option<Ticket>, Unfit> {
        let Some(stated) = stated(request.headers())? else { return Ok(None) };
        let (now, deadline) = (Instant::now(), stated.min(function.timeout()));
        let now_us = u64::try_from(now.duration_since(self.deadlines.since).as_micros()).unwrap_or(u64::MAX);
        let admitted = self.deadlines.lock().admit(now_us, function.mean_cpu(), deadline);
        let admitted = admitted.map_err(|refused| {
            let name = function.name().to_owned();
            metrics::counter!("littoral_requests_refused_total", "function" => name).increment(1);
            let retry_after = if let Refused::Full { retry_after } = refused { retry_after } else { Duration::ZERO };
            Unfit { error: AdminError::unavailable(refused.to_string()), retry_after }
        })?;
        let traceparent = request.headers().get("traceparent").cloned();
        let known = request.extensions_mut().get_or_insert_with(|| Invocation { traceparent, ..Invocation::default() });
        let until = now + deadline;
        known.deadline = Some(known.deadline.map_or(until, |earlier| earlier.min(until)));
        Ok(Some(Ticket { deadlines: Arc::clone(&self.deadlines), admitted }))
    }
}
