//! Edits of what is deployed: what the tenant signs, after having been shown what holds.

use std::path::{Path, PathBuf};

use littoral_mesh::tenant::TenantKey;
use littoral_model::id::AppName;
use littoral_node::admin::error::{AdminError, AdminErrorKind};
use littoral_node::admin::types::{AppBundle, AppEnd, AppHistory, AppStatus};
use littoral_node::signing;

use crate::args::SignArgs;
use crate::client::Client;
use crate::failure::Usage;

/// How often an edit that was overtaken is made anew: others deploy the same app at the same moment seldom.
const ATTEMPTS: usize = 5;

/// Somebody who edits.
pub(crate) struct Editor<'a> {
    client: &'a Client,
    /// None where there is no key: what that means is the node's to say.
    key: Option<TenantKey>,
    author: String,
    /// What must hold for the edit to be made.
    if_generation: Option<u64>,
}

impl<'a> Editor<'a> {
    /// With the key in a folder that was named, or else with the one that is there by default.
    ///
    /// # Errors
    /// When the named folder has no key, or the key is not good.
    pub(crate) fn new(client: &'a Client, args: &SignArgs) -> anyhow::Result<Self> {
        let key = load(args.key.as_deref(), client.key_folder())?;
        Ok(Self { client, key, author: args.author.clone().unwrap_or_else(author), if_generation: None })
    }

    /// With a key that is at hand.
    pub(crate) fn with(client: &'a Client, key: TenantKey) -> Self {
        Self { client, key: Some(key), author: author(), if_generation: None }
    }

    /// Edits only what has this generation.
    pub(crate) fn only_if(self, if_generation: Option<u64>) -> Self {
        Self { if_generation, ..self }
    }

    /// Deploys a bundle after whatever holds.
    ///
    /// # Errors
    /// When it is refused, or what holds has another generation than was asked for.
    pub(crate) async fn deploy(&self, app: &AppName, bundle: AppBundle) -> anyhow::Result<AppStatus> {
        let mut attempt = 1;
        loop {
            let history = self.history(app).await?;
            let mut bundle = bundle.clone();
            bundle.edit = Some(history.next(false, now_us(), self.author.clone()));
            bundle.signature = self.key.as_ref().map(|key| signing::sign(&bundle, key)).transpose()?;
            match self.client.deploy(&bundle).await {
                Err(error) if attempt < ATTEMPTS && is_conflict(&error) => attempt += 1,
                deployed => {
                    if deployed.is_ok() {
                        tell_of_lost(&history);
                    }
                    return deployed;
                }
            }
        }
    }

    /// Ends an app, whatever holds of it.
    ///
    /// # Errors
    /// When there is no such app, or it is refused.
    pub(crate) async fn end(&self, app: &AppName) -> anyhow::Result<()> {
        let mut attempt = 1;
        loop {
            let edit = self.history(app).await?.next(true, now_us(), self.author.clone());
            let signature = self.key.as_ref().map(|key| signing::sign_end(app, &edit, key)).transpose()?;
            match self.client.delete(app.as_str(), &AppEnd { edit, signature }).await {
                Err(error) if attempt < ATTEMPTS && is_conflict(&error) => attempt += 1,
                ended => return ended,
            }
        }
    }

    async fn history(&self, app: &AppName) -> anyhow::Result<AppHistory> {
        let history = self.client.history(app.as_str()).await?;
        let generation = history.holds.as_ref().map_or(0, |holds| holds.edit.generation);
        match self.if_generation {
            Some(expected) if expected != generation => {
                let text = format!("{app} has generation {generation} now, not {expected}");
                let hint =
                    format!("look at what was changed with `littoral history {app}`, then deploy with its generation");
                Err(AdminError::new(AdminErrorKind::Conflict, text).hint(hint).into())
            }
            _ => Ok(history),
        }
    }
}

/// Whoever deploys over lost edits puts them aside, and is told.
fn tell_of_lost(history: &AppHistory) {
    for lost in &history.lost {
        eprintln!("note: an edit by {} had lost and is put aside now ({})", lost.edit.author, lost.id.short());
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.downcast_ref::<AdminError>().is_some_and(|error| error.kind == AdminErrorKind::Conflict)
}

fn load(named: Option<&Path>, default: PathBuf) -> anyhow::Result<Option<TenantKey>> {
    let folder = named.unwrap_or(&default);
    if TenantKey::exists(folder) {
        return Ok(Some(TenantKey::load(folder)?));
    }
    match named {
        None => Ok(None),
        Some(_) => Err(Usage::new(format!("there is no tenant's key in {}", folder.display()))
            .hint("give the folder `admin` of the node where `littoral init` was run")
            .into()),
    }
}

/// The time, microseconds since 1970.
#[allow(clippy::disallowed_methods)] // An edit carries the time that its author's machine has.
pub(crate) fn now_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Who edits, as far as this machine knows.
pub(crate) fn author() -> String {
    let user = ["LOGNAME", "USER"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let machine = rustix::system::uname();
    format!("{}@{}", user.as_deref().unwrap_or("somebody"), machine.nodename().to_string_lossy())
}
