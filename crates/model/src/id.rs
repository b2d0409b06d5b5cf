//! Names and numbers that identify things.
//!
//! Names are DNS labels (RFC 1123: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end), so that they can stand in a
//! mesh key, a path, a host name and a metric label without being quoted. They are cheap to clone.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest name, in bytes (the longest DNS label, RFC 1035 section 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;
/// What a name looks like.
const NAME_PATTERN: &str = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$";

/// A text that is not a name, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a name: {reason}; use 1 to 63 of a-z, 0-9 and -, with no - at either end")]
pub struct InvalidName {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Checks that `text` is a DNS label.
///
/// # Errors
/// Says which rule it breaks.
pub fn check_name(text: &str) -> Result<(), InvalidName> {
    let reason = if text.is_empty() {
        "it is empty"
    } else if text.len() > NAME_BYTES_MAX {
        "it is too long"
    } else if text.starts_with('-') || text.ends_with('-') {
        "it has a - at an end"
    } else if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "it has a character that is not allowed"
    } else {
        return Ok(());
    };
    Err(InvalidName { text: text.to_owned(), reason })
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// When it is not a DNS label.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                check_name(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": "name", "pattern": NAME_PATTERN, "maxLength": NAME_BYTES_MAX })
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// A machine that runs `littoral node`.
    NodeId;
    /// Nodes in one place, close to one another.
    SiteId;
    /// The unit of isolation, trust, quota and billing.
    TenantId;
    /// A bundle of functions, streams and flows under one manifest.
    AppName;
    /// A unit of code of an app.
    FunctionName;
    /// A durable, partitioned, ordered log of records of an app.
    StreamName;
    /// A dataflow graph of an app.
    FlowName;
    /// A file of statements in SQL of an app, without its ending.
    SqlName;
    /// A source or a sink of an app.
    ConnectorName;
    /// Keyed values of an app.
    BucketName;
    /// A region whose law data is under.
    RegionId;
    /// A kind of accelerator, as `gpu`.
    AcceleratorName;
    /// Something that nodes fail together with: a circuit, an uplink.
    DomainName;
}

impl TenantId {
    /// The one tenant of a fabric on which no other was made.
    #[must_use]
    pub fn default_tenant() -> Self {
        Self(Arc::from("default"))
    }
}

/// An app of a tenant; written `tenant/app`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AppId {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name.
    pub app: AppName,
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.app)
    }
}

/// One call of a function or of a peer. Repeating a call with the same id has no further effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InvocationId(pub ulid::Ulid);

impl InvocationId {
    /// Makes an id from the time in milliseconds since 1970 and 80 random bits.
    #[must_use]
    pub fn from_parts(time_ms: u64, random: u128) -> Self {
        Self(ulid::Ulid::from_parts(time_ms, random))
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that fences off earlier owners of a unit of work. Only keepers raise it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is serving, from the far device to the data centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// A gateway or machine beside sensors and actuators.
    Device,
    /// A micro data centre near its users.
    Edge,
    /// A metropolitan or regional data centre.
    Region,
    /// A cloud.
    Cloud,
}

impl Tier {
    /// Every tier, from the outermost to the innermost.
    pub const ALL: [Self; 4] = [Self::Device, Self::Edge, Self::Region, Self::Cloud];

    /// Its name, as written in manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Edge => "edge",
            Self::Region => "region",
            Self::Cloud => "cloud",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no tier; one of device, edge, region, cloud"))
    }
}
