//! What build commands need of the machine, and how it is installed: said when something of it is missing.
//!
//! Littoral installs nothing itself. It looks only after a build has failed, and only for tools that it knows.

use std::ffi::OsStr;
use std::path::Path;

/// Makes the folder's own Python environment, with what its `requirements.txt` names.
pub(super) const INSTALL_PYTHON: &str = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt";
/// Puts what the folder's `package-lock.json` names into its `node_modules`.
pub(super) const INSTALL_NODE_MODULES: &str = "npm ci";
/// The compiler for C, its linker, and what it links with; Debian's names.
pub(super) const INSTALL_CLANG: &str = "apt-get install clang lld make wasi-libc libclang-rt-dev-wasm32";
const INSTALL_WASM_TARGET: &str = "rustup target add wasm32-wasip2";

/// Commands that are found on the PATH, and what to do where one is not.
const COMMANDS: [(&str, &str); 10] = [
    ("cargo", "install Rust from https://rustup.rs, then: rustup target add wasm32-wasip2"),
    ("python3", "apt-get install python3 python3-venv"),
    ("node", INSTALL_NODE),
    ("npm", INSTALL_NODE),
    ("npx", INSTALL_NODE),
    ("make", INSTALL_CLANG),
    ("clang", INSTALL_CLANG),
    ("wasm-ld", INSTALL_CLANG),
    ("componentize-py", "python3 -m venv .venv && .venv/bin/pip install componentize-py"),
    ("jco", "npm install --save-dev @bytecodealliance/jco"),
];
const INSTALL_NODE: &str = "install Node.js 20 or later, with npm, from https://nodejs.org";

/// Where Debian's wasi-libc is; a build that names another sysroot brings its own.
const WASI_LIBC: &str = "/usr/include/wasm32-wasi";
/// What sh exits with when it does not find a command.
const STATUS_NOT_FOUND: i32 = 127;

/// What to do so that a failed build command finds its tools; `None` where none is known to be missing.
///
/// `folder` is where the command was run, `path` what PATH was then, `status` what it exited with.
pub(super) fn missing(folder: &Path, command: &str, path: &OsStr, status: Option<i32>) -> Option<String> {
    let text = with_makefile(folder, command);
    let words = || text.split(|letter: char| letter.is_whitespace() || ";&|()\"'=".contains(letter));
    let uses = |tool: &str| words().any(|word| word == tool);
    let present = |tool: &str| std::env::split_paths(path).any(|place| place.join(tool).is_file());
    let in_folder = |install: &str| format!("run this in {}: {install}", folder.display());

    for (tool, install) in COMMANDS {
        // The compiler calls its linker itself.
        let needed = uses(tool) || (tool == "wasm-ld" && uses("clang"));
        if needed && !present(tool) {
            return Some(format!("`{tool}` is not on the PATH: {install}"));
        }
    }
    if words().any(|word| word.starts_with(".venv/") && !folder.join(word).is_file()) {
        return Some(in_folder(INSTALL_PYTHON));
    }
    let node_modules = uses("npm") || uses("npx") || words().any(|word| word.starts_with("node_modules/"));
    if node_modules && folder.join("package.json").is_file() && !folder.join("node_modules").is_dir() {
        if !present("npm") {
            return Some(format!("`npm` is not on the PATH: {INSTALL_NODE}"));
        }
        let locked = folder.join("package-lock.json").is_file();
        return Some(in_folder(if locked { INSTALL_NODE_MODULES } else { "npm install" }));
    }
    let wasi = uses("clang") && text.contains("wasm32-wasi") && !text.contains("sysroot");
    if wasi && !Path::new(WASI_LIBC).is_dir() {
        return Some(format!("there is no wasi-libc: {INSTALL_CLANG}"));
    }
    if uses("cargo") && uses("wasm32-wasip2") && !wasm_target_installed() {
        return Some(format!("the target is not installed: {INSTALL_WASM_TARGET}"));
    }
    let not_found = status == Some(STATUS_NOT_FOUND);
    not_found.then(|| format!("install the command that was not found, or mend `build` in {}", folder.display()))
}

