//! Tests of [`super`]. What is wrong in which manifest is the manifest's own tests' business.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::failure;

/// An app's folder with this manifest.
fn folder(manifest: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(MANIFEST), manifest).unwrap();
    folder
}

const GOOD: &str = "\
name = \"my-app\"
version = \"0.1.0\"

[functions.hello]
component = \"hello.wasm\"
build = \"cp source.wasm hello.wasm\"
";

#[test]
fn no_manifest_says_how_to_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let error = App::load(folder.path(), Format::Table).unwrap_err();
    let (text, status) = failure::render(&error);
    assert!(text.contains("there is no") && text.contains("littoral new"), "{text}");
    assert_eq!(format!("{status:?}"), format!("{:?}", std::process::ExitCode::from(failure::EXIT_USAGE)));
}

#[test]
fn a_bad_manifest_is_status_2_and_points_at_its_line() {
    let folder = folder("name = \"my-app\"\nversion = \"0.1.0\"\ncolour = 1\n");
    let (text, status) = failure::render(&App::load(folder.path(), Format::Table).unwrap_err());
    assert!(text.contains("littoral.toml:3") && text.contains("colour"), "{text}");
    assert_eq!(format!("{status:?}"), format!("{:?}", std::process::ExitCode::from(failure::EXIT_USAGE)));
    let (text, _) = failure::render(&App::load(folder.path(), Format::Json).unwrap_err());
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
}

#[test]
fn an_app_knows_its_functions_from_the_folder_or_the_manifest() {
    let folder = folder(GOOD);
    let expected = AppFunction {
        name: "hello".to_owned(),
        component: Component::File(folder.path().join("hello.wasm")),
        build: Some(Build { command: "cp source.wasm hello.wasm".to_owned(), folder: folder.path().to_owned() }),
    };
    for path in [folder.path().to_owned(), folder.path().join(MANIFEST)] {
        let app = App::load(&path, Format::Table).unwrap();
        assert_eq!(app.functions, std::slice::from_ref(&expected));
        assert_eq!(app.folder, folder.path());
    }
}

#[tokio::test]
async fn building_makes_what_the_manifest_names() {
    let folder = folder(GOOD);
    let app = App::load(folder.path(), Format::Table).unwrap();
    assert!(app.bundle_of_what_is_there().unwrap().artifacts.is_empty(), "nothing is built yet");
    let error = crate::commands::build_app(&app).await.unwrap_err();
    assert!(error.to_string().starts_with("building hello failed"), "{error}");
    std::fs::write(folder.path().join("source.wasm"), "component").unwrap();
    crate::commands::build_app(&app).await.unwrap();
    let bundle = app.bundle_of_what_is_there().unwrap();
    assert_eq!(bundle.artifacts.get("hello"), Some(&artifact_digest(b"component")));
    assert_eq!(bundle.manifest, GOOD);
}

#[test]
fn a_component_that_is_missing_says_how_to_build_it() {
    let folder = folder(GOOD);
    let app = App::load(folder.path(), Format::Table).unwrap();
    let error = app.functions.first().unwrap().read(&folder.path().join("hello.wasm")).unwrap_err();
    assert!(failure::render(&error).0.contains("littoral build"), "{error}");
}

#[tokio::test]
async fn a_component_in_a_registry_is_neither_built_nor_looked_for_on_disk() {
    let reference = format!("oci://127.0.0.1:1/a@sha256:{}", "0".repeat(64));
    let text = format!("name = \"a\"\nversion = \"1\"\n[functions.f]\ncomponent = \"{reference}\"\n");
    let folder = folder(&text);
    let app = App::load(folder.path(), Format::Table).unwrap();
    assert_eq!(app.functions.first().unwrap().component, Component::Registry(reference.parse().unwrap()));
    crate::commands::build_app(&app).await.unwrap();
    assert!(app.bundle_of_what_is_there().unwrap().artifacts.is_empty());
}

#[tokio::test]
async fn an_operator_is_built_in_its_library_or_comes_from_a_registry() {
    let reference = format!("oci://127.0.0.1:1/a@sha256:{}", "0".repeat(64));
    let operator = |name: &str, component: &str| {
        format!(
            "[[operator]]\nname = \"{name}\"\nversion = \"1.0.0\"\ndescription = \"d\"\ncomponent = \"{component}\"\nports.main = []\n"
        )
    };
    let index = operator("here", "built/here.wasm") + &operator("there", &reference);
    let functions = "[functions.a]\ncomponent = \"library:here@1\"\n[functions.b]\ncomponent = \"library:there@1\"\n";
    let folder = folder(&format!("name = \"a\"\nversion = \"1\"\n{functions}"));
    let library = folder.path().join("library");
    std::fs::create_dir_all(library.join("built")).unwrap();
    std::fs::write(library.join("library.toml"), format!("format = 1\nbuild = \"cp source built/here.wasm\"\n{index}"))
        .unwrap();
    std::fs::write(library.join("source"), "component").unwrap();
    let app = App::load(folder.path(), Format::Table).unwrap();
    let components: Vec<&Component> = app.functions.iter().map(|function| &function.component).collect();
    let here = Component::File(library.join("built/here.wasm"));
    assert_eq!(components, [&here, &Component::Registry(reference.parse().unwrap())]);
    crate::commands::build_app(&app).await.unwrap();
    let bundle = app.bundle_of_what_is_there().unwrap();
    assert_eq!(bundle.artifacts, BTreeMap::from([("a".to_owned(), artifact_digest(b"component"))]));
}
