//! `littoral new`: makes an app from the embedded template, with the SDK's sources beside it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use littoral_model::id::AppName;

use crate::args::NewArgs;
use crate::failure::{Usage, hinted};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

/// What stands for the app's name in the template.
const NAME_PLACEHOLDER: &str = "{{name}}";
/// Where the SDK's sources go in the new app.
const SDK_FOLDER: &str = "sdk";

/// Makes an app.
pub(super) fn run(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&args.path)?,
    };
    let written = write_app(&args.path, &name)?;
    let path = args.path.display();
    crate::output::print(&format!(
        "made {name} in {path} ({written} files)\n\nrun it on this machine:\n  littoral dev {path}\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn name_of(path: &Path) -> anyhow::Result<AppName> {
    let folder = std::path::absolute(path)?;
    let last = folder.file_name().unwrap_or_default().to_string_lossy();
    AppName::new(&*last)
        .map_err(|error| Usage::new(error.to_string()).hint("or give the app's name with --name").into())
}

/// Writes the template and the SDK; answers how many files.
fn write_app(path: &Path, name: &AppName) -> anyhow::Result<usize> {
    if path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || path.is_file() {
        return Err(hinted(
            format!("{} exists and is not empty", path.display()),
            "choose another folder; nothing is overwritten",
        ));
    }
    let template = embedded::TEMPLATE.iter().map(|(file, content)| (path.join(file), named(content, name)));
    let sdk = embedded::SDK.iter().map(|(file, content)| (path.join(SDK_FOLDER).join(file), content.to_vec()));
    let mut written = 0;
    for (file, content) in template.chain(sdk) {
        let folder = file.parent().unwrap_or(path);
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        std::fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        written += 1;
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
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_app_has_a_manifest_its_name_and_the_sdk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my-app");
        let written = write_app(&path, &AppName::new("my-app").unwrap()).unwrap();
        assert_eq!(written, embedded::TEMPLATE.len() + embedded::SDK.len());
        let manifest = std::fs::read_to_string(path.join("littoral.toml")).unwrap();
        assert!(manifest.contains("name = \"my-app\""), "{manifest}");
        assert!(path.join("sdk/Cargo.toml").is_file());
        assert!(path.join("sdk/src/lib.rs").is_file());
        for (file, _) in embedded::TEMPLATE {
            let content = std::fs::read(path.join(file)).unwrap();
            let left = content.windows(NAME_PLACEHOLDER.len()).any(|part| part == NAME_PLACEHOLDER.as_bytes());
            assert!(!left, "a placeholder is left in {file}");
        }
        for left_behind in ["target", "sdk/target"] {
            assert!(!path.join(left_behind).exists(), "{left_behind}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine"), "x").unwrap();
        let error = write_app(folder.path(), &AppName::new("my-app").unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("exists and is not empty"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_is_no_name_asks_for_one() {
        let error = name_of(Path::new("/x/My App")).unwrap_err();
        assert!(error.is::<Usage>(), "{error}");
    }
}
