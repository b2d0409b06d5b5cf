//! The interface is one: what guests are built with is what hosts offer.

#[test]
fn the_sdk_has_the_same_interfaces() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pairs = vec![(root.join("wit/flow/flow.wit"), root.join("sdk/rust/wit/flow.wit"))];
    for folder in ["fabric", "wasi/config", "wasi/keyvalue", "wasi/logging"] {
        for file in std::fs::read_dir(root.join("wit").join(folder)).unwrap() {
            let name = file.unwrap().file_name();
            pairs.push((root.join("wit").join(folder).join(&name), root.join("sdk/rust/wit").join(folder).join(&name)));
        }
    }
    assert!(pairs.len() >= 9, "{pairs:?}");
    for (ours, theirs) in pairs {
        let same = std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap();
        assert!(
            same,
            "copy {} to {}: the SDK carries a copy so that it can be used alone",
            ours.display(),
            theirs.display()
        );
    }
}
