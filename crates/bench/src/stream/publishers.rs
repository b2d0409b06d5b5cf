//! Publishers, each with a connection and a window of its own, all on one thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::BytesMut;
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use super::Queue;

/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What is published.
pub(super) struct Load {
    pub(super) publishers: usize,
    pub(super) window: usize,
    /// By all together; rounded up to whole windows of each.
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// Publishes; records a second from when all are connected to the last acknowledgement, and how many.
pub(super) fn publish(queue: &dyn Queue, load: &Load) -> anyhow::Result<(f64, usize)> {
    let payload = payload(load.bytes);
    let windows = load.records.div_ceil(load.window * load.publishers);
    let ready = Arc::new(Barrier::new(load.publishers + 1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let publishers =
            (0..load.publishers).map(|number| publisher(queue, number, load.window, windows, &payload, &ready));
        let timed = async {
            ready.wait().await;
            anyhow::Ok(Instant::now())
        };
        let all = async { tokio::try_join!(timed, try_join_all(publishers)) };
        let (begun, _) = tokio::time::timeout(TIMEOUT, all).await.context("publishing took too long")??;
        let records = windows * load.window * load.publishers;
        Ok((records as f64 / begun.elapsed().as_secs_f64(), records))
    })
}

async fn publisher(
    queue: &dyn Queue,
    number: usize,
    window: usize,
    windows: usize,
    payload: &str,
    ready: &Barrier,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(queue.address()).await?;
    stream.set_nodelay(true)?;
    let mut received = BytesMut::with_capacity(64 << 10);
    stream.write_all(&queue.greeting(number)).await?;
    while !queue.greeted(&mut received)? {
        anyhow::ensure!(stream.read_buf(&mut received).await? > 0, "the server closed the connection");
    }
    let publication = queue.publication(number, payload, window);
    ready.wait().await;
    for _ in 0..windows {
        stream.write_all(&publication).await?;
        let mut missing = window;
        while missing > 0 {
            anyhow::ensure!(stream.read_buf(&mut received).await? > 0, "the server closed the connection");
            let acknowledged = queue.acknowledged(&mut received)?;
            missing = missing.checked_sub(acknowledged).context("more was acknowledged than published")?;
        }
    }
    Ok(())
}

/// Letters and digits, the same each time, that do not repeat.
fn payload(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from_digit((state >> 32) as u32 % 36, 36).unwrap_or('0')
    };
    (0..bytes).map(|_| next()).collect()
}
