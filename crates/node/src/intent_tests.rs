//! Tests of [`super`].
#![allow(clippy::unwrap_used)]

use littoral_mesh::identity::Root;
use littoral_mesh::tenant::TenantKey;
use littoral_model::id::{AppName, TenantId};
use littoral_store::log::LogOptions;

use super::*;
use crate::signing::tests::{fabric, signed};

fn app(name: &str) -> AppId {
    AppId { tenant: TenantId::default_tenant(), app: AppName::new(name).unwrap() }
}

/// Where what a fabric's tenant has signed is deployed.
struct Fabric {
    root: Root,
    key: TenantKey,
}

impl Fabric {
    fn new() -> Self {
        let (root, key) = fabric();
        Self { root, key }
    }

    fn bundle(&self, name: &str, version: &str) -> AppBundle {
        signed(&self.key, name, version)
    }

    fn store(&self, folder: &std::path::Path, node: &str) -> IntentStore {
        self.older_store(folder, node, false)
    }

    /// A store that may be of a time when bundles were not signed.
    fn older_store(&self, folder: &std::path::Path, node: &str, keeps_unsigned: bool) -> IntentStore {
        let log = Log::open(folder, LogOptions::small()).unwrap();
        let verifier = Verifier::new(self.root.certificate_pem().to_owned(), keeps_unsigned);
        IntentStore::open(NodeId::new(node).unwrap(), log, verifier).unwrap()
    }
}

fn placement(app: &AppId) -> Placement {
    Placement { app: app.clone(), works: vec![], instances: vec![], predictions: vec![], retired: vec![] }
}

fn version(store: &IntentStore, app: &AppId) -> Option<String> {
    store.now().apps.get(app).map(|app| app.manifest.version.clone())
}

#[tokio::test]
async fn the_latest_deployment_holds_also_after_a_restart() {
    let fabric = Fabric::new();
    let folder = tempfile::tempdir().unwrap();
    let a = app("a");
    let first = fabric.store(folder.path(), "n1");
    for number in 0..2 * REWRITE_AFTER {
        first
            .deploy(a.clone(), fabric.bundle("a", &format!("1.{number}.0")), placement(&a), Composition::new())
            .await
            .unwrap();
    }
    drop(first);
    let again = fabric.store(folder.path(), "n1");
    assert_eq!(version(&again, &a).unwrap(), format!("1.{}.0", 2 * REWRITE_AFTER - 1));
    again.end(a.clone()).await.unwrap();
    drop(again);
    let ended = fabric.store(folder.path(), "n1");
    assert!(ended.now().intent.ended.contains(&a));
}

