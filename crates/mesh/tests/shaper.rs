//! Shaped links carry every byte in order, not too early, and not over a cut.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use littoral_mesh::shaper::{LinkShape, Shaper};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind(local()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn start(shape: LinkShape) -> (Shaper, TcpStream) {
    let shaper = Shaper::start(local(), echo().await, shape, 7).await.unwrap();
    let stream = TcpStream::connect(shaper.address()).await.unwrap();
    (shaper, stream)
}

async fn there_and_back(stream: &mut TcpStream, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|at| (at % 253) as u8).collect();
    let (mut from, mut to) = stream.split();
    let mut got = vec![0; bytes];
    let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut got));
    written.unwrap();
    read.unwrap();
    assert!(got == sent, "every byte, in order");
}

#[tokio::test]
async fn delay_and_bandwidth_are_kept_and_bytes_counted() {
    let shape = LinkShape { rtt: Duration::from_millis(40), bandwidth_bps: Some(8_000_000), loss: 0.0 };
    let (shaper, mut stream) = start(shape).await;
    let since = Instant::now();
    there_and_back(&mut stream, 1).await;
    assert!(since.elapsed() >= Duration::from_millis(40), "{:?}", since.elapsed());
    let since = Instant::now();
    there_and_back(&mut stream, 200_000).await;
    // 200 kB at 1 MB/s each way, the ways overlap.
    assert!(since.elapsed() >= Duration::from_millis(200 + 40), "{:?}", since.elapsed());
    assert_eq!(shaper.bytes(), (200_001, 200_001));
    shaper.set_shape(LinkShape::default());
    there_and_back(&mut stream, 3_000_000).await;
    assert_eq!(shaper.bytes(), (3_200_001, 3_200_001));
}

#[tokio::test]
async fn loss_costs_time_and_no_bytes() {
    let shape = LinkShape { rtt: Duration::from_millis(10), bandwidth_bps: Some(100_000_000), loss: 1.0 };
    let (_shaper, mut stream) = start(shape).await;
    let since = Instant::now();
    there_and_back(&mut stream, 1).await;
    assert!(since.elapsed() >= Duration::from_millis(10 + 2 * 10), "a retransmission each way: {:?}", since.elapsed());
    there_and_back(&mut stream, 100_000).await;
}

#[tokio::test]
async fn the_sender_feels_a_slow_link() {
    let listener = TcpListener::bind(local()).await.unwrap();
    let shape = LinkShape { rtt: Duration::from_millis(2), bandwidth_bps: Some(1_000_000), loss: 0.0 };
    let shaper = Shaper::start(local(), listener.local_addr().unwrap(), shape, 7).await.unwrap();
    let stream = TcpStream::connect(shaper.address()).await.unwrap();
    let mut taken = 0;
    let chunk = vec![0; 64 << 10];
    // What the kernels and the link hold, though nobody reads: bounded.
    let filled = async {
        loop {
            stream.writable().await.unwrap();
            match stream.try_write(&chunk) {
                Ok(bytes) => taken += bytes,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), filled).await;
    assert!(taken < 8 << 20, "{taken}");
}

#[tokio::test]
async fn a_cut_link_stalls_turns_away_and_goes_on() {
    let (shaper, mut stream) = start(LinkShape::default()).await;
    there_and_back(&mut stream, 1000).await;
    let before = shaper.bytes();
    shaper.cut();
    stream.write_all(b"over the cut").await.unwrap();
    // A new connection is turned away.
    let mut turned_away = TcpStream::connect(shaper.address()).await.unwrap();
    assert!(matches!(turned_away.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(shaper.bytes(), before, "nothing passes");
    shaper.heal();
    let mut got = [0; 12];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"over the cut");
    drop(shaper);
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "it ends with its link");
}
