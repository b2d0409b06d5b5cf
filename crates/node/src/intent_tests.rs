//! Tests of [`super`].
#![allow(clippy::unwrap_used)]

use littoral_model::id::{AppName, TenantId};
use littoral_store::log::LogOptions;

use super::*;

fn app(name: &str) -> AppId {
    AppId { tenant: TenantId::default_tenant(), app: AppName::new(name).unwrap() }
}

fn bundle(name: &str, version: &str) -> AppBundle {
    let manifest = format!("name = \"{name}\"\nversion = \"{version}\"\n");
    AppBundle { manifest, artifacts: BTreeMap::new() }
}

fn placement(app: &AppId) -> Placement {
    Placement { app: app.clone(), works: vec![], instances: vec![], predictions: vec![], retired: vec![] }
}

fn store(folder: &std::path::Path, node: &str) -> IntentStore {
    let log = Log::open(folder, LogOptions::small()).unwrap();
    IntentStore::open(NodeId::new(node).unwrap(), log).unwrap()
}

fn version(store: &IntentStore, app: &AppId) -> Option<String> {
    store.now().apps.get(app).map(|app| app.manifest.version.clone())
}

#[tokio::test]
async fn the_latest_deployment_holds_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let a = app("a");
    let first = store(folder.path(), "n1");
    for number in 0..2 * REWRITE_AFTER {
        first.deploy(a.clone(), bundle("a", &format!("1.{number}.0")), placement(&a)).await.unwrap();
    }
    drop(first);
    let again = store(folder.path(), "n1");
    assert_eq!(version(&again, &a).unwrap(), format!("1.{}.0", 2 * REWRITE_AFTER - 1));
    again.end(a.clone()).await.unwrap();
    drop(again);
    let ended = store(folder.path(), "n1");
    assert!(ended.now().intent.ended.contains(&a));
}

#[tokio::test]
async fn two_nodes_agree_after_one_exchange() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (store(one.path(), "n1"), store(two.path(), "n2"));
    let (a, b) = (app("a"), app("b"));
    one.deploy(a.clone(), bundle("a", "1.0.0"), placement(&a)).await.unwrap();
    one.deploy(a.clone(), bundle("a", "2.0.0"), placement(&a)).await.unwrap();
    two.deploy(b.clone(), bundle("b", "1.0.0"), placement(&b)).await.unwrap();
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
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (store(one.path(), "n1"), store(two.path(), "n2"));
    let a = app("a");
    let ahead = Hlc { physical_us: now_us() + 3_600_000_000, logical: 0 };
    let wanted = Some(Wanted { bundle: bundle("a", "1.0.0"), placement: placement(&a) });
    let stamp = Stamp { time: ahead, node: NodeId::new("n1").unwrap() };
    one.take(vec![Record { app: a.clone(), stamp, wanted }]).await.unwrap();
    two.learn(one.exchange(Exchange::default()).await.unwrap()).await.unwrap();
    two.deploy(a.clone(), bundle("a", "2.0.0"), placement(&a)).await.unwrap();
    one.learn(two.exchange(one.offer()).await.unwrap()).await.unwrap();
    assert_eq!(version(&one, &a).as_deref(), Some("2.0.0"));
}