/// The command, and where it calls make the makefile, too: the tools are named there.
fn with_makefile(folder: &Path, command: &str) -> String {
    let mut text = command.to_owned();
    if command.split_whitespace().any(|word| word == "make") {
        // Without a readable makefile, make has said so.
        text.push('\n');
        text.push_str(&std::fs::read_to_string(folder.join("Makefile")).unwrap_or_default());
    }
    text
}

/// Whether rustup has the target of guests; where there is no rustup, nobody can tell.
fn wasm_target_installed() -> bool {
    let targets = std::process::Command::new("rustup").args(["target", "list", "--installed"]).output();
    targets.map_or(true, |targets| {
        String::from_utf8_lossy(&targets.stdout).lines().any(|target| target == "wasm32-wasip2")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A folder with a `bin` in which these commands are, and what is said there.
    fn said(commands: &[&str], files: &[(&str, &str)], build: &str, status: i32) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        for (file, content) in commands
            .iter()
            .map(|name| (bin.join(name), ""))
            .chain(files.iter().map(|(name, content)| (folder.path().join(name), *content)))
        {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content).unwrap();
        }
        let answer = missing(folder.path(), build, bin.as_os_str(), Some(status))?;
        Some(answer.replace(&folder.path().display().to_string(), "APP"))
    }

    const PYTHON: &str = "mkdir -p build && .venv/bin/componentize-py componentize app";
    const MAKEFILE: (&str, &str) = ("Makefile", "CC := clang\nJCO := node_modules/.bin/jco\n");
    const PACKAGE: (&str, &str) = ("package.json", "{}");

    #[test]
    fn a_folder_without_its_python_environment() {
        let answer = said(&[], &[], PYTHON, 127).unwrap();
        let install = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt";
        assert_eq!(answer, format!("run this in APP: {install}"));
    }

    #[test]
    fn a_folder_without_its_node_modules() {
        let lock = ("package-lock.json", "{}");
        assert_eq!(said(&["npm"], &[PACKAGE, lock], "npm run build", 127).unwrap(), "run this in APP: npm ci");
        assert_eq!(said(&["npm"], &[PACKAGE], "npm run build", 127).unwrap(), "run this in APP: npm install");
    }

    #[test]
    fn a_machine_without_the_command() {
        let answer = said(&[], &[PACKAGE], "npm run build", 127).unwrap();
        assert!(answer.starts_with("`npm` is not on the PATH: install Node.js"), "{answer}");
        assert!(said(&[], &[], "cargo build", 127).unwrap().contains("https://rustup.rs"));
    }

    #[test]
    fn what_a_makefile_calls_is_looked_for_too() {
        let answer = said(&["make"], &[MAKEFILE, PACKAGE], "make --silent", 2).unwrap();
        assert_eq!(answer, format!("`clang` is not on the PATH: {INSTALL_CLANG}"));
        let answer = said(&["make", "clang"], &[MAKEFILE, PACKAGE], "make", 2).unwrap();
        assert_eq!(answer, format!("`wasm-ld` is not on the PATH: {INSTALL_CLANG}"));
        let all = ["make", "clang", "wasm-ld", "npm"];
        assert_eq!(said(&all, &[MAKEFILE, PACKAGE], "make", 2).unwrap(), "run this in APP: npm install");
        let answer = said(&["make", "clang", "wasm-ld"], &[MAKEFILE, PACKAGE], "make", 2).unwrap();
        assert!(answer.starts_with("`npm` is not on the PATH"), "{answer}");
    }

    #[test]
    fn a_command_that_nobody_knows() {
        let answer = said(&[], &[], "tinygo build", 127).unwrap();
        assert_eq!(answer, "install the command that was not found, or mend `build` in APP");
    }

    #[test]
    fn nothing_is_missing_where_the_code_is_wrong() {
        let environment = (".venv/bin/componentize-py", "");
        assert_eq!(said(&[], &[environment], PYTHON, 1), None);
        let installed = ("node_modules/jco/package.json", "{}");
        assert_eq!(said(&["npm"], &[PACKAGE, installed], "npm run build", 1), None);
    }
}
