//! `hello`: a function that answers HTTP requests.

use littoral_sdk::http::{Request, Response, json, text};
use serde_json::{Value, json as object};

/// Greets whoever the request names: `{"name": "Ada"}`.
pub fn hello(request: Request) -> Response {
    let body: Value = match request.body().as_slice() {
        [] => Value::Null,
        body => match serde_json::from_slice(body) {
            Ok(body) => body,
            Err(error) => return text(400, format!("the body is not JSON: {error}\n")),
        },
    };
    let name = body.get("name").and_then(Value::as_str).unwrap_or("world");
    json(200, object!({ "greeting": format!("Hello, {name}!") }).to_string())
}

littoral_sdk::handler!(hello);

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> (u16, String) {
        let response = hello(Request::new(body.as_bytes().to_vec()));
        (response.status().as_u16(), String::from_utf8_lossy(response.body()).into_owned())
    }

    #[test]
    fn it_greets_by_name() {
        assert_eq!(answer(r#"{"name": "Ada"}"#), (200, r#"{"greeting":"Hello, Ada!"}"#.to_owned()));
        assert_eq!(answer(""), (200, r#"{"greeting":"Hello, world!"}"#.to_owned()));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        assert_eq!(answer("{").0, 400);
    }
}
