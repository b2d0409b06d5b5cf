//! Wasm components and images of containers in OCI registries: components are pushed and both are pulled by the command line, and
//! pulled by nodes that no other node can help.
//!
//! The layout is the CNCF's "Wasm OCI Artifact layout": an OCI image manifest whose config is of media type
//! `application/vnd.wasm.config.v0+json`, with one layer `application/wasm`, the component. A reference pins the
//! manifest's digest; the layer's digest is the artefact's SHA-256, which is its name everywhere else in Littoral. So
//! only who deploys reads the manifest; nodes ask for the layer, whose digest is in the app's signed bundle, and no node
//! can be given anything else.
//!
//! Of an image everything is asked for that a node may need, and put together to one archive ([`Gathering`]), which is the artefact. A
//! node that pulls the image itself comes to the same archive, or does not use it.

mod component;
mod credentials;
mod error;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::HeaderValue;
use littoral_model::oci::OciReference;
use littoral_runtime::container::image::gather::Gathering;
use littoral_runtime::container::image::layout::LayoutError;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest,
};
use oci_client::{Client, Reference, RegistryOperation};

use crate::admin::exchange::artifact_digest;
use crate::admin::router::ARTIFACT_BYTES_MAX;
use crate::artifacts::write_durably;

pub use credentials::Credentials;
pub use error::RegistryError;

/// The media type of the config of a Wasm artefact.
const CONFIG_MEDIA_TYPE: &str = "application/vnd.wasm.config.v0+json";
/// The media types of the configuration of an image.
const IMAGE_CONFIG_MEDIA_TYPES: [&str; 2] = [IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE];
/// The media type of a component or a module.
const LAYER_MEDIA_TYPE: &str = "application/wasm";
/// What is taken as a manifest: of a component, of an image, and an index of images; as OCI has them, and as Docker does.
const MANIFEST_MEDIA_TYPES: [&str; 4] =
    [OCI_IMAGE_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE];
/// The largest OCI manifest that is taken: the specification tells registries to take 4 MiB.
const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// How many manifests are kept; each has less than a kilobyte.
const KEPT_MAX: usize = 1_000;
/// How much of a component is handed to the connection at once; also the step of the progress.
const PUSH_CHUNK_BYTES: usize = 256 << 10;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may say nothing amid an answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long reading a manifest may take: a few kilobytes. As the library reads a manifest as far as it is sent, this also
/// bounds how much a registry can send.
const MANIFEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long the transfer of a component may take: 64 MiB over 1 Mbit/s.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(600);

/// Is told how many bytes of how many are over.
pub type Progress<'p> = &'p (dyn Fn(u64, u64) + Send + Sync);

/// Pushes components to registries and pulls them.
#[derive(Debug, Clone)]
pub struct Registry {
    credentials: Arc<Credentials>,
    plain_http: bool,
    /// Where manifests are kept that were read; what is pinned by its digest never changes.
    kept: Option<PathBuf>,
}

/// What a reference stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The reference with the digest of its manifest, as a manifest of an app names it.
    pub reference: OciReference,
    /// The SHA-256 of the component, 64 lower-case hexadecimal digits.
    pub artifact: String,
    /// The component's size.
    pub bytes: u64,
}

/// An image of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledImage {
    /// The reference with the digest of its manifest or index, as a manifest of an app names it.
    pub reference: OciReference,
    /// An archive of a layout with what nodes need of it: the artefact.
    pub archive: Bytes,
}

impl Registry {
    /// Uses these credentials. Registries on this machine's loopback are asked without TLS, others only with `plain_http`.
    #[must_use]
    pub fn new(credentials: Credentials, plain_http: bool) -> Self {
        Self { credentials: Arc::new(credentials), plain_http, kept: None }
    }

    /// Keeps the manifests that it reads in this folder, so that what was resolved once is known without the registry.
    #[must_use]
    pub fn keeping(self, folder: PathBuf) -> Self {
        Self { kept: Some(folder), ..self }
    }

