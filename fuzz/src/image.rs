//! Whatever a layer of an image is, nothing is written outside the image's folder, and no more than the bounds allow.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

#[allow(dead_code, unreachable_pub, clippy::all)]
#[path = "../../crates/runtime/src/container/image/layer.rs"]
pub(crate) mod layer;
#[allow(dead_code, unreachable_pub, clippy::all)]
#[path = "../../crates/runtime/src/container/image/root.rs"]
pub(crate) mod root;

use layer::Bounds;
use root::Root;

const BOUNDS: Bounds = Bounds { bytes: 1 << 20, entries: 64 };
const OUTSIDE: &str = "nobody may touch this";
const BLOCK: usize = 512;

/// Unpacks bytes as a layer upon an empty image and upon itself: as they are, and with the checksums of the headers mended, which are no
/// secret.
pub fn run(bytes: &[u8]) {
    for layer in [bytes.to_vec(), mended(bytes)] {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let outside = folder.path().join("outside");
        std::fs::create_dir(&outside).expect("it is made");
        std::fs::write(outside.join("file"), OUTSIDE).expect("it is written");
        let image = folder.path().join("image");
        std::fs::create_dir(&image).expect("it is made");
        // What a lower layer may have left: ways out.
        std::os::unix::fs::symlink("../outside", image.join("a")).expect("it is made");
        std::os::unix::fs::symlink(&outside, image.join("b")).expect("it is made");
        let root = Root::open(&image, None).expect("it opens");
        let mut bounds = BOUNDS;
        for _ in 0..2 {
            let _ = layer::unpack(layer.as_slice(), &root, &mut bounds);
        }
        assert_eq!(std::fs::read_to_string(outside.join("file")).expect("it is still there"), OUTSIDE);
        assert_eq!(std::fs::metadata(outside.join("file")).expect("it is still there").nlink(), 1, "it was linked to");
        let names = |path: &Path| std::fs::read_dir(path).expect("it is read").count();
        assert_eq!((names(&outside), names(folder.path())), (1, 2), "something was written outside");
        let (files, size) = measured(&image);
        // The folders on the way to an entry are implied.
        assert!(files <= 2 * BOUNDS.entries * 128 && size <= 2 * BOUNDS.bytes, "{files} files of {size} bytes");
    }
}

fn measured(folder: &Path) -> (u64, u64) {
    let (mut files, mut size) = (0, 0);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.path().symlink_metadata() else { continue };
        files += 1;
        assert_eq!(kind.mode() & 0o6000, 0, "a file lets others become its owner");
        assert!(kind.is_file() || kind.is_dir() || kind.is_symlink(), "it is a device or a pipe");
        if kind.is_dir() {
            let (more, bytes) = measured(&entry.path());
            (files, size) = (files + more, size + bytes);
        } else if kind.nlink() == 1 && kind.is_file() {
            size += kind.len();
        }
    }
    (files, size)
}

/// The checksums of the blocks that look like headers, as a reader expects them.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut layer = bytes.to_vec();
    for block in layer.chunks_exact_mut(BLOCK) {
        if block.get(148..156).is_some_and(|sum| {
            sum.iter().all(|byte| *byte == 0 || *byte == b'0' || *byte == b' ' || byte.is_ascii_digit())
        }) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    layer
}
