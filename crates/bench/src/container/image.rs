//! An image of one program and nothing else, as an OCI layout.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// Where the program is in it.
const PROGRAM: &str = "server";
/// What the kernel mounts into it.
const FOLDERS: [&str; 3] = ["proc/", "dev/", "tmp/"];

/// Writes the layout into a folder.
pub(crate) fn write(folder: &Path, program: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join("blobs/sha256"))?;
    let mut layer = tar::Builder::new(Vec::new());
    let program = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    layer.append_data(&mut header(tar::EntryType::Regular, 0o755, program.len()), PROGRAM, program.as_slice())?;
    for name in FOLDERS {
        layer.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), name, std::io::empty())?;
    }
    let layer = layer.into_inner()?;
    let blob = |kind: &str, bytes: &[u8]| -> anyhow::Result<Value> {
        let name = sha256(bytes);
        fs::write(folder.join("blobs/sha256").join(&name), bytes)?;
        let media_type = format!("application/vnd.oci.image.{kind}");
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{name}"), "size": bytes.len() }))
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": { "Cmd": [format!("/{PROGRAM}")] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    });
    let (layer, config) = (blob("layer.v1.tar", &layer)?, blob("config.v1+json", config.to_string().as_bytes())?);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes())?;
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(folder.join("index.json"), index.to_string())?;
    Ok(())
}

fn header(kind: tar::EntryType, mode: u32, bytes: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