    /// Reads the manifest that a reference stands for, and checks that it is a Wasm component's and has the digest that the
    /// reference pins.
    ///
    /// # Errors
    /// When the registry cannot be asked, has no such manifest, or it is of something else.
    pub async fn resolve(&self, reference: &OciReference) -> Result<Resolved, RegistryError> {
        let bytes = self.manifest(reference).await?;
        let digest = artifact_digest(&bytes);
        let (artifact, size) = layer_of(&bytes).map_err(|reason| RegistryError::no_component(reference, reason))?;
        Ok(Resolved { reference: reference.pinned(&digest), artifact, bytes: size })
    }

    /// Whether a reference stands for an image, or an index of images, and not for a component.
    ///
    /// # Errors
    /// When the registry cannot be asked, or has no such manifest.
    pub async fn is_image(&self, reference: &OciReference) -> Result<bool, RegistryError> {
        let bytes = self.manifest(reference).await?;
        Ok(is_image(&bytes))
    }

    /// Fetches an image with all that nodes may need of it. The same image always gives the same archive.
    ///
    /// # Errors
    /// When the registry cannot be asked, does not have all of it, it is no image, or more than a node takes.
    pub async fn pull_image(
        &self,
        reference: &OciReference,
        progress: Progress<'_>,
    ) -> Result<PulledImage, RegistryError> {
        let document = self.manifest(reference).await?;
        let pinned = reference.pinned(&artifact_digest(&document));
        if !is_image(&document) {
            return Err(RegistryError::no_image(reference, "it is something else, a component perhaps"));
        }
        let gathered = tokio::time::timeout(TRANSFER_DEADLINE, self.gathered(&pinned, document, progress)).await;
        let archive = gathered.map_err(|_| RegistryError::slow(reference, TRANSFER_DEADLINE))??;
        Ok(PulledImage { reference: pinned, archive })
    }

    async fn gathered(
        &self,
        reference: &OciReference,
        document: Bytes,
        progress: Progress<'_>,
    ) -> Result<Bytes, RegistryError> {
        let refused = |error: LayoutError| RegistryError::no_image(reference, error.to_string());
        let mut gathering = Gathering::new(document.into(), ARTIFACT_BYTES_MAX as u64).map_err(refused)?;
        while let Some(wanted) = gathering.wanted() {
            let digest = wanted.digest.trim_start_matches("sha256:");
            let (before, total) = gathering.progress();
            let content = if wanted.is_manifest {
                self.manifest(&reference.pinned(digest)).await?
            } else {
                self.pull(reference, digest, &|done, _| progress(before + done, total)).await?
            };
            gathering.take(content.into()).map_err(refused)?;
        }
        Ok(gathering.archive().map_err(refused)?.into())
    }

    /// The manifest or index that a reference stands for, with the digest that it pins.
    async fn manifest(&self, reference: &OciReference) -> Result<Bytes, RegistryError> {
        match reference.digest.as_deref().and_then(|digest| self.kept_manifest(digest)) {
            Some(bytes) => Ok(bytes),
            None => self.ask_manifest(reference).await,
        }
    }

