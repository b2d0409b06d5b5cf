//! The streams that statements in SQL declare, as far as the rest of a manifest may name them.
//!
//! What is wrong with the statements is found by `littoral-sql`, which reads them in full.

/// The names of the streams that statements declare, or that their flows write.
pub(super) fn streams(text: &str) -> Vec<String> {
    let words = words(text);
    let mut names = Vec::new();
    for pair in words.windows(2) {
        if let [before, name] = pair
            && ["stream", "flow", "into"].contains(&before.to_lowercase().as_str())
        {
            names.push(match name.strip_prefix('"') {
                Some(quoted) => quoted.to_owned(),
                None => name.to_lowercase().replace('_', "-"),
            });
        }
    }
    names
}

/// The words outside of texts and comments; one in quotes begins with its quote.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut left = text;
    while let Some(first) = left.chars().next() {
        if left.starts_with("--") {
            left = left.split_once('\n').map_or("", |(_, rest)| rest);
        } else if left.starts_with("/*") {
            left = left.split_once("*/").map_or("", |(_, rest)| rest);
        } else if first == '\'' || first == '"' {
            let inside = left.get(1..).unwrap_or_default();
            let (quoted, rest) = inside.split_once(first).unwrap_or((inside, ""));
            if first == '"' {
                words.push(format!("\"{quoted}"));
            }
            left = rest;
        } else if first.is_alphanumeric() || first == '_' {
            let end = left.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(left.len());
            let (word, rest) = left.split_at(end);
            words.push(word.to_owned());
            left = rest;
        } else {
            left = left.get(first.len_utf8()..).unwrap_or_default();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_found_outside_of_texts_and_comments() {
        let text = "-- CREATE STREAM no\nCREATE STREAM Raw_Data (a text); /* create flow no */\n\
                    create flow \"hot-rows\" DEAD LETTER INTO bad AS SELECT 'into no' AS a FROM raw_data";
        assert_eq!(streams(text), ["raw-data", "hot-rows", "bad"]);
    }
}
