//! `density`: what a thousand functions that are hardly ever called cost a node. They come from 50 distinct components (45
//! in Rust, 5 in JavaScript; `guests/catalogue` and `guests/js`) in 20 apps, are called once each, and then nothing happens
//! for a while. Then each is called again.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;

use crate::client::{Connection, Place};
use crate::fabric::{Fabric, Spec};
use crate::peers;
use crate::process::memory_mb;
use crate::results::{Results, Series, load, quantile, target};

const NODE: &str = "cloud-1";
/// How many apps, each with a function from every component.
const APPS: usize = 20;
/// The same in the short form, which leaves JavaScript out: it takes minutes to compile.
const APPS_SHORT: usize = 4;
/// How many components there are.
const COMPONENTS: usize = 50;
/// What the names of components in JavaScript begin with.
const JAVASCRIPT: &str = "js_";
/// How long nothing happens before memory is read.
const IDLE: Duration = Duration::from_secs(30);
/// The same in the short form.
const IDLE_SHORT: Duration = Duration::from_secs(5);
/// How often each function is called after it was called once; the first of these is the second call.
const PASSES: usize = 5;

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("density", short);
    let components = components(!short)?;
    let apps = if short { APPS_SHORT } else { APPS };
    if !short {
        anyhow::ensure!(components.len() == COMPONENTS, "there are {} components, not {COMPONENTS}", components.len());
    }
    let sizes: Vec<String> = components.iter().map(|c| format!("{} {} KiB", c.name, c.bytes >> 10)).collect();
    println!("{} components: {}", components.len(), sizes.join(", "));
    let fabric = Fabric::start(&peers::littoral()?, &[Spec { name: NODE, tier: "cloud", connect: &[] }])?;
    let process = fabric.process(NODE)?;
    let about = format!("{}, one node, components: {}", peers::version(&peers::littoral()?)?, sizes.join(", "));
    let functions = apps * components.len();
    let memory = |when: &str, results: &mut Results| -> anyhow::Result<f64> {
        let [resident_mb, anonymous_mb, file_mb] = memory_mb(process)?;
        let mut series = Series::new(format!("memory, {when}"), &about, "rss_mb");
        series.note(resident_mb, &[("anonymous_mb", anonymous_mb), ("file_mb", file_mb)]);
        results.series.push(series);
        Ok(resident_mb)
    };
    memory("nothing deployed", &mut results)?;
    let deployed = deploy(&fabric, &components, apps)?;
    memory("deployed", &mut results)?;
    let mut connection = Connection::open(&Place::Tcp(fabric.http(NODE)?))?;
    let paths: Vec<String> = (0..apps)
        .flat_map(|app| components.iter().map(move |component| format!("/d{app}/{}", component.route())))
        .collect();
    let mut first = Series::new(format!("first call of {functions}"), &about, "p99_ms");
    pass(&mut connection, &paths, &mut first)?;
    let idle = if short { IDLE_SHORT } else { IDLE };
    std::thread::sleep(idle);
    let resident_mb = memory(&format!("each called once, then {} s idle", idle.as_secs()), &mut results)?;
    // The node has closed the connection by now, or is about to: it was idle for long enough.
    connection = Connection::open(&Place::Tcp(fabric.http(NODE)?))?;
    let mut second = Series::new("second call", &about, "p99_ms");
    pass(&mut connection, &paths, &mut second)?;
    let mut later = Series::new("later calls", &about, "p99_ms");
    for _ in 1..PASSES {
        pass(&mut connection, &paths, &mut later)?;
    }
    if functions == APPS * COMPONENTS {
        results.ratios.insert("density_1000_rss_mb".to_owned(), resident_mb);
        results.ratios.insert("density_1000_second_call_p99_ms".to_owned(), quantile(&second.samples, 1.0));
    }
    let mut deploying = Series::new(format!("deploy {} apps", apps), &about, "s");
    deploying.note(deployed.as_secs_f64(), &[]);
    results.series.extend([deploying, first, second, later]);
    results.load.1 = load();
    results.publish()
}

/// A component of the catalogue.
struct Component {
    name: String,
    path: PathBuf,
    bytes: u64,
}

impl Component {
    /// Its name as functions are named.
    fn route(&self) -> String {
        self.name.replace('_', "-")
    }

    /// The memory that the manifest asks for. A plan sets it aside for each function, so that a thousand times the
    /// default, 64 MiB, would not fit into the machine.
    fn memory(&self) -> &'static str {
        if self.name.starts_with(JAVASCRIPT) { "32MiB" } else { "8MiB" }
    }
}

fn components(javascript: bool) -> anyhow::Result<Vec<Component>> {
    let folder = target().join("guests/bench/wasm32-wasip2/release");
    let mut folders = vec![folder.join("examples")];
    if javascript {
        folders.push(target().join("guests/bench/js"));
    }
    let mut components = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(&folder);
        for entry in entries.with_context(|| format!("{} is not there: run `make bench-guests`", folder.display()))? {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            // Cargo leaves a file with a hash beside each that has none.
            if path.extension().is_some_and(|extension| extension == "wasm") && !name.contains('-') {
                components.push(Component { name, bytes: fs::metadata(&path)?.len(), path });
            }
        }
    }
    components.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(components)
}

/// Deploys the apps one after the other, until each is healthy.
fn deploy(fabric: &Fabric, components: &[Component], apps: usize) -> anyhow::Result<Duration> {
    let folder = tempfile::tempdir()?;
    for component in components {
        fs::copy(&component.path, folder.path().join(format!("{}.wasm", component.name)))?;
    }
    let begun = Instant::now();
    for app in 0..apps {
        let mut manifest = format!("name = \"d{app}\"\nversion = \"1.0.0\"\n");
        for component in components {
            let (file, function, memory) = (&component.name, component.route(), component.memory());
            manifest += &format!(
                "\n[functions.{function}]\ncomponent = \"{file}.wasm\"\nmemory = \"{memory}\"\n\n[[routes]]\npath = \"/d{app}/{function}\"\nfunction = \"{function}\"\n"
            );
        }
        fs::write(folder.path().join("littoral.toml"), manifest)?;
        fabric.deploy(folder.path())?;
        eprintln!("app {} of {apps} after {:.0} s", app + 1, begun.elapsed().as_secs_f64());
    }
    Ok(begun.elapsed())
}

/// Calls every function once, one after the other.
fn pass(connection: &mut Connection, paths: &[String], series: &mut Series) -> anyhow::Result<()> {
    let times_ms =
        paths.iter().map(|path| connection.time(path, Bytes::new())).collect::<anyhow::Result<Vec<f64>>>()?;
    series
        .note(quantile(&times_ms, 0.99), &[("p50_ms", quantile(&times_ms, 0.5)), ("max_ms", quantile(&times_ms, 1.0))]);
    Ok(())
}
