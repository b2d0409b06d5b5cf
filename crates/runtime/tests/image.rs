//! Layers that try to get out of the image, each refused with its reason, and honest ones unpacked as they should be.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use littoral_runtime::container::image::layer::Bounds;
use littoral_runtime::container::image::layout::Layout;
use littoral_runtime::container::image::root::Owners;
use littoral_runtime::container::image::{Image, ImageError, Images};
use ring::digest::{SHA256, digest};
use serde_json::json;
use tar::{EntryType, Header};
use tempfile::TempDir;

/// A layer that is being written, entry by entry, as a hostile builder would.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, name: &str, kind: EntryType, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o4644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, EntryType::Regular, "", content.as_bytes())
    }

    fn folder(self, name: &str) -> Self {
        self.entry(name, EntryType::Directory, "", b"")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, target, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layout in a folder, with what of it is wrong on purpose.
struct Made {
    folder: TempDir,
}

impl Made {
    fn new(layers: &[Vec<u8>]) -> Self {
        let made = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(made.folder.path().join("blobs/sha256")).unwrap();
        let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
        let stored: Vec<_> =
            layers.iter().map(|layer| made.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(layer))).collect();
        made.finish(&diff_ids, &stored);
        made
    }

    fn blob(&self, media_type: &str, content: &[u8]) -> serde_json::Value {
        let name = sha256(content);
        fs::write(self.folder.path().join("blobs/sha256").join(&name), content).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{name}"), "size": content.len() })
    }

    fn finish(&self, diff_ids: &[String], layers: &[serde_json::Value]) {
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "config": { "Env": ["A=b"], "Entrypoint": null, "Cmd": ["/server"], "WorkingDir": "/srv" } });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let manifest = self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        fs::write(
            self.folder.path().join("index.json"),
            json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string(),
        )
        .unwrap();
    }

    fn open(&self) -> Layout {
        Layout::open(self.folder.path()).unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Where images are unpacked; beside it lies a file that nobody may touch.
struct Store {
    folder: TempDir,
    images: Images,
}

impl Store {
    fn new(bounds: Bounds) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("outside"), "untouched").unwrap();
        let images = Images::open(folder.path().join("images"), None, bounds).unwrap();
        Self { folder, images }
    }

    /// Everything that is there, besides the unpacked images.
    fn outside(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn unpack(layers: &[Vec<u8>]) -> (Store, Image) {
    let store = Store::new(Bounds::default());
    let image = store.images.unpack(&Made::new(layers).open()).unwrap();
    (store, image)
}

/// The message with which layers are refused; nothing is left of the image, and nothing else was touched.
fn refusal_within(bounds: Bounds, layers: &[Vec<u8>]) -> String {
    let store = Store::new(bounds);
    let refused = store.images.unpack(&Made::new(layers).open()).unwrap_err();
    assert_eq!(fs::read_to_string(store.folder.path().join("outside")).unwrap(), "untouched");
    assert_eq!(store.outside(), ["images", "outside"]);
    assert_eq!(fs::read_dir(store.folder.path().join("images")).unwrap().count(), 0, "a refused image leaves nothing");
    let ImageError::Layer { error, .. } = refused else { panic!("refused for another reason: {refused}") };
    error.to_string()
}

fn refusal(layers: &[Vec<u8>]) -> String {
    refusal_within(Bounds::default(), layers)
}

fn text(image: &Image, path: &str) -> String {
    fs::read_to_string(image.root.join(path)).unwrap()
}

#[test]
fn layers_lie_upon_each_other_and_whiteouts_take_away() {
    let lower = Tar::default()
        .folder("./")
        .folder("etc/")
        .file("etc/a", "1")
        .file("etc/b", "1")
        .file("gone/x/y", "1")
        .file("opaque/low", "1");
    let lower = lower
        .file("opaque/deep/low", "1")
        .file("file-to-folder", "1")
        .file("folder-to-file/f", "1")
        .link("lib", "usr/lib")
        .folder("usr/lib");
    let upper =
        Tar::default().file("etc/b", "2").file("etc/.wh.a", "").file(".wh.gone", "").file("opaque/deep/high", "2");
    let upper = upper
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/high", "2")
        .folder("file-to-folder")
        .file("file-to-folder/f", "2");
    let upper = upper.file("folder-to-file", "2").file("lib/through", "2").entry("hard", EntryType::Link, "etc/b", b"");
    let upper = upper.file(".wh.never-was", "");
    let (_store, image) = unpack(&[lower.end(), upper.end()]);
    assert_eq!(text(&image, "etc/b"), "2");
    assert_eq!(text(&image, "hard"), "2");
    assert_eq!(text(&image, "file-to-folder/f"), "2");
    assert_eq!(text(&image, "folder-to-file"), "2");
    assert_eq!(text(&image, "usr/lib/through"), "2", "a link within the image is followed");
    for gone in ["etc/a", "gone", "opaque/low", "opaque/deep/low", "etc/.wh.a", "opaque/.wh..wh..opq"] {
        assert!(image.root.join(gone).symlink_metadata().is_err(), "{gone} is still there");
    }
    assert_eq!((text(&image, "opaque/high"), text(&image, "opaque/deep/high")), ("2".to_owned(), "2".to_owned()));
    let file = image.root.join("etc/b").metadata().unwrap();
    assert_eq!(
        (file.permissions().mode() & 0o7777, file.mtime()),
        (0o644, 1_000),
        "no file lets anybody become its owner"
    );
    assert_eq!(image.config.config.cmd, ["/server"]);
}

#[test]
fn a_whiteout_in_the_layer_that_made_a_file_concerns_lower_layers_only() {
    let lower = Tar::default().file("a/low", "1").file("b/low", "1");
    let upper = Tar::default().file("a/high", "2").file(".wh.a", "").file("b/high", "2").file("b/.wh..wh..opq", "");
    let (_store, image) = unpack(&[lower.end(), upper.end()]);
    for folder in ["a", "b"] {
        assert_eq!(text(&image, &format!("{folder}/high")), "2");
        assert!(!image.root.join(folder).join("low").exists());
    }
}

#[test]
fn paths_that_lead_out_are_refused() {
    let expect = [
        ("/etc/passwd", "`/etc/passwd` is absolute"),
        ("../outside", "`../outside` leads out of its folder with `..`"),
        ("a/../../outside", "`a/../../outside` leads out of its folder with `..`"),
        ("a/.wh...", "`a/.wh...` is a whiteout of no file"),
        (".wh..", "`.wh..` is a whiteout of no file"),
        (".wh.", "`.wh.` is a whiteout of no file"),
    ];
    for (name, reason) in expect {
        assert_eq!(refusal(&[Tar::default().file(name, "x").end()]), reason);
    }
}

#[test]
fn links_that_lead_out_are_not_written_through() {
    let store = tempfile::tempdir().unwrap();
    let target = store.path().to_str().unwrap().to_owned();
    let through = "`out/x` goes through a link that leads out of the image";
    for out in [target.as_str(), "..", "../..", "a/../../..", "/", "/proc/self/cwd"] {
        let refused = refusal(&[Tar::default().folder("a").link("out", out).file("out/x", "x").end()]);
        assert_eq!(refused, through, "{out}");
        let folder = refusal(&[Tar::default().folder("a").link("out", out).folder("out/x").end()]);
        assert_eq!(folder, through, "{out}");
        // Also over layers, and where it is taken away.
        let layers = [Tar::default().folder("a").link("out", out).end(), Tar::default().file("out/.wh.x", "").end()];
        assert_eq!(refusal(&layers), "`out/.wh.x` goes through a link that leads out of the image", "{out}");
        let layers =
            [Tar::default().folder("a").link("out", out).end(), Tar::default().file("out/.wh..wh..opq", "").end()];
        assert_eq!(refusal(&layers), "`out/.wh..wh..opq` goes through a link that leads out of the image", "{out}");
    }
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), 0);
    let chain = Tar::default().link("one", "two").link("two", "one").file("one/x", "x");
    assert_eq!(refusal(&[chain.end()]), "`one/x` goes through a link that leads out of the image");
    // A link that is in the way of a file is replaced, not followed.
    let layers = [Tar::default().link("a", &format!("{target}/file")).end(), Tar::default().file("a", "inside").end()];
    let (_store, image) = unpack(&layers);
    assert_eq!(text(&image, "a"), "inside");
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), 0);
}

