//! What the fabric gives a function: its context, calls of other functions, publications to streams.
//!
//! They work in every kind of function. What reaches beyond the function is denied until the manifest grants it.
//!
//! ```
//! use littoral_sdk::fabric::{Message, Payload, call, context, publish};
//! use littoral_sdk::http::{Request, Response, json};
//! use littoral_sdk::Result;
//!
//! // Needs `grants = { call = ["price"], publish = ["orders"] }`.
//! fn order(request: Request) -> Result<Response> {
//!     let price = call("price", &Payload::json(String::from_utf8(request.into_body())?))?;
//!     publish("orders", &[Message::new(price.text()?).key("orders")])?;
//!     Ok(json(200, format!("{{\"invocation\": \"{}\"}}", context().id)))
//! }
//!
//! littoral_sdk::handler!(order);
//! ```

use std::time::Duration;

use crate::{Error, Result};

/// What is handed to a function, and what it answers: bytes, and what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The media type; empty if nothing is known.
    pub content_type: String,
    /// The bytes, at most 4 MiB.
    pub body: Vec<u8>,
}

impl Payload {
    /// Bytes of this media type.
    #[must_use]
    pub fn new(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { content_type: content_type.into(), body: body.into() }
    }

    /// Plain text.
    #[must_use]
    pub fn plain(text: impl Into<String>) -> Self {
        Self::new("text/plain; charset=utf-8", text.into())
    }

    /// JSON that is already encoded.
    #[must_use]
    pub fn json(text: impl Into<String>) -> Self {
        Self::new("application/json", text.into())
    }

    /// The bytes as text.
    ///
    /// # Errors
    /// When they are no text in UTF-8.
    pub fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.body)?)
    }
}

/// The present invocation, and where the function runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The invocation's ULID.
    pub id: String,
    /// Which try this is, from 1.
    pub attempt: u32,
    /// When the function is stopped, in microseconds since 1970.
    pub deadline_us: i64,
    /// How long that is from now.
    pub remaining: Duration,
    /// How many functions called one another before; 0 for a call from outside.
    pub depth: u32,
    /// The W3C trace context.
    pub traceparent: String,
    /// Whose function it is, and where it runs; none under `littoral run`.
    pub place: Option<Place>,
}

/// Whose function it is, and where it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The tenant.
    pub tenant: String,
    /// The app.
    pub app: String,
    /// The function.
    pub function: String,
    /// The node.
    pub node: String,
    /// The node's tier: `device`, `edge`, `region` or `cloud`.
    pub tier: &'static str,
    /// The node's site.
    pub site: String,
}

/// A record to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Records with the same key keep their order; without one, the value is the key.
    pub key: Option<String>,
    /// What is published, at most 1 MiB.
    pub value: String,
    /// Its event time in microseconds since 1970; the time of publication if left out.
    pub time_us: Option<i64>,
}

impl Message {
    /// A record without a key.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self { value: value.into(), ..Self::default() }
    }

    /// The same with a key.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }
}

/// Why a call has no answer; each with a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The manifest does not grant it, or there is no fabric.
    Denied(String),
    /// The app has no such function.
    NotFound(String),
    /// The function has not run; try again later.
    Unavailable(String),
    /// There was no answer in time; the function may have run.
    TimedOut(String),
    /// The function failed, or answered with an error.
    Failed(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(text)
            | Self::NotFound(text)
            | Self::Unavailable(text)
            | Self::TimedOut(text)
            | Self::Failed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for CallError {}

/// Why records were not published; each with a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The manifest does not grant it, or there is no fabric.
    Denied(String),
    /// The app has no such stream.
    NotFound(String),
    /// They are too many or too large; none was stored.
    Invalid(String),
    /// It is not known whether any were stored.
    Unavailable(String),
}

impl std::fmt::Display for PublishError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(text) | Self::NotFound(text) | Self::Invalid(text) | Self::Unavailable(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for PublishError {}

/// Why a typed handler has no answer, for people. An [`Error`], and what becomes one with `?`, is a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerError {
    /// The request is at fault: over HTTP, status 400.
    Invalid(String),
    /// The function is: over HTTP, status 500.
    Failed(String),
}

