//! What cannot be right of how many instances a function has: bounds that exclude each other, keys that would have no effect.

use toml::de::DeTable;

use super::super::scale::Scale;
use super::{Meaning, table, text};

/// What is only of images and processes.
const OF_CONTAINERS: [&str; 2] = ["max", "target"];

impl<'t> Meaning<'t, '_, '_, '_> {
    /// A function's instances are at least as many as they are at most, and what is said of them matters.
    pub(super) fn scale(&mut self, name: &str, function: &'t DeTable<'_>) {
        let Some(scale) = table(function, "scale") else { return };
        self.not_zero(scale, "idle");
        if let Some(flow) = self.stages().get(name)
            && let Some(value) = function.get("scale")
        {
            let message =
                format!("function {name} is a stage of flow {flow}, which has one instance for each partition");
            self.report.add("contradiction", value.span(), message).help("drop `scale`");
        }
        let number =
            |key: &str| scale.get(key).and_then(|value| value.get_ref().as_integer()?.as_str().parse::<u32>().ok());
        let is_contained = ["image", "process"].iter().any(|key| text(function, key).is_some());
        let min = number("min").unwrap_or(u32::from(!is_contained));
        if !is_contained {
            let of_containers = scale.iter().filter(|(key, _)| OF_CONTAINERS.contains(&key.get_ref().as_ref()));
            let foreign: Vec<_> = of_containers.map(|(key, _)| (key.get_ref().to_string(), key.span())).collect();
            for (key, span) in foreign {
                let message = format!("`{key}` does not concern a component: it is loaded once on a node, or not");
                self.report
                    .add("contradiction", span, message)
                    .help("drop it; `limits.concurrency` bounds its requests");
            }
            if let (2.., Some(value)) = (min, scale.get("min")) {
                let message = "a component is loaded once on a node, or not";
                self.report.add("out-of-range", value.span(), message).expected("0 or 1");
            }
        } else if let (max, Some(value)) = (number("max").unwrap_or(Scale::default().max), scale.get("min"))
            && min > max
        {
            let message = format!("there cannot be at least {min} instances and at most {max}");
            self.report.add("contradiction", value.span(), message).help("raise `max`, or lower `min`");
        }
        if let (1.., Some((_, span))) = (min, text(scale, "idle")) {
            let message = "`idle` has no effect where an instance always stays";
            self.report.add("contradiction", span, message).help("drop it, or say `min = 0`");
        }
    }
}
