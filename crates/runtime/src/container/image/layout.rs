//! Reads an OCI image layout, in a folder or in an archive of one: which image it has, and the content of its blobs.
//!
//! The format is that of the OCI image specification 1.1 (`index.json`, `oci-layout`, `blobs/sha256`). What is read here is small and
//! bounded; blobs are checked against their digest and size while they are read, so that a damaged one is never taken for whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// An index, a manifest or the configuration of an image; some KiB in practice.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Overlay file systems take no more than this, and so do other engines.
pub(super) const LAYERS_MAX: usize = 127;
/// How many blobs an archive may have.
const BLOBS_MAX: usize = 4_096;
/// An index may name indexes, one for each platform's images.
pub(super) const INDEX_DEPTH_MAX: usize = 4;
pub(super) const INDEX: &str = "index.json";
pub(super) const BLOBS: &str = "blobs/sha256";

/// Why there is no image to be had from a file or folder.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It cannot be read.
    #[error("cannot read {what}: {error}")]
    Read {
        /// What of it.
        what: String,
        /// What the system says.
        error: io::Error,
    },
    /// It has another form.
    #[error(
        "it is no OCI image layout: {0}; make one with `docker buildx build --output type=oci`, `buildah push … oci:` or `skopeo copy`"
    )]
    Form(String),
    /// It has no image for this machine.
    #[error("it has no image for {platform}; it has {found}")]
    Platform {
        /// This machine's.
        platform: String,
        /// Those that there are.
        found: String,
    },
    /// A blob is not what its digest or size says.
    #[error("the blob {digest} is not what it is called: {reason}")]
    Digest {
        /// As it is named.
        digest: String,
        /// What it has instead.
        reason: String,
    },
    /// It is compressed in a way that is not read.
    #[error("the layer {digest} is of the type {media_type}, which is not read; build it with gzip, or uncompressed")]
    Compression {
        /// Which layer.
        digest: String,
        /// What it says it is.
        media_type: String,
    },
}

/// Names a blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Index {
    manifests: Vec<Descriptor>,
}

impl Index {
    /// The image, or the index of images, for Linux on such a processor.
    pub(super) fn of(&self, architecture: &str) -> Option<&Descriptor> {
        let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture;
        self.manifests.iter().find(|named| named.platform.as_ref().is_some_and(fits))
    }

    /// What it has instead, in words.
    pub(super) fn platforms(&self) -> String {
        let name = |named: &Descriptor| {
            let platform = named.platform.as_ref();
            platform.map_or("one of no platform".to_owned(), |it| format!("{}/{}", it.os, it.architecture))
        };
        let found: Vec<String> = self.manifests.iter().take(LAYERS_MAX).map(name).collect();
        if found.is_empty() { "none".to_owned() } else { found.join(", ") }
    }
}

/// An image: its configuration and its layers, the lowest first.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What an image says of how it is run, as far as we follow it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// How it is started.
    #[serde(default)]
    pub config: Execution,
    /// The digests of its layers when they are not compressed.
    pub(crate) rootfs: RootFs,
}

impl ImageConfig {
    /// Whether an image of so many layers can be of this configuration.
    pub(super) fn has_layers(&self, layers: usize) -> Result<(), LayoutError> {
        let named = self.rootfs.diff_ids.len();
        if layers <= LAYERS_MAX && layers == named {
            return Ok(());
        }
        let message = format!("it has {layers} layers (at most {LAYERS_MAX}), and its configuration names {named}");
        Err(LayoutError::Form(message))
    }
}

/// How an image is started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Execution {
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_none")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(deserialize_with = "null_is_none")]
    pub entrypoint: Vec<String>,
    /// The arguments after these.
    #[serde(deserialize_with = "null_is_none")]
    pub cmd: Vec<String>,
    /// `user`, `user:group` or numbers; root if empty.
    pub user: String,
    /// Where it is started.
    pub working_dir: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Vec<String>,
}

