//! What a node says of how it is: where it is in the network, how loaded it is, what it serves and how well, what it
//! holds. All of it is measured but its clients, and part of its digest.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most functions whose latency a digest tells: those that are called the most.
pub const SERVED_MAX: usize = 64;
/// The most artefacts that a digest tells.
pub const ARTIFACTS_MAX: usize = 64;
/// The most networks of clients that a node may declare.
pub const CLIENTS_MAX: usize = 32;
/// A share or a factor of one, in thousandths.
pub const PERMILLE: u16 = 1_000;

/// How a node is. What is not known is 0 or left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Where it is in the network.
    pub coordinate: Option<Coordinate>,
    /// What kind of machine it is.
    pub machine: Machine,
    /// The share of its CPU time that was busy of late, in thousandths.
    pub busy_permille: u16,
    /// How many threads were ready to run and had no core.
    pub run_queue: u16,
    /// Memory that is free for new work, in bytes.
    pub memory_free_bytes: u64,
    /// How much longer the node's own work takes than alone on the machine, in thousandths; 1000 if not at all.
    pub slowdown_permille: u16,
    /// Which runtimes take new instances now.
    pub ready: Runtimes,
    /// How the functions fare that it serves, at most [`SERVED_MAX`].
    pub served: Vec<Served>,
    /// The first 32 bits of the digests of the artefacts that it holds, at most [`ARTIFACTS_MAX`], in order. Two artefacts
    /// in four billion share them: a hint where to ask, no proof.
    pub artifacts: Vec<u32>,
    /// The networks whose clients are near to it, at most [`CLIENTS_MAX`].
    pub clients: Vec<Network>,
}

/// A place in the network (Vivaldi with heights: Dabek et al., SIGCOMM 2004): a point in space, and the way from there
/// to the node over its access link. The round trip between two nodes is about the distance of their points and both
/// heights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinate {
    /// The point, in microseconds.
    pub point_us: [i32; 3],
    /// The height above it, in microseconds.
    pub height_us: u32,
    /// How wrong its predictions are about, in thousandths of the round trip; 1000 to begin with.
    pub error_permille: u16,
}

/// What kind of machine a node is, as far as it matters for how fast functions run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The architecture, as `x86_64`.
    pub arch: String,
    /// What one core did in a fixed loop at the node's start, in steps a microsecond.
    pub steps_per_us: u32,
}

/// Which runtimes take new instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtimes {
    /// WebAssembly components.
    pub wasm: bool,
    /// Containers.
    pub container: bool,
    /// Managed processes.
    pub process: bool,
}

/// How a function fares on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// `tenant/app/function`.
    pub function: String,
    /// Half of its calls took no longer than this, in microseconds.
    pub p50_us: u32,
    /// 95 of 100 took no longer than this.
    pub p95_us: u32,
    /// How many calls that rests on.
    pub samples: u32,
    /// How many calls it had at once.
    pub queue: u32,
}

/// Addresses with a common prefix, as `192.0.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no network: {problem}; write an address and the length of its prefix, like `192.0.2.0/24` or `2001:db8::/32`"
)]
pub struct NetworkError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Network {
    /// Whether an address is in it. An IPv4 address in IPv6's clothes counts as itself.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        bits(self.address).zip_same(bits(address.to_canonical())).is_some_and(|(own, other, width)| {
            let shift = width.saturating_sub(u32::from(self.prefix));
            shift >= width || (own ^ other) >> shift == 0
        })
    }

    /// The length of its prefix, in bits: the longer, the fewer addresses.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }
}

/// An address as a number, and its width in bits.
struct Bits(u128, u32);

fn bits(address: IpAddr) -> Bits {
    match address {
        IpAddr::V4(address) => Bits(u32::from(address).into(), 32),
        IpAddr::V6(address) => Bits(address.into(), 128),
    }
}

impl Bits {
    fn zip_same(self, other: Self) -> Option<(u128, u128, u32)> {
        (self.1 == other.1).then_some((self.0, other.0, self.1))
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = |problem| NetworkError { text: text.to_owned(), problem };
        let (address, prefix) = text.split_once('/').ok_or_else(|| wrong("it has no `/`"))?;
        let address: IpAddr = address.parse().map_err(|_| wrong("before the `/` stands no address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong("after the `/` stands no length of a prefix"))?;
        let Bits(number, width) = bits(address);
        if u32::from(prefix) > width {
            return Err(wrong("the prefix is longer than the address"));
        }
        if number.checked_shl(128 - width + u32::from(prefix)).is_some_and(|rest| rest != 0) {
            return Err(wrong("the address goes on after its prefix"));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;
    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        for (network, address, is_inside) in [
            ("192.0.2.0/24", "192.0.2.200", true),
            ("192.0.2.0/24", "192.0.3.1", false),
            ("192.0.2.7/32", "192.0.2.7", true),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("192.0.2.0/24", "::ffff:192.0.2.9", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.to_string(), network);
            assert_eq!(parsed.contains(address.parse().unwrap()), is_inside, "{address} in {network}");
        }
    }

    #[test]
    fn what_is_no_network_is_told_why() {
        for (text, problem) in [
            ("192.0.2.0", "no `/`"),
            ("x/8", "no address"),
            ("10.0.0.0/x", "no length"),
            ("10.0.0.0/33", "longer"),
            ("10.0.0.1/8", "goes on"),
            ("2001:db8::1/32", "goes on"),
        ] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
