//! What cannot be right of sources and sinks, whatever their shape: streams that are not there, no kind or two, ranges
//! without numbers, paths that lead nowhere.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Meaning, Value, entries_of_any_kind, list, table, text};
use crate::grant::Peer;
use crate::manifest::connector::{GENERATOR_FIELDS_MAX, ROTATE_BYTES};
use crate::unit::Size;

/// The kinds of each.
const SOURCES: [&str; 3] = ["generator", "file", "http"];
const SINKS: [&str; 2] = ["file", "http"];

/// Headers that each request has whatever is said here.
const OWN_HEADERS: [&str; 7] =
    ["host", "content-length", "transfer-encoding", "connection", "content-type", "idempotency-key", "if-none-match"];

impl<'t> Meaning<'t, '_, '_, '_> {
    pub(super) fn check_connectors(&mut self) {
        for (what, key, kinds) in [("source", "sources", SOURCES.as_slice()), ("sink", "sinks", SINKS.as_slice())] {
            for (name, value) in entries_of_any_kind(self.root, key) {
                let Some(connector) = value.get_ref().as_table() else { continue };
                if let Some((stream, span)) = text(connector, "stream") {
                    self.stream(stream, span);
                }
                // Not to be taken for the stream of its name, which it may be near to.
                self.placement(&format!("the {what} {name}"), connector);
                self.one_kind(&format!("{what} {name}"), connector, value, kinds);
                if let Some(generator) = table(connector, "generator") {
                    self.generator(generator);
                }
                if let Some(file) = table(connector, "file") {
                    self.file(what, file);
                    if !connector.contains_key("node") {
                        let message = format!("{what} {name} is of files, and of no node");
                        let help = "say `node = \"NAME\"`: files are on one machine";
                        self.report.add("contradiction", value.span(), message).help(help);
                    }
                }
                if let Some(http) = table(connector, "http") {
                    self.http(http);
                }
            }
        }
    }

    fn one_kind(&mut self, what: &str, connector: &DeTable<'_>, value: &Value<'_>, kinds: &[&str]) {
        if kinds.iter().filter(|kind| connector.contains_key(**kind)).count() == 1 {
            return;
        }
        let message = format!("{what} is of exactly one kind");
        let expected = format!("one of the tables {}", kinds.join(", "));
        self.report.add("connector-kind", value.span(), message).expected(expected);
    }

    fn generator(&mut self, generator: &'t DeTable<'_>) {
        let Some(fields) = table(generator, "fields") else { return };
        if !(1..=GENERATOR_FIELDS_MAX).contains(&fields.len())
            && let Some(value) = generator.get("fields")
        {
            let message = format!("a record cannot have {} fields", fields.len());
            self.report.add("out-of-range", value.span(), message).expected(format!("1 to {GENERATOR_FIELDS_MAX}"));
        }
        if let Some((key, span)) = text(generator, "key")
            && !fields.contains_key(key)
        {
            let known: Vec<&str> = fields.keys().map(|field| field.get_ref().as_ref()).collect();
            let message = format!("the records have no field `{key}`");
            self.report.add("unknown-name", span, message).one_of(known.iter().copied()).nearest(key, known);
        }
        for (name, field) in fields {
            self.field(name.get_ref(), field);
        }
    }

    fn field(&mut self, name: &str, field: &Spanned<DeValue<'_>>) {
        let number = |table: &DeTable<'_>, key: &str| {
            let number = table.get(key)?.get_ref().as_integer()?.clone();
            i64::from_str_radix(number.as_str(), number.radix()).ok()
        };
        match field.get_ref() {
            DeValue::Array(choices) if choices.is_empty() => {
                let message = format!("`{name}` is to be one of no texts");
                self.report.add("wrong-length", field.span(), message).expected("one text or more");
            }
            DeValue::Table(range) => {
                if let (Some(from), Some(to)) = (number(range, "from"), number(range, "to"))
                    && from > to
                {
                    let message = format!("there is no number from {from} to {to}");
                    self.report.add("out-of-range", field.span(), message).expected("`from` to be at most `to`");
                }
            }
            _ => {}
        }
    }

    fn http(&mut self, http: &'t DeTable<'_>) {
        for key in ["every", "timeout"] {
            self.not_zero(http, key);
        }
        for (name, value) in table(http, "headers").into_iter().flatten() {
            self.header(name.get_ref(), name.span());
            if OWN_HEADERS.iter().any(|own| name.get_ref().eq_ignore_ascii_case(own)) {
                let message = format!("`{}` is said by Littoral itself", name.get_ref());
                self.report.add("invalid-header", name.span(), message).help("leave it out");
            }
            self.secret(name.get_ref(), value);
        }
        let Some((url, span)) = text(http, "url") else { return };
        let Some((host, port)) = host_of(url) else {
            let message = format!("`{url}` is no URL");
            self.report.add("invalid-url", span, message).expected("a URL like \"https://api.example.com/readings\"");
            return;
        };
        let peers = list(http, "grants").iter().filter_map(|peer| peer.get_ref().as_str()?.parse::<Peer>().ok());
        // One that cannot be read is told of by itself.
        if list(http, "grants").len() == peers.clone().count() && !peers.clone().any(|peer| peer.may_grant(host, port))
        {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            let message = format!("it is not granted {host}:{port}, where its URL leads");
            self.report.add("contradiction", span, message).help(format!("say `grants = [\"{host}:{port}\"]`"));
        }
    }

    fn file(&mut self, what: &str, file: &'t DeTable<'_>) {
        if let Some((path, span)) = text(file, "path") {
            self.absolute(path, span.clone());
            if what == "source" && (path.ends_with('/') || Path::new(path).file_name().is_none()) {
                let message = format!("`{path}` is a folder");
                self.report.add("invalid-path", span, message).expected("the path of a file");
            }
        }
        if let Some((rotate, span)) = text(file, "rotate")
            && rotate.parse::<Size>().is_ok_and(|size| !ROTATE_BYTES.contains(&size.as_bytes()))
        {
            let message = format!("a file cannot end at {rotate}");
            self.report.add("out-of-range", span, message).expected("1KiB to 4GiB");
        }
    }
}

/// The host and the port of a URL of HTTP.
fn host_of(url: &str) -> Option<(&str, u16)> {
    let (rest, default) = match url.split_once("://")? {
        ("http", rest) => (rest, 80),
        ("https", rest) => (rest, 443),
        _ => return None,
    };
    let authority = rest.split(['/', '?']).next()?;
    let is_plain =
        |text: &str| text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '#'));
    if !is_plain(rest) || authority.contains('@') {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = if port.is_empty() { default } else { port.strip_prefix(':')?.parse().ok()? };
    (!host.is_empty()).then_some((host, port))
}
