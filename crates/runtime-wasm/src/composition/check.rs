//! Which function's export each imported interface of an app is, and whether both sides mean the same by it. Pure: whoever
//! deploys an app and the node that takes it ask the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use littoral_model::composition::{ComposedImport, Composition};
use littoral_model::id::FunctionName;
use wasmparser::names::{ComponentName, ComponentNameKind};

use super::types::{Interface, Interfaces, Signature};

/// How many names are listed in a message.
const NAMES_MAX: usize = 8;
/// A name that is less like the wanted one than this is not what was meant (Jaro-Winkler).
const LIKENESS_MIN: f64 = 0.8;

/// A function of an app, as far as composition goes.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// Its interfaces; none if its component is not at hand.
    pub interfaces: Option<Interfaces>,
    /// What the manifest says of its imports: the function that exports an interface.
    pub declared: BTreeMap<String, FunctionName>,
    /// The flow that it is a stage of: such a function is placed with its flow and cannot be called.
    pub stage_of: Option<String>,
}

/// Finds for each imported interface of an app the function that exports it.
///
/// # Errors
/// Everything that stands in the way, each in words for the author of the app.
pub fn compose(parts: &BTreeMap<FunctionName, Part>) -> Result<Composition, Vec<String>> {
    let mut check = Check { parts, problems: Vec::new() };
    let composition: Composition = parts
        .iter()
        .map(|(name, part)| (name.clone(), check.function(name, part)))
        .filter(|(_, imports)| !imports.is_empty())
        .collect();
    if check.problems.is_empty() { Ok(composition) } else { Err(check.problems) }
}

/// Whether two names are of one interface in versions that can stand for each other: as in Wasmtime's linker, whose
/// rules are those of semantic versions.
fn is_compatible(wanted: &str, offered: &str) -> bool {
    wanted == offered || track(wanted).is_some_and(|wanted| track(offered) == Some(wanted))
}

/// An interface's name up to the part of its version that tells incompatible ones apart.
fn track(name: &str) -> Option<(String, u64, u64)> {
    let parsed = ComponentName::new(name, 0).ok()?;
    let ComponentNameKind::Interface(interface) = parsed.kind() else { return None };
    let version = interface.version(None).ok()??;
    let base = name.split('@').next()?.to_owned();
    match (version.pre.is_empty(), version.major, version.minor) {
        (false, _, _) | (true, 0, 0) => None,
        (true, 0, minor) => Some((base, 0, minor)),
        (true, major, _) => Some((base, major, 0)),
    }
}

struct Check<'a> {
    parts: &'a BTreeMap<FunctionName, Part>,
    problems: Vec<String>,
}

impl<'a> Check<'a> {
    fn function(&mut self, name: &FunctionName, part: &'a Part) -> Vec<ComposedImport> {
        let Some(interfaces) = &part.interfaces else { return Vec::new() };
        for loose in &interfaces.loose {
            self.problems.push(format!(
                "function {name} imports `{loose}` by itself; only functions of an interface can be another function's: \
                 put it into an interface"
            ));
        }
        for (import, exporter) in &part.declared {
            if !interfaces.imports.contains_key(import) {
                let known = listed(interfaces.imports.keys());
                self.problems.push(format!(
                    "the manifest lets function {name} import `{import}` from {exporter}, but its component imports {known}"
                ));
            }
        }
        let mut composed = Vec::new();
        for (import, interface) in &interfaces.imports {
            // One that has types only is no reason to call anybody.
            if interface.functions.is_empty() && interface.bound.is_empty() {
                continue;
            }
            let bound = bound_problem(name, import, interface);
            let exporter = match part.declared.get(import) {
                Some(exporter) => self.declared(name, import, exporter),
                None => self.found(name, import),
            };
            if let Some(problem) = bound {
                self.problems.push(problem);
            } else if let Some((exporter, export)) = exporter
                && self.fits(name, import, interface, (exporter, export))
            {
                let (import, function, export) = (import.clone(), exporter.clone(), export.to_owned());
                composed.push(ComposedImport { import, function, export });
            }
        }
        composed
    }

    /// The export that the manifest names.
    fn declared(
        &mut self,
        name: &FunctionName,
        import: &str,
        exporter: &FunctionName,
    ) -> Option<(&'a FunctionName, &'a str)> {
        let (exporter, part) = self.parts.get_key_value(exporter)?;
        let exports = &part.interfaces.as_ref()?.exports;
        let export = best(import, exports.keys());
        if export.is_none() {
            let known = listed(exports.keys());
            self.problems.push(format!(
                "the manifest lets function {name} import `{import}` from {exporter}, which exports {known}"
            ));
        }
        Some((exporter, export?))
    }

