//! `wasi:filesystem`: what paths mean, and where they may not lead.
use wasip2::filesystem::types::{DescriptorType, ErrorCode, OpenFlags, PathFlags};

use crate::expect;
use crate::files::{FOLLOW, READ, both, content, folder, make, unfollowed};

pub fn paths() {
    let root = folder();
    make(&root, "file", b"here");
    expect!(root.create_directory_at("sub"), Ok(()));
    expect!(root.create_directory_at("sub/deep"), Ok(()));
    for path in ["file", "./file", "sub/../file", "sub/deep/../../file", ".//file", "sub//..//file"] {
        expect!(content(&root, path), Ok(bytes) if bytes == b"here");
    }
    for path in ["..", "../", "../x", "sub/../../x", "/file", "/", "//file", "sub/../.."] {
        let open = root.open_at(FOLLOW, path, OpenFlags::empty(), READ);
        expect!(open, Err(ErrorCode::NotPermitted));
        expect!(root.stat_at(FOLLOW, path), Err(ErrorCode::NotPermitted));
        expect!(root.create_directory_at(path), Err(_));
        expect!(root.unlink_file_at(path), Err(_));
        expect!(root.rename_at("file", &root, path), Err(_));
    }
    expect!(content(&root, ""), Err(ErrorCode::NoEntry));
    expect!(content(&root, "file/below"), Err(ErrorCode::NotDirectory));
    expect!(content(&root, "missing/below"), Err(ErrorCode::NoEntry));
    expect!(root.open_at(FOLLOW, "file/", OpenFlags::empty(), READ), Err(ErrorCode::NotDirectory));
    expect!(root.stat_at(FOLLOW, "sub/"), Ok(stat) if stat.type_ == DescriptorType::Directory);
    // A descriptor below cannot reach up, either.
    let sub = root.open_at(FOLLOW, "sub", OpenFlags::DIRECTORY, READ).expect("it is there");
    expect!(content(&sub, "../file"), Err(ErrorCode::NotPermitted));
    expect!(content(&sub, "deep/../../file"), Err(ErrorCode::NotPermitted));
    let long = "x".repeat(5_000);
    expect!(content(&root, &long), Err(ErrorCode::NameTooLong));
}

pub fn symlinks() {
    let root = folder();
    make(&root, "file", b"here");
    expect!(root.create_directory_at("sub"), Ok(()));
    for (target, name) in [
        ("file", "link"),
        ("sub", "folder"),
        ("../file", "sub/up"),
        ("missing", "dangling"),
        ("two", "one"),
        ("one", "two"),
    ] {
        expect!(root.symlink_at(target, name), Ok(()));
    }
    expect!(root.symlink_at("file", "link"), Err(ErrorCode::Exist));
    expect!(root.readlink_at("link"), Ok(target) if target == "file");
    expect!(root.readlink_at("sub/up"), Ok(target) if target == "../file");
    expect!(root.readlink_at("file"), Err(ErrorCode::Invalid));
    expect!(content(&root, "link"), Ok(bytes) if bytes == b"here");
    expect!(content(&root, "folder/up"), Ok(bytes) if bytes == b"here");
    expect!(content(&root, "one"), Err(ErrorCode::Loop));
    expect!(content(&root, "dangling"), Err(ErrorCode::NoEntry));
    expect!(root.open_at(unfollowed(), "link", OpenFlags::empty(), READ), Err(ErrorCode::Loop));
    expect!(root.stat_at(unfollowed(), "link"), Ok(stat) if stat.type_ == DescriptorType::SymbolicLink);
    expect!(root.stat_at(FOLLOW, "link"), Ok(stat) if stat.type_ == DescriptorType::RegularFile);
    // Absolute targets are refused; others that lead out may be made, and lead nowhere.
    expect!(root.symlink_at("/file", "absolute"), Err(ErrorCode::NotPermitted));
    if root.symlink_at("../outside", "out").is_ok() {
        expect!(content(&root, "out"), Err(ErrorCode::NotPermitted));
        expect!(root.open_at(FOLLOW, "out", OpenFlags::CREATE, both()), Err(ErrorCode::NotPermitted));
        expect!(root.stat_at(PathFlags::SYMLINK_FOLLOW, "out"), Err(ErrorCode::NotPermitted));
    }
    expect!(root.unlink_file_at("link"), Ok(()));
    expect!(content(&root, "file"), Ok(bytes) if bytes == b"here");
    expect!(root.unlink_file_at("dangling"), Ok(()));
}
