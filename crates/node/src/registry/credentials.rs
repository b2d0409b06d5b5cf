//! Who may ask a registry: names and passwords, of the user or of the node, never of a manifest.
//!
//! Each belongs to one registry and is sent to no other: a manifest may name any registry, and must not learn by that what
//! the user or the node knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

/// The largest file of credentials: each entry has about a hundred bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The environment's registry, `host` or `host:port`; the other two are meant for it alone.
const REGISTRY: &str = "LITTORAL_REGISTRY";
const USER: &str = "LITTORAL_REGISTRY_USER";
const PASSWORD: &str = "LITTORAL_REGISTRY_PASSWORD";
/// Docker Hub's registry has two names.
const DOCKER_HUB: [&str; 2] = ["docker.io", "index.docker.io"];

/// Names and passwords, by registry.
#[derive(Clone, Default)]
pub struct Credentials(BTreeMap<String, (String, String)>);

impl std::fmt::Debug for Credentials {
    /// Says for which registries there are some, and nothing else.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Docker's `config.json`, as far as it matters here.
#[derive(Default, Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Default, Deserialize)]
struct DockerAuth {
    /// `user:password`, in base64; missing where a credential helper keeps it.
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

impl Credentials {
    /// The user's: of the environment, else of Docker's `config.json`.
    ///
    /// # Errors
    /// When a file is there that cannot be read, or the environment names half of what is needed.
    pub fn of_user() -> anyhow::Result<Self> {
        let get = |name: &str| std::env::var(name).ok();
        let folder = get("DOCKER_CONFIG").map(PathBuf::from);
        let file = folder.or_else(|| Some(PathBuf::from(get("HOME")?).join(".docker")));
        Self::read(get, file.map(|folder| folder.join("config.json")).as_deref())
    }

    /// A node's: of the environment, else of a file like Docker's in its data directory.
    pub(crate) fn of_node(file: &Path) -> anyhow::Result<Self> {
        Self::read(|name| std::env::var(name).ok(), Some(file))
    }

    fn read(get: impl Fn(&str) -> Option<String>, file: Option<&Path>) -> anyhow::Result<Self> {
        let mut found = match file {
            Some(file) => Self::of_file(file)?,
            None => Self::default(),
        };
        match (get(REGISTRY), get(USER), get(PASSWORD)) {
            (_, None, None) => {}
            (Some(registry), Some(user), Some(password)) => {
                found.0.insert(host(&registry).to_owned(), (user, password));
            }
            _ => {
                anyhow::bail!("{REGISTRY}, {USER} and {PASSWORD} go together: set all three or neither of the last two")
            }
        }
        Ok(found)
    }

    fn of_file(path: &Path) -> anyhow::Result<Self> {
        let unreadable = || format!("cannot read the registries' credentials in {}", path.display());
        match std::fs::metadata(path) {
            Ok(metadata) => anyhow::ensure!(metadata.len() <= FILE_BYTES_MAX, "{} has more than 1 MiB", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(unreadable),
        }
        let text = std::fs::read(path).with_context(unreadable)?;
        let config: DockerConfig = serde_json::from_slice(&text).with_context(unreadable)?;
        let pairs =
            config.auths.into_iter().filter_map(|(registry, auth)| Some((host(&registry).to_owned(), auth.pair()?)));
        Ok(Self(pairs.collect()))
    }

    /// What to show to this registry.
    pub(super) fn of(&self, registry: &str) -> RegistryAuth {
        let names = if DOCKER_HUB.contains(&registry) { DOCKER_HUB.to_vec() } else { vec![registry] };
        match names.iter().find_map(|name| self.0.get(*name)) {
            Some((user, password)) => RegistryAuth::Basic(user.clone(), password.clone()),
            None => RegistryAuth::Anonymous,
        }
    }
}

impl DockerAuth {
    fn pair(self) -> Option<(String, String)> {
        if let (Some(user), Some(password)) = (self.username, self.password) {
            return Some((user, password));
        }
        let decoded = String::from_utf8(STANDARD.decode(self.auth?.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some((user.to_owned(), password.to_owned()))
    }
}

/// The registry that an entry is for: Docker also writes them as addresses, like `https://index.docker.io/v1/`.
fn host(entry: &str) -> &str {
    let entry = entry.trim_start_matches("https://").trim_start_matches("http://");
    entry.split('/').next().unwrap_or(entry)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn basic(user: &str, password: &str) -> RegistryAuth {
        RegistryAuth::Basic(user.to_owned(), password.to_owned())
    }

    #[test]
    fn dockers_entries_are_read_and_each_is_for_its_registry_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        // `dTpwOnc=` is `u:p:w`.
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnc="}, "r:5000": {"username": "a", "password": "b"},
            "helped.example.org": {}}, "credsStore": "pass"}"#;
        std::fs::write(&file, text).unwrap();
        let read = Credentials::read(|_| None, Some(&file)).unwrap();
        assert_eq!(read.of("docker.io"), basic("u", "p:w"));
        assert_eq!(read.of("r:5000"), basic("a", "b"));
        for other in ["r", "r:5001", "helped.example.org", "x"] {
            assert_eq!(read.of(other), RegistryAuth::Anonymous, "{other}");
        }
        assert!(!format!("{read:?}").contains("p:w"), "{read:?}");
        std::fs::write(&file, "{").unwrap();
        assert!(Credentials::read(|_| None, Some(&file)).unwrap_err().to_string().contains("config.json"));
    }

    #[test]
    fn the_environments_are_for_the_registry_that_it_names() {
        let environment = |set: &'static [(&str, &str)]| {
            move |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let all = environment(&[(REGISTRY, "r:5000"), (USER, "u"), (PASSWORD, "p")]);
        let read = Credentials::read(all, None).unwrap();
        assert_eq!(read.of("r:5000"), basic("u", "p"));
        assert_eq!(read.of("evil.example.org"), RegistryAuth::Anonymous);
        let half = environment(&[(USER, "u"), (PASSWORD, "p")]);
        assert!(Credentials::read(half, None).unwrap_err().to_string().contains(REGISTRY));
        assert_eq!(Credentials::read(|_| None, None).unwrap().of("r"), RegistryAuth::Anonymous);
    }
}
