//! `littoral:fabric` on the host's side.
//!
//! Its functions are linked by hand, because they need to know which of an instance's tasks calls.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use littoral_model::id::Tier;
use wasmtime::StoreContextMut;
use wasmtime::component::{HasSelf, Linker};

use super::bindings::proposals::wasi;
use super::bindings::typed::littoral::fabric::{call, context, devices, publish, types};
use super::grants::Wanted;
use super::{
    CALL_DEPTH_MAX, CONTENT_TYPE_BYTES_MAX, CallError, Invocation, MESSAGE_KEY_BYTES_MAX, MESSAGE_VALUE_BYTES_MAX,
    MESSAGES_BYTES_MAX, MESSAGES_MAX, Message, Outgoing, PAYLOAD_BYTES_MAX, Payload, Present, PublishError,
};
use crate::host::Host;

type Caller<'a> = StoreContextMut<'a, Host>;

/// Links everything that a fabric gives.
pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut context = linker.instance("littoral:fabric/context@0.1.0")?;
    context.func_wrap("current", |mut store: Caller<'_>, ()| Ok((current(&mut store),)))?;
    context.func_wrap("here", |store: Caller<'_>, ()| Ok((here(store.data()),)))?;
    let mut calls = linker.instance("littoral:fabric/call@0.1.0")?;
    calls.func_wrap_async("call", |mut store: Caller<'_>, (function, request): (String, types::Payload)| {
        Box::new(async move { Ok((call(&mut store, function, request).await,)) })
    })?;
    let mut publications = linker.instance("littoral:fabric/publish@0.1.0")?;
    publications.func_wrap_async(
        "publish",
        |mut store: Caller<'_>, (stream, messages): (String, Vec<publish::Message>)| {
            Box::new(async move { Ok((publish(&mut store, stream, messages).await,)) })
        },
    )?;
    types::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)?;
    devices::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)?;
    wasi::config::store::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)?;
    wasi::logging::logging::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)?;
    wasi::keyvalue::store::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)?;
    wasi::keyvalue::atomics::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)?;
    wasi::keyvalue::batch::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)
}

impl types::Host for Host {}

/// How long the invocation may still take.
fn remaining(host: &Host, invocation: &Invocation) -> Duration {
    invocation.timeout(host.deadline().saturating_duration_since(Instant::now()))
}

/// How long something may take that a guest waits for: nine tenths of its time, so that it can still say what happened.
fn within(remaining: Duration) -> Duration {
    remaining / 10 * 9
}

fn current(store: &mut Caller<'_>) -> context::Invocation {
    let invocation = Present::of(store);
    let (id, traceparent) = (invocation.id(), invocation.traceparent());
    let invocation = invocation.clone();
    let remaining = remaining(store.data(), &invocation);
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + remaining;
    context::Invocation {
        id: id.to_string(),
        attempt: invocation.attempt,
        deadline: i64::try_from(deadline.as_micros()).unwrap_or(i64::MAX),
        remaining: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
        depth: invocation.depth,
        traceparent: traceparent.to_str().unwrap_or_default().to_owned(),
    }
}

fn here(host: &Host) -> Option<context::Place> {
    let place = &host.surroundings().attached.as_ref()?.place;
    Some(context::Place {
        tenant: place.app.tenant.to_string(),
        app: place.app.app.to_string(),
        function: place.function.to_string(),
        node: place.node.to_string(),
        tier: match place.tier {
            Tier::Device => context::Tier::Device,
            Tier::Edge => context::Tier::Edge,
            Tier::Region => context::Tier::Region,
            Tier::Cloud => context::Tier::Cloud,
        },
        site: place.site.to_string(),
    })
}