    async fn ask_manifest(&self, reference: &OciReference) -> Result<Bytes, RegistryError> {
        let client = self.client(reference, SILENCE_TIMEOUT)?;
        let auth = self.credentials.of(&reference.registry);
        let named = named(reference);
        let asked = client.pull_manifest_raw(&named, &auth, &MANIFEST_MEDIA_TYPES);
        let (bytes, _) = within(MANIFEST_DEADLINE, reference, asked).await?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(RegistryError::no_component(reference, "its manifest has more than 4 MiB"));
        }
        let digest = artifact_digest(&bytes);
        if reference.digest.as_ref().is_some_and(|pinned| *pinned != digest) {
            return Err(RegistryError::Damaged { reference: reference.to_string(), found: digest });
        }
        if let Some(folder) = &self.kept
            && let Err(error) = keep(folder, &digest, &bytes)
        {
            tracing::debug!(%error, folder = %folder.display(), "a manifest cannot be kept; it is asked for again next time");
        }
        Ok(bytes)
    }

    /// A manifest that was read before; one that was damaged since is none.
    fn kept_manifest(&self, digest: &str) -> Option<Bytes> {
        let path = self.kept.as_ref()?.join(digest);
        let size = std::fs::metadata(&path).ok()?.len();
        let bytes = (size <= MANIFEST_BYTES_MAX as u64).then(|| std::fs::read(&path).ok()).flatten()?;
        (artifact_digest(&bytes) == digest).then(|| Bytes::from(bytes))
    }

    /// Fetches the component with this SHA-256 from a reference's repository.
    ///
    /// # Errors
    /// When the registry cannot be asked, does not have it, or sends something else.
    pub async fn pull(
        &self,
        reference: &OciReference,
        artifact: &str,
        progress: Progress<'_>,
    ) -> Result<Bytes, RegistryError> {
        let client = self.client(reference, SILENCE_TIMEOUT)?;
        let named = named(reference);
        client.store_auth_if_needed(named.resolve_registry(), &self.credentials.of(&reference.registry)).await;
        let digest = format!("sha256:{artifact}");
        let transfer = async {
            let mut stream = client
                .pull_blob_stream(&named, digest.as_str())
                .await
                .map_err(|error| RegistryError::from_client(reference, error))?;
            let total = stream.content_length.unwrap_or_default();
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|error| RegistryError::from_stream(reference, &error))?;
                if bytes.len() + chunk.len() > ARTIFACT_BYTES_MAX {
                    return Err(RegistryError::TooLarge { reference: reference.to_string() });
                }
                bytes.extend_from_slice(&chunk);
                progress(bytes.len() as u64, total.max(bytes.len() as u64));
            }
            Ok(Bytes::from(bytes))
        };
        let bytes = tokio::time::timeout(TRANSFER_DEADLINE, transfer)
            .await
            .map_err(|_| RegistryError::slow(reference, TRANSFER_DEADLINE))??;
        // The stream has checked it already; what is run must not hang on a library's promise.
        let found = artifact_digest(&bytes);
        if found != artifact {
            return Err(RegistryError::Damaged { reference: format!("{reference}, layer {artifact}"), found });
        }
        Ok(bytes)
    }

    /// Pushes a component under a reference's tag; the reference with the digest. The same component always gets the same
    /// digest, and is not sent again if the repository has it.
    ///
    /// # Errors
    /// When it is no component, or the registry cannot be asked or refuses it.
    pub async fn push(
        &self,
        reference: &OciReference,
        component: &Bytes,
        progress: Progress<'_>,
    ) -> Result<Resolved, RegistryError> {
        if component.len() > ARTIFACT_BYTES_MAX {
            return Err(RegistryError::TooLarge { reference: reference.to_string() });
        }
        let artifact = artifact_digest(component);
        let config = component::config(component, &artifact)
            .map_err(|reason| RegistryError::NotAComponent { reason: reason.to_string() })?;
        // While a body is sent there is nothing to read.
        let client = self.client(reference, TRANSFER_DEADLINE)?;
        let (named, auth) = (named(reference), self.credentials.of(&reference.registry));
        client
            .auth(&named, &auth, RegistryOperation::Push)
            .await
            .map_err(|error| RegistryError::from_client(reference, error))?;
        let total = component.len() as u64;
        let config_digest = artifact_digest(&config);
        let transfer = async {
            for (digest, blob) in [(&config_digest, &config), (&artifact, component)] {
                let digest = format!("sha256:{digest}");
                if !client.blob_exists(&named, &digest).await.unwrap_or(false) {
                    push_blob(&client, &named, blob, &digest, progress).await?;
                }
            }
            progress(total, total);
            Ok::<(), OciDistributionError>(())
        };
        within(TRANSFER_DEADLINE, reference, transfer).await?;
        let manifest = manifest(&config_digest, config.len(), &artifact, component.len());
        let manifest = serde_json::to_vec(&manifest)
            .map_err(|error| RegistryError::Protocol { reference: reference.to_string(), reason: error.to_string() })?;
        let digest = artifact_digest(&manifest);
        let pushed = client.push_manifest_raw(&named, manifest, HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE));
        within(MANIFEST_DEADLINE, reference, pushed).await?;
        Ok(Resolved { reference: reference.pinned(&digest), artifact, bytes: total })
    }

    fn client(&self, reference: &OciReference, silence: Duration) -> Result<Client, RegistryError> {
        // The library takes what the process has chosen; if that has been done already, it is the same: there is one.
        _ = rustls::crypto::ring::default_provider().install_default();
        let plain = self.plain_http || is_loopback(reference.host());
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            // One request a blob: what every registry takes, and what can be followed.
            use_monolithic_push: true,
            read_timeout: Some(silence),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: concat!("littoral/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        Client::try_from(config).map_err(|error| RegistryError::from_client(reference, error))
    }
}

