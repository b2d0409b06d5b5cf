//! Who may connect over MQTT: the users that the node's administrator has written down, with their passwords' hashes and
//! what they may publish and subscribe to; clients with a certificate of an authority that is named; or anybody, where
//! that is said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use littoral_gateway::mqtt::{Access, Reason, Rights, Shown};
use littoral_model::topic::TopicFilter;
use ring::digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;

/// The largest file of settings, in bytes: some ten thousand users.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// What sessions of those are kept under who are nobody in particular; no user is called that.
const ANYBODY: &str = "";

/// `mqtt.toml` in a node's data directory.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    anonymous: bool,
    tls: Option<Tls>,
    users: BTreeMap<String, User>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    clients: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct User {
    password_sha256: Option<String>,
    publish: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
}

/// Reads the settings: who is let in, and how connections are encrypted if they are. Files that they name are in the data
/// directory, if their paths are not absolute.
///
/// # Errors
/// When something is wrong with them, or nobody could ever connect.
pub(crate) fn settings(path: &Path) -> anyhow::Result<(Users, Option<Arc<ServerConfig>>)> {
    let text = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            anyhow::bail!("{} has more than {FILE_BYTES_MAX} bytes", path.display())
        }
        Ok(_) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
    };
    let file: File = toml::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))?;
    let asks_certificates = file.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    anyhow::ensure!(
        file.anonymous || asks_certificates || !file.users.is_empty(),
        "nobody could connect over MQTT: say who may in {}, with `[users.NAME]`, `clients` of `[tls]`, or `anonymous = true`",
        path.display()
    );
    let folder = path.parent().unwrap_or(Path::new("."));
    let tls = file.tls.as_ref().map(|tls| encryption(folder, tls)).transpose()?;
    let users = Users::new(file.anonymous, file.users).with_context(|| format!("in {}", path.display()))?;
    Ok((users, tls.map(Arc::new)))
}

