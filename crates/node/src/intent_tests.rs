//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use littoral_mesh::identity::Root;
use littoral_mesh::tenant::TenantKey;
use littoral_model::hlc::Hlc;
use littoral_model::id::{AppName, TenantId};
use littoral_store::log::LogOptions;

use super::*;
use crate::logs::LogQuery;
use crate::signing::tests::{fabric, signed, unsigned};
use crate::signing::{sign, sign_end};

const CENTURY_US: u64 = 100 * 365 * 86_400 * 1_000_000;

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

    fn store(&self, folder: &std::path::Path, node: &str) -> IntentStore {
        self.older_store(folder, node, false)
    }

    /// A store that may be of a time when bundles were not signed.
    fn older_store(&self, folder: &std::path::Path, node: &str, keeps_unsigned: bool) -> IntentStore {
        let log = Log::open(folder, LogOptions::small()).unwrap();
        let verifier = Verifier::new(self.root.certificate_pem().to_owned(), keeps_unsigned);
        IntentStore::open(log, verifier, Arc::new(Logs::new(NodeId::new(node).unwrap()))).unwrap()
    }

    /// The bundle of the next edit, signed.
    fn bundle(&self, at: &IntentStore, name: &str, version: &str, now_us: u64) -> AppBundle {
        let edit = at.history(&app(name)).next(false, now_us, format!("author-of-{version}"));
        let mut bundle = AppBundle { edit: Some(edit), ..unsigned(name, version) };
        bundle.signature = Some(sign(&bundle, &self.key).unwrap());
        bundle
    }

    async fn deploy_at(&self, at: &IntentStore, name: &str, version: &str, now_us: u64) {
        let a = app(name);
        let bundle = self.bundle(at, name, version, now_us);
        at.deploy(a.clone(), bundle, placement(&a), Composition::new()).await.unwrap();
    }

    async fn deploy(&self, at: &IntentStore, name: &str, version: &str) {
        self.deploy_at(at, name, version, 1_000).await;
    }

    async fn end(&self, at: &IntentStore, name: &str) {
        let edit = at.history(&app(name)).next(true, 1_000, "ender".to_owned());
        let signature = Some(sign_end(&app(name).app, &edit, &self.key).unwrap());
        at.end(app(name), AppEnd { edit, signature }).await.unwrap();
    }
}

fn placement(app: &AppId) -> Placement {
    Placement {
        app: app.clone(),
        works: vec![],
        instances: vec![],
        serving: vec![],
        predictions: vec![],
        retired: vec![],
    }
}

fn version(store: &IntentStore, app: &AppId) -> Option<String> {
    store.now().apps.get(app).map(|app| app.manifest.version.clone())
}

async fn meet(one: &IntentStore, other: &IntentStore) {
    one.learn(other.exchange(one.offer()).await.unwrap()).await.unwrap();
    one.learn(other.exchange(one.offer_with(&app("a"))).await.unwrap()).await.unwrap();
    assert_eq!(one.now().hash, other.now().hash);
}

#[tokio::test]
async fn an_edit_leaves_the_other_apps_as_they_were_read() {
    let fabric = Fabric::new();
    let folder = tempfile::tempdir().unwrap();
    let store = fabric.store(folder.path(), "n1");
    fabric.deploy(&store, "a", "1.0.0").await;
    fabric.deploy(&store, "b", "1.0.0").await;
    let before = store.now();
    fabric.deploy(&store, "b", "1.1.0").await;
    let after = store.now();
    assert!(Arc::ptr_eq(&before.apps[&app("a")], &after.apps[&app("a")]));
    assert_eq!(version(&store, &app("b")).as_deref(), Some("1.1.0"));
    assert_eq!(after.intent.apps.len(), 2);
}

