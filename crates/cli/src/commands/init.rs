//! `littoral init`: makes a fabric.

use std::process::ExitCode;

use littoral_model::id::NodeId;
use littoral_node::InitSettings;
use serde::Serialize;

use crate::args::InitArgs;
use crate::context::Places;
use crate::failure::Usage;
use crate::output::{self, Tabular};

/// What making a fabric gave, as it is shown.
#[derive(Serialize)]
struct Shown {
    data: String,
    node: String,
    root_fingerprint: String,
    admin_credentials: String,
    token: Option<String>,
    token_expires_s: Option<u64>,
}

impl Tabular for Shown {
    fn table(&self, _wide: bool) -> String {
        let join = match &self.token {
            Some(token) => format!(
                "let one more node join, on another machine, within the token's lifetime:\n  \
                 littoral node --tier TIER --site SITE --data DIR --join {token}"
            ),
            None => "let one more node join with a token that you get, once the first node runs, from:\n  \
                     littoral token create"
                .to_owned(),
        };
        format!(
            "made a fabric; its root is {root}\n\n\
             run its first node:\n  littoral node --data {data}\n\n\
             {join}\n\n\
             administer it and deploy from elsewhere with the credentials and the signing key in\n  {credentials}\n",
            root = self.root_fingerprint,
            data = self.data,
            credentials = self.admin_credentials,
        )
    }
}

/// Makes a fabric and its first node, and says how to go on.
pub(super) async fn run(args: &InitArgs, places: &Places) -> anyhow::Result<ExitCode> {
    let data = args.data.clone().unwrap_or_else(|| places.data.clone());
    let name = match &args.node {
        Some(name) => name.clone(),
        None => machine_name()?,
    };
    let settings = InitSettings {
        data: data.clone(),
        name: name.clone(),
        tier: args.tier,
        site: args.site.clone(),
        listen: args.listen.clone(),
        http: Some(args.http),
        join_listen: Some(args.join_listen),
        advertise: args.advertise.clone(),
    };
    let outcome = littoral_node::init(settings).await?;
    let shown = Shown {
        data: data.display().to_string(),
        node: name.to_string(),
        root_fingerprint: outcome.root_fingerprint,
        admin_credentials: outcome.admin_credentials.display().to_string(),
        token: outcome.token,
        token_expires_s: outcome.token_expires_s,
    };
    output::print(&output::render(&shown, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// This machine's name, as far as it is a name of a node.
pub(super) fn machine_name() -> anyhow::Result<NodeId> {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    node_name(&host).ok_or_else(|| {
        Usage::new(format!("this machine's name, `{host}`, cannot be a node's")).hint("give the node's name").into()
    })
}

/// The first label of a host name, with what a name may not have replaced.
fn node_name(host: &str) -> Option<NodeId> {
    let label = host.split('.').next()?.to_ascii_lowercase();
    let replaced: String =
        label.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    NodeId::new(replaced.trim_matches('-')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_node_names() {
        let name = |host| node_name(host).map(String::from);
        assert_eq!(name("Plant_7.example.org").as_deref(), Some("plant-7"));
        assert_eq!(name("_x_").as_deref(), Some("x"));
        assert_eq!(name("..."), None);
    }
}
