//! A connection to a broker: it is let in, packets go out and come in, and it is kept alive while somebody waits on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::Uri;
use littoral_model::manifest::{Broker, MqttVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use super::packet::{Codec, Connect, Greeting, Received, Sent, TooLarge};
use crate::net::{self, Duplex};
use crate::{Machine, Trouble, said};

/// How often the broker hears of the client at least.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How much is read at once, and how much is written together.
const READ_BYTES: usize = 64 << 10;

/// How long the broker is to keep what it knows of the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    /// It begins anew.
    pub(super) is_clean: bool,
    /// How many seconds it outlives the connection; version 5 only.
    pub(super) expiry_s: u32,
    /// How many messages may come that are not acknowledged; version 5 only.
    pub(super) window: u16,
}

/// A broker that has let the client in.
pub(super) struct Connection {
    url: String,
    stream: Box<dyn Duplex>,
    codec: Codec,
    read: BytesMut,
    write: BytesMut,
    timeout: Duration,
    keep_alive: Duration,
    /// When something was sent last.
    sent: Instant,
    pings: u64,
    pongs: u64,
    /// What the broker has said.
    pub(super) greeting: Greeting,
}

impl Connection {
    pub(super) async fn open(
        broker: &Broker,
        client: String,
        session: Session,
        machine: &Arc<dyn Machine>,
    ) -> Result<Self, Trouble> {
        let patience = Duration::from(broker.timeout);
        let opened = timeout(patience, Self::let_in(broker, client, session, machine)).await;
        let late = || Trouble(format!("no answer within {} s", patience.as_secs_f64()));
        opened.unwrap_or_else(|_| Err(late())).map_err(|trouble| Trouble::of(&broker.url, trouble))
    }

    async fn let_in(
        broker: &Broker,
        client: String,
        session: Session,
        machine: &Arc<dyn Machine>,
    ) -> Result<Self, Trouble> {
        let stream = connect(broker, machine).await?;
        let password = match &broker.password {
            Some(password) => Some(said(&**machine, password).await?),
            None => None,
        };
        let mut connection = Self {
            url: broker.url.clone(),
            stream,
            codec: Codec::new(broker.version),
            read: BytesMut::new(),
            write: BytesMut::new(),
            timeout: broker.timeout.into(),
            keep_alive: KEEP_ALIVE,
            sent: Instant::now(),
            pings: 0,
            pongs: 0,
            greeting: Greeting {
                has_session: false,
                window: 0,
                qos_max: 0,
                packet_bytes_max: None,
                keeps_retained: false,
                keep_alive_s: None,
            },
        };
        connection.say(Sent::Connect(Box::new(Connect {
            client,
            is_clean: session.is_clean,
            keep_alive_s: u16::try_from(KEEP_ALIVE.as_secs()).unwrap_or(u16::MAX),
            expiry_s: session.expiry_s,
            user: broker.user.clone(),
            password,
            window: session.window,
        })));
        match connection.receive().await? {
            Received::Connected(greeting) => {
                let bytes_max = greeting.packet_bytes_max.and_then(|max| usize::try_from(max).ok());
                connection.codec.sent_bytes_max = bytes_max.unwrap_or(usize::MAX);
                // None is a wish to hear nothing (MQTT 5.0, section 3.2.2.3.14).
                let asked = greeting.keep_alive_s.filter(|seconds| *seconds > 0);
                connection.keep_alive = asked.map_or(KEEP_ALIVE, |seconds| Duration::from_secs(seconds.into()));
                connection.greeting = greeting;
                Ok(connection)
            }
            Received::Refused(why) => {
                let help = if broker.version == MqttVersion::V5 { "; is it of `version = \"3.1.1\"`?" } else { "" };
                Err(Trouble(format!("the broker does not let the client in: {why}{help}")))
            }
            other => Err(Trouble(format!("the broker begins with {other:?}"))),
        }
    }

    pub(super) fn trouble(&self, why: impl std::fmt::Display) -> Trouble {
        Trouble::of(&self.url, why)
    }

    /// Has a packet sent with what is written next.
    pub(super) fn send(&mut self, packet: Sent) -> Result<(), TooLarge> {
        self.codec.encode(packet, &mut self.write)?;
        self.sent = Instant::now();
        Ok(())
    }

    /// As [`send`](Self::send), of a packet that every broker takes.
    pub(super) fn say(&mut self, packet: Sent) {
        if self.send(packet).is_err() {
            tracing::warn!(broker = self.url, "the broker takes no packet of a few bytes");
        }
    }

