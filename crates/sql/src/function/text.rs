//! Functions of texts. Places and lengths are in characters, from 1.

use std::borrow::Cow;

use super::{Function, bigint, text};
use crate::json;
use crate::types::Type::{self, Bigint, Boolean, Text};
use crate::value::Cell;

/// The most bytes of a text that a function makes: what a few characters of a query may ask for is bounded.
const TEXT_BYTES_MAX: usize = 1 << 20;

type Answer = Result<Option<Cell<'static>>, String>;

const fn f(name: &'static str, parameters: &'static [Type], result: Type, call: super::Call) -> Function {
    Function::new(name, parameters, result, call)
}

pub(super) static FUNCTIONS: &[Function] = &[
    f("lower", &[Text], Text, |a| made(text(a, 0).to_lowercase())),
    f("upper", &[Text], Text, |a| made(text(a, 0).to_uppercase())),
    f("length", &[Text], Bigint, |a| count(text(a, 0).chars().count())),
    f("char_length", &[Text], Bigint, |a| count(text(a, 0).chars().count())),
    f("octet_length", &[Text], Bigint, |a| count(text(a, 0).len())),
    f("btrim", &[Text], Text, |a| made(text(a, 0).trim_matches(' ').to_owned())),
    f("btrim", &[Text, Text], Text, |a| made(text(a, 0).trim_matches(|c| text(a, 1).contains(c)).to_owned())),
    f("ltrim", &[Text], Text, |a| made(text(a, 0).trim_start_matches(' ').to_owned())),
    f("ltrim", &[Text, Text], Text, |a| made(text(a, 0).trim_start_matches(|c| text(a, 1).contains(c)).to_owned())),
    f("rtrim", &[Text], Text, |a| made(text(a, 0).trim_end_matches(' ').to_owned())),
    f("rtrim", &[Text, Text], Text, |a| made(text(a, 0).trim_end_matches(|c| text(a, 1).contains(c)).to_owned())),
    f("substr", &[Text, Bigint], Text, |a| substring(text(a, 0), bigint(a, 1), None)),
    f("substr", &[Text, Bigint, Bigint], Text, |a| substring(text(a, 0), bigint(a, 1), Some(bigint(a, 2)))),
    f("left", &[Text, Bigint], Text, |a| made(left(text(a, 0), bigint(a, 1)))),
    f("right", &[Text, Bigint], Text, |a| made(right(text(a, 0), bigint(a, 1)))),
    f("strpos", &[Text, Text], Bigint, |a| {
        let (within, wanted) = (text(a, 0), text(a, 1));
        count(within.find(wanted).map_or(0, |place| within.get(..place).unwrap_or_default().chars().count() + 1))
    }),
    f("replace", &[Text, Text, Text], Text, |a| {
        let (within, old, new) = (text(a, 0), text(a, 1), text(a, 2));
        if old.is_empty() {
            return made(within.to_owned());
        }
        bounded(within.len() + within.matches(old).count() * new.len())?;
        made(within.replace(old, new))
    }),
    f("reverse", &[Text], Text, |a| made(text(a, 0).chars().rev().collect())),
    f("repeat", &[Text, Bigint], Text, |a| {
        let times = usize::try_from(bigint(a, 1)).unwrap_or(0);
        bounded(text(a, 0).len().saturating_mul(times))?;
        made(text(a, 0).repeat(times))
    }),
    f("lpad", &[Text, Bigint], Text, |a| pad(text(a, 0), bigint(a, 1), " ", true)),
    f("lpad", &[Text, Bigint, Text], Text, |a| pad(text(a, 0), bigint(a, 1), text(a, 2), true)),
    f("rpad", &[Text, Bigint], Text, |a| pad(text(a, 0), bigint(a, 1), " ", false)),
    f("rpad", &[Text, Bigint, Text], Text, |a| pad(text(a, 0), bigint(a, 1), text(a, 2), false)),
    f("starts_with", &[Text, Text], Boolean, |a| Ok(Some(Cell::Boolean(text(a, 0).starts_with(text(a, 1)))))),
    f("split_part", &[Text, Text, Bigint], Text, |a| split_part(text(a, 0), text(a, 1), bigint(a, 2))),
    f("ascii", &[Text], Bigint, |a| {
        Ok(Some(Cell::Bigint(text(a, 0).chars().next().map_or(0, |first| i64::from(u32::from(first))))))
    }),
    f("json_text", &[Text, Text], Text, |a| json_text(text(a, 0), text(a, 1))),
    // The operator; unlike the function `concat` it is null where an operand is.
    f("||", &[Text, Text], Text, |a| {
        bounded(text(a, 0).len() + text(a, 1).len())?;
        made([text(a, 0), text(a, 1)].concat())
    }),
    Function {
        rest: Some(Text),
        is_strict: false,
        ..f("concat", &[], Text, |a| {
            let parts = (0..a.len()).map(|place| text(a, place));
            bounded(parts.clone().map(str::len).sum())?;
            made(parts.collect())
        })
    },
];

