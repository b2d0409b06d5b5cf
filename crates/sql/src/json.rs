//! Members of JSON objects, as they are written: of what is not wanted nothing is made.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Finds members of the object in a text. `place` says where in `found` the value of a name goes, if it is wanted; of
/// several of one name it is the last. Answers whether there is an object.
///
/// # Errors
/// When the text is no JSON.
pub(crate) fn members<'t>(
    text: &'t str,
    place: &dyn Fn(&str) -> Option<usize>,
    found: &mut [Option<&'t str>],
) -> Result<bool, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let is_object = deserializer.deserialize_any(Members { place, found })?;
    deserializer.end()?;
    Ok(is_object)
}

/// The text of a string as it is written; none of anything else.
pub(crate) fn string(written: &str) -> Option<Cow<'_, str>> {
    let inner = written.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(written).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

struct Members<'m, 't> {
    place: &'m dyn Fn(&str) -> Option<usize>,
    found: &'m mut [Option<&'t str>],
}

impl<'t> Visitor<'t> for Members<'_, 't> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<bool, A::Error> {
        while let Some(place) = map.next_key_seed(Name(self.place))? {
            match place.and_then(|place| self.found.get_mut(place)) {
                Some(slot) => *slot = Some(map.next_value::<&'t RawValue>()?.get()),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'t>>(self, mut list: A) -> Result<bool, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }
}

/// Reads a name, and answers where its value goes.
struct Name<'m>(&'m dyn Fn(&str) -> Option<usize>);

impl<'t> DeserializeSeed<'t> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'t>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok((self.0)(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'t>(text: &'t str, name: &str) -> Result<(bool, Option<&'t str>), String> {
        let mut found = [None];
        let is_object = members(text, &|other| (other == name).then_some(0), &mut found);
        is_object.map(|is_object| (is_object, found[0])).map_err(|error| error.to_string())
    }

    #[test]
    fn members_are_found_as_they_are_written() {
        assert_eq!(found(r#"{"a":1,"b":{"c":[ 1.10 ]}}"#, "b"), Ok((true, Some(r#"{"c":[ 1.10 ]}"#))));
        assert_eq!(
            found(r#"{"a":1,"\u0061":12345678901234567890123}"#, "a"),
            Ok((true, Some("12345678901234567890123")))
        );
        assert_eq!(found("{}", "a"), Ok((true, None)));
        for text in ["[{\"a\":1}]", "1", "-1", "1.5", "true", "null", "\"a\""] {
            assert_eq!(found(text, "a"), Ok((false, None)), "{text}");
        }
        for text in ["", "{", "{\"a\":1} x", "{\"b\":[}", "{\"b\":\"\\x\"}", "{\"a\":01}"] {
            assert!(found(text, "a").is_err(), "{text}");
        }
        assert_eq!(
            found(&format!("{{\"b\":{0}{1}}}", "[".repeat(100_000), "]".repeat(100_000)), "a"),
            Ok((true, None))
        );
    }

    #[test]
    fn strings_are_read_and_nothing_else_is() {
        assert_eq!(string(r#""Hélène""#), Some(Cow::Borrowed("Hélène")));
        assert_eq!(string(r#""a\n\"b\"""#), Some(Cow::Borrowed("a\n\"b\"")));
        assert_eq!((string("1"), string(r#""\ud800""#)), (None, None));
    }
}
