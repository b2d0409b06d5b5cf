//! A bare hyper server: what HTTP alone costs, without a guest. It answers as the guests of `bench-http` do.

use std::convert::Infallible;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// As in `guests/work`.
const HELLO: &[u8] = b"Hello from the bench!\n";
/// As in `guests/work`.
const BIG_BYTES: usize = 1 << 20;
/// As in `guests/work`.
const SPIN_STEPS: u32 = 6_500_000;

/// Serves until it is killed.
pub(crate) fn serve(address: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                // A connection that breaks is its peer's affair.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .await;
            });
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = match request.uri().path() {
        "/big" => Bytes::from(vec![b'x'; BIG_BYTES]),
        "/cpu" => Bytes::from(format!("{}\n", spin(SPIN_STEPS))),
        _ => Bytes::from_static(HELLO),
    };
    Ok(Response::new(Full::new(body)))
}

/// A chain of xorshifts.
pub(crate) fn spin(steps: u32) -> u32 {
    let mut state = 2_463_534_242_u32;
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
    }
    state
}
