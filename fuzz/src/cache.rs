//! A file of the artefact cache that this node did not write is never accepted. What is accepted runs as native code.

use std::cell::OnceCell;
use std::io::Write as _;

use tempfile::TempDir;

#[allow(dead_code, unreachable_pub, clippy::all)]
#[path = "../../crates/runtime-wasm/src/cache.rs"]
mod code;

use code::Cache;

const NAME: &str = "a-1";
const CODE: &[u8] = b"native code";

thread_local! {
    static OPENED: OnceCell<Opened> = const { OnceCell::new() };
}

struct Opened {
    folder: TempDir,
    cache: Cache,
    /// A file that this node wrote.
    good: Vec<u8>,
}

impl Opened {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let cache = Cache::open(folder.path().join("cache"), &folder.path().join("key")).expect("the cache opens");
        let mut part = cache.begin(NAME).expect("the cache is written");
        part.file.write_all(CODE).expect("the cache is written");
        cache.finish(NAME, part).expect("the cache is written");
        let good = std::fs::read(folder.path().join("cache").join(format!("{NAME}.cwasm"))).expect("it is there");
        Self { folder, cache, good }
    }

    fn accepts(&self, name: &str, file: &[u8]) -> bool {
        std::fs::write(self.folder.path().join("cache").join(format!("{name}.cwasm")), file).expect("it is written");
        self.cache.read(name).is_some()
    }
}

/// Puts bytes into the cache: as they are, in place of a part of a good file, and with a checksum that fits.
pub fn run(bytes: &[u8]) {
    OPENED.with(|opened| {
        let opened = opened.get_or_init(Opened::new);
        assert!(opened.accepts(NAME, &opened.good), "what it wrote is read");
        assert!(!opened.accepts("b-1", &opened.good), "another name's file");
        let mut altered = vec![bytes.to_vec(), with_checksum(bytes), [&opened.good, bytes].concat()];
        if let Some((at, patch)) = bytes.split_first() {
            altered.push(patched(&opened.good, usize::from(*at), patch));
            altered.push(with_checksum(&patched(&opened.good, usize::from(*at), patch)));
        }
        for file in altered.iter().filter(|file| **file != opened.good) {
            assert!(!opened.accepts(NAME, file), "a foreign file was accepted: {file:02x?}");
        }
    });
}

fn patched(good: &[u8], at: usize, patch: &[u8]) -> Vec<u8> {
    let mut file = good.to_vec();
    for (place, byte) in file.iter_mut().skip(at).zip(patch) {
        *place = *byte;
    }
    file
}

/// The trailer's checksum is no secret: whoever forges a file gets it right.
fn with_checksum(file: &[u8]) -> Vec<u8> {
    const COVERED_BYTES: usize = 8 + 2 + 32;
    const CHECKSUM_BYTES: usize = 4;
    let mut file = file.to_vec();
    if let Some(start) = file.len().checked_sub(COVERED_BYTES + CHECKSUM_BYTES)
        && let Some((covered, place)) =
            file.get_mut(start..).and_then(|trailer| trailer.split_at_mut_checked(COVERED_BYTES))
    {
        place.copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
    }
    file
}
