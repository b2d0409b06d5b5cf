//! What clients say of asynchronous invocations in HTTP, and what they are told: `Prefer: respond-async` and `wait`
//! (RFC 7240), `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), and the invocations' own place.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{Response, StatusCode};
use littoral_control::queue::Run;
use littoral_model::invocation::{
    BODY_BYTES_MAX, HEADERS_BYTES_MAX, InvocationName, KEY_BYTES_MAX, Record, Request, State, headers_bytes,
};
use littoral_runtime::fabric::Invocation;
use serde_json::json;

use super::{Accepted, WAIT_MS_MAX};
use crate::admin::queue::InvocationStatus;
use crate::admin::types::AdminError;

/// Where invocations are found on every node; a name follows, and `/result` after that for the answer itself.
pub(crate) const PATH: &str = "/.well-known/littoral/invocations/";
/// The header with an idempotency key.
const KEY: &str = "idempotency-key";
/// Tells a function which invocation it runs.
const INVOCATION: &str = "littoral-invocation";
/// Tells a function which try it is, from 1.
const ATTEMPT: &str = "littoral-attempt";
/// Tells a function what has called it, if no client has.
pub(super) const TRIGGER: &str = "littoral-trigger";
/// Tells a function of which stream it is given a record.
pub(super) const STREAM: &str = "littoral-stream";
/// What functions may trust: no client can say it.
pub(crate) static RESERVED: [HeaderName; 4] = [
    HeaderName::from_static(INVOCATION),
    HeaderName::from_static(ATTEMPT),
    HeaderName::from_static(TRIGGER),
    HeaderName::from_static(STREAM),
];
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The headers that are of one connection, or of the client's wishes for the answer, and not the function's.
const NOT_KEPT: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "prefer",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a client prefers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferences {
    /// To be answered before it is done.
    pub(crate) respond_async: bool,
    /// To wait for an end so long, in milliseconds.
    pub(crate) wait_ms: u32,
}

/// Reads `Prefer`. What is not known there is no error (RFC 7240, section 2).
pub(crate) fn preferences(headers: &HeaderMap) -> Preferences {
    let mut preferences = Preferences::default();
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    for preference in values.flat_map(|value| value.split(',')) {
        let preference = preference.split(';').next().unwrap_or_default();
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "respond-async" => preferences.respond_async = true,
            "wait" => {
                let seconds: u32 = value.trim().trim_matches('"').parse().unwrap_or(0);
                preferences.wait_ms = seconds.saturating_mul(1_000).min(WAIT_MS_MAX);
            }
            _ => {}
        }
    }
    preferences
}

/// The idempotency key, if there is one: a string of structured fields (RFC 8941), or a bare one as most send.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, AdminError> {
    let Some(value) = headers.get(KEY) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    checked_key(key).map(Some)
}

/// A key that may be used.
pub(crate) fn checked_key(key: &str) -> Result<String, AdminError> {
    let is_fine =
        (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let wrong =
        || AdminError::invalid(format!("an idempotency key has 1 to {KEY_BYTES_MAX} printable ASCII characters"));
    if is_fine { Ok(key.to_owned()) } else { Err(wrong()) }
}

/// A request as it is kept.
pub(crate) fn kept(parts: &Parts, body: Bytes) -> Result<Request, AdminError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(AdminError::invalid(format!("a call that is kept has at most {BODY_BYTES_MAX} bytes of body"))
            .hint("store what is large, and call with its name"));
    }
    let is_kept = |name: &HeaderName| !NOT_KEPT.contains(&name.as_str()) && !RESERVED.contains(name);
    let headers = parts.headers.iter().filter(|(name, _)| is_kept(name));
    let headers: Vec<(String, Bytes)> =
        headers.map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes()))).collect();
    if headers_bytes(&headers) > HEADERS_BYTES_MAX {
        return Err(AdminError::invalid(format!(
            "a call that is kept has at most {HEADERS_BYTES_MAX} bytes of headers"
        )));
    }
    let uri = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    Ok(Request { method: parts.method.to_string(), uri, headers, body })
}

/// The request that the function gets.
pub(super) fn to_function(name: &InvocationName, run: &Run) -> Result<http::Request<Bytes>, String> {
    let kept = &run.request;
    let mut request = http::Request::builder().method(kept.method.as_str()).uri(kept.uri.as_str());
    for (name, value) in &kept.headers {
        request = request.header(name, value.as_ref());
    }
    request = request.extension(Invocation { id: Some(run.id), attempt: run.attempt, ..Invocation::default() });
    let broken = |error: http::Error| format!("the call is no HTTP request: {error}");
    let name = HeaderValue::from_str(&name.to_string()).map_err(|error| broken(error.into()))?;
    let mut request = request.body(kept.body.clone()).map_err(broken)?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(kept.body.len()));
    // In the place of what was kept under these names, by whomever.
    headers.insert(INVOCATION, name);
    headers.insert(ATTEMPT, HeaderValue::from(run.attempt));
    Ok(request)
}

