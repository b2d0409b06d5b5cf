//! What a manifest asks for, as placement needs it.

use std::collections::BTreeMap;
use std::time::Duration;

use littoral_model::id::{AppId, TenantId};
use littoral_model::manifest::{self, Manifest};
use littoral_plan::{Ack, AppSpec, Constraints, FlowSpec, FunctionSpec, Interface, Sink, StreamSpec};

/// The artefact of a function that is not built yet, for planning.
const NOT_BUILT: &str = "";

/// What the manifest asks for. `artifacts` has the digest of each function that is built; one that is not can be planned.
pub(crate) fn app_spec(manifest: &Manifest, artifacts: &BTreeMap<String, String>) -> AppSpec {
    let functions = manifest.functions.iter().map(|(name, function)| {
        let is_stage = manifest.flows.values().any(|flow| {
            flow.stages.contains(name) || matches!(&flow.sink, Some(manifest::Sink::Function(sink)) if sink == name)
        });
        let spec = FunctionSpec {
            artifact: artifacts.get(name.as_str()).map_or(NOT_BUILT, String::as_str).to_owned(),
            interface: if is_stage { Interface::Stage } else { Interface::Http },
            memory_bytes: function.memory.into(),
            placement: constraints(&function.placement),
            execution_us: None,
        };
        (name.clone(), spec)
    });
    let streams = manifest.streams.iter().map(|(name, stream)| {
        let ack = stream.ack.map(|ack| match ack {
            manifest::Ack::Local => Ack::Local,
            manifest::Ack::Site => Ack::Site,
        });
        let placement = constraints(&stream.placement);
        (name.clone(), StreamSpec { partitions: stream.partitions, placement, ack })
    });
    let flows = manifest.flows.iter().map(|(name, flow)| {
        let sink = flow.sink.as_ref().map(|sink| match sink {
            manifest::Sink::Stream(stream) => Sink::Stream(stream.clone()),
            manifest::Sink::Function(function) => Sink::Function(function.clone()),
        });
        let spec = FlowSpec {
            source: flow.source.clone(),
            stages: flow.stages.clone(),
            sink,
            outputs: flow.outputs.clone(),
            dead_letter: flow.dead_letter.clone(),
            slo_us: flow.slo.map(|slo| u64::try_from(Duration::from(slo).as_micros()).unwrap_or(u64::MAX)),
        };
        (name.clone(), spec)
    });
    AppSpec {
        app: app_id(manifest),
        functions: functions.collect(),
        streams: streams.collect(),
        flows: flows.collect(),
    }
}

/// The app that a manifest is of.
pub(crate) fn app_id(manifest: &Manifest) -> AppId {
    AppId { tenant: TenantId::default_tenant(), app: manifest.name.clone() }
}

fn constraints(placement: &manifest::Placement) -> Constraints {
    Constraints {
        tiers: placement.tier.iter().copied().collect(),
        sites: placement.site.iter().cloned().collect(),
        labels: placement.labels.clone(),
        near: placement.near.clone(),
    }
}
