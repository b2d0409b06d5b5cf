//! Both ends of remote administration: TLS 1.3 in which the node shows its identity and the administrator a credential,
//! both signed by the fabric's root.

use std::path::Path;
use std::sync::Arc;

use littoral_mesh::admin::AdminCredential;
use littoral_mesh::identity::{Identity, IdentityError};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why remote administration does not work.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The files of the credential or the identity cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate or key is not valid.
    #[error("the {what} is not valid: {reason}; copy the credentials that `littoral init` made again")]
    Invalid {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The node is not the one that is meant, or refuses the credential.
    #[error("no secure connection: {0}")]
    Handshake(std::io::Error),
}

fn invalid(what: &'static str, reason: impl ToString) -> RemoteError {
    RemoteError::Invalid { what, reason: reason.to_string() }
}

/// What a node serves its admin API with: only clients with a certificate of the fabric's root get through the
/// handshake. See [`littoral_mesh::admin::is_admin`] for which of these are administrators.
///
/// # Errors
/// When the identity is not valid.
pub fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>, RemoteError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&identity.root_pem)?, Arc::clone(&provider))
        .build()
        .map_err(|error| invalid("root certificate", error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| invalid("TLS version", error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate(&identity.certificate_pem)?], key(&identity.key_pem)?)
        .map_err(|error| invalid("node certificate", error))?;
    Ok(Arc::new(config))
}

/// Shows the credential in a folder to the node behind a connection. `server` is that node's name or an address in its
/// certificate: a fabric's nodes do not pose as one another here.
///
/// # Errors
/// When the credential cannot be read, the node is another one, or it refuses the credential.
pub async fn connect(stream: TcpStream, credentials: &Path, server: &str) -> Result<TlsStream<TcpStream>, RemoteError> {
    let credential = AdminCredential::load(credentials)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(&credential.root_pem)?, Arc::clone(&provider))
        .build()
        .map_err(|error| invalid("root certificate", error))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| invalid("TLS version", error))?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(vec![certificate(&credential.certificate_pem)?], key(&credential.key_pem)?)
        .map_err(|error| invalid("administrator's certificate", error))?;
    let server = ServerName::try_from(server.to_owned()).map_err(|error| invalid("name of the node", error))?;
    TlsConnector::from(Arc::new(config)).connect(server, stream).await.map_err(RemoteError::Handshake)
}

fn roots(root_pem: &str) -> Result<Arc<RootCertStore>, RemoteError> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(root_pem)?).map_err(|error| invalid("root certificate", error))?;
    Ok(Arc::new(roots))
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, RemoteError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| invalid("certificate", error))
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, RemoteError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| invalid("key", error))
}
