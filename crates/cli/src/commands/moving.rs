//! `littoral move`.

use std::process::ExitCode;

use littoral_node::admin::types::{MoveReport, MoveRequest};

use crate::args::MoveArgs;
use crate::client::Client;
use crate::output::{self, Table, Tabular};

/// Has another node work on stages or partitions.
pub(super) async fn run(args: &MoveArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let request = MoveRequest {
        name: args.of.name.clone(),
        is_stream: args.stream,
        partition: args.partition,
        to: args.to.clone(),
    };
    let report = client.relocate(args.of.app.as_str(), &request).await?;
    output::print(&output::render(&report, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

impl Tabular for MoveReport {
    fn table(&self, _wide: bool) -> String {
        let mut table = Table::new(&["WORK", "PARTITION", "FROM", "TO", "PAUSE"]);
        for moved in &self.works {
            let pause = moved.pause_ms.map_or_else(|| "none, it was there".to_owned(), |ms| format!("{ms:.0}ms"));
            let cells = [moved.work.clone(), moved.partition.to_string(), moved.from.clone(), moved.to.clone(), pause];
            table.row(cells);
        }
        table.render()
    }
}
