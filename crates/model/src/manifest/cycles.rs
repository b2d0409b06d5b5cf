//! Cycles between flows: one that feeds, directly or through others, the stream that it reads would never end.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A flow takes from one stream and puts into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edge<'t> {
    pub(super) flow: &'t str,
    pub(super) from: &'t str,
    pub(super) to: &'t str,
    /// Where the text says so.
    pub(super) span: Range<usize>,
}

/// A cycle: the edge of it that stands first in the text, and the streams from there back to there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cycle<'t> {
    pub(super) edge: Edge<'t>,
    pub(super) streams: Vec<&'t str>,
}

type Graph<'t> = BTreeMap<&'t str, Vec<&'t str>>;

/// One cycle for each set of streams that feed one another (the strongly connected components, by Kosaraju and Sharir).
pub(super) fn find<'t>(mut edges: Vec<Edge<'t>>) -> Vec<Cycle<'t>> {
    edges.sort_by_key(|edge| edge.span.start);
    let (mut forward, mut backward) = (Graph::new(), Graph::new());
    for edge in &edges {
        forward.entry(edge.from).or_default().push(edge.to);
        backward.entry(edge.to).or_default().push(edge.from);
    }
    let (mut seen, mut finished) = (BTreeSet::new(), Vec::new());
    for stream in forward.keys() {
        visit(stream, &forward, &mut seen, &mut finished);
    }
    let (mut seen, mut component) = (BTreeSet::new(), BTreeMap::new());
    for stream in finished.into_iter().rev() {
        let mut members = Vec::new();
        visit(stream, &backward, &mut seen, &mut members);
        component.extend(members.into_iter().map(|member| (member, stream)));
    }
    let (mut cycles, mut found) = (Vec::new(), BTreeSet::new());
    for edge in edges {
        let of = component.get(edge.from);
        if of == component.get(edge.to) && found.insert(of.copied()) {
            let within = |stream: &str| component.get(stream) == of;
            let streams = way(&edge, &forward, within);
            cycles.push(Cycle { edge, streams });
        }
    }
    cycles
}

/// Appends what is reached from a stream and was not seen before, each after everything that is reached from it. Without
/// recursion, for the text decides how deep it goes.
fn visit<'t>(start: &'t str, graph: &Graph<'t>, seen: &mut BTreeSet<&'t str>, finished: &mut Vec<&'t str>) {
    let next = |stream: &str| graph.get(stream).into_iter().flatten();
    if !seen.insert(start) {
        return;
    }
    let mut open = vec![(start, next(start))];
    while let Some((stream, targets)) = open.last_mut() {
        match targets.find(|target| seen.insert(**target)) {
            Some(target) => open.push((target, next(target))),
            None => {
                finished.push(*stream);
                open.pop();
            }
        }
    }
}

/// The shortest way along an edge and back to where it begins.
fn way<'t>(edge: &Edge<'t>, graph: &Graph<'t>, within: impl Fn(&str) -> bool) -> Vec<&'t str> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::from([(edge.to, edge.from)]);
    let mut open = std::collections::VecDeque::from([edge.to]);
    while let Some(stream) = open.pop_front().filter(|stream| *stream != edge.from) {
        for target in graph.get(stream).into_iter().flatten().filter(|target| within(target)) {
            if !before.contains_key(target) {
                before.insert(target, stream);
                open.push_back(target);
            }
        }
    }
    let mut streams = vec![edge.from];
    let mut at = edge.from;
    while let Some(stream) = before.get(at) {
        streams.push(stream);
        at = stream;
        if at == edge.from {
            break;
        }
    }
    streams.reverse();
    streams
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cycles between flows written as `from to`.
    fn cycles(edges: &[&'static str]) -> Vec<String> {
        let edges = edges.iter().enumerate().map(|(place, edge)| {
            let (from, to) = edge.split_once(' ').unwrap_or_default();
            Edge { flow: "flow", from, to, span: place..place + 1 }
        });
        find(edges.collect()).into_iter().map(|cycle| cycle.streams.join(" ")).collect()
    }

    #[test]
    fn chains_and_diamonds_are_no_cycles() {
        assert_eq!(cycles(&["a b", "b c", "a d", "d c", "c e"]), Vec::<String>::new());
        assert_eq!(cycles(&[]), Vec::<String>::new());
    }

    #[test]
    fn each_cycle_is_found_once_from_its_first_edge() {
        assert_eq!(cycles(&["a a"]), ["a a"]);
        assert_eq!(cycles(&["in a", "b c", "a b", "c a", "c out"]), ["b c a b"]);
        assert_eq!(cycles(&["a b", "b a", "b c", "c d", "d c"]), ["a b a", "c d c"]);
    }

    #[test]
    fn the_shortest_way_is_shown() {
        assert_eq!(cycles(&["a b", "b c", "c a", "b a"]), ["a b a"]);
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let names: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
        let pairs = names.iter().zip(names.iter().skip(1).chain(names.first()));
        let edges = pairs.enumerate().map(|(n, (from, to))| Edge { flow: "f", from, to, span: n..n });
        assert_eq!(find(edges.collect()).len(), 1);
    }
}
