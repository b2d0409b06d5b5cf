//! What a Wasm artefact's config says about a component.

use serde::Serialize;
use wasmparser::{Encoding, Parser, Payload};

use bytes::Bytes;

/// When the config says that it was made. The layout demands a time; a real one would give the same component another
/// digest with each push.
const CREATED: &str = "1970-01-01T00:00:00Z";
/// The most imports or exports that are listed.
const NAMES_MAX: usize = 1_000;

/// The config blob, as the Wasm OCI Artifact layout has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'c> {
    created: &'static str,
    architecture: &'static str,
    os: &'static str,
    layer_digests: [String; 1],
    component: &'c Interface,
}

/// What a component needs and offers.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Interface {
    exports: Vec<String>,
    imports: Vec<String>,
}

/// The config of a component with this SHA-256.
pub(super) fn config(component: &Bytes, artifact: &str) -> anyhow::Result<Bytes> {
    let interface = inspect(component)?;
    let config = Config {
        created: CREATED,
        architecture: "wasm",
        os: "wasip2",
        layer_digests: [format!("sha256:{artifact}")],
        component: &interface,
    };
    Ok(serde_json::to_vec(&config)?.into())
}

/// Reads a component's own imports and exports; those of what is nested in it are its own business.
fn inspect(component: &[u8]) -> anyhow::Result<Interface> {
    let mut interface = Interface::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => {
                anyhow::bail!("it is a core module");
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    interface.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports {
                    interface.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
        anyhow::ensure!(
            interface.imports.len() <= NAMES_MAX && interface.exports.len() <= NAMES_MAX,
            "it imports or exports more than {NAMES_MAX} things"
        );
    }
    Ok(interface)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// An empty component that exports nothing, and one within which there is a module with an import.
    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn a_component_is_told_from_a_module_and_from_nonsense() {
        assert_eq!(inspect(EMPTY).unwrap(), Interface::default());
        assert!(inspect(MODULE).unwrap_err().to_string().contains("core module"));
        assert!(inspect(b"#!/bin/sh").is_err());
        assert!(inspect(b"").is_err());
    }

    #[test]
    fn imports_and_exports_are_the_components_own() {
        let text = r#"(component
            (import "wasi:cli/environment@0.2.0" (instance))
            (core module (import "nested" "f" (func)))
            (component (import "deeper" (instance)))
            (instance $i)
            (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#;
        let interface = inspect(&wat::parse_str(text).unwrap()).unwrap();
        assert_eq!(interface.imports, ["wasi:cli/environment@0.2.0"]);
        assert_eq!(interface.exports, ["wasi:http/incoming-handler@0.2.0"]);
    }

    #[test]
    fn the_same_component_has_the_same_config() {
        let config = |bytes| config(&Bytes::from_static(bytes), "ab").unwrap();
        assert_eq!(config(EMPTY), config(EMPTY));
        let read: serde_json::Value = serde_json::from_slice(&config(EMPTY)).unwrap();
        assert_eq!(read.pointer("/os").unwrap(), "wasip2");
        assert_eq!(read.pointer("/layerDigests/0").unwrap(), "sha256:ab");
    }
}
