//! What of its machine a node lets sources and sinks have: the folders that it offers, addresses that are granted, secrets of the app.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use littoral_connect::{Machine, Trouble};
use littoral_model::grant::Peer;
use littoral_model::id::AppId;
use littoral_runtime::{Access, Denied};

use crate::guests::Loader;

/// That for one app.
pub(crate) struct AppMachine {
    pub(crate) app: AppId,
    pub(crate) loader: Arc<Loader>,
}

#[async_trait]
impl Machine for AppMachine {
    fn folder(&self, path: &Path) -> Result<OwnedFd, Trouble> {
        self.loader.folder(path).map_err(|error| Trouble(format!("{}: {error:#}", path.display())))
    }

    async fn addresses(&self, grants: &[Peer], host: &str, port: u16) -> Result<Vec<SocketAddr>, Trouble> {
        // As for requests of functions: a name grants public addresses only.
        let access = Access { http: grants.to_vec(), ..Access::default() };
        access.http_addresses(host, port).await.map_err(|denied| {
            let unresolved = |error| Trouble(format!("{host} cannot be resolved: {error}"));
            match (denied.missing_grant(host, port), denied) {
                // Its grants stand beside its URL, not under `http` as a function's.
                (Some(_), Denied::Address(address)) => {
                    let ip = address.ip();
                    Trouble(format!("{host} leads to {ip}, which is not public; say `grants = [\"{ip}\"]` if it may"))
                }
                (Some(_), _) => {
                    Trouble(format!("{host}:{port} is not granted; say `grants = [\"{host}:{port}\"]` if it is to be"))
                }
                (None, Denied::Unresolved(error)) => unresolved(error.to_string()),
                (None, _) => unresolved("it is not granted".to_owned()),
            }
        })
    }

    async fn secret(&self, name: &str) -> Result<String, Trouble> {
        self.loader.secret(&self.app, name).await.map_err(|error| Trouble(format!("{error:#}")))
    }
}
