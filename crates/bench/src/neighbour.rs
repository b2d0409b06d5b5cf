//! `neighbour`: what neighbours on the same node do to a function's latency. Its requests come at fixed times at a fifth
//! of the node's capacity, beside two honest busy functions, and beside two that spin, one that takes memory, one that
//! floods its log and one that traps, in alternating pairs. Meanwhile the node's control is asked whether it lives.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Connection, OpenLoop, Place, capacity};
use crate::fabric::{Fabric, Spec};
use crate::guests::guest;
use crate::peers;
use crate::results::{Results, Series, load, quantile};

const NODE: &str = "cloud-1";
/// How many pairs.
const PAIRS: usize = 5;
/// How long each half of a pair takes.
const DURATION: Duration = Duration::from_secs(10);
/// The same in the short form.
const DURATION_SHORT: Duration = Duration::from_secs(3);
/// How long neighbours are at work before anything is measured: a spinner's first invocations have been ended by then.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Which share of its capacity the measured function is asked for.
const SHARE: f64 = 0.2;
/// How many connections bring its requests.
const CONNECTIONS: u32 = 16;
/// How often control is asked whether it lives.
const LIVEZ_PER_S: f64 = 50.0;
/// What behaves, and what does not, each called over a connection of its own without a pause.
const HONEST: &[&str] = &["busy-1/busy", "busy-2/busy"];
const HOSTILE: &[&str] = &["spin-1/spin", "spin-2/spin", "allocate/allocate", "log/log", "trap/trap"];

/// What does not behave, by kind.
const KINDS: [&str; 4] = ["/spin", "/allocate", "/log", "/trap"];

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("neighbour", short);
    let fabric = Fabric::start(&peers::littoral()?, &[Spec { name: NODE, tier: "cloud", connect: &[] }])?;
    let app = tempfile::tempdir()?;
    fs::copy(guest("neighbours")?, app.path().join("neighbours.wasm"))?;
    fs::write(app.path().join("littoral.toml"), manifest())?;
    fabric.deploy(app.path())?;
    let place = Place::Tcp(fabric.http(NODE)?);
    let admin = Place::Unix(fabric.socket(NODE));
    let limit = capacity(&place, "/subject/hello", CONNECTIONS, Duration::from_secs(2))?;
    let duration = if short { DURATION_SHORT } else { DURATION };
    let requests = OpenLoop {
        place,
        path: "/subject/hello".to_owned(),
        requests_per_s: limit * SHARE,
        duration,
        connections: CONNECTIONS,
    };
    let livez =
        OpenLoop { place: admin, path: "/livez".to_owned(), requests_per_s: LIVEZ_PER_S, duration, connections: 1 };
    let about = format!(
        "{}, one node, {:.0} requests/s of {limit:.0}, open loop over {CONNECTIONS} connections, {} s each",
        peers::version(&peers::littoral()?)?,
        requests.requests_per_s,
        duration.as_secs()
    );
    let mut honest = Series::new("beside two busy functions", &about, "p99_ms");
    let mut hostile = Series::new("beside spin ×2, allocate, log, trap", &about, "p99_ms");
    let mut lag =
        Series::new("admin /livez meanwhile", format!("{LIVEZ_PER_S} requests/s on the Unix socket"), "p99_ms");
    for pair in 0..PAIRS {
        for half in 0..2 {
            if (pair + half) % 2 == 0 {
                measure(&requests, &livez, HONEST, &mut honest, None)?;
            } else {
                measure(&requests, &livez, HOSTILE, &mut hostile, Some(&mut lag))?;
            }
        }
        eprintln!("pair {} of {PAIRS}", pair + 1);
    }
    results.ratios.insert("neighbour_p99_ratio".to_owned(), hostile.compare(&honest, "p99_ms"));
    let worst = lag.samples.iter().copied().fold(0.0, f64::max);
    results.ratios.insert("control_lag_p99_ms".to_owned(), worst);
    results.series.extend([honest, hostile, lag]);
    // Once beside each kind alone, which tells who does the harm; no ratio is made of it.
    for kind in KINDS {
        let alone: Vec<&str> = HOSTILE.iter().copied().filter(|neighbour| neighbour.ends_with(kind)).collect();
        let mut series = Series::new(format!("beside {} alone", kind.trim_start_matches('/')), &about, "p99_ms");
        measure(&requests, &livez, &alone, &mut series, None)?;
        results.series.push(series);
    }
    results.load.1 = load();
    results.publish()
}

/// Measures the function, and control, while neighbours are at work.
fn measure(
    requests: &OpenLoop,
    livez: &OpenLoop,
    neighbours: &[&str],
    series: &mut Series,
    lag: Option<&mut Series>,
) -> anyhow::Result<()> {
    let stop = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    thread::scope(|scope| {
        for neighbour in neighbours {
            let (stop, calls) = (&stop, &calls);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A trap may cost the connection; whatever the answer, the next call follows at once.
                    let Ok(mut connection) = Connection::open(&requests.place) else { continue };
                    while !stop.load(Ordering::Relaxed)
                        && connection.ask(&format!("/{neighbour}"), Bytes::new()).is_ok()
                    {
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        thread::sleep(SETTLE);
        let control = scope.spawn(|| livez.run());
        let measured = requests.run();
        let control = control.join();
        stop.store(true, Ordering::Relaxed);
        let latencies = measured?;
        let called = calls.load(Ordering::Relaxed) as f64;
        series.note(quantile(&latencies, 0.99), &[("p50_ms", quantile(&latencies, 0.5)), ("neighbour_calls", called)]);
        if let (Some(lag), Ok(control)) = (lag, control) {
            let control = control?;
            lag.note(
                quantile(&control, 0.99),
                &[("p50_ms", quantile(&control, 0.5)), ("max_ms", quantile(&control, 1.0))],
            );
        }
        Ok(())
    })
}

fn manifest() -> String {
    let mut text = "name = \"neighbours\"\nversion = \"1.0.0\"\n".to_owned();
    for function in ["subject/hello"].iter().chain(HONEST).chain(HOSTILE) {
        let name = function.split('/').next().unwrap_or_default();
        text +=
            &format!("\n[functions.{name}]\ncomponent = \"neighbours.wasm\"\nmemory = \"64MiB\"\ntimeout = \"1s\"\n");
        text += &format!("\n[[routes]]\npath = \"/{function}\"\nfunction = \"{name}\"\n");
    }
    text
}