/// Whether a host is this machine, so that nobody else reads what goes there.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Keeps a manifest, in the place of the oldest if there are too many.
fn keep(folder: &Path, digest: &str, manifest: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        kept.push((entry.metadata()?.modified()?, entry.path()));
    }
    kept.sort();
    for (_, path) in kept.iter().take((kept.len() + 1).saturating_sub(KEPT_MAX)) {
        std::fs::remove_file(path)?;
    }
    write_durably(&folder.join(digest), manifest)
}

fn named(reference: &OciReference) -> Reference {
    let (registry, repository) = (reference.registry.clone(), reference.repository.clone());
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => Reference::with_digest(registry, repository, format!("sha256:{digest}")),
        (None, Some(tag)) => Reference::with_tag(registry, repository, tag.clone()),
        (None, None) => Reference::with_tag(registry, repository, "latest".to_owned()),
    }
}

async fn within<T>(
    deadline: Duration,
    reference: &OciReference,
    asked: impl Future<Output = Result<T, OciDistributionError>>,
) -> Result<T, RegistryError> {
    match tokio::time::timeout(deadline, asked).await {
        Ok(answer) => answer.map_err(|error| RegistryError::from_client(reference, error)),
        Err(_) => Err(RegistryError::slow(reference, deadline)),
    }
}

/// Sends a blob, telling how far it is as the connection takes it.
async fn push_blob(
    client: &Client,
    named: &Reference,
    blob: &Bytes,
    digest: &str,
    progress: Progress<'_>,
) -> Result<(), OciDistributionError> {
    let (taken, mut told) = tokio::sync::watch::channel(0u64);
    let (total, blob) = (blob.len() as u64, blob.clone());
    let chunks = futures::stream::iter((0..blob.len()).step_by(PUSH_CHUNK_BYTES)).map(move |from| {
        let to = blob.len().min(from + PUSH_CHUNK_BYTES);
        taken.send_replace(to as u64);
        Ok(blob.slice(from..to))
    });
    let mut sent = std::pin::pin!(client.push_blob_stream(named, chunks, digest, Some(total)));
    loop {
        tokio::select! {
            done = &mut sent => return done.map(drop),
            Ok(()) = told.changed() => progress(*told.borrow_and_update(), total),
        }
    }
}

fn manifest(config: &str, config_bytes: usize, layer: &str, layer_bytes: usize) -> OciImageManifest {
    let describe = |media_type: &str, digest: &str, bytes: usize| OciDescriptor {
        media_type: media_type.to_owned(),
        digest: format!("sha256:{digest}"),
        size: i64::try_from(bytes).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    };
    OciImageManifest {
        media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
        config: describe(CONFIG_MEDIA_TYPE, config, config_bytes),
        layers: vec![describe(LAYER_MEDIA_TYPE, layer, layer_bytes)],
        ..OciImageManifest::default()
    }
}

