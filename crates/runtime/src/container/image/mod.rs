//! Images of containers: read from a layout and unpacked once, by digest, below a node's data directory.
//!
//! [`layout`] reads what an image consists of, [`gather`] puts an archive of a layout together from what a registry has, [`layer`] unpacks one layer, [`root`] keeps what it writes within the image. What is
//! unpacked is read-only from then on and shared by all containers of the image.

pub mod gather;
pub mod layer;
pub mod layout;
pub mod root;

use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use layer::{Bounds, LayerError};
use layout::{Checked, Descriptor, ImageConfig, Layout, LayoutError};
use root::{Owners, Root};

/// What a folder's name begins with while it is being filled, before a number.
const PART: &str = "part-";
/// Passable, not readable: root within a container is somebody else here.
const FOLDER_MODE: u32 = 0o711;

/// Why an image was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is no image, or a damaged one.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A layer was refused.
    #[error("the layer {layer} is refused: {error}")]
    Layer {
        /// Its digest.
        layer: String,
        /// Why.
        error: LayerError,
    },
    /// The disk failed.
    #[error("the image cannot be unpacked into {path}: {error}")]
    Disk {
        /// Where.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
}

/// An image that lies unpacked on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The root of its files.
    pub root: PathBuf,
    /// The digest of its manifest.
    pub digest: String,
    /// How it is run.
    pub config: ImageConfig,
}

/// The folder of unpacked images.
#[derive(Debug)]
pub struct Images {
    folder: PathBuf,
    owners: Option<Owners>,
    bounds: Bounds,
    /// How many were begun. One at a time: who waits finds it unpacked, and the disk is one.
    unpacking: Mutex<u64>,
}

impl Images {
    /// Opens the folder, making it if need be, and removes what was left half unpacked. Files belong to `owners`, or to this process
    /// where there are none.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: PathBuf, owners: Option<Owners>, bounds: Bounds) -> Result<Self, ImageError> {
        let opened = || {
            fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&folder)?;
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(PART) {
                    remove(&entry.path());
                }
            }
            Ok(())
        };
        opened().map_err(|error| disk(&folder, error))?;
        Ok(Self { folder, owners, bounds, unpacking: Mutex::default() })
    }

    /// Unpacks an image unless that was done before. It blocks the thread, seconds for a large image.
    ///
    /// # Errors
    /// When a layer is refused or damaged, or the disk fails; nothing is left then.
    pub fn unpack(&self, layout: &Layout) -> Result<Image, ImageError> {
        // Other owners need other files.
        let name = match self.owners {
            Some(owners) => format!("{}-{}", layout.digest(), owners.first),
            None => layout.digest().to_owned(),
        };
        let root = self.folder.join(name);
        let image = Image { root: root.clone(), digest: layout.digest().to_owned(), config: layout.config().clone() };
        let mut begun = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        if root.is_dir() {
            return Ok(image);
        }
        *begun += 1;
        // Another name each time: one that could not be removed is in nobody's way.
        let part = Part(self.folder.join(format!("{PART}{}-{begun}", std::process::id())));
        fs::create_dir(&part.0).map_err(|error| disk(&part.0, error))?;
        let layers = Root::open(&part.0, self.owners).map_err(|error| disk(&part.0, error.into()))?;
        let mut bounds = self.bounds;
        for (descriptor, diff_id) in layout.manifest.layers.iter().zip(&layout.config().rootfs.diff_ids) {
            unpack_layer(layout, descriptor, diff_id, &layers, &mut bounds)?;
        }
        layers.sync().map_err(|error| disk(&part.0, error.into()))?;
        fs::rename(&part.0, &root).map_err(|error| disk(&root, error))?;
        Ok(image)
    }

    /// Removes the images that no container needs.
    ///
    /// # Errors
    /// When the folder cannot be read. What cannot be removed is left.
    pub fn sweep(&self, is_needed: impl Fn(&Path) -> bool) -> Result<(), ImageError> {
        let _alone = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in fs::read_dir(&self.folder).map_err(|error| disk(&self.folder, error))? {
            let path = entry.map_err(|error| disk(&self.folder, error))?.path();
            if !is_needed(&path) {
                remove(&path);
            }
        }
        Ok(())
    }
}

/// Removes a folder. What cannot be removed is in the way of nothing else.
fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "what is left of an image cannot be removed");
        }
        _ => {}
    }
}

/// A folder that is being filled.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // If it was finished, it has another name by now.
        remove(&self.0);
    }
}

/// Unpacks a layer, and checks its digests, that of what is stored and that of what it contains.
fn unpack_layer(
    layout: &Layout,
    descriptor: &Descriptor,
    diff_id: &str,
    root: &Root,
    bounds: &mut Bounds,
) -> Result<(), ImageError> {
    let refused = |error| ImageError::Layer { layer: descriptor.digest.clone(), error };
    let unread = |error| LayoutError::Read { what: descriptor.digest.clone(), error };
    let mut stored = layout.blob(descriptor)?;
    let unpacked = match descriptor.media_type.rsplit_once(['+', '.']).map_or("", |(_, kind)| kind) {
        "gzip" => take(MultiGzDecoder::new(&mut stored), diff_id, root, bounds),
        "tar" => take(&mut stored, diff_id, root, bounds),
        _ => {
            let (digest, media_type) = (descriptor.digest.clone(), descriptor.media_type.clone());
            return Err(LayoutError::Compression { digest, media_type }.into());
        }
    };
    let contained = match unpacked {
        Ok(contained) => contained,
        // If it is not what it is called, then that is what is wrong with it.
        Err(LayerError::Archive(error)) => {
            std::io::copy(&mut stored, &mut std::io::sink()).map_err(unread)?;
            stored.finish()?;
            return Err(refused(LayerError::Archive(error)));
        }
        Err(error) => return Err(refused(error)),
    };
    std::io::copy(&mut stored, &mut std::io::sink()).map_err(unread)?;
    stored.finish()?;
    Ok(contained?)
}

/// The outcome within is whether the content is what its digest says.
fn take(
    content: impl Read,
    diff_id: &str,
    root: &Root,
    bounds: &mut Bounds,
) -> Result<Result<(), LayoutError>, LayerError> {
    let mut content = Checked::new(content, diff_id, None);
    layer::unpack(&mut content, root, bounds)?;
    Ok(content.finish())
}

fn disk(path: &Path, error: std::io::Error) -> ImageError {
    ImageError::Disk { path: path.display().to_string(), error }
}
