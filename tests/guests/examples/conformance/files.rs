//! `wasi:filesystem`: files, folders, what is known of them.
use wasip2::clocks::wall_clock::Datetime;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{
    Advice, Descriptor, DescriptorFlags, DescriptorType, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
};
use wasip2::io::streams::StreamError;

use crate::expect;

pub const READ: DescriptorFlags = DescriptorFlags::READ;
pub const FOLLOW: PathFlags = PathFlags::SYMLINK_FOLLOW;

/// To read and to write.
pub fn both() -> DescriptorFlags {
    DescriptorFlags::READ | DescriptorFlags::WRITE
}

/// A link at the end of a path stays one.
pub fn unfollowed() -> PathFlags {
    PathFlags::empty()
}

/// The one folder that these tests are given; it is empty.
pub fn folder() -> Descriptor {
    let mut folders = get_directories();
    expect!(folders.len(), 1);
    folders.remove(0).0
}

pub fn make(folder: &Descriptor, path: &str, bytes: &[u8]) {
    let file = folder.open_at(FOLLOW, path, OpenFlags::CREATE | OpenFlags::TRUNCATE, both()).expect("it is made");
    expect!(file.write(bytes, 0), Ok(written) if written == bytes.len() as u64);
}

pub fn content(folder: &Descriptor, path: &str) -> Result<Vec<u8>, ErrorCode> {
    Ok(folder.open_at(FOLLOW, path, OpenFlags::empty(), READ)?.read(1 << 16, 0)?.0)
}

pub fn open() {
    let root = folder();
    let open = |path: &str, flags, how| root.open_at(FOLLOW, path, flags, how);
    expect!(open("file", OpenFlags::empty(), READ), Err(ErrorCode::NoEntry));
    make(&root, "file", b"content");
    expect!(open("file", OpenFlags::CREATE | OpenFlags::EXCLUSIVE, both()), Err(ErrorCode::Exist));
    expect!(open("file", OpenFlags::CREATE, both()), Ok(_));
    expect!(content(&root, "file"), Ok(bytes) if bytes == b"content");
    expect!(open("file", OpenFlags::TRUNCATE, both()), Ok(_));
    expect!(content(&root, "file"), Ok(bytes) if bytes.is_empty());
    expect!(open("file", OpenFlags::DIRECTORY, READ), Err(ErrorCode::NotDirectory));
    expect!(open(".", OpenFlags::DIRECTORY, READ), Ok(_));
    expect!(open(".", OpenFlags::empty(), both()), Err(ErrorCode::IsDirectory));
    let file = open("file", OpenFlags::empty(), READ).expect("it is there");
    expect!(file.get_type(), Ok(DescriptorType::RegularFile));
    expect!(file.get_flags(), Ok(flags) if flags & both() == READ);
    expect!(file.write(b"x", 0), Err(_));
    expect!(file.open_at(FOLLOW, "below", OpenFlags::empty(), READ), Err(ErrorCode::NotDirectory));
    expect!(root.get_type(), Ok(DescriptorType::Directory));
}

pub fn read_write() {
    let root = folder();
    make(&root, "file", b"0123456789");
    let file = root.open_at(FOLLOW, "file", OpenFlags::empty(), both()).expect("it is there");
    expect!(file.read(4, 2), Ok((bytes, false)) if bytes == b"2345");
    expect!(file.read(100, 10), Ok((bytes, true)) if bytes.is_empty());
    expect!(file.read(100, 1_000_000), Ok((bytes, true)) if bytes.is_empty());
    expect!(file.read(0, 0), Ok((bytes, _)) if bytes.is_empty());
    expect!(file.write(b"ab", 12), Ok(2));
    expect!(content(&root, "file"), Ok(bytes) if bytes == b"0123456789\0\0ab");
    expect!(file.set_size(3), Ok(()));
    expect!(content(&root, "file"), Ok(bytes) if bytes == b"012");
    expect!(file.set_size(5), Ok(()));
    expect!(content(&root, "file"), Ok(bytes) if bytes == b"012\0\0");
    expect!(file.advise(0, 5, Advice::Sequential), Ok(()));
    expect!(file.sync(), Ok(()));
    expect!(file.sync_data(), Ok(()));
    expect!(root.read(1, 0), Err(_));
}

