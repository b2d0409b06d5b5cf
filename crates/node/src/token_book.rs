//! The tokens that this node has granted, the nodes that joined with them, and which of them founded their sites.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context as _;
use async_trait::async_trait;
use littoral_mesh::identity::RootHash;
use littoral_mesh::join::{TokenBook, Welcome};
use littoral_mesh::token::{Redemption, Refusal, Token, TokenRecord};
use littoral_model::file_header;
use littoral_model::id::{NodeId, SiteId, Tier};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::artifacts::write_durably;

/// The first bytes of the book's file.
const MAGIC: [u8; 8] = *b"LITTOKEN";
/// The version of its content.
const VERSION: u32 = 1;
/// How many tokens are kept; beyond that the oldest that have ended are forgotten, and then no more are granted.
const TOKENS_MAX: usize = 10_000;

/// What the book says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Entries {
    tokens: Vec<TokenRecord>,
    /// The nodes of the fabric, each with the hash of the certificate request with which it joined.
    nodes: BTreeMap<NodeId, [u8; 32]>,
    founders: BTreeMap<SiteId, NodeId>,
}

/// The book, on disk before anybody is told.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    entries: Mutex<Entries>,
    /// Where nodes connect to the mesh; known once the mesh listens.
    endpoints: OnceLock<Vec<String>>,
}

impl Book {
    /// Makes the book of a new fabric, in which one node is.
    pub(crate) fn create(path: PathBuf, first: &NodeId, site: &SiteId) -> anyhow::Result<Self> {
        let entries = Entries {
            tokens: Vec::new(),
            nodes: BTreeMap::from([(first.clone(), [0; 32])]),
            founders: BTreeMap::from([(site.clone(), first.clone())]),
        };
        write(&path, &entries).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, entries: Mutex::new(entries), endpoints: OnceLock::new() })
    }

    /// Reads the book.
    pub(crate) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let body = file_header::open(&bytes, MAGIC, VERSION, &path.display().to_string())?;
        let entries = serde_json::from_slice(body).with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Self { path, entries: Mutex::new(entries), endpoints: OnceLock::new() })
    }

    /// Says where nodes connect to the mesh.
    pub(crate) fn set_endpoints(&self, endpoints: Vec<String>) {
        // The first word counts: the mesh listens once.
        let _ = self.endpoints.set(endpoints);
    }

    /// Grants a token that lets one node in; `join` is where the join service listens, `host:port`.
    pub(crate) async fn grant(&self, root: RootHash, join: Vec<String>, now: u64, ttl: u64) -> anyhow::Result<Token> {
        let (token, record) = Token::create(root, join, now.saturating_add(ttl))?;
        let mut entries = self.entries.lock().await;
        let mut changed = entries.clone();
        if changed.tokens.len() >= TOKENS_MAX {
            changed.tokens.retain(|token| token.expires_unix > now);
        }
        anyhow::ensure!(changed.tokens.len() < TOKENS_MAX, "{TOKENS_MAX} tokens are open; wait until some have ended");
        changed.tokens.push(record);
        self.keep(&mut entries, changed).await.map_err(|reason| anyhow::anyhow!(reason))?;
        Ok(token)
    }

    /// Makes a change durable, then takes it.
    async fn keep(&self, entries: &mut Entries, changed: Entries) -> Result<(), String> {
        let (path, copy) = (self.path.clone(), changed.clone());
        let written = tokio::task::spawn_blocking(move || write(&path, &copy)).await;
        written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        *entries = changed;
        Ok(())
    }
}

fn write(path: &std::path::Path, entries: &Entries) -> std::io::Result<()> {
    let body = serde_json::to_vec(entries)?;
    write_durably(path, &file_header::seal(MAGIC, VERSION, &body))
}

#[async_trait]
impl TokenBook for Book {
    async fn redeem(&self, redemption: Redemption, now_unix: u64) -> Result<(), Refusal> {
        let mut entries = self.entries.lock().await;
        let mut changed = entries.clone();
        let record = changed.tokens.iter_mut().find(|token| token.id == redemption.id).ok_or(Refusal::Unknown)?;
        record.redeem(&redemption, now_unix)?;
        let known = changed.nodes.insert(redemption.node.clone(), redemption.csr_hash);
        if known.is_some_and(|csr| csr != redemption.csr_hash) {
            return Err(Refusal::NameTaken(redemption.node.to_string()));
        }
        self.keep(&mut entries, changed).await.map_err(Refusal::Failed)
    }

    async fn welcome(&self, node: &NodeId, _tier: Tier, site: &SiteId) -> Result<Welcome, Refusal> {
        let mut entries = self.entries.lock().await;
        if !entries.founders.contains_key(site) {
            let mut changed = entries.clone();
            changed.founders.insert(site.clone(), node.clone());
            self.keep(&mut entries, changed).await.map_err(Refusal::Failed)?;
        }
        let founder = entries.founders.get(site) == Some(node);
        Ok(Welcome { endpoints: self.endpoints.get().cloned().unwrap_or_default(), founder })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn redemption(token: &Token, node: &str, csr: u8) -> Redemption {
        let node = NodeId::new(node).unwrap();
        Redemption { id: token.id.clone(), secret_hash: token.secret_hash(), node, csr_hash: [csr; 32] }
    }

    #[tokio::test]
    async fn what_was_granted_and_used_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let (first, site) = (NodeId::new("cloud-1").unwrap(), SiteId::new("cloud").unwrap());
        let book = Book::create(path.clone(), &first, &site).unwrap();
        let token = book.grant([7; 32], vec!["127.0.0.1:1".to_owned()], 100, 60).await.unwrap();
        book.redeem(redemption(&token, "edge-1", 1), 120).await.unwrap();
        let hall = SiteId::new("hall-7").unwrap();
        assert!(book.welcome(&NodeId::new("edge-1").unwrap(), Tier::Edge, &hall).await.unwrap().founder);
        drop(book);
        let book = Book::open(path).unwrap();
        let reused = book.redeem(redemption(&token, "edge-2", 2), 120).await;
        assert_eq!(reused, Err(Refusal::Reused("edge-1".to_owned())));
        assert!(!book.welcome(&NodeId::new("edge-2").unwrap(), Tier::Edge, &hall).await.unwrap().founder);
        book.redeem(redemption(&token, "edge-1", 1), 500).await.unwrap();
    }

    #[tokio::test]
    async fn a_name_belongs_to_one_node() {
        let folder = tempfile::tempdir().unwrap();
        let (first, site) = (NodeId::new("cloud-1").unwrap(), SiteId::new("cloud").unwrap());
        let book = Book::create(folder.path().join("tokens"), &first, &site).unwrap();
        let token = book.grant([7; 32], Vec::new(), 100, 60).await.unwrap();
        let taken = book.redeem(redemption(&token, "cloud-1", 3), 120).await;
        assert_eq!(taken, Err(Refusal::NameTaken("cloud-1".to_owned())));
        book.redeem(redemption(&token, "cloud-2", 3), 120).await.unwrap();
        let late = book.grant([7; 32], Vec::new(), 100, 60).await.unwrap();
        assert_eq!(book.redeem(redemption(&late, "cloud-3", 4), 160).await, Err(Refusal::Expired));
    }
}
