//! What a manifest says of cheaper variants of a function that is a stage of flows, and which of them runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::de::DeTable;

use super::Manifest;
use super::types::Function;
use crate::id::FunctionName;
use crate::oci::OciReference;

/// The most variants of a function: each is compiled wherever its stages may run.
pub const VARIANTS_MAX: usize = 7;

/// What stands between a function's name and a variant's where the artefact of the variant is meant: no name has such a sign.
const SEPARATOR: char = '@';

/// A cheaper variant of a function: another component, with the same limits, grants and configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StageVariant {
    /// What it is called; not as the function itself, for that is its own component.
    pub name: FunctionName,
    /// Its component's file, from the app's folder; or one in a registry, `oci://HOST/REPOSITORY@sha256:DIGEST`.
    pub component: String,
}

/// One of the components of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fidelity<'f> {
    /// The name of the variant; the function's for its own component.
    pub name: &'f FunctionName,
    /// By which name a bundle has it.
    pub artifact: String,
    /// Where the component is, as the manifest says it.
    pub component: &'f str,
}

impl Fidelity<'_> {
    /// The registry's component, if it comes from a registry and not from the app's folder.
    #[must_use]
    pub fn registry(&self) -> Option<OciReference> {
        OciReference::is_meant(self.component).then(|| self.component.parse().ok()).flatten()
    }
}

impl Function {
    /// Its components in order of their fidelity: its own, then its variants.
    pub fn fidelities<'f>(&'f self, name: &'f FunctionName) -> impl Iterator<Item = Fidelity<'f>> + use<'f> {
        let own = Fidelity { name, artifact: name.to_string(), component: &self.component };
        std::iter::once(own).chain(self.variants.iter().map(move |variant| Fidelity {
            name: &variant.name,
            artifact: format!("{name}{SEPARATOR}{}", variant.name),
            component: &variant.component,
        }))
    }

    /// Those that run when all is well and when it is late: the one that the manifest chooses, then the cheaper ones.
    pub fn fidelities_from_usual<'f>(&'f self, name: &'f FunctionName) -> impl Iterator<Item = Fidelity<'f>> + use<'f> {
        let usual = self.variant.as_ref().unwrap_or(name);
        self.fidelities(name).skip_while(move |fidelity| fidelity.name != usual)
    }

    /// By which name a bundle has the component that runs.
    #[must_use]
    pub fn chosen_artifact(&self, name: &FunctionName) -> String {
        let chosen = self.variant.as_ref().unwrap_or(name);
        self.fidelities(name)
            .find(|fidelity| fidelity.name == chosen)
            .map_or_else(|| name.to_string(), |of| of.artifact)
    }
}

/// A manifest's text, changed such that another variant of a function runs. None where it is written in a way that this
/// cannot change.
#[must_use]
pub fn with_variant(text: &str, function: &FunctionName, variant: &FunctionName) -> Option<String> {
    let mut wanted = toml::from_str::<Manifest>(text).ok()?;
    wanted.functions.get_mut(function)?.variant = Some(variant.clone());
    let (root, _) = DeTable::parse_recoverable(text);
    let functions = root.get_ref().get("functions")?.get_ref().as_table()?;
    let table = functions.get(function.as_str())?.get_ref().as_table()?;
    let written = match table.get("variant") {
        Some(value) => {
            vec![format!("{}\"{variant}\"{}", text.get(..value.span().start)?, text.get(value.span().end..)?)]
        }
        None => {
            let (key, _) = table.iter().find(|(key, _)| key.get_ref().as_ref() == "component")?;
            let (before, after) = text.split_at_checked(key.span().start)?;
            // On a line of its own, with what stands before the key; or within a table in braces.
            let indent = before.rsplit('\n').next().unwrap_or_default();
            let separators = [format!("\n{indent}"), ", ".to_owned()];
            separators.map(|separator| format!("{before}variant = \"{variant}\"{separator}{after}")).into()
        }
    };
    written.into_iter().find(|text| toml::from_str::<Manifest>(text).is_ok_and(|manifest| manifest == wanted))
}
