//! `littoral get`.

use std::process::ExitCode;

use littoral_node::admin::types::ConnectorDirection;
use serde::Serialize;

use crate::args::{GetArgs, Kind};
use crate::client::Client;
use crate::failure::hinted;
use crate::output::{self, Tabular};

/// Shows what there is, once or whenever it changes.
pub(super) async fn run(args: &GetArgs, client: &Client) -> anyhow::Result<ExitCode> {
    if args.watch {
        output::watch(|| ask(args, client)).await?;
    } else {
        output::print(&ask(args, client).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(args: &GetArgs, client: &Client) -> anyhow::Result<String> {
    match args.kind {
        Kind::Nodes => show(args, client.nodes().await?, |node| [None, Some(&node.id)]),
        Kind::Sites => show(args, client.sites().await?, |site| [None, Some(&site.name)]),
        Kind::Apps => show(args, client.apps().await?, |app| [None, Some(&app.name)]),
        Kind::Functions => show(args, client.functions().await?, |item| [Some(&item.app), Some(&item.name)]),
        Kind::Flows => show(args, client.flows().await?, |item| [Some(&item.app), Some(&item.name)]),
        Kind::Sources => show_connectors(args, client, ConnectorDirection::In).await,
        Kind::Sinks => show_connectors(args, client, ConnectorDirection::Out).await,
        Kind::Streams => show(args, client.streams().await?, |item| [Some(&item.app), Some(&item.name)]),
    }
}

async fn show_connectors(args: &GetArgs, client: &Client, direction: ConnectorDirection) -> anyhow::Result<String> {
    let mut connectors = client.connectors().await?;
    connectors.retain(|connector| connector.direction == direction);
    show(args, connectors, |item| [Some(&item.app), Some(&item.name)])
}

/// Keeps what was asked for, and renders it. A name is that of the thing, of its app, or APP/NAME.
fn show<T: Serialize>(
    args: &GetArgs,
    mut items: Vec<T>,
    names: impl Fn(&T) -> [Option<&String>; 2],
) -> anyhow::Result<String>
where
    Vec<T>: Tabular,
{
    if let Some(wanted) = &args.name {
        items.retain(|item| {
            let names = names(item);
            let whole: Vec<&str> = names.iter().flatten().map(|name| name.as_str()).collect();
            whole.contains(&wanted.as_str()) || whole.join("/") == *wanted
        });
        if items.is_empty() {
            let kind = format!("{:?}", args.kind).to_lowercase();
            return Err(hinted(
                format!("there is nothing named `{wanted}` among the {kind}"),
                format!("see all of them with `littoral get {kind}`"),
            ));
        }
    }
    output::render(&items, args.output)
}
