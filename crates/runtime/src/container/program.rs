//! Programs of functions that are processes: one executable file each, kept by digest in a folder where whoever runs it may read it.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Readable and executable by everybody who can reach it, which is who runs it.
const MODE: u32 = 0o555;
/// What the name of a file that is being copied ends with.
const PART: &str = "part";
/// How much of a file says what it is: the beginning of an ELF header up to the machine.
const HEADER_BYTES: u64 = 20;
const ELF: &[u8] = b"\x7fELF";
const SCRIPT: &[u8] = b"#!";
/// The longest name that it may have where it runs.
const NAME_BYTES_MAX: usize = 255;
/// What the header's machine is on this one; anything where that is not known.
const MACHINE: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else {
    None
};

/// An executable file, and how it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Where it is, among the programs of a node.
    pub file: PathBuf,
    /// The name that it has where it runs: `/app/NAME`.
    pub name: String,
    /// What it is given after that.
    pub arguments: Vec<String>,
}

impl Program {
    /// Whether its name is one of a file, and no way to another folder.
    pub(super) fn has_name(&self) -> bool {
        let name = self.name.as_str();
        !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && !name.contains(['/', '\0'])
    }
}

/// Whether a file begins as an executable does: a binary of Linux, or a script that says what interprets it.
///
/// # Errors
/// What it is not.
pub fn check_program(bytes: &[u8]) -> Result<(), String> {
    if bytes.starts_with(ELF) || bytes.starts_with(SCRIPT) {
        return Ok(());
    }
    Err("it is no executable file: neither a binary of Linux (ELF) nor a script that begins with #!".to_owned())
}

/// The programs of a node.
#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
    /// Held while a file is copied or removed.
    copying: Mutex<()>,
}

impl Programs {
    /// Those of a folder. What was copied in part is removed.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == PART) {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder, copying: Mutex::default() })
    }

    /// Copies an executable, unless that was done before. It blocks the thread.
    pub(super) fn place(&self, artifact: &Path, digest: &str) -> Result<PathBuf, String> {
        let _alone = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.folder.join(digest);
        if file.is_file() {
            return Ok(file);
        }
        let copied = || -> io::Result<Result<(), String>> {
            let mut header = Vec::new();
            fs::File::open(artifact)?.take(HEADER_BYTES).read_to_end(&mut header)?;
            if let Err(reason) = check_program(&header).and_then(|()| is_for_this_machine(&header)) {
                return Ok(Err(reason));
            }
            let part = file.with_extension(PART);
            fs::copy(artifact, &part)?;
            fs::set_permissions(&part, fs::Permissions::from_mode(MODE))?;
            fs::rename(part, &file)?;
            Ok(Ok(()))
        };
        copied().map_err(|error| format!("it cannot be copied to {}: {error}", file.display()))??;
        Ok(file)
    }

    /// Removes those that are not needed.
    pub(super) fn sweep(&self, is_needed: impl Fn(&Path) -> bool) -> io::Result<()> {
        let _alone = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if !is_needed(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// What the kernel says of a foreign binary is that it has no such format.
fn is_for_this_machine(header: &[u8]) -> Result<(), String> {
    let machine = header.get(18..20).and_then(|machine| Some(u16::from_le_bytes(machine.try_into().ok()?)));
    match (machine, MACHINE) {
        (Some(machine), Some(own)) if header.starts_with(ELF) && machine != own => Err(format!(
            "it is built for another processor than this node's, {}; build it for this one, or place the function elsewhere",
            std::env::consts::ARCH
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_is_copied_once_for_everybody_to_run_and_others_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (artifact, kept) = (folder.path().join("artifact"), folder.path().join("programs"));
        fs::create_dir(&kept).unwrap();
        fs::write(&artifact, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&artifact, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(kept.join("a.part"), "half").unwrap();
        let programs = Programs::open(kept.clone()).unwrap();
        let file = programs.place(&artifact, "1").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, MODE);
        // The digest says what is in it.
        fs::remove_file(&artifact).unwrap();
        assert_eq!(programs.place(&artifact, "1").unwrap(), file);
        let names = || fs::read_dir(&kept).unwrap().count();
        assert_eq!(names(), 1);
        programs.sweep(|path| path == file).unwrap();
        assert_eq!(names(), 1);
        programs.sweep(|_| false).unwrap();
        assert_eq!(names(), 0);
    }

    #[test]
    fn what_this_machine_cannot_run_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let artifact = folder.path().join("artifact");
        fs::create_dir(folder.path().join("programs")).unwrap();
        let programs = Programs::open(folder.path().join("programs")).unwrap();
        let mut foreign = fs::read(std::env::current_exe().unwrap()).unwrap();
        fs::write(&artifact, &foreign).unwrap();
        programs.place(&artifact, "own").unwrap();
        foreign.truncate(64);
        foreign.splice(18..20, 8_u16.to_le_bytes());
        for (content, reason) in [
            (foreign, "it is built for another processor"),
            (b"\0asm".to_vec(), "it is no executable file"),
            (Vec::new(), "it is no executable file"),
        ] {
            fs::write(&artifact, content).unwrap();
            let refused = programs.place(&artifact, "other").unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
