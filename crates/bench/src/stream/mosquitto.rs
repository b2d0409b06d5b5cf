//! Mosquitto with persistence, which is no log: a consumer that has subscribed and is away finds what was published since when it is back
//! (MQTT 3.1.1, <https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html>).
//!
//! It keeps messages in memory, writes them all to a file now and then and when it ends, and never syncs before it acknowledges.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use bytes::{Buf as _, BufMut as _, BytesMut};

use super::Queue;
use super::socket::Socket;
use crate::peers;
use crate::server::{Server, free_address};

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_AT_LEAST_ONCE: u8 = 0x32;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const TOPIC: &str = "records";
/// The most bytes that the length of a packet takes.
const LENGTH_BYTES_MAX: usize = 4;
/// How many messages are acknowledged with one write.
const ACKNOWLEDGED_AT_ONCE: usize = 64;

pub(super) fn about() -> anyhow::Result<String> {
    Ok(format!(
        "{}, persistence, without bounds; QoS 1, a window pipelined; consumed by a session that was away; kept in memory, NOT synced before it acknowledges",
        peers::mosquitto_version()?
    ))
}

pub(super) fn start(folder: &Path) -> anyhow::Result<Box<dyn Queue>> {
    let address = free_address()?;
    let config = folder.join("mosquitto.conf");
    let settings = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nmax_queued_messages 0\nmax_inflight_messages 0\nuser root\n",
        address.port(),
        folder.display()
    );
    std::fs::write(&config, settings)?;
    let mut command = Command::new(peers::mosquitto()?);
    command.arg("-c").arg(&config);
    let mosquitto = Mosquitto(Server::start(command, address, &folder.join("log"))?);
    let mut socket = mosquitto.session()?;
    let mut subscribe = BytesMut::new();
    subscribe.put_u16(1);
    put_text(&mut subscribe, TOPIC);
    subscribe.put_u8(1);
    socket.send(&packet(SUBSCRIBE, &subscribe))?;
    let (kind, _) = next(&mut socket)?;
    anyhow::ensure!(kind == SUBACK, "mosquitto answered a subscription with {kind:#x}");
    Ok(Box::new(mosquitto))
}

struct Mosquitto(Server);

impl Mosquitto {
    /// Begins the consumer's session, or takes it up again.
    fn session(&self) -> anyhow::Result<Socket> {
        let mut socket = Socket::open(self.address())?;
        socket.send(&connect("consumer", 0))?;
        let (kind, body) = next(&mut socket)?;
        anyhow::ensure!(kind == CONNACK && body.last() == Some(&0), "mosquitto refused the consumer");
        Ok(socket)
    }
}

fn put_text(packet: &mut BytesMut, text: &str) {
    packet.put_u16(text.len() as u16);
    packet.put_slice(text.as_bytes());
}

fn connect(client: &str, flags: u8) -> Vec<u8> {
    let mut body = BytesMut::new();
    put_text(&mut body, "MQTT");
    body.put_slice(&[4, flags, 0, 0]);
    put_text(&mut body, client);
    packet(CONNECT, &body)
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = body.len();
    loop {
        let digit = (length % 128) as u8;
        length /= 128;
        packet.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// The kind of the first packet, where its body begins, and how long that is; none while its head is not there.
fn head(received: &[u8]) -> anyhow::Result<Option<(u8, usize, usize)>> {
    let Some((kind, rest)) = received.split_first() else { return Ok(None) };
    let mut length = 0;
    for (place, digit) in rest.iter().take(LENGTH_BYTES_MAX).enumerate() {
        length |= usize::from(digit & 0x7f) << (7 * place);
        if digit & 0x80 == 0 {
            return Ok(Some((*kind, place + 2, length)));
        }
    }
    if rest.len() < LENGTH_BYTES_MAX { Ok(None) } else { bail!("mosquitto sent no packet") }
}

/// The next packet.
fn next(socket: &mut Socket) -> anyhow::Result<(u8, &[u8])> {
    let mut wanted = 2;
    loop {
        let received = socket.at_least(wanted)?;
        if let Some((kind, begin, length)) = head(received)? {
            let packet = socket.take(begin + length)?;
            return Ok((kind, packet.get(begin..).unwrap_or_default()));
        }
        wanted = received.len() + 1;
    }
}

impl Queue for Mosquitto {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn greeting(&self, publisher: usize) -> Vec<u8> {
        connect(&format!("publisher-{publisher}"), 2)
    }

    fn greeted(&self, received: &mut BytesMut) -> anyhow::Result<bool> {
        if received.len() < 4 {
            return Ok(false);
        }
        let answer = received.split_to(4);
        anyhow::ensure!(answer[..] == [CONNACK, 2, 0, 0], "mosquitto refused a publisher: {answer:?}");
        Ok(true)
    }

    fn publication(&self, _publisher: usize, payload: &str, count: usize) -> Vec<u8> {
        let one = |number: usize| {
            let mut body = BytesMut::new();
            put_text(&mut body, TOPIC);
            body.put_u16(number as u16 + 1);
            body.put_slice(payload.as_bytes());
            packet(PUBLISH_AT_LEAST_ONCE, &body)
        };
        (0..count).flat_map(one).collect()
    }

    fn acknowledged(&self, received: &mut BytesMut) -> anyhow::Result<usize> {
        acknowledgements(received)
    }

    fn consume(&self, records: usize, bytes: usize) -> anyhow::Result<()> {
        let mut socket = self.session()?;
        let mut acknowledgements = Vec::new();
        for consumed in 1..=records {
            let (kind, mut body) = next(&mut socket)?;
            anyhow::ensure!(kind & !0x08 == PUBLISH_AT_LEAST_ONCE, "mosquitto sent {kind:#x}");
            body.advance(2 + TOPIC.len());
            let number = body.try_get_u16().context("a message without a number")?;
            anyhow::ensure!(body.len() == bytes, "a message of {} bytes came", body.len());
            acknowledgements.extend_from_slice(&packet(PUBACK, &number.to_be_bytes()));
            if consumed % ACKNOWLEDGED_AT_ONCE == 0 || consumed == records {
                socket.send(&acknowledgements)?;
                acknowledgements.clear();
            }
        }
        Ok(())
    }
}

/// How many messages are acknowledged, in whatever order.
fn acknowledgements(received: &mut BytesMut) -> anyhow::Result<usize> {
    let mut acknowledged = 0;
    while received.len() >= 4 {
        anyhow::ensure!(received.starts_with(&[PUBACK, 2]), "mosquitto sent {:?}", received.get(..4));
        received.advance(4);
        acknowledged += 1;
    }
    Ok(acknowledged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_are_counted_however_they_come() {
        assert_eq!(super::super::tests::in_pieces(&[PUBACK, 2, 0, 1, PUBACK, 2, 0, 2], acknowledgements).unwrap(), 2);
        assert!(super::super::tests::in_pieces(&[0xe0, 0, 0, 0], acknowledgements).is_err());
    }

    #[test]
    fn lengths_of_packets_are_read() {
        for length in [0, 127, 128, 16_383, 300_000] {
            let packet = packet(PUBLISH_AT_LEAST_ONCE, &vec![0; length]);
            let begin = packet.len() - length;
            assert_eq!(head(&packet).unwrap(), Some((PUBLISH_AT_LEAST_ONCE, begin, length)));
            assert_eq!(head(&packet[..begin - 1]).unwrap(), None);
        }
        assert!(head(&[PUBACK, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
