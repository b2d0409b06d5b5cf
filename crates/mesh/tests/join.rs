//! Joining a fabric with a token, and every way not to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use littoral_mesh::identity::{Identity, Root, unix_now};
use littoral_mesh::join::{JoinError, JoinService, TokenBook, Welcome, join};
use littoral_mesh::token::{Redemption, Refusal, Token, TokenRecord};
use littoral_model::id::{NodeId, SiteId, Tier};

#[derive(Default)]
struct Book {
    records: Mutex<Vec<TokenRecord>>,
    names: Mutex<HashSet<NodeId>>,
}

#[async_trait]
impl TokenBook for Book {
    async fn redeem(&self, redemption: Redemption, now_unix: u64) -> Result<(), Refusal> {
        if self.names.lock().unwrap().contains(&redemption.node) {
            return Err(Refusal::NameTaken(redemption.node.to_string()));
        }
        let mut records = self.records.lock().unwrap();
        let record = records.iter_mut().find(|record| record.id == redemption.id).ok_or(Refusal::Unknown)?;
        record.redeem(&redemption, now_unix)
    }

    async fn welcome(&self, _node: &NodeId, tier: Tier, site: &SiteId) -> Result<Welcome, Refusal> {
        Ok(Welcome { endpoints: vec![format!("{tier}.{site}:7447")], founder: true })
    }
}

struct Fabric {
    root: Root,
    book: Arc<Book>,
    service: JoinService,
}

impl Fabric {
    async fn start() -> Self {
        let root = Root::create().unwrap();
        let identity = root.identity(&NodeId::new("first").unwrap(), &[]).unwrap();
        let book = Arc::new(Book::default());
        let listen = "127.0.0.1:0".parse().unwrap();
        let service = JoinService::start(listen, root.clone(), &identity, Arc::<Book>::clone(&book)).await.unwrap();
        Self { root, book, service }
    }

    fn token(&self, expires_unix: u64) -> Token {
        let endpoints = vec![self.service.address().to_string()];
        let (token, record) = Token::create(self.root.hash().unwrap(), endpoints, expires_unix).unwrap();
        self.book.records.lock().unwrap().push(record);
        token.to_text().parse().unwrap()
    }
}

async fn ask(token: &Token, name: &str) -> Result<Identity, JoinError> {
    let (node, site) = (NodeId::new(name).unwrap(), SiteId::new("hall").unwrap());
    let (identity, admission) = join(token, &node, Tier::Edge, &site, &[]).await?;
    assert_eq!(admission.welcome.endpoints, ["edge.hall:7447"]);
    assert_eq!(admission.fabric, identity.fabric().unwrap());
    Ok(identity)
}

fn refusal(outcome: Result<Identity, JoinError>) -> Refusal {
    match outcome {
        Err(JoinError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_lets_one_node_in_once() {
    let fabric = Fabric::start().await;
    let token = fabric.token(unix_now() + 600);
    let identity = ask(&token, "a").await.unwrap();
    assert_eq!(identity.node.as_str(), "a");
    assert_eq!(identity.root_hash().unwrap(), fabric.root.hash().unwrap());
    let reused = refusal(ask(&token, "b").await);
    assert_eq!(reused, Refusal::Reused("a".to_owned()));
    assert!(reused.to_string().contains("littoral token create"), "it says what to do: {reused}");
}

#[tokio::test]
async fn an_expired_or_unknown_token_and_a_taken_name_are_refused_with_the_reason() {
    let fabric = Fabric::start().await;
    assert_eq!(refusal(ask(&fabric.token(unix_now() - 1), "a").await), Refusal::Expired);
    let mut forged = fabric.token(unix_now() + 600);
    forged.secret[0] ^= 1;
    assert_eq!(refusal(ask(&forged, "a").await), Refusal::Unknown);
    forged.id = "other".to_owned();
    assert_eq!(refusal(ask(&forged, "a").await), Refusal::Unknown);
    fabric.book.names.lock().unwrap().insert(NodeId::new("a").unwrap());
    assert_eq!(refusal(ask(&fabric.token(unix_now() + 600), "a").await), Refusal::NameTaken("a".to_owned()));
}

#[tokio::test]
async fn a_server_of_another_root_learns_nothing() {
    let (fabric, other) = (Fabric::start().await, Fabric::start().await);
    let mut token = fabric.token(unix_now() + 600);
    token.endpoints = vec![other.service.address().to_string()];
    let error = ask(&token, "a").await.unwrap_err();
    assert!(matches!(error, JoinError::WrongRoot { .. }), "{error}");
    // Its secret was not shown: the token still works where it belongs.
    token.endpoints.push(fabric.service.address().to_string());
    ask(&token, "a").await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_told_from_a_refusal() {
    let fabric = Fabric::start().await;
    let token = fabric.token(unix_now() + 600);
    drop(fabric);
    let error = loop {
        match ask(&token, "a").await {
            Err(error @ JoinError::Unreachable(_)) => break error,
            // The service may still be on its way out.
            _ => tokio::task::yield_now().await,
        }
    };
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}
