//! Redis Streams, with the file synced before each answer: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::bail;
use bytes::{Buf as _, BytesMut};

use super::socket::{Socket, line_end, number};
use super::{ANSWER_BYTES, Queue};
use crate::peers;
use crate::server::{Server, free_address};

/// No snapshots and no rewriting of the file, which would only take time here.
const SETTINGS: &[&str] =
    &["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0", "--save", ""];

pub(super) fn about() -> anyhow::Result<String> {
    Ok(format!(
        "{} {}; XADD, a window pipelined; XREAD COUNT of {} MiB",
        peers::version(&peers::redis_server()?)?,
        SETTINGS.join(" "),
        ANSWER_BYTES >> 20
    ))
}

pub(super) fn start(folder: &Path) -> anyhow::Result<Box<dyn Queue>> {
    let address = free_address()?;
    let mut command = Command::new(peers::redis_server()?);
    command.arg("--dir").arg(folder).args(SETTINGS).args(["--bind", "127.0.0.1", "--daemonize", "no"]);
    command.args(["--port", &address.port().to_string()]);
    Ok(Box::new(Redis(Server::start(command, address, &folder.join("log"))?)))
}

struct Redis(Server);

/// A command as Redis takes it.
fn command(words: &[&str]) -> String {
    let head = format!("*{}\r\n", words.len());
    words.iter().fold(head, |command, word| command + &format!("${}\r\n{word}\r\n", word.len()))
}

impl Queue for Redis {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn greeting(&self, _publisher: usize) -> Vec<u8> {
        Vec::new()
    }

    fn greeted(&self, _received: &mut BytesMut) -> anyhow::Result<bool> {
        Ok(true)
    }

    fn publication(&self, _publisher: usize, payload: &str, count: usize) -> Vec<u8> {
        command(&["XADD", "records", "*", "value", payload]).repeat(count).into_bytes()
    }

    fn acknowledged(&self, received: &mut BytesMut) -> anyhow::Result<usize> {
        acknowledgements(received)
    }

    fn consume(&self, records: usize, bytes: usize) -> anyhow::Result<()> {
        let mut socket = Socket::open(self.address())?;
        let count = (ANSWER_BYTES / bytes).max(1).to_string();
        let (mut last, mut consumed) = ("0".to_owned(), 0);
        while consumed < records {
            socket.send(command(&["XREAD", "COUNT", &count, "STREAMS", "records", &last]).as_bytes())?;
            // One stream: its name, and its entries.
            length(&mut socket, b'*')?;
            length(&mut socket, b'*')?;
            text(&mut socket)?;
            let entries = length(&mut socket, b'*')?;
            for entry in 0..entries {
                length(&mut socket, b'*')?;
                let id = text(&mut socket)?;
                if entry + 1 == entries {
                    last = String::from_utf8(id.to_vec())?;
                }
                length(&mut socket, b'*')?;
                text(&mut socket)?;
                let value = text(&mut socket)?.len();
                anyhow::ensure!(value == bytes, "a value of {value} bytes came");
            }
            consumed += entries;
        }
        anyhow::ensure!(consumed == records, "{consumed} records came instead of {records}");
        Ok(())
    }
}

/// How long what follows is, which is of that kind.
fn length(socket: &mut Socket, kind: u8) -> anyhow::Result<usize> {
    let line = socket.line()?;
    match line.split_first() {
        Some((first, length)) if *first == kind => number(length),
        _ => bail!("redis answered {}", String::from_utf8_lossy(line)),
    }
}

fn text(socket: &mut Socket) -> anyhow::Result<&[u8]> {
    let length = length(socket, b'$')?;
    let text = socket.take(length + 2)?;
    Ok(text.get(..length).unwrap_or_default())
}

/// How many entries were given an id: its length, and itself.
fn acknowledgements(received: &mut BytesMut) -> anyhow::Result<usize> {
    let mut acknowledged = 0;
    loop {
        let Some(first) = line_end(received, 0) else { return Ok(acknowledged) };
        if received.first() != Some(&b'$') {
            bail!("redis answered {}", String::from_utf8_lossy(received.get(..first).unwrap_or_default()));
        }
        let Some(second) = line_end(received, first + 2) else { return Ok(acknowledged) };
        received.advance(second + 2);
        acknowledged += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_counted_however_they_come() {
        let counted =
            super::super::tests::in_pieces(b"$15\r\n1700000000000-0\r\n$15\r\n1700000000000-1\r\n", acknowledgements);
        assert_eq!(counted.unwrap(), 2);
        assert!(super::super::tests::in_pieces(b"-ERR unknown command\r\n", acknowledgements).is_err());
    }
}
