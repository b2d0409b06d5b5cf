//! `littoral queue`: the asynchronous invocations of functions.

use std::process::ExitCode;

use littoral_model::invocation::InvocationName;
use littoral_node::admin::queue::{InvocationState, InvocationStatus, InvocationsReport, QueueStatus};

use crate::args::{QueueCommand, QueueListArgs, StateFilter};
use crate::client::Client;
use crate::failure::hinted;
use crate::output::{self, Table, Tabular, clock, list as list_of, optional};

/// Carries out one of its commands.
pub(super) async fn run(command: &QueueCommand, client: &Client) -> anyhow::Result<ExitCode> {
    match command {
        QueueCommand::Ls(args) => list(args, client).await,
        QueueCommand::Show { id, output } => {
            let shown = client.invocation(id, 0).await?;
            output::print(&output::render(&vec![shown], *output)?)?;
            Ok(ExitCode::SUCCESS)
        }
        QueueCommand::Retry(chosen) => {
            let ids = chosen_ids(chosen, client).await?;
            for id in &ids {
                client.retry_invocation(id).await?;
            }
            output::print(&format!("{} are run once more\n", ids.len()))?;
            Ok(ExitCode::SUCCESS)
        }
        QueueCommand::Drop(chosen) => {
            let ids = chosen_ids(chosen, client).await?;
            for id in &ids {
                client.forget_invocation(id).await?;
            }
            output::print(&format!("{} are forgotten\n", ids.len()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(args: &QueueListArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let mut report = client.invocations(&query(args.of.as_deref())).await?;
    report.invocations.retain(|invocation| args.state.is_none_or(|state| state.fits(invocation.state)));
    output::print(&output::render(&report, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// The named invocations, or all dead letters of what is named.
async fn chosen_ids(chosen: &crate::args::ChosenInvocations, client: &Client) -> anyhow::Result<Vec<InvocationName>> {
    let Some(of) = &chosen.dead else { return Ok(chosen.ids.clone()) };
    let report = client.invocations(&query(Some(of))).await?;
    if let Some(queue) = report.queues.iter().find(|queue| !queue.answers) {
        return Err(hinted(
            format!("the queue {} does not answer", queue.name),
            "try again once its site can be reached",
        ));
    }
    let dead = report.invocations.into_iter().filter(|invocation| invocation.state == InvocationState::Dead);
    dead.map(|invocation| Ok(invocation.id.parse()?)).collect()
}

/// The query for `APP` or `APP/FUNCTION`.
fn query(of: Option<&str>) -> String {
    match of.map(|of| of.split_once('/').unwrap_or((of, ""))) {
        None => String::new(),
        Some((app, "")) => format!("?app={app}"),
        Some((app, function)) => format!("?app={app}&function={function}"),
    }
}

impl StateFilter {
    fn fits(self, state: InvocationState) -> bool {
        match self {
            Self::Waiting => state == InvocationState::Waiting,
            Self::Done => state == InvocationState::Done,
            Self::Dead => state == InvocationState::Dead,
        }
    }
}

fn rows(invocations: &[InvocationStatus], wide: bool) -> String {
    let mut columns = vec!["ID", "STATE", "ACCEPTED", "DUE", "TRIES", "STATUS", "ERROR"];
    if wide {
        columns.extend(["KEY", "REQUEST", "SITE", "ENDED"]);
    }
    let mut table = Table::new(&columns);
    for invocation in invocations {
        let state = match invocation.state {
            InvocationState::Waiting => "waiting",
            InvocationState::Done => "done",
            InvocationState::Dead => "dead",
        };
        let mut row = vec![
            invocation.id.clone(),
            state.to_owned(),
            clock(invocation.accepted_us),
            optional(invocation.due_us.map(clock).as_ref()),
            (invocation.attempts + invocation.unanswered).to_string(),
            optional(invocation.status.as_ref()),
            optional(invocation.error.as_ref()),
        ];
        if wide {
            row.extend([
                optional(invocation.key.as_ref()),
                optional(invocation.request.as_ref()),
                invocation.site.clone(),
                optional(invocation.ended_us.map(clock).as_ref()),
            ]);
        }
        table.row(row);
    }
    table.render()
}

impl Tabular for Vec<InvocationStatus> {
    fn table(&self, _wide: bool) -> String {
        rows(self, true)
    }
}

impl Tabular for InvocationsReport {
    fn table(&self, wide: bool) -> String {
        let mut text = rows(&self.invocations, wide);
        for QueueStatus { name, owner, in_sync, answers, .. } in &self.queues {
            if !answers {
                text += &format!("{name} does not answer: its calls are not shown\n");
            } else if wide {
                text += &format!("{name}: owned by {}, held by {}\n", optional(owner.as_ref()), list_of(in_sync));
            }
        }
        text
    }
}
