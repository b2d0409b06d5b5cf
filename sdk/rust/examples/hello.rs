//! A handler: greets on GET, sends back what it was sent on POST.

use littoral_sdk::http::{Method, Request, Response, response, text};

fn hello(request: Request) -> Response {
    if request.method() == Method::POST {
        return response(200, "application/octet-stream", request.into_body());
    }
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "hello".to_owned());
    text(200, format!("{greeting} from {} on {}\n", request.uri().path(), request.uri()))
}

littoral_sdk::handler!(hello);
