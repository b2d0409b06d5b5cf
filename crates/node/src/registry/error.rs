//! What can go wrong with a registry, in a few kinds, each of which says what to do next.

use std::time::Duration;

use littoral_model::oci::OciReference;
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};

use super::ARTIFACT_BYTES_MAX;

/// The most characters of what a registry says that are passed on: an error page may be long.
const REASON_CHARS_MAX: usize = 400;

/// Why a component cannot be pushed or pulled, or an image not be pulled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No answer.
    #[error(
        "the registry {registry} does not answer: {reason}; see that it runs and is spelled right (a registry without \
         TLS that is not on this machine needs --plain-http)"
    )]
    Unreachable {
        /// Which registry.
        registry: String,
        /// What the network says.
        reason: String,
    },
    /// Not allowed.
    #[error(
        "the registry {registry} refuses: {reason}; log in with `docker login {registry}`, or set LITTORAL_REGISTRY={registry}, \
         LITTORAL_REGISTRY_USER and LITTORAL_REGISTRY_PASSWORD (on a node: see `registries.json` in docs/how-to/distribute.md)"
    )]
    Refused {
        /// Which registry.
        registry: String,
        /// What it says.
        reason: String,
    },
    /// There is no such thing.
    #[error("{reference} is not in the registry; push it (a component with `littoral push`), or correct the reference")]
    Missing {
        /// What was asked for.
        reference: String,
    },
    /// Something else than a Wasm component is there.
    #[error(
        "{reference} is no Wasm component: {reason}; push one with `littoral push` or another tool that writes the Wasm OCI artifact layout"
    )]
    NoComponent {
        /// What was asked for.
        reference: String,
        /// What it is.
        reason: String,
    },
    /// Something else than an image of containers is there, or one that no node can use.
    #[error(
        "{reference} is no image that nodes can run: {reason}; push one with `docker push` or `skopeo copy`, or correct the reference"
    )]
    NoImage {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is to be pushed is no component.
    #[error(
        "this is no WebAssembly component: {reason}; build for wasm32-wasip2, or make one of a module with `wasm-tools component new`"
    )]
    NotAComponent {
        /// What it is.
        reason: String,
    },
    /// The registry sent other bytes than those that were asked for.
    #[error(
        "the registry sent something else than {reference} (SHA-256 {found}): it is damaged or was tampered with, and is \
         not used; push it again, and see who can write to the registry"
    )]
    Damaged {
        /// What was asked for.
        reference: String,
        /// The SHA-256 of what came, if it came whole.
        found: String,
    },
    /// More than a node takes.
    #[error(
        "{reference} has more than {ARTIFACT_BYTES_MAX} bytes; strip debug information from it, or leave out what is not run"
    )]
    TooLarge {
        /// What was pushed or pulled.
        reference: String,
    },
    /// An answer that is none.
    #[error("the registry's answer about {reference} is not understood: {reason}; is it an OCI registry?")]
    Protocol {
        /// What was asked for.
        reference: String,
        /// What the library says.
        reason: String,
    },
}

impl RegistryError {
    pub(super) fn no_component(reference: &OciReference, reason: impl Into<String>) -> Self {
        Self::NoComponent { reference: reference.to_string(), reason: shortened(&reason.into()) }
    }

    pub(super) fn no_image(reference: &OciReference, reason: impl Into<String>) -> Self {
        Self::NoImage { reference: reference.to_string(), reason: shortened(&reason.into()) }
    }

    pub(super) fn slow(reference: &OciReference, deadline: Duration) -> Self {
        let reason = format!("nothing came of it within {} s", deadline.as_secs());
        Self::Unreachable { registry: reference.registry.clone(), reason }
    }

    /// What the library says, in our kinds.
    pub(super) fn from_client(reference: &OciReference, error: OciDistributionError) -> Self {
        use OciDistributionError as E;
        let registry = || reference.registry.clone();
        let missing = || Self::Missing { reference: reference.to_string() };
        let refused = |reason: &str| Self::Refused { registry: registry(), reason: shortened(reason) };
        match &error {
            E::RequestError(request) => match request.status().map(|status| status.as_u16()) {
                Some(401 | 403) => refused(&request.to_string()),
                Some(404) => missing(),
                _ => Self::Unreachable { registry: registry(), reason: shortened(&causes(request)) },
            },
            E::AuthenticationFailure(reason) => refused(reason),
            E::UnauthorizedError { .. } => refused("it wants credentials, or other ones"),
            E::ServerError { code: 401 | 403, message, .. } => refused(message),
            E::ServerError { code: 404, .. } | E::ImageManifestNotFoundError(_) => missing(),
            E::ServerError { code: 500.., message, .. } => {
                Self::Unreachable { registry: registry(), reason: shortened(message) }
            }
            E::RegistryError { envelope, .. } => {
                let is = |codes: &[OciErrorCode]| envelope.errors.iter().any(|error| codes.contains(&error.code));
                if is(&[OciErrorCode::Unauthorized, OciErrorCode::Denied]) {
                    refused(&envelope.to_string())
                } else if is(&[
                    OciErrorCode::BlobUnknown,
                    OciErrorCode::ManifestBlobUnknown,
                    OciErrorCode::ManifestUnknown,
                    OciErrorCode::NameUnknown,
                    OciErrorCode::NotFound,
                ]) {
                    missing()
                } else {
                    Self::Protocol { reference: reference.to_string(), reason: shortened(&envelope.to_string()) }
                }
            }
            E::DigestError(error) => Self::damaged(reference, error),
            _ => Self::Protocol { reference: reference.to_string(), reason: shortened(&error.to_string()) },
        }
    }

    /// What breaks off or spoils a transfer.
    pub(super) fn from_stream(reference: &OciReference, error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<DigestError>()) {
            Some(digest) => Self::damaged(reference, digest),
            None => {
                let reason = shortened(&format!("the transfer broke off: {error}"));
                Self::Unreachable { registry: reference.registry.clone(), reason }
            }
        }
    }

    fn damaged(reference: &OciReference, error: &DigestError) -> Self {
        let found = match error {
            DigestError::VerificationError { actual, .. } => actual.trim_start_matches("sha256:").to_owned(),
            other => other.to_string(),
        };
        Self::Damaged { reference: reference.to_string(), found }
    }
}

/// An error with all its causes: a request's own text says only that it failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

fn shortened(text: &str) -> String {
    text.trim().chars().take(REASON_CHARS_MAX).collect()
}