#[tokio::test]
async fn two_nodes_agree_after_one_exchange() {
    let fabric = Fabric::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (fabric.store(one.path(), "n1"), fabric.store(two.path(), "n2"));
    let (a, b) = (app("a"), app("b"));
    one.deploy(a.clone(), fabric.bundle("a", "1.0.0"), placement(&a), Composition::new()).await.unwrap();
    one.deploy(a.clone(), fabric.bundle("a", "2.0.0"), placement(&a), Composition::new()).await.unwrap();
    two.deploy(b.clone(), fabric.bundle("b", "1.0.0"), placement(&b), Composition::new()).await.unwrap();
    assert_ne!(one.now().hash, two.now().hash);
    let answer = two.exchange(one.offer()).await.unwrap();
    one.learn(answer).await.unwrap();
    let answer = two.exchange(one.offer_with(&a)).await.unwrap();
    one.learn(answer).await.unwrap();
    assert_eq!(one.now().hash, two.now().hash);
    assert_eq!(version(&two, &a).as_deref(), Some("2.0.0"));
    assert_eq!(version(&one, &b).as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn a_later_deployment_wins_over_one_whose_clock_was_ahead() {
    let fabric = Fabric::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (fabric.store(one.path(), "n1"), fabric.store(two.path(), "n2"));
    let a = app("a");
    let ahead = Hlc { physical_us: now_us() + 3_600_000_000, logical: 0 };
    let wanted =
        Some(Wanted { bundle: fabric.bundle("a", "1.0.0"), placement: placement(&a), composition: Composition::new() });
    let stamp = Stamp { time: ahead, node: NodeId::new("n1").unwrap() };
    one.take(vec![Record { app: a.clone(), stamp, wanted }]).await.unwrap();
    two.learn(one.exchange(Exchange::default()).await.unwrap()).await.unwrap();
    two.deploy(a.clone(), fabric.bundle("a", "2.0.0"), placement(&a), Composition::new()).await.unwrap();
    one.learn(two.exchange(one.offer()).await.unwrap()).await.unwrap();
    assert_eq!(version(&one, &a).as_deref(), Some("2.0.0"));
}

/// A record as another node would send it.
fn record(bundle: AppBundle, app: &AppId, physical_us: u64) -> String {
    let stamp = Stamp { time: Hlc { physical_us, logical: 0 }, node: NodeId::new("n2").unwrap() };
    let wanted = Some(Wanted { bundle, placement: placement(app), composition: Composition::new() });
    serde_json::to_string(&Record { app: app.clone(), stamp, wanted }).unwrap()
}

#[tokio::test]
async fn what_the_tenant_has_not_signed_is_neither_deployed_nor_learned() {
    let (fabric, other) = (Fabric::new(), Fabric::new());
    let folder = tempfile::tempdir().unwrap();
    let store = fabric.store(folder.path(), "n1");
    let (a, b) = (app("a"), app("b"));
    let unsigned = AppBundle { signature: None, ..fabric.bundle("a", "1.0.0") };
    let mut altered = fabric.bundle("a", "1.0.0");
    altered.artifacts.insert("f".to_owned(), "1".repeat(64));
    for bundle in [unsigned, other.bundle("a", "1.0.0"), altered] {
        store.deploy(a.clone(), bundle.clone(), placement(&a), Composition::new()).await.unwrap_err();
        // What is good beside it is taken all the same.
        let good = record(fabric.bundle("b", "1.0.0"), &b, now_us());
        let records = vec![record(bundle, &a, now_us()), good];
        store.learn(Exchange { known: BTreeMap::new(), records }).await.unwrap();
        assert_eq!((version(&store, &a), version(&store, &b).as_deref()), (None, Some("1.0.0")));
    }
    let records = vec![record(fabric.bundle("a", "2.0.0"), &a, now_us())];
    store.learn(Exchange { known: BTreeMap::new(), records }).await.unwrap();
    assert_eq!(version(&store, &a).as_deref(), Some("2.0.0"));
}

#[tokio::test]
async fn an_older_directory_keeps_its_unsigned_apps_and_hands_them_to_nobody() {
    let fabric = Fabric::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = app("a");
    let unsigned = AppBundle { signature: None, ..fabric.bundle("a", "1.0.0") };
    let older = fabric.older_store(one.path(), "n1", true);
    // As the older program wrote it.
    older.take(vec![serde_json::from_str(&record(unsigned, &a, now_us())).unwrap()]).await.unwrap();
    drop(older);
    let older = fabric.older_store(one.path(), "n1", true);
    assert_eq!(version(&older, &a).as_deref(), Some("1.0.0"));
    let newer = fabric.older_store(two.path(), "n2", true);
    newer.learn(older.exchange(Exchange::default()).await.unwrap()).await.unwrap();
    assert_eq!(version(&newer, &a), None);
    // Deployed again, it is signed and goes everywhere.
    older.deploy(a.clone(), fabric.bundle("a", "1.0.1"), placement(&a), Composition::new()).await.unwrap();
    newer.learn(older.exchange(Exchange::default()).await.unwrap()).await.unwrap();
    assert_eq!(version(&newer, &a).as_deref(), Some("1.0.1"));
}

#[tokio::test]
async fn what_was_altered_on_the_disk_is_not_run() {
    let fabric = Fabric::new();
    let folder = tempfile::tempdir().unwrap();
    let a = app("a");
    let store = fabric.store(folder.path(), "n1");
    let mut altered = fabric.bundle("a", "1.0.0");
    altered.manifest.push_str("# more\n");
    store.take(vec![serde_json::from_str(&record(altered, &a, now_us())).unwrap()]).await.unwrap();
    drop(store);
    assert_eq!(version(&fabric.store(folder.path(), "n1"), &a), None);
}
