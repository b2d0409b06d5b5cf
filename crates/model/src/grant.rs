//! What a function may reach outside itself: other machines by name or by address.
//!
//! A name grants public addresses only. What is private, link-local (where clouds keep their metadata) or of the machine
//! itself must be granted by address, so that whoever controls a name's records cannot turn a guest against the network
//! that it runs in (DNS rebinding).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A right one, for messages.
const EXAMPLE: &str = "api.example.com:443";
/// The longest name of a host; RFC 1035, section 2.3.4.
const HOST_CHARS_MAX: usize = 253;

/// Machines that a function may talk to: a host's name, all names below one (`*.example.com`), an address, or a range of
/// addresses (`10.0.0.0/8`, `[fd00::/8]`), each with a port or with all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Peer {
    host: Host,
    /// None for every port.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Host {
    Name(String),
    /// Everything that ends in a dot and this.
    Below(String),
    Range {
        address: IpAddr,
        prefix: u8,
    },
}

/// A text that names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` names no peer: {problem}; write it like `{EXAMPLE}`, `*.example.com` or `10.0.0.0/8:1883`")]
pub struct PeerError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Peer {
    /// Whether this grants connections to `address`, which `host` was resolved to (or which was named itself).
    #[must_use]
    pub fn grants(&self, host: &str, address: SocketAddr) -> bool {
        if self.port.is_some_and(|port| port != address.port()) {
            return false;
        }
        let ip = canonical(address.ip());
        match &self.host {
            Host::Range { address: range, prefix } => in_range(ip, *range, *prefix),
            Host::Name(name) => host.eq_ignore_ascii_case(name) && is_public(ip),
            Host::Below(suffix) => is_below(host, suffix) && is_public(ip),
        }
    }

    /// Whether this could grant a connection to such a host and port, before its name is resolved.
    #[must_use]
    pub fn may_grant(&self, host: &str, port: u16) -> bool {
        let port_fits = self.port.is_none_or(|granted| granted == port);
        port_fits
            && match &self.host {
                // A name may lead into a range.
                Host::Range { address, prefix } => {
                    host.parse().map_or(true, |ip: IpAddr| in_range(canonical(ip), *address, *prefix))
                }
                Host::Name(name) => host.eq_ignore_ascii_case(name),
                Host::Below(suffix) => is_below(host, suffix),
            }
    }

    /// The host's name, if this is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) => Some(name),
            _ => None,
        }
    }
}

fn is_below(host: &str, suffix: &str) -> bool {
    let cut = host.len().checked_sub(suffix.len());
    let Some((front, end)) = cut.and_then(|cut| host.split_at_checked(cut)) else { return false };
    front.len() > 1 && front.ends_with('.') && end.eq_ignore_ascii_case(suffix)
}

/// An IPv4 address in IPv6's clothes, as itself.
fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => embedded(v6).map_or(ip, IpAddr::V4),
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped (RFC 4291), compatible, by NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, a, b] => Some(low(a, b)),
        [0, 0, 0, 0, 0, 0, a, b] if a != 0 => Some(low(a, b)),
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some(low(a, b)),
        [0x2002, a, b, ..] => Some(low(a, b)),
        _ => None,
    }
}

fn in_range(ip: IpAddr, range: IpAddr, prefix: u8) -> bool {
    match (ip, range) {
        (IpAddr::V4(ip), IpAddr::V4(range)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            u32::from(ip) & mask == u32::from(range) & mask
        }
        (IpAddr::V6(ip), IpAddr::V6(range)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            u128::from(ip) & mask == u128::from(range) & mask
        }
        _ => false,
    }
}

/// Whether an address is one of the public Internet; the special ones are those of RFC 6890 and its registries.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let special = ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b));
            !special
        }
        // Global unicast is 2000::/3; the documentation's and the reserved parts of it are not.
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            (0x2000..0x4000).contains(&first) && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
        }
    }
}

impl FromStr for Peer {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        let wrong = |problem| PeerError { text: text.to_owned(), problem };
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(|| wrong("the bracket is not closed"))?;
                match (rest, rest.strip_prefix(':')) {
                    ("", _) => (host, None),
                    (_, Some(port)) => (host, Some(port)),
                    _ => return Err(wrong("after the bracket stands something else than a port")),
                }
            }
            // More than one colon: an IPv6 address without brackets.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(str::parse::<u16>).transpose().map_err(|_| wrong("the port is no number up to 65535"))?;
        if port == Some(0) {
            return Err(wrong("there is no port 0"));
        }
        Ok(Self { host: host_of(host).map_err(wrong)?, port })
    }
}

