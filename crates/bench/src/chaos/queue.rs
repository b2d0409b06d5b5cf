//! `chaos-queue`: nodes of a hall are killed, paused and wiped while clients have calls accepted for later. Whether each
//! acknowledged call has its own answer in the end, and each key one call and one answer.
//!
//! Beside it the nodes run a container and a process, which outlive them, are taken up when they are back, and leave nothing in the end.
//!
//! The function answers with what it was sent, so that an answer shows whose it is. A client has each call accepted at one
//! node of the hall or another, until it is acknowledged; some it sends again to another node afterwards. Strikes hit the
//! three nodes of the hall that has the queue, one at a time, and the next only when the queue has its copies again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::{Method, StatusCode};
use littoral_runtime::container::Abilities;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::held::Held;
use super::nodes::{Nodes, slot_of};
use super::schedule::{Disturbance, Kind};
use super::{ANSWER, HOLD, LIMIT, LOOK_EVERY, in_folder, wire};
use crate::client::Place;
use crate::container;
use crate::guests::guest;
use crate::peers;
use crate::results::{Results, Series, load, quantile};

/// How many strikes there are, in the long form and in the short one.
const STRIKES: (usize, usize) = (200, 10);
/// Who is struck, and where calls are made.
pub(super) const HALL: [&str; 3] = ["edge-a1", "edge-a2", "edge-a3"];
/// How long a client pauses between two calls: of three clients, a queue remembers as many as an hour of strikes takes.
const PAUSE: Duration = Duration::from_millis(1_000);
/// One call of so many is sent again after it was acknowledged.
const AGAIN: u32 = 3;
/// How long all may take to end when nothing is struck any more.
const END: Duration = Duration::from_secs(180);
const CALLS: &str = "/v1/apps/later/functions/echo/invocations";

