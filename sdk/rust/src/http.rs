//! Answering HTTP requests.
//!
//! ```
//! use littoral_sdk::http::{Request, Response, text};
//!
//! fn hello(request: Request) -> Response {
//!     text(200, format!("you asked for {}", request.uri().path()))
//! }
//!
//! littoral_sdk::handler!(hello);
//! ```
//!
//! A handler is made anew for each request and forgotten afterwards.

use crate::Error;

/// A request with its whole body.
pub type Request = ::http::Request<Vec<u8>>;
/// A response with its whole body.
pub type Response = ::http::Response<Vec<u8>>;

pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

/// The largest request body that a handler reads; a larger one is answered with 413. A node's own limit is lower unless
/// its owner raised it.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// A response of plain text.
#[must_use]
pub fn text(status: u16, body: impl Into<String>) -> Response {
    response(status, "text/plain; charset=utf-8", body.into().into_bytes())
}

/// A response of JSON that is already encoded.
#[must_use]
pub fn json(status: u16, body: impl Into<String>) -> Response {
    response(status, "application/json", body.into().into_bytes())
}

/// A response of any kind; a status that HTTP does not have becomes 500.
#[must_use]
pub fn response(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(::http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// What a handler may return.
pub trait IntoResponse {
    /// The response.
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        text(200, self)
    }
}

impl IntoResponse for &str {
    fn into_response(self) -> Response {
        text(200, self)
    }
}

impl<R: IntoResponse> IntoResponse for Result<R, Error> {
    fn into_response(self) -> Response {
        match self {
            Ok(response) => response.into_response(),
            Err(error) => text(500, error.to_string()),
        }
    }
}

/// Exports a function on a request as the component's HTTP handler. It returns a [`Response`], a text, or a
/// [`Result`](crate::Result) of one of them, whose error is answered with 500.
#[macro_export]
macro_rules! handler {
    ($function:path) => {
        const _: () = {
            fn answers<R: $crate::http::IntoResponse>(_: fn($crate::http::Request) -> R) {}
            let _: fn() = || answers($function);
        };
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Exported;
            impl $crate::wasip2::exports::http::incoming_handler::Guest for Exported {
                fn handle(
                    request: $crate::wasip2::http::types::IncomingRequest,
                    out: $crate::wasip2::http::types::ResponseOutparam,
                ) {
                    $crate::http::guest::handle(request, out, $function);
                }
            }
    $crate::wasip2::http::proxy::export!(Exported with_types_in $crate::wasip2);
        };
    };
}

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest {
    //! Between a function and the `wasi:http` bindings.

    use wasip2::http::types::{
        ErrorCode, Fields, IncomingBody, IncomingRequest, Method as WasiMethod, OutgoingBody, OutgoingResponse,
        ResponseOutparam, Scheme,
    };
    use wasip2::io::streams::StreamError;

    use super::{BODY_BYTES_MAX, HeaderName, HeaderValue, IntoResponse, Request, Response, text};
    use crate::{Error, Result};

    /// How much of a body is read or written at once: what `blocking-write-and-flush` takes at the most.
    const CHUNK_BYTES: usize = 4096;

    pub fn handle<R: IntoResponse>(request: IncomingRequest, out: ResponseOutparam, function: fn(Request) -> R) {
        let response = match read(&request) {
            Ok(Some(request)) => function(request).into_response(),
            Ok(None) => text(413, "the request's body is too large"),
            Err(error) => text(400, error.to_string()),
        };
        write(response, out);
    }

    fn read(incoming: &IncomingRequest) -> Result<Option<Request>> {
        let method = match incoming.method() {
            WasiMethod::Get => "GET".to_owned(),
            WasiMethod::Head => "HEAD".to_owned(),
            WasiMethod::Post => "POST".to_owned(),
            WasiMethod::Put => "PUT".to_owned(),
            WasiMethod::Delete => "DELETE".to_owned(),
            WasiMethod::Connect => "CONNECT".to_owned(),
            WasiMethod::Options => "OPTIONS".to_owned(),
            WasiMethod::Trace => "TRACE".to_owned(),
            WasiMethod::Patch => "PATCH".to_owned(),
            WasiMethod::Other(method) => method,
        };
        let scheme = match incoming.scheme() {
            Some(Scheme::Https) => "https".to_owned(),
            Some(Scheme::Other(scheme)) => scheme,
            Some(Scheme::Http) | None => "http".to_owned(),
        };
        let path = incoming.path_with_query().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".to_owned());
        let authority = incoming.authority().unwrap_or_else(|| "localhost".to_owned());
        let uri = ::http::Uri::builder().scheme(scheme.as_str()).authority(authority).path_and_query(path).build()?;
        let mut builder = ::http::Request::builder().method(method.as_str()).uri(uri);
        if let Some(headers) = builder.headers_mut() {
            for (name, value) in incoming.headers().entries() {
                headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_bytes(&value)?);
            }
        }
        let body = incoming.consume().map_err(|()| Error::new("the request's body was consumed before"))?;
        match read_body(&body)? {
            Some(body) => Ok(Some(builder.body(body)?)),
            None => Ok(None),
        }
    }

    fn read_body(body: &IncomingBody) -> Result<Option<Vec<u8>>> {
        let stream = body.stream().map_err(|()| Error::new("the request's body was read before"))?;
        let mut bytes = Vec::new();
        loop {
            match stream.blocking_read(16 * CHUNK_BYTES as u64) {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(StreamError::Closed) => return Ok(Some(bytes)),
                Err(StreamError::LastOperationFailed(error)) => {
                    return Err(Error::new(format!("the request's body broke off: {}", error.to_debug_string())));
                }
            }
            if bytes.len() > BODY_BYTES_MAX {
                return Ok(None);
            }
        }
    }

    fn write(response: Response, out: ResponseOutparam) {
        let (parts, body) = response.into_parts();
        let headers = Fields::new();
        for (name, value) in &parts.headers {
            if headers.append(name.as_str(), value.as_bytes()).is_err() {
                let reason = format!("the header `{name}` may not be set by a handler");
                ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some(reason))));
                return;
            }
        }
        let outgoing = OutgoingResponse::new(headers);
        let status_set = outgoing.set_status_code(parts.status.as_u16());
        let (Ok(()), Ok(outgoing_body)) = (status_set, outgoing.body()) else {
            ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("the status is not valid".to_owned()))));
            return;
        };
        ResponseOutparam::set(out, Ok(outgoing));
        // From here on, an error means that the client is gone, and there is nobody left to tell.
        if let Ok(stream) = outgoing_body.write() {
            for chunk in body.chunks(CHUNK_BYTES) {
                if stream.blocking_write_and_flush(chunk).is_err() {
                    return;
                }
            }
        }
        let _ = OutgoingBody::finish(outgoing_body, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_become_responses() {
        assert_eq!("hello".into_response().status(), 200);
        assert_eq!(Err::<Response, _>(Error::new("no")).into_response().status(), 500);
        assert_eq!(json(201, "{}").headers()["content-type"], "application/json");
        assert_eq!(text(9999, "").status(), 500);
    }
}