fn made(text: String) -> Answer {
    Ok(Some(Cell::Text(Cow::Owned(text))))
}

fn count(count: usize) -> Answer {
    Ok(Some(Cell::Bigint(i64::try_from(count).unwrap_or(i64::MAX))))
}

fn bounded(bytes: usize) -> Result<(), String> {
    if bytes > TEXT_BYTES_MAX { Err("the text has more than 1 MiB".to_owned()) } else { Ok(()) }
}

/// A part of a text; places before the first character count as well.
fn substring(text: &str, from: i64, length: Option<i64>) -> Answer {
    if length.is_some_and(|length| length < 0) {
        return Err("negative substring length not allowed".to_owned());
    }
    let end = length.map_or(i64::MAX, |length| from.saturating_add(length));
    let skip = usize::try_from(from.max(1) - 1).unwrap_or(usize::MAX);
    let take = usize::try_from(end.saturating_sub(from.max(1))).unwrap_or(0);
    made(text.chars().skip(skip).take(take).collect())
}

/// The first characters; with a negative number all but the last.
fn left(text: &str, count: i64) -> String {
    let wanted = if count < 0 { all_but(text, count) } else { usize::try_from(count).unwrap_or(usize::MAX) };
    text.chars().take(wanted).collect()
}

fn right(text: &str, count: i64) -> String {
    let all = text.chars().count();
    let wanted = if count < 0 { all_but(text, count) } else { usize::try_from(count).unwrap_or(usize::MAX) };
    text.chars().skip(all.saturating_sub(wanted)).collect()
}

fn all_but(text: &str, count: i64) -> usize {
    text.chars().count().saturating_sub(usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX))
}

fn pad(text: &str, length: i64, fill: &str, before: bool) -> Answer {
    let length = usize::try_from(length).unwrap_or(0);
    bounded(length.saturating_mul(4))?;
    let missing = length.saturating_sub(text.chars().count());
    let padding: String = fill.chars().cycle().take(if fill.is_empty() { 0 } else { missing }).collect();
    let text: String = text.chars().take(length).collect();
    made(if before { padding + &text } else { text + &padding })
}

fn split_part(text: &str, separator: &str, number: i64) -> Answer {
    let parts: Vec<&str> = if separator.is_empty() { vec![text] } else { text.split(separator).collect() };
    let place = match number {
        0 => return Err("field position must not be zero".to_owned()),
        1.. => usize::try_from(number - 1).ok(),
        _ => usize::try_from(number.unsigned_abs()).ok().and_then(|back| parts.len().checked_sub(back)),
    };
    made(place.and_then(|place| parts.get(place)).copied().unwrap_or_default().to_owned())
}

/// A member of a JSON object as text, as `->>` of PostgreSQL gives it: a string without its quotes, anything else as it is
/// written.
fn json_text(text: &str, member: &str) -> Answer {
    let mut found = [None];
    json::members(text, &|name| (name == member).then_some(0), &mut found)
        .map_err(|error| format!("invalid input syntax for type json: {error}"))?;
    match found {
        [None | Some("null")] => Ok(None),
        [Some(written)] if written.starts_with('"') => {
            let string = json::string(written).ok_or("invalid input syntax for type json: no Unicode")?;
            made(string.into_owned())
        }
        [Some(written)] => made(written.to_owned()),
    }
}
