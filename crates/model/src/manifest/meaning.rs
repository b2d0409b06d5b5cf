//! What a schema cannot say: names that lead nowhere, cycles, constraints that exclude each other, paths that leave the
//! app.
//!
//! Works on the text's own tables, so that everything that can be read is checked, whatever else is wrong.

mod connectors;
mod fidelity;
mod grants;
mod image;
mod later;
mod mqtt;
mod scale;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Component, Path};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::cycles::{self, Cycle, Edge};
use super::finding::Report;
use super::limits::{CPUS_MILLIS, REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use super::sql;
use crate::id::check_name;
use crate::library::LibraryReference;
use crate::oci::OciReference;
use crate::unit::{Cpus, Distance, Size, Time};

/// What a value that names a secret begins with.
const SECRET_PREFIX: &str = "secret:";
/// The memory of an instance, in bytes: a component needs a few pages, and 32-bit memories end at 4 GiB.
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=4 << 30;
/// The ports that stages have anyway.
const OWN_PORTS: [&str; 2] = ["main", "dead-letter"];

type Value<'i> = Spanned<DeValue<'i>>;

/// Checks a manifest.
pub(super) fn check(root: &DeTable<'_>, report: &mut Report<'_>) {
    let names = |key| entries_of_any_kind(root, key).map(|(name, _)| name).collect();
    let texts = entries(root, "sql").filter_map(|(_, sql)| text(sql, "text"));
    let in_sql: Vec<String> = texts.flat_map(|(text, _)| sql::streams(text)).collect();
    let mut streams: BTreeSet<&str> = names("streams");
    streams.extend(in_sql.iter().map(String::as_str));
    let mut meaning = Meaning { root, functions: names("functions"), streams, report };
    meaning.check_functions();
    meaning.check_streams();
    meaning.check_flows();
    meaning.check_cycles();
    meaning.check_connectors();
    meaning.check_routes();
    meaning.check_topics();
    meaning.check_triggers();
    if let Some(partition) = table(root, "partition") {
        meaning.not_zero(partition, "stop-after");
    }
    meaning.check_objectives();
    if let Some(dev) = table(root, "dev") {
        meaning.check_nodes_and_links(dev);
        meaning.check_sensors(dev);
    }
}

struct Meaning<'t, 'i, 'r, 'a> {
    root: &'t DeTable<'i>,
    functions: BTreeSet<&'t str>,
    streams: BTreeSet<&'t str>,
    report: &'r mut Report<'a>,
}

impl<'t> Meaning<'t, '_, '_, '_> {
    fn check_functions(&mut self) {
        for (name, value) in entries_of_any_kind(self.root, "functions") {
            let Some(function) = value.get_ref().as_table() else { continue };
            match text(function, "component") {
                Some((component, span)) if OciReference::is_meant(component) => {
                    self.reference("component", component, span);
                    self.not_built("a registry", name, function);
                }
                Some((component, span)) if LibraryReference::is_meant(component) => {
                    self.operator(component, span);
                    self.not_built("a library", name, function);
                }
                _ => self.path_inside(function, "component"),
            }
            self.image(name, function, value.span());
            self.variants(name, function);
            if let Some((memory, span)) = text(function, "memory")
                && let Ok(size) = memory.parse::<Size>()
                && !MEMORY_BYTES.contains(&size.as_bytes())
            {
                let message = format!("an instance cannot have {memory}");
                self.report.add("out-of-range", span, message).expected("1MiB to 4GiB");
            }
            for key in ["timeout", "slo"] {
                self.not_zero(function, key);
            }
            self.limits(function);
            self.placement(&format!("function {name}"), function);
            self.grants(function);
            self.imports(name, function);
            self.later(name, function);
            self.scale(name, function);
            for (key, value) in table(function, "config").into_iter().flatten() {
                self.secret(key.get_ref(), value);
            }
        }
    }

    /// A value that may name a secret.
    fn secret(&mut self, key: &str, value: &Value<'_>) {
        let secret = value.get_ref().as_str().and_then(|text| text.strip_prefix(SECRET_PREFIX));
        if let Some(error) = secret.and_then(|secret| check_name(secret).err()) {
            let message = format!("`{key}` names no secret: {error}");
            self.report.add("invalid-secret", value.span(), message).expected("secret:NAME");
        }
    }

    /// The functions whose exports it imports; whether they export them is seen when their components are read.
    fn imports(&mut self, name: &str, function: &'t DeTable<'_>) {
        for (interface, exporter) in table(function, "imports").into_iter().flatten() {
            let Some(exporting) = exporter.get_ref().as_str() else { continue };
            self.function(exporting, exporter.span());
            if exporting == name {
                let message = format!("function {name} cannot import `{}` from itself", interface.get_ref());
                self.report.add("contradiction", exporter.span(), message).expected("another function");
            }
        }
    }

    /// What a schema's ranges, which are of numbers, do not say of texts.
    fn limits(&mut self, function: &'t DeTable<'_>) {
        let Some(limits) = table(function, "limits") else { return };
        self.not_zero(limits, "cpu");
        if let Some((cpus, span)) = text(limits, "cpus")
            && cpus.parse::<Cpus>().is_ok_and(|cpus| !CPUS_MILLIS.contains(&cpus.as_millis()))
        {
            let message = format!("an instance cannot have {cpus} processors");
            self.report.add("out-of-range", span, message).expected("10m to 1000");
        }
        for (key, max_bytes) in [("request", REQUEST_BYTES_MAX), ("response", RESPONSE_BYTES_MAX)] {
            if let Some((size, span)) = text(limits, key)
                && let Ok(bytes) = size.parse::<Size>()
                && !(1..=max_bytes).contains(&bytes.as_bytes())
            {
                let message = format!("the body of a {key} cannot have {size}");
                let expected = format!("1B to {}", Size::from_bytes(max_bytes));
                self.report.add("out-of-range", span, message).expected(expected);
            }
        }
    }

    /// A component or an image in a registry: pinned, so that every node runs the same one, today and tomorrow.
    fn reference(&mut self, what: &str, text: &str, span: Range<usize>) {
        let expected = "\"oci://HOST/REPOSITORY@sha256:DIGEST\"";
        match text.parse::<OciReference>() {
            Err(error) => {
                let message = format!("`{text}` is no {what} in a registry: {}", error.reason);
                self.report.add("invalid-reference", span, message).expected(expected);
            }
            Ok(OciReference { digest: None, .. }) => {
                let message = format!("`{text}` has no digest, so that it may be another {what} tomorrow");
                let help = format!("`littoral pull {text}` prints it with the digest that it has now");
                self.report.add("missing-digest", span, message).expected(expected).help(help);
            }
            Ok(_) => {}
        }
    }

    /// An operator of a library. Which there are, and what they may be given, is known where the app is built.
    fn operator(&mut self, text: &str, span: Range<usize>) {
        if let Err(error) = text.parse::<LibraryReference>() {
            self.report.add("invalid-reference", span, error.to_string()).expected("\"library:NAME@VERSION\"");
        }
    }

    /// What a registry holds has been built already, and a library says itself how it is built.
    fn not_built(&mut self, from: &str, name: &str, function: &'t DeTable<'_>) {
        if let Some((_, span)) = text(function, "build") {
            let message = format!("function {name} comes from {from} and cannot be built");
            self.report.add("contradiction", span, message).help("drop `build`, or name the file that it builds");
        }
    }

    fn check_streams(&mut self) {
        for (name, stream) in entries(self.root, "streams") {
            self.not_zero(stream, "retention");
            self.not_zero(stream, "rate");
            if let Some(limits) = table(stream, "retention") {
                self.not_zero(limits, "age");
                self.not_zero(limits, "size");
                if limits.is_empty()
                    && let Some(value) = stream.get("retention")
                {
                    let message = "`retention` has no limit, so the stream would fill every disk";
                    self.report.add("missing-key", value.span(), message).expected("`age`, `size` or both");
                }
            }
            self.placement(&format!("stream {name}"), stream);
            let spread = table(stream, "placement").and_then(|placement| placement.get("spread"));
            let spread = spread.filter(|spread| spread.get_ref().as_array().is_some_and(|domains| !domains.is_empty()));
            if let (Some(("local", _)), Some(spread)) = (text(stream, "ack"), spread) {
                let message = format!("stream {name} has one copy with `ack = \"local\"`, and nothing to spread");
                self.report.add("contradiction", spread.span(), message).help("drop `spread`, or `ack`");
            }
        }
    }

    /// The stream to be near to, and whether one can be near to it.
    fn placement(&mut self, what: &str, of: &'t DeTable<'_>) {
        let Some(ours) = table(of, "placement") else { return };
        if let Some(within) = table(ours, "within") {
            self.not_zero(within, "radius");
        }
        self.affinities(what, ours);
        let Some((near, span)) = text(ours, "near") else { return };
        self.stream(near, span.clone());
        let stream = table(self.root, "streams").and_then(|streams| table(streams, near));
        if let Some(theirs) = stream.and_then(|stream| table(stream, "placement"))
            && let Some(why) = excludes(ours, theirs)
        {
            let message = format!("{what} cannot be near stream {near}: {why}");
            self.report.add("contradiction", span, message).help("drop one of both constraints");
        }
    }

    /// What it must be together with and apart from: something else of the app, and not both.
    fn affinities(&mut self, what: &str, placement: &'t DeTable<'_>) {
        let mut together: BTreeSet<&str> = BTreeSet::new();
        for key in ["affinity", "anti-affinity"] {
            for affinity in list(placement, key).iter().filter_map(|affinity| affinity.get_ref().as_table()) {
                let Some((with, span)) = text(affinity, "with") else { continue };
                self.function_or_stream(with, span.clone());
                let is_of_sites = text(affinity, "scope").is_some_and(|(scope, _)| scope == "site");
                if what.split_once(' ').is_some_and(|(_, name)| name == with) {
                    let message = format!("{what} cannot be with or apart from itself");
                    self.report
                        .add("contradiction", span, message)
                        .help("`spread` keeps its copies and instances apart");
                } else if key == "affinity" {
                    together.insert(with);
                } else if together.contains(with) && (is_of_sites || self.shares_node(placement, with)) {
                    let message = format!("{what} cannot be both with {with} and apart from it");
                    self.report.add("contradiction", span, message).help("drop one of both constraints");
                }
            }
        }
    }

    /// Whether a placement asks to be on one node with something.
    fn shares_node(&self, placement: &DeTable<'_>, with: &str) -> bool {
        let affinities = list(placement, "affinity").iter().filter_map(|affinity| affinity.get_ref().as_table());
        affinities
            .filter(|affinity| text(affinity, "with").is_some_and(|(name, _)| name == with))
            .any(|affinity| text(affinity, "scope").is_none_or(|(scope, _)| scope == "node"))
    }

    /// Weights that all are nothing would weigh nothing.
    fn check_objectives(&mut self) {
        let Some(objectives) = table(self.root, "objectives") else { return };
        let is_zero = |value: &Value<'_>| value.get_ref().as_integer().is_some_and(|n| n.as_str() == "0");
        if objectives.values().all(is_zero)
            && let Some(value) = self.root.get("objectives")
        {
            let message = "the objectives weigh nothing";
            self.report.add("out-of-range", value.span(), message).expected("a weight of 1 or more, as `latency = 1`");
        }
    }

    fn check_flows(&mut self) {
        for (name, flow) in entries(self.root, "flows") {
            if let Some((source, span)) = text(flow, "source") {
                self.stream(source, span);
            }
            for stage in list(flow, "stages") {
                if let Some(function) = stage.get_ref().as_str() {
                    self.function(function, stage.span());
                }
            }
            self.stages_differ(name, flow);
            if let Some((sink, span)) = text(flow, "sink") {
                self.function_or_stream(sink, span);
            }
            for (port, stream) in table(flow, "outputs").into_iter().flatten() {
                if OWN_PORTS.contains(&port.get_ref().as_ref()) {
                    let message = format!("every stage has a port `{}` of its own", port.get_ref());
                    self.report.add("reserved-port", port.span(), message).help("say `sink` or `dead-letter` instead");
                }
                if let Some(name) = stream.get_ref().as_str() {
                    self.stream(name, stream.span());
                }
            }
            if let Some((dead_letter, span)) = text(flow, "dead-letter") {
                self.stream(dead_letter, span);
            }
            self.not_zero(flow, "slo");
            if let Some(shed) =
                flow.get("shed").filter(|shed| shed.get_ref().as_bool() == Some(true) && !flow.contains_key("slo"))
            {
                let message = "`shed` says what to do when `slo` does not hold, and there is none";
                self.report
                    .add("no-objective", shed.span(), message)
                    .help("say how old records may be: `slo = \"150ms\"`");
            }
        }
    }

    /// A function stands in a flow once: what it counts and logs goes by its name.
    fn stages_differ(&mut self, flow: &str, table: &'t DeTable<'_>) {
        let mut seen = BTreeSet::new();
        for (function, span) in functions_of(table) {
            if !seen.insert(function) {
                let message = format!("function {function} stands twice in flow {flow}");
                self.report.add("duplicate", span, message).help("give it a second name in `[functions]`");
            }
        }
    }

    /// The functions that are stages, with the flow of each.
    fn stages(&self) -> BTreeMap<&'t str, &'t str> {
        let flows = entries(self.root, "flows");
        flows.flat_map(|(name, flow)| functions_of(flow).map(move |(function, _)| (function, name))).collect()
    }

    /// There must be a function or a stream of that name, and not both.
    fn function_or_stream(&mut self, name: &str, span: Range<usize>) {
        match (self.streams.contains(name), self.functions.contains(name)) {
            (true, true) => {
                let message = format!("`{name}` is a stream and a function of this app");
                self.report.add("ambiguous", span, message).help("rename one of both");
            }
            (false, false) => {
                let known = self.streams.iter().chain(&self.functions).copied();
                let message = format!("there is no stream and no function `{name}`");
                self.report.add("unknown-name", span, message).one_of(known.clone()).nearest(name, known);
            }
            _ => {}
        }
    }

    fn check_cycles(&mut self) {
        let mut edges = Vec::new();
        for (name, flow) in entries(self.root, "flows") {
            let Some((from, _)) = text(flow, "source") else { continue };
            let outputs = table(flow, "outputs").into_iter().flatten();
            let outputs = outputs.filter_map(|(_, value)| Some((value.get_ref().as_str()?, value.span())));
            let targets = ["sink", "dead-letter"].into_iter().filter_map(|key| text(flow, key)).chain(outputs);
            // A function that is a sink has the name of no stream, and feeds none.
            let targets = targets.filter(|(to, _)| self.streams.contains(to));
            edges.extend(targets.map(|(to, span)| Edge { flow: name, from, to, span }));
        }
        for Cycle { edge, streams } in cycles::find(edges) {
            let Edge { flow, from, to, span } = edge;
            let way = streams.join(" -> ");
            let message = format!("flow {flow} feeds {to}, from which its own source {from} is fed: {way}");
            self.report.add("cycle", span, message).help("write to a stream that leads nowhere back");
        }
    }

    fn check_routes(&mut self) {
        let stages = self.stages();
        let mut seen = BTreeSet::new();
        for value in list(self.root, "routes") {
            let Some(route) = value.get_ref().as_table() else { continue };
            if let Some((path, span)) = text(route, "path") {
                self.route_path(path, span.clone());
                if !seen.insert(path) {
                    let message = format!("there are two routes at {path}");
                    self.report.add("duplicate", span, message).help("drop one of them");
                }
            }
            if let Some((function, span)) = text(route, "function") {
                self.function(function, span.clone());
                if let Some(flow) = stages.get(function) {
                    let message = format!("function {function} is a stage of flow {flow} and cannot answer HTTP, too");
                    self.report.add("contradiction", span, message).help("let the route lead to another function");
                }
            }
            if let Some((stream, span)) = text(route, "stream") {
                self.stream(stream, span);
            }
            if let Some((header, span)) = text(route, "sticky") {
                self.header(header, span);
            }
            for key in ["sticky", "hedge"] {
                if let (true, Some(value)) = (route.contains_key("stream"), route.get(key)) {
                    let message = format!("a stream has no instances to choose from: `{key}` is for functions");
                    self.report.add("contradiction", value.span(), message).help(format!("drop `{key}`"));
                }
            }
            if route.contains_key("function") == route.contains_key("stream") {
                let message = "a route leads to exactly one function or stream";
                self.report.add("route-target", value.span(), message).expected("`function` or `stream`");
            }
        }
    }

    /// The characters of a field name (RFC 9110, section 5.1).
    fn header(&mut self, name: &str, span: Range<usize>) {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            let message = format!("`{name}` is no name of a header");
            self.report.add("invalid-header", span, message).expected("a name like \"x-session\"");
        }
    }

    fn route_path(&mut self, path: &str, span: Range<usize>) {
        let inner = path.strip_suffix("/*").unwrap_or(path);
        let is_odd = |c: char| matches!(c, '*' | '?' | '#') || c.is_whitespace() || c.is_control();
        if !path.starts_with('/') || inner.contains(is_odd) {
            let message = format!("`{path}` is no path");
            self.report.add("invalid-path", span, message).expected("a path like \"/app/things\" or \"/app/*\"");
        }
    }

    fn check_nodes_and_links(&mut self, dev: &'t DeTable<'_>) {
        let mut known = BTreeSet::new();
        // The nodes that a name stands for: as a node's, as a site's, as a tier's.
        let mut ends: BTreeMap<&str, BTreeMap<&str, BTreeSet<usize>>> = BTreeMap::new();
        for (place, node) in list(dev, "nodes").iter().enumerate() {
            let Some(node) = node.get_ref().as_table() else { continue };
            if let Some((name, span)) = text(node, "name")
                && !known.insert(name)
            {
                let message = format!("there are two nodes named {name}");
                self.report.add("duplicate", span, message).help("rename one of them");
            }
            for (key, kind) in [("name", "node"), ("site", "site"), ("tier", "tier")] {
                if let Some((name, _)) = text(node, key) {
                    ends.entry(name).or_default().entry(kind).or_default().insert(place);
                }
            }
        }
        for link in list(dev, "links").iter().filter_map(|link| link.get_ref().as_table()) {
            for end in list(link, "between") {
                let Some(name) = end.get_ref().as_str() else { continue };
                let Some(meanings) = ends.get(name) else {
                    let message = format!("no node of `dev` is named `{name}`, or of such a site or tier");
                    self.report.add("unknown-name", end.span(), message).nearest(name, ends.keys().copied());
                    continue;
                };
                if meanings.values().collect::<BTreeSet<_>>().len() > 1 {
                    let kinds: Vec<&str> = meanings.keys().copied().collect();
                    let message = format!("`{name}` is the name of a {} with other nodes", kinds.join(" and of a "));
                    self.report.add("ambiguous", end.span(), message).help("rename one of them");
                }
            }
            self.link_of_two(link, &known);
        }
    }

    fn link_of_two(&mut self, link: &'t DeTable<'_>, nodes: &BTreeSet<&str>) {
        if let [one, other] = list(link, "between")
            && let (Some(name), Some(same)) = (one.get_ref().as_str(), other.get_ref().as_str())
            && name == same
            && nodes.contains(name)
        {
            let message = format!("a link leads from one node to another, not from {name} to itself");
            self.report.add("contradiction", other.span(), message).expected("another node");
        }
    }

    fn check_sensors(&mut self, dev: &'t DeTable<'_>) {
        let nodes = list(dev, "nodes").iter().filter_map(|node| text(node.get_ref().as_table()?, "name"));
        let nodes: BTreeSet<&str> = nodes.map(|(name, _)| name).collect();
        let mut seen = BTreeSet::new();
        for sensor in list(dev, "sensors").iter().filter_map(|sensor| sensor.get_ref().as_table()) {
            if let Some((name, span)) = text(sensor, "name")
                && !seen.insert(name)
            {
                let message = format!("there are two sensors named {name}, so their records would have the same key");
                self.report.add("duplicate", span, message).help("rename one of them");
            }
            if let Some((node, span)) = text(sensor, "node")
                && !nodes.contains(node)
            {
                let (message, known) = (format!("`dev` has no node `{node}`"), nodes.iter().copied());
                self.report.add("unknown-name", span, message).one_of(known.clone()).nearest(node, known);
            }
            if let Some((stream, span)) = text(sensor, "stream") {
                self.stream(stream, span);
            }
            for key in ["file", "labels"] {
                self.path_inside(sensor, key);
            }
        }
    }

    /// There must be such a stream.
    fn stream(&mut self, name: &str, span: Range<usize>) {
        if !self.streams.contains(name) {
            let (message, known) = (format!("there is no stream `{name}`"), self.streams.iter().copied());
            self.report.add("unknown-name", span, message).one_of(known.clone()).nearest(name, known);
        }
    }

    /// There must be such a function.
    fn function(&mut self, name: &str, span: Range<usize>) {
        if !self.functions.contains(name) {
            let (message, known) = (format!("there is no function `{name}`"), self.functions.iter().copied());
            self.report.add("unknown-name", span, message).one_of(known.clone()).nearest(name, known);
        }
    }

    fn not_zero(&mut self, table: &DeTable<'_>, key: &str) {
        let Some((value, span)) = text(table, key) else { return };
        let is_zero = value.parse::<Time>().is_ok_and(|time| time.as_micros() == 0)
            || value.parse::<Size>().is_ok_and(|size| size.as_bytes() == 0)
            || value.parse::<Distance>().is_ok_and(|distance| distance.as_metres() == 0);
        if is_zero {
            self.report.add("out-of-range", span, format!("`{key}` cannot be {value}")).expected("more than nothing");
        }
    }

    fn path_inside(&mut self, table: &DeTable<'_>, key: &str) {
        let Some((path, span)) = text(table, key) else { return };
        let mut parts = Path::new(path).components();
        if path.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            let message = format!("`{path}` is no path inside the app's folder");
            self.report.add("invalid-path", span, message).expected("a relative path without ..");
        }
    }
}

