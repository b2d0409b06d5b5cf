//! Which entry points are the nearest to a client: by its position along the Earth's surface, else by its address.
//!
//! Nodes declare the networks of the clients that are near to them; the longest prefix that an address has decides where
//! the client is. The other entry points follow by their round trip to that node, as network coordinates predict it,
//! else by their distance from it. Of a client of whom nothing is known it is known only that it has reached the node
//! that it asks.

use std::net::IpAddr;

use littoral_model::digest::NodeDigest;
use littoral_model::situation::Position;
use serde::Serialize;

use crate::coordinate::{estimate_us, is_known};

/// The most entry points that are told.
pub const ENTRIES_MAX: usize = 16;

/// What is known of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Where it is.
    At(Position),
    /// Its address.
    Address(IpAddr),
}

/// What an entry point's place in the ranking rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grounds {
    /// The node has declared the client's network.
    Network,
    /// The round trip to where the client is taken to be.
    RoundTrip,
    /// The distance to there.
    Distance,
    /// Nothing is known of how far it is.
    Unknown,
}

/// An entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The node; it has an address for HTTP.
    pub digest: &'a NodeDigest,
    /// What its place rests on.
    pub grounds: Grounds,
    /// How far it is, in metres.
    pub distance_m: Option<u64>,
    /// The predicted round trip to it, in microseconds.
    pub rtt_us: Option<u64>,
}

/// Ranks the nodes that serve HTTP, the nearest first, at most [`ENTRIES_MAX`]; of equally near ones the less busy.
#[must_use]
pub fn rank<'a>(client: Client, asked: &NodeDigest, nodes: impl IntoIterator<Item = &'a NodeDigest>) -> Vec<Entry<'a>> {
    let nodes: Vec<&NodeDigest> = nodes.into_iter().filter(|digest| digest.http.is_some()).collect();
    let mut entries: Vec<Entry<'_>> = match client {
        Client::At(position) => nodes.iter().map(|digest| from_position(position, digest)).collect(),
        Client::Address(address) => {
            let home = nodes.iter().filter_map(|digest| Some((prefix(digest, address)?, digest)));
            let longest = home.map(|(prefix, _)| prefix).max();
            let is_home = |digest: &NodeDigest| longest.is_some() && prefix(digest, address) == longest;
            let homes: Vec<&NodeDigest> = nodes.iter().copied().filter(|digest| is_home(digest)).collect();
            let places = if homes.is_empty() { vec![asked] } else { homes.clone() };
            nodes.iter().map(|digest| from_node(&places, is_home(digest), digest)).collect()
        }
    };
    entries.sort_by(|a, b| {
        let key = |entry: &Entry<'_>| {
            (
                entry.grounds,
                entry.rtt_us.filter(|_| entry.grounds == Grounds::RoundTrip),
                entry.distance_m,
                entry.digest.condition.busy_permille,
            )
        };
        key(a).cmp(&key(b)).then_with(|| a.digest.node.cmp(&b.digest.node))
    });
    entries.truncate(ENTRIES_MAX);
    entries
}

fn prefix(digest: &NodeDigest, address: IpAddr) -> Option<u8> {
    let networks = digest.condition.clients.iter().filter(|network| network.contains(address));
    networks.map(|network| network.prefix()).max()
}

fn from_position(position: Position, digest: &NodeDigest) -> Entry<'_> {
    let distance_m = digest.situation.position.map(|there| position.distance(there).as_metres());
    let grounds = if distance_m.is_some() { Grounds::Distance } else { Grounds::Unknown };
    Entry { digest, grounds, distance_m, rtt_us: None }
}

/// How far a node is from the nearest of those at which the client is taken to be.
fn from_node<'a>(places: &[&NodeDigest], is_home: bool, digest: &'a NodeDigest) -> Entry<'a> {
    let rtt_us = |place: &&NodeDigest| {
        if place.node == digest.node {
            return Some(0);
        }
        let (a, b) = place.condition.coordinate.zip(digest.condition.coordinate)?;
        is_known(&a, &b).then(|| estimate_us(&a, &b))
    };
    let distance_m =
        |place: &&NodeDigest| Some(place.situation.position?.distance(digest.situation.position?).as_metres());
    let rtt_us = places.iter().filter_map(rtt_us).min();
    let distance_m = places.iter().filter_map(distance_m).min();
    let grounds = match (rtt_us, distance_m) {
        _ if is_home => Grounds::Network,
        (Some(_), _) => Grounds::RoundTrip,
        (None, Some(_)) => Grounds::Distance,
        (None, None) => Grounds::Unknown,
    };
    Entry { digest, grounds, distance_m, rtt_us }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use littoral_model::condition::Coordinate;
    use littoral_model::id::Tier;

    use super::*;
    use crate::sample::tests::digest;

    fn nodes() -> Vec<NodeDigest> {
        let node = |name: &str, position: &str, x_us: i32, clients: &[&str]| {
            let mut digest = digest(name, name, Tier::Edge);
            digest.situation.position = position.parse().ok();
            digest.condition.coordinate =
                Some(Coordinate { point_us: [x_us, 0, 0], height_us: 100, error_permille: 50 });
            digest.condition.clients = clients.iter().map(|network| network.parse().unwrap()).collect();
            digest
        };
        vec![
            node("stockholm", "59.33,18.07", 0, &["192.0.2.0/24"]),
            node("berlin", "52.52,13.40", 20_000, &["192.0.0.0/16", "2001:db8::/32"]),
            // Near to Berlin on the map, far from it in the network.
            node("leipzig", "51.34,12.37", 90_000, &[]),
            node("lisbon", "38.72,-9.14", 50_000, &[]),
        ]
    }

    fn ranked(client: Client) -> Vec<(String, Grounds)> {
        let nodes = nodes();
        let entries = rank(client, &nodes[3], &nodes);
        entries.into_iter().map(|entry| (entry.digest.node.to_string(), entry.grounds)).collect()
    }

    #[test]
    fn a_position_is_ranked_by_the_way_along_the_surface() {
        let ranked = ranked(Client::At("52.4,13.0".parse().unwrap()));
        let expected = ["berlin", "leipzig", "stockholm", "lisbon"].map(|name| (name.to_owned(), Grounds::Distance));
        assert_eq!(ranked, expected);
    }

    #[test]
    fn an_address_is_where_its_longest_prefix_was_declared() {
        let names = |client| ranked(client).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let address = |text: &str| Client::Address(text.parse().unwrap());
        assert_eq!(names(address("192.0.2.9")), ["stockholm", "berlin", "lisbon", "leipzig"]);
        assert_eq!(names(address("192.0.7.9")), ["berlin", "stockholm", "lisbon", "leipzig"]);
        assert_eq!(ranked(address("192.0.7.9"))[0].1, Grounds::Network);
        assert_eq!(names(address("2001:db8::1"))[0], "berlin");
        // Nobody declared it: it is taken to be where it asked.
        assert_eq!(names(address("203.0.113.1")), ["lisbon", "berlin", "leipzig", "stockholm"]);
    }

    #[test]
    fn only_nodes_that_serve_http_are_told_and_unknown_ones_come_last() {
        let mut nodes = nodes();
        nodes[1].http = None;
        nodes[0].situation.position = None;
        let entries = rank(Client::At("52.4,13.0".parse().unwrap()), &nodes[3], &nodes);
        let names: Vec<&str> = entries.iter().map(|entry| entry.digest.node.as_str()).collect();
        assert_eq!(names, ["leipzig", "lisbon", "stockholm"]);
        assert_eq!(entries[2].grounds, Grounds::Unknown);
    }
}