impl<E: Into<Error>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::Failed(error.into().to_string())
    }
}

/// The present invocation, and where the function runs. In a test on the host, everything is empty.
#[must_use]
pub fn context() -> Context {
    component::context()
}

/// Calls a function of the app by its name, wherever it runs, and whether it answers HTTP or not. Granted by
/// `call = ["NAME"]`. In a test on the host it is denied.
///
/// # Errors
/// See [`CallError`].
pub fn call(function: &str, request: &Payload) -> Result<Payload, CallError> {
    component::call(function, request)
}

/// Appends records to a stream of the app and returns once they are stored; answers how many that are. Granted by
/// `publish = ["NAME"]`. In a test on the host it is denied.
///
/// # Errors
/// See [`PublishError`].
pub fn publish(stream: &str, messages: &[Message]) -> Result<u64, PublishError> {
    component::publish(stream, messages)
}

/// How important a line of the function's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The flow of control, for whoever looks for a mistake.
    Debug,
    /// What happens.
    Info,
    /// What is strange.
    Warn,
    /// What failed.
    Error,
}

/// A value of the manifest's `config`, with secrets as the node has them.
#[must_use]
pub fn config(key: &str) -> Option<String> {
    component::config(key)
}

/// Adds a line to the function's log: `LEVEL context: message`.
pub fn log(level: Level, context: &str, message: &str) {
    component::log(level, context, message);
}

/// Exports a function on a [`Payload`] as the component's handler without HTTP: for calls of other functions, `littoral
/// call` and routes. It returns a `Result` of a [`Payload`] whose error becomes a [`HandlerError`].
///
/// ```
/// use littoral_sdk::fabric::{HandlerError, Payload};
///
/// fn double(request: Payload) -> Result<Payload, HandlerError> {
///     let number: i64 = request.text()?.parse().map_err(|_| HandlerError::Invalid("it is no number".to_owned()))?;
///     Ok(Payload::plain((number * 2).to_string()))
/// }
///
/// littoral_sdk::typed_handler!(double);
/// ```
#[macro_export]
macro_rules! typed_handler {
    ($function:path) => {
        const _: () = {
            fn answers<E: ::std::convert::Into<$crate::fabric::HandlerError>>(
                _: fn($crate::fabric::Payload) -> ::std::result::Result<$crate::fabric::Payload, E>,
            ) {
            }
            let _: fn() = || answers($function);
        };
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            impl $crate::fabric_bindings::exports::littoral::fabric::handler::Guest for Exported {
                fn handle(
                    request: $crate::fabric_bindings::littoral::fabric::types::Payload,
                ) -> ::std::result::Result<
                    $crate::fabric_bindings::littoral::fabric::types::Payload,
                    $crate::fabric_bindings::exports::littoral::fabric::handler::Error,
                > {
                    $crate::fabric::component::handle(request, $function)
                }
            }
    $crate::fabric_bindings::export!(Exported with_types_in $crate::fabric_bindings);
        };
    };
}

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[allow(missing_docs, unreachable_pub)]
pub mod component {
    //! Between these types and the generated bindings.

    use std::time::Duration;

    use super::{CallError, Context, HandlerError, Level, Message, Payload, Place, PublishError};
    use crate::fabric_bindings::exports::littoral::fabric::handler;
    use crate::fabric_bindings::littoral::fabric::{
        call as calls, context as contexts, publish as publications, types,
    };
    use crate::fabric_bindings::wasi::config::store;
    use crate::fabric_bindings::wasi::logging::logging;

    pub fn context() -> Context {
        let invocation = contexts::current();
        let place = contexts::here().map(|place| Place {
            tenant: place.tenant,
            app: place.app,
            function: place.function,
            node: place.node,
            tier: match place.tier {
                contexts::Tier::Device => "device",
                contexts::Tier::Edge => "edge",
                contexts::Tier::Region => "region",
                contexts::Tier::Cloud => "cloud",
            },
            site: place.site,
        });
        Context {
            id: invocation.id,
            attempt: invocation.attempt,
            deadline_us: invocation.deadline,
            remaining: Duration::from_micros(invocation.remaining),
            depth: invocation.depth,
            traceparent: invocation.traceparent,
            place,
        }
    }

