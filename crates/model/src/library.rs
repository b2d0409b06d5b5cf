//! Names of operators of a library, as manifests write them: `library:NAME@VERSION`.
//!
//! A version is three numbers. A name may give the first or the first two: then it is any version that begins so, of which the newest
//! is taken when an app is built or deployed. What is deployed is the component itself, by its digest, as with every function.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::check_name;

/// What a component's name begins with that is an operator of a library.
pub const SCHEME: &str = "library:";
/// How many numbers a version has.
const NUMBERS: usize = 3;

/// The version of an operator, `1.2.0`. A change of the first number is one that apps notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version([u32; NUMBERS]);

/// An operator that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryReference {
    /// Its name.
    pub name: String,
    /// What its version begins with; one to three numbers.
    version: Vec<u32>,
}

/// A text that is no name of an operator or no version, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLibrary(String);

impl LibraryReference {
    /// Whether this text, the component of a function, names an operator of a library at all.
    #[must_use]
    pub fn is_meant(component: &str) -> bool {
        component.starts_with(SCHEME)
    }

    /// Whether an operator of that name and version is meant.
    #[must_use]
    pub fn admits(&self, name: &str, version: Version) -> bool {
        self.name == name && version.0.starts_with(&self.version)
    }
}

impl FromStr for LibraryReference {
    type Err = InvalidLibrary;

    /// Reads a name, with `library:` or without.
    fn from_str(text: &str) -> Result<Self, InvalidLibrary> {
        let named = text.strip_prefix(SCHEME).unwrap_or(text);
        let invalid = |reason: &str| InvalidLibrary(format!("`{text}` names no operator of a library: {reason}"));
        let Some((name, version)) = named.split_once('@') else {
            return Err(invalid("it has no version"));
        };
        check_name(name).map_err(|error| invalid(&error.to_string()))?;
        let version = numbers(version).filter(|numbers| (1..=NUMBERS).contains(&numbers.len()));
        let version = version.ok_or_else(|| invalid("its version is not one to three numbers"))?;
        Ok(Self { name: name.to_owned(), version })
    }
}

impl fmt::Display for LibraryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}@{}", self.name, dotted(&self.version))
    }
}

impl FromStr for Version {
    type Err = InvalidLibrary;

    fn from_str(text: &str) -> Result<Self, InvalidLibrary> {
        let read = numbers(text).and_then(|numbers| <[u32; NUMBERS]>::try_from(numbers).ok());
        read.map(Self)
            .ok_or_else(|| InvalidLibrary(format!("`{text}` is no version: expected three numbers, as 1.0.0")))
    }
}

impl TryFrom<String> for Version {
    type Error = InvalidLibrary;

    fn try_from(text: String) -> Result<Self, InvalidLibrary> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&dotted(&self.0))
    }
}

/// Numbers with dots between, without signs or zeros in front.
fn numbers(text: &str) -> Option<Vec<u32>> {
    let number = |part: &str| part.parse::<u32>().ok().filter(|number| number.to_string() == part);
    text.split('.').take(NUMBERS + 1).map(number).collect()
}

fn dotted(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_admits_the_versions_that_begin_with_its_own() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        for (name, admitted, refused) in [
            ("library:anomaly@1", "1.20.3", "2.0.0"),
            ("library:anomaly@1.2", "1.2.9", "1.20.0"),
            ("anomaly@1.2.0", "1.2.0", "1.2.1"),
        ] {
            let reference: LibraryReference = name.parse().unwrap();
            assert!(reference.admits("anomaly", version(admitted)) && !reference.admits("anomaly", version(refused)));
            assert!(!reference.admits("nearest", version(admitted)));
            assert_eq!(reference.to_string().parse(), Ok(reference));
        }
        assert!(version("1.10.0") > version("1.9.9"));
    }

    #[test]
    fn what_is_no_name_says_why() {
        for (text, said) in [
            ("library:anomaly", "it has no version"),
            ("library:@1", "names no operator"),
            ("library:Anomaly@1", "names no operator"),
            ("library:a/b@1", "names no operator"),
            ("library:anomaly@", "one to three numbers"),
            ("library:anomaly@1.2.3.4", "one to three numbers"),
            ("library:anomaly@01", "one to three numbers"),
            ("library:anomaly@^1", "one to three numbers"),
        ] {
            assert!(text.parse::<LibraryReference>().unwrap_err().to_string().contains(said), "{text}");
        }
        assert!("1.0".parse::<Version>().is_err() && "1.0.0.0".parse::<Version>().is_err());
    }
}
