//! Who may take part: the fabric's root of trust and the certificates it signs.
//!
//! A node makes its own key and never gives it away; the root signs its request. Every certificate of a fabric carries
//! the fabric's name as common name, because Zenoh's access control compares common names exactly (see
//! [`crate::ZenohMesh`]); the node's name is the first DNS name.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use littoral_model::id::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;

/// How long a root is valid: a fabric outlives its machines.
const ROOT_LIFETIME: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How long a node's certificate is valid; its links are closed when it ends.
const NODE_LIFETIME: Duration = Duration::from_secs(2 * 365 * 86_400);
/// Certificates are valid from this long before they are made, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(86_400);
/// The most addresses in one certificate.
const ADDRESSES_MAX: usize = 16;

const ROOT_CERTIFICATE: &str = "root.crt";
const ROOT_KEY: &str = "root.key";
const NODE_CERTIFICATE: &str = "node.crt";
const NODE_KEY: &str = "node.key";

/// SHA-256 of a root certificate; what a token pins.
pub type RootHash = [u8; 32];

/// Why an identity cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("{path}: {error}; the directory must be readable and writable by the user who runs the node")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A certificate, key or request is not valid.
    #[error("the {what} is not valid: {reason}")]
    Invalid {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers; see `man 4 random`")]
    Random,
}

pub(crate) fn invalid(what: &'static str, reason: impl ToString) -> IdentityError {
    IdentityError::Invalid { what, reason: reason.to_string() }
}

/// The fabric's root of trust. Whoever holds it decides who is in the fabric.
#[derive(Clone)]
pub struct Root {
    certificate_pem: String,
    key_pem: String,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").finish_non_exhaustive()
    }
}

impl Root {
    /// Makes a root for a new fabric.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn create() -> Result<Self, IdentityError> {
        let mut random = [0u8; 6];
        SystemRandom::new().fill(&mut random).map_err(|_| IdentityError::Random)?;
        let fabric: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| IdentityError::Random)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("fabric-{fabric}"));
        set_validity(&mut params, ROOT_LIFETIME);
        let certificate = params.self_signed(&key).map_err(|error| invalid("root certificate", error))?;
        Ok(Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Reads it from a directory.
    ///
    /// # Errors
    /// When it is not there or not valid.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let root = Self { certificate_pem: read(&dir.join(ROOT_CERTIFICATE))?, key_pem: read(&dir.join(ROOT_KEY))? };
        root.issuer()?;
        Ok(root)
    }

    /// Writes it to a directory, the key readable by its owner only.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        make_dir(dir)?;
        write(&dir.join(ROOT_KEY), &self.key_pem, 0o600)?;
        write(&dir.join(ROOT_CERTIFICATE), &self.certificate_pem, 0o644)
    }

    /// The root's certificate.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// What a token pins.
    ///
    /// # Errors
    /// When the certificate is not valid.
    pub fn hash(&self) -> Result<RootHash, IdentityError> {
        root_hash(&self.certificate_pem)
    }

    /// The fabric's name.
    ///
    /// # Errors
    /// When the certificate is not valid.
    pub fn fabric(&self) -> Result<String, IdentityError> {
        fabric_of(&self.certificate_pem)
    }

    /// Signs a node's request: the certificate is for that node, whatever else the request asks for.
    ///
    /// # Errors
    /// When the request is not valid.
    pub fn issue(&self, csr_pem: &str, node: &NodeId) -> Result<String, IdentityError> {
        let csr = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|error| invalid("certificate request", error))?;
        let mut params = CertificateParams::new(vec![node.to_string(), "localhost".to_owned()])
            .map_err(|error| invalid("node name", error))?;
        // Addresses do not identify a node here (the common name does); they let other programs check them.
        let addresses = csr.params.subject_alt_names.iter().filter(|name| matches!(name, SanType::IpAddress(_)));
        params.subject_alt_names.extend(addresses.take(ADDRESSES_MAX).cloned());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.fabric()?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, NODE_LIFETIME);
        let request = CertificateSigningRequestParams { params, public_key: csr.public_key };
        let certificate = request.signed_by(&self.issuer()?).map_err(|error| invalid("certificate request", error))?;
        Ok(certificate.pem())
    }

    /// An identity for a node whose key is made here: for the first node, and for tests.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn identity(&self, node: &NodeId, addresses: &[IpAddr]) -> Result<Identity, IdentityError> {
        let key = NodeKey::create(node, addresses)?;
        let certificate_pem = self.issue(key.csr_pem(), node)?;
        key.into_identity(certificate_pem, self.certificate_pem.clone())
    }

    pub(crate) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, IdentityError> {
        let key = KeyPair::from_pem(&self.key_pem).map_err(|error| invalid("root key", error))?;
        Issuer::from_ca_cert_pem(&self.certificate_pem, key).map_err(|error| invalid("root certificate", error))
    }
}

