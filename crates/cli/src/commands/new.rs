//! `littoral new`: makes an app from an embedded template, with what its language needs beside it: the SDK's sources, or
//! the interfaces of an HTTP function.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use littoral_model::id::AppName;

use crate::args::{Language, NewArgs};
use crate::commands::tools::{INSTALL_CLANG, INSTALL_NODE_MODULES, INSTALL_PYTHON};
use crate::failure::{Usage, hinted};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

/// What stands for the app's name in a template.
const NAME_PLACEHOLDER: &str = "{{name}}";

/// Files with their paths in a folder.
type Files = &'static [(&'static str, &'static [u8])];

/// What an app in a language is made of: files, and the folder of the app that they go into.
fn parts(language: Language) -> [(&'static str, Files); 2] {
    match language {
        Language::Rust => [("", embedded::RUST), ("sdk", embedded::SDK)],
        Language::Python => [("", embedded::PYTHON), ("wit", embedded::WIT)],
        Language::Js => [("", embedded::JS), ("wit", embedded::WIT)],
        Language::C => [("", embedded::C), ("wit", embedded::WIT)],
    }
}

/// What is to be run once, in the app's folder, before it builds.
fn preparation(language: Language) -> &'static [&'static str] {
    match language {
        // The toolchain is all that it takes; where the target is missing, a build says so.
        Language::Rust => &[],
        Language::Python => &[INSTALL_PYTHON],
        Language::Js => &[INSTALL_NODE_MODULES],
        Language::C => &[INSTALL_CLANG, INSTALL_NODE_MODULES],
    }
}

/// Makes an app.
pub(super) fn run(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&args.path)?,
    };
    let written = write_app(&args.path, &name, args.lang)?;
    let path = args.path.display();
    let mut text = format!("made {name} in {path} ({written} files)\n");
    let preparation = preparation(args.lang);
    if !preparation.is_empty() {
        text.push_str("\ninstall what builds it, once, in its folder:\n");
        text.extend(preparation.iter().map(|command| format!("  {command}\n")));
    }
    text.push_str(&format!("\nrun it on this machine:\n  littoral dev {path}\n"));
    crate::output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn name_of(path: &Path) -> anyhow::Result<AppName> {
    let folder = std::path::absolute(path)?;
    let last = folder.file_name().unwrap_or_default().to_string_lossy();
    AppName::new(&*last)
        .map_err(|error| Usage::new(error.to_string()).hint("or give the app's name with --name").into())
}

/// Writes an app's files; answers how many.
fn write_app(path: &Path, name: &AppName, language: Language) -> anyhow::Result<usize> {
    if path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || path.is_file() {
        return Err(hinted(
            format!("{} exists and is not empty", path.display()),
            "choose another folder; nothing is overwritten",
        ));
    }
    let mut written = 0;
    for (part, files) in parts(language) {
        for (file, content) in files {
            let file = path.join(part).join(file);
            let folder = file.parent().unwrap_or(path);
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            std::fs::write(&file, named(content, name)).with_context(|| format!("cannot write {}", file.display()))?;
            written += 1;
        }
    }
    Ok(written)
}

/// The content with the app's name filled in; what is not text stays as it is.
fn named(content: &[u8], name: &AppName) -> Vec<u8> {
    match std::str::from_utf8(content) {
        Ok(text) => text.replace(NAME_PLACEHOLDER, name.as_str()).into_bytes(),
        Err(_) => content.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    const LANGUAGES: [Language; 4] = [Language::Rust, Language::Python, Language::Js, Language::C];

    #[test]
    fn an_app_has_a_manifest_its_name_and_what_its_language_needs() {
        let folder = tempfile::tempdir().unwrap();
        for language in LANGUAGES {
            let path = folder.path().join(format!("{language:?}"));
            let written = write_app(&path, &AppName::new("my-app").unwrap(), language).unwrap();
            let files =
                || parts(language).into_iter().flat_map(|(part, files)| files.iter().map(move |file| (part, file)));
            assert_eq!(written, files().count());
            let manifest = std::fs::read_to_string(path.join("littoral.toml")).unwrap();
            assert!(manifest.contains("name = \"my-app\""), "{manifest}");
            assert!(path.join("README.md").is_file() && path.join(".gitignore").is_file());
            for (part, (file, _)) in files() {
                let content = std::fs::read(path.join(part).join(file)).unwrap();
                let left = content.windows(NAME_PLACEHOLDER.len()).any(|part| part == NAME_PLACEHOLDER.as_bytes());
                assert!(!left, "a placeholder is left in {file}");
            }
            for left_behind in ["target", "sdk/target", ".venv", "node_modules", "build"] {
                assert!(!path.join(left_behind).exists(), "{left_behind}");
            }
            let needed = if language == Language::Rust { "sdk/src/lib.rs" } else { "wit/deps/http.wit" };
            assert!(path.join(needed).is_file(), "{needed}");
        }
    }

    /// What tests build with is installed once for all of them.
    #[test]
    fn javascript_and_c_pin_the_same_tools() {
        let dependency = |files: Files| {
            let (_, content) = files.iter().find(|(file, _)| *file == "package.json").unwrap();
            let package: serde_json::Value = serde_json::from_slice(content).unwrap();
            package["devDependencies"]["@bytecodealliance/jco"].as_str().unwrap().to_owned()
        };
        assert_eq!(dependency(embedded::JS), dependency(embedded::C));
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine"), "x").unwrap();
        let error = write_app(folder.path(), &AppName::new("my-app").unwrap(), Language::Rust).unwrap_err();
        assert!(error.to_string().ends_with("exists and is not empty"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_no_name_asks_for_one() {
        let error = name_of(Path::new("/x/My App")).unwrap_err();
        assert!(error.is::<Usage>(), "{error}");
    }
}