#[test]
fn hard_links_lead_nowhere_else() {
    let hard = |target: &str| Tar::default().link("out", "..").entry("hard", EntryType::Link, target, b"").end();
    assert_eq!(refusal(&[hard("/etc/passwd")]), "`hard` links to a path that is absolute");
    assert_eq!(refusal(&[hard("../../outside")]), "`hard` links to a path that leads out of its folder with `..`");
    assert_eq!(refusal(&[hard("out/outside")]), "`hard` links to `out/outside`, which leads out of the image");
    assert_eq!(refusal(&[hard("nothing")]), "`hard` links to `nothing`, which is not there");
    assert_eq!(refusal(&[hard("hard")]), "`hard` links to itself");
    assert_eq!(refusal(&[hard("")]), "`hard` is a link to nothing");
    let folder = Tar::default().folder("f").entry("hard", EntryType::Link, "f", b"").end();
    assert_eq!(refusal(&[folder]), "`hard` links to `f`, which is no file");
}

#[test]
fn devices_unknown_kinds_and_duplicates_are_refused() {
    let device = "is a device or a pipe; an image has files, folders and links only";
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        assert_eq!(refusal(&[Tar::default().entry("d", kind, "", b"").end()]), format!("`d` {device}"));
    }
    assert_eq!(
        refusal(&[Tar::default().entry("d", EntryType::new(b'Q'), "", b"").end()]),
        "`d` is of the unknown kind 0x51"
    );
    assert_eq!(refusal(&[Tar::default().file("a", "1").file("./a", "2").end()]), "`./a` is there twice");
    assert_eq!(refusal(&[Tar::default().file("a/b", "1").link("a", "/etc").end()]), "`a` is there twice");
    assert_eq!(
        refusal(&[Tar::default().file("a", "1").file("a/b", "2").end()]),
        "`a/b` goes through something that is no folder"
    );
    let (_store, image) = unpack(&[Tar::default().folder("a").file("a/b", "1").folder("a/").end()]);
    assert_eq!(text(&image, "a/b"), "1", "a folder may be described again");
}

