//! Which node to ask: named contexts, and the node that was last started on this machine.
//!
//! In this order: `--socket` (or `LITTORAL_SOCKET`), `--context` (or `LITTORAL_CONTEXT`), the current context if one was
//! chosen, the node that this user started last if it still answers, and the usual places. So `littoral get nodes`
//! just works beside `littoral dev`, and a chosen context stays chosen.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Target};
use crate::failure::Usage;

/// The admin socket's name in a node's data directory.
pub(crate) const SOCKET_NAME: &str = "admin.sock";
/// The data directory of a node that is run by root and is not told otherwise.
const DATA_OF_ROOT: &str = "/var/lib/littoral";

/// The contexts of a user, as kept in `contexts.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// All of them, by name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Entry>,
}

/// One context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(crate) enum Entry {
    /// A node on this machine.
    Unix {
        /// Its socket.
        socket: PathBuf,
    },
    /// A node anywhere.
    Tls {
        /// Its admin address, `host:port`.
        address: String,
        /// The folder with the administrator's credentials.
        credentials: PathBuf,
        /// The node's name, where its certificate does not name the address's host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
}

impl From<&Entry> for Target {
    fn from(entry: &Entry) -> Self {
        match entry {
            Entry::Unix { socket } => Self::Unix(socket.clone()),
            Entry::Tls { address, credentials, node } => {
                Self::Tls { address: address.clone(), credentials: credentials.clone(), node: node.clone() }
            }
        }
    }
}

/// Where a user's files are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The file of contexts.
    pub(crate) contexts: PathBuf,
    /// The file that names the socket of the node last started.
    last_socket: PathBuf,
    /// The data directory of a node that is not told where.
    pub(crate) data: PathBuf,
    /// The components that `littoral run` has compiled.
    pub(crate) components: PathBuf,
    /// The user's own library of operators.
    pub(crate) library: PathBuf,
    /// Where nodes may be that this user did not start.
    usual_sockets: Vec<PathBuf>,
}

impl Places {
    /// From the environment, as the XDG Base Directory Specification has it.
    pub(crate) fn of_user() -> Self {
        Self::from_environment(|name| std::env::var_os(name).map(PathBuf::from), rustix::process::geteuid().is_root())
    }

    fn from_environment(get: impl Fn(&str) -> Option<PathBuf>, root: bool) -> Self {
        let home = get("HOME").unwrap_or_else(|| PathBuf::from("/"));
        let folder = |name: &str, fallback: &str| {
            // The specification says to ignore relative paths.
            get(name).filter(|path| path.is_absolute()).unwrap_or_else(|| home.join(fallback)).join("littoral")
        };
        let data = if root { PathBuf::from(DATA_OF_ROOT) } else { folder("XDG_DATA_HOME", ".local/share") };
        let usual_sockets = vec![data.join(SOCKET_NAME), Path::new(DATA_OF_ROOT).join(SOCKET_NAME)];
        Self {
            contexts: folder("XDG_CONFIG_HOME", ".config").join("contexts.toml"),
            last_socket: folder("XDG_STATE_HOME", ".local/state").join("last-socket"),
            data,
            components: folder("XDG_CACHE_HOME", ".cache").join("components"),
            library: folder("XDG_CONFIG_HOME", ".config").join("library"),
            usual_sockets,
        }
    }

    /// Remembers the socket of a node that was started, for commands that are not told which node to ask.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn record_socket(&self, socket: &Path) -> anyhow::Result<()> {
        let socket = std::path::absolute(socket)?;
        replace(&self.last_socket, socket.as_os_str().as_encoded_bytes())
    }

    /// The contexts.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub(crate) fn load(&self) -> anyhow::Result<Contexts> {
        match std::fs::read_to_string(&self.contexts) {
            Ok(text) => toml::from_str(&text).with_context(|| {
                format!("{} is not a file of contexts; mend it or remove it", self.contexts.display())
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Contexts::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.contexts.display())),
        }
    }

    /// Keeps the contexts.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self, contexts: &Contexts) -> anyhow::Result<()> {
        replace(&self.contexts, toml::to_string(contexts)?.as_bytes())
    }

    /// Which node to ask.
    ///
    /// # Errors
    /// When a context is named that does not exist, or nothing is known to ask.
    pub(crate) fn target(&self, socket: Option<&Path>, context: Option<&str>) -> anyhow::Result<Target> {
        if let Some(socket) = socket {
            // A data directory will do as well.
            let socket = if socket.is_dir() { socket.join(SOCKET_NAME) } else { socket.to_owned() };
            return Ok(Target::Unix(socket));
        }
        let contexts = self.load()?;
        if let Some(name) = context {
            return contexts.named(name).map(Target::from);
        }
        if let Some(name) = &contexts.current {
            return contexts.named(name).map(Target::from);
        }
        if let Some(socket) = self.last_socket().filter(|socket| answers(socket)) {
            return Ok(Target::Unix(socket));
        }
        let found = self.usual_sockets.iter().find(|socket| answers(socket)).or(self.usual_sockets.first());
        found.map(|socket| Target::Unix(socket.clone())).context("there is no place to look for a node")
    }

    /// A client for that node.
    ///
    /// # Errors
    /// As [`Self::target`].
    pub(crate) fn client(&self, socket: Option<&Path>, context: Option<&str>) -> anyhow::Result<Client> {
        self.target(socket, context).map(Client::new)
    }

    fn last_socket(&self) -> Option<PathBuf> {
        std::fs::read_to_string(&self.last_socket).ok().map(PathBuf::from)
    }
}

impl Contexts {
    /// The context of this name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn named(&self, name: &str) -> anyhow::Result<&Entry> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
            Usage::new(format!("there is no context `{name}` (there is: {known})"))
                .hint("add it with `littoral context add`")
                .into()
        })
    }
}

fn answers(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

/// Writes a file whole or not at all.
fn replace(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let new = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = std::fs::File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
#[path = "context_tests.rs"]
mod tests;
