//! The server of `bench-container`, the same bare, in a container and as a process: HTTP/1.1 over kept connections, a thread each, with
//! nothing but the standard library. `/` is answered at once, `/cpu` after some 2 ms of computing, `/job` after some seconds, `/score/N`
//! with a network's score of N rows, for `bench-hybrid`. `rustc` links it statically.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::LazyLock;

#[path = "../dense/src/lib.rs"]
mod dense;

/// Made once, as a program does that stays.
static NETWORK: LazyLock<dense::Network> = LazyLock::new(dense::Network::made_up);

/// A chain of xorshifts of about 2 ms: a fifth of what `guests/work` does in 10 ms.
const SPIN_STEPS: u32 = 1_300_000;
/// A job, for `bench-priority`, which knows what it comes to.
const JOB_STEPS: u32 = 1_300_000_000;

fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok()).unwrap_or(8_080);
    for stream in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        let stream = stream?;
        std::thread::spawn(move || answer(stream));
    }
    Ok(())
}

/// Answers requests without bodies until the connection ends.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut buffer, mut held) = ([0; 16 << 10], 0);
    loop {
        let read = match buffer.get_mut(held..).map(|free| stream.read(free)) {
            Some(Ok(read)) if read > 0 => read,
            _ => return Ok(()),
        };
        held += read;
        while let Some(end) = buffer[..held].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let body = match &buffer[..end] {
                request if request.starts_with(b"GET /cpu") => format!("{}\n", spin(SPIN_STEPS)),
                request if request.starts_with(b"GET /job") => format!("{}\n", spin(JOB_STEPS)),
                request if request.starts_with(b"GET /score/") => format!("{}\n", NETWORK.score(rows(request))),
                _ => String::new(),
            };
            buffer.copy_within(end + 4..held, 0);
            held -= end + 4;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes())?;
        }
    }
}

/// The number behind the last slash of a request's path.
fn rows(request: &[u8]) -> u32 {
    let path = std::str::from_utf8(request).ok().and_then(|text| text.split(' ').nth(1));
    path.and_then(|path| path.rsplit('/').next()?.parse().ok()).unwrap_or(1)
}

fn spin(steps: u32) -> u32 {
    let mut state = 2_463_534_242_u32;
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
    }
    state
}
