//! Listening for clients, and the end of it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::connection::{Shared, serve, until_stopped};
use super::registry::Registry;
use super::{Access, Keep, Topics};
use crate::server::listen;
use crate::stall::Stalling;
use crate::{BindError, Drained};

/// How many clients may be connected; more wait in the system's queue. Each may take a megabyte or two at its worst.
const CONNECTIONS_MAX: u32 = 4_096;
/// How many wills wait at once for their time after their connections have ended.
const WILLS_MAX: usize = 4_096;
/// How long a client may take to agree on keys.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take none of what it is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait when the system has no file or memory for another connection: until some have closed.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What a server is made of.
pub struct Parts {
    /// What topics lead to.
    pub topics: Arc<dyn Topics>,
    /// Who is let in.
    pub access: Arc<dyn Access>,
    /// Where sessions are kept.
    pub keep: Arc<dyn Keep>,
    /// How clients are shown who this is, and asked who they are; without it, nothing is encrypted.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("is_encrypted", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// A listening server. It stops when this is dropped; [`drain`](Server::drain) lets clients be told.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    slots: Arc<Semaphore>,
}

impl Server {
    /// Takes an address, before there is anything to serve there. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
        listen(address).map_err(|error| BindError::Mqtt { address, error })
    }

    /// Serves those who connect to a listener, on the runtime that calls this.
    ///
    /// # Errors
    /// When the system says no more about the listener.
    pub fn serve_on(listener: TcpListener, parts: Parts) -> Result<Self, BindError> {
        let unknown = |error| BindError::Mqtt { address: SocketAddr::from(([0, 0, 0, 0], 0)), error };
        let address = listener.local_addr().map_err(unknown)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(unknown)?;
        let (stop, stopped) = watch::channel(false);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
        let tls = parts.tls.map(TlsAcceptor::from);
        let shared = Shared {
            topics: parts.topics,
            access: parts.access,
            keep: parts.keep,
            registry: Arc::new(Registry::default()),
            wills: Arc::new(Semaphore::new(WILLS_MAX)),
            stopped: stopped.clone(),
        };
        tokio::spawn(accept(listener, tls, Arc::new(shared), Arc::clone(&slots), stopped));
        Ok(Self { address, stop, slots })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more clients, tells those that there are, keeps their sessions, and waits for that until the deadline.
    pub async fn drain(self, deadline: Duration) -> Drained {
        self.stop.send_replace(true);
        let all = self.slots.acquire_many(CONNECTIONS_MAX);
        Drained { complete: tokio::time::timeout(deadline, all).await.is_ok() }
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            Some((listener.accept().await, slot))
        };
        tokio::select! {
            accepted = next => match accepted {
                Some((Ok((stream, _)), slot)) => {
                    tokio::spawn(begin(stream, tls.clone(), Arc::clone(&shared), slot));
                }
                Some((Err(error), _)) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                None => return,
            },
            () = until_stopped(&mut stopped) => return,
        }
    }
}

/// Agrees on keys where that is wanted, and serves; the slot is held until all is done.
async fn begin(stream: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>, _slot: OwnedSemaphorePermit) {
    // Packets are written as they come; waiting to fill a segment would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let stream = Stalling::new(stream, WRITE_TIMEOUT);
    let Some(tls) = tls else { return serve(stream, None, shared).await };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = shown.map(|certificate| Bytes::copy_from_slice(certificate));
            serve(stream, certificate, shared).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a client of MQTT did not agree on keys"),
        Err(_) => tracing::debug!("a client of MQTT took too long to agree on keys"),
    }
}
