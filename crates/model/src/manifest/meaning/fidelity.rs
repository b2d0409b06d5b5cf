//! What cannot be right of the variants of a function: of what is no stage, names and components that are there already.

use std::collections::BTreeSet;

use toml::de::DeTable;

use super::super::fidelity::VARIANTS_MAX;
use super::{Meaning, list, table, text};
use crate::library::LibraryReference;
use crate::oci::OciReference;

impl<'t> Meaning<'t, '_, '_, '_> {
    /// A function with variants is a component and a stage, each variant is another component, and the chosen one is there.
    pub(super) fn variants(&mut self, name: &'t str, function: &'t DeTable<'_>) {
        if let Some(value) = function.get("variants") {
            let is_contained = ["image", "process"].iter().any(|key| function.contains_key(*key));
            // What statements call is known where they are read.
            let may_be_called = table(self.root, "sql").is_some_and(|sql| !sql.is_empty());
            let contradiction = if is_contained {
                let help = "drop `variants`; of a component and a container that answers which costs less";
                Some((format!("function {name} is no component alone, and only such a one has variants"), help))
            } else if !may_be_called && !self.stages().contains_key(name) {
                let help = "drop `variants`, or let a flow have it as a stage";
                Some((format!("function {name} is no stage of a flow, and only stages run variants"), help))
            } else {
                None
            };
            if let Some((message, help)) = contradiction {
                self.report.add("contradiction", value.span(), message).help(help);
            }
            if list(function, "variants").len() > VARIANTS_MAX {
                let message = format!("function {name} has too many variants");
                self.report.add("out-of-range", value.span(), message).expected(format!("at most {VARIANTS_MAX}"));
            }
        }
        let mut names = BTreeSet::from([name]);
        let mut components: BTreeSet<&str> = text(function, "component").into_iter().map(|(file, _)| file).collect();
        for variant in list(function, "variants").iter().filter_map(|variant| variant.get_ref().as_table()) {
            if let Some((called, span)) = text(variant, "name")
                && !names.insert(called)
            {
                let message = if called == name {
                    format!("`{called}` is the function's own component")
                } else {
                    format!("there are two variants `{called}` of function {name}")
                };
                self.report.add("duplicate", span, message).help("call it something else");
            }
            let Some((component, span)) = text(variant, "component") else { continue };
            if !components.insert(component) {
                let message = format!("`{component}` is a component of function {name} already");
                self.report.add("duplicate", span.clone(), message).help("drop the variant, or give it another one");
            }
            if OciReference::is_meant(component) {
                self.reference("component", component, span);
            } else if LibraryReference::is_meant(component) {
                let message = "a variant cannot be an operator of a library";
                self.report.add("contradiction", span, message).expected("a file of the app, or one in a registry");
            } else {
                self.path_inside(variant, "component");
            }
        }
        if let Some((chosen, span)) = text(function, "variant")
            && !names.contains(chosen)
        {
            let message = format!("function {name} has no variant `{chosen}`");
            let known = names.iter().copied();
            self.report.add("unknown-name", span, message).one_of(known.clone()).nearest(chosen, known);
        }
    }
}
