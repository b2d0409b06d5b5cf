//! The way into a fabric: a small service over TLS 1.3 that any node that holds the root offers.
//!
//! The joining node knows nothing but its token. It talks only to a server whose certificate was signed by the root whose
//! hash the token carries, so nobody between can read the secret or pose as the fabric. One length-prefixed message
//! goes each way.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use littoral_model::id::{NodeId, SiteId, Tier};
use littoral_model::wire::{VersionRange, WireError, decode, encode};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::identity::{Identity, IdentityError, NodeKey, Root, RootHash, der, hash, unix_now};
use crate::token::{Redemption, Refusal, Token};

/// The largest message either way: a certificate request or two certificates are a few KiB.
const JOIN_BYTES_MAX: usize = 64 << 10;
/// How long one join may take, handshake included.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many nodes may be joining at the same time; more wait.
const JOINING_MAX: usize = 32;

/// What a node asks when it joins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's number.
    pub token: String,
    /// The token's secret.
    pub secret: [u8; 32],
    /// Who it wants to be.
    pub node: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its site.
    pub site: SiteId,
    /// The protocol versions it speaks.
    pub protocol: VersionRange,
    /// Its certificate request.
    pub csr_pem: String,
}

/// What a node that is let in learns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Admission {
    /// Its certificate.
    pub certificate_pem: String,
    /// The fabric's root.
    pub root_pem: String,
    /// The fabric's name.
    pub fabric: String,
    /// How it takes its place.
    pub welcome: Welcome,
}

/// How a node that is let in takes its place in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Where to connect to the mesh, `host:port`.
    pub endpoints: Vec<String>,
    /// Whether it is the first node of its site, which makes the site's consensus group. Only who lets nodes in can
    /// tell: two nodes that start at the same time cannot.
    pub founder: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum JoinReply {
    Admitted(Box<Admission>),
    Refused(Refusal),
}

/// What the join service asks of the node that runs it.
#[async_trait]
pub trait TokenBook: Send + Sync + 'static {
    /// Uses a token for a node, see [`crate::token::TokenRecord::redeem`]; durable before it returns `Ok`. Also refuses a
    /// name that another node has.
    async fn redeem(&self, redemption: Redemption, now_unix: u64) -> Result<(), Refusal>;

    /// The place of a node that is let in; durable before it returns.
    ///
    /// # Errors
    /// [`Refusal::Failed`] when that cannot be made durable.
    async fn welcome(&self, node: &NodeId, tier: Tier, site: &SiteId) -> Result<Welcome, Refusal>;
}

/// Why a node did not get in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The fabric does not want it.
    #[error("{0}")]
    Refused(Refusal),
    /// The server was signed by another root than the token names.
    #[error(
        "{endpoint} does not belong to the fabric of this token (its root of trust differs): check the address, or make a new token with `littoral token create`"
    )]
    WrongRoot {
        /// Who was asked.
        endpoint: String,
    },
    /// None of the token's endpoints answered.
    #[error(
        "the fabric cannot be reached to join it: {0}; check that the node that made the token runs and that its port is open"
    )]
    Unreachable(String),
    /// The two programs do not understand each other.
    #[error("the fabric's answer cannot be read ({0}): upgrade the older of the two")]
    Protocol(#[from] WireError),
    /// The key or the certificate is not valid.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The join service cannot be started.
    #[error("the join service cannot start: {0}")]
    Service(String),
}

/// The join service; stops when dropped.
#[derive(Debug)]
pub struct JoinService {
    address: SocketAddr,
    cancel: CancellationToken,
}

impl Drop for JoinService {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl JoinService {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(
        listen: SocketAddr,
        root: Root,
        identity: &Identity,
        book: Arc<dyn TokenBook>,
    ) -> Result<Self, JoinError> {
        let failed = |error: &dyn std::fmt::Display| JoinError::Service(error.to_string());
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|error| failed(&error))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(&error))?
            .with_no_client_auth()
            // The root goes along, so that the joining node can compare its hash with the token's.
            .with_single_cert(vec![der(&identity.certificate_pem)?, der(&identity.root_pem)?], key)
            .map_err(|error| failed(&error))?;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| JoinError::Service(format!("it cannot listen on {listen}: {error}")))?;
        let address = listener.local_addr().map_err(|error| failed(&error))?;
        let cancel = CancellationToken::new();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(accept(listener, acceptor, Arc::new(root), book, cancel.clone()));
        Ok(Self { address, cancel })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    root: Arc<Root>,
    book: Arc<dyn TokenBook>,
    cancel: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(JOINING_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! { accepted = listener.accept() => accepted, () = cancel.cancelled() => return };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a joining node could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, root, book) = (acceptor.clone(), Arc::clone(&root), Arc::clone(&book));
        tokio::spawn(async move {
            let _place = place;
            match timeout(JOIN_TIMEOUT, serve(stream, acceptor, &root, &*book)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::info!(%from, error, "a node did not join"),
                Err(_) => tracing::info!(%from, "a node took too long to join"),
            }
        });
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, root: &Root, book: &dyn TokenBook) -> Result<(), String> {
    let mut stream = acceptor.accept(stream).await.map_err(|error| error.to_string())?;
    let bytes = read_message(&mut stream).await.map_err(|error| error.to_string())?;
    let reply = match admit(&bytes, root, book).await {
        Ok(admission) => JoinReply::Admitted(Box::new(admission)),
        Err(refusal) => {
            tracing::info!(%refusal, "a node is refused");
            JoinReply::Refused(refusal)
        }
    };
    let reply = encode(&reply).map_err(|error| error.to_string())?;
    write_message(&mut stream, &reply).await.map_err(|error| error.to_string())?;
    stream.shutdown().await.map_err(|error| error.to_string())
}

