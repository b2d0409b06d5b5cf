//! The sessions of clients that may return, on disk: a file each, so that one that is kept costs nobody else anything.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use async_trait::async_trait;
use littoral_gateway::mqtt::{Keep, KeepError, SessionKey, Stored};
use littoral_mesh::identity::unix_now;
use littoral_model::file_header;
use ring::digest;
use serde::{Deserialize, Serialize};

use crate::artifacts::write_durably;
use crate::sync::lock;

/// The first bytes of a session's file.
const MAGIC: [u8; 8] = *b"LITMQTTS";
/// The version of its content.
const VERSION: u32 = 1;
/// How many sessions are kept; beyond that, those whose time is over are looked for, and then none is added.
const SESSIONS_MAX: usize = 10_000;
/// What the name of a session's file ends with.
const EXTENSION: &str = "session";

/// A session's file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    user: String,
    client: String,
    ends_unix: u64,
    stored: Stored,
}

/// A folder of sessions.
#[derive(Debug)]
pub(crate) struct Sessions(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// How many there are.
    count: Mutex<usize>,
}

impl Sessions {
    /// Opens the folder; forgets the sessions whose time is over.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn open(path: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let folder = Folder { path, count: Mutex::new(0) };
        let count = folder.sweep(unix_now()).with_context(|| format!("cannot read {}", folder.path.display()))?;
        *lock(&folder.count) = count;
        Ok(Self(Arc::new(folder)))
    }

    async fn with<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Folder) -> Result<T, KeepError> + Send + 'static,
    ) -> Result<T, KeepError> {
        let folder = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || run(&folder)).await;
        done.map_err(|error| KeepError(error.to_string()))?
    }
}

#[async_trait]
impl Keep for Sessions {
    async fn load(&self, session: &SessionKey) -> Result<Option<Stored>, KeepError> {
        let session = session.clone();
        self.with(move |folder| folder.load(&session, unix_now())).await
    }

    async fn save(&self, session: &SessionKey, stored: Stored) -> Result<(), KeepError> {
        let session = session.clone();
        self.with(move |folder| folder.save(&session, stored, unix_now())).await
    }

    async fn remove(&self, session: &SessionKey) -> Result<(), KeepError> {
        let session = session.clone();
        self.with(move |folder| folder.remove(&folder.path_of(&session))).await
    }
}

impl Folder {
    fn path_of(&self, session: &SessionKey) -> PathBuf {
        // Names may have any characters, and there is none that both cannot have but this one.
        let name = digest::digest(&digest::SHA256, format!("{}\0{}", session.user, session.client).as_bytes());
        let name: String = name.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        self.path.join(name).with_extension(EXTENSION)
    }

    fn load(&self, session: &SessionKey, now: u64) -> Result<Option<Stored>, KeepError> {
        let path = self.path_of(session);
        match read(&path)? {
            Some(kept) if kept.ends_unix > now && (&kept.user, &kept.client) == (&session.user, &session.client) => {
                Ok(Some(kept.stored))
            }
            Some(_) => self.remove(&path).map(|()| None),
            None => Ok(None),
        }
    }

    fn save(&self, session: &SessionKey, stored: Stored, now: u64) -> Result<(), KeepError> {
        let path = self.path_of(session);
        let failed = |error: &dyn std::fmt::Display| KeepError(format!("{}: {error}", path.display()));
        // Held while it is written: the number of files is what it says.
        let mut count = lock(&self.count);
        let is_new = !path.exists();
        if is_new && *count >= SESSIONS_MAX {
            *count = self.sweep(now)?;
            if *count >= SESSIONS_MAX {
                return Err(KeepError(format!("{SESSIONS_MAX} sessions are kept; wait until some have ended")));
            }
        }
        let ends_unix = now.saturating_add(u64::from(stored.expiry_s));
        let kept = Kept { user: session.user.clone(), client: session.client.clone(), ends_unix, stored };
        let body = serde_json::to_vec(&kept).map_err(|error| failed(&error))?;
        write_durably(&path, &file_header::seal(MAGIC, VERSION, &body)).map_err(|error| failed(&error))?;
        *count += usize::from(is_new);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), KeepError> {
        let mut count = lock(&self.count);
        match std::fs::remove_file(path) {
            Ok(()) => *count = count.saturating_sub(1),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(KeepError(format!("{}: {error}", path.display()))),
        }
        Ok(())
    }

    /// Removes what is over and what cannot be read; how many are left.
    fn sweep(&self, now: u64) -> Result<usize, KeepError> {
        let failed = |error: std::io::Error| KeepError(format!("{}: {error}", self.path.display()));
        let mut left = 0;
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let is_left = path.extension().is_some_and(|extension| extension == EXTENSION)
                && matches!(read(&path), Ok(Some(kept)) if kept.ends_unix > now);
            if is_left {
                left += 1;
            } else {
                std::fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(left)
    }
}

fn read(path: &Path) -> Result<Option<Kept>, KeepError> {
    let failed = |error: &dyn std::fmt::Display| KeepError(format!("{}: {error}", path.display()));
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let name = path.display().to_string();
    let body = file_header::open(&bytes, MAGIC, VERSION, &name).map_err(|error| failed(&error))?;
    serde_json::from_slice(body).map(Some).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(client: &str) -> SessionKey {
        SessionKey { user: "u".to_owned(), client: client.to_owned() }
    }

    #[test]
    fn a_session_is_kept_until_its_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = Sessions::open(folder.path().join("sessions")).unwrap().0;
        let stored = Stored { subscriptions: vec![("a/#".to_owned(), 1)], feeds: Vec::new(), expiry_s: 60 };
        let now = unix_now();
        sessions.save(&key("a"), stored.clone(), now).unwrap();
        sessions.save(&key("b"), stored.clone(), now - 60).unwrap();
        assert_eq!(sessions.load(&key("a"), now + 59).unwrap(), Some(stored.clone()));
        assert_eq!(sessions.load(&key("c"), now).unwrap(), None);
        drop(sessions);
        let sessions = Sessions::open(folder.path().join("sessions")).unwrap().0;
        assert_eq!(*lock(&sessions.count), 1, "the other's time is over");
        assert_eq!(sessions.load(&key("a"), now + 60).unwrap(), None);
        assert_eq!(*lock(&sessions.count), 0);
    }
}
