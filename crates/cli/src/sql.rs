//! The files `*.sql` beside a manifest: what is deployed is one text, the manifest with their statements at its end.

use std::path::Path;

use anyhow::Context as _;
use littoral_model::manifest::{MANIFEST_BYTES_MAX, Manifest};
use littoral_sql::{Program, expand};

use crate::args::Format;
use crate::failure::{InvalidManifest, Usage};

/// The ending of files with statements.
const ENDING: &str = "sql";

/// The manifest with a table `[sql.NAME]` for each file `NAME.sql` of the folder, in order of their names.
///
/// # Errors
/// When a file cannot be read, has a name that cannot stand in a manifest, or the whole is too large.
pub(crate) fn with_files(text: &str, folder: &Path) -> anyhow::Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) && path.is_file() {
            names.push(path);
        }
    }
    names.sort();
    // A manifest that is no TOML is told of when it is read.
    let written = toml::from_str::<toml::Table>(text).unwrap_or_default();
    let in_manifest = written.get("sql").and_then(toml::Value::as_table);
    let mut whole = text.to_owned();
    for path in names {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        littoral_model::id::check_name(&stem).map_err(|error| {
            Usage::new(format!("{}: {error}", path.display())).hint("rename the file; its name stands in the manifest")
        })?;
        if in_manifest.is_some_and(|sql| sql.contains_key(&*stem)) {
            return Err(Usage::new(format!(
                "the manifest has statements [sql.{stem}], and there is {}",
                path.display()
            ))
            .hint("rename one of both")
            .into());
        }
        let size = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        if size + whole.len() as u64 > MANIFEST_BYTES_MAX as u64 {
            return Err(Usage::new(format!(
                "the manifest and its statements have more than 1 MiB with {}",
                path.display()
            ))
            .into());
        }
        let statements = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let quoted = toml::Value::String(statements).to_string();
        whole.push_str(&format!("\n[sql.{stem}]\ntext = {quoted}\n"));
    }
    Ok(whole)
}

/// Adds the streams and flows of the statements to the manifest; what is wrong with them becomes an [`InvalidManifest`].
///
/// # Errors
/// When something is wrong with them.
pub(crate) fn expanded(manifest: &mut Manifest, format: Format) -> anyhow::Result<Program> {
    expand(manifest).map_err(|mistakes| {
        let rendered = match format {
            Format::Json => serde_json::to_string_pretty(&mistakes.findings).unwrap_or_else(|error| error.to_string()),
            _ => mistakes.render(),
        };
        InvalidManifest { rendered }.into()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_become_tables_of_the_manifest_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let statements = "-- \"quoted\" \\ and '''more'''\nCREATE STREAM a (t text);\n";
        std::fs::write(folder.path().join("b.sql"), statements).unwrap();
        std::fs::write(folder.path().join("a.sql"), "CREATE FLOW f AS SELECT t FROM a WHERE t LIKE 'x\\_%'").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "CREATE").unwrap();
        let text = with_files("name = \"app\"\nversion = \"1\"", folder.path()).unwrap();
        let mut manifest = littoral_model::manifest::parse("littoral.toml", &text).unwrap();
        let names: Vec<&str> = manifest.sql.keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(manifest.sql.values().last().unwrap().text, statements);
        let program = expanded(&mut manifest, Format::Table).unwrap();
        assert_eq!(program.flows.len(), 1);
        assert!(with_files("[sql.b]\ntext = \"\"", folder.path()).is_err());
        std::fs::write(folder.path().join("No_Name.sql"), "").unwrap();
        assert!(with_files("", folder.path()).is_err());
    }
}
