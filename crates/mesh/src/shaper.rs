//! A link with the delay, bandwidth and loss of one's choice, for `dev` and tests.
//!
//! It is a TCP proxy that real traffic of real processes passes through. Each direction of the link is a pipe: chunks
//! leave it in order, no faster than its bandwidth and half a round trip late. What is in flight is bounded by the
//! bandwidth-delay product and a little, then the proxy stops reading, so that TCP's own back-pressure reaches the sender.
//! TCP hides loss, so a lost segment costs what it costs TCP: a retransmission's delay and a lower rate for a while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::sync::{Lock, lock};

/// Bytes read at once: small against a bandwidth-delay product, so that shares of the link interleave.
const CHUNK_BYTES: usize = 16 << 10;
/// What may wait in a pipe beyond the bandwidth-delay product, as in a router with small buffers.
const QUEUE_BYTES: usize = 32 << 10;
/// What may wait in a pipe of unlimited bandwidth.
const UNLIMITED_BYTES: usize = 4 << 20;
/// Chunks in a pipe; the bound on bytes is met first unless they are tiny.
const CHUNKS_MAX: usize = 4096;
/// Socket buffers of the proxy: kernels would hide megabytes of queue from the sender.
const SOCKET_BYTES: u32 = 64 << 10;
/// A TCP segment on most links; losses are drawn per segment.
const SEGMENT_BYTES: usize = 1460;
/// Connections over a cut link are given up after this, as systems do in the end.
const STALL_MAX: Duration = Duration::from_secs(15);
/// How many connections a link carries at once.
const CONNECTIONS_MAX: usize = 1024;

/// The properties of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkShape {
    /// Round-trip time that the link adds.
    pub rtt: Duration,
    /// Bits per second in each direction; none for no limit.
    pub bandwidth_bps: Option<u64>,
    /// Share of segments lost, 0 to 1.
    pub loss: f64,
}

/// A shaped link in front of a target; it ends when dropped.
#[derive(Debug)]
pub struct Shaper {
    address: SocketAddr,
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    shape: Lock<LinkShape>,
    cut: watch::Sender<bool>,
    up: Pipe,
    down: Pipe,
    connections: AtomicUsize,
    cancel: CancellationToken,
}

/// One direction.
#[derive(Debug)]
struct Pipe {
    /// When it is done with what it has been given.
    free: Lock<Instant>,
    random: Lock<StdRng>,
    bytes: AtomicU64,
}

impl Pipe {
    fn new(seed: u64) -> Self {
        Self {
            free: Lock::new(Instant::now()),
            random: Lock::new(StdRng::seed_from_u64(seed)),
            bytes: AtomicU64::new(0),
        }
    }

    /// Takes a chunk onto the link; when its last byte comes out at the other end.
    fn take(&self, bytes: usize, shape: LinkShape) -> Instant {
        let mut sending = shape.bandwidth_bps.map_or(Duration::ZERO, |bps| {
            Duration::from_nanos(
                u64::try_from(bytes as u128 * 8_000_000_000 / u128::from(bps.max(1))).unwrap_or(u64::MAX),
            )
        });
        let mut late = shape.rtt / 2;
        let segments = i32::try_from(bytes.div_ceil(SEGMENT_BYTES)).unwrap_or(i32::MAX);
        let lost = 1.0 - (1.0 - shape.loss.clamp(0.0, 1.0)).powi(segments);
        if lost > 0.0 && lock(&self.random).random_bool(lost) {
            // The retransmission comes a round trip later, and the sender has halved its rate.
            late += shape.rtt;
            sending *= 2;
        }
        let mut free = lock(&self.free);
        *free = (*free).max(Instant::now()) + sending;
        *free + late
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        self.link.cancel.cancel();
    }
}

impl Shaper {
    /// Starts a link that listens on `listen` (port 0 for one of the kernel's choice) and leads to `target`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(listen: SocketAddr, target: SocketAddr, shape: LinkShape, seed: u64) -> std::io::Result<Self> {
        let socket = socket_for(listen)?;
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        let listener = socket.listen(128)?;
        let address = listener.local_addr()?;
        let link = Arc::new(Link {
            shape: Lock::new(shape),
            cut: watch::Sender::new(false),
            up: Pipe::new(seed),
            down: Pipe::new(seed.wrapping_add(1)),
            connections: AtomicUsize::new(0),
            cancel: CancellationToken::new(),
        });
        tokio::spawn(accept(listener, target, Arc::clone(&link)));
        Ok(Self { address, link })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the link for what enters it from now on.
    pub fn set_shape(&self, shape: LinkShape) {
        *lock(&self.link.shape) = shape;
    }

