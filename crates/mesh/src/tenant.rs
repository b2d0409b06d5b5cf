//! Keys of tenants: what is deployed is signed with them, so that a node runs nothing that its tenant has not vouched for,
//! whoever hands it on.
//!
//! The root delegates to a tenant by a certificate for signing code and for nothing else: its common name, `tenant.` and
//! the fabric's name, is no node's and no administrator's, and it serves for no connection. The tenant's name is its
//! first DNS name.

use std::path::Path;

use littoral_model::id::TenantId;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::identity::{IdentityError, Root, der, invalid, make_dir, read, set_validity, write};

/// What a tenant's common name begins with; no name of a fabric has a dot.
const TENANT_PREFIX: &str = "tenant.";
/// How long new signatures can be made with a key; old ones stay good.
const TENANT_LIFETIME: std::time::Duration = std::time::Duration::from_secs(2 * 365 * 86_400);

const TENANT_CERTIFICATE: &str = "tenant.crt";
const TENANT_KEY: &str = "tenant.key";

/// What a tenant signs with.
#[derive(Clone)]
pub struct TenantKey {
    /// The certificate, signed by the root.
    pub certificate_pem: String,
    /// Its key (PKCS #8).
    pub key_pem: String,
}

impl std::fmt::Debug for TenantKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantKey").finish_non_exhaustive()
    }
}

/// Why a signature is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not delegated by this fabric's root.
    #[error("it is signed with a key that this fabric's root has not delegated to tenant {tenant}: {reason}")]
    Foreign {
        /// For whom it would have to be.
        tenant: TenantId,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// The certificate's time is over, or has not come.
    #[error("the certificate of the tenant's key is valid {validity}, and not now")]
    Expired {
        /// From when to when.
        validity: String,
    },
    /// The signature is not of these bytes.
    #[error("it is not what was signed: it was altered afterwards")]
    Altered,
}

impl TenantKey {
    /// Makes one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn create(root: &Root, tenant: &TenantId) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| IdentityError::Random)?;
        let mut params =
            CertificateParams::new(vec![tenant.to_string()]).map_err(|error| invalid("tenant's name", error))?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{TENANT_PREFIX}{}", root.fabric()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, TENANT_LIFETIME);
        let certificate =
            params.signed_by(&key, &root.issuer()?).map_err(|error| invalid("tenant's certificate", error))?;
        Ok(Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Reads it from a directory.
    ///
    /// # Errors
    /// When it is not there.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        Ok(Self { certificate_pem: read(&dir.join(TENANT_CERTIFICATE))?, key_pem: read(&dir.join(TENANT_KEY))? })
    }

    /// Whether a directory holds one.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(TENANT_CERTIFICATE).exists()
    }

    /// Writes it to a directory, the key readable by its owner only; the certificate last, as the sign that all is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        make_dir(dir)?;
        write(&dir.join(TENANT_KEY), &self.key_pem, 0o600)?;
        write(&dir.join(TENANT_CERTIFICATE), &self.certificate_pem, 0o644)
    }

    /// The tenant whose key it is.
    ///
    /// # Errors
    /// When the certificate is not valid.
    pub fn tenant(&self) -> Result<TenantId, IdentityError> {
        let der = der(&self.certificate_pem)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| invalid("tenant's certificate", error))?;
        let name = tenant_of(&parsed).ok_or_else(|| invalid("tenant's certificate", "it names no tenant"))?;
        TenantId::new(name).map_err(|error| invalid("tenant's certificate", error))
    }

    /// Until when new signatures can be made with it, seconds since 1970.
    ///
    /// # Errors
    /// When the certificate is not valid.
    pub fn ends_unix(&self) -> Result<u64, IdentityError> {
        let der = der(&self.certificate_pem)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| invalid("tenant's certificate", error))?;
        Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default())
    }

    /// Signs: ECDSA over P-256 with SHA-256, in ASN.1.
    ///
    /// # Errors
    /// When the key is not valid, or the system has no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        sign(&self.key_pem, "tenant's key", message)
    }
}

/// Signs with a key, which `what` names.
pub(crate) fn sign(key_pem: &str, what: &'static str, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| invalid(what, error))?;
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der(), &random)
        .map_err(|error| invalid(what, error))?;
    let signature = key.sign(&random, message).map_err(|_| IdentityError::Random)?;
    Ok(signature.as_ref().to_vec())
}

