//! `http`: requests to one component through `littoral run`, beside `wasmtime serve`, `workerd` and bare hyper, loaded by
//! wrk over 1 and 64 connections that are kept: a short answer, a computation of 10 ms, and a body of 1 MiB.
//!
//! All servers run during the whole benchmark and are loaded one at a time: each round of a cell loads every one of
//! them, every other round in the opposite order.

mod contestant;
pub(crate) mod wrk;

use std::collections::BTreeMap;
use std::fs;

use contestant::Contestant;

use crate::results::{Results, Series, load};
use crate::server::Server;

/// What is asked for; the computation last, because a server may be at work on it for a while after wrk has gone.
const PATHS: [(&str, &str); 3] = [("hello", "/"), ("1 MiB", "/big"), ("10 ms CPU", "/cpu")];
/// What takes a server as long as the guest computes: its figures have keys of their own (docs/decisions/0014).
const COMPUTES: &str = "/cpu";
/// Over so many connections.
const CONNECTIONS: [u32; 2] = [1, 64];
/// How many rounds; each is one run of every server.
const ROUNDS: usize = 5;
/// How long a server is loaded in a round, in seconds.
const SECONDS: u32 = 4;
/// The same in the short form.
const SECONDS_SHORT: u32 = 2;
/// How long each is loaded before a cell, so that nobody's first connections count. Also long enough for what computes to
/// answer once on a busy machine: 64 computations at once take two cores a third of a second.
const WARM_UP_SECONDS: u32 = 2;

/// A limit of the issue: the key, ours, the peer, and what is compared.
struct Limit {
    key: &'static str,
    ours: Contestant,
    peer: Contestant,
    of: &'static str,
}

impl Limit {
    /// Under which key a ratio of a path counts.
    fn key_of(&self, path: &str) -> String {
        if path == COMPUTES { format!("{}_cpu", self.key) } else { self.key.to_owned() }
    }
}

const RATE: &str = "requests/s";
const P99: &str = "p99_ms";

const LIMITS: [Limit; 5] = [
    Limit { key: "http_p2_rps_vs_wasmtime", ours: Contestant::LittoralP2, peer: Contestant::WasmtimeP2, of: RATE },
    Limit { key: "http_p2_p99_vs_wasmtime", ours: Contestant::LittoralP2, peer: Contestant::WasmtimeP2, of: P99 },
    Limit { key: "http_p3_rps_vs_wasmtime", ours: Contestant::LittoralP3, peer: Contestant::WasmtimeP3, of: RATE },
    Limit { key: "http_p3_rps_vs_workerd", ours: Contestant::LittoralP3, peer: Contestant::Workerd, of: RATE },
    Limit { key: "http_p3_p99_vs_workerd", ours: Contestant::LittoralP3, peer: Contestant::Workerd, of: P99 },
];

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("http", short);
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("wrk.lua");
    fs::write(&script, wrk::SCRIPT)?;
    let mut servers: Vec<(Contestant, String, Server)> = Vec::new();
    for contestant in Contestant::ALL {
        let started = contestant.configuration().and_then(|about| Ok((about, contestant.start(folder.path())?)));
        match started {
            Ok((about, server)) => servers.push((contestant, about, server)),
            Err(error) => {
                eprintln!("{}: {error:#}", contestant.name());
                results.failed.insert(contestant.name().to_owned(), format!("{error:#}"));
            }
        }
    }
    let seconds = if short { SECONDS_SHORT } else { SECONDS };
    // The ratios of all cells by key, of which the worst counts.
    let mut ratios: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (what, path) in PATHS {
        for connections in CONNECTIONS {
            let cell = format!("{what}, {connections} conn");
            let mut measured: BTreeMap<Contestant, Series> = BTreeMap::new();
            for (contestant, about, server) in &servers {
                if let Err(error) = wrk::run(&script, server.address(), path, connections, WARM_UP_SECONDS) {
                    results.failed.insert(format!("{cell}: {}", contestant.name()), format!("{error:#}"));
                    continue;
                }
                measured.insert(*contestant, Series::new(format!("{cell}: {}", contestant.name()), about, RATE));
            }
            for round in 0..ROUNDS {
                let forward = round % 2 == 0;
                for place in 0..servers.len() {
                    let place = if forward { place } else { servers.len() - 1 - place };
                    let Some((contestant, _, server)) = servers.get(place) else { continue };
                    let Some(series) = measured.get_mut(contestant) else { continue };
                    match wrk::run(&script, server.address(), path, connections, seconds) {
                        Ok(run) => series.note(run.requests_per_s, &[("p50_ms", run.p50_ms), (P99, run.p99_ms)]),
                        Err(error) => {
                            results.failed.insert(series.name.clone(), format!("{error:#}"));
                            measured.remove(contestant);
                        }
                    }
                }
            }
            eprintln!("{cell}: measured");
            for limit in &LIMITS {
                let Some(mut ours) = measured.remove(&limit.ours) else { continue };
                if let Some(peer) = measured.get(&limit.peer) {
                    let ratio = ours.compare(peer, limit.of);
                    println!("{}, {cell}: {ratio:.2}", limit.key);
                    ratios.entry(limit.key_of(path)).or_default().push(ratio);
                }
                measured.insert(limit.ours, ours);
            }
            results.series.extend(measured.into_values());
        }
    }
    for (limit, path) in LIMITS.iter().flat_map(|limit| [(limit, ""), (limit, COMPUTES)]) {
        let key = limit.key_of(path);
        let cells = PATHS.iter().filter(|(_, path)| limit.key_of(path) == key).count() * CONNECTIONS.len();
        let Some(all) = ratios.get(&key).filter(|all| all.len() == cells) else {
            results.failed.insert(key, "not every cell was measured on both sides".to_owned());
            continue;
        };
        // More requests are better, a longer time is worse.
        let worst = if limit.of == RATE { f64::min } else { f64::max };
        results.ratios.insert(key, all.iter().copied().reduce(worst).unwrap_or_default());
    }
    results.load.1 = load();
    results.publish()
}
