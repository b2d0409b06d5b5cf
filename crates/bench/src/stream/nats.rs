//! NATS JetStream with its stream in files: <https://docs.nats.io/reference/reference-protocols/nats_api_reference>.
//!
//! An acknowledgement means that the record was handed to the file system. Debian's version has no option to sync before it; it syncs
//! every two minutes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BytesMut};

use super::socket::{Socket, line_end, number};
use super::{ANSWER_BYTES, Queue};
use crate::peers;
use crate::server::{Server, free_address};

const CONNECT: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"0\"}\r\n";
const STREAM: &str = r#"{"name":"bench","subjects":["records"],"storage":"file","retention":"limits","discard":"new","max_msgs":-1,"max_bytes":-1,"num_replicas":1}"#;
const CONSUMER: &str = r#"{"stream_name":"bench","config":{"durable_name":"all","deliver_policy":"all","ack_policy":"none","replay_policy":"instant"}}"#;

pub(super) fn about() -> anyhow::Result<String> {
    Ok(format!(
        "{}, file storage, 1 replica; PUB with reply, a window pipelined; pulled in batches of {} MiB, ack none; NOT synced before it acknowledges",
        peers::version(&peers::nats_server()?)?,
        ANSWER_BYTES >> 20
    ))
}

pub(super) fn start(folder: &Path) -> anyhow::Result<Box<dyn Queue>> {
    let address = free_address()?;
    let config = folder.join("nats.conf");
    std::fs::write(
        &config,
        format!(
            "listen: \"{address}\"\njetstream {{\n  store_dir: \"{}\"\n  max_file_store: 20GB\n}}\n",
            folder.display()
        ),
    )?;
    let mut command = Command::new(peers::nats_server()?);
    command.arg("-c").arg(&config);
    let nats = Nats(Server::start(command, address, &folder.join("log"))?);
    let mut socket = nats.connect()?;
    nats.ask(&mut socket, "$JS.API.STREAM.CREATE.bench", STREAM)?;
    Ok(Box::new(nats))
}

struct Nats(Server);

impl Nats {
    fn connect(&self) -> anyhow::Result<Socket> {
        let mut socket = Socket::open(self.address())?;
        socket.send(format!("{CONNECT}SUB _INBOX.own 1\r\n").as_bytes())?;
        Ok(socket)
    }

    /// Asks the server itself for something.
    fn ask(&self, socket: &mut Socket, subject: &str, request: &str) -> anyhow::Result<()> {
        socket.send(format!("PUB {subject} _INBOX.own {}\r\n{request}\r\n", request.len()).as_bytes())?;
        let answer = String::from_utf8_lossy(message(socket)?);
        anyhow::ensure!(!answer.contains("\"error\""), "{subject} was answered {answer}");
        Ok(())
    }
}

/// The payload of the next message.
fn message(socket: &mut Socket) -> anyhow::Result<&[u8]> {
    let length = loop {
        let line = socket.line()?;
        if line.starts_with(b"MSG ") {
            break last_number(line)?;
        }
        if line.starts_with(b"PING") {
            socket.send(b"PONG\r\n")?;
        } else if !line.starts_with(b"INFO ") && !line.starts_with(b"PONG") {
            bail!("nats-server said {}", String::from_utf8_lossy(line));
        }
    };
    let payload = socket.take(length + 2)?;
    Ok(payload.get(..length).unwrap_or_default())
}

/// How long the payload is of which a line tells.
fn last_number(line: &[u8]) -> anyhow::Result<usize> {
    number(line.rsplit(|byte| *byte == b' ').next().unwrap_or_default())
}

impl Queue for Nats {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn greeting(&self, publisher: usize) -> Vec<u8> {
        format!("{CONNECT}SUB _INBOX.{publisher} 1\r\nPING\r\n").into_bytes()
    }

    fn greeted(&self, received: &mut BytesMut) -> anyhow::Result<bool> {
        while let Some(end) = line_end(received, 0) {
            let line = received.split_to(end);
            received.advance(2);
            match &line[..] {
                b"PONG" => return Ok(true),
                line if line.starts_with(b"INFO ") => {}
                line => bail!("nats-server said {}", String::from_utf8_lossy(line)),
            }
        }
        Ok(false)
    }

    fn publication(&self, publisher: usize, payload: &str, count: usize) -> Vec<u8> {
        format!("PUB records _INBOX.{publisher} {}\r\n{payload}\r\n", payload.len()).repeat(count).into_bytes()
    }

    fn acknowledged(&self, received: &mut BytesMut) -> anyhow::Result<usize> {
        acknowledgements(received)
    }

    fn consume(&self, records: usize, bytes: usize) -> anyhow::Result<()> {
        let mut socket = self.connect()?;
        self.ask(&mut socket, "$JS.API.CONSUMER.DURABLE.CREATE.bench.all", CONSUMER).context("a consumer")?;
        let batch = (ANSWER_BYTES / bytes).max(1);
        let mut missing = records;
        while missing > 0 {
            let count = batch.min(missing);
            let request = format!("{{\"batch\":{count}}}");
            let next = format!("PUB $JS.API.CONSUMER.MSG.NEXT.bench.all _INBOX.own {}\r\n{request}\r\n", request.len());
            socket.send(next.as_bytes())?;
            for _ in 0..count {
                let payload = message(&mut socket)?;
                anyhow::ensure!(payload.len() == bytes, "nats-server sent {}", String::from_utf8_lossy(payload));
            }
            missing -= count;
        }
        Ok(())
    }
}

/// How many messages say that a record is stored.
fn acknowledgements(received: &mut BytesMut) -> anyhow::Result<usize> {
    let mut acknowledged = 0;
    loop {
        let Some(end) = line_end(received, 0) else { return Ok(acknowledged) };
        let line = received.get(..end).unwrap_or_default();
        if line == b"PING" {
            // It asks after two minutes; nobody is connected for so long.
            received.advance(end + 2);
            continue;
        }
        if !line.starts_with(b"MSG ") {
            bail!("nats-server said {}", String::from_utf8_lossy(line));
        }
        let length = last_number(line)?;
        let Some(answer) = received.get(end + 2..end + 2 + length) else { return Ok(acknowledged) };
        if received.len() < end + 2 + length + 2 {
            return Ok(acknowledged);
        }
        let stored =
            answer.windows(6).any(|six| six == b"\"seq\":") && !answer.windows(7).any(|seven| seven == b"\"error\"");
        anyhow::ensure!(stored, "a publication was answered {}", String::from_utf8_lossy(answer));
        received.advance(end + 2 + length + 2);
        acknowledged += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_come() {
        let stored = b"MSG _INBOX.1 1 27\r\n{\"stream\":\"bench\", \"seq\":1}\r\nPING\r\nMSG _INBOX.1 1 27\r\n{\"stream\":\"bench\", \"seq\":2}\r\n";
        assert_eq!(super::super::tests::in_pieces(stored, acknowledgements).unwrap(), 2);
        let refused = b"MSG _INBOX.1 1 24\r\n{\"error\":{\"code\": 10077}}\r\n";
        assert!(super::super::tests::in_pieces(refused, acknowledgements).is_err());
    }
}
