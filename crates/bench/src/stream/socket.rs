//! A connection that is read in large pieces, for consumers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;

/// How much is read at once, at least, unless only heads are read through the buffer.
const READ_BYTES: usize = 1 << 20;
/// How much then.
const HEAD_BYTES: usize = 1 << 10;
/// How long a server may be silent.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection, and what was read from it and not yet taken.
pub(super) struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    begin: usize,
    end: usize,
    /// How much is read at once, at least.
    read_bytes: usize,
}

impl Socket {
    pub(super) fn open(address: SocketAddr) -> anyhow::Result<Self> {
        Self::with_buffer(address, READ_BYTES)
    }

    /// One whose buffer is for heads only: what follows is read to where it belongs ([`fill`](Socket::fill)).
    pub(super) fn for_bodies(address: SocketAddr) -> anyhow::Result<Self> {
        Self::with_buffer(address, HEAD_BYTES)
    }

    fn with_buffer(address: SocketAddr, read_bytes: usize) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, buffer: vec![0; 4 * read_bytes], begin: 0, end: 0, read_bytes })
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Waits until so many bytes are there; all that are.
    pub(super) fn at_least(&mut self, count: usize) -> anyhow::Result<&[u8]> {
        if self.begin + count.max(self.read_bytes) > self.buffer.len() {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
            self.buffer.resize(self.buffer.len().max(count + self.read_bytes), 0);
        }
        while self.end - self.begin < count {
            let read = self.stream.read(self.buffer.get_mut(self.end..).unwrap_or_default());
            let read = read.context("the server is silent")?;
            anyhow::ensure!(read > 0, "the server closed the connection");
            self.end += read;
        }
        Ok(self.buffer.get(self.begin..self.end).unwrap_or_default())
    }

    /// Waits for so many bytes and takes them.
    pub(super) fn take(&mut self, count: usize) -> anyhow::Result<&[u8]> {
        self.at_least(count)?;
        let from = self.begin;
        self.begin += count;
        Ok(self.buffer.get(from..self.begin).unwrap_or_default())
    }

    /// Fills `into` with what comes next.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> anyhow::Result<()> {
        let there = into.len().min(self.end - self.begin);
        let (head, rest) = into.split_at_mut(there);
        head.copy_from_slice(self.take(there)?);
        self.stream.read_exact(rest).context("the server is silent or has closed the connection")
    }

    /// Takes the next line, without its end.
    pub(super) fn line(&mut self) -> anyhow::Result<&[u8]> {
        let (mut from, mut wanted) = (0, 2);
        let length = loop {
            let received = self.at_least(wanted)?;
            if let Some(at) = line_end(received, from) {
                break at;
            }
            // What was looked at is not looked at again, but for half of an end.
            (from, wanted) = (received.len() - 1, received.len() + 1);
        };
        let line = self.take(length + 2)?;
        Ok(line.get(..length).unwrap_or_default())
    }
}

/// Where the first line ends that is not over before `from`.
pub(super) fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(2).position(|two| two == b"\r\n").map(|at| from + at)
}

/// A number in digits.
pub(super) fn number(digits: &[u8]) -> anyhow::Result<usize> {
    let text = std::str::from_utf8(digits)?;
    text.trim().parse().with_context(|| format!("{text} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_pieces_is_put_together() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = Socket::open(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let large = vec![b'x'; 5 * READ_BYTES];
        let sender = std::thread::spawn({
            let large = large.clone();
            move || {
                for piece in [&b"a li"[..], b"ne\r", b"\nrest", &large, b"\r\nend\r\n"] {
                    server.write_all(piece).unwrap();
                    server.flush().unwrap();
                }
            }
        });
        assert_eq!(socket.line().unwrap(), b"a line");
        assert_eq!(socket.take(4).unwrap(), b"rest");
        assert_eq!(socket.take(large.len()).unwrap(), large);
        assert_eq!(socket.line().unwrap(), b"");
        assert_eq!(socket.line().unwrap(), b"end");
        sender.join().unwrap();
        assert!(socket.line().is_err());
    }

    #[test]
    fn a_body_is_read_to_where_it_belongs() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = Socket::for_bodies(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let large = vec![b'x'; 5 * HEAD_BYTES];
        server.write_all(&[b"head\r\n", large.as_slice(), b"next\r\n"].concat()).unwrap();
        assert_eq!(socket.line().unwrap(), b"head");
        let mut body = vec![0; large.len()];
        socket.fill(&mut body).unwrap();
        assert!(body == large);
        assert_eq!(socket.line().unwrap(), b"next");
        drop(server);
        assert!(socket.fill(&mut body).is_err());
    }
}
