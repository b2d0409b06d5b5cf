//! An image of a container for tests, made of Debian's static busybox.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use ring::digest::{SHA256, digest};
use serde_json::json;

/// The package `busybox-static` has it.
pub const BUSYBOX: &str = "/usr/bin/busybox";
/// What the image's server answers: who and where it is, by what it can see.
const SCRIPT: &str = r#"#!/bin/sh
if [ "$COLOUR" = broken ]; then echo "Status: 500 Broken"; fi
[ "$QUERY_STRING" = hang ] && sleep 1000
echo "Content-Type: text/plain"
echo
case "$QUERY_STRING" in
  status) cat /proc/self/status ;;
  write) for path in /x /www/x /tmp/x; do if echo x 2>/dev/null >$path; then echo "$path written"; else echo "$path refused"; fi; done ;;
  network) cat /proc/net/dev ;;
  variables) env ;;
  mount) mount -t tmpfs none /tmp 2>&1 && echo mounted; unshare -m true 2>&1 && echo unshared; dmesg 2>&1 ;;
  processes) ps ;;
  memory) head -c 400000000 /dev/zero | tail -c 300000000 | wc -c; echo "status $?" ;;
  fork) i=0; while [ $i -lt 100 ]; do sleep 1 & i=$((i+1)); done 2>&1; echo "begun $i"; kill $(jobs -p) ;;
  end) echo >/tmp/end ;;
  direct/*) at=${QUERY_STRING#direct/}; nc -w 5 "${at%:*}" "${at##*:}" </dev/null 2>&1; echo "status $?" ;;
  get/*) wget -q -O - "http://${QUERY_STRING#get/}/path" 2>&1; echo "status $?" ;;
  tunnel/*) at=${QUERY_STRING#tunnel/}; printf 'CONNECT %s HTTP/1.1\r\nHost: nobody\r\n\r\nGET /path HTTP/1.1\r\nHost: within\r\n\r\n' "$at" | nc -w 5 127.0.0.1 3128 2>&1; echo "status $?" ;;
  spin) (while :; do :; done) >/dev/null 2>&1 & echo spins ;;
  sleep) sleep 1; echo slept ;;
  *) echo "hello from $(cat /proc/sys/kernel/hostname)" ;;
esac
"#;

/// Makes an image layout in a folder, with busybox, a page at `/page/x`, and [`SCRIPT`] at `/cgi-bin/do`.
pub fn make_layout(folder: &Path, command: &[&str]) {
    fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_mode(mode);
        layer.append_data(&mut header, path, content).unwrap();
    };
    add("bin/busybox", 0o755, &fs::read(BUSYBOX).unwrap());
    add("www/cgi-bin/do", 0o755, SCRIPT.as_bytes());
    add("www/index.html", 0o644, b"page");
    add("www/page/x", 0o644, b"page");
    add("etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\nserver:x:33:34::/:/bin/sh\n");
    for name in ["proc", "dev", "tmp"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if name == "tmp" { 0o1777 } else { 0o755 });
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        layer.append_data(&mut header, format!("{name}/"), std::io::empty()).unwrap();
    }
    let applets = [
        "sh", "echo", "cat", "env", "mount", "unshare", "dmesg", "ps", "head", "tail", "wc", "sleep", "kill", "true",
        "nc", "wget",
    ];
    for name in applets {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_mode(0o777);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&layer).unwrap();
    let sha256 =
        |bytes: &[u8]| digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let blob = |kind: &str, bytes: &[u8]| {
        fs::write(folder.join("blobs/sha256").join(sha256(bytes)), bytes).unwrap();
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() })
    };
    let stored = blob("layer.v1.tar+gzip", &gzip.finish().unwrap());
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
        "config": { "Cmd": command, "User": "server", "Env": ["PATH=/bin", "FROM_IMAGE=1", "REPLACED=image"] } });
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let manifest = blob(
        "manifest.v1+json",
        json!({ "schemaVersion": 2, "config": config, "layers": [stored] }).to_string().as_bytes(),
    );
    fs::write(folder.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string()).unwrap();
}

/// Whether a process runs; one that has ended may still wait for its parent to see it.
pub fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, fields)| !fields.starts_with(['Z', 'X']))
}
