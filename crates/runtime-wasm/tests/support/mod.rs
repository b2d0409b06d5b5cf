//! Builds the components that tests run: the SDK's examples, and examples of published crates. Used by the tests of
//! several crates by path.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// An example of `sdk/rust`, as a component.
pub fn sdk_example(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let manifest = repository().join("sdk/rust/Cargo.toml");
        build(&manifest, &["--examples"], "sdk-examples")
    });
    read(folder, name)
}

/// An example of `tests/guests`, as a component.
pub fn test_guest(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let manifest = repository().join("tests/guests/Cargo.toml");
        build(&manifest, &["--examples"], "test-guests")
    });
    read(folder, name)
}

/// A member of a workspace of this repository, as `examples/parade` or `library`, as a component.
pub fn workspace_component(workspace: &str, member: &str) -> Vec<u8> {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap();
    let folder = built.entry(workspace.to_owned()).or_insert_with(|| {
        let folder = repository().join(workspace);
        let guests = folder.join("guests/Cargo.toml");
        let manifest = if guests.exists() { guests } else { folder.join("Cargo.toml") };
        build(&manifest, &[], &workspace.replace('/', "-")).parent().expect("it is in a folder").to_owned()
    });
    read(folder, member)
}

/// An example of the crate `wasip3` from crates.io: components of WASI 0.3 that nobody here wrote.
pub fn wasip3_example(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let copy = scratch().join("wasip3-source");
        copy_folder(&published_source("wasip3"), &copy);
        build(&copy.join("Cargo.toml"), &["--examples", "--all-features"], "wasip3-examples")
    });
    read(folder, name)
}

/// An example of the crate `wstd` from crates.io, which nobody here wrote, built from its unmodified source with its
/// own lock file.
pub fn wstd_example(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let source = published_source("wstd");
        // Cargo writes beside the manifest, and the registry's folder is not ours to write to.
        let copy = scratch().join("wstd-source");
        copy_folder(&source, &copy);
        build(
            &copy.join("Cargo.toml"),
            &["--example", "http_server", "--example", "http_server_proxy"],
            "wstd-examples",
        )
    });
    read(folder, name)
}

fn build(manifest: &Path, what: &[&str], name: &str) -> PathBuf {
    let target = scratch().join(name);
    let mut cargo = cargo();
    cargo.args(["build", "--locked", "--release", "--quiet", "--target", "wasm32-wasip2"]).args(what);
    cargo.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&target);
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "building {} failed; is the target wasm32-wasip2 installed?", manifest.display());
    target.join("wasm32-wasip2/release/examples")
}

fn published_source(name: &str) -> PathBuf {
    let mut cargo = cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]);
    let output = cargo.arg(repository().join("tests/foreign/Cargo.toml")).output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let package = packages.iter().find(|package| package["name"] == name).expect("the package is there");
    let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
    manifest.parent().expect("a manifest is in a folder").to_owned()
}

/// Cargo, without what the Cargo that runs this test has set for its own build.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    cargo
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if std::fs::read(&target).ok() != Some(std::fs::read(entry.path()).unwrap()) {
            // Left alone where it is the same, so that Cargo need not build it again.
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    let path = folder.join(format!("{}.wasm", name.replace('-', "_")));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folder of this repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
