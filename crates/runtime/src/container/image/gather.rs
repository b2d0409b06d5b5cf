//! Puts together an archive of a layout from single documents and blobs, as a registry has them.
//!
//! The archive depends on nothing but the digest that it began with, so that whoever puts it together, and wherever, comes to the same
//! bytes. Of an index of images for several platforms it has those for Linux on the processors that nodes have, all of them: which one a
//! node takes is seen when it is unpacked there.

use std::collections::{BTreeMap, VecDeque};

use ring::digest::{SHA256, digest as hash};
use serde::Deserialize;
use serde_json::json;

use super::layout::{
    BLOBS, DOCUMENT_BYTES_MAX, Descriptor, INDEX, INDEX_DEPTH_MAX, ImageConfig, Index, LAYERS_MAX, LayoutError,
    Manifest, append, hex, hex_of, parse,
};

/// The processors of nodes, as images name them.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// What an archive has around a file: a header, and what fills up its last block.
const ENTRY_BYTES_MAX: u64 = 1 << 10;
/// The media types of documents that do not say theirs.
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image that is being put together: asks for one thing after the other ([`wanted`](Self::wanted), [`take`](Self::take)) and is an archive
/// at the end.
#[derive(Debug)]
pub struct Gathering {
    bytes_max: u64,
    /// As far as it is known from what was taken.
    bytes: u64,
    begun_with: (String, String, u64),
    wanted: VecDeque<Wanted>,
    blobs: BTreeMap<String, Vec<u8>>,
}

/// Something that is missing from an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// Its size, bytes.
    pub size: u64,
    /// Whether it is an index or a manifest, which registries keep apart from other blobs.
    pub is_manifest: bool,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// An index or a manifest, so deep within indexes.
    Document {
        depth: usize,
    },
    /// The configuration of an image of so many layers.
    Config {
        layers: usize,
    },
    Layer,
}

