//! Credentials of the fabric's administrators: certificates that open the admin API of every node and nothing else.
//!
//! The root signs them as it signs nodes', with a common name that no node has: `admin.` and the fabric's name. So the
//! mesh does not let an administrator in as a node (see [`crate::ZenohMesh`]), and a node is no administrator.

use std::path::Path;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;

use crate::identity::{IdentityError, Root, invalid, make_dir, read, set_validity, write};

/// What an administrator's common name begins with; no name of a fabric has a dot.
const ADMIN_PREFIX: &str = "admin.";
/// How long a credential is valid; `littoral init` makes the only one so far.
const ADMIN_LIFETIME: std::time::Duration = std::time::Duration::from_secs(2 * 365 * 86_400);

const ADMIN_CERTIFICATE: &str = "admin.crt";
const ADMIN_KEY: &str = "admin.key";
const ROOT_CERTIFICATE: &str = "root.crt";

/// What an administrator proves who they are with.
#[derive(Clone)]
pub struct AdminCredential {
    /// The certificate, signed by the root.
    pub certificate_pem: String,
    /// Its key (PKCS #8).
    pub key_pem: String,
    /// The root that nodes must be signed by.
    pub root_pem: String,
}

impl std::fmt::Debug for AdminCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminCredential").finish_non_exhaustive()
    }
}

impl AdminCredential {
    /// Makes one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn create(root: &Root) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| IdentityError::Random)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("{ADMIN_PREFIX}{}", root.fabric()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, ADMIN_LIFETIME);
        let certificate =
            params.signed_by(&key, &root.issuer()?).map_err(|error| invalid("administrator's certificate", error))?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            root_pem: root.certificate_pem().to_owned(),
        })
    }

    /// Reads it from a directory.
    ///
    /// # Errors
    /// When it is not there.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        Ok(Self {
            certificate_pem: read(&dir.join(ADMIN_CERTIFICATE))?,
            key_pem: read(&dir.join(ADMIN_KEY))?,
            root_pem: read(&dir.join(ROOT_CERTIFICATE))?,
        })
    }

    /// Writes it to a directory, the key readable by its owner only.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        make_dir(dir)?;
        write(&dir.join(ADMIN_KEY), &self.key_pem, 0o600)?;
        write(&dir.join(ROOT_CERTIFICATE), &self.root_pem, 0o644)?;
        write(&dir.join(ADMIN_CERTIFICATE), &self.certificate_pem, 0o644)
    }
}

/// Whether a certificate is an administrator's. That it was signed by the root has been checked before.
#[must_use]
pub fn is_admin(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let mut names = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    names.next().is_some_and(|name| name.starts_with(ADMIN_PREFIX)) && names.next().is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use littoral_model::id::NodeId;

    use super::*;
    use crate::identity::der;

    #[test]
    fn an_administrator_is_no_node_and_a_node_no_administrator() {
        let root = Root::create().unwrap();
        let credential = AdminCredential::create(&root).unwrap();
        assert!(is_admin(&der(&credential.certificate_pem).unwrap()));
        let node = root.identity(&NodeId::new("admin").unwrap(), &[]).unwrap();
        assert!(!is_admin(&der(&node.certificate_pem).unwrap()));
        assert!(!is_admin(&der(root.certificate_pem()).unwrap()));
    }

    #[test]
    fn a_credential_survives_the_disk() {
        let folder = std::env::temp_dir().join(format!("littoral-admin-{}", std::process::id()));
        let credential = AdminCredential::create(&Root::create().unwrap()).unwrap();
        credential.save(&folder).unwrap();
        let loaded = AdminCredential::load(&folder);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(loaded.unwrap().certificate_pem, credential.certificate_pem);
    }
}
