//! One line of CSV, as RFC 4180 has it.

use littoral_sdk::prelude::*;

/// A field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) text: String,
    /// Whether it stood in quotes: then an empty one is an empty text.
    pub(crate) is_quoted: bool,
}

/// The fields of a line. In quotes a field may have separators, and quotes twice.
///
/// # Errors
/// When a quote does not end, or something follows it.
pub(crate) fn fields(line: &str, separator: char) -> Result<Vec<Field>> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let mut characters = line.strip_suffix('\r').unwrap_or(line).chars().peekable();
    let mut fields = Vec::new();
    loop {
        let mut field = Field::default();
        if characters.next_if_eq(&'"').is_some() {
            field.is_quoted = true;
            loop {
                match characters.next() {
                    Some('"') if characters.next_if_eq(&'"').is_some() => field.text.push('"'),
                    Some('"') => break,
                    Some(character) => field.text.push(character),
                    None => return Err(Error::new("a quote does not end")),
                }
            }
        } else {
            while let Some(character) = characters.next_if(|character| *character != separator) {
                field.text.push(character);
            }
        }
        fields.push(field);
        match characters.next() {
            None => return Ok(fields),
            Some(next) if next == separator => {}
            Some(_) => return Err(Error::new("something stands behind a quote; expected a separator")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        fields(line, ',').unwrap().into_iter().map(|field| field.text).collect()
    }

    #[test]
    fn fields_are_those_of_the_rfc() {
        assert_eq!(texts("a,b,c"), ["a", "b", "c"]);
        assert_eq!(texts("a,,\r\n"), ["a", "", ""]);
        assert_eq!(texts("\"a,b\",\"say \"\"hi\"\"\",\"\""), ["a,b", "say \"hi\"", ""]);
        assert_eq!(texts(""), [""]);
        assert_eq!(texts("a\"b"), ["a\"b"]);
        assert!(fields("\"\"", ',').unwrap().first().unwrap().is_quoted);
        assert!(fields("\"a", ',').is_err());
        assert!(fields("\"a\"b,c", ',').is_err());
        assert_eq!(fields("a;b", ';').unwrap().len(), 2);
    }
}
