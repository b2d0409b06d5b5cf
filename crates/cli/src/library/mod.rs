//! Operators that apps share: found by name in libraries, which are folders with an index.
//!
//! A function whose component is `library:NAME@VERSION` is the newest operator of that name and version of the first library that has
//! one. `index` is what a library says of its operators, `check` compares what an app tells them with that.

mod check;
mod index;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use littoral_model::id::FunctionName;
use littoral_model::library::LibraryReference;
use littoral_model::manifest::{Findings, Manifest};

use crate::context::Places;
use crate::failure::hinted;

pub(crate) use index::{Index, Operator, Parameter};

use index::INDEX;

/// Names libraries' folders, separated by colons, that are looked into first.
const VARIABLE: &str = "LITTORAL_LIBRARY";
/// The folder of a library in an app's folder or in one above it.
const FOLDER: &str = "library";
/// How far above an app's folder is looked.
const ABOVE_MAX: usize = 32;

/// A library.
#[derive(Clone, Debug)]
pub(crate) struct Library {
    /// The folder that it is in.
    pub(crate) folder: PathBuf,
    pub(crate) index: Index,
}

/// An operator that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'l> {
    pub(crate) library: &'l Library,
    pub(crate) operator: &'l Operator,
}

/// All libraries that an app may use, in the order in which they are looked into.
#[derive(Clone, Debug, Default)]
pub(crate) struct Libraries(Vec<Library>);

impl Libraries {
    /// What to do where there is none.
    pub(crate) const HINT: &str =
        "make a folder `library` with a library.toml in the app's folder or above it, or name one in LITTORAL_LIBRARY";

    /// Those that an app in this folder sees: of `LITTORAL_LIBRARY`; in a folder `library` in the app's folder or above it; the user's own;
    /// those that were installed with this program.
    ///
    /// # Errors
    /// When one is there and cannot be read, or is not to be trusted.
    pub(crate) fn of(app: &Path) -> anyhow::Result<Self> {
        let named = std::env::var_os(VARIABLE).unwrap_or_default();
        let installed = std::env::current_exe()
            .ok()
            .filter(|program| program.parent().is_some_and(|folder| folder.ends_with("bin")))
            .and_then(|program| Some(program.parent()?.parent()?.join("share/littoral").join(FOLDER)));
        let named: Vec<PathBuf> = std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()).collect();
        Self::read(&named, app, &[Places::of_user().library, installed.unwrap_or_default()])
    }

    fn read(named: &[PathBuf], app: &Path, usual: &[PathBuf]) -> anyhow::Result<Self> {
        let mut folders: Vec<PathBuf> = Vec::new();
        for folder in named {
            if !folder.join(INDEX).is_file() {
                return Err(hinted(
                    format!("there is no {INDEX} in {}, which {VARIABLE} names", folder.display()),
                    "name folders of libraries, separated by colons",
                ));
            }
            folders.push(folder.clone());
        }
        let app = std::path::absolute(app)?;
        for above in app.ancestors().take(ABOVE_MAX).map(|above| above.join(FOLDER)) {
            if above.join(INDEX).is_file() {
                trusted(&above, &app)?;
                folders.push(above);
            }
        }
        for folder in usual.iter().filter(|folder| folder.join(INDEX).is_file()) {
            trusted(folder, &app)?;
            folders.push(folder.clone());
        }
        let read = |folder: PathBuf| Ok(Library { index: Index::read(&folder.join(INDEX))?, folder });
        Ok(Self(folders.into_iter().map(read).collect::<anyhow::Result<_>>()?))
    }

    /// All operators, library by library.
    pub(crate) fn all(&self) -> impl Iterator<Item = Found<'_>> {
        self.0
            .iter()
            .flat_map(|library| library.index.operators.iter().map(move |operator| Found { library, operator }))
    }

    /// The newest operator that is meant, of the first library that has one.
    pub(crate) fn find(&self, reference: &LibraryReference) -> Option<Found<'_>> {
        self.newest(|operator| reference.admits(&operator.name, operator.version))
    }

    /// The newest operator of those, of the first library that has one.
    pub(crate) fn newest(&self, is_meant: impl Fn(&Operator) -> bool) -> Option<Found<'_>> {
        self.0.iter().find_map(|library| {
            let meant = library.index.operators.iter().filter(|operator| is_meant(operator));
            meant.max_by_key(|operator| operator.version).map(|operator| Found { library, operator })
        })
    }

    /// The operators of an app's functions.
    ///
    /// # Errors
    /// When there is none of a name, or an app tells one what it does not understand.
    pub(crate) fn resolve(
        &self,
        file: &str,
        text: &str,
        manifest: &Manifest,
    ) -> Result<BTreeMap<FunctionName, Found<'_>>, Findings> {
        let references = manifest.functions.iter().filter_map(|(name, function)| Some((name, function.operator()?)));
        let references: Vec<(&FunctionName, LibraryReference)> = references.collect();
        let found = references.iter().filter_map(|(name, reference)| Some(((*name).clone(), self.find(reference)?)));
        let found: BTreeMap<FunctionName, Found<'_>> = found.collect();
        check::check(self, file, text, &references, &found)?;
        Ok(found)
    }
}

/// Refuses a library that lies above an app and is another user's: whoever may write there could have commands run. A link counts as
/// whoever made it.
fn trusted(folder: &Path, app: &Path) -> anyhow::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    let of_app = std::fs::metadata(app).map(|app| app.uid()).ok();
    for part in [folder, &folder.join(INDEX)] {
        let owner = std::fs::symlink_metadata(part)?.uid();
        if owner != own && owner != 0 && Some(owner) != of_app {
            return Err(hinted(
                format!("{} belongs to another user", part.display()),
                format!("if you trust it, name the library's folder in {VARIABLE}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
