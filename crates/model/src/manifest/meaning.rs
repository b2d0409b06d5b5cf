//! What a schema cannot say: names that lead nowhere, cycles, constraints that exclude each other, paths that leave the
//! app.
//!
//! Works on the text's own tables, so that everything that can be read is checked, whatever else is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::Report;
use crate::id::{Tier, check_name};
use crate::unit::{Size, Time};

/// What a value that names a secret begins with.
const SECRET_PREFIX: &str = "secret:";
/// The memory of an instance, in bytes: a component needs a few pages, and 32-bit memories end at 4 GiB.
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=4 << 30;
/// The ports that stages have anyway.
const OWN_PORTS: [&str; 2] = ["main", "dead-letter"];

type Value<'i> = Spanned<DeValue<'i>>;

/// Checks a manifest.
pub(super) fn check(root: &DeTable<'_>, report: &mut Report<'_>) {
    let mut meaning = Meaning { root, report };
    meaning.functions();
    meaning.streams();
    meaning.flows();
    meaning.cycles();
    meaning.routes();
    meaning.dev();
}

struct Meaning<'t, 'i, 'r, 'a> {
    root: &'t DeTable<'i>,
    report: &'r mut Report<'a>,
}

impl<'t, 'i> Meaning<'t, 'i, '_, '_> {
    fn functions(&mut self) {
        for (name, function) in entries(self.root, "functions") {
            for key in ["component"] {
                self.path_inside(function, key);
            }
            if let Some((memory, span)) = text(function, "memory")
                && let Ok(size) = memory.parse::<Size>()
                && !MEMORY_BYTES.contains(&u64::from(size))
            {
                self.report.add("out-of-range", span, format!("an instance cannot have {memory}")).expected("1MiB to 4GiB");
            }
            for key in ["timeout", "slo"] {
                self.not_zero(function, key);
            }
            if let Some(placement) = table(function, "placement") {
                self.placement(placement, Some((name, placement)));
            }
            for (key, value) in table(function, "config").into_iter().flatten() {
                let secret = value.get_ref().as_str().and_then(|text| text.strip_prefix(SECRET_PREFIX));
                if let Some(error) = secret.and_then(|secret| check_name(secret).err()) {
                    let message = format!("`{}` names no secret: {error}", key.get_ref());
                    self.report.add("invalid-secret", value.span(), message).expected("secret:NAME");
                }
            }
        }
    }

    fn streams(&mut self) {
        for (_, stream) in entries(self.root, "streams") {
            self.not_zero(stream, "retention");
            if let Some(placement) = table(stream, "placement") {
                self.placement(placement, None);
            }
        }
    }

    /// Names in a placement, and whether it can be satisfied together with what it refers to.
    fn placement(&mut self, placement: &'t DeTable<'i>, function: Option<(&str, &'t DeTable<'i>)>) {
        let Some((near, span)) = text(placement, "near") else { return };
        self.known("stream", "streams", near, span.clone());
        let Some((name, placement)) = function else { return };
        let stream = entries(self.root, "streams").find(|(stream, _)| *stream == near).and_then(|(_, stream)| table(stream, "placement"));
        if let Some(stream) = stream
            && let Some(why) = excludes(placement, stream)
        {
            let message = format!("function {name} cannot be near stream {near}: {why}");
            self.report.add("contradiction", span, message).help("drop one of both constraints");
        }
    }

    fn flows(&mut self) {
        for (name, flow) in entries(self.root, "flows") {
            if let Some((source, span)) = text(flow, "source") {
                self.known("stream", "streams", source, span);
            }
            for stage in list(flow, "stages") {
                if let Some(function) = stage.get_ref().as_str() {
                    self.known("function", "functions", function, stage.span());
                }
            }
            self.same_node(name, flow);
            if let Some((sink, span)) = text(flow, "sink") {
                self.sink(sink, span);
            }
            for (port, stream) in table(flow, "outputs").into_iter().flatten() {
                if OWN_PORTS.contains(&port.get_ref().as_ref()) {
                    let message = format!("every stage has a port `{}` of its own", port.get_ref());
                    self.report.add("reserved-port", port.span(), message).help("say `sink` or `dead-letter` instead");
                }
                if let Some(stream_name) = stream.get_ref().as_str() {
                    self.known("stream", "streams", stream_name, stream.span());
                }
            }
            if let Some((dead_letter, span)) = text(flow, "dead-letter") {
                self.known("stream", "streams", dead_letter, span);
            }
            self.not_zero(flow, "slo");
        }
    }