    /// The one export there is.
    fn found(&mut self, name: &FunctionName, import: &str) -> Option<(&'a FunctionName, &'a str)> {
        let others = self.parts.iter().filter(|(other, _)| *other != name);
        let exports = others.filter_map(|(other, part)| Some((other, &part.interfaces.as_ref()?.exports)));
        let exports: Vec<_> = exports.collect();
        let offers: Vec<_> =
            exports.iter().filter_map(|(other, exports)| Some((*other, best(import, exports.keys())?))).collect();
        // The very version goes before others that are compatible with it.
        let exact: Vec<_> = offers.iter().filter(|(_, export)| *export == import).copied().collect();
        let offers = if exact.is_empty() { offers } else { exact };
        match offers.as_slice() {
            [only] => Some(*only),
            // Whatever is not built yet, or lies in a registry, may be what exports it.
            [] if self.parts.values().any(|part| part.interfaces.is_none()) => None,
            [] => {
                let all =
                    exports.iter().flat_map(|(other, exports)| exports.keys().map(move |export| (*other, export)));
                let nearest = nearest(import, all);
                self.problems.push(format!(
                    "function {name} imports `{import}`, which no other function of the app exports{nearest}"
                ));
                None
            }
            several => {
                let names = listed(several.iter().map(|(other, _)| other.as_str()));
                let first = several.first().map_or("FUNCTION", |(other, _)| other.as_str());
                self.problems.push(format!(
                    "function {name} imports `{import}`, which several functions export: {names}; say in the manifest \
                     which one is meant: [functions.{name}.imports] \"{import}\" = \"{first}\""
                ));
                None
            }
        }
    }

    /// Whether the exporter has every imported function, with the same types.
    fn fits(
        &mut self,
        name: &FunctionName,
        import: &str,
        interface: &Interface,
        (exporter, export): (&FunctionName, &str),
    ) -> bool {
        let before = self.problems.len();
        let part = self.parts.get(exporter);
        if let Some(flow) = part.and_then(|part| part.stage_of.as_ref()) {
            self.problems.push(format!(
                "function {name} imports `{import}` from {exporter}, which runs as a stage of flow {flow} and cannot be \
                 called: give its component a second name in `[functions]`"
            ));
        }
        let exported = part.and_then(|part| part.interfaces.as_ref()?.exports.get(export));
        for (function, wanted) in &interface.functions {
            let offered = exported.and_then(|exported| exported.functions.get(function));
            if offered != Some(wanted) {
                let sides = [(name, "imports", import, Some(wanted)), (exporter, "exports", export, offered)];
                self.problems.push(mismatch(function, sides));
            }
        }
        self.problems.len() == before
    }
}

type Side<'a> = (&'a FunctionName, &'a str, &'a str, Option<&'a Signature>);

/// Both sides, one below the other, with the definitions of the types that differ.
fn mismatch(function: &str, sides: [Side<'_>; 2]) -> String {
    let [(importer, _, import, _), (exporter, ..)] = sides;
    let mut text = format!("functions {importer} and {exporter} do not mean the same by `{function}` of `{import}`:");
    let definitions = sides.map(|(.., signature)| signature.map(Signature::definitions).unwrap_or_default());
    let [ours, theirs] = &definitions;
    let other = [theirs, ours];
    for (((name, verb, interface, signature), definitions), other) in sides.into_iter().zip(&definitions).zip(other) {
        // Writing to a String cannot fail, here and below.
        let _ = write!(text, "\n  {name} {verb} in {interface}:");
        let Some(signature) = signature else {
            let _ = write!(text, "\n    no function `{function}`");
            continue;
        };
        let _ = write!(text, "\n    {}", signature.shown(function));
        for (named, (ty, definition)) in definitions {
            if other.get(named).is_none_or(|(theirs, _)| theirs != ty) {
                let _ = write!(text, "\n    {definition}");
            }
        }
    }
    text
}

/// What keeps an interface from being another function's.
fn bound_problem(name: &FunctionName, import: &str, interface: &Interface) -> Option<String> {
    let of_functions = interface.functions.iter().filter_map(|(function, signature)| {
        let is_async = signature.is_async.then(|| format!("the async function `{function}`"));
        is_async.or_else(|| Some(format!("{} in `{function}`", signature.types().find_map(|ty| ty.bound())?)))
    });
    let all: BTreeSet<String> = interface.bound.iter().cloned().chain(of_functions).collect();
    (!all.is_empty()).then(|| {
        format!(
            "function {name} imports `{import}`, which cannot be another function's: it has {}. Resources, streams, futures, \
             error-contexts and async functions stay within one instance, and functions may run on different machines; pass \
             values of moderate types, or names of what is kept, instead",
            listed_plain(all.iter().map(String::as_str))
        )
    })
}

/// The exported name that an imported one stands for.
fn best<'a>(import: &str, exports: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let compatible = exports.filter(|export| is_compatible(import, export)).map(String::as_str);
    compatible.max_by_key(|export| *export == import)
}

fn nearest<'a>(import: &str, exports: impl Iterator<Item = (&'a FunctionName, &'a String)>) -> String {
    let ranked = exports.map(|(function, export)| (strsim::jaro_winkler(import, export), function, export));
    let best = ranked.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, ..)| *likeness >= LIKENESS_MIN);
    match best {
        Some((_, function, export)) => format!("; the nearest is `{export}` of function {function}"),
        None => "; add a function whose component exports it".to_owned(),
    }
}

fn listed(names: impl Iterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{}`", name.as_ref())).collect();
    if names.is_empty() { "nothing of another function".to_owned() } else { shortened(&names) }
}

fn listed_plain<'a>(names: impl Iterator<Item = &'a str>) -> String {
    shortened(&names.map(str::to_owned).collect::<Vec<_>>())
}

fn shortened(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_MAX).map(String::as_str).collect();
    let rest = names.len().saturating_sub(NAMES_MAX);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    shown.join(", ") + &more
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