async fn admit(bytes: &[u8], root: &Root, book: &dyn TokenBook) -> Result<Admission, Refusal> {
    let ours = VersionRange::OURS;
    let protocol = Refusal::Protocol { min: ours.min, max: ours.max };
    let request: JoinRequest = decode(bytes).map_err(|error| match error {
        WireError::Version { .. } => protocol.clone(),
        other => Refusal::Invalid(other.to_string()),
    })?;
    if ours.common(request.protocol).is_none() {
        return Err(protocol);
    }
    // Signed before the token is used, so that a bad request does not use it up; handed out only after.
    let certificate_pem =
        root.issue(&request.csr_pem, &request.node).map_err(|error| Refusal::Invalid(error.to_string()))?;
    let fabric = root.fabric().map_err(|error| Refusal::Failed(error.to_string()))?;
    let redemption = Redemption {
        id: request.token,
        secret_hash: hash(&request.secret),
        node: request.node.clone(),
        csr_hash: hash(request.csr_pem.as_bytes()),
    };
    book.redeem(redemption, unix_now()).await?;
    let welcome = book.welcome(&request.node, request.tier, &request.site).await?;
    tracing::info!(node = %request.node, tier = %request.tier, site = %request.site, "a node has joined");
    Ok(Admission { certificate_pem, root_pem: root.certificate_pem().to_owned(), fabric, welcome })
}

/// Joins a fabric: makes a key, shows the token, and returns the identity and where to connect to the mesh.
///
/// # Errors
/// Says why, and what to do.
pub async fn join(
    token: &Token,
    node: &NodeId,
    tier: Tier,
    site: &SiteId,
    addresses: &[std::net::IpAddr],
) -> Result<(Identity, Admission), JoinError> {
    let key = NodeKey::create(node, addresses)?;
    let request = JoinRequest {
        token: token.id.clone(),
        secret: token.secret,
        node: node.clone(),
        tier,
        site: site.clone(),
        protocol: VersionRange::OURS,
        csr_pem: key.csr_pem().to_owned(),
    };
    let request = encode(&request)?;
    let mut last = JoinError::Unreachable("the token names no endpoint".to_owned());
    for endpoint in &token.endpoints {
        let reply = within(endpoint, exchange(endpoint, token.root_hash, &request)).await;
        match reply {
            Ok(JoinReply::Admitted(admission)) => {
                let identity = key.into_identity(admission.certificate_pem.clone(), admission.root_pem.clone())?;
                if identity.root_hash()? != token.root_hash {
                    return Err(JoinError::WrongRoot { endpoint: endpoint.clone() });
                }
                return Ok((identity, *admission));
            }
            Ok(JoinReply::Refused(refusal)) => return Err(JoinError::Refused(refusal)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn within<T>(endpoint: &str, work: impl Future<Output = Result<T, JoinError>>) -> Result<T, JoinError> {
    let late = |_| JoinError::Unreachable(format!("{endpoint} did not answer within {} s", JOIN_TIMEOUT.as_secs()));
    timeout(JOIN_TIMEOUT, work).await.map_err(late)?
}

async fn exchange(endpoint: &str, root_hash: RootHash, request: &[u8]) -> Result<JoinReply, JoinError> {
    let failed = |error: std::io::Error| {
        let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match ours {
            Some(rustls::Error::InvalidCertificate(_)) => JoinError::WrongRoot { endpoint: endpoint.to_owned() },
            _ => JoinError::Unreachable(format!("{endpoint}: {error}")),
        }
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| JoinError::Service(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedRoot { root_hash, provider: provider() }))
        .with_no_client_auth();
    let stream = TcpStream::connect(endpoint).await.map_err(failed)?;
    let name = ServerName::try_from("localhost").map_err(|error| JoinError::Service(error.to_string()))?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(failed)?;
    write_message(&mut stream, request).await.map_err(failed)?;
    let reply = read_message(&mut stream).await.map_err(failed)?;
    Ok(decode(&reply)?)
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    stream.write_u32(u32::try_from(message.len()).unwrap_or(u32::MAX)).await?;
    stream.write_all(message).await?;
    stream.flush().await
}

async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if length > JOIN_BYTES_MAX {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the message is too large"));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Accepts a server whose chain ends in the root of that hash. Which node of the fabric it is does not matter.
#[derive(Debug)]
struct PinnedRoot {
    root_hash: RootHash,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let root = intermediates.iter().find(|certificate| hash(certificate) == self.root_hash).ok_or(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            &[],
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