/// What an index and a manifest have of each other.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Gathering {
    /// Begins with an image's index or manifest. The archive is to have at most so many bytes.
    ///
    /// # Errors
    /// When it is neither, names nothing for a node, or more than the archive may have.
    pub fn new(document: Vec<u8>, bytes_max: u64) -> Result<Self, LayoutError> {
        let digest = digest_of(&document);
        let kind: Kind = parse("what the registry has", &document)?;
        let default = if kind.manifests.is_some() { INDEX_TYPE } else { MANIFEST_TYPE };
        let media_type = kind.media_type.unwrap_or_else(|| default.to_owned());
        let size = document.len() as u64;
        let (wanted, blobs) = Default::default();
        let mut gathering = Self { bytes_max, bytes: 0, begun_with: (media_type, digest.clone(), size), wanted, blobs };
        gathering.want(digest, size, What::Document { depth: 0 })?;
        gathering.take(document)?;
        Ok(gathering)
    }

    /// What is to be given next; nothing if all is there.
    #[must_use]
    pub fn wanted(&self) -> Option<&Wanted> {
        self.wanted.front()
    }

    /// How many bytes there are, and how many there will be as far as that is known.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.bytes - self.wanted.iter().map(|wanted| wanted.size).sum::<u64>(), self.bytes)
    }

    /// Takes what was asked for.
    ///
    /// # Errors
    /// When it is something else, or not understood.
    pub fn take(&mut self, content: Vec<u8>) -> Result<(), LayoutError> {
        let Some(wanted) = self.wanted.pop_front() else { return Ok(()) };
        let (found, size) = (digest_of(&content), content.len() as u64);
        if found != wanted.digest || size != wanted.size {
            let reason = format!("its content is {found}, of {size} bytes, and should have {}", wanted.size);
            return Err(LayoutError::Digest { digest: wanted.digest, reason });
        }
        match wanted.what {
            What::Document { depth } => self.read(&content, depth)?,
            What::Config { layers } => {
                let config: ImageConfig = parse("the configuration", &content)?;
                config.has_layers(layers)?;
            }
            What::Layer => {}
        }
        self.blobs.insert(wanted.digest, content);
        Ok(())
    }

    /// Wants what an index or a manifest names.
    fn read(&mut self, document: &[u8], depth: usize) -> Result<(), LayoutError> {
        let kind: Kind = parse("a manifest or index", document)?;
        if kind.manifests.is_none() {
            let manifest: Manifest = parse("the manifest", document)?;
            let layers = manifest.layers.len();
            if layers > LAYERS_MAX {
                return Err(LayoutError::Form(format!("it has {layers} layers, more than {LAYERS_MAX}")));
            }
            self.want(manifest.config.digest, manifest.config.size, What::Config { layers })?;
            return manifest.layers.into_iter().try_for_each(|layer| self.want(layer.digest, layer.size, What::Layer));
        }
        if depth >= INDEX_DEPTH_MAX {
            return Err(LayoutError::Form("its indexes are nested too deeply".to_owned()));
        }
        let index: Index = parse("an index", document)?;
        let chosen = ARCHITECTURES.iter().filter_map(|architecture| index.of(architecture));
        let chosen: Vec<Descriptor> = chosen.cloned().collect();
        if chosen.is_empty() {
            let platform = ARCHITECTURES.map(|architecture| format!("linux/{architecture}")).join(" or ");
            return Err(LayoutError::Platform { platform, found: index.platforms() });
        }
        chosen.into_iter().try_for_each(|it| self.want(it.digest, it.size, What::Document { depth: depth + 1 }))
    }

    fn want(&mut self, digest: String, size: u64, what: What) -> Result<(), LayoutError> {
        hex_of(&digest)?;
        let is_manifest = matches!(what, What::Document { .. });
        if is_manifest && size > DOCUMENT_BYTES_MAX {
            return Err(LayoutError::Form(format!("{digest} has {size} bytes, more than {DOCUMENT_BYTES_MAX}")));
        }
        // Images of one index have layers in common.
        if self.blobs.contains_key(&digest) || self.wanted.iter().any(|wanted| wanted.digest == digest) {
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(size);
        let files = (self.blobs.len() + self.wanted.len() + 2) as u64;
        if self.bytes.saturating_add(files * ENTRY_BYTES_MAX) > self.bytes_max {
            return Err(LayoutError::Form(format!(
                "it has more than {} bytes; leave out what is not run",
                self.bytes_max
            )));
        }
        self.wanted.push_back(Wanted { digest, size, is_manifest, what });
        Ok(())
    }

    /// The archive, once nothing is wanted any more.
    ///
    /// # Errors
    /// When something of it is still wanted.
    pub fn archive(self) -> Result<Vec<u8>, LayoutError> {
        if let Some(wanted) = self.wanted.front() {
            return Err(LayoutError::Form(format!("{} is missing", wanted.digest)));
        }
        let (media_type, digest, size) = self.begun_with;
        // Keys in the order of their letters: the same text whether the library keeps an order or sorts them.
        let named = json!({ "digest": digest, "mediaType": media_type, "size": size });
        let index = json!({ "manifests": [named], "mediaType": INDEX_TYPE, "schemaVersion": 2 }).to_string();
        let mut archive = tar::Builder::new(Vec::new());
        let unwritten = |error| LayoutError::Read { what: "the archive".to_owned(), error };
        for (digest, content) in &self.blobs {
            let name = format!("{BLOBS}/{}", hex_of(digest)?);
            append(&mut archive, name.as_ref(), content.len() as u64, content.as_slice()).map_err(unwritten)?;
        }
        append(&mut archive, INDEX.as_ref(), index.len() as u64, index.as_bytes()).map_err(unwritten)?;
        archive.into_inner().map_err(unwritten)
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(hash(&SHA256, bytes).as_ref()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use serde_json::Value;

    use super::*;
    use crate::container::image::layout::Layout;

    const BYTES_MAX: u64 = 1 << 20;

    /// What a registry has: two images in an index, with one layer in common, and one that no node runs.
    struct Registry {
        blobs: BTreeMap<String, Vec<u8>>,
        index: Vec<u8>,
    }

    impl Registry {
        // Keys in the order of their letters, so that the digests are the same in whatever way the library keeps them.
        fn new() -> Self {
            let mut registry = Self { blobs: BTreeMap::new(), index: Vec::new() };
            let (digest, size) = registry.put(b"layer".to_vec());
            let layer =
                json!({ "digest": digest, "mediaType": "application/vnd.oci.image.layer.v1.tar", "size": size });
            let mut manifests = Vec::new();
            for (architecture, os) in [("arm64", "linux"), ("amd64", "linux"), ("s390x", "linux"), ("amd64", "windows")]
            {
                let config = json!({ "architecture": architecture, "os": os, "rootfs": { "diff_ids": ["sha256:x"] } });
                let (digest, size) = registry.put(config.to_string().into());
                let kind = "application/vnd.oci.image.config.v1+json";
                let config = json!({ "digest": digest, "mediaType": kind, "size": size });
                let manifest = json!({ "config": config, "layers": [layer], "schemaVersion": 2 });
                let (digest, size) = registry.put(manifest.to_string().into());
                let platform = json!({ "architecture": architecture, "os": os });
                let named = json!({ "digest": digest, "mediaType": MANIFEST_TYPE, "platform": platform, "size": size });
                manifests.push(named);
            }
            let index = json!({ "manifests": manifests, "mediaType": INDEX_TYPE, "schemaVersion": 2 });
            registry.index = index.to_string().into();
            registry
        }

        fn put(&mut self, content: Vec<u8>) -> (String, usize) {
            let (digest, size) = (digest_of(&content), content.len());
            self.blobs.insert(digest.clone(), content);
            (digest, size)
        }

        fn gathered(&self, document: &[u8], bytes_max: u64) -> Result<(Vec<Wanted>, Vec<u8>), LayoutError> {
            let mut gathering = Gathering::new(document.to_vec(), bytes_max)?;
            let mut asked = Vec::new();
            while let Some(wanted) = gathering.wanted().cloned() {
                gathering.take(self.blobs[&wanted.digest].clone())?;
                asked.push(wanted);
            }
            assert_eq!(gathering.progress().0, gathering.progress().1);
            Ok((asked, gathering.archive()?))
        }
    }

    #[test]
    fn of_an_index_it_has_the_images_that_nodes_may_run_each_blob_once_and_always_the_same() {
        let registry = Registry::new();
        let (asked, archive) = registry.gathered(&registry.index, BYTES_MAX).unwrap();
        assert_eq!(asked.iter().filter(|wanted| wanted.is_manifest).count(), 2);
        assert_eq!(asked.len(), 5, "two manifests, two configurations, one layer: {asked:?}");
        assert_eq!(registry.gathered(&registry.index, BYTES_MAX).unwrap().1, archive);
        // What nodes and who deploys come to apart from each other: another archive would be another artefact.
        assert_eq!(digest_of(&archive), "sha256:4ec87fc22e15c0100c01cad948a7de3985457606df5f15b2de03f16e1a310254");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image.tar");
        fs::write(&file, &archive).unwrap();
        let opened = Layout::open(&file).unwrap();
        assert!(asked.iter().any(|wanted| wanted.is_manifest && wanted.digest.ends_with(opened.digest())));
    }

    #[test]
    fn one_image_needs_no_index() {
        let registry = Registry::new();
        let index: Value = serde_json::from_slice(&registry.index).unwrap();
        let manifest = &registry.blobs[index["manifests"][1]["digest"].as_str().unwrap()];
        let (asked, archive) = registry.gathered(manifest, BYTES_MAX).unwrap();
        assert_eq!(asked.len(), 2);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image.tar");
        fs::write(&file, archive).unwrap();
        assert_eq!(format!("sha256:{}", Layout::open(&file).unwrap().digest()), digest_of(manifest));
    }

    #[test]
    fn what_is_no_image_or_another_or_too_large_is_refused_with_the_reason() {
        let registry = Registry::new();
        let refused = |document: &str| registry.gathered(document.as_bytes(), BYTES_MAX).unwrap_err().to_string();
        assert!(refused("{}").contains("the manifest is not as it should be"), "{}", refused("{}"));
        let foreign = json!({ "manifests": [{ "mediaType": MANIFEST_TYPE, "digest": digest_of(b""), "size": 0,
            "platform": { "os": "windows", "architecture": "amd64" } }] });
        let said = refused(&foreign.to_string());
        assert!(said.contains("no image for linux/amd64 or linux/arm64; it has windows/amd64"), "{said}");
        let path = json!({ "config": { "mediaType": "", "digest": "sha256:../../x", "size": 1 }, "layers": [] });
        assert!(refused(&path.to_string()).contains("is no SHA-256 digest"));
        let huge = json!({ "config": { "mediaType": "", "digest": digest_of(b""), "size": u64::MAX }, "layers": [] });
        assert!(refused(&huge.to_string()).contains("leave out what is not run"));
        let mut gathering = Gathering::new(registry.index.clone(), BYTES_MAX).unwrap();
        let said = gathering.take(b"something else".to_vec()).unwrap_err().to_string();
        assert!(said.contains("is not what it is called"), "{said}");
        let unfinished = Gathering::new(registry.index.clone(), BYTES_MAX).unwrap().archive().unwrap_err();
        assert!(unfinished.to_string().contains("is missing"), "{unfinished}");
    }
}