    pub fn call(function: &str, request: &Payload) -> Result<Payload, CallError> {
        let request = types::Payload { content_type: request.content_type.clone(), body: request.body.clone() };
        match calls::call(function, &request) {
            Ok(answer) => Ok(Payload { content_type: answer.content_type, body: answer.body }),
            Err(calls::Error::Denied(text)) => Err(CallError::Denied(text)),
            Err(calls::Error::NotFound(text)) => Err(CallError::NotFound(text)),
            Err(calls::Error::Unavailable(text)) => Err(CallError::Unavailable(text)),
            Err(calls::Error::TimedOut(text)) => Err(CallError::TimedOut(text)),
            Err(calls::Error::Failed(text)) => Err(CallError::Failed(text)),
        }
    }

    pub fn publish(stream: &str, messages: &[Message]) -> Result<u64, PublishError> {
        let message = |message: &Message| publications::Message {
            key: message.key.clone(),
            value: message.value.clone(),
            time: message.time_us,
        };
        let messages: Vec<_> = messages.iter().map(message).collect();
        publications::publish(stream, &messages).map_err(|error| match error {
            publications::Error::Denied(text) => PublishError::Denied(text),
            publications::Error::NotFound(text) => PublishError::NotFound(text),
            publications::Error::Invalid(text) => PublishError::Invalid(text),
            publications::Error::Unavailable(text) => PublishError::Unavailable(text),
        })
    }

    pub fn config(key: &str) -> Option<String> {
        // The host has it in memory: there is nothing that fails.
        store::get(key).ok().flatten()
    }

    pub fn log(level: Level, context: &str, message: &str) {
        let level = match level {
            Level::Debug => logging::Level::Debug,
            Level::Info => logging::Level::Info,
            Level::Warn => logging::Level::Warn,
            Level::Error => logging::Level::Error,
        };
        logging::log(level, context, message);
    }

    pub fn handle<E: Into<HandlerError>>(
        request: types::Payload,
        function: fn(Payload) -> Result<Payload, E>,
    ) -> Result<types::Payload, handler::Error> {
        match function(Payload { content_type: request.content_type, body: request.body }) {
            Ok(answer) => Ok(types::Payload { content_type: answer.content_type, body: answer.body }),
            Err(error) => Err(match error.into() {
                HandlerError::Invalid(text) => handler::Error::Invalid(text),
                HandlerError::Failed(text) => handler::Error::Failed(text),
            }),
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod component {
    //! A test on the host has no fabric.

    use super::{CallError, Context, Level, Message, Payload, PublishError};

    const NO_FABRIC: &str =
        "there is no fabric outside of a component; put what calls it behind a function of your own";

    pub(super) fn context() -> Context {
        Context::default()
    }

    pub(super) fn call(_: &str, _: &Payload) -> Result<Payload, CallError> {
        Err(CallError::Denied(NO_FABRIC.to_owned()))
    }

    pub(super) fn publish(_: &str, _: &[Message]) -> Result<u64, PublishError> {
        Err(PublishError::Denied(NO_FABRIC.to_owned()))
    }

    pub(super) fn config(_: &str) -> Option<String> {
        None
    }

    pub(super) fn log(level: Level, context: &str, message: &str) {
        eprintln!("{level:?} {context}: {message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_with_a_question_mark_is_the_functions_fault() {
        let failed = |text: &str| -> Result<i64, HandlerError> { Ok(text.parse::<i64>()?) };
        assert_eq!(failed("7"), Ok(7));
        assert!(matches!(failed("x"), Err(HandlerError::Failed(text)) if text.contains("digit")));
    }

    #[test]
    fn there_is_no_fabric_on_the_host() {
        assert_eq!(context().place, None);
        assert!(matches!(call("other", &Payload::plain("x")), Err(CallError::Denied(_))));
        assert!(matches!(publish("notes", &[Message::new("x").key("k")]), Err(PublishError::Denied(_))));
    }
}
