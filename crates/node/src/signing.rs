//! Bundles are signed with their tenant's key, and a node takes and runs no others.
//!
//! What is signed is an encoding of everything in a bundle that decides what runs: the tenant, the app, its version, the
//! manifest's text and the SHA-256 of each function's component. It is checked where a bundle comes in, from people or
//! from other nodes, and again before a component of it is compiled. So a node that was taken over can hand on what the
//! tenant has signed, and nothing else. Where things run is not signed: nodes decide that and decide it again.
//!
//! Not covered: that an earlier bundle of the same app is not brought back, and that an app is not ended, by who is a
//! member of the fabric.

use littoral_mesh::tenant::{self, TenantKey};
use littoral_model::id::AppId;
use littoral_model::manifest;

use crate::admin::types::{AppBundle, Base64Bytes, BundleSignature};

/// What the signed bytes begin with: a signature of something else is none of a bundle, and another encoding has another
/// number.
const DOMAIN: &[u8] = b"littoral bundle 1\0";

/// Why a bundle is not taken, or nothing of it is run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BundleError {
    /// No signature at all.
    #[error(
        "the bundle of {app} is not signed; deploy with the tenant's key, which is in the folder `admin` of the node where \
         `littoral init` was run: there, or with `littoral deploy --key DIR`"
    )]
    Unsigned {
        /// Which app.
        app: AppId,
    },
    /// A signature that is not good.
    #[error("the signature of the bundle of {app} is refused: {reason}; {next}")]
    Refused {
        /// Which app.
        app: AppId,
        /// Why.
        reason: tenant::SignatureError,
        /// What to do.
        next: &'static str,
    },
    /// The bundle is of another app than it is said to be.
    #[error("the bundle that is said to be of {app} is of another app; deploy it again")]
    OtherApp {
        /// Which app it is said to be of.
        app: AppId,
    },
}

/// Signs a bundle.
///
/// # Errors
/// When its manifest is not valid, or the key is not.
pub fn sign(bundle: &AppBundle, key: &TenantKey) -> anyhow::Result<BundleSignature> {
    let manifest = manifest::parse("littoral.toml", &bundle.manifest)?;
    let app = AppId { tenant: key.tenant()?, app: manifest.name };
    let signature = key.sign(&message(&app, &manifest.version, bundle))?;
    Ok(BundleSignature { certificate: key.certificate_pem.clone(), signature_base64: Base64Bytes(signature.into()) })
}

/// Checks bundles against the root of this node's fabric.
#[derive(Debug, Clone)]
pub(crate) struct Verifier {
    root_pem: String,
    /// Whether unsigned bundles that are on this node's disk are kept: they were taken before bundles were signed.
    keeps_unsigned: bool,
}

impl Verifier {
    pub(crate) fn new(root_pem: String, keeps_unsigned: bool) -> Self {
        Self { root_pem, keeps_unsigned }
    }

    /// Checks a bundle that is new here: from somebody who deploys, with `at` the seconds since 1970, or from another node,
    /// which may hand on what was signed long ago.
    pub(crate) fn check_new(&self, app: &AppId, bundle: &AppBundle, at: Option<u64>) -> Result<(), BundleError> {
        let signature = bundle.signature.as_ref().ok_or_else(|| BundleError::Unsigned { app: app.clone() })?;
        let manifest = manifest::parse("littoral.toml", &bundle.manifest);
        let version = match manifest {
            Ok(manifest) if manifest.name == app.app => manifest.version,
            _ => return Err(BundleError::OtherApp { app: app.clone() }),
        };
        let message = message(app, &version, bundle);
        let BundleSignature { certificate, signature_base64 } = signature;
        tenant::verify(&self.root_pem, &app.tenant, &message, certificate, &signature_base64.0, at).map_err(|reason| {
            let next = match &reason {
                tenant::SignatureError::Foreign { .. } => {
                    "sign with the key in the folder `admin` of this fabric's first node (`littoral deploy --key DIR`)"
                }
                tenant::SignatureError::Expired { .. } => {
                    "start this fabric's first node anew, which renews the key in its folder `admin`, and see that the clocks are right"
                }
                tenant::SignatureError::Altered => "deploy the app again from its source, and see who changed it on its way",
            };
            BundleError::Refused { app: app.clone(), reason, next }
        })
    }

    /// Checks a bundle that this node holds.
    pub(crate) fn check_held(&self, app: &AppId, bundle: &AppBundle) -> Result<(), BundleError> {
        if bundle.signature.is_none() && self.keeps_unsigned {
            return Ok(());
        }
        self.check_new(app, bundle, None)
    }
}

