//! Topics of MQTT: names, the filters of those who subscribe, and the patterns by which an app says which topics are a
//! stream's records (MQTT 5.0, section 4.7).

use std::fmt;
use std::str::FromStr;

/// The longest topic and filter, in bytes. The protocol allows 65,535; each is kept for as long as somebody subscribes.
pub const TOPIC_BYTES_MAX: usize = 1_024;
/// The column of a record that is its key.
pub const KEY: &str = "key";
/// What a level may not have in it.
const RESERVED: [char; 4] = ['+', '#', '/', '\0'];

/// Why a text is no topic, filter or pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: {reason}")]
pub struct InvalidTopic {
    /// What was given.
    pub text: String,
    /// What it was meant to be.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Checks that messages can be published to a topic: it has no wildcards.
///
/// # Errors
/// Says which rule it breaks.
pub fn check_topic(text: &str) -> Result<(), InvalidTopic> {
    let wrong = |reason| Err(InvalidTopic { text: text.to_owned(), what: "topic", reason });
    match length(text) {
        Some(reason) => wrong(reason),
        None if text.contains(['+', '#']) => wrong("it has a wildcard"),
        None => Ok(()),
    }
}

fn length(text: &str) -> Option<&'static str> {
    match text.len() {
        0 => Some("it is empty"),
        TOPIC_BYTES_MAX.. if text.len() > TOPIC_BYTES_MAX => Some("it is longer than 1,024 bytes"),
        _ if text.contains('\0') => Some("it has a character that is not allowed"),
        _ => None,
    }
}

/// Which topics somebody subscribes to: `+` stands for one level, `#` at the end for all that follow.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(String);

impl TopicFilter {
    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches a topic. One that begins with a wildcard matches none that begins with `$`.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.overlaps_levels(topic)
    }

    /// Whether there is a topic that both match.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.overlaps_levels(&other.0)
    }

    fn overlaps_levels(&self, other: &str) -> bool {
        let is_wild = |text: &str| text.starts_with(['+', '#']);
        if (is_wild(&self.0) && other.starts_with('$')) || (is_wild(other) && self.0.starts_with('$')) {
            return false;
        }
        let (mut ours, mut theirs) = (self.0.split('/'), other.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                // `#` stands for the level above it, too.
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(our), Some(their)) if our == their || our == "+" || their == "+" => {}
                _ => return false,
            }
        }
    }
}

impl FromStr for TopicFilter {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        let wrong = |reason| Err(InvalidTopic { text: text.to_owned(), what: "filter of topics", reason });
        if let Some(reason) = length(text) {
            return wrong(reason);
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            match level {
                "#" if levels.peek().is_some() => return wrong("`#` stands at its end only"),
                "#" | "+" => {}
                _ if level.contains(['+', '#']) => return wrong("a wildcard is a level of its own"),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The topics that are a stream's records: a topic, a filter, or one with columns of the records in braces in place of
/// levels, as `machines/{key}/temperature`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    text: String,
    filter: TopicFilter,
    kind: Kind,
}

/// Where the topic of a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// There is only one.
    Topic,
    /// It is the record's key.
    Filter,
    /// Its levels are columns of the record.
    Columns,
}

impl TopicPattern {
    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// All topics that it may be.
    #[must_use]
    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// Its columns, in their order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.text.split('/').filter_map(column)
    }

    /// Whether what is published to its topics can be a record: such a record has no column but its key.
    #[must_use]
    pub fn takes_messages(&self) -> bool {
        self.columns().all(|column| column == KEY)
    }

    /// The key of what is published to a topic: the level that the pattern says, else the topic. None if the pattern does
    /// not take it.
    #[must_use]
    pub fn key_of<'t>(&self, topic: &'t str) -> Option<&'t str> {
        if !self.takes_messages() || !self.filter.matches(topic) {
            return None;
        }
        match self.kind {
            Kind::Topic | Kind::Filter => Some(topic),
            Kind::Columns => {
                let levels = self.text.split('/').zip(topic.split('/'));
                levels.into_iter().find_map(|(ours, theirs)| column(ours).map(|_| theirs))
            }
        }
    }

    /// The topic of a record, of which `value_of` gives the columns that are texts. None if it has none of this pattern.
    #[must_use]
    pub fn topic_of<'v>(&self, value_of: impl Fn(&str) -> Option<&'v str>) -> Option<String> {
        let topic = match self.kind {
            Kind::Topic => self.text.clone(),
            Kind::Filter => value_of(KEY).filter(|key| self.filter.matches(key))?.to_owned(),
            Kind::Columns => {
                let fill = |level| match column(level) {
                    None => Some(level),
                    Some(name) => value_of(name).filter(|value| !value.is_empty() && !value.contains(RESERVED)),
                };
                self.text.split('/').map(fill).collect::<Option<Vec<_>>>()?.join("/")
            }
        };
        check_topic(&topic).ok().map(|()| topic)
    }
}