    /// One function cannot be a stage and answer HTTP, nor stand twice in a flow under different state.
    fn same_node(&mut self, flow: &str, table: &'t DeTable<'i>) {
        let mut seen = BTreeSet::new();
        for stage in list(table, "stages") {
            let Some(function) = stage.get_ref().as_str() else { continue };
            if !seen.insert(function) {
                let message = format!("function {function} stands twice in flow {flow}");
                self.report.add("duplicate", stage.span(), message).help("give it a second name in `[functions]`");
            }
        }
    }

    fn sink(&mut self, sink: &str, span: Range<usize>) {
        let is = |key| entries(self.root, key).any(|(name, _)| name == sink);
        match (is("streams"), is("functions")) {
            (true, true) => {
                let message = format!("`{sink}` is a stream and a function of this app");
                self.report.add("ambiguous", span, message).help("rename one of both");
            }
            (false, false) => {
                let known: Vec<&str> = ["streams", "functions"].iter().flat_map(|key| names(self.root, key)).collect();
                let message = format!("there is no stream and no function `{sink}`");
                self.report.add("unknown-name", span, message).expected(listed(&known)).nearest(sink, known);
            }
            _ => {}
        }
    }

    /// A flow that feeds, directly or through others, the stream that it reads would never end.
    fn cycles(&mut self) {
        let mut feeds: BTreeMap<&str, Vec<(&str, Range<usize>, &str)>> = BTreeMap::new();
        for (name, flow) in entries(self.root, "flows") {
            let Some((source, _)) = text(flow, "source") else { continue };
            let outputs = table(flow, "outputs").into_iter().flatten().filter_map(|(_, value)| Some((value.get_ref().as_str()?, value.span())));
            let targets = ["sink", "dead-letter"].into_iter().filter_map(|key| text(flow, key)).chain(outputs);
            feeds.entry(source).or_default().extend(targets.map(|(target, span)| (target, span, name)));
        }
        let reaches = |from: &str, to: &str| {
            let (mut open, mut seen) = (vec![from], BTreeSet::new());
            while let Some(stream) = open.pop() {
                if stream == to {
                    return true;
                }
                if seen.insert(stream.to_owned()) {
                    open.extend(feeds.get(stream).into_iter().flatten().map(|(target, ..)| *target));
                }
            }
            false
        };
        for (source, targets) in &feeds {
            for (target, span, flow) in targets.iter().filter(|(target, ..)| reaches(target, source)) {
                let message = format!("flow {flow} feeds {target}, from which its own source {source} is fed");
                self.report.add("cycle", span.clone(), message).help("write to a stream that leads nowhere back");
            }
        }
    }

    fn routes(&mut self) {
        let mut seen: BTreeMap<&str, Range<usize>> = BTreeMap::new();
        for value in list(self.root, "routes") {
            let Some(route) = value.get_ref().as_table() else { continue };
            if let Some((path, span)) = text(route, "path") {
                let inner = path.strip_suffix("/*").unwrap_or(path);
                if !path.starts_with('/') || inner.contains(['*', '?', '#', ' ']) {
                    let message = format!("`{path}` is no path");
                    self.report.add("invalid-path", span.clone(), message).expected("a path like \"/app/things\" or \"/app/*\"");
                }
                if seen.insert(path, span.clone()).is_some() {
                    self.report.add("duplicate", span, format!("there are two routes at {path}")).help("drop one of them");
                }
            }
            for (key, kind, all) in [("function", "function", "functions"), ("stream", "stream", "streams")] {
                if let Some((name, span)) = text(route, key) {
                    self.known(kind, all, name, span);
                }
            }
            if route.contains_key("function") == route.contains_key("stream") {
                let message = "a route leads to exactly one function or stream";
                self.report.add("route-target", value.span(), message).expected("`function` or `stream`");
            }
        }
    }

    fn dev(&mut self) {
        let Some(dev) = table(self.root, "dev") else { return };
        let nodes: Vec<&DeTable<'_>> = list(dev, "nodes").iter().filter_map(|node| node.get_ref().as_table()).collect();
        let (mut known, mut ends): (BTreeSet<&str>, BTreeSet<&str>) = (BTreeSet::new(), BTreeSet::new());
        for node in &nodes {
            if let Some((name, span)) = text(node, "name")
                && !known.insert(name)
            {
                self.report.add("duplicate", span, format!("there are two nodes named {name}")).help("rename one of them");
            }
            ends.extend(["name", "site", "tier"].into_iter().filter_map(|key| Some(text(node, key)?.0)));
        }
        for link in list(dev, "links").iter().filter_map(|link| link.get_ref().as_table()) {
            for end in list(link, "between") {
                let Some(name) = end.get_ref().as_str() else { continue };
                if !ends.contains(name) {
                    let message = format!("no node of `dev` is named `{name}`, or of such a site or tier");
                    self.report.add("unknown-name", end.span(), message).nearest(name, ends.iter().copied());
                }
            }
        }
        for sensor in list(dev, "sensors").iter().filter_map(|sensor| sensor.get_ref().as_table()) {
            if let Some((node, span)) = text(sensor, "node")
                && !known.contains(node)
            {
                let message = format!("`dev` has no node `{node}`");
                let all: Vec<&str> = known.iter().copied().collect();
                self.report.add("unknown-name", span, message).expected(listed(&all)).nearest(node, all);
            }
            if let Some((stream, span)) = text(sensor, "stream") {
                self.known("stream", "streams", stream, span);
            }
            for key in ["file", "labels"] {
                self.path_inside(sensor, key);
            }
        }
    }

