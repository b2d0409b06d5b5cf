//! Shutting a node out: an administrator's signature says that a node is to be trusted no more, for good.
//!
//! Who has heard of it does not answer the node and does not count it as a member ([`crate::Mesh::refuse`]), and makes no
//! link to it from the next time its mesh is opened: the root that it trusts then excludes the node's name. The
//! links of a running mesh cannot be told to (Zenoh takes its root once, when it starts to listen).

use littoral_model::id::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, SubjectPublicKeyInfo,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use crate::admin::{AdminCredential, is_admin};
use crate::identity::{IdentityError, der, fabric_of, invalid};
use crate::tenant::sign;

/// What the signed bytes begin with, so that they are no signature of anything else.
const DOMAIN: &str = "littoral revocation 1\0";

/// What is signed to shut a node out: who, by whom, and when, in microseconds since 1970.
fn message(node: &NodeId, author: &str, time_us: u64) -> Vec<u8> {
    format!("{DOMAIN}{node}\0{time_us}\0{author}").into_bytes()
}

/// Signs that a node is shut out, with an administrator's key: ECDSA over P-256 with SHA-256, in ASN.1.
///
/// # Errors
/// When the key is not valid, or the system has no random numbers.
pub fn revoke(
    credential: &AdminCredential,
    node: &NodeId,
    author: &str,
    time_us: u64,
) -> Result<Vec<u8>, IdentityError> {
    sign(&credential.key_pem, "administrator's key", &message(node, author, time_us))
}

/// Checks that an administrator of the fabric with this root has shut a node out. An administrator's certificate that has
/// ended since changes nothing.
///
/// # Errors
/// Says what is wrong with it.
pub fn verify(
    root_pem: &str,
    (node, author, time_us): (&NodeId, &str, u64),
    certificate_pem: &str,
    signature: &[u8],
) -> Result<(), IdentityError> {
    let wrong = |reason: &str| invalid("revocation", reason);
    let (root, certificate) = (der(root_pem)?, der(certificate_pem)?);
    let parse = |bytes| x509_parser::parse_x509_certificate(bytes).map_err(|error| invalid("certificate", error));
    let ((_, root), (_, parsed)) = (parse(&root)?, parse(&certificate)?);
    if parsed.issuer() != root.subject() || parsed.verify_signature(Some(root.public_key())).is_err() {
        return Err(wrong("another root signed its certificate; sign with the key of an administrator of this fabric"));
    }
    if !is_admin(&certificate) {
        return Err(wrong("it is not signed by an administrator; take the folder `admin` of the fabric's first node"));
    }
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, parsed.public_key().subject_public_key.data.as_ref());
    key.verify(&message(node, author, time_us), signature).map_err(|_| wrong("it was altered after it was signed"))
}

/// The root as it is to be trusted by who has heard that these nodes are shut out: certificates with their names are not
/// valid under it (RFC 5280, section 4.2.1.10). It is for this node alone, and its own signature says nothing.
///
/// # Errors
/// When the root is not valid.
pub(crate) fn excluding<'n>(
    root_pem: &str,
    nodes: impl IntoIterator<Item = &'n NodeId>,
) -> Result<String, IdentityError> {
    let excluded: Vec<GeneralSubtree> =
        nodes.into_iter().map(|node| GeneralSubtree::DnsName(node.to_string())).collect();
    if excluded.is_empty() {
        return Ok(root_pem.to_owned());
    }
    let fail = |error: rcgen::Error| invalid("root certificate", error);
    let root = der(root_pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&root).map_err(|error| invalid("root certificate", error))?;
    let key = SubjectPublicKeyInfo::from_der(parsed.public_key().raw).map_err(fail)?;
    // As `Root::create` makes it: certificates name their issuer by this.
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, fabric_of(root_pem)?);
    params.name_constraints = Some(NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees: excluded });
    // Nobody checks who signed a root that is trusted as it stands.
    let anyone = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|_| IdentityError::Random)?;
    let pem = params.signed_by(&key, &Issuer::from_params(&params, anyone)).map_err(fail)?.pem();
    Ok(pem)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::pki_types::UnixTime;
    use rustls::server::WebPkiClientVerifier;

    use super::*;
    use crate::identity::{Root, unix_now};

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn only_an_administrator_of_the_fabric_shuts_a_node_out() {
        let (root, other) = (Root::create().unwrap(), Root::create().unwrap());
        let admin = AdminCredential::create(&root).unwrap();
        let signature = revoke(&admin, &node("edge-3"), "ann", 5).unwrap();
        let check = |root: &Root, name: &str, author: &str, certificate: &str| {
            verify(root.certificate_pem(), (&node(name), author, 5), certificate, &signature)
        };
        check(&root, "edge-3", "ann", &admin.certificate_pem).unwrap();
        check(&root, "edge-4", "ann", &admin.certificate_pem).unwrap_err();
        check(&root, "edge-3", "bob", &admin.certificate_pem).unwrap_err();
        check(&other, "edge-3", "ann", &admin.certificate_pem).unwrap_err();
        // A node's key shuts nobody out.
        let thief = root.identity(&node("edge-9"), &[]).unwrap();
        let stolen = AdminCredential { certificate_pem: thief.certificate_pem, key_pem: thief.key_pem, ..admin };
        let forged = revoke(&stolen, &node("edge-3"), "ann", 5).unwrap();
        let forged = verify(root.certificate_pem(), (&node("edge-3"), "ann", 5), &stolen.certificate_pem, &forged);
        assert!(forged.unwrap_err().to_string().contains("not signed by an administrator"));
    }

    #[test]
    fn under_the_root_that_is_trusted_then_a_nodes_certificate_is_not_valid_and_others_are() {
        let root = Root::create().unwrap();
        let addresses = ["10.0.0.7".parse().unwrap()];
        let takes = |anchor: &str, name: &str| {
            let identity = root.identity(&node(name), &addresses).unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(der(anchor).unwrap()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(unix_now()));
            verifier.verify_client_cert(&der(&identity.certificate_pem).unwrap(), &[], now).is_ok()
        };
        let names = ["edge-3", "edge-30", "edge-4", "cloud-1"];
        assert!(names.iter().all(|name| takes(&excluding(root.certificate_pem(), []).unwrap(), name)));
        let anchor = excluding(root.certificate_pem(), [&node("edge-3"), &node("edge-4")]).unwrap();
        assert_eq!(names.map(|name| takes(&anchor, name)), [false, true, false, true]);
    }
}