/// A key that a node has made, and its request to have it signed.
pub struct NodeKey {
    node: NodeId,
    key_pem: String,
    csr_pem: String,
}

impl NodeKey {
    /// Makes a key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn create(node: &NodeId, addresses: &[IpAddr]) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| IdentityError::Random)?;
        let mut params = CertificateParams::new(vec![node.to_string()]).map_err(|error| invalid("node name", error))?;
        params
            .subject_alt_names
            .extend(addresses.iter().take(ADDRESSES_MAX).map(|address| SanType::IpAddress(*address)));
        let csr = params.serialize_request(&key).map_err(|error| invalid("certificate request", error))?;
        let csr_pem = csr.pem().map_err(|error| invalid("certificate request", error))?;
        Ok(Self { node: node.clone(), key_pem: key.serialize_pem(), csr_pem })
    }

    /// What the root is to sign.
    #[must_use]
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// The identity, once the root has signed.
    ///
    /// # Errors
    /// When certificate, key and root do not belong together.
    pub fn into_identity(self, certificate_pem: String, root_pem: String) -> Result<Identity, IdentityError> {
        let identity = Identity { node: self.node, certificate_pem, key_pem: self.key_pem, root_pem };
        identity.check()?;
        Ok(identity)
    }
}

/// What a node proves who it is with.
#[derive(Clone)]
pub struct Identity {
    /// Who it is.
    pub node: NodeId,
    /// Its certificate, signed by the root.
    pub certificate_pem: String,
    /// Its key (PKCS #8).
    pub key_pem: String,
    /// The root that it trusts.
    pub root_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads it from a directory.
    ///
    /// # Errors
    /// When it is not there or not valid.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let certificate_pem = read(&dir.join(NODE_CERTIFICATE))?;
        let node = node_of(&certificate_pem)?;
        let identity = Self {
            node,
            certificate_pem,
            key_pem: read(&dir.join(NODE_KEY))?,
            root_pem: read(&dir.join(ROOT_CERTIFICATE))?,
        };
        identity.check()?;
        Ok(identity)
    }

    /// Whether a directory holds one.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(NODE_CERTIFICATE).exists()
    }

    /// Writes it to a directory, the key readable by its owner only; the certificate last, as the sign that all is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        make_dir(dir)?;
        write(&dir.join(NODE_KEY), &self.key_pem, 0o600)?;
        write(&dir.join(ROOT_CERTIFICATE), &self.root_pem, 0o644)?;
        write(&dir.join(NODE_CERTIFICATE), &self.certificate_pem, 0o644)
    }

    /// The fabric's name.
    ///
    /// # Errors
    /// When the certificate is not valid.
    pub fn fabric(&self) -> Result<String, IdentityError> {
        fabric_of(&self.certificate_pem)
    }

    /// SHA-256 of the root it trusts.
    ///
    /// # Errors
    /// When the certificate is not valid.
    pub fn root_hash(&self) -> Result<RootHash, IdentityError> {
        root_hash(&self.root_pem)
    }

    /// Checks that certificate, key and root belong together.
    fn check(&self) -> Result<(), IdentityError> {
        let certificate = der(&self.certificate_pem)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|error| invalid("node certificate", error))?;
        let root = der(&self.root_pem)?;
        let (_, root) =
            x509_parser::parse_x509_certificate(&root).map_err(|error| invalid("root certificate", error))?;
        let key = KeyPair::from_pem(&self.key_pem).map_err(|error| invalid("node key", error))?;
        if parsed.public_key().subject_public_key.data.as_ref() != rcgen::PublicKeyData::der_bytes(&key) {
            return Err(invalid("node certificate", "it is for another key: join again with a new token"));
        }
        if parsed.issuer() != root.subject() || parsed.verify_signature(Some(root.public_key())).is_err() {
            return Err(invalid("node certificate", "another root signed it: join again with a new token"));
        }
        if node_of(&self.certificate_pem)? != self.node {
            return Err(invalid("node certificate", "it is for another node: join again with a new token"));
        }
        Ok(())
    }
}

