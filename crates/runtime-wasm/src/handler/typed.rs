//! Handlers without HTTP: a fresh instance for each call. Here a call is a request whose body is the payload, so that
//! callers need not know which kind of handler a function is.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};

use super::Body;
use super::instances::{Instance, Instances};
use crate::fabric::bindings::typed::exports::littoral::fabric::handler::Error;
use crate::fabric::bindings::typed::littoral::fabric::types::Payload;
use crate::fabric::bindings::typed::{Typed as Guest, TypedPre};
use crate::fabric::{Invocation, PAYLOAD_BYTES_MAX};
use crate::fault::Fault;
use crate::host::{Host, within};

/// What the answer is if the handler does not say.
const CONTENT_TYPE_UNKNOWN: HeaderValue = HeaderValue::from_static("application/octet-stream");
const CONTENT_TYPE_TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Answers each call with an instance of its own.
pub(super) struct Typed(Instances<TypedPre<Host>>);

impl Typed {
    pub(super) fn new(instances: Instances<TypedPre<Host>>) -> Self {
        Self(instances)
    }

    pub(super) async fn call(&self, mut request: Request<Body>) -> Result<Response<Body>, Fault> {
        let invocation = Invocation::of(&mut request);
        let limit = invocation.timeout(self.0.settings().limits.timeout);
        // What a slow client takes is not the guest's time, but has the same bound.
        let reading = tokio::time::timeout(limit, payload(request)).await;
        let payload = reading.map_err(|_| Fault::Timeout { limit })??;
        let reserved = self.0.reserve();
        let meter = reserved.meter.clone();
        let instance = meter.charge(|| self.0.begin(reserved, invocation))?;
        let _ticking = self.0.wasm().tick();
        let answered = meter.over(self.handle(instance, &payload)).await?;
        self.0.another();
        Ok(answered)
    }

    async fn handle(&self, instance: Instance<Guest>, payload: &Payload) -> Result<Response<Body>, Fault> {
        let (mut store, made) = instance.into_parts();
        let deadline = Host::begin(&mut store);
        let outcome = within(deadline, async {
            let guest = self.0.guest(&mut store, made).await?;
            guest.littoral_fabric_handler().call_handle(&mut store, payload).await
        });
        match outcome.await {
            Ok(Ok(answer)) if answer.body.len() > PAYLOAD_BYTES_MAX => {
                let (bytes, max) = (answer.body.len(), PAYLOAD_BYTES_MAX);
                Err(Fault::Protocol { reason: format!("it has {bytes} bytes; at most {max} are taken") })
            }
            Ok(Ok(answer)) => {
                let content_type = HeaderValue::try_from(answer.content_type).ok().filter(|value| !value.is_empty());
                Ok(response(StatusCode::OK, content_type.unwrap_or(CONTENT_TYPE_UNKNOWN), answer.body))
            }
            Ok(Err(Error::Invalid(text))) => Ok(response(StatusCode::BAD_REQUEST, CONTENT_TYPE_TEXT, text)),
            Ok(Err(Error::Failed(text))) => Ok(response(StatusCode::INTERNAL_SERVER_ERROR, CONTENT_TYPE_TEXT, text)),
            Err(error) => {
                let fault = Fault::new(&error, store.data());
                store.data().report(&fault.to_string());
                Err(fault)
            }
        }
    }
}

/// A request's body and what it is.
async fn payload(request: Request<Body>) -> Result<Payload, Fault> {
    let (parts, body) = request.into_parts();
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let body = Limited::new(body, PAYLOAD_BYTES_MAX).collect().await;
    let body =
        body.map_err(|error| Fault::Input { reason: format!("{error}; it may have {PAYLOAD_BYTES_MAX} bytes") })?;
    Ok(Payload { content_type: content_type.to_owned(), body: body.to_bytes().into() })
}

fn response(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
