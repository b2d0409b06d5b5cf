//! Headers that would change what a message is: line ends, framing, what belongs to a connection.
use wasip2::http::types::{Fields, Method, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme};

use crate::Report;

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "host",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
];

pub fn forge(report: &mut Report) {
    let fields = Fields::new();
    for value in ["a\r\nx: y", "a\nx: y", "a\rb", "a\0b", "a\r\n\r\nHTTP/1.1 200 OK", "\x7f"] {
        report.refused(&format!("set the value {value:?}"), fields.set("x", &[value.as_bytes().to_vec()]));
        report.refused(&format!("append the value {value:?}"), fields.append("x", value.as_bytes()));
        let listed = Fields::from_list(&[("x".to_owned(), value.as_bytes().to_vec())]);
        report.refused(&format!("list the value {value:?}"), listed);
    }
    for name in ["", "a b", "a:b", "a\r\nb", "a\0", "a\n", ":path", "ä", "a\tb"] {
        report.refused(&format!("set the name {name:?}"), fields.set(name, &[b"1".to_vec()]));
        report.refused(&format!("append the name {name:?}"), fields.append(name, b"1"));
    }
    for name in HOP_BY_HOP {
        report.refused(&format!("set {name}"), fields.set(name, &[b"chunked".to_vec()]));
        report.refused(&format!("append {name}"), fields.append(&name.to_uppercase(), b"chunked"));
        let listed = Fields::from_list(&[(name.to_owned(), b"chunked".to_vec())]);
        report.refused(&format!("list {name}"), listed);
    }
    let length = |values: &[&str]| {
        let values: Vec<_> = values.iter().map(|value| value.as_bytes().to_vec()).collect();
        Fields::new().set("content-length", &values)
    };
    for values in [&["1", "2"][..], &["+1"], &["-1"], &["1,2"], &[" 1"], &["0x1"], &[""]] {
        report.refused(&format!("set content-length {values:?}"), length(values));
    }
    requests(report);
    let response = OutgoingResponse::new(Fields::new());
    for status in [0, 99, 1000, u16::MAX] {
        report.refused(&format!("set the status {status}"), response.set_status_code(status));
    }
}

fn requests(report: &mut Report) {
    let request = OutgoingRequest::new(Fields::new());
    for path in ["/ HTTP/1.1\r\nx: y", "/\n", "/\0", "/a b", "http://other/"] {
        report.refused(&format!("set the path {path:?}"), request.set_path_with_query(Some(path)));
    }
    for authority in ["a\r\nx: y", "a b", "a/b", "a\0", "a#b", "a?b"] {
        report.refused(&format!("set the authority {authority:?}"), request.set_authority(Some(authority)));
    }
    for method in ["GET /x HTTP/1.1\r\n", "A B", "", "A\n"] {
        report.refused(&format!("set the method {method:?}"), request.set_method(&Method::Other(method.to_owned())));
    }
    for scheme in ["a b", "http://", "1\r\n"] {
        report.refused(
            &format!("set the scheme {scheme:?}"),
            request.set_scheme(Some(&Scheme::Other(scheme.to_owned()))),
        );
    }
}

/// Promises a body of another length than it writes; what it writes looks like another response.
pub fn split(out: ResponseOutparam, promised: &str) {
    let fields =
        Fields::from_list(&[("content-length".to_owned(), promised.as_bytes().to_vec())]).expect("it is a length");
    let response = OutgoingResponse::new(fields);
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    let _ = stream.blocking_write_and_flush(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged");
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// Begins a response and traps.
pub fn half(out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    let _ = stream.blocking_write_and_flush(b"half of it");
    panic!("in the middle");
}
