//! Prints what nodes answer: as a table for people, or as JSON or YAML for programs.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use serde::Serialize;

use crate::args::Format;

/// How often `--watch` asks at the most: fast enough to see things move, and a node hardly notices.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Clears the terminal and goes to its top left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// A table: the first row names the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Aligns the columns, two blanks apart. Cells of several lines take several lines.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.flat_map(|cell| cell.lines()).map(|line| line.chars().count()).max().unwrap_or_default()
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or_default().max(1);
            for number in 0..height {
                let mut line = String::new();
                for (cell, width) in row.iter().zip(&widths) {
                    let part = cell.lines().nth(number).unwrap_or_default();
                    line.push_str(part);
                    line.extend(std::iter::repeat_n(' ', width.saturating_sub(part.chars().count()) + 2));
                }
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }
}

/// What can be shown as a table.
pub(crate) trait Tabular {
    /// As a table; `wide` with everything there is.
    fn table(&self, wide: bool) -> String;
}

/// Renders an answer.
///
/// # Errors
/// When it cannot be written as JSON or YAML.
pub(crate) fn render<T: Tabular + Serialize>(value: &T, format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => value.table(false),
        Format::Wide => value.table(true),
        Format::Json => serde_json::to_string_pretty(value)? + "\n",
        Format::Yaml => serde_yaml_ng::to_string(value)?,
    })
}

/// Prints on standard output. A reader that has gone away is no error: it has seen enough.
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    write(text.as_bytes())
}

/// Writes to standard output, as [`print()`].
///
/// # Errors
/// When the output cannot be written.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => Ok(written?),
    }
}

/// Standard output was closed; the command ends quietly.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub(crate) struct ReaderGone;

/// Shows what `ask` gives whenever it changes, until interrupted or `ask` fails.
///
/// # Errors
/// When asking fails.
pub(crate) async fn watch<F>(ask: impl Fn() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<String>>,
{
    let terminal = std::io::stdout().is_terminal();
    let mut shown = None;
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
        let now = ask().await?;
        if shown.as_ref() != Some(&now) {
            let separator = match (terminal, &shown) {
                (true, _) => CLEAR,
                (false, Some(_)) => "\n",
                (false, None) => "",
            };
            print(&format!("{separator}{now}"))?;
            shown = Some(now);
        }
    }
}

/// A list for a cell.
pub(crate) fn list(items: &[String]) -> String {
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

/// A value that may be missing, for a cell.
pub(crate) fn optional<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The time of day (UTC), in milliseconds.
pub(crate) fn clock(time_us: i64) -> String {
    let second = time_us.div_euclid(1_000_000);
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        second.rem_euclid(86_400) / 3_600,
        second.rem_euclid(3_600) / 60,
        second.rem_euclid(60),
        time_us.rem_euclid(1_000_000) / 1_000
    )
}

/// A time in milliseconds, with as many digits as matter.
pub(crate) fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms >= 10_000.0 => format!("{:.1}s", ms / 1000.0),
        ms if ms >= 100.0 => format!("{ms:.0}ms"),
        ms if ms >= 10.0 => format!("{ms:.1}ms"),
        ms => format!("{ms:.2}ms"),
    }
}

/// A number of bytes, in binary units.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count}B") } else { format!("{value:.1}{unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1}TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_do_not_trail() {
        let mut table = Table::new(&["NAME", "WHY"]);
        table.row(["a".to_owned(), "near\nfree".to_owned()]);
        table.row(["longer".to_owned(), String::new()]);
        assert_eq!(table.render(), "NAME    WHY\na       near\n        free\nlonger\n");
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!(milliseconds(0.123), "0.12ms");
        assert_eq!(milliseconds(12.34), "12.3ms");
        assert_eq!(milliseconds(345.6), "346ms");
        assert_eq!(milliseconds(61_000.0), "61.0s");
        assert_eq!(bytes(12), "12B");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!(bytes(5 << 40), "5.0TiB");
    }
}
