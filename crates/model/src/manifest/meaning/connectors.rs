//! What cannot be right of sources and sinks, whatever their shape: streams that are not there, no kind or two, ranges
//! without numbers, paths that lead nowhere.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Meaning, Value, entries_of_any_kind, list, table, text};
use crate::grant::Peer;
use crate::manifest::broker::{CLIENT_ID_BYTES_MAX, SOURCE_TOPICS_MAX};
use crate::manifest::connector::{GENERATOR_FIELDS_MAX, ROTATE_BYTES, ROTATE_EVERY_US};
use crate::manifest::kafka::{self, BROKERS_MAX, TOPIC_BYTES_MAX, TRANSACTIONAL_ID_BYTES_MAX};
use crate::topic::TopicPattern;
use crate::unit::{Size, Time};

/// The kinds of each.
const SOURCES: [&str; 5] = ["generator", "file", "http", "mqtt", "kafka"];
const SINKS: [&str; 4] = ["file", "http", "mqtt", "kafka"];
/// The schemes of URLs, and the ports that they mean.
const HTTP: [(&str, u16); 2] = [("http", 80), ("https", 443)];
const MQTT: [(&str, u16); 2] = [("mqtt", 1883), ("mqtts", 8883)];

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
                if let Some(mqtt) = table(connector, "mqtt") {
                    self.mqtt(what, mqtt);
                }
                if let Some(kafka) = table(connector, "kafka") {
                    self.kafka(kafka);
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
        self.leads(http, &HTTP, "https://api.example.com/readings");
    }

    /// Its URL, which must be granted.
    fn leads(&mut self, target: &'t DeTable<'_>, schemes: &[(&str, u16)], example: &str) {
        let Some((url, span)) = text(target, "url") else { return };
        let Some((host, port)) = host_of(url, schemes) else {
            let message = format!("`{url}` is no URL");
            self.report.add("invalid-url", span, message).expected(format!("a URL like \"{example}\""));
            return;
        };
        self.granted(target, host, port, "its URL leads", span);
    }

    /// Whether it is granted a host.
    fn granted(&mut self, target: &'t DeTable<'_>, host: &str, port: u16, why: &str, span: Range<usize>) {
        let peers = list(target, "grants").iter().filter_map(|peer| peer.get_ref().as_str()?.parse::<Peer>().ok());
        // One that cannot be read is told of by itself.
        if list(target, "grants").len() == peers.clone().count()
            && !peers.clone().any(|peer| peer.may_grant(host, port))
        {
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            let message = format!("it is not granted {host}:{port}, where {why}");
            self.report.add("contradiction", span, message).help(format!("say `grants = [\"{host}:{port}\"]`"));
        }
    }

    fn mqtt(&mut self, what: &str, mqtt: &'t DeTable<'_>) {
        if let Some(broker) = table(mqtt, "broker") {
            self.broker(broker);
            if let (Some(("3.1.1", _)), Some(expiry)) = (text(broker, "version"), mqtt.get("session-expiry")) {
                let message = "version 3.1.1 cannot say for how long messages are kept";
                self.report.add("contradiction", expiry.span(), message).help("drop `session-expiry`, or `version`");
            }
        }
        self.not_zero(mqtt, "session-expiry");
        if what == "source" {
            self.source_topics(mqtt);
        } else if let Some((topic, span)) = text(mqtt, "topic")
            && let Err(error) = topic.parse::<TopicPattern>()
        {
            let expected = "a topic like \"alerts\" or \"alerts/{machine}\"";
            self.report.add("invalid-topic", span, error.to_string()).expected(expected);
        }
    }

    /// As whom a broker is talked to, and for how long an answer is awaited.
    fn client(&mut self, broker: &'t DeTable<'_>) {
        self.not_zero(broker, "timeout");
        for key in ["password", "ca", "certificate", "key"] {
            if let Some(value) = broker.get(key) {
                self.secret(key, value);
            }
        }
        for (key, other) in [("certificate", "key"), ("key", "certificate"), ("password", "user")] {
            if let (Some(value), None) = (broker.get(key), broker.get(other)) {
                let message = format!("`{key}` is of no use without `{other}`");
                self.report.add("contradiction", value.span(), message).help(format!("say `{other}` as well"));
            }
        }
    }

    fn broker(&mut self, broker: &'t DeTable<'_>) {
        self.client(broker);
        let is_plain = text(broker, "url").is_some_and(|(url, _)| url.starts_with("mqtt://"));
        for key in ["ca", "certificate"] {
            if let (true, Some(value)) = (is_plain, broker.get(key)) {
                let message = format!("`{key}` is for TLS, which `mqtt://` is without");
                self.report.add("contradiction", value.span(), message).help("say `mqtts://`");
            }
        }
        if let Some((id, span)) = text(broker, "client-id")
            && (id.is_empty() || id.len() > CLIENT_ID_BYTES_MAX || id.chars().any(char::is_control))
        {
            let message = "no client is named so".to_owned();
            self.report.add("invalid-name", span, message).expected(format!("1 to {CLIENT_ID_BYTES_MAX} characters"));
        }
        if let Some((url, span)) = text(broker, "url")
            && url.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?']))
        {
            let message = format!("`{url}` has a path, which a broker has not");
            self.report.add("invalid-url", span, message).expected("a URL like \"mqtts://broker.example.com\"");
            return;
        }
        self.leads(broker, &MQTT, "mqtts://broker.example.com");
    }

    fn kafka(&mut self, kafka: &'t DeTable<'_>) {
        if let Some(cluster) = table(kafka, "cluster") {
            self.cluster(cluster);
        }
        let is_plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if let Some((topic, span)) = text(kafka, "topic")
            && (!(1..=TOPIC_BYTES_MAX).contains(&topic.len()) || matches!(topic, "." | "..") || !is_plain(topic))
        {
            let expected = format!("1 to {TOPIC_BYTES_MAX} letters, digits, `.`, `_` and `-`");
            self.report.add("invalid-topic", span, format!("`{topic}` is no topic of Kafka")).expected(expected);
        }
        if let Some((id, span)) = text(kafka, "transactional-id")
            && (!(1..=TRANSACTIONAL_ID_BYTES_MAX).contains(&id.len()) || id.chars().any(char::is_control))
        {
            let expected = format!("1 to {TRANSACTIONAL_ID_BYTES_MAX} characters");
            self.report.add("invalid-name", span, "no producer is named so".to_owned()).expected(expected);
        }
    }

    fn cluster(&mut self, cluster: &'t DeTable<'_>) {
        self.client(cluster);
        let has_tls = cluster.get("tls").and_then(|tls| tls.get_ref().as_bool()) == Some(true);
        for key in ["ca", "certificate"] {
            if let (false, Some(value)) = (has_tls, cluster.get(key)) {
                let message = format!("`{key}` is for TLS");
                self.report.add("contradiction", value.span(), message).help("say `tls = true`");
            }
        }
        for (key, other) in [("user", "password"), ("sasl", "user")] {
            if let (Some(value), None) = (cluster.get(key), cluster.get(other)) {
                let message = format!("`{key}` is of no use without `{other}`");
                self.report.add("contradiction", value.span(), message).help(format!("say `{other}` as well"));
            }
        }
        let brokers = list(cluster, "brokers");
        if let Some(value) = cluster.get("brokers").filter(|_| !(1..=BROKERS_MAX).contains(&brokers.len())) {
            let message = format!("it cannot have {} brokers", brokers.len());
            self.report.add("wrong-length", value.span(), message).expected(format!("1 to {BROKERS_MAX}"));
        }
        for broker in brokers {
            let Some(name) = broker.get_ref().as_str() else { continue };
            match kafka::host_and_port(name) {
                Some((host, port)) => self.granted(cluster, host, port, "a broker is", broker.span()),
                None => {
                    let message = format!("`{name}` is no broker");
                    let expected = "a host and a port, like \"broker.example.com:9092\"";
                    self.report.add("invalid-url", broker.span(), message).expected(expected);
                }
            }
        }
    }

    fn source_topics(&mut self, mqtt: &'t DeTable<'_>) {
        let topics = list(mqtt, "topics");
        if let Some(value) = mqtt.get("topics").filter(|_| !(1..=SOURCE_TOPICS_MAX).contains(&topics.len())) {
            let message = format!("it cannot have {} topics", topics.len());
            self.report.add("wrong-length", value.span(), message).expected(format!("1 to {SOURCE_TOPICS_MAX}"));
            return;
        }
        let mut before: Vec<TopicPattern> = Vec::new();
        for topic in topics {
            let Some(name) = topic.get_ref().as_str() else { continue };
            let pattern = match name.parse::<TopicPattern>() {
                Ok(pattern) => pattern,
                Err(error) => {
                    let expected = "a topic like \"sensors/7\", \"sensors/+\" or \"sensors/{key}\"";
                    self.report.add("invalid-topic", topic.span(), error.to_string()).expected(expected);
                    continue;
                }
            };
            if !pattern.takes_messages() {
                let message = format!("a message of `{name}` is a record that has no such column");
                self.report.add("contradiction", topic.span(), message).help("name no column but `{key}`");
            } else if let Some(other) = before.iter().find(|other| other.filter().overlaps(pattern.filter())) {
                // Whether it comes once or twice is the broker's choice (MQTT 5.0, section 3.3.4).
                let message = format!("a message may match both `{name}` and `{}`", other.as_str());
                self.report.add("ambiguous", topic.span(), message).help("let them differ in a level");
            }
            before.push(pattern);
        }
    }

    fn file(&mut self, what: &str, file: &'t DeTable<'_>) {
        let is_parquet = text(file, "format").is_some_and(|(format, _)| format == "parquet");
        if let Some((path, span)) = text(file, "path") {
            self.absolute(path, span.clone());
            let is_folder = path.ends_with('/') || Path::new(path).file_name().is_none();
            if what == "source" && is_folder && !is_parquet {
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
        if let Some((every, span)) = text(file, "rotate-every") {
            if !is_parquet {
                let message =
                    "`rotate-every` is for Parquet: other files can be read while they are written to".to_owned();
                self.report.add("contradiction", span, message).help("leave it out, or say `format = \"parquet\"`");
            } else if every.parse::<Time>().is_ok_and(|every| !ROTATE_EVERY_US.contains(&every.as_micros())) {
                let message = format!("a file cannot be written to for {every}");
                self.report.add("out-of-range", span, message).expected("1s to 1d");
            }
        }
    }
}

/// The host and the port of a URL of one of these schemes.
fn host_of<'u>(url: &'u str, schemes: &[(&str, u16)]) -> Option<(&'u str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let default = schemes.iter().find(|(known, _)| *known == scheme)?.1;
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
