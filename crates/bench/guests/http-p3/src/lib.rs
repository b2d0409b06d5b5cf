//! The component of `bench-http` as a `wasi:http` 0.3 handler, on the bare bindings: what is measured is the host.

use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Handler;

wasip3::http::service::export!(Handler);

impl Guest for Handler {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let answer = work::answer(&request.get_path_with_query().unwrap_or_default());
        let headers = Fields::new();
        // A length, so that nobody answers in chunks; only the host refuses a header, and then there is none.
        let _ = headers.append("content-length", answer.len().to_string().as_bytes());
        let (mut body, contents) = wit_stream::new();
        let (trailers, no_trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(headers, Some(contents), no_trailers);
        drop(trailers);
        wit_bindgen::spawn_local(async move {
            // Who went away gets no body.
            let _ = body.write_all(answer.into_owned()).await;
        });
        Ok(response)
    }
}
