//! References to components in OCI registries, as manifests and the command line write them.
//!
//! `oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]`. Unlike Docker's, a reference always names its registry: what is
//! meant must not depend on where it is read. The grammar of names, tags and digests is that of the OCI Distribution
//! Specification 1.1.

use std::fmt;
use std::str::FromStr;

/// What a component's reference begins with in a manifest.
pub const SCHEME: &str = "oci://";
/// How the one algorithm begins that is taken: artefacts have SHA-256 everywhere in Littoral.
const SHA256: &str = "sha256:";
/// The longest reference, in bytes: a host name of 253, a repository of 255 (the specification's bound), a tag of 128, a
/// digest, and what stands between them.
const REFERENCE_BYTES_MAX: usize = 768;
/// The longest name of a repository, in bytes.
const REPOSITORY_BYTES_MAX: usize = 255;
/// The longest tag, in bytes.
const TAG_BYTES_MAX: usize = 128;

/// A component in a registry, with or without the digest that pins it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OciReference {
    /// The registry, `host` or `host:port`.
    pub registry: String,
    /// The repository in it.
    pub repository: String,
    /// A name that the registry may give to another component tomorrow.
    pub tag: Option<String>,
    /// The SHA-256 of the OCI manifest, 64 lower-case hexadecimal digits.
    pub digest: Option<String>,
}

/// A text that is no reference, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no reference to a component in a registry: {reason}; write oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST"
)]
pub struct InvalidReference {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl OciReference {
    /// Whether this text, the component of a function, names a registry at all and not a file.
    #[must_use]
    pub fn is_meant(component: &str) -> bool {
        component.starts_with(SCHEME)
    }

    /// The same with this digest instead of a tag.
    #[must_use]
    pub fn pinned(&self, digest: &str) -> Self {
        Self { tag: None, digest: Some(digest.to_owned()), ..self.clone() }
    }

    /// The registry's host without its port.
    #[must_use]
    pub fn host(&self) -> &str {
        match self.registry.rsplit_once(':') {
            Some((host, _)) => host,
            None => &self.registry,
        }
    }
}

impl FromStr for OciReference {
    type Err = InvalidReference;

    /// Reads a reference, with `oci://` or without.
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |reason| {
            let shown = text.chars().take(REFERENCE_BYTES_MAX).collect();
            Err(InvalidReference { text: shown, reason })
        };
        if text.len() > REFERENCE_BYTES_MAX {
            return invalid("it is too long");
        }
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let Some((registry, path)) = rest.split_once('/') else {
            return invalid("it names no registry");
        };
        if registry.contains('@') {
            return invalid("a manifest holds no credentials: they belong to the user and to the node");
        }
        if !is_registry(registry) {
            return invalid("the registry is no host name with or without a port");
        }
        let (path, digest) = match path.split_once('@') {
            Some((path, digest)) => (path, Some(digest)),
            None => (path, None),
        };
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_repository(repository) {
            return invalid("the repository has other characters than a-z, 0-9, `.`, `_`, `-` between its `/`");
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return invalid("the tag has other characters than letters, digits, `.`, `_`, `-`, or more than 128");
        }
        let digest = match digest.map(|digest| digest.strip_prefix(SHA256).filter(|digits| is_sha256(digits))) {
            None => None,
            Some(Some(digest)) => Some(digest.to_owned()),
            Some(None) => return invalid("the digest is not `sha256:` and 64 lower-case hexadecimal digits"),
        };
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        Ok(Self { registry, repository, tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for OciReference {
    /// As it stands in a manifest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{SHA256}{digest}")?;
        }
        Ok(())
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// Parts of `a-z` and `0-9`, joined by `.`, `_`, `__` or any number of `-`; see the specification's section "Pulling
/// manifests".
fn is_repository(repository: &str) -> bool {
    let part = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ends_well = part.bytes().next().is_some_and(inner) && part.bytes().next_back().is_some_and(inner);
        let mut joints = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends_well && joints.all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
    };
    repository.len() <= REPOSITORY_BYTES_MAX && repository.split('/').all(part)
}

fn is_tag(tag: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let begins_well = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    begins_well && tag.len() <= TAG_BYTES_MAX && tag.bytes().all(inner)
}

fn is_sha256(digits: &str) -> bool {
    digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_are_read_and_written() {
        for (text, written) in [
            ("oci://ghcr.io/acme/score:1.2".to_owned(), "oci://ghcr.io/acme/score:1.2".to_owned()),
            (format!("127.0.0.1:5000/a@sha256:{DIGEST}"), format!("oci://127.0.0.1:5000/a@sha256:{DIGEST}")),
            (format!("oci://r/a.b/c__d/e--f:T@sha256:{DIGEST}"), format!("oci://r/a.b/c__d/e--f:T@sha256:{DIGEST}")),
        ] {
            let reference: OciReference = text.parse().unwrap();
            assert_eq!(reference.to_string(), written);
            assert_eq!(reference.to_string().parse::<OciReference>().unwrap(), reference);
        }
        let tagged: OciReference = "oci://localhost:5000/a:1".parse().unwrap();
        assert_eq!(tagged.host(), "localhost");
        assert_eq!(tagged.pinned(DIGEST).to_string(), format!("oci://localhost:5000/a@sha256:{DIGEST}"));
    }

    #[test]
    fn what_is_no_reference_says_why() {
        for (text, reason) in [
            ("oci://score", "names no registry"),
            ("oci://user:password@ghcr.io/a", "holds no credentials"),
            ("oci://ghcr.io:0/a", "host name"),
            ("oci://-x/a", "host name"),
            ("oci://r/A", "repository"),
            ("oci://r/a//b", "repository"),
            ("oci://r/../a", "repository"),
            ("oci://r/", "repository"),
            ("oci://r/a:", "tag"),
            ("oci://r/a@sha256:12", "digest"),
            ("oci://r/a@sha512:12", "digest"),
        ] {
            let error = text.parse::<OciReference>().unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
        assert!("x".repeat(10_000).parse::<OciReference>().unwrap_err().text.len() <= REFERENCE_BYTES_MAX);
    }
}