/// Why something cannot be near a stream, if it cannot: nearness is a wish among the nodes that satisfy the rest, and
/// another tier may be near; a site that the stream is not in is not.
fn excludes(a: &DeTable<'_>, b: &DeTable<'_>) -> Option<String> {
    let (a, b) = (one_or_many(a, "site"), one_or_many(b, "site"));
    let show = |set: &BTreeSet<&str>| set.iter().copied().collect::<Vec<_>>().join(" or ");
    let apart = !a.is_empty() && !b.is_empty() && a.is_disjoint(&b);
    apart.then(|| format!("it is of site {}, the stream of {}", show(&a), show(&b)))
}

fn one_or_many<'t>(table: &'t DeTable<'_>, key: &str) -> BTreeSet<&'t str> {
    match table.get(key).map(Spanned::get_ref) {
        Some(DeValue::String(one)) => BTreeSet::from([one.as_ref()]),
        Some(DeValue::Array(many)) => many.iter().filter_map(|value| value.get_ref().as_str()).collect(),
        _ => BTreeSet::new(),
    }
}

/// What is named in a table of the root, also where it is of a wrong kind.
fn entries_of_any_kind<'t, 'i>(
    root: &'t DeTable<'i>,
    key: &str,
) -> impl Iterator<Item = (&'t str, &'t Value<'i>)> + use<'t, 'i> {
    table(root, key).into_iter().flatten().map(|(name, value)| (name.get_ref().as_ref(), value))
}

/// The named tables in a table of the root.
fn entries<'t, 'i>(root: &'t DeTable<'i>, key: &str) -> impl Iterator<Item = (&'t str, &'t DeTable<'i>)> + use<'t, 'i> {
    entries_of_any_kind(root, key).filter_map(|(name, value)| Some((name, value.get_ref().as_table()?)))
}

/// The functions that a flow names: its stages, and its sink, which is a stream's name otherwise.
fn functions_of<'t>(flow: &'t DeTable<'_>) -> impl Iterator<Item = (&'t str, Range<usize>)> + use<'t> {
    let stages: Vec<_> =
        list(flow, "stages").iter().filter_map(|stage| Some((stage.get_ref().as_str()?, stage.span()))).collect();
    stages.into_iter().chain(text(flow, "sink"))
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
