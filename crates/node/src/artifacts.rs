//! The artefacts of apps, kept by their SHA-256, and fetched from other nodes when they are missing.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use littoral_mesh::{Call, Mesh, Method, Priority};
use littoral_model::id::NodeId;
use littoral_model::wire;
use serde::{Deserialize, Serialize};

use crate::admin::exchange::artifact_digest;
use crate::admin::router::ARTIFACT_BYTES_MAX;

/// How much of an artefact one message carries: little enough not to hold up other traffic for long.
const CHUNK_BYTES: usize = 512 << 10;
/// How long an artefact that no app names is kept: one that was uploaded is about to be deployed, and one that was
/// replaced may be deployed again.
const UNNAMED_KEPT: Duration = Duration::from_secs(24 * 3_600);
/// How long one chunk may take: half a megabyte over a bad link.
const CHUNK_DEADLINE: Duration = Duration::from_secs(20);

/// Why an artefact is not to be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("`{0}` is no digest; expected 64 lower-case hexadecimal digits of a SHA-256")]
    InvalidDigest(String),
    /// Larger than [`ARTIFACT_BYTES_MAX`].
    #[error("the artefact has {0} bytes; at most {ARTIFACT_BYTES_MAX} are kept: strip debug information from it")]
    TooLarge(usize),
    /// Nobody who can be reached has it.
    #[error("no reachable node holds the artefact {0}; deploy the app again from where it was built")]
    Missing(String),
    /// The disk failed.
    #[error("the artefact {digest} cannot be kept in {path}: {reason}")]
    Disk {
        /// Which artefact.
        digest: String,
        /// Where.
        path: String,
        /// What the system says.
        reason: String,
    },
}

/// A request for a part of an artefact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ChunkRequest {
    digest: String,
    offset: u64,
}

/// A part of an artefact, or nothing if the node does not hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Chunk {
    total: u64,
    bytes: Bytes,
}

/// The folder of artefacts of this node.
#[derive(Debug, Clone)]
pub(crate) struct Artifacts {
    folder: PathBuf,
}

impl Artifacts {
    /// Opens the folder, making it if need be.
    pub(crate) fn open(folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Where an artefact is, if it is here.
    pub(crate) fn file(&self, digest: &str) -> Result<PathBuf, ArtifactError> {
        self.path(digest)
    }

    /// Whether an artefact is here.
    pub(crate) fn has(&self, digest: &str) -> Result<bool, ArtifactError> {
        Ok(self.path(digest)?.exists())
    }

    /// The digests of the artefacts that came here last, at most so many.
    pub(crate) fn latest(&self, most: usize) -> Vec<String> {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<_> = files
            .filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.file_name().into_string().ok()?)))
            .filter(|(_, digest)| self.path(digest).is_ok())
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().take(most).map(|(_, digest)| digest).collect()
    }

    /// Keeps an artefact; answers its digest once it is on disk.
    pub(crate) async fn put(&self, bytes: Bytes) -> Result<String, ArtifactError> {
        if bytes.len() > ARTIFACT_BYTES_MAX {
            return Err(ArtifactError::TooLarge(bytes.len()));
        }
        let digest = artifact_digest(&bytes);
        let path = self.path(&digest)?;
        if path.exists() {
            return Ok(digest);
        }
        let written =
            tokio::task::spawn_blocking(move || write_durably(&path, &bytes).map_err(|error| (path, error))).await;
        match written {
            Ok(Ok(())) => Ok(digest),
            Ok(Err((path, error))) => Err(disk(&digest, &path, &error)),
            Err(_) => Err(ArtifactError::Missing(digest)),
        }
    }

    /// Reads an artefact of this node; a damaged one is removed, as if it had never been here.
    pub(crate) async fn get(&self, digest: &str) -> Result<Option<Bytes>, ArtifactError> {
        let path = self.path(digest)?;
        let bytes = match tokio::fs::read(&path).await {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk(digest, &path, &error)),
        };
        if artifact_digest(&bytes) == digest {
            return Ok(Some(bytes));
        }
        tracing::warn!(digest, path = %path.display(), "an artefact is damaged on disk; it will be fetched anew");
        tokio::fs::remove_file(&path).await.map_err(|error| disk(digest, &path, &error))?;
        Ok(None)
    }

    /// An artefact from here, or else from the first of `holders` that has it.
    pub(crate) async fn fetch(
        &self,
        mesh: &Arc<dyn Mesh>,
        digest: &str,
        holders: &[NodeId],
    ) -> Result<Bytes, ArtifactError> {
        if let Some(bytes) = self.get(digest).await? {
            return Ok(bytes);
        }
        for holder in holders.iter().filter(|holder| *holder != mesh.node()) {
            match download(mesh, digest, holder).await {
                Ok(Some(bytes)) if artifact_digest(&bytes) == digest => {
                    self.put(bytes.clone()).await?;
                    return Ok(bytes);
                }
                Ok(Some(_)) => {
                    tracing::warn!(digest, %holder, "a node sent an artefact that does not match its digest")
                }
                Ok(None) => {}
                Err(reason) => tracing::debug!(digest, %holder, reason, "an artefact could not be fetched from a node"),
            }
        }
        Err(ArtifactError::Missing(digest.to_owned()))
    }

    /// Deletes artefacts that no deployed app names and that were not written lately; how many.
    pub(crate) async fn sweep(&self, named: BTreeSet<String>) -> std::io::Result<usize> {
        let folder = self.folder.clone();
        let swept = tokio::task::spawn_blocking(move || {
            let mut count = 0;
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let old = entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > UNNAMED_KEPT);
                if old && !entry.file_name().to_str().is_some_and(|name| named.contains(name)) {
                    std::fs::remove_file(entry.path())?;
                    count += 1;
                }
            }
            Ok(count)
        });
        swept.await.map_err(std::io::Error::other)?
    }

    /// Answers another node's [`Method::Artifact`].
    pub(crate) async fn answer(&self, payload: &[u8]) -> Result<Bytes, String> {
        let request: ChunkRequest = wire::decode(payload).map_err(|error| error.to_string())?;
        let path = self.path(&request.digest).map_err(|error| error.to_string())?;
        let chunk = tokio::task::spawn_blocking(move || read_chunk(&path, request.offset)).await;
        let chunk = chunk.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        wire::encode(&chunk).map_err(|error| error.to_string())
    }

    fn path(&self, digest: &str) -> Result<PathBuf, ArtifactError> {
        let valid = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid { Ok(self.folder.join(digest)) } else { Err(ArtifactError::InvalidDigest(digest.to_owned())) }
    }
}

