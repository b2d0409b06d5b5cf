//! `littoral history` and `littoral reapply`: what holds of an app, what lost, and the way back.

use std::process::ExitCode;

use littoral_model::manifest;
use littoral_node::admin::types::{AppBundle, AppEdit, AppHistory};

use crate::args::{HistoryArgs, ReapplyArgs};
use crate::client::Client;
use crate::edits::Editor;
use crate::failure::hinted;
use crate::output::{self, Table, Tabular};

/// Shows what holds of an app and what lost.
pub(super) async fn run(args: &HistoryArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let history = client.history(args.app.as_str()).await?;
    if history.holds.is_none() {
        return Err(hinted(format!("there never was an app {}", args.app), "see all of them with `littoral get apps`"));
    }
    output::print(&output::render(&history, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Deploys an edit that lost once more, after what holds.
pub(super) async fn reapply(args: &ReapplyArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let history = client.history(args.app.as_str()).await?;
    let all = || history.lost.iter().chain(&history.holds);
    let named = |edit: &&AppEdit| args.edit.as_ref().is_none_or(|id| edit.id.to_string().starts_with(id.as_str()));
    let found: Vec<&AppEdit> =
        if args.edit.is_some() { all().filter(named).collect() } else { history.lost.iter().collect() };
    let [edit] = found.as_slice() else {
        let count = found.len();
        return Err(hinted(
            format!("{count} edits of {} are meant", args.app),
            format!("`littoral history {}` lists them; name one by the first digits of its id", args.app),
        ));
    };
    let Some(bundle) = &edit.bundle else {
        return Err(hinted(
            format!("edit {} ended the app", edit.id.short()),
            format!("`littoral delete {}` ends it again", args.app),
        ));
    };
    let bundle = AppBundle { edit: None, signature: None, ..bundle.clone() };
    let status = Editor::new(client, &args.sign)?.deploy(&args.app, bundle).await?;
    eprintln!("{} {} is deployed again, as generation {}", status.name, status.version, status.generation);
    Ok(ExitCode::SUCCESS)
}

impl Tabular for AppHistory {
    fn table(&self, _: bool) -> String {
        let mut table = Table::new(&["EDIT", "STATE", "GENERATION", "AUTHOR", "WHAT"]);
        if let Some(edit) = &self.holds {
            table.row(row(edit, "holds"));
        }
        for edit in &self.lost {
            table.row(row(edit, "lost"));
        }
        let next =
            if self.lost.is_empty() { "" } else { "\n`littoral reapply APP EDIT` deploys one that lost again\n" };
        table.render() + next
    }
}

fn row(edit: &AppEdit, state: &str) -> [String; 5] {
    let version = |bundle: &AppBundle| {
        let parsed = manifest::parse("littoral.toml", &bundle.manifest);
        parsed.map_or_else(|_| "a bundle".to_owned(), |manifest| format!("version {}", manifest.version))
    };
    let what = edit.bundle.as_ref().map_or_else(|| "ends the app".to_owned(), version);
    [edit.id.short(), state.to_owned(), edit.edit.generation.to_string(), edit.edit.author.clone(), what]
}