/// 202 for a call that was accepted.
pub(crate) fn accepted(accepted: &Accepted) -> Response<Bytes> {
    let path = format!("{PATH}{}", accepted.name);
    let said = json!({ "id": accepted.name, "status": path, "result": format!("{path}/result"), "repeated": accepted.repeated });
    let mut response = json_response(StatusCode::ACCEPTED, &said);
    response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    if let Ok(path) = HeaderValue::from_str(&path) {
        response.headers_mut().insert(LOCATION, path);
    }
    response
}

/// What is asked for below [`PATH`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) name: InvocationName,
    /// Whether it is the function's answer, and not how the invocation stands.
    pub(crate) result: bool,
}

/// Reads the rest of a path.
pub(crate) fn asked(rest: &str) -> Result<Asked, AdminError> {
    let (name, result) = rest.strip_suffix("/result").map_or((rest, false), |name| (name, true));
    let name = name
        .parse()
        .map_err(|error: littoral_model::invocation::InvalidInvocation| AdminError::not_found(error.to_string()))?;
    Ok(Asked { name, result })
}

/// How an invocation stands, or what the function has answered.
pub(crate) fn told(asked: &Asked, record: Record) -> Response<Bytes> {
    let status = InvocationStatus::of(&asked.name, &record);
    match record.state {
        _ if !asked.result => json_response(StatusCode::OK, &json!(status)),
        State::Pending { .. } => {
            let mut response = json_response(StatusCode::ACCEPTED, &json!(status));
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
        State::Dead { .. } => json_response(StatusCode::BAD_GATEWAY, &json!(status)),
        State::Done { answer, .. } => {
            let Some(body) = answer.body else { return json_response(StatusCode::GONE, &json!(status)) };
            let mut response = Response::builder().status(answer.status);
            for (name, value) in &answer.headers {
                response = response.header(name, value.as_ref());
            }
            let broken = || json_response(StatusCode::BAD_GATEWAY, &json!(status));
            response.body(body).unwrap_or_else(|_| broken())
        }
    }
}

fn json_response(status: StatusCode, value: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn preferences_are_read_as_the_rfc_has_them() {
        let of = |values: &[&str]| {
            let preferences = preferences(&headers("prefer", values));
            (preferences.respond_async, preferences.wait_ms)
        };
        assert_eq!(of(&[]), (false, 0));
        assert_eq!(of(&["respond-async"]), (true, 0));
        assert_eq!(of(&["Respond-Async, wait=10"]), (true, 10_000));
        assert_eq!(of(&["return=minimal; foo=\"x\"", " wait = \"5\" , respond-async;a=b"]), (true, 5_000));
        assert_eq!(of(&["wait=99999999"]), (false, WAIT_MS_MAX));
        assert_eq!(of(&["wait=soon, respond-sync"]), (false, 0));
    }

    #[test]
    fn keys_are_strings_with_or_without_quotes() {
        let of = |value: &str| idempotency_key(&headers(KEY, &[value]));
        assert_eq!(of("\"8e03978e\"").unwrap().as_deref(), Some("8e03978e"));
        assert_eq!(of("8e03978e").unwrap().as_deref(), Some("8e03978e"));
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
        assert!(of("").is_err() && of("\"\"").is_err() && of(&"k".repeat(KEY_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn a_call_is_kept_without_what_is_of_the_connection() {
        let request = http::Request::post("http://host/a/b?c=d")
            .header("host", "x")
            .header("prefer", "respond-async")
            .header("transfer-encoding", "chunked")
            .header("x-own", "1");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let kept = kept(&parts, Bytes::from_static(b"body")).unwrap();
        let names: Vec<&str> = kept.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((kept.uri.as_str(), names), ("/a/b?c=d", vec!["host", "x-own"]));
        assert!(super::kept(&parts, Bytes::from(vec![0; BODY_BYTES_MAX + 1])).is_err());
    }

    #[test]
    fn what_functions_trust_is_said_by_the_queue_alone() {
        let request = http::Request::post("/").header("x-own", "1");
        let forged = RESERVED.iter().fold(request, |request, name| request.header(name, "forged"));
        let (parts, ()) = forged.body(()).unwrap().into_parts();
        let kept = kept(&parts, Bytes::from_static(b"body")).unwrap();
        assert_eq!(kept.headers, [("x-own".to_owned(), Bytes::from_static(b"1"))]);

        // Not even what another program has kept.
        let name: InvocationName = "default.shop.resize.hall-7.2.01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let headers = [INVOCATION, ATTEMPT, "content-length"].map(|name| (name.to_owned(), Bytes::from_static(b"7")));
        let run = Run { id: name.id, request: Request { headers: headers.to_vec(), ..kept }, attempt: 2 };
        let request = to_function(&name, &run).unwrap();
        let said = |header: &str| {
            let values = request.headers().get_all(header).iter();
            values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(said(INVOCATION), [name.to_string()]);
        assert_eq!((said(ATTEMPT), said("content-length")), (vec!["2".to_owned()], vec!["4".to_owned()]));
    }

    #[test]
    fn places_are_read() {
        let name = "default.shop.resize.hall-7.2.01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert_eq!(asked(name).unwrap(), Asked { name: name.parse().unwrap(), result: false });
        assert!(asked(&format!("{name}/result")).unwrap().result);
        assert!(asked("").is_err() && asked(&format!("{name}/other")).is_err());
    }
}
