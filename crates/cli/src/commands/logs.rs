//! `littoral logs`.

use std::process::ExitCode;

use littoral_node::admin::types::{LogLine, LogStream};

use crate::args::{Format, LogsArgs};
use crate::client::Client;
use crate::commands::told_to_end;
use crate::output;

/// Prints the lines of a log as they come.
pub(super) async fn run(args: &LogsArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let app = args.app.as_ref().map(|app| format!("&app={app}")).unwrap_or_default();
    let mut lines = client.logs(&format!("?last={}&follow={}{app}", args.last, args.follow)).await?;
    let end = told_to_end();
    tokio::pin!(end);
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            ended = &mut end => {
                ended?;
                return Ok(ExitCode::SUCCESS);
            }
        };
        let Some(line) = line else { return Ok(ExitCode::SUCCESS) };
        let text = match args.output {
            Format::Json => String::from_utf8_lossy(&line).into_owned(),
            Format::Yaml => format!("---\n{}", serde_yaml_ng::to_string(&serde_json::from_slice::<LogLine>(&line)?)?),
            Format::Table | Format::Wide => render(&serde_json::from_slice(&line)?),
        };
        output::print(&format!("{}\n", text.trim_end()))?;
    }
}

/// One line for people: the time of day (UTC), node and function, and the text.
fn render(line: &LogLine) -> String {
    let time = output::clock(line.time_us);
    let function = line.function.as_ref().map(|function| format!(" {function}")).unwrap_or_default();
    let mark = match line.stream {
        LogStream::Stdout => "|",
        LogStream::Stderr => "!",
        LogStream::System => "*",
    };
    format!("{time} {}{function} {mark} {}", line.node, line.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_where_and_what() {
        let mut line = LogLine {
            time_us: 86_400_000_000 + 3_723_004_005,
            node: "edge-1".to_owned(),
            app: Some("my-app".to_owned()),
            function: Some("score".to_owned()),
            stream: LogStream::Stderr,
            text: "hot".to_owned(),
        };
        assert_eq!(render(&line), "01:02:03.004 edge-1 score ! hot");
        line.time_us = -1_000;
        line.function = None;
        assert_eq!(render(&line), "23:59:59.999 edge-1 ! hot");
    }
}
