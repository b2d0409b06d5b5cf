//! `littoral queue`: the asynchronous invocations of functions.

use std::process::ExitCode;

use littoral_model::invocation::InvocationName;
use littoral_node::admin::queue::{InvocationState, InvocationStatus, InvocationsReport, QueueStatus};

use crate::args::{ChosenInvocations, QueueCommand, QueueListArgs, StateFilter};
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
            let chosen = choose(chosen, client).await?;
            for id in &chosen.ids {
                client.retry_invocation(id).await?;
            }
            output::print(&chosen.told("run once more"))?;
            Ok(ExitCode::SUCCESS)
        }
        QueueCommand::Drop(chosen) => {
            let chosen = choose(chosen, client).await?;
            for id in &chosen.ids {
                client.forget_invocation(id).await?;
            }
            output::print(&chosen.told("forgotten"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(args: &QueueListArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let report = client.invocations(&query(args.of.as_deref(), args.state)).await?;
    output::print(&output::render(&report, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// What a command is about.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    ids: Vec<InvocationName>,
    /// Whether there are more dead letters than are listed at once.
    has_more: bool,
}

impl Chosen {
    fn told(&self, done: &str) -> String {
        let more = if self.has_more { "; there are more dead letters: repeat the command" } else { "" };
        format!("{} are {done}{more}\n", self.ids.len())
    }
}

/// The named invocations, or the dead letters of what is named.
async fn choose(chosen: &ChosenInvocations, client: &Client) -> anyhow::Result<Chosen> {
    let Some(of) = &chosen.dead else { return Ok(Chosen { ids: chosen.ids.clone(), has_more: false }) };
    dead_letters(client.invocations(&query(Some(of), Some(StateFilter::Dead))).await?)
}

fn dead_letters(report: InvocationsReport) -> anyhow::Result<Chosen> {
    if let Some(queue) = report.queues.iter().find(|queue| !queue.answers) {
        return Err(hinted(
            format!("the queue {} does not answer", queue.name),
            "try again once its site can be reached",
        ));
    }
    let has_more = report.queues.iter().any(|queue| queue.has_more);
    let dead = report.invocations.into_iter().filter(|invocation| invocation.state == InvocationState::Dead);
    let ids: Vec<InvocationName> = dead.map(|invocation| Ok(invocation.id.parse()?)).collect::<anyhow::Result<_>>()?;
    Ok(Chosen { ids, has_more })
}

/// The query for `APP` or `APP/FUNCTION`, and a state.
fn query(of: Option<&str>, state: Option<StateFilter>) -> String {
    let (app, function) = of.map_or(("", ""), |of| of.split_once('/').unwrap_or((of, "")));
    let parts = [("app", app), ("function", function), ("state", state.map_or("", StateFilter::name))];
    let parts = parts.iter().filter(|(_, value)| !value.is_empty());
    let query = parts.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    if query.is_empty() { query } else { format!("?{query}") }
}

impl StateFilter {
    /// As the API calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Dead => "dead",
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
        for QueueStatus { name, owner, in_sync, answers, has_more, .. } in &self.queues {
            if !answers {
                text += &format!("{name} does not answer: its calls are not shown\n");
            } else if wide {
                text += &format!("{name}: owned by {}, held by {}\n", optional(owner.as_ref()), list_of(in_sync));
            }
            if *has_more {
                text += &format!("{name} has more: its latest are shown\n");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_query_says_of_what_and_how_it_stands() {
        assert_eq!(query(None, None), "");
        assert_eq!(query(None, Some(StateFilter::Dead)), "?state=dead");
        assert_eq!(query(Some("shop"), Some(StateFilter::Waiting)), "?app=shop&state=waiting");
        assert_eq!(query(Some("shop/work"), None), "?app=shop&function=work");
    }

    #[test]
    fn a_list_that_was_cut_says_so() {
        let name = "default/shop/queue/work/0@cloud".to_owned();
        let queue = |has_more| QueueStatus { name: name.clone(), answers: true, has_more, ..QueueStatus::default() };
        let report = |has_more| InvocationsReport { queues: vec![queue(has_more)], ..InvocationsReport::default() };
        assert_eq!(dead_letters(report(false)).unwrap().told("forgotten"), "0 are forgotten\n");
        let told = dead_letters(report(true)).unwrap().told("forgotten");
        assert!(told.contains("there are more"), "{told}");
        assert!(report(true).table(false).contains("has more") && !report(false).table(false).contains("has more"));
        let silent = QueueStatus { answers: false, ..queue(false) };
        assert!(dead_letters(InvocationsReport { queues: vec![silent], ..report(false) }).is_err());
    }
}