/// Builders write `null` for an empty list.
fn null_is_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An image layout that is open.
#[derive(Debug)]
pub struct Layout {
    place: Place,
    /// The digest of its manifest, which names the image: 64 hexadecimal digits of a SHA-256.
    digest: String,
    pub(crate) manifest: Manifest,
    config: ImageConfig,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    /// Where in the archive the blobs are, and how long they are.
    Archive {
        file: PathBuf,
        blobs: BTreeMap<String, (u64, u64)>,
    },
}

impl Layout {
    /// Opens a layout's folder, or an archive of one (tar, not compressed), and reads which image it has for this machine.
    ///
    /// # Errors
    /// When it has none, or does not have the form of one.
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        let kind = path.metadata().map_err(|error| LayoutError::Read { what: path.display().to_string(), error })?;
        let place = if kind.is_dir() { Place::Folder(path.to_owned()) } else { Place::archive(path)? };
        let index: Index = parse(INDEX, &place.read(INDEX)?)?;
        let descriptor = place.choose(index, 0)?;
        let manifest: Manifest = parse("the manifest", &place.document(&descriptor)?)?;
        let config: ImageConfig = parse("the configuration", &place.document(&manifest.config)?)?;
        config.has_layers(manifest.layers.len())?;
        Ok(Self { place, digest: hex_of(&descriptor.digest)?.to_owned(), manifest, config })
    }

    /// The digest of its manifest, which names the image: 64 hexadecimal digits of a SHA-256.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How it is run.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The content of a blob, which must be read to its end and [`finished`](Checked::finish).
    pub(crate) fn blob(&self, descriptor: &Descriptor) -> Result<Checked<Box<dyn Read>>, LayoutError> {
        self.place.blob(descriptor)
    }
}

/// An archive of a layout's folder, the same for the same content.
///
/// # Errors
/// When something of it cannot be read.
pub fn pack(folder: &Path) -> io::Result<Vec<u8>> {
    let mut blobs: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder.join(BLOBS))? {
        blobs.push(Path::new(BLOBS).join(entry?.file_name()));
    }
    blobs.sort();
    let mut archive = tar::Builder::new(Vec::new());
    for path in blobs.iter().map(PathBuf::as_path).chain([Path::new(INDEX)]) {
        let file = File::open(folder.join(path))?;
        append(&mut archive, path, file.metadata()?.len(), file)?;
    }
    archive.into_inner()
}

/// Adds a file to an archive; nothing of the moment is in it.
pub(super) fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &Path,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, content)
}

impl Place {
    /// Finds where in an archive the blobs are.
    fn archive(path: &Path) -> Result<Self, LayoutError> {
        let unread = |error| LayoutError::Read { what: path.display().to_string(), error };
        let form = |error: io::Error| LayoutError::Form(format!("it is no archive (tar, not compressed): {error}"));
        let mut archive = tar::Archive::new(File::open(path).map_err(unread)?);
        let mut blobs = BTreeMap::new();
        for entry in archive.entries_with_seek().map_err(form)? {
            let entry = entry.map_err(form)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path_bytes();
            let name = name.strip_prefix(b"./").unwrap_or(&name);
            let Ok(name) = std::str::from_utf8(name) else { continue };
            if blobs.insert(name.to_owned(), (entry.raw_file_position(), entry.size())).is_some() {
                return Err(LayoutError::Form(format!("it has `{name}` twice")));
            }
            if blobs.len() > BLOBS_MAX {
                return Err(LayoutError::Form(format!("it has more than {BLOBS_MAX} files")));
            }
        }
        Ok(Self::Archive { file: path.to_owned(), blobs })
    }