fn encryption(folder: &Path, tls: &Tls) -> anyhow::Result<ServerConfig> {
    let certificates = certificates(&folder.join(&tls.certificate))?;
    let key = folder.join(&tls.key);
    let key =
        PrivateKeyDer::from_pem_file(&key).with_context(|| format!("{} is no private key in PEM", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &tls.clients {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in self::certificates(&folder.join(authorities))? {
                roots.add(authority).context("an authority of clients cannot be used")?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    builder.with_single_cert(certificates, key).context("the certificate for MQTT cannot be used with its key")
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.with_context(|| format!("{} holds no certificates in PEM", path.display()))?;
    anyhow::ensure!(!read.is_empty(), "{} holds no certificates in PEM", path.display());
    Ok(read)
}

/// Those who may connect.
#[derive(Debug)]
pub(crate) struct Users {
    anonymous: bool,
    users: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    /// The hash of the password; one without is known by a certificate alone.
    password: Option<Vec<u8>>,
    rights: Rights,
}

impl Users {
    fn new(anonymous: bool, users: BTreeMap<String, User>) -> anyhow::Result<Self> {
        let known = users.into_iter().map(|(name, user)| {
            anyhow::ensure!(name != ANYBODY, "a user has a name");
            let password = user.password_sha256.as_deref().map(hash_of).transpose();
            let password = password.with_context(|| format!("`password-sha256` of user {name}"))?;
            let filters = |texts: Option<Vec<String>>| match texts {
                None => Ok(everything()),
                Some(texts) => texts.iter().map(|text| Ok(text.parse()?)).collect::<anyhow::Result<Vec<TopicFilter>>>(),
            };
            let publish = filters(user.publish).with_context(|| format!("`publish` of user {name}"))?;
            let subscribe = filters(user.subscribe).with_context(|| format!("`subscribe` of user {name}"))?;
            Ok((name.clone(), Known { password, rights: Rights { user: name, publish, subscribe } }))
        });
        Ok(Self { anonymous, users: known.collect::<anyhow::Result<_>>()? })
    }
}

impl Access for Users {
    fn admit(&self, shown: &Shown) -> Result<Rights, Reason> {
        let all = |user: String| Rights { user, publish: everything(), subscribe: everything() };
        if let Some(certificate) = &shown.certificate {
            let name = common_name(certificate).ok_or(Reason::NotAuthorized)?;
            return Ok(self.users.get(&name).map_or_else(|| all(name), |known| known.rights.clone()));
        }
        let Some(user) = &shown.user else {
            return if self.anonymous { Ok(all(ANYBODY.to_owned())) } else { Err(Reason::NotAuthorized) };
        };
        let shown = digest::digest(&digest::SHA256, shown.password.as_deref().unwrap_or_default());
        let known = self.users.get(user);
        // Compared whether the user is known or not, so that the time does not tell.
        let expected = known.and_then(|known| known.password.as_deref()).unwrap_or(&[0; 32]);
        let is_right = is_equal(shown.as_ref(), expected);
        known.filter(|_| is_right).map(|known| known.rights.clone()).ok_or(Reason::BadUserOrPassword)
    }
}

/// All topics but those that begin with `$`, of which there are none.
fn everything() -> Vec<TopicFilter> {
    "#".parse().into_iter().collect()
}

fn hash_of(text: &str) -> anyhow::Result<Vec<u8>> {
    let digits = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(digits).collect();
    let is_long_enough = |bytes: &Vec<u8>| bytes.len() == digest::SHA256_OUTPUT_LEN && text.len() == 2 * bytes.len();
    bytes
        .filter(is_long_enough)
        .context("it has 64 hexadecimal digits, as `printf %s PASSWORD | sha256sum` prints them")
}

/// Takes as long whatever differs.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

fn common_name(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    (name != ANYBODY).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;

    use super::*;

    fn users(text: &str) -> anyhow::Result<Users> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mqtt.toml");
        std::fs::write(&path, text).unwrap();
        settings(&path).map(|(users, _)| users)
    }

    fn shown(user: Option<&str>, password: &'static str) -> Shown {
        let password = user.map(|_| Bytes::from_static(password.as_bytes()));
        Shown { user: user.map(str::to_owned), password, certificate: None }
    }

    // printf %s opensesame | sha256sum
    const PUMP: &str = "[users.pump]\npassword-sha256 = \
                        \"79b20a8e7eafb07ac9d943c7c4da92a9f43ab3c0d93ce8c56ee6fbc3d4f2c54f\"\npublish = [\"pumps/#\"]\n";

    #[test]
    fn who_is_not_named_is_not_let_in() {
        let hash = digest::digest(&digest::SHA256, b"opensesame");
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let old = PUMP.split('"').nth(1).unwrap();
        let users = users(&PUMP.replace(old, &hash)).unwrap();
        let rights = users.admit(&shown(Some("pump"), "opensesame")).unwrap();
        assert_eq!((rights.user.as_str(), rights.publish.first().unwrap().as_str()), ("pump", "pumps/#"));
        assert_eq!(rights.subscribe, everything());
        assert_eq!(users.admit(&shown(Some("pump"), "wrong")), Err(Reason::BadUserOrPassword));
        assert_eq!(users.admit(&shown(Some("other"), "opensesame")), Err(Reason::BadUserOrPassword));
        assert_eq!(users.admit(&shown(None, "")), Err(Reason::NotAuthorized));
    }

    #[test]
    fn anybody_is_let_in_only_where_that_is_said() {
        let users = users("anonymous = true\n").unwrap();
        assert_eq!(users.admit(&shown(None, "")).unwrap().user, ANYBODY);
        assert_eq!(users.admit(&shown(Some("pump"), "")), Err(Reason::BadUserOrPassword), "who says a name shows it");
    }

    #[test]
    fn settings_that_cannot_be_right_are_refused() {
        for (text, expected) in [
            ("", "nobody could connect over MQTT"),
            ("anonymus = true", "cannot be understood"),
            ("[users.a]\npassword-sha256 = \"ab\"", "64 hexadecimal digits"),
            ("[users.a]\npublish = [\"a/#/b\"]", "is no filter of topics"),
            ("anonymous = true\n[tls]\ncertificate = \"none.pem\"\nkey = \"none.key\"", "holds no certificates"),
        ] {
            let error = format!("{:#}", users(text).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
