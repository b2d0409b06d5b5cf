//! HTTP as many short-lived clients speak it: a connection a request, and none waits for ever.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::client::Place;

/// Asks and takes the whole answer, within a time.
pub(super) async fn ask(
    place: &Place,
    method: Method,
    path: &str,
    body: Bytes,
    limit: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let exchange = async {
        let response = open(place, method, path, body).await?;
        let status = response.status();
        anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
    };
    tokio::time::timeout(limit, exchange).await?
}

/// What a node's admin API says in JSON.
pub(super) async fn get(place: &Place, path: &str, limit: Duration) -> anyhow::Result<Value> {
    let (status, body) = ask(place, Method::GET, path, Bytes::new(), limit).await?;
    anyhow::ensure!(status.is_success(), "{path} was answered with {status}");
    Ok(serde_json::from_slice(&body)?)
}

/// Asks; the answer's body is yet to come.
pub(super) async fn open(place: &Place, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
    match place {
        Place::Tcp(address) => send(TcpStream::connect(address).await?, method, path, body).await,
        Place::Unix(file) => send(UnixStream::connect(file).await?, method, path, body).await,
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header(HOST, "chaos");
    let request = request.header(CONTENT_TYPE, "application/x-ndjson").body(Full::new(body))?;
    Ok(sender.send_request(request).await?)
}
