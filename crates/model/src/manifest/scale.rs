//! What a manifest says of how many instances of a function a node has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::Function;
use crate::id::FunctionName;
use crate::unit::Time;

/// The most instances of a function that one node may have.
pub const INSTANCES_MAX: u32 = 64;

/// What follows a function's name where its container's artefact is meant, beside its component's: no name has such a sign.
const CONTAINER_SUFFIX: &str = "@container";

/// How many instances of a function each node has that serves it. Between `min` and `max` they follow its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Scale {
    /// So many there always are. Left out: 1 for a component, which stays loaded; 0 for an image, of which an instance is started
    /// when a request comes or is expected. A component has 0 or 1. Of a function that is both, it is about the container while that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 64))]
    pub min: Option<u32>,
    /// There are never more. For images: an instance of a component answers as many requests at once as `limits.concurrency` says.
    #[schemars(range(min = 1, max = 64))]
    pub max: u32,
    /// How many requests an instance of an image is given at once; where all have as many, others wait, and more instances are
    /// started. Left out: as many as `limits.concurrency` says, so that one instance takes all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub target: Option<u32>,
    /// How long the last instance is kept without a request, until the times between requests say better.
    pub idle: Time,
}

impl Default for Scale {
    /// Up to eight instances, as many as a small server has cores; five minutes, which most of what is called again is called within.
    fn default() -> Self {
        Self { min: None, max: 8, target: None, idle: Time::from_micros(300_000_000) }
    }
}

impl Scale {
    /// Whether a manifest need not mention it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Function {
    /// Whether it runs in a container: it is an image or a program, if perhaps not only that.
    #[must_use]
    pub fn is_contained(&self) -> bool {
        self.image.is_some() || self.process.is_some()
    }

    /// Whether it is a component and a container, of which one answers at a time.
    #[must_use]
    pub fn is_hybrid(&self) -> bool {
        self.is_contained() && !self.component.is_empty()
    }

    /// By which name a bundle has the artefact of its container; nothing if it is none. Its component, if it is one, too, has the function's
    /// own name.
    #[must_use]
    pub fn container_artifact(&self, name: &FunctionName) -> Option<String> {
        let suffix = if self.is_hybrid() { CONTAINER_SUFFIX } else { "" };
        self.is_contained().then(|| format!("{name}{suffix}"))
    }

    /// How many instances of it a node always has.
    #[must_use]
    pub fn instances_min(&self) -> u32 {
        self.scale.min.unwrap_or(u32::from(!self.is_contained()))
    }

    /// How many requests an instance is given at once.
    #[must_use]
    pub fn target(&self) -> u32 {
        self.scale.target.unwrap_or(self.limits.concurrency)
    }
}
