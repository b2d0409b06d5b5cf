//! What a function is granted: folders of a node, and functions and streams of its app.

use std::ops::Range;
use std::path::{Component, Path};

use toml::de::DeTable;

use super::{Meaning, list, table, text};

impl<'t> Meaning<'t, '_, '_, '_> {
    /// Checks the grants of a function.
    pub(super) fn grants(&mut self, function: &'t DeTable<'_>) {
        let Some(grants) = table(function, "grants") else { return };
        for (seen, directory) in table(grants, "directories").into_iter().flatten() {
            self.absolute(seen.get_ref(), seen.span());
            if let Some(path) = directory.get_ref().as_str() {
                self.absolute(path, directory.span());
            }
            if let Some((path, span)) = directory.get_ref().as_table().and_then(|directory| text(directory, "path")) {
                self.absolute(path, span);
            }
        }
        for device in list(grants, "devices") {
            if let Some(path) = device.get_ref().as_str() {
                self.absolute(path, device.span());
            }
        }
        for peer in list(grants, "sockets") {
            let Some(text) = peer.get_ref().as_str().filter(|text| text.starts_with("*.")) else { continue };
            let message = format!("`{text}` cannot be granted to sockets, which know addresses and no names");
            let help = "name each host, or grant it to HTTP requests: `http = [...]`";
            self.report.add("invalid-peer", peer.span(), message).help(help);
        }
        for called in list(grants, "call") {
            let Some(name) = called.get_ref().as_str() else { continue };
            self.function(name, called.span());
            if let Some(flow) = self.stages().get(name) {
                let message = format!("function {name} is a stage of flow {flow} and cannot be called");
                self.report.add("contradiction", called.span(), message).help("publish to the flow's source instead");
            }
        }
        for stream in list(grants, "publish") {
            if let Some(name) = stream.get_ref().as_str() {
                self.stream(name, stream.span());
            }
        }
    }

    /// A path of a node, which has no folder to start from.
    pub(super) fn absolute(&mut self, path: &str, span: Range<usize>) {
        let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
        if !Path::new(path).is_absolute() || !Path::new(path).components().all(plain) {
            let message = format!("`{path}` is no absolute path");
            self.report.add("invalid-path", span, message).expected("a path from `/`, without `..`");
        }
    }
}