    /// Nothing passes any more: connections stall and are given up in the end, new ones are turned away.
    pub fn cut(&self) {
        self.link.cut.send_replace(true);
    }

    /// Ends a cut; connections that were not given up go on.
    pub fn heal(&self) {
        self.link.cut.send_replace(false);
    }

    /// Bytes that have passed: from the connecting side to the target, and back.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.link.up.bytes.load(Ordering::Relaxed), self.link.down.bytes.load(Ordering::Relaxed))
    }
}

fn socket_for(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Accepted connections inherit these.
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.set_recv_buffer_size(SOCKET_BYTES)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, target: SocketAddr, link: Arc<Link>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = link.cancel.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        if *link.cut.borrow() || link.connections.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            continue;
        }
        link.connections.fetch_add(1, Ordering::Relaxed);
        let link = Arc::clone(&link);
        tokio::spawn(async move {
            if let Err(error) = connection(stream, target, &link).await {
                tracing::debug!(%target, %error, "a shaped connection ended");
            }
            link.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn connection(near: TcpStream, target: SocketAddr, link: &Arc<Link>) -> std::io::Result<()> {
    let far = socket_for(target)?.connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut cut = link.cut.subscribe();
    let stalled = async {
        loop {
            if cut.wait_for(|cut| *cut).await.is_err() {
                return;
            }
            let healed = tokio::time::timeout(STALL_MAX, cut.wait_for(|cut| !*cut)).await;
            if healed.is_err() {
                return;
            }
        }
    };
    let both = async {
        tokio::try_join!(direct(near_read, far_write, link, &link.up), direct(far_read, near_write, link, &link.down))
    };
    tokio::select! {
        done = both => done.map(drop),
        () = stalled => Ok(()),
        () = link.cancel.cancelled() => Ok(()),
    }
}

/// What is in a pipe from one connection.
struct Held {
    bytes: AtomicUsize,
    less: Notify,
}

async fn direct(from: OwnedReadHalf, to: OwnedWriteHalf, link: &Link, pipe: &Pipe) -> std::io::Result<()> {
    let held = Held { bytes: AtomicUsize::new(0), less: Notify::new() };
    let (enter, leave) = mpsc::channel(CHUNKS_MAX);
    tokio::try_join!(put_in(from, enter, link, pipe, &held), take_out(to, leave, link, pipe, &held)).map(drop)
}

async fn put_in(
    mut from: OwnedReadHalf,
    enter: mpsc::Sender<(Instant, Vec<u8>)>,
    link: &Link,
    pipe: &Pipe,
    held: &Held,
) -> std::io::Result<()> {
    let mut last = Instant::now();
    let mut cut = link.cut.subscribe();
    loop {
        let mut shape = *lock(&link.shape);
        while held.bytes.load(Ordering::Acquire) >= capacity(shape) {
            held.less.notified().await;
            shape = *lock(&link.shape);
        }
        if cut.wait_for(|cut| !*cut).await.is_err() {
            return Ok(());
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        let bytes = from.read(&mut chunk).await?;
        if bytes == 0 {
            return Ok(());
        }
        chunk.truncate(bytes);
        let shape = *lock(&link.shape);
        // Never before what went in earlier, whatever the shape has become.
        last = pipe.take(bytes, shape).max(last);
        held.bytes.fetch_add(bytes, Ordering::AcqRel);
        if enter.send((last, chunk)).await.is_err() {
            return Ok(());
        }
    }
}

async fn take_out(
    mut to: OwnedWriteHalf,
    mut leave: mpsc::Receiver<(Instant, Vec<u8>)>,
    link: &Link,
    pipe: &Pipe,
    held: &Held,
) -> std::io::Result<()> {
    let mut cut = link.cut.subscribe();
    while let Some((at, chunk)) = leave.recv().await {
        if at > Instant::now() {
            sleep_until(at).await;
        }
        if cut.wait_for(|cut| !*cut).await.is_err() {
            return Ok(());
        }
        to.write_all(&chunk).await?;
        pipe.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        held.bytes.fetch_sub(chunk.len(), Ordering::AcqRel);
        held.less.notify_one();
    }
    to.shutdown().await
}

/// How much a pipe holds.
fn capacity(shape: LinkShape) -> usize {
    shape.bandwidth_bps.map_or(UNLIMITED_BYTES, |bps| {
        let product = u128::from(bps) * shape.rtt.as_micros() / 8_000_000;
        usize::try_from(product).unwrap_or(UNLIMITED_BYTES).min(UNLIMITED_BYTES) + QUEUE_BYTES
    })
}