/// SHA-256 of a certificate.
pub(crate) fn root_hash(certificate_pem: &str) -> Result<RootHash, IdentityError> {
    Ok(hash(&der(certificate_pem)?))
}

/// SHA-256.
pub(crate) fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

pub(crate) fn der(certificate_pem: &str) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|error| invalid("certificate", error))
}

pub(crate) fn fabric_of(certificate_pem: &str) -> Result<String, IdentityError> {
    let der = der(certificate_pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| invalid("certificate", error))?;
    fabric_in(&parsed)
}

fn node_of(certificate_pem: &str) -> Result<NodeId, IdentityError> {
    let der = der(certificate_pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|error| invalid("node certificate", error))?;
    node_in(&parsed)
}

/// Whom a certificate names.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) node: NodeId,
    pub(crate) fabric: String,
    /// Until when it is valid, in seconds since 1970.
    pub(crate) not_after_unix: u64,
}

/// Whom a certificate names that TLS has checked.
pub(crate) fn subject_of(certificate: &CertificateDer<'_>) -> Result<Subject, IdentityError> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| invalid("node certificate", error))?;
    let not_after_unix = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    Ok(Subject { node: node_in(&parsed)?, fabric: fabric_in(&parsed)?, not_after_unix })
}

fn fabric_in(certificate: &X509Certificate<'_>) -> Result<String, IdentityError> {
    let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let name = name.ok_or_else(|| invalid("certificate", "it names no fabric"))?;
    littoral_model::id::check_name(name).map_err(|error| invalid("certificate", error))?;
    Ok(name.to_owned())
}

fn node_in(certificate: &X509Certificate<'_>) -> Result<NodeId, IdentityError> {
    let names = certificate.subject_alternative_name().map_err(|error| invalid("node certificate", error))?;
    let name = names.into_iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let name = name.ok_or_else(|| invalid("node certificate", "it names no node"))?;
    NodeId::new(name).map_err(|error| invalid("node certificate", error))
}

#[allow(clippy::disallowed_methods)] // Certificates are valid in real time, whatever clock a test may run under.
pub(crate) fn set_validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
}

/// Seconds since 1970, of the system's clock.
#[must_use]
#[allow(clippy::disallowed_methods)] // Tokens expire in real time.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    move |error| IdentityError::File { path: path.display().to_string(), error }
}

pub(crate) fn read(path: &Path) -> Result<String, IdentityError> {
    std::fs::read_to_string(path).map_err(file(path))
}

pub(crate) fn make_dir(dir: &Path) -> Result<(), IdentityError> {
    std::fs::create_dir_all(dir).map_err(file(dir))
}

/// Written beside and renamed, so that a crash leaves the old file or the new one.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), IdentityError> {
    let beside = path.with_extension("new");
    let result = (|| {
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut target = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        target.write_all(text.as_bytes())?;
        target.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    result.map_err(file(path))
}
