//! Why a link cannot be made. Zenoh only tries again; a person needs the reason.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::identity::{Identity, der};

/// How long a link may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that refuses our certificate says so right after the handshake.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no link to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens, or the way there is cut.
    #[error("{endpoint} cannot be reached ({reason}); check that its node runs and that the port is open")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the system says.
        reason: String,
    },
    /// The node there belongs to another fabric.
    #[error(
        "the node at {endpoint} belongs to another fabric: its certificate was signed by another root than ours; check the address, or join its fabric with a token"
    )]
    WrongRoot {
        /// Where.
        endpoint: String,
    },
    /// The node there does not accept our certificate.
    #[error("the node at {endpoint} refuses our certificate ({reason}); join its fabric with a new token")]
    Refused {
        /// Where.
        endpoint: String,
        /// What it says.
        reason: String,
    },
    /// One of the certificates is no longer valid, or a clock is wrong.
    #[error(
        "a certificate is not valid now, as seen for {endpoint}: check this machine's clock, then join again with a new token"
    )]
    Expired {
        /// Where.
        endpoint: String,
    },
    /// Our own identity cannot be used.
    #[error("this node's identity cannot be used ({0}); join again with a new token")]
    Identity(String),
}

/// Makes a link to a mesh endpoint as far as TLS goes, and says why not.
///
/// # Errors
/// The reason.
pub async fn probe(identity: &Identity, endpoint: &str) -> Result<(), LinkError> {
    let config = client_config(identity, &identity.root_pem)?;
    let unreachable = |reason: String| LinkError::Unreachable { endpoint: endpoint.to_owned(), reason };
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint))
        .await
        .map_err(|_| unreachable("no answer".to_owned()))?
        .map_err(|error| unreachable(error.to_string()))?;
    let name = ServerName::try_from("localhost").map_err(|error| LinkError::Identity(error.to_string()))?;
    let mut stream = timeout(CONNECT_TIMEOUT, TlsConnector::from(Arc::new(config)).connect(name, stream))
        .await
        .map_err(|_| unreachable("it does not answer the TLS handshake".to_owned()))?
        .map_err(|error| explain(endpoint, &error))?;
    let mut byte = [0];
    match timeout(REFUSAL_TIMEOUT, stream.read(&mut byte)).await {
        Ok(Err(error)) => Err(explain(endpoint, &error)),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

fn explain(endpoint: &str, error: &std::io::Error) -> LinkError {
    let endpoint = endpoint.to_owned();
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => LinkError::Expired { endpoint },
        Some(rustls::Error::InvalidCertificate(_)) => LinkError::WrongRoot { endpoint },
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateExpired)) => LinkError::Expired { endpoint },
        Some(rustls::Error::AlertReceived(alert)) => LinkError::Refused { endpoint, reason: format!("{alert:?}") },
        _ => LinkError::Unreachable { endpoint, reason: error.to_string() },
    }
}

/// How to connect to any node of the fabric, or of those of it that are trusted.
pub(crate) fn client_config(identity: &Identity, trusted_pem: &str) -> Result<ClientConfig, LinkError> {
    let wrong = |error: &dyn std::fmt::Display| LinkError::Identity(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(der(trusted_pem).map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|error| wrong(&error))?;
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong(&error))?
        // Every certificate of a fabric carries `localhost`, which `probe` asks for: so any node of our root will do.
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![der(&identity.certificate_pem).map_err(|error| wrong(&error))?], key)
        .map_err(|error| wrong(&error))
}
