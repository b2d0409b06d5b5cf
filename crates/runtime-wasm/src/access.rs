//! What a guest may reach outside itself. Everything is linked, everything is denied until it is granted, and a denied
//! attempt names in the guest's log what is missing.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use littoral_model::grant::Peer;
use littoral_model::id::{BucketName, FunctionName, StreamName};
use tokio::sync::Semaphore;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use crate::fabric::Device;
use crate::logs::GuestOutput;

/// How long a name may take to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many names are resolved at once, each on a thread of its own: others wait within their time.
const LOOKUPS_MAX: usize = 32;

/// What a guest may reach outside itself; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Where it may send HTTP requests.
    pub http: Vec<Peer>,
    /// What its sockets may talk to, and where they may listen.
    pub sockets: Vec<Peer>,
    /// The folders that it sees.
    pub directories: Vec<Directory>,
    /// What paths of `directories` under `/proc/self/fd` stand for: open as long as this lives.
    pub held: Vec<Arc<OwnedFd>>,
    /// The devices that it may open.
    pub devices: Vec<Device>,
    /// The functions of its app that it may call.
    pub call: Vec<FunctionName>,
    /// The streams of its app that it may publish to.
    pub publish: Vec<StreamName>,
    /// The buckets of its app that it may use.
    pub keyvalue: Vec<BucketName>,
}

/// A folder of the machine that a guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Where the guest sees it.
    pub seen_at: String,
    /// Whether the guest may write to it.
    pub writable: bool,
}

impl Access {
    /// Gives a guest its folders and the rules for its sockets.
    ///
    /// # Errors
    /// When a folder cannot be opened.
    pub(crate) fn apply(self: &Arc<Self>, wasi: &mut WasiCtxBuilder, output: &GuestOutput) -> wasmtime::Result<()> {
        for directory in &self.directories {
            let permissions = if directory.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(&directory.path, &directory.seen_at, permissions).map_err(|error| {
                let (path, seen_at) = (directory.path.display(), &directory.seen_at);
                error.context(format!("the folder {path}, granted as {seen_at}, cannot be opened"))
            })?;
        }
        let any = !self.sockets.is_empty();
        wasi.allow_tcp(any).allow_udp(any).allow_ip_name_lookup(any);
        if any {
            let (access, output) = (Arc::clone(self), output.clone());
            wasi.socket_addr_check(move |address, usage| {
                let (access, output) = (Arc::clone(&access), output.clone());
                Box::pin(async move {
                    let granted = access.grants_socket(address, usage).await;
                    if !granted {
                        output.host_line(&format!(
                            "a socket to {address} was denied; grant it with `sockets = [\"{address}\"]`"
                        ));
                    }
                    granted
                })
            });
        }
        Ok(())
    }

    /// Whether a socket may talk to an address: a range covers it, or a granted name is resolved to it now.
    async fn grants_socket(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        // Before it connects, a socket is bound to any address and port of its own; that reaches nothing. To listen there
        // is another matter.
        let binds = matches!(usage, SocketAddrUse::TcpBind | SocketAddrUse::UdpBind);
        if binds && address.ip().is_unspecified() && address.port() == 0 {
            return true;
        }
        let host = address.ip().to_string();
        if self.sockets.iter().any(|peer| peer.grants(&host, address)) {
            return true;
        }
        for peer in &self.sockets {
            let Some(name) = peer.name() else { continue };
            if let Ok(mut found) = resolve(name, address.port()).await
                && found.any(|found| found == address && peer.grants(name, found))
            {
                return true;
            }
        }
        false
    }

    /// The addresses of a host to which HTTP requests are granted, checked after its name was resolved: whoever connects to one of these,
    /// and resolves nothing again, reaches nothing else.
    ///
    /// # Errors
    /// When none is granted, or there is none.
    pub async fn http_addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Denied> {
        if !self.http.iter().any(|peer| peer.may_grant(host, port)) {
            return Err(Denied::NotGranted);
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = resolve(bare, port).await.map_err(Denied::Unresolved)?;
        let (granted, refused): (Vec<_>, Vec<_>) =
            found.partition(|address| self.http.iter().any(|peer| peer.grants(bare, *address)));
        match refused.first() {
            Some(refused) if granted.is_empty() => Err(Denied::Address(*refused)),
            _ => Ok(granted),
        }
    }
}

/// Why a request may not be sent.
#[derive(Debug)]
pub enum Denied {
    /// No grant names the host and port.
    NotGranted,
    /// The name leads to an address that it does not grant.
    Address(SocketAddr),
    /// The name leads nowhere.
    Unresolved(std::io::Error),
}

impl Denied {
    /// What the log of the function says of a request to such a host and port, with the grant that is missing; nothing if none is.
    #[must_use]
    pub fn missing_grant(&self, host: &str, port: u16) -> Option<String> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match self {
            Self::NotGranted => {
                Some(format!("a request to {host}:{port} was denied; grant it with `http = [\"{host}:{port}\"]`"))
            }
            Self::Address(address) => {
                let ip = address.ip();
                Some(format!(
                    "a request to {host} was denied: it leads to {ip}, which is not public; grant it with `http = [\"{ip}\"]`"
                ))
            }
            Self::Unresolved(_) => None,
        }
    }
}

async fn resolve(host: &str, port: u16) -> std::io::Result<impl Iterator<Item = SocketAddr>> {
    static LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LOOKUPS_MAX)));
    let host = host.to_owned();
    let looked_up = async {
        let permit = Arc::clone(&LOOKUPS).acquire_owned().await.map_err(std::io::Error::other)?;
        // Nothing ends a lookup that has begun: its place is taken for as long as it lasts, also when nobody waits for it any more.
        let looking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>)
        });
        looking.await.map_err(std::io::Error::other)?
    };
    let found = tokio::time::timeout(RESOLVE_TIMEOUT, looked_up).await;
    Ok(found.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??.into_iter())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_socket_talks_and_listens_only_where_it_is_granted() {
        let access = Access { sockets: vec!["127.0.0.1:7000".parse().unwrap()], ..Access::default() };
        for (address, usage, granted) in [
            ("127.0.0.1:7000", SocketAddrUse::TcpConnect, true),
            ("127.0.0.1:7000", SocketAddrUse::TcpListen, true),
            ("127.0.0.1:7001", SocketAddrUse::TcpConnect, false),
            ("0.0.0.0:0", SocketAddrUse::TcpBind, true),
            ("[::]:0", SocketAddrUse::UdpBind, true),
            ("0.0.0.0:0", SocketAddrUse::TcpListen, false),
            ("0.0.0.0:7000", SocketAddrUse::TcpBind, false),
        ] {
            assert_eq!(access.grants_socket(address.parse().unwrap(), usage).await, granted, "{usage:?} {address}");
        }
    }
}
