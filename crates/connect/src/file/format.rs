//! How records stand in files: JSON Lines (<https://jsonlines.org>) and values separated by commas (RFC 4180).

use serde_json::{Map, Value};

/// What is found at the beginning of a file's rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<T> {
    /// One record, and how many bytes it has with the end of its line.
    One(T, usize),
    /// Its end is not there yet.
    Incomplete,
}

/// The first line, without its end.
pub(super) fn line(rest: &[u8]) -> Found<&[u8]> {
    match rest.iter().position(|byte| *byte == b'\n') {
        None => Found::Incomplete,
        Some(end) => {
            let line = rest.get(..end).unwrap_or_default();
            Found::One(line.strip_suffix(b"\r").unwrap_or(line), end + 1)
        }
    }
}

/// The fields of the first record, which may go over several lines; none where there is nothing between two commas, not even quotes.
pub(super) fn fields(rest: &[u8]) -> Found<Vec<Option<Vec<u8>>>> {
    let (mut fields, mut field, mut is_quoted, mut has_ended) = (Vec::new(), Vec::new(), false, false);
    let whole = |field: Vec<u8>, has_quotes: bool| (has_quotes || !field.is_empty()).then_some(field);
    let mut bytes = rest.iter().copied().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' if is_quoted && bytes.peek().is_some_and(|(_, next)| *next == b'"') => {
                bytes.next();
                field.push(b'"');
            }
            b'"' if is_quoted => (is_quoted, has_ended) = (false, true),
            _ if is_quoted => field.push(byte),
            b'"' if field.is_empty() && !has_ended => is_quoted = true,
            b',' => {
                fields.push(whole(std::mem::take(&mut field), has_ended));
                has_ended = false;
            }
            b'\r' if bytes.peek().is_some_and(|(_, next)| *next == b'\n') => {}
            b'\n' => {
                fields.push(whole(field, has_ended));
                return Found::One(fields, at + 1);
            }
            _ => field.push(byte),
        }
    }
    Found::Incomplete
}

/// A record of named fields as JSON: what is a number in JSON becomes one, nothing becomes null, all else is text. What has no name is
/// left out.
pub(super) fn object(names: &[String], fields: &[Option<Vec<u8>>]) -> Result<Map<String, Value>, std::str::Utf8Error> {
    let mut object = Map::new();
    for (name, field) in names.iter().zip(fields) {
        let text = field.as_deref().map(std::str::from_utf8).transpose()?;
        object.insert(name.clone(), text.map_or(Value::Null, value));
    }
    Ok(object)
}

fn value(text: &str) -> Value {
    let is_whole = !text.contains(['.', 'e', 'E']);
    match serde_json::from_str::<Value>(text) {
        // A whole number that is too large for one stays as it is written.
        Ok(Value::Number(number)) if !is_whole || number.is_i64() || number.is_u64() => Value::Number(number),
        _ => Value::from(text),
    }
}

/// A line of values: those of `columns` of a JSON object.
pub(super) fn csv_line(columns: &[String], object: &Map<String, Value>) -> String {
    let values = columns.iter().map(|column| match object.get(column) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => quoted(text),
        Some(other) => quoted(&other.to_string()),
    });
    values.collect::<Vec<_>>().join(",") + "\n"
}

/// The first line of a file: the names of its columns.
pub(super) fn csv_header(columns: &[String]) -> String {
    columns.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(",") + "\n"
}

/// An empty text is told from nothing by its quotes.
fn quoted(text: &str) -> String {
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
    use super::*;

    fn texts(rest: &str) -> (Vec<String>, usize) {
        match fields(rest.as_bytes()) {
            Found::One(fields, bytes) => {
                (fields.into_iter().map(|field| String::from_utf8(field.unwrap_or_default()).unwrap()).collect(), bytes)
            }
            Found::Incomplete => panic!("{rest} is incomplete"),
        }
    }

    #[test]
    fn records_of_commas_are_read_as_the_standard_says() {
        assert_eq!(texts("a,b\nc"), (vec!["a".to_owned(), "b".to_owned()], 4));
        assert_eq!(
            texts("a,\"b \"\"c\"\",\nd\",\r\ne"),
            (vec!["a".to_owned(), "b \"c\",\nd".to_owned(), String::new()], 17)
        );
        assert_eq!(texts("\n"), (vec![String::new()], 1));
        for open in ["", "a,b", "a,\"b\n", "\"a\"\"\n"] {
            assert_eq!(fields(open.as_bytes()), Found::Incomplete, "{open}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let columns = ["n", "text", "none", "empty", "list"].map(str::to_owned);
        let Value::Object(row) =
            serde_json::json!({ "n": 5, "text": "a \"b\",\nc", "none": null, "empty": "", "list": [1, 2] })
        else {
            panic!("no object");
        };
        let written = csv_header(&columns) + &csv_line(&columns, &row);
        assert_eq!(written, "n,text,none,empty,list\n5,\"a \"\"b\"\",\nc\",,\"\",\"[1,2]\"\n");
        let (names, bytes) = texts(&written);
        let Found::One(values, _) = fields(&written.as_bytes()[bytes..]) else { panic!("incomplete") };
        let read = object(&names, &values).unwrap();
        assert_eq!(read["n"], 5);
        assert_eq!((&read["text"], &read["none"], &read["empty"]), (&row["text"], &Value::Null, &Value::from("")));
    }

    #[test]
    fn numbers_are_numbers_and_what_only_looks_like_one_is_text() {
        let of = |text: &str| value(text).to_string();
        assert_eq!([of("7"), of("-1.5"), of("1e3")], ["7", "-1.5", "1000.0"]);
        assert_eq!(
            [of("007"), of("+1"), of("true"), of("99999999999999999999999")],
            ["\"007\"", "\"+1\"", "\"true\"", "\"99999999999999999999999\""]
        );
    }
}