#[tokio::test]
async fn the_last_edit_holds_also_after_a_restart() {
    let fabric = Fabric::new();
    let folder = tempfile::tempdir().unwrap();
    let a = app("a");
    let first = fabric.store(folder.path(), "n1");
    for number in 0..2 * REWRITE_AFTER {
        fabric.deploy(&first, "a", &format!("1.{number}.0")).await;
    }
    drop(first);
    let again = fabric.store(folder.path(), "n1");
    assert_eq!(version(&again, &a).unwrap(), format!("1.{}.0", 2 * REWRITE_AFTER - 1));
    fabric.end(&again, "a").await;
    drop(again);
    let ended = fabric.store(folder.path(), "n1");
    assert!(ended.now().intent.ended.contains(&a));
}

#[tokio::test]
async fn two_nodes_agree_after_they_met() {
    let fabric = Fabric::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (fabric.store(one.path(), "n1"), fabric.store(two.path(), "n2"));
    fabric.deploy(&one, "a", "1.0.0").await;
    fabric.deploy(&one, "a", "2.0.0").await;
    fabric.deploy(&two, "b", "1.0.0").await;
    assert_ne!(one.now().hash, two.now().hash);
    meet(&one, &two).await;
    assert_eq!(version(&two, &app("a")).as_deref(), Some("2.0.0"));
    assert_eq!(version(&one, &app("b")).as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn of_two_edits_made_apart_one_holds_and_the_other_is_shown_and_kept() {
    let fabric = Fabric::new();
    let (one_dir, two_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (fabric.store(one_dir.path(), "n1"), fabric.store(two_dir.path(), "n2"));
    let a = app("a");
    fabric.deploy(&one, "a", "1.0.0").await;
    meet(&one, &two).await;
    fabric.deploy(&one, "a", "1.1.0").await;
    fabric.deploy(&one, "a", "1.2.0").await;
    // Whatever its clock says, one edit is less than two.
    fabric.deploy_at(&two, "a", "2.0.0", CENTURY_US).await;
    meet(&one, &two).await;
    for store in [&one, &two] {
        assert_eq!(version(store, &a).as_deref(), Some("1.2.0"));
        let lost = store.now().apps.get(&a).unwrap().lost.clone();
        assert!(
            lost.len() == 1 && lost.iter().all(|text| text.contains("version 2.0.0 by author-of-2.0.0")),
            "{lost:?}"
        );
        let id = store.history(&a).lost.first().unwrap().id.short();
        assert!(
            lost.iter().all(|text| text.contains(&format!("`littoral reapply a {id}` applies it again"))),
            "{lost:?}"
        );
        let said = store.logs.find(&LogQuery { app: Some("a".to_owned()), from: None, count: 10 });
        assert_eq!(said.lines.iter().map(|line| &line.text).collect::<Vec<_>>(), lost.iter().collect::<Vec<_>>());
    }
    // What lost can be applied again, also after a restart.
    drop(two);
    let two = fabric.store(two_dir.path(), "n2");
    let mut again = two.history(&a).lost.first().unwrap().bundle.clone().unwrap();
    again.edit = Some(two.history(&a).next(false, 5, "author-of-2.0.0".to_owned()));
    again.signature = Some(sign(&again, &fabric.key).unwrap());
    two.deploy(a.clone(), again, placement(&a), Composition::new()).await.unwrap();
    meet(&one, &two).await;
    assert_eq!(version(&one, &a).as_deref(), Some("2.0.0"));
    assert!(one.now().apps.get(&a).unwrap().lost.is_empty(), "who applied it had seen the rest");
}

#[tokio::test]
async fn what_was_deleted_stays_deleted_and_a_new_deployment_is_a_new_one() {
    let fabric = Fabric::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (fabric.store(one.path(), "n1"), fabric.store(two.path(), "n2"));
    let a = app("a");
    fabric.deploy(&one, "a", "1.0.0").await;
    meet(&one, &two).await;
    fabric.end(&one, "a").await;
    for number in 1..5 {
        fabric.deploy_at(&two, "a", &format!("1.{number}.0"), CENTURY_US).await;
    }
    meet(&one, &two).await;
    assert!(two.now().intent.ended.contains(&a) && version(&two, &a).is_none());
    let history = two.history(&a);
    assert!(history.holds.unwrap().edit.ends && history.lost.len() == 1);
    fabric.deploy(&two, "a", "3.0.0").await;
    meet(&one, &two).await;
    assert_eq!(version(&one, &a).as_deref(), Some("3.0.0"));
    assert_eq!(one.history(&a).holds.unwrap().edit.incarnation, 2);
}

#[tokio::test]
async fn an_edit_that_does_not_follow_what_holds_is_refused_where_it_is_made() {
    let fabric = Fabric::new();
    let folder = tempfile::tempdir().unwrap();
    let store = fabric.store(folder.path(), "n1");
    let a = app("a");
    let early = fabric.bundle(&store, "a", "1.0.0", 1);
    fabric.deploy(&store, "a", "1.1.0").await;
    let refused = store.deploy(a.clone(), early, placement(&a), Composition::new()).await.unwrap_err();
    assert!(matches!(refused, EditError::Overtaken { .. }), "{refused}");
    // One that was signed by an earlier version has no place among the others.
    let old = signed(&fabric.key, "a", "1.2.0");
    let refused = store.deploy(a.clone(), old, placement(&a), Composition::new()).await.unwrap_err().to_string();
    assert!(refused.contains("which edit"), "{refused}");
    assert_eq!(version(&store, &a).as_deref(), Some("1.1.0"));
}

/// A record of the first form, as another node would have sent it.
fn stamped(bundle: Option<AppBundle>, app: &AppId, physical_us: u64) -> String {
    let wanted = bundle.map(|bundle| Wanted { bundle, placement: placement(app), composition: Composition::new() });
    let stamp = serde_json::json!({ "time": Hlc { physical_us, logical: 0 }, "node": "n2" });
    serde_json::json!({ "app": app, "stamp": stamp, "wanted": wanted }).to_string()
}

#[tokio::test]
async fn what_the_tenant_has_not_signed_is_neither_deployed_nor_learned() {
    let (fabric, other) = (Fabric::new(), Fabric::new());
    let folder = tempfile::tempdir().unwrap();
    let store = fabric.store(folder.path(), "n1");
    let (a, b) = (app("a"), app("b"));
    let good = fabric.bundle(&store, "a", "1.0.0", 1);
    let mut altered = good.clone();
    altered.artifacts.insert("f".to_owned(), "1".repeat(64));
    // A node's certificate is of this fabric, and its key no tenant's.
    let node = fabric.root.identity(&NodeId::new("n9").unwrap(), &[]).unwrap();
    let stolen = TenantKey { certificate_pem: node.certificate_pem, key_pem: node.key_pem };
    let mut forged = good.clone();
    forged.signature = forged.signature.map(|signature| {
        let certificate = stolen.certificate_pem.clone();
        crate::admin::types::BundleSignature { certificate, ..signature }
    });
    let unsigned = AppBundle { signature: None, ..good.clone() };
    let deployment = |bundle: AppBundle, app: &AppId| {
        let wanted = Wanted { bundle, placement: placement(app), composition: Composition::new() };
        record::deployment(app.clone(), wanted).unwrap().says.text.clone()
    };
    for bundle in [unsigned, other.bundle(&store, "a", "1.0.0", 1), altered, forged] {
        store.deploy(a.clone(), bundle.clone(), placement(&a), Composition::new()).await.unwrap_err();
        // What is good beside it is taken all the same, also beside what cannot be read.
        let beside = deployment(fabric.bundle(&store, "b", "1.0.0", 1), &b);
        let unread = deployment(bundle.clone(), &a).replace("\"format\":2", "\"format\":9");
        let records = vec![deployment(bundle, &a), unread, beside];
        store.learn(Exchange { records, ..Exchange::default() }).await.unwrap_err();
        assert_eq!((version(&store, &a), version(&store, &b).as_deref()), (None, Some("1.0.0")));
    }
    let records = vec![deployment(good, &a)];
    store.learn(Exchange { records, ..Exchange::default() }).await.unwrap();
    assert_eq!(version(&store, &a).as_deref(), Some("1.0.0"));
    // Nor does an end that nobody signed end it, in any form.
    let edit = store.history(&a).next(true, 1, "thief".to_owned());
    let unsigned = record::end(a.clone(), AppEnd { edit, signature: None }).unwrap().says.text.clone();
    let records = vec![unsigned, stamped(None, &a, u64::MAX)];
    store.learn(Exchange { records, ..Exchange::default() }).await.unwrap();
    assert_eq!(version(&store, &a).as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn an_older_directory_keeps_its_unsigned_apps_and_hands_them_to_nobody() {
    let fabric = Fabric::new();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = app("a");
    let older = fabric.older_store(one.path(), "n1", true);
    // As the older program wrote it.
    older.take(vec![record::read(&stamped(Some(unsigned("a", "1.0.0")), &a, 5)).unwrap()]).await.unwrap();
    drop(older);
    let older = fabric.older_store(one.path(), "n1", true);
    assert_eq!(version(&older, &a).as_deref(), Some("1.0.0"));
    let newer = fabric.older_store(two.path(), "n2", true);
    newer.learn(older.exchange(Exchange::default()).await.unwrap()).await.unwrap();
    assert_eq!(version(&newer, &a), None);
    // Deployed again, it is signed and goes everywhere.
    fabric.deploy(&older, "a", "1.0.1").await;
    newer.learn(older.exchange(Exchange::default()).await.unwrap()).await.unwrap();
    assert_eq!(version(&newer, &a).as_deref(), Some("1.0.1"));
}

/// Of the first form the latest holds, among themselves; any edit is stronger, whatever the stamp.
#[tokio::test]
async fn records_of_the_first_form_give_way_to_later_ones_and_to_edits() {
    let fabric = Fabric::new();
    let folder = tempfile::tempdir().unwrap();
    let store = fabric.store(folder.path(), "n1");
    let a = app("a");
    let old = |version, time| record::read(&stamped(Some(signed(&fabric.key, "a", version)), &a, time)).unwrap();
    store.take(vec![old("1.0.0", 5)]).await.unwrap();
    store.take(vec![record::read(&stamped(None, &a, 6)).unwrap()]).await.unwrap();
    store.take(vec![old("1.1.0", CENTURY_US), old("1.0.1", 7)]).await.unwrap();
    assert_eq!(version(&store, &a).as_deref(), Some("1.1.0"));
    fabric.deploy(&store, "a", "2.0.0").await;
    store.take(vec![old("1.2.0", u64::MAX)]).await.unwrap();
    assert_eq!(version(&store, &a).as_deref(), Some("2.0.0"));
    assert_eq!(store.history(&a).holds.unwrap().edit.incarnation, 1);
}

#[tokio::test]
async fn what_was_altered_on_the_disk_is_not_run() {
    let fabric = Fabric::new();
    let folder = tempfile::tempdir().unwrap();
    let a = app("a");
    let store = fabric.store(folder.path(), "n1");
    let mut altered = fabric.bundle(&store, "a", "1.0.0", 1);
    altered.manifest.push_str("# more\n");
    let wanted = Wanted { bundle: altered, placement: placement(&a), composition: Composition::new() };
    store.take(vec![record::deployment(a.clone(), wanted).unwrap()]).await.unwrap();
    drop(store);
    assert_eq!(version(&fabric.store(folder.path(), "n1"), &a), None);
}

/// What earlier versions wrote stays readable, and an edit keeps the id that others know it by.
#[test]
fn records_of_all_forms_are_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/intent");
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    let blessed = std::env::var_os("LITTORAL_BLESS").is_some();
    if blessed && read("edit-v2.json").is_err() {
        let fabric = Fabric::new();
        let a = app("a");
        let edit = Edit::first(1, "ann@hall-7".to_owned());
        let edit = edit.next(EditId([7; 32]), &[EditId([8; 32])], false, 2, "bob@cloud".to_owned());
        let mut bundle = AppBundle { edit: Some(edit.clone()), ..unsigned("a", "1.0.0") };
        bundle.signature = Some(sign(&bundle, &fabric.key).unwrap());
        let wanted = Wanted { bundle, placement: placement(&a), composition: Composition::new() };
        let edited = record::deployment(a.clone(), wanted).unwrap();
        let ends = edit.next(edited.id, &[], true, 3, "cid@cloud".to_owned());
        let signature = Some(sign_end(&a.app, &ends, &fabric.key).unwrap());
        let ended = record::end(a.clone(), AppEnd { edit: ends, signature }).unwrap();
        let first = record::read(&stamped(Some(signed(&fabric.key, "a", "1.0.0")), &a, 5)).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("root.crt"), fabric.root.certificate_pem()).unwrap();
        for (name, known) in [("stamp-v1.json", &first), ("edit-v2.json", &edited), ("end-v2.json", &ended)] {
            std::fs::write(folder.join(name), &known.says.text).unwrap();
            std::fs::write(folder.join(name).with_extension("id"), known.id.to_string()).unwrap();
        }
    }
    if blessed && read("revocation-v1.json").is_err() {
        let fabric = Fabric::new();
        let admin = littoral_mesh::admin::AdminCredential::create(&fabric.root).unwrap();
        let revocation = crate::signing::revoke(NodeId::new("n9").unwrap(), "ann".to_owned(), 5, &admin).unwrap();
        std::fs::write(folder.join("revocation-root.crt"), fabric.root.certificate_pem()).unwrap();
        std::fs::write(folder.join("revocation-v1.json"), serde_json::to_string(&revocation).unwrap()).unwrap();
    }
    let revocation = serde_json::from_str(&read("revocation-v1.json").unwrap()).unwrap();
    Verifier::new(read("revocation-root.crt").unwrap(), false).check_revocation(&revocation).unwrap();
    let verifier = Verifier::new(read("root.crt").unwrap(), false);
    for name in ["stamp-v1", "edit-v2", "end-v2"] {
        let known = record::read(&read(&format!("{name}.json")).unwrap()).unwrap();
        assert_eq!(known.id.to_string(), read(&format!("{name}.id")).unwrap(), "{name}");
        assert!(is_held(&verifier, &known), "{name}");
    }
}

#[tokio::test]
async fn a_revocation_spreads_outlives_a_restart_and_is_an_administrators() {
    let fabric = Fabric::new();
    let (one_dir, two_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (fabric.store(one_dir.path(), "n1"), fabric.store(two_dir.path(), "n2"));
    let admin = littoral_mesh::admin::AdminCredential::create(&fabric.root).unwrap();
    let n9 = NodeId::new("n9").unwrap();
    let good = crate::signing::revoke(n9.clone(), "ann".to_owned(), 5, &admin).unwrap();
    let n8 = crate::admin::types::Revocation { node: NodeId::new("n8").unwrap(), ..good.clone() };
    one.revoke(n8.clone()).await.unwrap_err();
    let forged = Exchange { revoked: vec![serde_json::to_string(&n8).unwrap()], ..Exchange::default() };
    two.learn(forged).await.unwrap_err();
    one.revoke(good).await.unwrap();
    assert_ne!(one.now().hash, two.now().hash);
    two.learn(one.exchange(two.offer()).await.unwrap()).await.unwrap();
    assert_eq!(one.now().hash, two.now().hash);
    drop(two);
    let two = fabric.store(two_dir.path(), "n2");
    assert_eq!(*two.now().revoked, [n9].into());
}
