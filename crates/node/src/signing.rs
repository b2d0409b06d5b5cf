//! Edits of intent are signed with their tenant's key, and a node takes and runs no others.
//!
//! What is signed is an encoding of everything that decides what runs: the tenant, the app, the edit's place among the
//! others, the manifest's text and the SHA-256 of each function's component. It is checked where an edit comes in, from
//! people or from other nodes, and again before a component of it is compiled. So a node that was taken over can hand on
//! what the tenant has signed, and nothing else: it can neither bring back an earlier edit nor end an app. Where things run
//! is not signed: nodes decide that and decide it again.
//!
//! Bundles of earlier versions were signed without their place. They stay good where they are, and give way to any edit.

use anyhow::Context as _;
use littoral_mesh::admin::AdminCredential;
use littoral_mesh::revocation;
use littoral_mesh::tenant::{self, TenantKey};
use littoral_model::edit::{AUTHOR_BYTES_MAX, Edit, EditId, InvalidEdit};
use littoral_model::id::{AppId, AppName, NodeId};
use littoral_model::manifest;

use crate::admin::types::{AppBundle, Base64Bytes, BundleSignature, Revocation};

/// What the signed bytes begin with: a signature of something else is none of a bundle, and another encoding has another
/// number.
const DOMAIN: &[u8] = b"littoral bundle 1\0";
/// What the signed bytes of an edit begin with.
const EDIT_DOMAIN: &[u8] = b"littoral edit 2\0";

/// Why a bundle is not taken, or nothing of it is run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BundleError {
    /// No signature at all.
    #[error(
        "the edit of {app} is not signed; make it with the tenant's key, which is in the folder `admin` of the node where \
         `littoral init` was run: there, or with `--key DIR`"
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
    /// Signed as earlier versions did, without the edit.
    #[error("the bundle of {app} does not say which edit of the app it is; deploy it with a current `littoral`")]
    NoEdit {
        /// Which app.
        app: AppId,
    },
    /// An edit that is none.
    #[error("of {app}: {error}")]
    Edit {
        /// Which app.
        app: AppId,
        /// What is wrong.
        error: InvalidEdit,
    },
    /// The bundle is of another app than it is said to be.
    #[error("the bundle that is said to be of {app} is of another app; deploy it again")]
    OtherApp {
        /// Which app it is said to be of.
        app: AppId,
    },
}

/// Signs a bundle, with the edit that is in it.
///
/// # Errors
/// When its manifest is not valid, it has no edit, or the key is not valid.
pub fn sign(bundle: &AppBundle, key: &TenantKey) -> anyhow::Result<BundleSignature> {
    let manifest = manifest::parse("littoral.toml", &bundle.manifest)?;
    let edit = bundle.edit.as_ref().context("the bundle does not say which edit it is")?;
    sign_message(&edit_message(&AppId { tenant: key.tenant()?, app: manifest.name }, edit, Some(bundle)), key)
}

/// Signs the end of an app of the key's tenant.
///
/// # Errors
/// When the key is not valid.
pub fn sign_end(app: &AppName, edit: &Edit, key: &TenantKey) -> anyhow::Result<BundleSignature> {
    sign_message(&edit_message(&AppId { tenant: key.tenant()?, app: app.clone() }, edit, None), key)
}

/// Signs that a node is shut out of the fabric. `time_us` is the time, microseconds since 1970.
///
/// # Errors
/// When the key is not valid.
pub fn revoke(node: NodeId, author: String, time_us: u64, key: &AdminCredential) -> anyhow::Result<Revocation> {
    let signature = Base64Bytes(revocation::revoke(key, &node, &author, time_us)?.into());
    let signature = BundleSignature { certificate: key.certificate_pem.clone(), signature_base64: signature };
    Ok(Revocation { format: 1, node, author, time_us, signature })
}

fn sign_message(message: &[u8], key: &TenantKey) -> anyhow::Result<BundleSignature> {
    let signature = Base64Bytes(key.sign(message)?.into());
    Ok(BundleSignature { certificate: key.certificate_pem.clone(), signature_base64: signature })
}

/// The id of an edit that deploys a bundle, or ends the app.
pub(crate) fn edit_id(app: &AppId, edit: &Edit, bundle: Option<&AppBundle>) -> EditId {
    hash(&edit_message(app, edit, bundle))
}

/// The id of what an earlier version has recorded, of what tells such records apart.
pub(crate) fn stamp_id(app: &AppId, edit: &Edit) -> EditId {
    hash(format!("littoral stamp 1\0{app} {} {}", edit.time, edit.author).as_bytes())
}

