//! Tests of [`super`].
#![allow(clippy::unwrap_used)]

use super::*;

fn operator(name: &str, version: &str) -> String {
    format!(
        "[[operator]]\nname = \"{name}\"\nversion = \"{version}\"\ndescription = \"d\"\ncomponent = \"{name}.wasm\"\nports.main = [\"*\"]\n\
         [operator.parameters.within]\ntype = \"time\"\ndescription = \"how long\"\n\
         [operator.parameters.columns]\ntype = \"columns\"\nrequired = true\ndescription = \"which\"\n"
    )
}

fn library(folder: &Path, operators: &[(&str, &str)]) {
    std::fs::create_dir_all(folder).unwrap();
    let operators: String = operators.iter().map(|(name, version)| operator(name, version)).collect();
    std::fs::write(folder.join(INDEX), format!("format = 1\n{operators}")).unwrap();
}

/// What is said of an app with this function.
fn said(libraries: &Libraries, function: &str) -> String {
    let text = format!("name = \"a\"\nversion = \"1\"\n[functions.f]\n{function}\n");
    let manifest = littoral_model::manifest::parse("littoral.toml", &text).unwrap();
    match libraries.resolve("littoral.toml", &text, &manifest) {
        Ok(found) => {
            let found = found.values().next().unwrap();
            format!("{} {}", found.operator.version, found.library.folder.file_name().unwrap().display())
        }
        Err(findings) => findings.render(&text),
    }
}

#[test]
fn the_first_library_with_a_fitting_version_has_its_newest() {
    let world = tempfile::tempdir().unwrap();
    let (named, own, app) = (world.path().join("named"), world.path().join("own"), world.path().join("team/apps/app"));
    library(&named, &[("score", "2.0.0")]);
    library(&world.path().join("team/library"), &[("score", "1.2.0"), ("score", "1.10.0"), ("clean", "1.0.0")]);
    library(&own, &[("score", "1.99.0"), ("clean", "1.1.0")]);
    std::fs::create_dir_all(&app).unwrap();
    let libraries = Libraries::read(&[named], &app, &[own, world.path().join("not there")]).unwrap();
    let of = |name: &str| said(&libraries, &format!("component = \"library:{name}\"\nconfig = {{ columns = \"a\" }}"));
    assert_eq!(of("score@2"), "2.0.0 named");
    assert_eq!(of("score@1"), "1.10.0 library");
    assert_eq!(of("score@1.2"), "1.2.0 library");
    assert_eq!(of("clean@1.1"), "1.1.0 own");
    assert_eq!(libraries.all().count(), 6);
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_the_nearest_name() {
    let world = tempfile::tempdir().unwrap();
    library(&world.path().join("library"), &[("anomaly", "1.0.0"), ("nearest", "1.0.0")]);
    let libraries = Libraries::read(&[], world.path(), &[]).unwrap();
    let component = |name: &str, more: &str| said(&libraries, &format!("component = \"library:{name}\"\n{more}"));
    let fine = "config = { columns = \"a, b\", within = \"5min\" }";
    assert_eq!(component("anomaly@1", fine), "1.0.0 library");
    for (name, config, said) in [
        (
            "anomly@1",
            fine,
            ["no library has an operator `library:anomly@1`", "littoral.toml:4:13", "did you mean `anomaly`?"],
        ),
        ("anomaly@2", fine, ["no library has", "a version that begins one of 1.0.0", "unknown-name"]),
        (
            "anomaly@1",
            "config = { columns = \"a\", witin = \"1s\" }",
            ["has no parameter `witin`", ":5:", "did you mean `within`?"],
        ),
        (
            "anomaly@1",
            "config = { columns = \"a\", within = \"5\" }",
            ["`within` of operator anomaly", ":5:", "expected a time"],
        ),
        ("anomaly@1", "", ["needs `columns` in `config`", ":3:", "columns: which"]),
    ] {
        let told = component(name, config);
        assert!(said.iter().all(|part| told.contains(part)), "{name} {config}:\n{told}");
    }
    assert_eq!(component("anomaly@1", "config = { columns = \"secret:columns\" }"), "1.0.0 library");
    let none = said(&Libraries::default(), "component = \"library:anomaly@1\"");
    assert!(none.contains(Libraries::HINT), "{none}");
}

#[test]
fn a_library_that_is_named_and_not_there_is_an_error() {
    let world = tempfile::tempdir().unwrap();
    let error = Libraries::read(&[world.path().to_owned()], world.path(), &[]).unwrap_err();
    assert!(error.to_string().contains("which LITTORAL_LIBRARY names"), "{error}");
}

#[test]
fn a_library_above_an_app_that_is_another_users_is_not_trusted() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = tempfile::tempdir().unwrap();
    library(&world.path().join("library"), &[("anomaly", "1.0.0")]);
    let app = world.path().join("app");
    std::fs::create_dir(&app).unwrap();
    let folder = world.path().join("library");
    let give = |path: &Path| std::os::unix::fs::chown(path, Some(4_242), None).unwrap();
    // Who owns the folder has a say in what is built there, whosever the index is.
    for part in [folder.join(INDEX), folder] {
        give(&part);
        let error = Libraries::read(&[], &app, &[]).unwrap_err();
        assert!(error.to_string().contains("belongs to another user"), "{error}");
        std::os::unix::fs::chown(&part, Some(0), None).unwrap();
    }
    give(&world.path().join("library"));
    // Where the app is that user's, too, nothing is risked.
    give(&app);
    assert_eq!(Libraries::read(&[], &app, &[]).unwrap().all().count(), 1);
}