#[test]
fn what_is_too_much_is_refused_before_it_is_written() {
    let bounds = Bounds { bytes: 1_000, entries: 3 };
    let huge = Tar::default().file("a", &"x".repeat(600)).file("b", &"x".repeat(600));
    assert_eq!(
        refusal_within(bounds, &[huge.end()]),
        "`b` has 600 bytes, which is more than what the image may still have, 400"
    );
    let layers = [Tar::default().file("a", &"x".repeat(600)).end(), Tar::default().file("a", &"x".repeat(600)).end()];
    assert!(refusal_within(bounds, &layers).starts_with("`a` has 600 bytes"), "the bound is that of the image");
    let many = Tar::default().file("1", "").file("2", "").file("3", "").file("4", "");
    assert_eq!(refusal_within(bounds, &[many.end()]), "`4` is one entry more than an image may have");
    // A header may say what it likes.
    let mut header = Header::new_gnu();
    header.set_path("lie").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(1 << 40);
    header.set_cksum();
    assert!(refusal(&[header.as_bytes().to_vec()]).starts_with("`lie` has 1099511627776 bytes"));
    header.set_size(1 << 20);
    header.set_cksum();
    assert!(refusal(&[header.as_bytes().to_vec()]).starts_with("it is no readable archive"), "it breaks off");
    // A name is held in memory; a gigabyte of it is a megabyte when compressed.
    let name = Tar::default().entry("././@LongLink", EntryType::GNULongName, "", &vec![b'a'; 2 << 20]);
    assert!(refusal(&[name.file("a", "x").end()]).contains("describe one entry"));
    let deep = Tar::default().entry("././@LongLink", EntryType::GNULongName, "", "d/".repeat(200).as_bytes());
    assert!(refusal(&[deep.folder("a").end()]).ends_with("is nested too deeply"));
}

#[test]
fn links_lead_to_no_tree_deeper_than_paths_are() {
    let deep = "d/".repeat(45);
    let mut layer = Tar::default().folder(&deep).link("l1", &deep);
    for number in 1..4 {
        let below = format!("l{number}/{deep}");
        layer = layer.folder(&below).link(&format!("l{}", number + 1), &below);
    }
    let refused = refusal(&[layer.end()]);
    assert!(refused.contains("nested too deeply"), "{refused}");
}

#[test]
fn a_sparse_file_counts_with_its_whole_length() {
    let sparse = |real: u64| {
        let mut header = Header::new_gnu();
        header.set_path("sparse").unwrap();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(4);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.sparse[0].set_offset(real - 4);
        gnu.sparse[0].set_length(4);
        gnu.set_real_size(real);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(b"tail");
        bytes.resize(1024, 0);
        Tar(bytes).end()
    };
    assert!(refusal(&[sparse(1 << 50)]).contains("has 1125899906842624 bytes"));
    let (_store, image) = unpack(&[sparse(8)]);
    assert_eq!(text(&image, "sparse"), "\0\0\0\0tail");
}

