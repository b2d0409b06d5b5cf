//! DuckDB in a process of its own, which keeps its table between queries.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;

use super::{Came, Run};
use crate::peers;

/// A running DuckDB; it ends with this.
pub(super) struct DuckDb {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(super) version: String,
}

impl Drop for DuckDb {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl DuckDb {
    /// Starts it, and has it make so many rows of so many keys.
    pub(super) fn start(rows: usize, keys: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(peers::duckdb_python()?);
        command.args(["-c", include_str!("duckdb.py")]).args([rows.to_string(), keys.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, output) = input.zip(output).context("it was started with pipes")?;
        let mut duckdb = Self { child, input, output: BufReader::new(output), version: String::new() };
        duckdb.version = duckdb.line()?;
        Ok(duckdb)
    }

    /// Has it run a query by its name in the script.
    pub(super) fn run(&mut self, query: &str) -> anyhow::Result<Run> {
        writeln!(self.input, "{query}")?;
        let line = self.line()?;
        let figures: Vec<f64> =
            line.split(' ').map(str::parse).collect::<Result<_, _>>().with_context(|| format!("DuckDB said {line}"))?;
        let [seconds, rows, sum] = figures.as_slice() else { anyhow::bail!("DuckDB said {line}") };
        Ok(Run { seconds: *seconds, came: Came { rows: *rows as usize, sum: *sum } })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        anyhow::ensure!(self.output.read_line(&mut line)? > 0, "DuckDB has ended; what it said is above");
        Ok(line.trim_end().to_owned())
    }
}