pub fn streams() {
    let root = folder();
    make(&root, "file", b"0123456789");
    let file = root.open_at(FOLLOW, "file", OpenFlags::empty(), both()).expect("it is there");
    let reading = file.read_via_stream(4).expect("it may be read");
    expect!(reading.blocking_read(3), Ok(bytes) if bytes == b"456");
    expect!(reading.blocking_skip(1), Ok(1));
    expect!(reading.blocking_read(100), Ok(bytes) if bytes == b"89");
    expect!(reading.blocking_read(1), Err(StreamError::Closed));
    let writing = file.write_via_stream(8).expect("it may be written");
    expect!(writing.blocking_write_and_flush(b"abcd"), Ok(()));
    expect!(writing.blocking_write_zeroes_and_flush(2), Ok(()));
    let appending = file.append_via_stream().expect("it may be written");
    expect!(appending.blocking_write_and_flush(b"end"), Ok(()));
    expect!(content(&root, "file"), Ok(bytes) if bytes == b"01234567abcd\0\0end");
    let again = file.read_via_stream(0).expect("it may be read");
    let copied = root.open_at(FOLLOW, "copy", OpenFlags::CREATE, both()).expect("it is made");
    let copy = copied.write_via_stream(0).expect("it may be written");
    expect!(copy.blocking_splice(&again, 8), Ok(spliced) if spliced > 0 && spliced <= 8);
}

pub fn metadata() {
    let root = folder();
    make(&root, "file", b"12345");
    let file = root.open_at(FOLLOW, "file", OpenFlags::empty(), both()).expect("it is there");
    expect!(file.stat(), Ok(stat) if stat.size == 5 && stat.link_count == 1 && stat.type_ == DescriptorType::RegularFile);
    expect!(root.stat(), Ok(stat) if stat.type_ == DescriptorType::Directory);
    let then = Datetime { seconds: 1_000_000_000, nanoseconds: 500_000_000 };
    expect!(file.set_times(NewTimestamp::NoChange, NewTimestamp::Timestamp(then)), Ok(()));
    let modified = |stat: Result<wasip2::filesystem::types::DescriptorStat, ErrorCode>| {
        stat.ok().and_then(|stat| stat.data_modification_timestamp).map(|at| at.seconds)
    };
    expect!(modified(file.stat()), Some(1_000_000_000));
    let later = Datetime { seconds: 1_100_000_000, nanoseconds: 0 };
    expect!(root.set_times_at(FOLLOW, "file", NewTimestamp::Timestamp(later), NewTimestamp::NoChange), Ok(()));
    expect!(modified(root.stat_at(FOLLOW, "file")), Some(1_000_000_000));
    expect!(root.set_times_at(FOLLOW, "file", NewTimestamp::Now, NewTimestamp::Now), Ok(()));
    expect!(modified(root.stat_at(FOLLOW, "file")), Some(seconds) if seconds > 1_577_836_800);
    let same = root.open_at(FOLLOW, "file", OpenFlags::empty(), READ).expect("it is there");
    make(&root, "other", b"12345");
    let other = root.open_at(FOLLOW, "other", OpenFlags::empty(), READ).expect("it is there");
    expect!(file.is_same_object(&same), true);
    expect!(file.is_same_object(&other), false);
    let hash = |file: &Descriptor| file.metadata_hash().map(|hash| (hash.lower, hash.upper));
    expect!(hash(&same), Ok(found) if Ok(found) == hash(&file) && Ok(found) != hash(&other));
    let at = root.metadata_hash_at(FOLLOW, "file").map(|hash| (hash.lower, hash.upper));
    expect!(at, Ok(found) if Ok(found) == hash(&file));
}