/// The bytes that are signed: each part behind its length, in one order, so that no two bundles have the same.
fn message(app: &AppId, version: &str, bundle: &AppBundle) -> Vec<u8> {
    let mut bytes = DOMAIN.to_vec();
    let mut part = |text: &str| {
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    part(app.tenant.as_str());
    part(app.app.as_str());
    part(version);
    part(&bundle.manifest);
    for (function, artifact) in &bundle.artifacts {
        part(function);
        part(artifact);
    }
    bytes
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::path::Path;

    use littoral_mesh::identity::{Root, unix_now};
    use littoral_model::id::{AppName, TenantId};

    use super::*;

    /// A fabric's root, and a key of its tenant.
    pub(crate) fn fabric() -> (Root, TenantKey) {
        let root = Root::create().unwrap();
        let key = TenantKey::create(&root, &TenantId::default_tenant()).unwrap();
        (root, key)
    }

    /// An app's bundle, signed.
    pub(crate) fn signed(key: &TenantKey, name: &str, version: &str) -> AppBundle {
        let manifest = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        let artifacts = BTreeMap::from([("f".to_owned(), "0".repeat(64))]);
        let mut bundle = AppBundle { manifest, artifacts, signature: None };
        bundle.signature = Some(sign(&bundle, key).unwrap());
        bundle
    }

    fn app(name: &str) -> AppId {
        AppId { tenant: TenantId::default_tenant(), app: AppName::new(name).unwrap() }
    }

    #[test]
    fn whatever_is_changed_the_signature_is_good_no_more() {
        let (root, key) = fabric();
        let verifier = Verifier::new(root.certificate_pem().to_owned(), false);
        let good = signed(&key, "a", "1");
        verifier.check_new(&app("a"), &good, Some(unix_now())).unwrap();
        verifier.check_held(&app("a"), &good).unwrap();
        let change = |change: fn(&mut AppBundle)| {
            let mut bundle = good.clone();
            change(&mut bundle);
            verifier.check_held(&app("a"), &bundle).unwrap_err().to_string()
        };
        for changed in [
            change(|bundle| bundle.manifest.push_str("# more\n")),
            change(|bundle| bundle.manifest = bundle.manifest.replace("\"1\"", "\"2\"")),
            change(|bundle| _ = bundle.artifacts.insert("f".to_owned(), "1".repeat(64))),
            change(|bundle| _ = bundle.artifacts.insert("g".to_owned(), "0".repeat(64))),
            change(|bundle| bundle.artifacts.clear()),
        ] {
            assert!(changed.contains("altered afterwards"), "{changed}");
        }
        assert!(change(|bundle| bundle.signature = None).contains("is not signed"));
        // Good, and of another app.
        assert!(verifier.check_held(&app("b"), &good).is_err());
    }

    #[test]
    fn another_fabrics_tenant_is_not_ours() {
        let ((root, _), (_, theirs)) = (fabric(), fabric());
        let verifier = Verifier::new(root.certificate_pem().to_owned(), true);
        let error = verifier.check_new(&app("a"), &signed(&theirs, "a", "1"), None).unwrap_err().to_string();
        assert!(error.contains("another root") && error.contains("`admin` of this fabric's first node"), "{error}");
    }

    #[test]
    fn an_unsigned_bundle_is_kept_where_it_was_taken_before_and_nowhere_taken() {
        let (root, key) = fabric();
        let unsigned = AppBundle { signature: None, ..signed(&key, "a", "1") };
        for keeps in [false, true] {
            let verifier = Verifier::new(root.certificate_pem().to_owned(), keeps);
            assert!(verifier.check_new(&app("a"), &unsigned, None).is_err());
            assert_eq!(verifier.check_held(&app("a"), &unsigned).is_ok(), keeps);
        }
    }

    #[test]
    fn no_two_bundles_are_signed_with_the_same_bytes() {
        let bundle = |artifacts: &[(&str, &str)]| AppBundle {
            manifest: String::new(),
            artifacts: artifacts.iter().map(|(f, a)| ((*f).to_owned(), (*a).to_owned())).collect(),
            signature: None,
        };
        let bytes = |artifacts| message(&app("a"), "1", &bundle(artifacts));
        assert_ne!(bytes(&[("ab", "c")]), bytes(&[("a", "bc")]));
        assert_ne!(bytes(&[("a", "b"), ("c", "d")]), bytes(&[("a", "b")]));
    }

    /// What was signed by an earlier version stays good: nodes keep it for as long as the app runs.
    #[test]
    fn a_bundle_that_the_first_version_signed_is_good() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/bundle-v1");
        let (root_path, bundle_path) = (folder.join("root.crt"), folder.join("bundle.json"));
        if std::env::var_os("LITTORAL_BLESS").is_some() && !bundle_path.exists() {
            let (root, key) = fabric();
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&root_path, root.certificate_pem()).unwrap();
            let bundle = serde_json::to_string_pretty(&signed(&key, "a", "1.0.0")).unwrap();
            std::fs::write(&bundle_path, bundle + "\n").unwrap();
        }
        let bundle: AppBundle = serde_json::from_slice(&std::fs::read(bundle_path).unwrap()).unwrap();
        let verifier = Verifier::new(std::fs::read_to_string(root_path).unwrap(), false);
        verifier.check_held(&app("a"), &bundle).unwrap();
    }
}
