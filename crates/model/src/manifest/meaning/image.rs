//! Functions of a container's image or of a program, in place of a component or beside one: what they may say, and what does not
//! concern them.

use std::ops::Range;

use toml::de::DeTable;

use super::{Meaning, entries, functions_of, table, text};
use crate::oci::OciReference;

/// What a function may be made of, and how messages call it.
const KINDS: [(&str, &str); 3] = [("component", "a component"), ("image", "an image"), ("process", "a process")];
/// What is only of components: what they import, use within an engine, and reach by it.
const OF_COMPONENTS: [&str; 1] = ["imports"];
/// The one grant that others may have: they find a proxy for HTTP.
const GRANT_OF_OTHERS: &str = "http";
const LIMITS_OF_COMPONENTS: [&str; 3] = ["cpu", "table-elements", "core-instances"];

impl<'t> Meaning<'t, '_, '_, '_> {
    /// A function has a component, an image or a process, or a component and one of these two, and what it says fits that.
    pub(super) fn image(&mut self, name: &str, function: &'t DeTable<'_>, span: Range<usize>) {
        let said: Vec<_> = KINDS.iter().filter(|(key, _)| function.contains_key(*key)).collect();
        if said.is_empty() {
            let message = format!("function {name} lacks the key `component`");
            self.report.add("missing-key", span, message).expected("`component`, `image` or `process`, a text");
        }
        if let (Some(arguments), false) = (function.get("arguments"), function.contains_key("process")) {
            let message = "`arguments` are of a process; an image says itself what it runs, a component is given none";
            self.report.add("contradiction", arguments.span(), message).help("drop them");
        }
        let Some((key, (content, written))) =
            ["process", "image"].into_iter().find_map(|key| Some((key, text(function, key)?)))
        else {
            if let Some((_, health)) = text(function, "health") {
                let message = "`health` is of images and processes; a component is ready once it is compiled";
                self.report.add("contradiction", health, message).help("drop it");
            }
            if let Some((_, cpus)) = table(function, "limits").and_then(|limits| text(limits, "cpus")) {
                let message = "`cpus` is of images and processes; a component runs on one processor at a time";
                let help = "drop it; `cpu` bounds the CPU time of a component's call";
                self.report.add("contradiction", cpus, message).help(help);
            }
            return;
        };
        let has_component = function.contains_key("component");
        if let [.., (_, first), (_, last)] = said.as_slice()
            && said.len() > 1 + usize::from(has_component)
        {
            let message = format!("function {name} has {first} and {last}");
            self.report.add("contradiction", written, message).help("drop one of both");
        } else if key == "image" && OciReference::is_meant(content) {
            self.reference("image", content, written);
            // What is built may be the component beside it.
            if !has_component {
                self.not_built("a registry", name, function);
            }
        } else {
            self.path_inside(function, key);
        }
        if let Some((path, span)) = text(function, "health")
            && !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            let message = format!("`{path}` is no path of a request");
            self.report.add("invalid-path", span, message).expected("a path that begins with /");
        }
        let limits = table(function, "limits").into_iter().flatten();
        // Where there is a component, too, they bound that.
        let limits = limits.filter(|(key, _)| !has_component && LIMITS_OF_COMPONENTS.contains(&key.get_ref().as_ref()));
        let own = function.into_iter().filter(|(key, _)| OF_COMPONENTS.contains(&key.get_ref().as_ref()));
        let grants = table(function, "grants").into_iter().flatten();
        let grants = grants.filter(|(key, _)| key.get_ref().as_ref() != GRANT_OF_OTHERS);
        let foreign: Vec<_> =
            limits.chain(grants).chain(own).map(|(key, _)| (key.get_ref().to_string(), key.span())).collect();
        for (key, span) in foreign {
            let message = format!("`{key}` does not concern a container or process");
            let help = if has_component {
                "drop it, or let the function be a component alone"
            } else {
                "drop it, or give the function a component"
            };
            self.report.add("contradiction", span, message).help(help);
        }
        let root = self.root;
        for (flow, stage) in
            entries(root, "flows").flat_map(|(flow, table)| functions_of(table).map(move |it| (flow, it)))
        {
            if stage.0 == name {
                let is_no = if has_component { "is not a component alone" } else { "is no component" };
                let message = format!("function {name} {is_no} and cannot be a stage of flow {flow}");
                self.report.add("contradiction", stage.1, message).help("give the flow a function of a component");
            }
        }
    }
}
