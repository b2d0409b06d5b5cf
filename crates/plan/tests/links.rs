//! What a link between two nodes is predicted to be.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use littoral_model::condition::Coordinate;
use littoral_plan::{Basis, Fabric};

const FABRIC: &str = "
node device-1 device field-1
node edge-1 edge hall-7
node edge-2 edge hall-7
node edge-3 edge hall-7
node cloud-1 cloud central
node cloud-2 cloud central
node region-1 region metro
link device-1 edge-1 us=3000 mbit=100
link device-1 edge-2 us=3400 mbit=80
link edge-1 device-1 us=3200
link edge-1 cloud-1 us=40000 mbit=50
";

fn predict(fabric: &Fabric, a: &str, b: &str) -> (u64, u64, Basis) {
    let node = |name: &str| &fabric.nodes[&name.parse().unwrap()];
    let link = fabric.links.predict(node(a), node(b));
    let back = fabric.links.predict(node(b), node(a));
    assert_eq!(link, back);
    (link.rtt_us, link.bandwidth_bps, link.basis)
}

#[test]
fn measurements_come_first_and_guesses_last() {
    let fabric = common::parse(FABRIC).fabric;
    // Both ends' figures are averaged, and noise within a site is levelled.
    assert_eq!(predict(&fabric, "device-1", "edge-1"), (3250, 90_000_000, Basis::Measured));
    assert_eq!(predict(&fabric, "device-1", "edge-2"), (3250, 90_000_000, Basis::Measured));
    assert_eq!(predict(&fabric, "device-1", "edge-3"), (3250, 90_000_000, Basis::SiteMedian));
    assert_eq!(predict(&fabric, "edge-2", "cloud-2"), (40_000, 50_000_000, Basis::SiteMedian));
    assert_eq!(predict(&fabric, "device-1", "cloud-2"), (43_250, 50_000_000, Basis::Path));
    assert_eq!(predict(&fabric, "edge-1", "edge-1"), (0, u64::MAX, Basis::SameNode));
    assert_eq!(predict(&fabric, "edge-1", "edge-2"), (1_000, 1_000_000_000, Basis::Default));
    assert_eq!(predict(&fabric, "edge-1", "region-1"), (40_000, 50_000_000, Basis::Default));
}

#[test]
fn a_link_that_is_really_worse_is_not_levelled() {
    let text = FABRIC.replace("device-1 edge-2 us=3400", "device-1 edge-2 us=90000");
    let fabric = common::parse(&text).fabric;
    assert_eq!(predict(&fabric, "device-1", "edge-2").0, 90_000);
}

#[test]
fn coordinates_predict_what_nobody_has_measured_if_both_ends_are_sure() {
    let mut fabric = common::parse(FABRIC).fabric;
    let at = |x_us: i32, error_permille| Coordinate { point_us: [x_us, 0, 0], height_us: 500, error_permille };
    let located = [("device-1", at(0, 100)), ("cloud-2", at(30_000, 100)), ("region-1", at(9_000, 900))];
    fabric.links = fabric.links.located(located.map(|(node, coordinate)| (node.parse().unwrap(), coordinate)));
    assert_eq!(predict(&fabric, "device-1", "cloud-2"), (31_000, 10_000_000, Basis::Coordinates));
    assert_eq!(predict(&fabric, "device-1", "edge-1").2, Basis::Measured);
    assert_eq!(predict(&fabric, "device-1", "region-1"), (40_000, 10_000_000, Basis::Default), "one end is not sure");
}
