//! Files of the repository that tests compare with. `LITTORAL_BLESS=1` writes them anew.

use std::path::PathBuf;

/// A path from the root of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// What a file of the repository holds.
pub(crate) fn read(path: &str) -> Vec<u8> {
    let path = repository(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a file of the repository holds, after writing `now` there if one has asked for it.
pub(crate) fn blessed(path: &str, now: &[u8]) -> Vec<u8> {
    if std::env::var("LITTORAL_BLESS").is_ok_and(|bless| bless == "1") {
        let path = repository(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, now).unwrap();
    }
    read(path)
}
