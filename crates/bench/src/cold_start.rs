//! `coldstart`: from a function that was deployed and never called to its first answer, beside `wasmtime serve` started on
//! a precompiled file.
//!
//! From memory: over HTTP, at a node on which every function has just been deployed. From the disk's cache and
//! uncompiled: with the runtime of the node in this process, from the component's bytes to the last byte of the answer,
//! because a node loads what is deployed before anybody calls. Each function is a component of its own (the same code
//! under different digests), so that no call finds what another one left.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Request;
use littoral_runtime::http::{HttpFunction, HttpSettings, full};
use littoral_runtime::{Runtime, RuntimeOptions, Shards};

use crate::client::{Connection, Place};
use crate::fabric::{self, Fabric, Spec};
use crate::guests::{distinct, guest};
use crate::peers;
use crate::results::{Results, Series, load, quantile};
use crate::server::{Server, free_address};

/// How many rounds; each visits every contestant.
const ROUNDS: usize = 5;
/// How many functions are called for the first time in a round.
const FUNCTIONS: u8 = 40;
/// The same in the short form.
const FUNCTIONS_SHORT: u8 = 10;
/// How many processes are started in a round.
const STARTS: usize = 10;
/// The same in the short form.
const STARTS_SHORT: usize = 3;
const UNIT: &str = "p50_ms";
const NODE: &str = "cloud-1";
/// The component, `guests/http-p2`, with a short answer.
const COMPONENT: &str = "http_p2";

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("coldstart", short);
    let (functions, starts) = if short { (FUNCTIONS_SHORT, STARTS_SHORT) } else { (FUNCTIONS, STARTS) };
    let component = fs::read(guest(COMPONENT)?)?;
    let folder = tempfile::tempdir()?;
    let precompiled = folder.path().join("component.cwasm");
    fabric::run(
        Command::new(peers::wasmtime()?)
            .args(["compile", "-O", "pooling-allocator=y", "-o"])
            .arg(&precompiled)
            .arg(guest(COMPONENT)?),
    )?;
    let (littoral, wasmtime) = (peers::littoral()?, peers::wasmtime()?);
    let (our_version, peer_version) = (peers::version(&littoral)?, peers::version(&wasmtime)?);
    let size = format!("component of {} KiB", component.len() >> 10);
    let mut series = [
        Series::new(
            "wasmtime serve on a precompiled file",
            format!(
                "{peer_version}, serve -O pooling-allocator=y -S cli --allow-precompiled, process start to first answer"
            ),
            UNIT,
        ),
        Series::new(
            "littoral run, the first time",
            format!("{our_version}, {size}, uncompiled, process start to first answer"),
            UNIT,
        ),
        Series::new(
            "littoral run, again",
            format!("{our_version}, {size}, from its cache, process start to first answer"),
            UNIT,
        ),
        Series::new("from memory", format!("{our_version}, {size}, a node's HTTP, deployed and never called"), UNIT),
        Series::new("from the disk's cache", format!("{our_version}, {size}, load, link, first answer"), UNIT),
        Series::new("uncompiled", format!("{our_version}, {size}, compile, link, first answer"), UNIT),
    ];
    let mut caches = 0_u32;
    for round in 0..ROUNDS {
        let mut turns: Vec<usize> = (0..series.len()).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            let times_ms = match turn {
                0 => process_starts(starts, |address| {
                    let mut command = Command::new(&wasmtime);
                    command.args([
                        "serve",
                        "-O",
                        "pooling-allocator=y",
                        "-S",
                        "cli",
                        "--allow-precompiled",
                        "--addr",
                        address,
                    ]);
                    command.arg(&precompiled);
                    command
                })?,
                1 | 2 => {
                    let first = turn == 1;
                    process_starts(starts, |address| {
                        caches += 1;
                        let cache = if first { format!("cache-{caches}") } else { "cache".to_owned() };
                        let mut command = Command::new(&littoral);
                        command.env("XDG_CACHE_HOME", folder.path().join(cache));
                        command.args(["run", "--addr", address]).arg(guest(COMPONENT).unwrap_or_default());
                        command
                    })?
                }
                3 => from_memory(&component, functions)?,
                4 => in_process(&component, functions, true)?,
                _ => in_process(&component, functions, false)?,
            };
            if let Some(series) = series.get_mut(turn) {
                let worst = quantile(&times_ms, 1.0);
                series.note(quantile(&times_ms, 0.5), &[("p99_ms", quantile(&times_ms, 0.99)), ("max_ms", worst)]);
            }
        }
        eprintln!("round {} of {ROUNDS}", round + 1);
    }
    let [peer, rest @ ..] = &mut series;
    for ours in rest {
        ours.compare(peer, UNIT);
    }
    for (key, place) in [("cold_memory_p50_ms", 3), ("cold_disk_p50_ms", 4)] {
        if let Some(series) = series.get(place) {
            results.ratios.insert(key.to_owned(), series.samples.iter().copied().fold(0.0, f64::max));
        }
    }
    results.series.extend(series);
    results.load.1 = load();
    results.publish()
}

