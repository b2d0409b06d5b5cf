//! What `littoral new --lang` makes in languages other than Rust: it says what is missing, passes its own tests, builds
//! with the language's own tools, and answers HTTP requests on a node.
//!
//! `scripts/setup-languages` (`make test` runs it) has put the tools into a folder; nothing is fetched here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::*;

/// An interpreter is fifteen megabytes of code to compile, by a compiler that is not optimised, next to other tests.
const COMPILED_WITHIN: Duration = Duration::from_secs(600);

/// What differs between the languages.
struct Template {
    /// What `--lang` takes.
    language: &'static str,
    /// The folder in the app that its tools are in, and the one that they were installed into.
    tools: (&'static str, &'static str),
    /// What is said when that folder is missing.
    install: &'static str,
    /// How its own tests are run, where it has some.
    tests: Option<[&'static str; 3]>,
    /// A body, and what is answered.
    greets: (&'static str, &'static str),
    /// A body that is refused, with which status, and why.
    refuses: (&'static str, u16, &'static str),
}

fn installed(folder: &str) -> PathBuf {
    let tools = std::env::var_os("LITTORAL_GUEST_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        cache.unwrap_or_else(|| std::env::home_dir().unwrap().join(".cache")).join("littoral/tools")
    });
    let folder = tools.join(folder);
    assert!(folder.is_dir(), "{} is missing: run scripts/setup-languages", folder.display());
    folder
}

fn build(world: &World, app: &Path) -> std::process::Output {
    // The home folder is empty here: npm must not look for a newer npm each time.
    world.littoral().env("npm_config_update_notifier", "false").arg("build").arg(app).output().unwrap()
}

fn builds_and_answers(template: &Template) {
    let world = World::new();
    let made = world.run(&["new", "my-app", "--lang", template.language]);
    assert!(made.status.success(), "{}", errors(&made));
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(said.contains(&format!("  {}\n", template.install)), "{said}");
    let app = world.path("my-app");

    let failed = build(&world, &app);
    assert_eq!(failed.status.code(), Some(1));
    let wanted = format!("help: run this in {}: {}\n", app.display(), template.install);
    assert!(errors(&failed).ends_with(&wanted), "{}", errors(&failed));

    let (place, folder) = template.tools;
    std::os::unix::fs::symlink(installed(folder).join(place), app.join(place)).unwrap();
    if let Some([command, arguments @ ..]) = template.tests {
        let tested = Command::new(command).args(arguments).current_dir(&app).output().unwrap();
        assert!(tested.status.success(), "{}", errors(&tested));
    }
    let built = build(&world, &app);
    assert!(built.status.success(), "{}", errors(&built));

    // That the function is given its configuration shows by a greeting which is not the default.
    let manifest = std::fs::read_to_string(app.join("littoral.toml")).unwrap();
    std::fs::write(app.join("littoral.toml"), manifest.replace("\"Hello\"", "\"Good day\"")).unwrap();
    let node = world.first("cloud-1");
    node.tell(&world, &["deploy", app.to_str().unwrap(), "--no-build", "--no-wait"]);
    let (body, answer) = template.greets;
    eventually_within(COMPILED_WITHIN, "the function answers", || {
        let said = node.post("/my-app/hello", body);
        said.starts_with("HTTP/1.1 200") && said.contains(answer)
    });
    assert!(node.tell(&world, &["call", "my-app/hello", "--data", body]).contains(answer));
    assert!(node.get("/my-app/hello").contains("Good day, world!"));
    let (body, status, why) = template.refuses;
    let said = node.post("/my-app/hello", body);
    assert!(said.starts_with(&format!("HTTP/1.1 {status}")) && said.contains(why), "{said}");
    node.tell(&world, &["delete", "my-app"]);
}

#[test]
fn an_app_in_python_builds_and_answers() {
    builds_and_answers(&Template {
        language: "python",
        tools: (".venv", "python"),
        install: "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
        tests: Some(["python3", "-B", "-munittest"]),
        greets: (r#"{"name":"Ada"}"#, r#"{"greeting": "Good day, Ada!"}"#),
        refuses: ("{", 400, "the body is not JSON"),
    });
}

#[test]
fn an_app_in_javascript_builds_and_answers() {
    builds_and_answers(&Template {
        language: "js",
        tools: ("node_modules", "js"),
        install: "npm ci",
        tests: Some(["npm", "--silent", "test"]),
        greets: (r#"{"name":"Ada"}"#, r#"{"greeting":"Good day, Ada!"}"#),
        refuses: ("{", 400, "the body is not JSON"),
    });
}

#[test]
fn an_app_in_c_builds_and_answers() {
    let long = Box::leak("x".repeat(300).into_boxed_str());
    builds_and_answers(&Template {
        language: "c",
        // jco is the same as JavaScript's.
        tools: ("node_modules", "js"),
        install: "npm ci",
        tests: None,
        greets: ("Ada", "Good day, Ada!"),
        refuses: (long, 413, "no more than 256 bytes"),
    });
}
