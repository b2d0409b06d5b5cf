//! Listening, and the end of it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use littoral_runtime::Shards;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::connection::{Measures, Phase, Shared, serve};
use crate::router::Router;
use crate::settings::Settings;

/// How many connections the system keeps waiting for us; a burst of clients, not a queue to stand in.
const BACKLOG: u32 = 1_024;
/// How long to wait when the system has no file or memory for another connection: until some have closed.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// More slots than any machine has file descriptors.
const SLOTS_MAX: usize = 1 << 24;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be had.
    #[error("HTTP cannot be served at {address}: {error}; choose another address or port")]
    Address {
        /// Which address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The address for MQTT cannot be had.
    #[error("MQTT cannot be served at {address}: {error}; choose another address or port")]
    Mqtt {
        /// Which address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
}

/// A listening gateway. It stops at once when this is dropped; [`drain`](Gateway::drain) lets requests finish.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    slots: Arc<Semaphore>,
    slots_max: u32,
}

/// How a drained gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Whether every connection ended by itself; otherwise the rest was cut at the deadline.
    pub complete: bool,
}

impl Gateway {
    /// Listens at an address and serves on the shards. Port 0 lets the system choose one; see
    /// [`address`](Gateway::address).
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn serve(
        address: SocketAddr,
        shards: &Shards,
        router: Arc<dyn Router>,
        settings: Settings,
    ) -> Result<Self, BindError> {
        Self::serve_on(Self::listen(address)?, shards, router, settings)
    }

    /// Takes an address before there is anything to serve there: connections wait until [`serve_on`](Gateway::serve_on).
    /// Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
        listen(address).map_err(|error| BindError::Address { address, error })
    }

    /// Serves on the shards those who connect to a listener.
    ///
    /// # Errors
    /// When the system says no more about the listener, or cannot share it.
    pub fn serve_on(
        listener: TcpListener,
        shards: &Shards,
        router: Arc<dyn Router>,
        settings: Settings,
    ) -> Result<Self, BindError> {
        let unknown = |error| BindError::Address { address: SocketAddr::from(([0, 0, 0, 0], 0)), error };
        let address = listener.local_addr().map_err(unknown)?;
        let refused = |error| BindError::Address { address, error };
        let (phase, receiver) = watch::channel(Phase::Open);
        // Besides the connections, each acceptor holds a slot, so that a drained gateway listens no more.
        let slots_max = settings.connections_max.max(1).saturating_add(shards.count()).min(SLOTS_MAX);
        let slots = Arc::new(Semaphore::new(slots_max));
        let acceptor = Acceptor {
            shards: shards.clone(),
            connections: (0..shards.count()).map(|_| AtomicUsize::new(0)).collect(),
            shared: Arc::new(Shared { router, settings, phase: receiver, measures: Measures::new() }),
            slots: Arc::clone(&slots),
        };
        let acceptor = Arc::new(acceptor);
        for shard in 0..shards.count() {
            let listening = Arc::clone(&slots).try_acquire_owned().ok();
            let listener = listener.try_clone().map_err(refused)?;
            let acceptor = Arc::clone(&acceptor);
            // The task ends with the gateway; its result is of no interest.
            drop(shards.spawn(shard, move || acceptor.accept(shard, listener, listening)));
        }
        Ok(Self { address, phase, slots, slots_max: u32::try_from(slots_max).unwrap_or(u32::MAX) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets the requests under way finish, and cuts what is left at the deadline.
    pub async fn drain(self, deadline: Duration) -> Drained {
        self.phase.send_replace(Phase::Draining);
        let all = self.slots.acquire_many(self.slots_max);
        let complete = tokio::time::timeout(deadline, all).await.is_ok();
        self.phase.send_replace(Phase::Cut);
        Drained { complete }
    }
}

pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted node takes its port again at once, although old connections are still being forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

struct Acceptor {
    shards: Shards,
    /// Open connections of each shard.
    connections: Box<[AtomicUsize]>,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
}

impl Acceptor {
    /// One shard's acceptor; ends when the gateway drains. Parameters are dropped after locals: the listener is closed by
    /// the time that the slot is free.
    async fn accept(self: Arc<Self>, shard: usize, listener: TcpListener, _listening: Option<OwnedSemaphorePermit>) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, shard, "a shard cannot accept connections; the others do");
                return;
            }
        };
        let mut phase = self.shared.phase.clone();
        loop {
            let next = async {
                let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
                Some((listener.accept().await, slot))
            };
            tokio::select! {
                accepted = next => match accepted {
                    Some((Ok((stream, _)), slot)) => self.place(shard, stream, slot),
                    Some((Err(error), _)) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                    None => return,
                },
                _ = phase.wait_for(|phase| *phase != Phase::Open) => return,
            }
        }
    }

    /// Serves a connection here, or on the shard that has the fewest.
    fn place(self: &Arc<Self>, here: usize, stream: TcpStream, slot: OwnedSemaphorePermit) {
        // Answers are written whole; waiting to fill a packet would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it began");
            return;
        }
        let load = |shard: usize| self.connections.get(shard).map_or(usize::MAX, |count| count.load(Ordering::Relaxed));
        let least = (0..self.connections.len()).min_by_key(|shard| (load(*shard), *shard != here)).unwrap_or(here);
        let held = Held::new(Arc::clone(self), least, slot);
        if least == here {
            tokio::task::spawn_local(held.serve(stream));
            return;
        }
        match stream.into_std() {
            // If that shard takes no more tasks, the connection closes: the node is far beyond what it can serve.
            Ok(stream) => drop(self.shards.spawn(least, move || async move {
                match TcpStream::from_std(stream) {
                    Ok(stream) => held.serve(stream).await,
                    Err(error) => tracing::warn!(%error, "a connection could not be handed to another shard"),
                }
            })),
            Err(error) => tracing::warn!(%error, "a connection could not be handed to another shard"),
        }
    }
}

/// A connection's place, and its share of a shard's load.
struct Held {
    acceptor: Arc<Acceptor>,
    shard: usize,
    _slot: OwnedSemaphorePermit,
}

impl Held {
    fn new(acceptor: Arc<Acceptor>, shard: usize, slot: OwnedSemaphorePermit) -> Self {
        if let Some(count) = acceptor.connections.get(shard) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self { acceptor, shard, _slot: slot }
    }

    async fn serve(self, stream: TcpStream) {
        serve(stream, Arc::clone(&self.acceptor.shared)).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(count) = self.acceptor.connections.get(self.shard) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
