//! The broker of the tests as a process of its own, for tests of nodes: says where it listens, and ends when its input does.
//!
//! `kafka-broker PARTITIONS`
#![allow(clippy::unwrap_used)]

#[path = "../tests/kafka_broker/mod.rs"]
mod kafka_broker;

use std::io::Read as _;

fn main() {
    let partitions = std::env::args().nth(1).unwrap().parse().unwrap();
    let broker = kafka_broker::Broker::start(partitions);
    println!("{}", broker.address);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
