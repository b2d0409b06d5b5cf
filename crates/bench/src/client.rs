//! An HTTP client for latencies: one connection that is kept, and requests at fixed times over several of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

/// How long a server may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A connection that is kept, used by one thread: it does nothing between two requests.
pub(crate) struct Connection {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(crate) fn open(place: &Place) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            match place {
                Place::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
                    tokio::spawn(connection);
                    anyhow::Ok(sender)
                }
                Place::Unix(path) => {
                    let (sender, connection) = handshake(TokioIo::new(UnixStream::connect(path).await?)).await?;
                    tokio::spawn(connection);
                    anyhow::Ok(sender)
                }
            }
        });
        Ok(Self { runtime, sender: sender.with_context(|| format!("cannot connect to {place:?}"))? })
    }

    /// Asks for a path, with a body if there is one; the answer whatever its status.
    pub(crate) fn ask(&mut self, path: &str, body: Bytes) -> anyhow::Result<(StatusCode, Bytes)> {
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let request = Request::builder().method(method).uri(path).header(HOST, "bench").body(Full::new(body))?;
        let sender = &mut self.sender;
        let answered = self.runtime.block_on(async {
            let exchange = async {
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                let status = response.status();
                Ok((status, response.into_body().collect().await?.to_bytes()))
            };
            tokio::time::timeout(TIMEOUT, exchange).await
        });
        answered.map_err(|_| anyhow!("no answer within {} s", TIMEOUT.as_secs()))?.map_err(|e: hyper::Error| e.into())
    }

    /// Asks and expects success; how long it took in milliseconds.
    pub(crate) fn time(&mut self, path: &str, body: Bytes) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let (status, body) = self.ask(path, body)?;
        let elapsed = begun.elapsed();
        anyhow::ensure!(status.is_success(), "{path} was answered with {status}: {}", String::from_utf8_lossy(&body));
        Ok(elapsed.as_secs_f64() * 1e3)
    }
}

/// Requests at fixed times, whatever becomes of those before them.
#[derive(Clone, Debug)]
pub(crate) struct OpenLoop {
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) requests_per_s: f64,
    pub(crate) duration: Duration,
    /// How many connections share the requests, each its own thread. A thread that is late sends at once.
    pub(crate) connections: u32,
}

impl OpenLoop {
    /// Sends them all. The latencies in milliseconds, each from the time at which its request was to be sent, so that a
    /// server that stalls is charged for every request that it kept waiting.
    pub(crate) fn run(&self) -> anyhow::Result<Vec<f64>> {
        let interval = Duration::from_secs_f64(1.0 / self.requests_per_s.max(f64::MIN_POSITIVE));
        let all = (self.duration.as_secs_f64() * self.requests_per_s) as u32;
        // Time for all threads to open their connections.
        let begin = Instant::now() + Duration::from_millis(100);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.connections)
                .map(|first| {
                    scope.spawn(move || {
                        let mut connection = Connection::open(&self.place)?;
                        let mut latencies = Vec::new();
                        for turn in (first..all).step_by(self.connections.max(1) as usize) {
                            let due = begin + interval * turn;
                            thread::sleep(due.saturating_duration_since(Instant::now()));
                            connection.time(&self.path, Bytes::new())?;
                            latencies.push(due.elapsed().as_secs_f64() * 1e3);
                        }
                        anyhow::Ok(latencies)
                    })
                })
                .collect();
            let mut latencies = Vec::new();
            for thread in threads {
                latencies.extend(thread.join().map_err(|_| anyhow!("a thread of the load generator panicked"))??);
            }
            Ok(latencies)
        })
    }
}

/// How many requests a second are answered when each of so many connections sends its next one at once.
pub(crate) fn capacity(place: &Place, path: &str, connections: u32, duration: Duration) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let answered = thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(place)?;
                    let mut answered = 0_u32;
                    while begun.elapsed() < duration {
                        connection.time(path, Bytes::new())?;
                        answered += 1;
                    }
                    anyhow::Ok(answered)
                })
            })
            .collect();
        let mut answered = 0;
        for thread in threads {
            answered += thread.join().map_err(|_| anyhow!("a thread of the load generator panicked"))??;
        }
        anyhow::Ok(answered)
    })?;
    Ok(f64::from(answered) / begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    /// Answers each connection's requests, the first one after a pause.
    fn stalling(pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut pause = Some(pause);
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).unwrap_or(0) > 0 {
                        thread::sleep(pause.take().unwrap_or_default());
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
                    }
                });
            }
        });
        address
    }

    #[test]
    fn a_stall_is_charged_to_every_request_it_kept_waiting() {
        let pause = Duration::from_millis(200);
        let place = Place::Tcp(stalling(pause));
        let requests = OpenLoop { place, path: "/".into(), requests_per_s: 100.0, duration: pause, connections: 1 };
        let latencies = requests.run().unwrap();
        assert_eq!(latencies.len(), 20);
        // All were due within the stall, and none was answered before its end: the one due in its middle waited half of it.
        let late = latencies.iter().filter(|latency| **latency >= 100.0).count();
        assert!(late >= 10, "{latencies:?}");
    }
}
