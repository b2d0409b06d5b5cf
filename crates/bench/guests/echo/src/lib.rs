//! The function of `bench-mesh`: it answers with what it was sent.

use littoral_sdk::http::{Request, Response};

fn echo(request: Request) -> Response {
    Response::new(request.into_body())
}

littoral_sdk::handler!(echo);
