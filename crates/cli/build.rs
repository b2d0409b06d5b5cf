//! Embeds the templates of `littoral new` and what goes beside them, so that the one binary works offline and alone.
//!
//! Writes a module with a table of paths and contents for each folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What is never part of a template: what building leaves behind.
const LEFT_BEHIND: [&str; 6] = ["target", "build", ".littoral", ".venv", "node_modules", "__pycache__"];
/// What is embedded: the table's name, and the folder in the repository.
const EMBEDDED: [(&str, &str); 6] = [
    ("RUST", "templates/rust"),
    ("SDK", "sdk/rust"),
    ("PYTHON", "templates/python"),
    ("JS", "templates/js"),
    ("C", "templates/c"),
    ("WIT", "templates/wit"),
];

fn main() -> io::Result<()> {
    let variable = |name| env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(name));
    let root = variable("CARGO_MANIFEST_DIR")?.join("../..");
    let mut module = fs::File::create(variable("OUT_DIR")?.join("embedded.rs"))?;
    for (name, folder) in EMBEDDED {
        let folder = root.join(folder);
        println!("cargo:rerun-if-changed={}", folder.display());
        let mut files = Vec::new();
        collect(&folder, &folder, &mut files)?;
        files.sort();
        writeln!(module, "pub(super) const {name}: &[(&str, &[u8])] = &[")?;
        for (relative, path) in files {
            writeln!(module, "    ({relative:?}, include_bytes!({:?})),", path.canonicalize()?)?;
        }
        writeln!(module, "];")?;
    }
    Ok(())
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !LEFT_BEHIND.contains(&name.as_str()) {
            collect(root, &path, files)?;
        } else if path.is_file() && !name.ends_with(".wasm") {
            let relative = path.strip_prefix(root).map_err(io::Error::other)?;
            files.push((relative.to_string_lossy().into_owned(), path));
        }
    }
    Ok(())
}
