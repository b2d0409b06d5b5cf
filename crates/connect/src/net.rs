//! Connections to hosts that are granted, and TLS over them.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use littoral_model::grant::Peer;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::{Machine, Trouble};

/// A connection, whatever is around it.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Connects to a host, if it is granted, by one of its addresses.
pub(crate) async fn dial(
    machine: &dyn Machine,
    grants: &[Peer],
    host: &str,
    port: u16,
    deadline: Instant,
) -> Result<TcpStream, Trouble> {
    let addresses = machine.addresses(grants, host, port).await?;
    let stream = first_of(&addresses, deadline).await?;
    stream.set_nodelay(true).map_err(|error| Trouble(error.to_string()))?;
    Ok(stream)
}

/// Connects to one of these addresses. Each has its share of the time that is left, so that one that says nothing leaves some to the
/// others.
async fn first_of(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Trouble> {
    let mut last = "its name leads nowhere".to_owned();
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let share = deadline.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        last = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => format!("{address}: {error}"),
            Err(_) => format!("{address}: no answer"),
        };
    }
    Err(Trouble(last))
}

/// Encrypts a connection to that host.
pub(crate) async fn secured(
    stream: TcpStream,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<Box<dyn Duplex>, Trouble> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Trouble(error.to_string()))?;
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
    Ok(Box::new(stream.map_err(|error| Trouble(error.to_string()))?))
}

/// For servers that Mozilla's list of authorities vouches for.
pub(crate) fn public_tls() -> Result<Arc<ClientConfig>, Trouble> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, Trouble>> = OnceLock::new();
    CONFIG.get_or_init(|| tls(None, None)).clone()
}

/// For servers that `ca` vouches for, or Mozilla's list of authorities; shows a certificate with its key, if there is one. All are PEM.
pub(crate) fn tls(ca: Option<&str>, identity: Option<(&str, &str)>) -> Result<Arc<ClientConfig>, Trouble> {
    let roots = match ca {
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("ca", ca)? {
                roots.add(certificate).map_err(|error| Trouble::of("`ca` is no authority", error))?;
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Trouble::of("TLS cannot be set up", error))?.with_root_certificates(roots);
    let Some((certificate, key)) = identity else { return Ok(Arc::new(builder.with_no_client_auth())) };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| Trouble::of("`key` is no key", error))?;
    let config = builder.with_client_auth_cert(certificates("certificate", certificate)?, key);
    Ok(Arc::new(config.map_err(|error| Trouble::of("`certificate` cannot be shown", error))?))
}

fn certificates(name: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, Trouble> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(read) if read.is_empty() => Err(Trouble(format!("`{name}` has no certificate; give it as PEM"))),
        Ok(read) => Ok(read),
        Err(error) => Err(Trouble::of(format!("`{name}` is no certificate"), error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_says_nothing_leaves_time_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = socket.listen(0).unwrap();
        // Once its queue is full, nobody gets an answer.
        let mut queue = Vec::new();
        let brief = Duration::from_secs(1);
        while let Ok(queued) = timeout(brief, TcpStream::connect(silent.local_addr().unwrap())).await {
            queue.push(queued.unwrap());
        }
        let addresses = [silent.local_addr().unwrap(), listener.local_addr().unwrap()];
        let stream = first_of(&addresses, Instant::now() + Duration::from_secs(3_600)).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        assert!(tls(Some("no"), None).unwrap_err().0.contains("`ca` has no certificate"));
        assert!(tls(None, Some(("", "no"))).unwrap_err().0.contains("`key` is no key"));
        public_tls().unwrap();
    }
}
