//! A handler that tries to reach what it was not granted, or to take more than its share; its path says how.
//!
//! What it answers is a line for each attempt: `held: WHAT` where the host stopped it, `ESCAPED: WHAT` where it did not.
//! `tests/escape/corpus.toml` says what each is expected to end in, `crates/cli/tests/escape.rs` runs them.

mod everything;
mod files;
mod headers;
mod hoards;
mod hosts;

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Hostile);

struct Hostile;

/// What was tried, and what came of it.
#[derive(Default)]
pub struct Report(String);

impl Report {
    /// An attempt that the host must refuse.
    pub fn refused<T, E: std::fmt::Debug>(&mut self, what: &str, outcome: Result<T, E>) {
        match outcome {
            Ok(_) => self.line("ESCAPED", what, ""),
            Err(error) => self.line("held", what, &format!("{error:?}")),
        }
    }

    /// An attempt that is harmless, or that the host must have made harmless.
    pub fn harmless(&mut self, what: &str, harmless: bool, detail: &str) {
        self.line(if harmless { "held" } else { "ESCAPED" }, what, detail);
    }

    fn line(&mut self, verdict: &str, what: &str, detail: &str) {
        self.0 += &format!("{verdict}: {what} ({detail})\n");
    }
}

impl wasip2::exports::http::incoming_handler::Guest for Hostile {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (path, argument) = path.split_once('?').unwrap_or((&path, ""));
        // What comes first is the function's route.
        let path = path.get(1..).and_then(|path| path.find('/').and_then(|at| path.get(at..))).unwrap_or(path);
        let mut report = Report::default();
        match path {
            "/files" => files::escape(&mut report, argument),
            "/read-only" => files::write_where_it_may_not(&mut report),
            "/open-files" => files::hoard(&mut report),
            "/requests" => hosts::requests(&mut report, argument),
            "/redirect" => hosts::redirect(&mut report, argument),
            "/sockets" => hosts::sockets(&mut report, argument),
            "/listen" => hosts::listen(&mut report, argument),
            "/open-sockets" => hosts::hoard(&mut report),
            "/everything" => everything::call(&mut report, argument),
            "/headers" => headers::forge(&mut report),
            "/split" => return headers::split(out, argument),
            "/fields" => hoards::fields(),
            "/pollables" => hoards::pollables(),
            "/random" => hoards::random(argument),
            "/memory" => hoards::memory(),
            "/bulk" => hoards::bulk(),
            "/recurse" => hoards::recurse(argument.len() as u64),
            "/spin" => hoards::spin(),
            "/flood" => hoards::flood(&mut report),
            "/half" => return headers::half(out),
            _ => report.harmless("nothing", true, path),
        }
        respond(out, 200, report.0.as_bytes());
    }
}

/// Answers a response whose body is known whole.
pub fn respond(out: ResponseOutparam, status: u16, body: &[u8]) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("the status is one");
    let outgoing = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = outgoing.write().expect("the stream is taken once");
    for part in body.chunks(4096) {
        stream.blocking_write_and_flush(part).expect("the client is there");
    }
    drop(stream);
    OutgoingBody::finish(outgoing, None).expect("the body is whole");
}
