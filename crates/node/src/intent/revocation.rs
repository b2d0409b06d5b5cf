//! The nodes that are shut out: a set that only grows, kept and spread beside what is deployed.

use anyhow::Context as _;
use bytes::Bytes;
use littoral_model::id::Epoch;
use littoral_store::log::Log;

use super::{IntentStore, READ_BYTES, Revoked};
use crate::admin::types::Revocation;
use crate::signing::Verifier;

/// Where they are in the node's log.
const WORK: &str = "~revoked";
/// How many nodes may be shut out in all; a fabric of that many lost machines is made anew.
const REVOKED_MAX: usize = 10_000;

/// Reads what this node's disk holds. What no administrator signed is left out.
pub(super) fn open(log: &Log, verifier: &Verifier) -> anyhow::Result<Revoked> {
    let mut revoked = Revoked::new();
    let Some(head) = log.head(WORK) else { return Ok(revoked) };
    let mut from = head.first;
    while from < head.next {
        let entries = log.read(WORK, from, READ_BYTES).context("the stored revocations cannot be read")?;
        let Some(last) = entries.last() else { break };
        from = last.index + 1;
        for entry in &entries {
            let text = String::from_utf8_lossy(&entry.payload).into_owned();
            let revocation: Revocation = serde_json::from_str(&text)
                .context("a stored revocation is of another version of Littoral; start that one")?;
            match verifier.check_revocation(&revocation) {
                Ok(()) => drop(revoked.insert(revocation.node, text)),
                Err(error) => tracing::error!(node = %revocation.node, error, "a stored revocation is not good"),
            }
        }
    }
    Ok(revoked)
}

impl IntentStore {
    /// Shuts a node out; durable on this node before it returns.
    pub(crate) async fn revoke(&self, revocation: Revocation) -> Result<(), String> {
        self.verifier.check_revocation(&revocation)?;
        let text = serde_json::to_string(&revocation).map_err(|error| error.to_string())?;
        self.learn_revoked(vec![text]).await
    }

    /// Takes the revocations that are new and good.
    pub(super) async fn learn_revoked(&self, texts: Vec<String>) -> Result<(), String> {
        if texts.is_empty() {
            return Ok(());
        }
        let _one = self.writing.lock().await;
        for text in texts {
            let revocation: Revocation =
                serde_json::from_str(&text).map_err(|error| format!("a revocation cannot be read: {error}"))?;
            let (is_known, count) = {
                let revoked = self.lock_revoked();
                (revoked.contains_key(&revocation.node), revoked.len())
            };
            if is_known {
                continue;
            }
            self.verifier.check_revocation(&revocation)?;
            if count >= REVOKED_MAX {
                return Err(format!("{REVOKED_MAX} nodes are shut out; this fabric takes no more"));
            }
            let payload = vec![Bytes::from(text.clone())];
            let append = self.log.append_wait(WORK, Epoch(1), payload).await.map_err(|error| error.to_string())?;
            append.durable().await.map_err(|error| error.to_string())?;
            let Revocation { node, author, .. } = &revocation;
            self.logs.system(None, None, &format!("{node} was shut out of the fabric by {author}"));
            self.lock_revoked().insert(node.clone(), text);
            self.show();
        }
        Ok(())
    }
}
