//! Ways out of a folder: by its path, by links, by renaming, by descriptors that may less than what is made of them.
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags};

use crate::Report;

const READ: DescriptorFlags = DescriptorFlags::READ;
const WRITE: DescriptorFlags = DescriptorFlags::WRITE;
const FOLLOW: PathFlags = PathFlags::SYMLINK_FOLLOW;
/// More than a request has reason to hold open.
const OPENED: usize = 100_000;

fn folder(at: &str) -> Descriptor {
    let mut folders = get_directories().into_iter();
    folders.find(|(_, seen_at)| seen_at == at).map(|(folder, _)| folder).expect("the folder is granted")
}

fn read(folder: &Descriptor, flags: PathFlags, path: &str) -> Result<Vec<u8>, ErrorCode> {
    folder.open_at(flags, path, OpenFlags::empty(), READ)?.read(100, 0).map(|(bytes, _)| bytes)
}

/// Tries to get out of `/data`; `outside` is the absolute path of a folder beside it on the host.
pub fn escape(report: &mut Report, outside: &str) {
    let data = folder("/data");
    let secret = format!("{outside}/secret");
    for path in [
        "../outside/secret",
        "./../outside/secret",
        "sub/../../outside/secret",
        "sub/.././../outside/secret",
        "sub/deep/../../../outside/secret",
        "link-file",
        "link-dir/secret",
        "link-dir/../outside/secret",
        "link-link",
        "absolute-link",
        "sub/up/outside/secret",
        "proc-link/self/environ",
        "proc-link/self/cwd/Cargo.toml",
        "proc-link/1/root/etc/passwd",
        "root-link/etc/passwd",
        "..",
        "../",
        "/",
        "/etc/passwd",
        "//etc/passwd",
        "/data/own",
        "own\0/../../outside/secret",
        &secret,
    ] {
        report.refused(&format!("read {path:?}"), read(&data, FOLLOW, path));
        // Not to follow concerns a path's last part alone.
        report.refused(&format!("read {path:?} without following"), read(&data, PathFlags::empty(), path));
        report.refused(&format!("look at {path:?}"), outside_stat(&data, path));
    }
    create(report, &data);
    link(report, &data, &secret);
    rename(report, &data);
    remove(report, &data);
}

/// Looking at a link itself is no way out, and a folder may look at itself.
fn outside_stat(data: &Descriptor, path: &str) -> Result<(), ErrorCode> {
    data.stat_at(FOLLOW, path).map(|_| ())
}

fn create(report: &mut Report, data: &Descriptor) {
    let make = OpenFlags::CREATE;
    for path in ["../outside/made", "dangling", "link-dir/made", "sub/up/outside/made", "absolute-dangling"] {
        report.refused(&format!("create {path:?}"), data.open_at(FOLLOW, path, make, WRITE));
        report.refused(
            &format!("truncate {path:?}"),
            data.open_at(FOLLOW, path, make | OpenFlags::TRUNCATE, READ | WRITE),
        );
        let fresh = data.open_at(PathFlags::empty(), path, make | OpenFlags::EXCLUSIVE, WRITE);
        report.refused(&format!("create {path:?} anew"), fresh);
    }
    for path in ["link-file", "../outside/secret"] {
        report.refused(&format!("write {path:?}"), data.open_at(FOLLOW, path, OpenFlags::TRUNCATE, WRITE));
        let now = NewTimestamp::Now;
        report.refused(&format!("date {path:?}"), data.set_times_at(FOLLOW, path, now, now));
    }
    for path in ["../outside/dir", "link-dir/dir", "sub/up/outside/dir"] {
        report.refused(&format!("make the folder {path:?}"), data.create_directory_at(path));
    }
}