fn hash(bytes: &[u8]) -> EditId {
    let mut id = [0; 32];
    id.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    EditId(id)
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
        if let Some(edit) = &bundle.edit {
            return self.check_edit(app, edit, Some(bundle), bundle.signature.as_ref(), at);
        }
        let signature = bundle.signature.as_ref().ok_or_else(|| BundleError::Unsigned { app: app.clone() })?;
        let manifest = manifest::parse("littoral.toml", &bundle.manifest);
        let version = match manifest {
            Ok(manifest) if manifest.name == app.app => manifest.version,
            _ => return Err(BundleError::OtherApp { app: app.clone() }),
        };
        self.check_signature(app, &message(app, &version, bundle), signature, at)
    }

    /// Checks an edit, which deploys a bundle or ends the app, like [`check_new`](Self::check_new).
    pub(crate) fn check_edit(
        &self,
        app: &AppId,
        edit: &Edit,
        bundle: Option<&AppBundle>,
        signature: Option<&BundleSignature>,
        at: Option<u64>,
    ) -> Result<(), BundleError> {
        let signature = signature.ok_or_else(|| BundleError::Unsigned { app: app.clone() })?;
        edit.check().map_err(|error| BundleError::Edit { app: app.clone(), error })?;
        let is_of_app = |bundle: &AppBundle| {
            manifest::parse("littoral.toml", &bundle.manifest).is_ok_and(|manifest| manifest.name == app.app)
        };
        if bundle.is_some_and(|bundle| !is_of_app(bundle)) || edit.ends != bundle.is_none() {
            return Err(BundleError::OtherApp { app: app.clone() });
        }
        self.check_signature(app, &edit_message(app, edit, bundle), signature, at)
    }

    /// Checks that an administrator has shut a node out.
    pub(crate) fn check_revocation(&self, revocation: &Revocation) -> Result<(), String> {
        let Revocation { format, node, author, time_us, signature } = revocation;
        if *format != 1 || author.len() > AUTHOR_BYTES_MAX {
            return Err("the revocation is not as this version writes it; upgrade this node".to_owned());
        }
        let of = (node, author.as_str(), *time_us);
        revocation::verify(&self.root_pem, of, &signature.certificate, &signature.signature_base64.0)
            .map_err(|error| error.to_string())
    }

    fn check_signature(
        &self,
        app: &AppId,
        message: &[u8],
        signature: &BundleSignature,
        at: Option<u64>,
    ) -> Result<(), BundleError> {
        let BundleSignature { certificate, signature_base64 } = signature;
        tenant::verify(&self.root_pem, &app.tenant, message, certificate, &signature_base64.0, at).map_err(|reason| {
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

/// The bytes that are signed of an edit: like [`message`], with its place among the others.
fn edit_message(app: &AppId, edit: &Edit, bundle: Option<&AppBundle>) -> Vec<u8> {
    let mut bytes = EDIT_DOMAIN.to_vec();
    let mut part = |text: &str| {
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    part(app.tenant.as_str());
    part(app.app.as_str());
    let Edit { incarnation, generation, ends, lineage, puts_aside, time, author } = edit;
    part(&format!("{incarnation} {generation} {ends} {time} {} {}", lineage.len(), puts_aside.len()));
    lineage.iter().chain(puts_aside).for_each(|id| part(&id.to_string()));
    part(author);
    if let Some(bundle) = bundle {
        part(&bundle.manifest);
        for (function, artifact) in &bundle.artifacts {
            part(function);
            part(artifact);
        }
    }
    bytes
}

/// The bytes that earlier versions signed: each part behind its length, in one order, so that no two bundles have the same.
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

    /// An app's bundle, not signed.
    pub(crate) fn unsigned(name: &str, version: &str) -> AppBundle {
        let manifest = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        let artifacts = BTreeMap::from([("f".to_owned(), "0".repeat(64))]);
        AppBundle { manifest, artifacts, edit: None, signature: None }
    }

    /// An app's bundle, signed as earlier versions did.
    pub(crate) fn signed(key: &TenantKey, name: &str, version: &str) -> AppBundle {
        let bundle = unsigned(name, version);
        let signature = sign_message(&message(&app(name), version, &bundle), key).unwrap();
        AppBundle { signature: Some(signature), ..bundle }
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
    fn whatever_is_changed_of_an_edit_its_signature_is_good_no_more() {
        let (root, key) = fabric();
        let verifier = Verifier::new(root.certificate_pem().to_owned(), false);
        let (a, edit) =
            (app("a"), Edit::first(1, "ann".to_owned()).next(EditId([1; 32]), &[], false, 2, "bob".to_owned()));
        let bundle = AppBundle { edit: Some(edit.clone()), ..unsigned("a", "1") };
        let signature = sign(&bundle, &key).unwrap();
        let check = |edit: &Edit, bundle| verifier.check_edit(&a, edit, bundle, Some(&signature), None);
        check(&edit, Some(&bundle)).unwrap();
        let more = |change: fn(&mut Edit)| {
            let mut changed = edit.clone();
            change(&mut changed);
            check(&changed, Some(&bundle)).unwrap_err().to_string()
        };
        for changed in [
            more(|edit| edit.generation += 1),
            more(|edit| edit.incarnation += 1),
            more(|edit| edit.lineage.push(EditId([2; 32]))),
            more(|edit| edit.puts_aside.append(&mut edit.lineage)),
            more(|edit| edit.time.physical_us += 1),
            more(|edit| edit.author.push('x')),
        ] {
            assert!(changed.contains("altered afterwards"), "{changed}");
        }
        check(&edit, None).unwrap_err();
        let ends = Edit { ends: true, ..edit.clone() };
        check(&ends, None).unwrap_err();
        let end = sign_end(&a.app, &ends, &key).unwrap();
        verifier.check_edit(&a, &ends, None, Some(&end), Some(unix_now())).unwrap();
        assert!(verifier.check_edit(&app("b"), &ends, None, Some(&end), None).is_err());
        // The key of a node signs nothing, though the fabric's root has signed its certificate.
        let node = root.identity(&NodeId::new("edge-1").unwrap(), &[]).unwrap();
        let stolen = TenantKey { certificate_pem: node.certificate_pem, key_pem: node.key_pem };
        let forged = sign_message(&edit_message(&a, &ends, None), &stolen).unwrap();
        let said = verifier.check_edit(&a, &ends, None, Some(&forged), None).unwrap_err().to_string();
        assert!(said.contains("its certificate is no tenant's"), "{said}");
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
            edit: None,
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