    /// The descriptor of the manifest for this machine.
    fn choose(&self, index: Index, depth: usize) -> Result<Descriptor, LayoutError> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        // A layout of one image need not say what it is for.
        let only = || index.manifests.first().filter(|named| index.manifests.len() == 1 && named.platform.is_none());
        let Some(descriptor) = index.of(architecture).or_else(only) else {
            let (platform, found) = (format!("linux/{architecture}"), index.platforms());
            return Err(LayoutError::Platform { platform, found });
        };
        if !descriptor.media_type.contains("index") && !descriptor.media_type.contains("manifest.list") {
            return Ok(descriptor.clone());
        }
        if depth >= INDEX_DEPTH_MAX {
            return Err(LayoutError::Form("its indexes are nested too deeply".to_owned()));
        }
        self.choose(parse("an index", &self.document(descriptor)?)?, depth + 1)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        if descriptor.size > DOCUMENT_BYTES_MAX {
            return Err(LayoutError::Form(format!(
                "{} has {} bytes, more than {DOCUMENT_BYTES_MAX}",
                descriptor.digest, descriptor.size
            )));
        }
        let mut blob = self.blob(descriptor)?;
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(|error| LayoutError::Read { what: descriptor.digest.clone(), error })?;
        blob.finish()?;
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Checked<Box<dyn Read>>, LayoutError> {
        let name = format!("{BLOBS}/{}", hex_of(&descriptor.digest)?);
        let content = self.open(&name)?;
        Ok(Checked::new(
            Box::new(content.take(descriptor.size.saturating_add(1))),
            &descriptor.digest,
            Some(descriptor.size),
        ))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, LayoutError> {
        let mut bytes = Vec::new();
        let read = self.open(name)?.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes);
        read.map_err(|error| LayoutError::Read { what: name.to_owned(), error })?;
        Ok(bytes)
    }

    fn open(&self, name: &str) -> Result<Box<dyn Read>, LayoutError> {
        let unread = |error| LayoutError::Read { what: name.to_owned(), error };
        match self {
            Self::Folder(folder) => match File::open(folder.join(name)) {
                Ok(file) if file.metadata().is_ok_and(|kind| kind.is_file()) => Ok(Box::new(file)),
                Ok(_) => Err(LayoutError::Form(format!("`{name}` is no file"))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(LayoutError::Form(format!("there is no `{name}`")))
                }
                Err(error) => Err(unread(error)),
            },
            Self::Archive { file, blobs } => {
                let (start, size) =
                    *blobs.get(name).ok_or_else(|| LayoutError::Form(format!("there is no `{name}`")))?;
                let mut file = File::open(file).map_err(unread)?;
                file.seek(SeekFrom::Start(start)).map_err(unread)?;
                Ok(Box::new(file.take(size)))
            }
        }
    }
}

/// Hashes what is read through it.
pub(crate) struct Checked<R> {
    inner: R,
    hash: Context,
    read: u64,
    digest: String,
    size: Option<u64>,
}

impl<R: Read> Checked<R> {
    pub(crate) fn new(inner: R, digest: &str, size: Option<u64>) -> Self {
        Self { inner, hash: Context::new(&SHA256), read: 0, digest: digest.to_owned(), size }
    }

    /// Whether what was read is what it is called. Whatever follows must have been read.
    pub(crate) fn finish(self) -> Result<(), LayoutError> {
        let wrong = |reason| Err(LayoutError::Digest { digest: self.digest.clone(), reason });
        if let Some(size) = self.size.filter(|size| *size != self.read) {
            let read = if self.read > size { "more".to_owned() } else { self.read.to_string() };
            return wrong(format!("it has {read} bytes, and should have {size}"));
        }
        let found = format!("sha256:{}", hex(self.hash.finish().as_ref()));
        if found == self.digest { Ok(()) } else { wrong(format!("its content is {found}")) }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        self.read += read as u64;
        Ok(read)
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|error| LayoutError::Form(format!("{what} is not as it should be: {error}")))
}

/// The hexadecimal digits of a SHA-256, which may name a file.
pub(super) fn hex_of(digest: &str) -> Result<&str, LayoutError> {
    let digits = digest.strip_prefix("sha256:");
    let valid =
        |digits: &&str| digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    digits.filter(valid).ok_or_else(|| LayoutError::Form(format!("`{digest}` is no SHA-256 digest")))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