fn link(report: &mut Report, data: &Descriptor, secret: &str) {
    for (number, target) in
        ["../outside/secret", "sub/../../outside/secret", secret, "/proc/self/environ"].iter().enumerate()
    {
        let name = format!("own-link-{number}");
        // A relative link may be made; it must lead nowhere.
        if let Err(error) = data.symlink_at(target, &name) {
            report.harmless(&format!("an own link to {target:?}"), true, &format!("{error:?}"));
            continue;
        }
        report.refused(&format!("read through an own link to {target:?}"), read(data, FOLLOW, &name));
        let through = data.open_at(FOLLOW, &name, OpenFlags::CREATE | OpenFlags::TRUNCATE, WRITE);
        report.refused(&format!("write through an own link to {target:?}"), through);
    }
    for from in ["../outside/secret", "link-dir/secret", secret] {
        report.refused(&format!("hard link to {from:?}"), data.link_at(PathFlags::empty(), from, data, "hard"));
    }
    report.refused("hard link through a link", data.link_at(FOLLOW, "link-file", data, "hard-followed"));
    for to in ["../outside/hard", "link-dir/hard"] {
        report.refused(&format!("hard link at {to:?}"), data.link_at(PathFlags::empty(), "own", data, to));
    }
    report.refused(
        "hard link into a read-only folder",
        data.link_at(PathFlags::empty(), "own", &folder("/read"), "hard"),
    );
    report.refused(
        "hard link out of a read-only folder",
        folder("/read").link_at(PathFlags::empty(), "file", data, "gained"),
    );
    report.refused("read a link outside", data.readlink_at("../outside/link"));
}

fn rename(report: &mut Report, data: &Descriptor) {
    for to in ["../outside/own", "link-dir/own", "../own"] {
        report.refused(&format!("rename to {to:?}"), data.rename_at("own", data, to));
    }
    for from in ["../outside/secret", "link-dir/secret", ".."] {
        report.refused(&format!("rename from {from:?}"), data.rename_at(from, data, "taken"));
    }
    report.refused("rename into a read-only folder", data.rename_at("own", &folder("/read"), "own"));
    report.refused("rename out of a read-only folder", folder("/read").rename_at("file", data, "file"));
}

fn remove(report: &mut Report, data: &Descriptor) {
    for path in ["../outside/secret", "link-dir/secret", "sub/up/outside/secret"] {
        report.refused(&format!("remove {path:?}"), data.unlink_file_at(path));
    }
    for path in ["../outside/empty", "link-dir/empty", ".."] {
        report.refused(&format!("remove the folder {path:?}"), data.remove_directory_at(path));
    }
}

/// Tries to change what is in `/read`.
pub fn write_where_it_may_not(report: &mut Report) {
    let read_only = folder("/read");
    let open = |flags, how| read_only.open_at(FOLLOW, "file", flags, how);
    report.refused("open to write", open(OpenFlags::empty(), WRITE));
    report.refused("open to read and write", open(OpenFlags::empty(), READ | WRITE));
    report.refused("truncate", open(OpenFlags::TRUNCATE, READ));
    report.refused("create", read_only.open_at(FOLLOW, "made", OpenFlags::CREATE, READ));
    report.refused("make a folder", read_only.create_directory_at("made"));
    report.refused("make a link", read_only.symlink_at("file", "made"));
    report.refused("link", read_only.link_at(PathFlags::empty(), "file", &read_only, "made"));
    report.refused("rename", read_only.rename_at("file", &read_only, "moved"));
    report.refused("remove", read_only.unlink_file_at("file"));
    report.refused("remove a folder", read_only.remove_directory_at("empty"));
    let now = NewTimestamp::Now;
    report.refused("date", read_only.set_times_at(FOLLOW, "file", now, now));
    let file = open(OpenFlags::empty(), READ).expect("it may be read");
    report.refused("write through a descriptor to read", file.write(b"changed", 0));
    report.refused("shorten through a descriptor to read", file.set_size(0));
    report.refused("date through a descriptor to read", file.set_times(now, now));
    let stream = file.write_via_stream(0);
    report.refused(
        "write by a stream",
        stream
            .map_err(|error| format!("{error:?}"))
            .and_then(|stream| stream.blocking_write_and_flush(b"changed").map_err(|error| format!("{error:?}"))),
    );
    let mutate = DescriptorFlags::MUTATE_DIRECTORY;
    let inner = read_only.open_at(FOLLOW, "empty", OpenFlags::DIRECTORY, READ | mutate);
    report.refused("open a folder to change it, and do", inner.and_then(|inner| inner.create_directory_at("made")));
}

/// Opens files until the host says no.
pub fn hoard(report: &mut Report) {
    let data = folder("/data");
    let mut held = Vec::new();
    while held.len() < OPENED {
        match data.open_at(FOLLOW, "own", OpenFlags::empty(), READ) {
            Ok(file) => held.push(file),
            Err(error) => return report.harmless("open files", true, &format!("{} and then {error:?}", held.len())),
        }
    }
    report.harmless("open files", false, &format!("{} at once", held.len()));
}
