//! The interface is one: what guests are built with is what hosts offer.

#[test]
fn the_sdk_has_the_same_interface() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (ours, theirs) = (root.join("wit/flow/flow.wit"), root.join("sdk/rust/wit/flow.wit"));
    let same = std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap();
    assert!(
        same,
        "copy {} to {}: the SDK carries a copy so that it can be used alone",
        ours.display(),
        theirs.display()
    );
}
