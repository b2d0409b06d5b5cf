//! A connection to a broker: requests go out, each has one answer, in their order.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion as _, Request, StrBytes};
use littoral_model::manifest::{KafkaCluster, KafkaSasl};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use super::scram::Scram;
use super::{FRAME_BYTES_MAX, checked};
use crate::net::{self, Duplex};
use crate::{Machine, Trouble, said};

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// As whom brokers count the client in their quotas and logs.
const CLIENT_ID: &str = "littoral";
/// The bytes before a frame, which are its length.
const LENGTH_BYTES: usize = 4;

/// As whom brokers are talked to, with its secrets read.
pub(super) struct Client {
    tls: Option<Arc<ClientConfig>>,
    sasl: KafkaSasl,
    user: Option<(String, String)>,
}

impl Client {
    pub(super) async fn of(cluster: &KafkaCluster, machine: &dyn Machine) -> Result<Self, Trouble> {
        let mut read = [None, None, None, None];
        for (text, named) in read.iter_mut().zip([&cluster.ca, &cluster.certificate, &cluster.key, &cluster.password]) {
            if let Some(named) = named {
                *text = Some(said(machine, named).await?);
            }
        }
        let [ca, certificate, key, password] = read;
        let identity = certificate.as_deref().zip(key.as_deref());
        let tls = match (cluster.tls, &ca, identity) {
            (false, ..) => None,
            (true, None, None) => Some(net::public_tls()?),
            (true, ca, identity) => Some(net::tls(ca.as_deref(), identity)?),
        };
        Ok(Self { tls, sasl: cluster.sasl, user: cluster.user.clone().zip(password) })
    }
}

/// A broker that is connected.
pub(super) struct Link {
    name: String,
    stream: Box<dyn Duplex>,
    read: BytesMut,
    write: BytesMut,
    /// The number of the request that was sent last.
    correlation: i32,
    patience: Duration,
}

impl Link {
    /// Connects to a broker, if it is granted.
    pub(super) async fn open(
        cluster: &KafkaCluster,
        client: &Client,
        machine: &dyn Machine,
        host: &str,
        port: u16,
    ) -> Result<Self, Trouble> {
        let name = format!("{host}:{port}");
        let patience = Duration::from(cluster.timeout);
        let opening = async {
            let stream = net::dial(machine, &cluster.grants, host, port, Instant::now() + patience).await?;
            let stream: Box<dyn Duplex> = match &client.tls {
                Some(tls) => net::secured(stream, host, Arc::clone(tls)).await?,
                None => Box::new(stream),
            };
            let (read, write) = (BytesMut::new(), BytesMut::new());
            let mut link = Self { name: name.clone(), stream, read, write, correlation: 0, patience };
            if let Some((user, password)) = &client.user {
                link.authenticate(client.sasl, user, password).await?;
            }
            Ok(link)
        };
        let opened = timeout(patience, opening).await;
        let late = || Trouble(format!("no answer within {} s", patience.as_secs_f64()));
        opened.unwrap_or_else(|_| Err(late())).map_err(|trouble| Trouble::of(&name, trouble))
    }

    /// Has the user let in by SASL: PLAIN (RFC 4616) or SCRAM.
    async fn authenticate(&mut self, sasl: KafkaSasl, user: &str, password: &str) -> Result<(), Trouble> {
        let mechanism = sasl.mechanism();
        let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = self.call(&request, 1).await?;
        if answer.error_code != 0 {
            let offered: Vec<&str> = answer.mechanisms.iter().map(|mechanism| mechanism.as_str()).collect();
            return Err(Trouble(format!("it does not take SASL {mechanism}, but {}", offered.join(", "))));
        }
        let Some(scram) = Scram::of(sasl, user, format!("{:032x}", rand::random::<u128>())) else {
            return self.say(format!("\0{user}\0{password}")).await.map(|_| ());
        };
        let said = self.say(scram.first()).await?;
        let (last, proof) = scram.last(password, &said).map_err(Trouble)?;
        if proof.is_shown(&self.say(last).await?) {
            Ok(())
        } else {
            Err(Trouble("it does not show that it knows the password; is it the right broker?".to_owned()))
        }
    }

    /// A message of SASL, and what is said to it.
    async fn say(&mut self, message: String) -> Result<String, Trouble> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message));
        let answer = self.call(&request, 1).await?;
        checked("it does not let the user in", answer.error_code)?;
        Ok(String::from_utf8_lossy(&answer.auth_bytes).into_owned())
    }

    pub(super) fn trouble(&self, why: impl std::fmt::Display) -> Trouble {
        Trouble::of(&self.name, why)
    }

    /// Asks, and waits for the answer.
    pub(super) async fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, Trouble> {
        self.send(request, version)?;
        match timeout(self.patience, self.receive::<R>(version)).await {
            Ok(received) => received,
            Err(_) => Err(self.trouble(format!("no answer within {} s", self.patience.as_secs_f64()))),
        }
    }

    /// Has a request sent with the next [`receive`](Self::receive).
    pub(super) fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<(), Trouble> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut body = BytesMut::new();
        header.encode(&mut body, R::header_version(version)).map_err(|error| self.trouble(error))?;
        request.encode(&mut body, version).map_err(|error| self.trouble(error))?;
        let length = i32::try_from(body.len()).map_err(|error| self.trouble(error))?;
        self.write.put_i32(length);
        self.write.extend_from_slice(&body);
        Ok(())
    }

    /// The answer to the request that was sent last. May be dropped, and called again.
    pub(super) async fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response, Trouble> {
        let mut frame = self.frame().await?;
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version));
        let header = header.map_err(|error| self.trouble(format!("what it sends is no Kafka: {error}")))?;
        if header.correlation_id != self.correlation {
            return Err(self.trouble("it answers what was not asked"));
        }
        R::Response::decode(&mut frame, version)
            .map_err(|error| self.trouble(format!("its answer cannot be read: {error}")))
    }

    async fn frame(&mut self) -> Result<Bytes, Trouble> {
        while !self.write.is_empty() {
            if let Err(error) = self.stream.write_buf(&mut self.write).await {
                return Err(self.trouble(error));
            }
        }
        if let Err(error) = self.stream.flush().await {
            return Err(self.trouble(error));
        }
        loop {
            if let Some(length) = self.read.first_chunk::<LENGTH_BYTES>() {
                let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                if length > FRAME_BYTES_MAX {
                    return Err(self.trouble("what it sends is no Kafka, or too long; is it to be `tls = true`?"));
                }
                if self.read.len() >= LENGTH_BYTES + length {
                    self.read.advance(LENGTH_BYTES);
                    return Ok(self.read.split_to(length).freeze());
                }
            }
            self.read.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) => return Err(self.trouble("it has closed the connection")),
                Ok(_) => {}
                Err(error) => return Err(self.trouble(error)),
            }
        }
    }
}
