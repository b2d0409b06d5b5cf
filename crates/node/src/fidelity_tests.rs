//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use littoral_control::fidelity::{CALM_MS, RELAPSE_MS};
use littoral_model::composition::Composition;
use littoral_model::edit::{Edit, EditId};
use littoral_model::hlc::Hlc;
use littoral_model::id::{AppId, AppName, TenantId};

use littoral_plan::{Placement, Source};

use super::*;
use crate::admin::types::AppBundle;
use crate::intent::read_manifest;

const MANIFEST: &str = r#"
name = "press"
version = "1.0.0"

[functions.count]
component = "count.wasm"
variant = "coarse"
variants = [
    { name = "coarse", component = "coarse.wasm" },
    { name = "coarser", component = "coarser.wasm" },
    { name = "coarsest", component = "coarsest.wasm" },
]

[functions.clean]
component = "clean.wasm"
variants = [{ name = "rough", component = "rough.wasm" }]

[functions.judge]
component = "judge.wasm"
variants = [{ name = "lenient", component = "lenient.wasm" }]

[functions.log]
component = "log.wasm"

[streams.strokes]

[flows.wear]
source = "strokes"
stages = ["clean", "log", "count"]
sink = "worn"

[streams.worn]

[flows.told]
source = "worn"
stages = ["log"]
slo = "1s"

[flows.other]
source = "strokes"
stages = ["judge"]

[flows.rough]
source = "strokes"
stages = ["judge"]
slo = "3s"
shed = true

[sql.flows]
text = '''
CREATE STREAM readings (machine text, n bigint);
CREATE STREAM spread (machine text, ts timestamp, n bigint, WATERMARK FOR ts AS ts) PARTITIONS 2;
CREATE FLOW counted WITHIN '1 s' OR SHED AS
    SELECT machine, count(*) AS n FROM TUMBLE(spread, ts, INTERVAL '1 minute') GROUP BY machine, window_end;
CREATE FUNCTION judge (value bigint) RETURNS bigint;
CREATE FLOW judged WITHIN '1 s' AS SELECT machine, judge(n) AS verdict FROM readings;
'''
"#;

/// An app whose artefacts have their names for digests.
fn app() -> App {
    let (manifest, program) = read_manifest(MANIFEST).unwrap();
    let names = manifest.functions.iter().flat_map(|(name, function)| function.fidelities(name));
    let artifacts = names.map(|fidelity| (fidelity.artifact.clone(), format!("of-{}", fidelity.name))).collect();
    let id = AppId { tenant: TenantId::default_tenant(), app: AppName::new("press").unwrap() };
    let author = String::new();
    let (lineage, puts_aside, time) = (Vec::new(), Vec::new(), Hlc::default());
    let edit = Edit { incarnation: 1, generation: 1, ends: false, lineage, puts_aside, time, author };
    let bundle = AppBundle { manifest: MANIFEST.to_owned(), artifacts, edit: None, signature: None };
    let (works, instances, serving) = (Vec::new(), Vec::new(), Vec::new());
    let (predictions, retired) = (Vec::new(), Vec::new());
    let placement = Placement { app: id.clone(), works, instances, serving, predictions, retired }.into();
    let (composition, edit_id, lost) = (Composition::new(), EditId([0; 32]), Vec::new());
    App { id, manifest, program, bundle, placement, composition, edit, edit_id, lost }
}

/// A stage of a flow with these functions, each with the artefact that it usually has.
fn stage(flow: &str, functions: &[(&str, &str)]) -> Role {
    let function = |(name, artifact): &(&str, &str)| StageFunction {
        function: name.parse().unwrap(),
        artifact: (*artifact).to_owned(),
    };
    Role::Stage {
        flow: flow.parse().unwrap(),
        functions: functions.iter().map(function).collect(),
        input: Source { work: work(), port: "main".to_owned() },
        outputs: BTreeMap::new(),
        rescaling: None,
    }
}

#[test]
fn the_levels_of_a_stage_begin_with_the_chosen_variants_and_go_on_while_one_function_has_more() {
    let app = app();
    let role = stage("wear", &[("clean", "of-clean"), ("log", "of-log"), ("count", "of-coarse")]);
    let all = ladder(&app, &role);
    let wanted = [
        ["of-clean", "of-log", "of-coarse"],
        ["of-rough", "of-log", "of-coarser"],
        ["of-rough", "of-log", "of-coarsest"],
    ];
    assert_eq!(all, wanted);
    let told = running(&app, &role, &all[2]);
    let told: Vec<(&str, &str)> = told.into_iter().map(|(name, variant)| (name.as_str(), variant.as_str())).collect();
    assert_eq!(told, [("clean", "rough"), ("count", "coarsest")]);
    assert_eq!(ladder(&app, &stage("wear", &[("log", "of-log")])).len(), 1, "it has no variants");
}

#[test]
fn without_an_objective_there_is_one_level() {
    let app = app();
    assert_eq!(ladder(&app, &stage("other", &[("judge", "of-judge")])), [["of-judge"]]);
    let goes_on = ladder(&app, &stage("wear", &[("judge", "of-judge")]));
    assert_eq!(goes_on, [["of-judge"], ["of-lenient"]], "what goes on from there has one");
}

#[test]
fn below_the_cheapest_variants_a_flow_that_may_sheds() {
    let app = app();
    let role = stage("rough", &[("judge", "of-judge")]);
    let all = ladder(&app, &role);
    assert_eq!(all, [vec!["of-judge"], vec!["of-lenient"], vec!["of-lenient", SHEDS]]);
    let after = all.iter().map(|level| shed_after(&app, &role, level));
    assert_eq!(after.collect::<Vec<_>>(), [None, None, Some(Duration::from_millis(1_500))]);
    let told = running(&app, &role, &all[2]);
    assert_eq!(told.values().map(|variant| variant.as_str()).collect::<Vec<_>>(), ["lenient"]);
    // Of rows that came together by key none is passed over: only where they are read.
    let of = |flow: &str| {
        let function = app.manifest.flows[&flow.parse().unwrap()].stages[0].to_string();
        ladder(&app, &stage(flow, &[(&function, "of-query")])).len()
    };
    assert_eq!((of("counted-by-key"), of("counted")), (2, 1));
}