#[test]
fn what_is_not_what_it_is_called_is_refused() {
    let layer = Tar::default().file("a", "1").end();
    let unpacked = |made: &Made| {
        let store = Store::new(Bounds::default());
        let outcome =
            Layout::open(made.folder.path()).map_err(ImageError::from).and_then(|layout| store.images.unpack(&layout));
        assert_eq!(fs::read_dir(store.folder.path().join("images")).unwrap().count(), 0);
        outcome.unwrap_err().to_string()
    };
    let flawed = |diff_id: &str, alter: &dyn Fn(&mut serde_json::Value, &Path)| {
        let made = Made::new(std::slice::from_ref(&layer));
        let mut stored = made.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&layer));
        alter(&mut stored, made.folder.path());
        made.finish(&[diff_id.to_owned()], &[stored]);
        unpacked(&made)
    };
    let right = format!("sha256:{}", sha256(&layer));
    let wrong = format!("sha256:{}", "0".repeat(64));
    assert!(
        flawed(&wrong, &|_, _| ())
            .starts_with(&format!("the blob {wrong} is not what it is called: its content is {right}"))
    );
    let refused = flawed(&right, &|stored, _| stored["size"] = json!(17));
    assert!(refused.contains("it has more bytes, and should have 17"), "{refused}");
    let refused = flawed(&right, &|stored, folder| {
        let other = gzip(&Tar::default().file("a", "2").end());
        stored["size"] = json!(other.len());
        fs::write(folder.join("blobs/sha256").join(&stored["digest"].as_str().unwrap()[7..]), other).unwrap();
    });
    assert!(refused.contains("is not what it is called"), "{refused}");
    let refused = flawed(&right, &|stored, _| stored["digest"] = json!("sha256:../../../etc/passwd"));
    assert!(refused.contains("is no SHA-256 digest"), "{refused}");
    let refused =
        flawed(&right, &|stored, _| stored["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd"));
    assert!(refused.contains("build it with gzip"), "{refused}");
}

#[test]
fn an_archive_of_a_layout_has_the_same_image() {
    let made = Made::new(&[Tar::default().file("a", "1").end()]);
    let archive = tempfile::NamedTempFile::new().unwrap();
    let mut builder = tar::Builder::new(archive.as_file());
    builder.append_dir_all(".", made.folder.path()).unwrap();
    builder.finish().unwrap();
    let layout = Layout::open(archive.path()).unwrap();
    assert_eq!(layout.digest(), made.open().digest());
    let store = Store::new(Bounds::default());
    assert_eq!(text(&store.images.unpack(&layout).unwrap(), "a"), "1");
}

#[test]
fn concurrent_unpackings_do_it_once_and_what_was_left_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("part-of-a-crash/x")).unwrap();
    let images = Arc::new(Images::open(folder.path().to_owned(), None, Bounds::default()).unwrap());
    let made = Arc::new(Made::new(&[Tar::default().file("a", "1").end()]));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (images, made) = (Arc::clone(&images), Arc::clone(&made));
            std::thread::spawn(move || images.unpack(&made.open()).unwrap().root.join("a").metadata().unwrap().ino())
        })
        .collect();
    let inodes: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(inodes.iter().all(|inode| *inode == inodes[0]), "unpacked more than once: {inodes:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    images.sweep(|_| false).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn files_belong_to_the_users_of_containers() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let owners = Some(Owners { first: 700_000, count: 65_536 });
    let images = Images::open(folder.path().to_owned(), owners, Bounds::default()).unwrap();
    let image = images.unpack(&Made::new(&[Tar::default().file("d/a", "1").link("l", "a").end()]).open()).unwrap();
    for path in ["", "d", "d/a", "l"] {
        assert_eq!(image.root.join(path).symlink_metadata().unwrap().uid(), 700_000, "{path}");
    }
    let mut header = Header::new_gnu();
    header.set_path("foreign").unwrap();
    header.set_uid(65_536);
    header.set_gid(0);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    let refused = images.unpack(&Made::new(&[Tar(header.as_bytes().to_vec()).end()]).open()).unwrap_err().to_string();
    assert!(refused.contains("belongs to a user or group that no container has"), "{refused}");
}