    /// Asks for a sign of life; the answer is the sign that the broker has read all that was sent before. Its number, for
    /// [`pongs`](Self::pongs).
    pub(super) fn ping(&mut self) -> u64 {
        self.say(Sent::Ping);
        self.pings += 1;
        self.pings
    }

    /// How many of these were answered.
    pub(super) fn pongs(&self) -> u64 {
        self.pongs
    }

    /// Whether much is to be written.
    pub(super) fn is_laden(&self) -> bool {
        self.write.len() >= READ_BYTES
    }

    /// Writes what is to be sent. May be dropped, and called again.
    pub(super) async fn flush(&mut self) -> Result<(), Trouble> {
        let writing = async {
            while !self.write.is_empty() {
                self.stream.write_buf(&mut self.write).await?;
            }
            self.stream.flush().await
        };
        match timeout(self.timeout, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.trouble(error)),
            Err(_) => Err(self.trouble("it reads nothing any more")),
        }
    }

    /// The next packet that is there already.
    pub(super) fn arrived(&mut self) -> Result<Option<Received>, Trouble> {
        match self.codec.decode(&mut self.read) {
            Ok(Some(Received::Disconnected(why))) => Err(self.trouble(format!("it ends the connection: {why}"))),
            Ok(Some(Received::Other(packet))) => Err(self.trouble(format!("it sends {packet}, which it may not"))),
            Ok(Some(Received::Pong)) => {
                self.pongs += 1;
                Ok(Some(Received::Pong))
            }
            Ok(packet) => Ok(packet),
            Err(error) => Err(self.trouble(format!("what it sends is no MQTT: {error}"))),
        }
    }

    /// The next packet; also writes what is to be sent, and asks for a sign of life where there was none. May be dropped, and called again.
    pub(super) async fn receive(&mut self) -> Result<Received, Trouble> {
        let mut is_asked = false;
        loop {
            if let Some(packet) = self.arrived()? {
                return Ok(packet);
            }
            let mut quiet = (self.keep_alive / 2).saturating_sub(self.sent.elapsed());
            if quiet.is_zero() {
                self.ping();
                (is_asked, quiet) = (true, self.keep_alive / 2);
            }
            self.flush().await?;
            self.read.reserve(READ_BYTES);
            let patience = if is_asked { self.timeout } else { quiet };
            match timeout(patience, self.stream.read_buf(&mut self.read)).await {
                Ok(Ok(0)) => return Err(self.trouble("it has closed the connection")),
                Ok(Ok(_)) => is_asked = false,
                Ok(Err(error)) => return Err(self.trouble(error)),
                Err(_) if is_asked => return Err(self.trouble("it says nothing any more")),
                Err(_) => {}
            }
        }
    }

    /// The next packet, which is awaited no longer than an answer may take.
    pub(super) async fn answer(&mut self) -> Result<Received, Trouble> {
        match timeout(self.timeout, self.receive()).await {
            Ok(received) => received,
            Err(_) => Err(self.trouble(format!("no answer within {} s", self.timeout.as_secs_f64()))),
        }
    }

    /// Gives signs of life, and reads nothing; ends if the broker cannot be reached any more.
    pub(super) async fn keep_alive(&mut self) -> Trouble {
        loop {
            sleep_until(self.sent + self.keep_alive / 2).await;
            self.ping();
            if let Err(trouble) = self.flush().await {
                return trouble;
            }
        }
    }
}

async fn connect(broker: &Broker, machine: &Arc<dyn Machine>) -> Result<Box<dyn Duplex>, Trouble> {
    let no_url = |why: &dyn std::fmt::Display| Trouble(format!("it is no URL: {why}"));
    let url: Uri = broker.url.parse().map_err(|error| no_url(&error))?;
    let authority = url.authority().ok_or_else(|| no_url(&"it names no host"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_secure = url.scheme_str() == Some("mqtts");
    let port = authority.port_u16().unwrap_or(if is_secure { 8883 } else { 1883 });
    let deadline = Instant::now() + Duration::from(broker.timeout);
    let stream = net::dial(&**machine, &broker.grants, host, port, deadline).await?;
    if !is_secure {
        return Ok(Box::new(stream));
    }
    let mut read = [None, None, None];
    for (pem, named) in read.iter_mut().zip([&broker.ca, &broker.certificate, &broker.key]) {
        if let Some(named) = named {
            *pem = Some(said(&**machine, named).await?);
        }
    }
    let [ca, certificate, key] = &read;
    let config = match (ca, certificate.as_deref().zip(key.as_deref())) {
        (None, None) => net::public_tls()?,
        (ca, identity) => net::tls(ca.as_deref(), identity)?,
    };
    net::secured(stream, host, config).await
}
