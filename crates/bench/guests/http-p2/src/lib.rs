//! The component of `bench-http` as a `wasi:http` 0.2 handler, on the bare bindings: what is measured is the host.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::StreamError;

struct Handler;

wasip2::http::proxy::export!(Handler);

impl Guest for Handler {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let answer = work::answer(&request.path_with_query().unwrap_or_default());
        let headers = Fields::new();
        // A length, so that nobody answers in chunks; only the host refuses a header, and then there is none.
        let _ = headers.append("content-length", answer.len().to_string().as_bytes());
        let response = OutgoingResponse::new(headers);
        let Ok(body) = response.body() else { return };
        ResponseOutparam::set(out, Ok(response));
        // Who went away gets no body.
        if write(&body, &answer).is_ok() {
            let _ = OutgoingBody::finish(body, None);
        }
    }
}

/// Writes as much at once as the host takes.
fn write(body: &OutgoingBody, mut rest: &[u8]) -> Result<(), StreamError> {
    let Ok(stream) = body.write() else { return Err(StreamError::Closed) };
    while !rest.is_empty() {
        let room = usize::try_from(stream.check_write()?).unwrap_or(usize::MAX);
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, later) = rest.split_at(room.min(rest.len()));
        stream.write(now)?;
        rest = later;
    }
    stream.flush()
}