pub fn directories() {
    let root = folder();
    expect!(root.create_directory_at("sub"), Ok(()));
    expect!(root.create_directory_at("sub"), Err(ErrorCode::Exist));
    expect!(root.create_directory_at("missing/sub"), Err(ErrorCode::NoEntry));
    make(&root, "sub/a", b"");
    make(&root, "sub/b", b"");
    expect!(root.create_directory_at("sub/c"), Ok(()));
    let sub = root.open_at(FOLLOW, "sub", OpenFlags::DIRECTORY, READ).expect("it is there");
    let entries = sub.read_directory().expect("it may be read");
    let mut found = Vec::new();
    while let Ok(Some(entry)) = entries.read_directory_entry() {
        found.push((entry.name, entry.type_ == DescriptorType::Directory));
    }
    found.sort();
    let found: Vec<_> = found.iter().map(|(name, folder)| (name.as_str(), *folder)).collect();
    // Neither `.` nor `..`.
    expect!(&found[..], [("a", false), ("b", false), ("c", true)]);
    expect!(entries.read_directory_entry(), Ok(None));
    expect!(root.remove_directory_at("sub"), Err(ErrorCode::NotEmpty));
    expect!(root.remove_directory_at("sub/a"), Err(ErrorCode::NotDirectory));
    expect!(root.unlink_file_at("sub/c"), Err(ErrorCode::IsDirectory));
    expect!(root.unlink_file_at("sub/missing"), Err(ErrorCode::NoEntry));
    expect!(root.unlink_file_at("sub/a"), Ok(()));
    expect!(root.unlink_file_at("sub/b"), Ok(()));
    expect!(root.remove_directory_at("sub/c"), Ok(()));
    expect!(root.remove_directory_at("sub"), Ok(()));
    make(&root, "file", b"");
    let file = root.open_at(FOLLOW, "file", OpenFlags::empty(), READ).expect("it is there");
    expect!(file.read_directory(), Err(ErrorCode::NotDirectory));
}

pub fn links() {
    let root = folder();
    make(&root, "file", b"content");
    expect!(root.link_at(unfollowed(), "file", &root, "also"), Ok(()));
    expect!(root.stat_at(FOLLOW, "file"), Ok(stat) if stat.link_count == 2);
    expect!(root.link_at(unfollowed(), "file", &root, "also"), Err(ErrorCode::Exist));
    expect!(root.link_at(unfollowed(), "missing", &root, "new"), Err(ErrorCode::NoEntry));
    expect!(root.unlink_file_at("file"), Ok(()));
    expect!(content(&root, "also"), Ok(bytes) if bytes == b"content");
    expect!(root.create_directory_at("sub"), Ok(()));
    expect!(root.link_at(unfollowed(), "sub", &root, "sub-also"), Err(ErrorCode::NotPermitted | ErrorCode::Access));
    expect!(root.link_at(unfollowed(), "../x", &root, "new"), Err(ErrorCode::NotPermitted));
    expect!(root.link_at(unfollowed(), "also", &root, "../x"), Err(ErrorCode::NotPermitted));
}

pub fn rename() {
    let root = folder();
    make(&root, "a", b"a");
    make(&root, "b", b"b");
    expect!(root.rename_at("a", &root, "b"), Ok(()));
    expect!(content(&root, "b"), Ok(bytes) if bytes == b"a");
    expect!(content(&root, "a"), Err(ErrorCode::NoEntry));
    expect!(root.rename_at("a", &root, "c"), Err(ErrorCode::NoEntry));
    expect!(root.create_directory_at("sub"), Ok(()));
    let sub = root.open_at(FOLLOW, "sub", OpenFlags::DIRECTORY, READ | DescriptorFlags::MUTATE_DIRECTORY);
    let sub = sub.expect("it is there");
    expect!(root.rename_at("b", &sub, "moved"), Ok(()));
    expect!(content(&root, "sub/moved"), Ok(bytes) if bytes == b"a");
    expect!(root.rename_at("sub", &root, "sub/below"), Err(ErrorCode::Invalid));
    expect!(root.create_directory_at("empty"), Ok(()));
    expect!(root.rename_at("empty", &root, "sub"), Err(ErrorCode::NotEmpty | ErrorCode::Exist));
    expect!(root.rename_at("sub/moved", &root, "empty"), Err(ErrorCode::IsDirectory));
    expect!(root.rename_at("empty", &root, "sub/moved"), Err(ErrorCode::NotDirectory));
}