/// What clients were told: the names of the calls of each key.
#[derive(Default)]
struct Told(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl Told {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs it; without a seed one is drawn.
pub(crate) fn run(short: bool, seed: Option<u64>) -> anyhow::Result<()> {
    in_folder("chaos-queue", seed, async |seed, folder| strike(short, seed, folder).await)
}

async fn strike(short: bool, seed: u64, folder: &Path) -> anyhow::Result<()> {
    let littoral = peers::littoral()?;
    let mut nodes = Nodes::start(&littoral, folder).await?;
    let version = peers::version(&littoral)?;
    let done = strikes(&mut nodes, &version, (short, seed), folder).await;
    if done.is_err() {
        // They would outlive the nodes, which are killed.
        let slots = HALL.map(slot_of).into_iter().collect::<anyhow::Result<Vec<usize>>>()?;
        nodes.tell(&["delete", "beside"]).ok();
        if let Some(held) = Held::of(&nodes, &slots)? {
            held.orphans().await.iter().for_each(|orphan| println!("left: {orphan}"));
        }
    }
    done
}

async fn strikes(nodes: &mut Nodes, version: &str, (short, seed): (bool, u64), folder: &Path) -> anyhow::Result<()> {
    let mut results = Results::begin("chaos-queue", short);
    deploy(nodes, folder)?;
    let slots = HALL.map(slot_of).into_iter().collect::<anyhow::Result<Vec<usize>>>()?;
    let mut held = Held::of(nodes, &slots)?;
    match &held {
        Some(_) => deploy_held(nodes, folder)?,
        None => {
            let reason = "this machine runs neither containers nor processes".to_owned();
            results.failed.insert("chaos_queue_orphans".to_owned(), reason);
        }
    }
    let places: Vec<Place> = slots.iter().map(|slot| nodes.admin(*slot)).collect();
    let (stop, stopped) = watch::channel(false);
    let told = Arc::<Told>::default();
    let mut clients = JoinSet::new();
    for client in 0..HALL.len() {
        clients.spawn(call(client, places.clone(), Arc::clone(&told), stopped.clone()));
    }
    let mut random = StdRng::seed_from_u64(seed);
    let mut series = Series::new("strike and mend", format!("{version}, seed {seed}"), "resume_s");
    println!(
        "{:>6} {:8} {:8} {:6} {:>8} {:>8} {:>9}",
        "strike", "kind", "node", "owner", "waiting", "told", "resume_s"
    );
    for number in 1..=if short { STRIKES.1 } else { STRIKES.0 } {
        let queue = whole(nodes, &places).await?;
        let kind = [Kind::Kill, Kind::Pause, Kind::Wipe].get(random.random_range(0..3)).copied().unwrap_or(Kind::Kill);
        let at = random.random_range(0..slots.len());
        let slot = slots.get(at).copied().unwrap_or_default();
        let disturbance = Disturbance { kind, slot };
        let is_owner = queue.owner.starts_with(HALL.get(at).copied().unwrap_or("-"));
        let (begun, told_before) = (Instant::now(), told.lock().len());
        let ran = held.as_mut().map(|held| held.running(slot)).unwrap_or_default();
        nodes.strike(disturbance)?;
        let mut is_struck = true;
        while told.lock().len() < told_before + HALL.len() {
            // The vote of one that was wiped before may not be another's yet: then the hall needs this one to decide.
            if is_struck && begun.elapsed() > HOLD * 2 {
                nodes.mend(disturbance).await?;
                is_struck = false;
            }
            anyhow::ensure!(begun.elapsed() < LIMIT, "no call was accepted for {} s", LIMIT.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let resume_s = begun.elapsed().as_secs_f64();
        series.note(resume_s, &[("waiting", queue.waiting as f64), ("owner", f64::from(u8::from(is_owner)))]);
        let (what, target, waiting) = (kind.names()[0], disturbance.target(), queue.waiting);
        println!("{number:>6} {what:8} {target:8} {is_owner:6} {waiting:>8} {told_before:>8} {resume_s:>9.2}");
        if is_struck {
            tokio::time::sleep(HOLD.saturating_sub(begun.elapsed())).await;
            nodes.mend(disturbance).await?;
        }
        // Of a disk that was lost nothing is taken up.
        if let (Some(held), Kind::Kill | Kind::Pause) = (&mut held, kind) {
            held.settle(slot, &ran).await?;
        }
    }
    whole(nodes, &places).await?;
    stop.send_replace(true);
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let told = std::mem::take(&mut *told.lock());
    let (lost, doubled) = check(&told, &places).await?;
    println!("{} calls acknowledged, {} lost, {} doubled", told.len(), lost.len(), doubled.len());
    if let Some(held) = &held {
        nodes.tell(&["delete", "beside"])?;
        let orphans = held.orphans().await;
        println!(
            "{} containers taken up, {} started anew, {} things left",
            held.adopted,
            held.restarted.len(),
            orphans.len()
        );
        orphans.iter().for_each(|orphan| println!("left: {orphan}"));
        let figures = [
            ("chaos_queue_adopted", held.adopted as f64),
            ("chaos_queue_restarted", held.restarted.len() as f64),
            ("chaos_queue_orphans", orphans.len() as f64),
        ];
        results.ratios.extend(figures.map(|(name, figure)| (name.to_owned(), figure)));
    }
    let figures = [
        ("chaos_queue_lost", lost.len() as f64),
        ("chaos_queue_doubled", doubled.len() as f64),
        ("chaos_queue_acknowledged", told.len() as f64),
        ("chaos_queue_strikes", series.samples.len() as f64),
        ("chaos_queue_resume_p95_s", quantile(&series.samples, 0.95)),
    ];
    results.ratios.extend(figures.map(|(name, figure)| (name.to_owned(), figure)));
    results.series.push(series);
    results.load.1 = load();
    results.publish()?;
    anyhow::ensure!(lost.is_empty() && doubled.is_empty(), "lost: {lost:?}; doubled: {doubled:?}");
    Ok(())
}

/// Deploys an app whose function answers with what it is sent, in the hall.
fn deploy(nodes: &Nodes, folder: &Path) -> anyhow::Result<()> {
    let source = folder.join("apps/later");
    std::fs::create_dir_all(&source)?;
    std::fs::copy(guest("echo")?, source.join("echo.wasm"))?;
    let text = "name = \"later\"\nversion = \"1.0.0\"\n\n[functions.echo]\ncomponent = \"echo.wasm\"\nmemory = \"8MiB\"\n\
                placement = { site = \"hall-a\" }\nasync = { backoff = \"100ms\" }\n";
    std::fs::write(source.join("littoral.toml"), text)?;
    let source = source.to_str().context("the folder's name is not text")?;
    nodes.tell(&["deploy", source, "--no-build", "--timeout", "5min", "-o", "json"]).map(drop)
}

/// Deploys a container, where this machine has a runtime, and a process beside it.
fn deploy_held(nodes: &Nodes, folder: &Path) -> anyhow::Result<()> {
    let (source, server) = (folder.join("apps/beside"), container::server()?);
    std::fs::create_dir_all(&source)?;
    std::fs::copy(&server, source.join("server"))?;
    let mut text = "name = \"beside\"\nversion = \"1.0.0\"\n".to_owned();
    let mut function = |name: &str, what: &str| {
        text += &format!(
            "\n[functions.{name}]\n{what} = \"server\"\nplacement = {{ site = \"hall-a\" }}\nscale = {{ min = 1 }}\n"
        );
    };
    function("process", "process");
    if Abilities::find(std::env::var_os("PATH").as_deref()).images.is_ok() {
        container::image::write(&source.join("image"), &server)?;
        function("container", "image");
        text = text.replace("image = \"server\"", "image = \"image\"");
    }
    std::fs::write(source.join("littoral.toml"), text)?;
    let source = source.to_str().context("the folder's name is not text")?;
    nodes.tell(&["deploy", source, "--no-build", "--timeout", "5min", "-o", "json"]).map(drop)
}

/// Has calls accepted, one after the other, at whichever node of the hall takes them.
async fn call(
    client: usize,
    places: Vec<Place>,
    told: Arc<Told>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    for number in 0_u32.. {
        let key = format!("{client}-{number}");
        let repeats = if number % AGAIN == 0 { 2 } else { 1 };
        let mut turn = client;
        for _ in 0..repeats {
            loop {
                let place = places.get(turn % places.len()).context("there is no node")?;
                turn += 1;
                if let Some(name) = accepted(place, &key).await {
                    told.lock().entry(key.clone()).or_default().insert(name);
                    break;
                }
                if *stopped.borrow() {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        }
    }
    Ok(())
}

/// Sends a call with a key, which is its body, too; its name if it was acknowledged.
async fn accepted(place: &Place, key: &str) -> Option<String> {
    let body = json!({
        "call": { "method": "POST", "path": "/", "headers": [], "body_base64": STANDARD.encode(key) },
        "key": key,
    });
    let answer = wire::ask(place, Method::POST, CALLS, Bytes::from(body.to_string()), LIMIT / 3).await;
    let (_, body) = answer.ok().filter(|(status, _)| *status == StatusCode::ACCEPTED)?;
    let told: Value = serde_json::from_slice(&body).ok()?;
    Some(told.get("id")?.as_str()?.to_owned())
}

/// The queue, once it stands any one strike: two nodes or more have all of it, and those of the hall vote.
struct Queue {
    owner: String,
    waiting: usize,
}

async fn whole(nodes: &Nodes, places: &[Place]) -> anyhow::Result<Queue> {
    let deadline = Instant::now() + LIMIT;
    let hall =
        HALL.into_iter().map(|role| Ok(nodes.name(slot_of(role)?))).collect::<anyhow::Result<BTreeSet<&str>>>()?;
    loop {
        for place in places {
            if !votes(place, &hall).await {
                continue;
            }
            let Ok(report) = wire::get(place, "/v1/invocations?app=later", ANSWER).await else { continue };
            let queue = report.pointer("/queues/0");
            let copies = queue.and_then(|queue| queue.get("in_sync")?.as_array().map(Vec::len)).unwrap_or(0);
            let owner = queue.and_then(|queue| queue.get("owner")?.as_str()).unwrap_or_default();
            let waits = |call: &&Value| call.get("state").and_then(Value::as_str) == Some("waiting");
            let calls = report.get("invocations").and_then(Value::as_array);
            let answers = queue.and_then(|queue| queue.get("answers")?.as_bool()) == Some(true);
            if answers && copies >= 2 {
                let waiting = calls.map_or(0, |calls| calls.iter().filter(waits).count());
                return Ok(Queue { owner: owner.to_owned(), waiting });
            }
        }
        let late = "the queue has no two copies, or the hall not its three voters";
        anyhow::ensure!(Instant::now() < deadline, "{late} within {} s", LIMIT.as_secs());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether the nodes of the hall, and they alone, vote there, and all of them are alive.
pub(super) async fn votes(place: &Place, hall: &BTreeSet<&str>) -> bool {
    let Ok(sites) = wire::get(place, "/v1/sites", ANSWER).await else { return false };
    let is_hall = |site: &&Value| site.get("name").and_then(Value::as_str) == Some("hall-a");
    let site = sites.as_array().and_then(|sites| sites.iter().find(is_hall));
    let voters = site.and_then(|site| site.get("voters")?.as_array()).into_iter().flatten();
    let alive = voters.filter(|voter| voter.get("alive").and_then(Value::as_bool) == Some(true));
    alive.filter_map(|voter| voter.get("node")?.as_str()).collect::<BTreeSet<_>>() == *hall
        && ["decides", "settled"].iter().all(|key| site.and_then(|site| site.get(key)?.as_bool()) == Some(true))
}

/// The keys without their own answer, and those with two calls.
async fn check(
    told: &BTreeMap<String, BTreeSet<String>>,
    places: &[Place],
) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let doubled = told.iter().filter(|(_, names)| names.len() > 1).map(|(key, _)| key.clone()).collect();
    let (deadline, mut lost) = (Instant::now() + END, Vec::new());
    for (key, names) in told {
        let name = names.first().context("a key without a call")?;
        loop {
            let mut has_answer = false;
            for place in places {
                let result = wire::get(place, &format!("/v1/invocations/{name}/result"), ANSWER).await.ok();
                let body = result.and_then(|result| Some(result.get("body_base64")?.as_str()?.to_owned()));
                has_answer |= body.is_some_and(|body| STANDARD.decode(body).is_ok_and(|body| body == key.as_bytes()));
                if has_answer {
                    break;
                }
            }
            if has_answer {
                break;
            }
            if Instant::now() >= deadline {
                lost.push(format!("{key} ({name})"));
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok((lost, doubled))
}
