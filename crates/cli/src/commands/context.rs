//! `littoral context`.

use std::process::ExitCode;

use serde::Serialize;

use crate::args::ContextCommand;
use crate::context::{Entry, Places};
use crate::failure::{Usage, hinted};
use crate::output::{self, Table, Tabular};

/// A context as it is shown.
#[derive(Serialize)]
struct Shown {
    name: String,
    current: bool,
    #[serde(flatten)]
    entry: Entry,
}

impl Tabular for Vec<Shown> {
    fn table(&self, _wide: bool) -> String {
        let mut table = Table::new(&["", "CONTEXT", "NODE", "CREDENTIALS"]);
        for shown in self {
            let (node, credentials) = match &shown.entry {
                Entry::Unix { socket } => (socket.display().to_string(), "-".to_owned()),
                Entry::Tls { address, credentials, .. } => (address.clone(), credentials.display().to_string()),
            };
            table.row([if shown.current { "*" } else { "" }.to_owned(), shown.name.clone(), node, credentials]);
        }
        table.render()
    }
}

/// Adds, chooses, shows or forgets contexts.
pub(super) fn run(command: &ContextCommand, places: &Places) -> anyhow::Result<ExitCode> {
    let mut contexts = places.load()?;
    match command {
        ContextCommand::Add { name, unix, address, credentials, node } => {
            let entry = match (unix, address, credentials) {
                (Some(socket), _, _) => Entry::Unix { socket: std::path::absolute(socket)? },
                (None, Some(address), Some(credentials)) => {
                    let credentials = std::path::absolute(credentials)?;
                    if !credentials.is_dir() {
                        return Err(hinted(
                            format!("there are no credentials in {}", credentials.display()),
                            "copy the folder that `littoral init` printed from the fabric's first node",
                        ));
                    }
                    Entry::Tls { address: address.clone(), credentials, node: node.as_ref().map(ToString::to_string) }
                }
                _ => return Err(Usage::new("a context needs --unix, or --address and --credentials").into()),
            };
            contexts.contexts.insert(name.clone(), entry);
            // The first one is the one that is meant.
            contexts.current.get_or_insert_with(|| name.clone());
            places.save(&contexts)?;
        }
        ContextCommand::Use { name } => {
            contexts.named(name)?;
            contexts.current = Some(name.clone());
            places.save(&contexts)?;
        }
        ContextCommand::List { output } => {
            let shown: Vec<Shown> = contexts
                .contexts
                .iter()
                .map(|(name, entry)| Shown {
                    name: name.clone(),
                    current: contexts.current.as_ref() == Some(name),
                    entry: entry.clone(),
                })
                .collect();
            output::print(&output::render(&shown, *output)?)?;
        }
        ContextCommand::Remove { name } => {
            contexts.named(name)?;
            contexts.contexts.remove(name);
            contexts.current = contexts.current.filter(|current| current != name);
            places.save(&contexts)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