#[test]
fn what_failed_goes_on_with_the_level_above() {
    let (levels, all, epoch) = (Levels::default(), of_digests(&["fine", "coarse"]), Epoch(3));
    levels.fail(&work(), 0);
    levels.vary(all.clone(), &asked(epoch, "fine", "coarse", None), 0).unwrap();
    levels.fail(&work(), 1_000);
    assert_eq!(levels.of(&work(), &all), 0);
    let said = levels.vary(all.clone(), &asked(epoch, "fine", "coarse", None), 61_000).unwrap_err();
    assert_eq!(said, "what it ran then failed, and is not tried again for 240 s");
    levels.fail(&work(), 62_000);
    levels.vary(all.clone(), &asked(epoch, "fine", "coarse", None), 1_000 + RELAPSE_MS).unwrap();
    assert_eq!(levels.of(&work(), &all), 1, "that the usual ones fail tells nothing of cheaper ones");
}

#[test]
fn a_query_has_the_levels_of_what_it_calls() {
    let app = app();
    let (name, query) = app.manifest.queries.iter().find(|(_, query)| !query.functions.is_empty()).unwrap();
    let usual = query.artifact(std::iter::once("of-judge"));
    let role = stage("judged", &[(name.as_str(), &usual)]);
    let all = ladder(&app, &role);
    assert_eq!(all, [[usual], [query.artifact(std::iter::once("of-lenient"))]]);
    let Role::Stage { functions, .. } = &role else { panic!("{role:?}") };
    let called = |level| components(&app, &functions[0], level).remove(0).artifact;
    assert_eq!((called(0), called(1)), ("of-judge".to_owned(), "of-lenient".to_owned()));
}

fn of_digests(digests: &[&str]) -> Vec<Vec<String>> {
    digests.iter().map(|digest| vec![(*digest).to_owned()]).collect()
}

fn work() -> WorkId {
    "default/press/stage/wear.0/0@hall".parse().unwrap()
}

fn asked(epoch: Epoch, from: &str, to: &str, calm_ms: Option<u64>) -> Vary {
    Vary { work: work(), epoch, from: vec![from.to_owned()], to: vec![to.to_owned()], calm_ms }
}

#[test]
fn a_stage_goes_down_and_up_by_a_level_and_its_waits_double() {
    let (levels, all, epoch) = (Levels::default(), of_digests(&["fine", "coarse", "none"]), Epoch(3));
    let vary = |from, to, calm_ms, now_ms| levels.vary(all.clone(), &asked(epoch, from, to, calm_ms), now_ms);
    assert!(vary("fine", "none", None, 0).is_err(), "two levels at once");
    assert_eq!(lock(&levels.0).len(), 0, "what changes nothing is not kept");
    vary("fine", "coarse", None, 0).unwrap();
    assert_eq!(levels.of(&work(), &all), 1);
    assert!(vary("fine", "coarse", None, 1).is_err(), "a second watcher, which has not seen it yet");
    let said = vary("coarse", "fine", Some(CALM_MS - 1), CALM_MS).unwrap_err();
    assert_eq!(said, "it must be calm for 120 s");
    vary("coarse", "fine", Some(CALM_MS), CALM_MS).unwrap();
    assert_eq!(levels.of(&work(), &all), 0);
    assert!(vary("fine", "fine", Some(u64::MAX), 2 * CALM_MS).is_err(), "there is nothing above");
    vary("fine", "coarse", None, CALM_MS + RELAPSE_MS).unwrap();
    let said = vary("coarse", "fine", Some(CALM_MS), 10 * CALM_MS).unwrap_err();
    assert_eq!(said, "it must be calm for 240 s");
    vary("coarse", "none", None, 10 * CALM_MS).unwrap();
    assert!(vary("none", "coarse", None, 10 * CALM_MS).is_err(), "there is nothing below");
}

#[test]
fn a_level_is_of_one_epoch_and_one_deployment() {
    let (levels, all) = (Levels::default(), of_digests(&["fine", "coarse"]));
    levels.vary(all.clone(), &asked(Epoch(3), "fine", "coarse", None), 0).unwrap();
    let other = of_digests(&["finer", "coarse"]);
    assert_eq!(levels.of(&work(), &other), 0, "another component was swapped in");
    assert!(levels.vary(other.clone(), &asked(Epoch(3), "fine", "coarse", None), 0).is_err());
    assert_eq!(levels.of(&work(), &all), 1);
    levels.forget_before(&work(), Epoch(3));
    assert_eq!(levels.of(&work(), &all), 1);
    levels.forget_before(&work(), Epoch(4));
    assert_eq!(levels.of(&work(), &all), 0);
    levels.vary(other.clone(), &asked(Epoch(4), "finer", "coarse", None), 0).unwrap();
    levels.forget_other_than(&work(), &other);
    assert_eq!(levels.of(&work(), &other), 1);
    levels.forget_other_than(&work(), &all);
    assert_eq!(levels.of(&work(), &other), 0, "it was deployed with others meanwhile");
    levels.vary(other.clone(), &asked(Epoch(4), "finer", "coarse", None), 0).unwrap();
    levels.forget(&work());
    assert_eq!((levels.of(&work(), &other), lock(&levels.0).len()), (0, 0));
}
