//! Tests of [`super`]: what the proxy answers, over real connections.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use littoral_runtime_wasm::{Discard, LogStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A proxy with these grants, and the connection of a container to it.
async fn proxy(http: &[&str]) -> (JoinSet<()>, TcpStream) {
    let output = GuestOutput::alone(Arc::new(Discard), LogStream::Stderr, 1);
    let egress = Arc::new(Egress::new(http.iter().map(|peer| peer.parse().unwrap()).collect(), output));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move { match egress.accept(&listener).await {} });
    (serving, stream)
}

/// What comes until a text is in it, or nothing comes any more.
async fn until(stream: &mut TcpStream, text: &str) -> String {
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    while !said.contains(text) {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => said.push_str(&String::from_utf8_lossy(buffer.get(..read).unwrap())),
        }
    }
    said
}

#[tokio::test]
async fn what_is_no_request_to_a_proxy_is_refused_with_the_reason() {
    let (_serving, mut stream) = proxy(&["127.0.0.1"]).await;
    for (request, reason) in [
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "a request names a whole URI"),
        ("GET https://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "open a tunnel with CONNECT"),
        ("GET http://public.example@127.0.0.1/ HTTP/1.1\r\nHost: x\r\n\r\n", "named with a user"),
        ("CONNECT 127.0.0.1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "names a port"),
    ] {
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = until(&mut stream, reason).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(reason), "{request}: {answer}");
    }
    let long = format!("GET http://127.0.0.1/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES_MAX));
    stream.write_all(long.as_bytes()).await.unwrap();
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_name_leads_to_public_addresses_only_and_a_range_to_nothing_else() {
    for (granted, asked, kind) in [
        // Of this machine itself, by a name that is granted.
        ("localhost", "localhost:80", "destination_ip_prohibited"),
        ("10.0.0.0/8", "localhost:80", "destination_ip_prohibited"),
        ("127.0.0.1:81", "127.0.0.1:80", "http_request_denied"),
        // Where clouds keep what they tell their machines, and the same in other clothes.
        ("api.example.com", "169.254.169.254:80", "http_request_denied"),
        ("10.0.0.0/8", "[::ffff:169.254.169.254]:80", "http_request_denied"),
    ] {
        for request in [
            format!("CONNECT {asked} HTTP/1.1\r\nHost: api.example.com\r\n\r\n"),
            format!("GET http://{asked}/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n"),
        ] {
            let (_serving, mut stream) = proxy(&[granted]).await;
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = until(&mut stream, "grant it with").await;
            assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("grant it with"), "{request}: {answer}");
            assert!(answer.contains(&format!("proxy-status: littoral; error={kind}")), "{request}: {answer}");
        }
    }
}

#[tokio::test]
async fn what_concerns_one_connection_is_not_handed_on() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = target.local_addr().unwrap();
    let (_serving, mut stream) = proxy(&["127.0.0.1"]).await;
    let request = format!(
        "POST http://{address}/a?b HTTP/1.1\r\nHost: other.example\r\nConnection: x-mine, close\r\nX-Mine: 1\r\n\
         Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\nContent-Length: 4\r\n\r\nbody"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut server, _) = target.accept().await.unwrap();
    let received = until(&mut server, "body").await;
    assert!(received.starts_with("POST /a?b HTTP/1.1\r\n") && received.ends_with("\r\n\r\nbody"), "{received}");
    for (header, is_there) in [
        (format!("host: {address}\r\n"), true),
        ("x-kept: 1\r\n".to_owned(), true),
        ("via: 1.1 littoral\r\n".to_owned(), true),
        ("other.example".to_owned(), false),
        ("x-mine".to_owned(), false),
        ("proxy-".to_owned(), false),
        ("connection".to_owned(), false),
    ] {
        assert_eq!(received.to_lowercase().contains(&header), is_there, "{header}: {received}");
    }
    let answer = "HTTP/1.1 207 Multi-Status\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok";
    server.write_all(answer.as_bytes()).await.unwrap();
    let answer = until(&mut stream, "ok").await;
    assert!(answer.starts_with("HTTP/1.1 207") && !answer.contains("timeout=5"), "{answer}");
}

#[tokio::test]
async fn a_tunnel_on_which_nothing_happens_ends() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = target.local_addr().unwrap();
    let (_serving, mut stream) = proxy(&[&address.to_string()]).await;
    stream.write_all(format!("CONNECT {address} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let (mut server, _) = target.accept().await.unwrap();
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    server.write_all(b"from the server").await.unwrap();
    assert_eq!(until(&mut stream, "server").await, "from the server");
    stream.write_all(b"from the container").await.unwrap();
    assert_eq!(until(&mut server, "container").await, "from the container");
    // From here on time passes as soon as there is nothing else to do.
    tokio::time::pause();
    let begun = Instant::now();
    assert_eq!(until(&mut stream, "anything").await, "");
    assert_eq!(until(&mut server, "anything").await, "");
    assert!(begun.elapsed() >= IDLE_MAX - Duration::from_secs(1), "{:?}", begun.elapsed());
}