async fn call(
    store: &mut Caller<'_>,
    function: String,
    request: types::Payload,
) -> Result<types::Payload, call::Error> {
    let invocation = Present::of(store);
    let traceparent = invocation.traceparent();
    let invocation = invocation.clone();
    let host = store.data();
    let granted = host.granted(Wanted::Call, &host.access().call, &function);
    let (attached, function) = granted.map_err(call::Error::Denied)?;
    if request.body.len() > PAYLOAD_BYTES_MAX || request.content_type.len() > CONTENT_TYPE_BYTES_MAX {
        return Err(call::Error::Failed(format!(
            "a payload may have {PAYLOAD_BYTES_MAX} bytes and a media type {CONTENT_TYPE_BYTES_MAX}; hand over less"
        )));
    }
    let depth = invocation.depth + 1;
    if depth >= CALL_DEPTH_MAX {
        let text = format!("functions call one another in a chain of more than {CALL_DEPTH_MAX}; break the cycle");
        host.report(&text);
        return Err(call::Error::Failed(text));
    }
    let within = within(remaining(host, &invocation));
    let (attached, function) = (attached.clone(), function.clone());
    let request = Payload { content_type: request.content_type, body: Bytes::from(request.body) };
    let outgoing = Outgoing { function, request, within, depth, traceparent };
    match attached.fabric.call(&attached.place, outgoing).await {
        Ok(answer) => Ok(types::Payload { content_type: answer.content_type, body: answer.body.into() }),
        Err(CallError::NotFound(text)) => Err(call::Error::NotFound(text)),
        Err(CallError::Unavailable(text)) => Err(call::Error::Unavailable(text)),
        Err(CallError::TimedOut(text)) => Err(call::Error::TimedOut(text)),
        Err(CallError::Failed(text)) => Err(call::Error::Failed(text)),
    }
}

async fn publish(
    store: &mut Caller<'_>,
    stream: String,
    messages: Vec<publish::Message>,
) -> Result<u64, publish::Error> {
    let invocation = Present::of(store).clone();
    let host = store.data();
    let granted = host.granted(Wanted::Publish, &host.access().publish, &stream);
    let (attached, stream) = granted.map_err(publish::Error::Denied)?;
    let messages: Vec<Message> = messages
        .into_iter()
        .map(|message| Message { key: message.key, value: message.value, time_us: message.time })
        .collect();
    check(&messages).map_err(publish::Error::Invalid)?;
    let within = within(remaining(host, &invocation));
    let (attached, stream) = (attached.clone(), stream.clone());
    let publishing = attached.fabric.publish(&attached.place, &stream, messages);
    match tokio::time::timeout(within, publishing).await {
        Ok(Ok(stored)) => Ok(stored),
        Ok(Err(PublishError::NotFound(text))) => Err(publish::Error::NotFound(text)),
        Ok(Err(PublishError::Invalid(text))) => Err(publish::Error::Invalid(text)),
        Ok(Err(PublishError::Unavailable(text))) => Err(publish::Error::Unavailable(text)),
        Err(_) => Err(publish::Error::Unavailable(format!(
            "the stream {stream} did not answer within {within:?}; it is not known whether the records were stored"
        ))),
    }
}

/// Whether records are few and small enough.
fn check(messages: &[Message]) -> Result<(), String> {
    if messages.len() > MESSAGES_MAX {
        return Err(format!("{} records are more than {MESSAGES_MAX}; publish fewer at once", messages.len()));
    }
    let key_bytes = |message: &Message| message.key.as_ref().map_or(0, String::len);
    let mut bytes = 0;
    for message in messages {
        let (key, value) = (key_bytes(message), message.value.len());
        if key > MESSAGE_KEY_BYTES_MAX || value > MESSAGE_VALUE_BYTES_MAX {
            return Err(format!(
                "a record has a key of {key} bytes and a value of {value}; {MESSAGE_KEY_BYTES_MAX} and \
                 {MESSAGE_VALUE_BYTES_MAX} are allowed: split it"
            ));
        }
        bytes += key + value;
    }
    if bytes > MESSAGES_BYTES_MAX {
        return Err(format!("the records have {bytes} bytes, more than {MESSAGES_BYTES_MAX}; publish fewer at once"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: usize, value: usize) -> Message {
        Message { key: Some("k".repeat(key)), value: "v".repeat(value), time_us: None }
    }

    #[test]
    fn publications_are_bounded() {
        assert_eq!(check(&[message(MESSAGE_KEY_BYTES_MAX, MESSAGE_VALUE_BYTES_MAX)]), Ok(()));
        assert!(check(&[message(MESSAGE_KEY_BYTES_MAX + 1, 1)]).is_err());
        assert!(check(&[message(1, MESSAGE_VALUE_BYTES_MAX + 1)]).is_err());
        assert!(check(&vec![message(0, 0); MESSAGES_MAX + 1]).is_err());
        assert!(check(&vec![message(0, MESSAGE_VALUE_BYTES_MAX); 5]).is_err());
    }
}
