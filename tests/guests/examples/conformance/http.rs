//! `wasi:http` as a client: the rules of headers, and how requests fail.
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{ErrorCode, Fields, HeaderError, Method, OutgoingRequest, RequestOptions, Scheme};

use crate::expect;

pub fn fields() {
    let fields = Fields::new();
    expect!(fields.set("X-A", &[b"1".to_vec(), b"2".to_vec()]), Ok(()));
    expect!(&fields.get("x-a")[..], [one, two] if one == b"1" && two == b"2");
    expect!(fields.append("x-A", b"3"), Ok(()));
    expect!(fields.get("X-a").len(), 3);
    expect!(fields.has("x-a"), true);
    expect!(fields.has("x-b"), false);
    expect!(fields.get("x-b").len(), 0);
    expect!(fields.entries().len(), 3);
    let clone = fields.clone();
    expect!(fields.delete("X-A"), Ok(()));
    expect!(fields.entries().len(), 0);
    expect!(clone.entries().len(), 3);
    expect!(fields.set("a b", &[]), Err(HeaderError::InvalidSyntax));
    expect!(fields.append("x", b"a\nb"), Err(HeaderError::InvalidSyntax));
    expect!(fields.set("host", &[b"x".to_vec()]), Err(HeaderError::Forbidden));
    expect!(Fields::from_list(&[("x".to_owned(), b"\r".to_vec())]), Err(HeaderError::InvalidSyntax));
    // A request's headers are its own.
    let request = OutgoingRequest::new(clone);
    expect!(request.headers().append("x", b"1"), Err(HeaderError::Immutable));
    expect!(request.headers().delete("x-a"), Err(HeaderError::Immutable));
    expect!(request.method(), Method::Get);
    expect!(request.path_with_query(), None);
    expect!(request.set_method(&Method::Other("A B".to_owned())), Err(()));
    expect!(request.set_path_with_query(Some("/a?b=c")), Ok(()));
    expect!(request.path_with_query(), Some(path) if path == "/a?b=c");
    expect!(request.body(), Ok(_));
    expect!(request.body(), Err(()));
    let options = RequestOptions::new();
    expect!(options.connect_timeout(), None);
    expect!(options.set_connect_timeout(Some(5)), Ok(()));
    expect!(options.connect_timeout(), Some(5));
}

fn send(scheme: Scheme, authority: Option<&str>) -> Result<u16, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_scheme(Some(&scheme)).map_err(invalid)?;
    request.set_authority(authority).map_err(invalid)?;
    request.set_path_with_query(Some("/")).map_err(invalid)?;
    let answer = handle(request, None)?;
    answer.subscribe().block();
    let response = answer.get().expect("it is ready").expect("it is taken once")?;
    expect!(answer.get(), Some(Err(())));
    Ok(response.status())
}

/// Port 1 is nobody's on a machine that runs tests.
pub fn outgoing_errors() {
    expect!(send(Scheme::Http, Some("127.0.0.1:1")), Err(ErrorCode::ConnectionRefused));
    expect!(send(Scheme::Other("gopher".to_owned()), Some("127.0.0.1:1")), Err(ErrorCode::HttpProtocolError));
    expect!(send(Scheme::Http, None), Err(ErrorCode::HttpRequestUriInvalid));
    expect!(send(Scheme::Http, Some("nowhere.invalid")), Err(ErrorCode::DnsError(_) | ErrorCode::DnsTimeout));
}