/// Whether a manifest is an image's, or an index of them.
fn is_image(manifest: &[u8]) -> bool {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
    let config = manifest.pointer("/config/mediaType").and_then(serde_json::Value::as_str);
    manifest.get("manifests").is_some() || config.is_some_and(|config| IMAGE_CONFIG_MEDIA_TYPES.contains(&config))
}

/// Digest and size of the one layer that a Wasm artefact has.
fn layer_of(manifest: &[u8]) -> Result<(String, u64), String> {
    let manifest: OciImageManifest =
        serde_json::from_slice(manifest).map_err(|error| format!("it has no image manifest: {error}"))?;
    if manifest.config.media_type != CONFIG_MEDIA_TYPE {
        return Err(format!("its config is of type {}, not {CONFIG_MEDIA_TYPE}", manifest.config.media_type));
    }
    let [layer] = manifest.layers.as_slice() else {
        return Err(format!("it has {} layers, a component has one", manifest.layers.len()));
    };
    if layer.media_type != LAYER_MEDIA_TYPE {
        return Err(format!("its layer is of type {}, not {LAYER_MEDIA_TYPE}", layer.media_type));
    }
    let digest = layer.digest.strip_prefix("sha256:").filter(|digest| digest.len() == 64);
    let digest = digest.ok_or_else(|| format!("its layer's digest is {}, not a SHA-256", layer.digest))?;
    let size = u64::try_from(layer.size).map_err(|_| "its layer has a negative size".to_owned())?;
    Ok((digest.to_owned(), size))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_this_machine_is_asked_without_tls() {
        for (host, loopback) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.8.9.1", true),
            ("10.0.0.1", false),
            ("localhost.example.org", false),
            ("127.0.0.1.example.org", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }

    #[test]
    fn only_a_wasm_artefact_is_one() {
        let good = manifest(&"a".repeat(64), 3, &"b".repeat(64), 5);
        let read = |manifest: &OciImageManifest| layer_of(&serde_json::to_vec(manifest).unwrap());
        assert_eq!(read(&good).unwrap(), ("b".repeat(64), 5));
        let mut image = good.clone();
        image.config.media_type = "application/vnd.oci.image.config.v1+json".to_owned();
        assert!(read(&image).unwrap_err().contains("its config is of type"));
        let mut two = good.clone();
        two.layers.extend(good.layers.clone());
        assert!(read(&two).unwrap_err().contains("2 layers"));
        let mut tar = good.clone();
        tar.layers.iter_mut().for_each(|layer| layer.media_type = "application/x-tar".to_owned());
        assert!(read(&tar).unwrap_err().contains("its layer is of type"));
        assert!(layer_of(b"{}").is_err());
        let is_image = |manifest: &OciImageManifest| is_image(&serde_json::to_vec(manifest).unwrap());
        assert!(is_image(&image) && !is_image(&good) && !is_image(&tar));
    }

    #[test]
    fn a_manifest_that_was_kept_is_taken_only_if_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(Credentials::default(), false).keeping(folder.path().to_owned());
        let digest = artifact_digest(b"{}");
        assert_eq!(registry.kept_manifest(&digest), None);
        keep(folder.path(), &digest, b"{}").unwrap();
        assert_eq!(registry.kept_manifest(&digest).unwrap(), "{}");
        std::fs::write(folder.path().join(&digest), b"[]").unwrap();
        assert_eq!(registry.kept_manifest(&digest), None);
        for number in 0..KEPT_MAX {
            std::fs::write(folder.path().join(number.to_string()), b"").unwrap();
        }
        keep(folder.path(), &digest, b"{}").unwrap();
        assert!(std::fs::read_dir(folder.path()).unwrap().count() <= KEPT_MAX);
        assert_eq!(registry.kept_manifest(&digest).unwrap(), "{}");
    }
}
