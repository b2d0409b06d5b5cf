// LITTORAL: this file is not of upstream.
//! Connections to a listener that are no links: told apart by the protocol that their TLS handshake asks for (ALPN), and handed to
//! whoever registered for it, with the same check of certificates behind them.
//!
//! A listener whose endpoint names a registration (`tls/127.0.0.1:7447#apart=7`) offers its protocol beside none, which is what links ask for.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::server::TlsStream;

/// The key of an endpoint's configuration that names a registration.
pub const APART: &str = "apart";

/// A connection whose handshake is done.
pub type Connection = TlsStream<TcpStream>;

#[derive(Default)]
struct Registrations {
    next: u64,
    known: BTreeMap<u64, Registered>,
}

#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) protocol: Vec<u8>,
    connections: mpsc::Sender<Connection>,
}

impl Registered {
    /// Hands a connection over if it is of this protocol; gives it back if it is a link. It is closed where too many wait already.
    pub(crate) fn take(&self, connection: Connection) -> Option<Connection> {
        if connection.get_ref().1.alpn_protocol() != Some(&self.protocol) {
            return Some(connection);
        }
        if let Err(error) = self.connections.try_send(connection) {
            tracing::debug!("A connection that is no link is closed: {error}");
        }
        None
    }
}

static REGISTRATIONS: Mutex<Registrations> = Mutex::new(Registrations { next: 0, known: BTreeMap::new() });

fn registrations() -> MutexGuard<'static, Registrations> {
    REGISTRATIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn registered(number: &str) -> Option<Registered> {
    registrations().known.get(&number.parse().ok()?).cloned()
}

/// Somebody takes connections of a protocol from listeners that are made from now on; until it is dropped.
pub struct Registration(u64);

impl Registration {
    /// Has connections of that protocol sent there.
    pub fn new(protocol: &[u8], connections: mpsc::Sender<Connection>) -> Self {
        let mut registrations = registrations();
        registrations.next += 1;
        let number = registrations.next;
        registrations.known.insert(number, Registered { protocol: protocol.to_vec(), connections });
        Self(number)
    }

    /// What an endpoint's configuration says under [`APART`].
    pub fn number(&self) -> u64 {
        self.0
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        registrations().known.remove(&self.0);
    }
}
