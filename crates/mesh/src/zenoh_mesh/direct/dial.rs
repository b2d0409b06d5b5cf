//! Making lines, and taking those that others make.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Connection};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use zenoh_link_tls::apart::{self, Registration};

use super::Direct;
use super::frame::PROTOCOL;
use crate::identity::{Identity, Subject, subject_of};
use crate::probe::{LinkError, client_config};

/// How many lines are dialled for an endpoint, at most: one for each thread here, so that an answer is read where it is awaited.
const LINES_PER_ENDPOINT_MAX: usize = 4;
/// How long a line may take to come about.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Pauses between attempts.
const DIAL_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long a node that knows no direct lines is not asked again unless its link is lost: to it, each attempt is a link that it loses at once.
const OLDER_PAUSE: Duration = Duration::from_secs(300);
/// How many connections may wait to be taken up.
const ACCEPTED_MAX: usize = 64;
/// Room for a payload of some hundred kilobytes, so that who sends it need not be woken for each piece.
const SOCKET_BYTES: usize = 256 << 10;
/// What was sent and is not acknowledged for so long is lost with its line; its requests go by the other way then.
const UNACKNOWLEDGED_MS_MAX: u32 = 10_000;
/// A silent line is looked after so often, for routers on the way forget silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A connection whose handshake is done, and whom it is with.
pub(super) struct Connected {
    pub(super) socket: TcpStream,
    pub(super) tls: Connection,
    pub(super) peer: Subject,
}

/// Connections to this node's listeners that are direct lines.
pub(in super::super) struct Listening {
    registration: Registration,
    connections: mpsc::Receiver<apart::Connection>,
}

/// Has listeners that are made from now on hand over what is a direct line.
pub(in super::super) fn listen() -> Listening {
    let (sender, connections) = mpsc::channel(ACCEPTED_MAX);
    Listening { registration: Registration::new(PROTOCOL, sender), connections }
}

impl Listening {
    /// What the configuration of a listener's endpoint says of it.
    pub(in super::super) fn setting(&self) -> String {
        format!("{}={}", apart::APART, self.registration.number())
    }
}

/// Takes the lines that others make.
pub(in super::super) async fn accept(direct: Arc<Direct>, mut listening: Listening) {
    loop {
        let connection = tokio::select! {
            connection = listening.connections.recv() => connection,
            () = direct.cancel.cancelled() => return,
        };
        let Some(connection) = connection else { return };
        let direct = Arc::clone(&direct);
        tokio::spawn(async move {
            let (socket, tls) = connection.into_inner();
            let served = match connected(&direct.fabric, socket, tls.into()) {
                Ok(connected) => direct.serve(connected, None).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::debug!(error, "a direct line is not taken");
            }
        });
    }
}

/// How lines are dialled: with the certificate and the trust of a link.
pub(in super::super) fn tls_config(identity: &Identity, trusted_pem: &str) -> Result<Arc<ClientConfig>, LinkError> {
    let mut config = client_config(identity, trusted_pem)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // All nodes have the name that is asked for: what one gave is of no use to the next.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Keeps the lines to an endpoint for as long as there is a link.
pub(in super::super) fn lines_of(
    direct: &Arc<Direct>,
    config: &Arc<ClientConfig>,
    endpoint: &str,
    is_device: bool,
    is_linked: &watch::Receiver<bool>,
) {
    let lines = if is_device { 1 } else { direct.threads.count().clamp(1, LINES_PER_ENDPOINT_MAX) };
    for thread in 0..lines {
        let dial = Dial {
            direct: Arc::clone(direct),
            config: Arc::clone(config),
            endpoint: endpoint.to_owned(),
            thread,
            is_linked: is_linked.clone(),
        };
        tokio::spawn(async move {
            let cancel = dial.direct.cancel.clone();
            tokio::select! {
                () = dial.keep() => {}
                () = cancel.cancelled() => {}
            }
        });
    }
}

/// One line to an endpoint.
struct Dial {
    direct: Arc<Direct>,
    config: Arc<ClientConfig>,
    endpoint: String,
    thread: usize,
    is_linked: watch::Receiver<bool>,
}

impl Dial {
    async fn keep(mut self) {
        let mut pause = DIAL_PAUSE.0;
        loop {
            if self.is_linked.wait_for(|is_linked| *is_linked).await.is_err() {
                return;
            }
            match timeout(DIAL_TIMEOUT, self.connect()).await {
                Ok(Ok(Some(connected))) => match self.direct.serve(connected, Some(self.thread)).await {
                    Ok(()) => pause = DIAL_PAUSE.0,
                    Err(error) => tracing::debug!(endpoint = self.endpoint, error, "no direct line"),
                },
                Ok(Ok(None)) => {
                    tracing::debug!(endpoint = self.endpoint, "it knows no direct lines");
                    let _ = timeout(OLDER_PAUSE, self.is_linked.wait_for(|is_linked| !*is_linked)).await;
                }
                Ok(Err(error)) => tracing::debug!(endpoint = self.endpoint, error, "no direct line"),
                Err(_) => tracing::debug!(endpoint = self.endpoint, "no direct line within {DIAL_TIMEOUT:?}"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(DIAL_PAUSE.1);
        }
    }

    /// A connection; none if the node there knows no direct lines.
    async fn connect(&self) -> Result<Option<Connected>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let socket = tokio::net::TcpStream::connect(&self.endpoint).await.map_err(|error| text(&error))?;
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES).map_err(|error| text(&error))?;
        let name = ServerName::try_from("localhost").map_err(|error| text(&error))?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, socket).await.map_err(|error| text(&error))?;
        let (socket, tls) = stream.into_inner();
        if tls.alpn_protocol() != Some(PROTOCOL) {
            return Ok(None);
        }
        connected(&self.direct.fabric, socket, tls.into()).map(Some)
    }
}

/// Makes sure of whom a connection is with.
fn connected(fabric: &str, socket: tokio::net::TcpStream, tls: Connection) -> Result<Connected, String> {
    let certificate = tls.peer_certificates().and_then(<[_]>::first).ok_or("it has no certificate")?;
    let peer = subject_of(certificate).map_err(|error| error.to_string())?;
    if peer.fabric != fabric {
        return Err(format!("{} is of the fabric {}", peer.node, peer.fabric));
    }
    let socket = socket.into_std().map_err(|error| error.to_string())?;
    tune(&socket).map_err(|error| error.to_string())?;
    Ok(Connected { socket, tls, peer })
}

fn tune(socket: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_send_buffer_size(socket, SOCKET_BYTES)?;
    sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_MS_MAX)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE / 5)?;
    sockopt::set_socket_keepalive(socket, true)
}