    /// A name must be one of those in a table of the manifest.
    fn known(&mut self, kind: &str, key: &str, name: &str, span: Range<usize>) {
        let all: Vec<&str> = names(self.root, key).collect();
        if !all.contains(&name) {
            let message = format!("there is no {kind} `{name}`");
            self.report.add("unknown-name", span, message).expected(listed(&all)).nearest(name, all);
        }
    }

    fn not_zero(&mut self, table: &DeTable<'_>, key: &str) {
        let Some((value, span)) = text(table, key) else { return };
        let is_zero = value.parse::<Time>().is_ok_and(|time| Duration::from(time).is_zero())
            || value.parse::<Size>().is_ok_and(|size| u64::from(size) == 0);
        if is_zero {
            self.report.add("out-of-range", span, format!("`{key}` cannot be {value}")).expected("more than nothing");
        }
    }

    fn path_inside(&mut self, table: &DeTable<'_>, key: &str) {
        let Some((path, span)) = text(table, key) else { return };
        if path.is_empty() || !Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            let message = format!("`{path}` is no path inside the app's folder");
            self.report.add("invalid-path", span, message).expected("a relative path without ..");
        }
    }
}

/// Why two placements exclude each other, if they do.
fn excludes(a: &DeTable<'_>, b: &DeTable<'_>) -> Option<String> {
    for key in ["tier", "site"] {
        let (a, b) = (one_or_many(a, key), one_or_many(b, key));
        // A tier that is none is another finding.
        let known = |name: &&str| key != "tier" || name.parse::<Tier>().is_ok();
        if a.iter().any(known) && b.iter().any(known) && a.is_disjoint(&b) {
            let show = |set: &BTreeSet<&str>| set.iter().copied().collect::<Vec<_>>().join(" or ");
            return Some(format!("it is of {key} {}, the stream of {}", show(&a), show(&b)));
        }
    }
    for (label, value) in table(a, "labels").into_iter().flatten() {
        let other = table(b, "labels").and_then(|labels| labels.get(label.get_ref().as_ref()));
        let (ours, theirs) = (value.get_ref().as_str()?, other.and_then(|other| other.get_ref().as_str()));
        if theirs.is_some_and(|theirs| theirs != ours) {
            return Some(format!("they want different labels `{}`", label.get_ref()));
        }
    }
    None
}

fn one_or_many<'t>(table: &'t DeTable<'_>, key: &str) -> BTreeSet<&'t str> {
    match table.get(key).map(Spanned::get_ref) {
        Some(DeValue::String(one)) => BTreeSet::from([one.as_ref()]),
        Some(DeValue::Array(many)) => many.iter().filter_map(|value| value.get_ref().as_str()).collect(),
        _ => BTreeSet::new(),
    }
}

/// The named tables in a table of the root.
fn entries<'t, 'i>(root: &'t DeTable<'i>, key: &str) -> impl Iterator<Item = (&'t str, &'t DeTable<'i>)> + use<'t, 'i> {
    let found = table(root, key).into_iter().flatten();
    found.filter_map(|(name, value)| Some((name.get_ref().as_ref(), value.get_ref().as_table()?)))
}

fn names<'t>(root: &'t DeTable<'_>, key: &str) -> impl Iterator<Item = &'t str> + use<'t> {
    let names: Vec<&'t str> = table(root, key).into_iter().flatten().map(|(name, _)| name.get_ref().as_ref()).collect();
    names.into_iter()
}

fn table<'t, 'i>(table: &'t DeTable<'i>, key: &str) -> Option<&'t DeTable<'i>> {
    table.get(key)?.get_ref().as_table()
}

fn list<'t, 'i>(table: &'t DeTable<'i>, key: &str) -> &'t [Value<'i>] {
    match table.get(key).map(Spanned::get_ref) {
        Some(DeValue::Array(array)) => array,
        _ => &[],
    }
}

fn text<'t>(table: &'t DeTable<'_>, key: &str) -> Option<(&'t str, Range<usize>)> {
    let value = table.get(key)?;
    Some((value.get_ref().as_str()?, value.span()))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "one, but there is none".to_owned() } else { format!("one of {}", names.join(", ")) }
}