async fn download(mesh: &Arc<dyn Mesh>, digest: &str, holder: &NodeId) -> Result<Option<Bytes>, String> {
    let mut bytes = Vec::new();
    loop {
        let request = ChunkRequest { digest: digest.to_owned(), offset: bytes.len() as u64 };
        let payload = wire::encode(&request).map_err(|error| error.to_string())?;
        let call = Call::new(Method::Artifact, payload, Priority::Bulk, CHUNK_DEADLINE, mesh.invocation());
        let reply = mesh.call(holder, call).await.map_err(|error| error.to_string())?;
        let chunk: Option<Chunk> = wire::decode(&reply).map_err(|error| error.to_string())?;
        let Some(chunk) = chunk else { return Ok(None) };
        if chunk.total as usize > ARTIFACT_BYTES_MAX {
            return Err(ArtifactError::TooLarge(chunk.total as usize).to_string());
        }
        bytes.extend_from_slice(&chunk.bytes);
        if bytes.len() as u64 >= chunk.total || chunk.bytes.is_empty() {
            return Ok(Some(Bytes::from(bytes)));
        }
    }
}

fn read_chunk(path: &Path, offset: u64) -> std::io::Result<Option<Chunk>> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let total = file.metadata()?.len();
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(CHUNK_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(Some(Chunk { total, bytes: Bytes::from(bytes) }))
}

/// Writes a file so that after a crash it is there whole or not at all.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("part");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn disk(digest: &str, path: &Path, error: &std::io::Error) -> ArtifactError {
    ArtifactError::Disk { digest: digest.to_owned(), path: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[tokio::test]
    async fn a_damaged_artefact_is_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path().join("artifacts")).unwrap();
        let digest = artifacts.put(Bytes::from_static(b"component")).await.unwrap();
        assert_eq!(artifacts.get(&digest).await.unwrap().unwrap(), "component");
        std::fs::write(folder.path().join("artifacts").join(&digest), b"compromised").unwrap();
        assert!(artifacts.get(&digest).await.unwrap().is_none());
        assert!(!artifacts.has(&digest).unwrap());
    }

    #[tokio::test]
    async fn what_nobody_names_is_deleted_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path().to_owned()).unwrap();
        let mut digests = Vec::new();
        for content in ["named", "old", "fresh"] {
            digests.push(artifacts.put(Bytes::from(content)).await.unwrap());
        }
        for digest in &digests[..2] {
            let file = std::fs::File::options().write(true).open(folder.path().join(digest)).unwrap();
            file.set_modified(std::time::SystemTime::now() - 2 * UNNAMED_KEPT).unwrap();
        }
        assert_eq!(artifacts.sweep(BTreeSet::from([digests[0].clone()])).await.unwrap(), 1);
        assert!(artifacts.has(&digests[0]).unwrap() && artifacts.has(&digests[2]).unwrap());
    }

    #[test]
    fn a_digest_is_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path().to_owned()).unwrap();
        assert!(artifacts.has("../../etc/passwd").is_err());
    }
}
