//! Bugs that are planted on purpose are found, each by the seed that its patch names.
//!
//! All patches of `tests/planted` are applied to a copy of the sources, which is built once: each bug sleeps until the
//! variable `PLANTED` names it. What the first lines of a patch say is what must come of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// How many seeds are tried for another one when the named one no longer finds a bug.
const OTHERS: u64 = 60;

struct Bug {
    name: String,
    patch: PathBuf,
    invariant: String,
    seed: u64,
}

#[test]
fn each_planted_bug_is_found_by_its_seed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let bugs = bugs(&root.join("tests/planted"));
    assert!(bugs.len() >= 9, "there is a bug for each invariant");
    let copy = tempfile::tempdir().unwrap();
    for part in ["Cargo.toml", "Cargo.lock", "crates", "vendor"] {
        let copied = Command::new("cp").arg("-rp").arg(root.join(part)).arg(copy.path()).status().unwrap();
        assert!(copied.success(), "{part} cannot be copied");
    }
    for bug in &bugs {
        let arguments = ["-p1", "--forward", "--quiet", "--reject-file=-", "--input"];
        let mut patching = Command::new("patch");
        let applied = patching.args(arguments).arg(&bug.patch).current_dir(copy.path()).output().unwrap();
        assert!(
            applied.status.success(),
            "{} no longer applies; plant the same bug in the code as it is now and write the patch anew:\n{}",
            bug.patch.display(),
            text(&applied)
        );
    }
    let program = build(copy.path());
    let failures: Vec<String> = bugs.iter().filter_map(|bug| missed(&program, bug)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn bugs(folder: &Path) -> Vec<Bug> {
    let mut patches: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    patches.sort();
    let bug = |patch: PathBuf| {
        let content = fs::read_to_string(&patch).unwrap();
        let said = |what: &str| content.lines().find_map(|line| line.strip_prefix(what)).unwrap().trim().to_owned();
        let name = patch.file_stem().unwrap().to_string_lossy().into_owned();
        Bug { name, invariant: said("Invariant:"), seed: said("Seed:").parse().unwrap(), patch }
    };
    patches.into_iter().map(bug).collect()
}

/// Builds the program that runs seeds from the copy; what is compiled of others is taken over from this build.
fn build(copy: &Path) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let built = own.ancestors().nth(2).unwrap();
    let target = built.parent().unwrap().join("planted");
    for part in ["deps", "build", ".fingerprint"] {
        link(&built.join(part), &target.join("debug").join(part));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let arguments = ["test", "--locked", "--offline", "--workspace", "--test", "seeds", "--no-run"];
    let building = Command::new(cargo)
        .args(arguments)
        .args(["--message-format=json-render-diagnostics", "--target-dir"])
        .arg(&target)
        .current_dir(copy)
        .output()
        .unwrap();
    assert!(building.status.success(), "the copy with the bugs does not build:\n{}", text(&building));
    let said = String::from_utf8_lossy(&building.stdout).into_owned();
    let executable = said.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "seeds").then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executable.unwrap()
}

/// Links everything that is compiled and not ours: it need not be compiled again, and is not written to.
fn link(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries.map(Result::unwrap) {
        let name = entry.file_name();
        let ours = ["littoral", "seeds", "planted"].iter().any(|word| name.to_string_lossy().contains(word));
        if ours {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            link(&entry.path(), &to.join(&name));
        } else {
            fs::hard_link(entry.path(), to.join(&name)).ok();
        }
    }
}

/// Why a bug was not found as it should be.
fn missed(program: &Path, bug: &Bug) -> Option<String> {
    let finds = |seed: u64, planted: &str| {
        let ran = Command::new(program).args(["--seed", &seed.to_string()]).env("PLANTED", planted).output().unwrap();
        let said = text(&ran);
        (!ran.status.success(), said.contains(&format!("{}:", bug.invariant)), said)
    };
    let (fails, is_named, said) = finds(bug.seed, &bug.name);
    if !(fails && is_named) {
        let others: Vec<u64> = (1..=OTHERS).filter(|seed| finds(*seed, &bug.name).1).take(8).collect();
        let (name, seed, invariant) = (&bug.name, bug.seed, &bug.invariant);
        return Some(format!(
            "{name}: seed {seed} does not find `{invariant}` broken. Of the first {OTHERS}, these do: {others:?}; name \
             one of them in tests/planted/{name}.patch. If none does, the simulator has become blind.\n{said}"
        ));
    }
    // What it finds is the bug, and nothing else.
    let (fails, _, said) = finds(bug.seed, "");
    fails.then(|| format!("{}: seed {} fails without the bug:\n{said}", bug.name, bug.seed))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