/// From the start of a process to its first answer.
fn process_starts(count: usize, mut command: impl FnMut(&str) -> Command) -> anyhow::Result<Vec<f64>> {
    let folder = tempfile::tempdir()?;
    let start = |_| {
        let address = free_address()?;
        let begun = Instant::now();
        let server = Server::start(command(&address.to_string()), address, &folder.path().join("log"))?;
        Connection::open(&Place::Tcp(server.address()))?.time("/", Bytes::new())?;
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    };
    (0..count).map(start).collect()
}

/// The first call of functions that a node has just loaded.
fn from_memory(component: &[u8], functions: u8) -> anyhow::Result<Vec<f64>> {
    let fabric = Fabric::start(&peers::littoral()?, &[Spec { name: NODE, tier: "cloud", connect: &[] }])?;
    let app = tempfile::tempdir()?;
    let mut manifest = "name = \"cold\"\nversion = \"1.0.0\"\n".to_owned();
    for number in 0..functions {
        fs::write(app.path().join(format!("f{number}.wasm")), distinct(component, number))?;
        manifest += &format!(
            "\n[functions.f{number}]\ncomponent = \"f{number}.wasm\"\n\n[[routes]]\npath = \"/f{number}\"\nfunction = \"f{number}\"\n"
        );
    }
    // One more that is called beforehand, so that the connection and the node's HTTP have been used.
    fs::write(app.path().join("warm.wasm"), component)?;
    manifest += "\n[functions.warm]\ncomponent = \"warm.wasm\"\n\n[[routes]]\npath = \"/warm\"\nfunction = \"warm\"\n";
    fs::write(app.path().join("littoral.toml"), manifest)?;
    fabric.deploy(app.path())?;
    let mut connection = Connection::open(&Place::Tcp(fabric.http(NODE)?))?;
    connection.time("/warm", Bytes::new())?;
    (0..functions)
        .map(|number| {
            // Calls that come one by one, as first calls do.
            std::thread::sleep(Duration::from_millis(5));
            connection.time(&format!("/f{number}"), Bytes::new())
        })
        .collect()
}

/// From a component's bytes to the first answer in this process, with or without its code in the cache.
fn in_process(component: &[u8], functions: u8, cached: bool) -> anyhow::Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    runtime.block_on(async {
        if cached {
            // Another engine fills the cache, so that this one's memory holds nothing of it.
            let engine = engine(folder.path())?;
            for number in 0..functions {
                engine.load(distinct(component, number).into()).await?;
            }
        }
        let engine = engine(folder.path())?;
        let shards = Shards::for_this_machine()?;
        let mut times_ms = Vec::new();
        for number in 0..functions {
            let bytes: Bytes = distinct(component, number).into();
            let engine = engine.clone();
            let begun = Instant::now();
            let artifact = engine.load(bytes).await?;
            let function = HttpFunction::new(&engine, &artifact, HttpSettings::default())?;
            let answered = shards.spawn(shards.pick(), move || async move {
                let response = function.call(Request::builder().uri("http://bench/").body(full(""))?).await;
                anyhow::ensure!(response.status().is_success(), "the function answered {}", response.status());
                response.into_body().collect().await.context("the body broke off")?;
                Ok(())
            });
            answered.await??;
            times_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times_ms)
    })
}

fn engine(folder: &Path) -> anyhow::Result<Runtime> {
    Ok(Runtime::new(RuntimeOptions { cache_dir: Some(folder.join("cache")), ..RuntimeOptions::default() })?)
}
