//! `littoral token`.

use std::process::ExitCode;

use littoral_node::admin::types::TokenRequest;

use crate::app::parse_time;
use crate::args::Format;
use crate::client::Client;
use crate::output;

/// Grants a token and prints it.
pub(super) async fn create(client: &Client, ttl: &str, format: Format) -> anyhow::Result<ExitCode> {
    let ttl_seconds = parse_time("--ttl", ttl)?.as_secs();
    let grant = client.token(&TokenRequest { ttl_seconds }).await?;
    output::print(&output::render(&grant, format)?)?;
    if format == Format::Table {
        eprintln!("join with: littoral node --tier TIER --site SITE --join TOKEN --data DIR");
    }
    Ok(ExitCode::SUCCESS)
}