impl FromStr for TopicPattern {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        let wrong = |reason| Err(InvalidTopic { text: text.to_owned(), what: "pattern of topics", reason });
        let levels: Vec<&str> =
            text.split('/').map(|level| if column(level).is_some() { "+" } else { level }).collect();
        let filter: TopicFilter = levels.join("/").parse().map_err(|error: InvalidTopic| InvalidTopic {
            text: text.to_owned(),
            what: "pattern of topics",
            ..error
        })?;
        let (columns, wildcards) = text.split('/').fold((0, 0), |(columns, wildcards), level| match level {
            "+" | "#" => (columns, wildcards + 1),
            level => (columns + usize::from(column(level).is_some()), wildcards),
        });
        if text.starts_with('$') {
            return wrong("topics that begin with `$` are the server's own");
        }
        if text.split('/').any(|level| column(level).is_none() && level.contains(['{', '}'])) {
            return wrong("a column in braces is a level of its own");
        }
        let kind = match (columns, wildcards) {
            (0, 0) => Kind::Topic,
            (0, _) => Kind::Filter,
            (_, 0) => Kind::Columns,
            _ => return wrong("it has columns and wildcards"),
        };
        let pattern = Self { text: text.to_owned(), filter, kind };
        let mut names: Vec<&str> = pattern.columns().collect();
        names.sort_unstable();
        if names.windows(2).any(|two| two.first() == two.last()) {
            return wrong("a column stands in it twice");
        }
        Ok(pattern)
    }
}

/// The column that a level names.
fn column(level: &str) -> Option<&str> {
    let name = level.strip_prefix('{')?.strip_suffix('}')?;
    (!name.is_empty() && !name.contains(['{', '}'])).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        text.parse().unwrap()
    }

    #[test]
    fn filters_match_as_the_protocol_says() {
        for (text, matched, others) in [
            ("a/b", vec!["a/b"], vec!["a", "a/b/", "A/b", "/a/b"]),
            ("a/+", vec!["a/b", "a/"], vec!["a", "a/b/c"]),
            ("a/#", vec!["a", "a/", "a/b/c"], vec!["ab", "b/a"]),
            ("#", vec!["a", "/", "a/b"], vec!["$SYS/load"]),
            ("+/x", vec!["a/x", "/x"], vec!["$SYS/x", "a/b/x"]),
            ("$SYS/#", vec!["$SYS/load"], vec!["a"]),
            ("+/+/#", vec!["a/b", "a/b/c/d"], vec!["a"]),
        ] {
            assert!(matched.iter().all(|topic| filter(text).matches(topic)), "{text}");
            assert!(!others.iter().any(|topic| filter(text).matches(topic)), "{text}");
        }
        for wrong in ["", "a/#/b", "a#", "a/b+", "+a", "\0", &"x".repeat(1_025)] {
            assert!(wrong.parse::<TopicFilter>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn filters_overlap_where_a_topic_matches_both() {
        for (one, other, expected) in [
            ("a/+", "+/b", true),
            ("a/#", "a", true),
            ("a/#", "+/b/c", true),
            ("a/+", "b/+", false),
            ("a/+/c", "a/b/d", false),
            ("a", "a/+", false),
            ("#", "$x", false),
        ] {
            assert_eq!(filter(one).overlaps(&filter(other)), expected, "{one} {other}");
            assert_eq!(filter(other).overlaps(&filter(one)), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_pattern_leads_from_topics_to_keys_and_back() {
        for (pattern, topic, key) in [
            ("alarms", "alarms", "alarms"),
            ("sensors/+/t", "sensors/7/t", "sensors/7/t"),
            ("sensors/#", "sensors/7/t", "sensors/7/t"),
            ("sensors/{key}/t", "sensors/7/t", "7"),
        ] {
            let pattern: TopicPattern = pattern.parse().unwrap();
            assert_eq!(pattern.key_of(topic), Some(key));
            assert_eq!(pattern.topic_of(|column| (column == KEY).then_some(key)).as_deref(), Some(topic));
            assert_eq!(pattern.key_of("other/7/t"), None);
        }
    }

    #[test]
    fn a_record_without_a_topic_has_none() {
        let pattern: TopicPattern = "alerts/{machine}/{part}".parse().unwrap();
        assert!(!pattern.takes_messages() && pattern.key_of("alerts/a/b").is_none());
        let topic =
            |machine: &'static str| pattern.topic_of(|column| Some(if column == "machine" { machine } else { "pump" }));
        assert_eq!(topic("m1").as_deref(), Some("alerts/m1/pump"));
        for odd in ["", "a/b", "+", "#", "\0"] {
            assert_eq!(topic(odd), None, "{odd}");
        }
        assert_eq!(pattern.topic_of(|_| None), None);
        let filter: TopicPattern = "sensors/+".parse().unwrap();
        assert_eq!(filter.topic_of(|_| Some("elsewhere/7")), None);
    }

    #[test]
    fn odd_patterns_are_refused() {
        for wrong in ["", "a/{key}/+", "a/{key}x", "{a}/{a}", "$SYS/a", "a/#/b", "{}", "a/{", "{{a}}"] {
            assert!(wrong.parse::<TopicPattern>().is_err(), "{wrong}");
        }
    }
}