/// Checks that a tenant of the fabric with this root has signed a message. With `at`, seconds since 1970, the certificate
/// must be valid then: for what is signed anew, as what was signed in its time stays good.
///
/// # Errors
/// Says what is wrong with it.
pub fn verify(
    root_pem: &str,
    tenant: &TenantId,
    message: &[u8],
    certificate_pem: &str,
    signature: &[u8],
    at: Option<u64>,
) -> Result<(), SignatureError> {
    let foreign = |reason: String| SignatureError::Foreign { tenant: tenant.clone(), reason };
    let (root, certificate) = (der(root_pem), der(certificate_pem));
    let root = root.map_err(|error| foreign(error.to_string()))?;
    let certificate = certificate.map_err(|error| foreign(error.to_string()))?;
    let parse = |bytes| x509_parser::parse_x509_certificate(bytes).map_err(|error| foreign(error.to_string()));
    let ((_, root), (_, certificate)) = (parse(&root)?, parse(&certificate)?);
    let reason =
        if certificate.issuer() != root.subject() || certificate.verify_signature(Some(root.public_key())).is_err() {
            Some("another root signed its certificate")
        } else if !is_for_signing(&certificate, &root) {
            Some("its certificate is no tenant's")
        } else if tenant_of(&certificate) != Some(tenant.as_str()) {
            Some("its certificate is another tenant's")
        } else {
            None
        };
    if let Some(reason) = reason {
        return Err(foreign(reason.to_owned()));
    }
    if let Some(at) = at {
        let (validity, at) = (certificate.validity(), i64::try_from(at).unwrap_or(i64::MAX));
        if !(validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&at) {
            let validity = format!("from {} to {}", validity.not_before, validity.not_after);
            return Err(SignatureError::Expired { validity });
        }
    }
    let key =
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, certificate.public_key().subject_public_key.data.as_ref());
    key.verify(message, signature).map_err(|_| SignatureError::Altered)
}

/// Whether a certificate is a tenant's of the root's fabric, and no node's or administrator's.
fn is_for_signing(certificate: &X509Certificate<'_>, root: &X509Certificate<'_>) -> bool {
    let name = |of: &X509Certificate<'_>| {
        let mut names = of.subject().iter_common_name();
        let first = names.next().and_then(|name| name.as_str().ok()).map(str::to_owned);
        first.filter(|_| names.next().is_none())
    };
    let expected = name(root).map(|fabric| format!("{TENANT_PREFIX}{fabric}"));
    let usage = certificate.extended_key_usage().ok().flatten();
    expected.is_some() && name(certificate) == expected && usage.is_some_and(|usage| usage.value.code_signing)
}

fn tenant_of<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c str> {
    let names = certificate.subject_alternative_name().ok().flatten()?;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use littoral_model::id::NodeId;
    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::admin::{AdminCredential, is_admin};
    use crate::identity::unix_now;

    const MESSAGE: &[u8] = b"what is deployed";

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn outcome(root: &Root, key: &TenantKey, message: &[u8], at: Option<u64>) -> Result<(), SignatureError> {
        let signature = key.sign(MESSAGE).unwrap();
        verify(root.certificate_pem(), &tenant("a"), message, &key.certificate_pem, &signature, at)
    }

    #[test]
    fn only_the_tenants_own_signature_is_good_and_only_for_what_was_signed() {
        let (root, other) = (Root::create().unwrap(), Root::create().unwrap());
        let key = TenantKey::create(&root, &tenant("a")).unwrap();
        assert_eq!(outcome(&root, &key, MESSAGE, Some(unix_now())), Ok(()));
        assert_eq!(outcome(&root, &key, b"something else", None), Err(SignatureError::Altered));
        let reason = |outcome: Result<(), SignatureError>| outcome.unwrap_err().to_string();
        assert!(reason(outcome(&other, &key, MESSAGE, None)).contains("another root"));
        let theirs = TenantKey::create(&root, &tenant("b")).unwrap();
        assert!(reason(outcome(&root, &theirs, MESSAGE, None)).contains("another tenant's"));
        // The key fits the signature, and the certificate is another's.
        let mixed = TenantKey { certificate_pem: theirs.certificate_pem, ..key };
        assert!(outcome(&root, &mixed, MESSAGE, None).is_err());
    }

    #[test]
    fn a_certificate_ends_for_new_signatures_and_not_for_old_ones() {
        let root = Root::create().unwrap();
        let key = TenantKey::create(&root, &tenant("a")).unwrap();
        let later = unix_now() + TENANT_LIFETIME.as_secs() + 60;
        assert!(matches!(outcome(&root, &key, MESSAGE, Some(later)), Err(SignatureError::Expired { .. })));
        assert_eq!(outcome(&root, &key, MESSAGE, None), Ok(()));
    }

    #[test]
    fn nodes_and_administrators_cannot_sign_and_tenants_cannot_administer() {
        let root = Root::create().unwrap();
        let node = root.identity(&NodeId::new("a").unwrap(), &[]).unwrap();
        let node = TenantKey { certificate_pem: node.certificate_pem, key_pem: node.key_pem };
        let admin = AdminCredential::create(&root).unwrap();
        let admin = TenantKey { certificate_pem: admin.certificate_pem, key_pem: admin.key_pem };
        for key in [node, admin] {
            let error = outcome(&root, &key, MESSAGE, None).unwrap_err();
            assert!(error.to_string().contains("no tenant's"), "{error}");
        }
        let key = TenantKey::create(&root, &tenant("a")).unwrap();
        let certificate: CertificateDer<'_> = der(&key.certificate_pem).unwrap();
        assert!(!is_admin(&certificate));
        assert_eq!(key.tenant().unwrap(), tenant("a"));
    }

    #[test]
    fn a_key_survives_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::create().unwrap();
        assert!(!TenantKey::exists(folder.path()));
        TenantKey::create(&root, &tenant("a")).unwrap().save(folder.path()).unwrap();
        assert_eq!(outcome(&root, &TenantKey::load(folder.path()).unwrap(), MESSAGE, None), Ok(()));
    }
}
