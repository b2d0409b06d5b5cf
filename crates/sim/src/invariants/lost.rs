//! No acknowledged record is lost, and none is stored twice: each is where its producer was told, and what a flow reads
//! arrives at its end, once.

use std::collections::{BTreeMap, BTreeSet};

use littoral_model::work::WorkId;

use super::Evidence;
use crate::history::Event;

pub(super) fn check(evidence: &Evidence) -> Result<(), String> {
    let deployed: BTreeSet<_> = evidence.intents.values().flat_map(|intent| intent.apps.keys()).collect();
    let mut acknowledged: BTreeMap<&WorkId, Vec<(u64, &String)>> = BTreeMap::new();
    for (_, event) in &evidence.events {
        if let Event::Acknowledged { work, index, text } = event
            && deployed.contains(&work.app)
        {
            acknowledged.entry(work).or_default().push((*index, text));
        }
    }
    for (work, records) in &acknowledged {
        let held: BTreeMap<u64, &String> =
            evidence.streams.get(work).into_iter().flatten().map(|(index, text)| (*index, text)).collect();
        for (index, text) in records {
            if held.get(index) != Some(text) {
                return Err(format!("{text} was acknowledged as entry {index}, which now holds {:?}", held.get(index)));
            }
        }
        once(work, held.into_values())?;
    }
    let sink = evidence.streams.iter().find(|(work, _)| work.name == "alerts" && work.app.app.as_str() == "main");
    let Some((sink, arrived)) = sink else { return Err("nobody has the stream alerts".to_owned()) };
    once(sink, arrived.iter().map(|(_, text)| text))?;
    let arrived: BTreeSet<&String> = arrived.iter().map(|(_, text)| text).collect();
    let read = acknowledged.iter().filter(|(work, _)| work.name == "events");
    for text in read.flat_map(|(_, records)| records).map(|(_, text)| *text) {
        if !arrived.contains(text) {
            return Err(format!("{text} was acknowledged and did not arrive in alerts"));
        }
    }
    Ok(())
}

fn once<'a>(work: &WorkId, texts: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for text in texts {
        if !seen.insert(text) {
            return Err(format!("{text} is in {work} twice"));
        }
    }
    Ok(())
}
