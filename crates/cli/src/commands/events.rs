//! `littoral events`.

use std::process::ExitCode;

use littoral_node::admin::events::EventsReport;

use super::usage::before;
use crate::app::parse_time;
use crate::args::EventsArgs;
use crate::client::Client;
use crate::output::{self, Table, Tabular, clock};

/// Shows what happened.
pub(super) async fn run(args: &EventsArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let since_us = before(parse_time("--since", &args.since)?);
    let app = args.app.as_ref().map(|app| format!("&app={app}")).unwrap_or_default();
    let report = client.events(&format!("?since_us={since_us}{app}")).await?;
    output::print(&output::render(&report, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

impl Tabular for EventsReport {
    fn table(&self, _wide: bool) -> String {
        let mut table = Table::new(&["TIME", "NODE", "APP", "SUBJECT", "EVENT", "WHAT"]);
        for event in &self.events {
            table.row([
                clock(event.time_us),
                event.node.clone(),
                event.app.clone(),
                event.subject.clone(),
                event.kind.to_string(),
                event.text.clone(),
            ]);
        }
        let missing = self.missing.iter().map(|node| format!("{node} does not answer: its events are not shown\n"));
        table.render() + &missing.collect::<String>()
    }
}