fn host_of(host: &str) -> Result<Host, &'static str> {
    if let Some((address, prefix)) = host.split_once('/') {
        let address: IpAddr = address.parse().map_err(|_| "before the `/` stands no address")?;
        let prefix: u8 = prefix.parse().map_err(|_| "after the `/` stands no length of a prefix")?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err("the prefix is longer than the address");
        }
        return Ok(Host::Range { address, prefix });
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Host::Range { address, prefix: if address.is_ipv4() { 32 } else { 128 } });
    }
    let (name, below) = host.strip_prefix("*.").map_or((host, false), |name| (name, true));
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > HOST_CHARS_MAX || !name.split('.').all(label) {
        return Err("it is neither a host's name nor an address");
    }
    let name = name.to_ascii_lowercase();
    Ok(if below { Host::Below(name) } else { Host::Name(name) })
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::Below(suffix) => write!(f, "*.{suffix}")?,
            Host::Range { address: IpAddr::V4(address), prefix: 32 } => write!(f, "{address}")?,
            Host::Range { address: IpAddr::V4(address), prefix } => write!(f, "{address}/{prefix}")?,
            Host::Range { address: IpAddr::V6(address), prefix: 128 } => write!(f, "[{address}]")?,
            Host::Range { address: IpAddr::V6(address), prefix } => write!(f, "[{address}/{prefix}]")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Peer {
    type Error = PeerError;
    fn try_from(text: String) -> Result<Self, PeerError> {
        text.parse()
    }
}

impl From<Peer> for String {
    fn from(peer: Peer) -> Self {
        peer.to_string()
    }
}

impl JsonSchema for Peer {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Peer".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "peer",
            "description": "A host's name, `*.` and a name, an address or a range of addresses; with a port or without.",
            "examples": [EXAMPLE],
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn grants(peer: &str, host: &str, address: &str) -> bool {
        peer.parse::<Peer>().unwrap().grants(host, address.parse().unwrap())
    }

    #[test]
    fn a_name_grants_public_addresses_only() {
        assert!(grants("api.example.com", "API.example.com", "93.184.216.34:443"));
        assert!(!grants("api.example.com:443", "api.example.com", "93.184.216.34:80"));
        assert!(!grants("api.example.com", "evil.example.com", "93.184.216.34:443"));
        for rebound in [
            "127.0.0.1:443",
            "10.1.2.3:443",
            "172.16.0.1:443",
            "192.168.1.1:443",
            "169.254.169.254:80",
            "100.64.0.1:443",
            "0.0.0.0:443",
            "224.0.0.1:443",
            "255.255.255.255:443",
            "[::1]:443",
            "[::]:443",
            "[fe80::1]:443",
            "[fd00:ec2::254]:80",
            "[::ffff:169.254.169.254]:80",
            "[::ffff:10.0.0.1]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a00:1::]:80",
            "[2001:db8::1]:80",
        ] {
            assert!(!grants("api.example.com", "api.example.com", rebound), "{rebound}");
        }
    }

    #[test]
    fn below_a_name_is_not_the_name_and_not_another_one() {
        assert!(grants("*.example.com", "a.b.example.com", "93.184.216.34:443"));
        for other in ["example.com", ".example.com", "badexample.com", "example.com.evil.org"] {
            assert!(!grants("*.example.com", other, "93.184.216.34:443"), "{other}");
        }
    }

    #[test]
    fn ranges_grant_what_lies_in_them_however_it_is_written() {
        assert!(grants("10.0.0.0/8:1883", "broker", "10.9.8.7:1883"));
        assert!(grants("10.0.0.0/8", "broker", "[::ffff:10.9.8.7]:1883"));
        assert!(grants("127.0.0.1", "127.0.0.1", "127.0.0.1:80"));
        assert!(grants("[fd00::/8]:80", "x", "[fd12::1]:80"));
        assert!(grants("0.0.0.0/0", "x", "169.254.169.254:80"));
        assert!(!grants("10.0.0.0/8", "x", "11.0.0.1:80"));
        assert!(!grants("::1", "x", "127.0.0.1:80"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["a.example.com:443", "*.example.com", "10.0.0.0/8:1883", "127.0.0.1", "[fd00::/8]:80", "[::1]"] {
            assert_eq!(text.parse::<Peer>().unwrap().to_string(), text);
        }
        for wrong in ["", ":80", "a b", "http://x", "10.0.0.0/33", "x:99999", "x:0", "[::1", "*.", "a..b", "10.0.0.0/x"]
        {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong}");
        }
    }
}
