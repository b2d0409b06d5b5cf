//! Where the admin API listens: a Unix socket for the same user, and TCP with mutual TLS for remote administrators.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many connections may be open at once: people and a few programs ask, each over one or two.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take for its TLS handshake, and then for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long running requests may go on after a stop was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before accepting again after accepting failed, for instance for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why the admin API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another process answers there.
    #[error("{path} is in use: a node runs on this data directory already; stop it, or choose another --data")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else in the way.
    #[error("{path} exists and is no socket; move it away")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot listen on {path}: {source}; a socket's path may have 107 bytes and its folder must be writable")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A bound Unix socket; the file is removed when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl AdminSocket {
    /// Listens at `path`, for the same user only. A socket that a dead process left there is replaced.
    ///
    /// # Errors
    /// When a live process listens there, something else is there, or the system refuses.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(ServeError::NoSocket { path: path.to_owned() });
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
                Ok(_) => return Err(ServeError::InUse { path: path.to_owned() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let inode = std::fs::symlink_metadata(path).map_err(failed)?.ino();
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Only ours: a later node may have replaced it.
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}

/// Serves the Unix socket until `shutdown`, then lets running requests end for a short while.
///
/// A connection of another user is closed at once, root's excepted: file modes alone leave a moment between binding
/// and restricting.
pub async fn serve_unix(socket: AdminSocket, router: Router, shutdown: CancellationToken) {
    let connections = Connections::new(router, shutdown);
    let ours = rustix::process::geteuid().as_raw();
    while let Some((permit, (stream, _))) = connections.next(|| socket.listener.accept()).await {
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == ours || peer.uid() == 0 => {
                connections.tasks.spawn(connections.serve(stream, permit));
            }
            Ok(peer) => tracing::warn!(uid = peer.uid(), "another user tried the admin socket"),
            Err(error) => tracing::warn!(%error, "cannot tell who tried the admin socket"),
        }
    }
    connections.drain().await;
}

/// Serves TCP with mutual TLS until `shutdown`, then lets running requests end for a short while. `tls` must demand a
/// client certificate, and `admits` says whether the one that was shown is an administrator's.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    admits: fn(&rustls::pki_types::CertificateDer<'_>) -> bool,
    router: Router,
    shutdown: CancellationToken,
) {
    let connections = Connections::new(router, shutdown);
    let acceptor = TlsAcceptor::from(tls);
    while let Some((permit, (stream, peer))) = connections.next(|| listener.accept()).await {
        let acceptor = acceptor.clone();
        let serving = connections.clone();
        connections.tasks.spawn(async move {
            let stream = match tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::info!(%peer, %error, "refused an admin connection"),
                Err(_) => return tracing::info!(%peer, "an admin connection did not finish its handshake in time"),
            };
            let certificates = stream.get_ref().1.peer_certificates();
            if !certificates.and_then(<[_]>::first).is_some_and(admits) {
                return tracing::warn!(%peer, "refused an admin connection: its certificate is no administrator's");
            }
            serving.serve(stream, permit).await;
        });
    }
    connections.drain().await;
}

/// What the two listeners share.
#[derive(Clone)]
struct Connections {
    router: Router,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
}

impl Connections {
    fn new(router: Router, shutdown: CancellationToken) -> Self {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { router, shutdown, tasks: TaskTracker::new(), permits }
    }

    /// The next connection, once there is room for it; none after the shutdown.
    async fn next<T, A>(&self, accept: impl Fn() -> A) -> Option<(OwnedSemaphorePermit, T)>
    where
        A: Future<Output = io::Result<T>>,
    {
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return None,
                accepted = async {
                    let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(io::Error::other)?;
                    Ok::<_, io::Error>((permit, accept().await?))
                } => accepted,
            };
            match accepted {
                Ok(accepted) => return Some(accepted),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Serves one connection until its end or the shutdown.
    fn serve<S>(&self, stream: S, permit: OwnedSemaphorePermit) -> impl Future<Output = ()> + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let shutdown = self.shutdown.clone();
        async move {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::time::timeout(DRAIN_TIMEOUT, connection).await.unwrap_or(Ok(()))
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "an admin connection broke");
            }
            drop(permit);
        }
    }

    async fn drain(self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
