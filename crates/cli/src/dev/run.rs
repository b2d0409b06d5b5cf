//! A run: publishes what the sensors feed, and either goes on until it is told to end, or checks what came out.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::{join_all, try_join_all};
use littoral_model::id::{NodeId, Tier};
use littoral_model::manifest::Sensor;
use littoral_node::admin::events::{EventKind, EventsReport};
use littoral_node::admin::types::FlowStatus;
use tokio::time::Instant;

use super::Continuum;
use super::collect::{Outcome, Tally, alarms, dump, tally};
use super::fault::Kind;
use super::feed::{Amount, Feed, feeds, read_series};
use super::progress;
use super::replay::{Phase, Replayer, Written};
use super::report::{Demands, Measured, Report, Strike};
use super::strike::Stage;
use crate::app::parse_time;
use crate::args::DevArgs;
use crate::client::Client;
use crate::failure::Usage;
use crate::output::{self, Table};

/// How many malformed records are mixed in.
const MALFORMED: usize = 100;
/// Records a second while paced, over all sensors: in a checked run, and where people watch.
const RATE_ONCE: u64 = 2_000;
const RATE_DEMO: u64 = 200;
/// How long the paced replay takes: in a checked run, and in the demonstration.
const TIME_ONCE: Duration = Duration::from_secs(60);
const TIME_DEMO: Duration = Duration::from_secs(20);
/// How many sensors the demonstration has: about half a million records.
const SENSORS_DEMO: u32 = 34;
/// How long to wait for records to come out while none do.
const STALL: Duration = Duration::from_secs(60);
/// How often is looked whether more has come out.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a checked run does.
struct Plan {
    sensors: Vec<Sensor>,
    outcome: Outcome,
    amount: Amount,
    rate: f64,
    paced: Phase,
    then_full_speed: bool,
}

impl Continuum {
    /// Publishes at a pace and goes on until the future is dropped.
    pub(super) async fn serve(self, args: &DevArgs) -> anyhow::Result<ExitCode> {
        self.print_places().await?;
        let sensors = self.sensors();
        if !sensors.is_empty() {
            let amount = Amount { sensors: args.sensors, records_max: usize::MAX, malformed: 0, seed: args.seed };
            let written = Arc::new(Written::open(&self.out)?);
            let rate = args.rate.unwrap_or(RATE_DEMO);
            let replayers = self.replayers(&sensors, amount, &written).await?;
            let phase =
                Phase { named_only: false, rate: Some(rate as f64 / replayers.len().max(1) as f64), time: None };
            println!("the sensors publish {rate} records a second");
            try_join_all(replayers.into_iter().map(|replayer| replayer.run(phase))).await?;
            println!("the sensors have nothing more to publish");
        }
        // Whoever started it ends it.
        std::future::pending().await
    }

    async fn print_places(&self) -> anyhow::Result<()> {
        let cluster = self.cluster.lock().await;
        let name = &self.app.manifest.name;
        let mut table = Table::new(&["NODE", "TIER", "HTTP", "ADMIN SOCKET"]);
        for process in cluster.processes.values() {
            let http = process.http().map_or_else(|| "-".to_owned(), |http| format!("http://{http}"));
            let socket = process.data().join("admin.sock").display().to_string();
            table.row([process.spec.name.to_string(), process.spec.tier.to_string(), http, socket]);
        }
        let mut text = format!("\n{name} runs.\n\n{}\nIn another terminal:\n\n", table.render());
        text.push_str(&format!("  littoral get nodes\n  littoral get flows --watch\n  littoral logs -f {name}\n"));
        for route in &self.app.manifest.routes {
            if let Some(http) = cluster.processes.values().find_map(super::cluster::Process::http) {
                text.push_str(&format!("  curl http://{http}{}\n", route.path));
            }
        }
        if let Some(mqtt) = cluster.processes.values().find_map(super::cluster::Process::mqtt) {
            text.push_str(&format!("  mosquitto_sub -h {} -p {} -v -t '#'\n", mqtt.ip(), mqtt.port()));
        }
        text.push_str("\nCtrl-C stops it.\n\n");
        output::print(&text)
    }

    fn sensors(&self) -> Vec<Sensor> {
        self.app.manifest.dev.as_ref().map(|dev| dev.sensors.clone()).unwrap_or_default()
    }

    async fn replayers(
        &self,
        sensors: &[Sensor],
        amount: Amount,
        written: &Arc<Written>,
    ) -> anyhow::Result<Vec<Replayer>> {
        let series = sensors.iter().map(|sensor| read_series(&self.app.folder.join(&sensor.file)));
        let series = series.collect::<anyhow::Result<Vec<_>>>()?;
        let cluster = self.cluster.lock().await;
        let name = self.app.manifest.name.as_str();
        let feeds: Vec<Feed> = feeds(sensors, &series, amount);
        let replayers = feeds.into_iter().map(|feed| {
            let client = cluster.process(&feed.node)?.client();
            Replayer::new(name, feed, client, Arc::clone(written), &self.out)
        });
        replayers.collect()
    }

    fn plan(&self, args: &DevArgs) -> anyhow::Result<Plan> {
        let sensors = self.sensors();
        let Some(first) = sensors.first() else {
            return Err(Usage::new("there is nothing to check: the app has no sensors")
                .hint("name some in `dev.sensors` of littoral.toml, or run without --once")
                .into());
        };
        let outcome = Outcome::of(&self.app.manifest, first.stream.as_str())
            .with_context(|| format!("no flow with an output reads the stream {}", first.stream))?;
        let (default_rate, default_time) = if args.demo { (RATE_DEMO, TIME_DEMO) } else { (RATE_ONCE, TIME_ONCE) };
        let rate = args.rate.unwrap_or(default_rate) as f64;
        let time = args.duration.as_deref().map_or(Ok(default_time), |text| parse_time("--duration", text))?;
        let amount = Amount {
            sensors: args.sensors.or(args.demo.then_some(SENSORS_DEMO)),
            // A checked run publishes what fits into its time; the demonstration publishes all.
            records_max: if args.demo { usize::MAX } else { (rate * time.as_secs_f64()) as usize },
            malformed: MALFORMED,
            seed: args.seed,
        };
        let paced = Phase { named_only: args.demo, rate: None, time: args.demo.then_some(time) };
        Ok(Plan { sensors, outcome, amount, rate, paced, then_full_speed: args.demo })
    }

    /// Publishes, strikes, waits until all has come out, and says whether all of it held.
    pub(super) async fn check(self, args: &DevArgs) -> anyhow::Result<ExitCode> {
        let plan = self.plan(args)?;
        let written = Arc::new(Written::open(&self.out)?);
        std::fs::create_dir_all(self.out.join("output"))?;
        let mut replayers = self.replayers(&plan.sensors, plan.amount, &written).await?;
        let total: usize = replayers.iter().map(|replayer| replayer.feed.total()).sum();
        let total = total as u64;
        let mut measured = Measured { plan: Some(self.plan.clone()), ..Measured::default() };
        progress::say(&format!("publishing {total} records, {MALFORMED} of them malformed (seed {})", args.seed));
        let begun = Instant::now();
        let paced = Phase { rate: Some(plan.rate / replayers.len().max(1) as f64), ..plan.paced };
        let replaying = try_join_all(replayers.into_iter().map(|replayer| replayer.run(paced)));
        let striking = try_join_all(self.faults.iter().map(|fault| {
            let (app, scored) = (self.app.manifest.name.as_str(), plan.outcome.scored.as_str());
            let published = written.published.subscribe();
            Stage { cluster: &self.cluster, app, scored, out: &self.out, published, total }.strike(fault)
        }));
        let both = futures::future::try_join(replaying, striking);
        tokio::select! {
            done = both => (replayers, _) = done?,
            () = progress::follow(written.published.subscribe(), total) => return Ok(ExitCode::FAILURE),
        }
        measured.paced_seconds = begun.elapsed().as_secs_f64();
        if plan.then_full_speed {
            self.drain(&plan.outcome, *written.published.borrow()).await?;
            self.take_latencies(&mut measured).await?;
            let (before, begun) = (*written.published.borrow(), Instant::now());
            let phase = Phase { named_only: false, rate: None, time: None };
            progress::say("publishing the rest at full speed");
            let replaying = try_join_all(replayers.into_iter().map(|replayer| replayer.run(phase)));
            tokio::select! {
                done = replaying => drop(done?),
                () = progress::follow(written.published.subscribe(), total) => return Ok(ExitCode::FAILURE),
            }
            self.drain(&plan.outcome, total).await?;
            measured.full_speed = Some((total - before, begun.elapsed().as_secs_f64()));
        } else {
            self.drain(&plan.outcome, total).await?;
            self.take_latencies(&mut measured).await?;
        }
        written.flush()?;
        self.finish(&plan, measured, &written, args).await
    }

    async fn take_latencies(&self, measured: &mut Measured) -> anyhow::Result<()> {
        let client = self.client(&[]).await?;
        measured.functions = client.functions().await?;
        measured.flows = client.flows().await?;
        Ok(())
    }

    /// Reads everything that came out, judges it, and tells.
    async fn finish(
        &self,
        plan: &Plan,
        mut measured: Measured,
        written: &Written,
        args: &DevArgs,
    ) -> anyhow::Result<ExitCode> {
        measured.raw_bytes = written.raw_bytes();
        measured.uplink_bytes = self.cluster.lock().await.bytes_between(Tier::Edge, Tier::Cloud);
        progress::say("reading what came out");
        self.look_at_strikes(&mut measured).await?;
        let tally = self.read_all(plan).await?;
        let alarms = alarms(&self.out, &plan.outcome)?;
        let demands = Demands { malformed: MALFORMED as u64, objective: self.faults.is_empty(), detection: args.demo };
        let manifest = &self.app.manifest;
        let report = Report::new(manifest, &self.app.folder, &plan.outcome, (measured, tally), &alarms, &demands)?;
        let json = serde_json::to_vec_pretty(&report)?;
        std::fs::write(self.out.join("report.json"), &json)?;
        if let Some(path) = &args.report {
            std::fs::write(path, &json).with_context(|| format!("cannot write {}", path.display()))?;
        }
        output::print(&report.text())?;
        Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Dumps the output streams and compares; again while more keeps coming out.
    async fn read_all(&self, plan: &Plan) -> anyhow::Result<Tally> {
        let app = self.app.manifest.name.as_str();
        let client = self.client(&[]).await?;
        let mut last: Option<(Tally, Instant)> = None;
        loop {
            for stream in plan.outcome.streams() {
                dump(&client, app, stream, &self.out.join("output").join(format!("{stream}.ndjson"))).await?;
            }
            let (out, outcome) = (self.out.clone(), plan.outcome.clone());
            let now = tokio::task::spawn_blocking(move || tally(&out, &outcome)).await??;
            let since = last.filter(|(before, _)| *before == now).map_or_else(Instant::now, |(_, since)| since);
            if now.lost == 0 || since.elapsed() >= STALL {
                return Ok(now);
            }
            last = Some((now, since));
            tokio::time::sleep(LOOK_EVERY * 4).await;
        }
    }

    /// Waits until as many rows as records have arrived in the output, or nothing arrives any more. Counters begin anew when
    /// work moves, so that the entries of the streams are looked at, too: this is only a hint of when to read.
    async fn drain(&self, outcome: &Outcome, total: u64) -> anyhow::Result<()> {
        let client = self.client(&[]).await?;
        let (mut last, mut since) = (BTreeMap::new(), Instant::now());
        loop {
            let flows = client.flows().await.unwrap_or_default();
            let sinks = flows.iter().flat_map(|flow| &flow.sinks);
            let arrived: BTreeMap<String, u64> = sinks.map(|sink| (sink.name.clone(), sink.rows)).collect();
            let row_count = |stream: &String| arrived.get(stream).copied().unwrap_or_default();
            let done = row_count(&outcome.scored) + outcome.rejected.as_ref().map_or(0, row_count) >= total;
            if arrived != last {
                (last, since) = (arrived, Instant::now());
            }
            // After a move the counters stay behind for good; then the streams themselves tell.
            if done || since.elapsed() >= LOOK_EVERY * 12 {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn client(&self, without: &[NodeId]) -> anyhow::Result<Client> {
        Ok(self.cluster.lock().await.witness(without)?.client())
    }

    /// What the faults did, as those that were not struck tell it.
    async fn look_at_strikes(&self, measured: &mut Measured) -> anyhow::Result<()> {
        let strikes: Vec<_> = self.faults.iter().filter(|fault| !matches!(fault.kind, Kind::Cut(_))).collect();
        if strikes.is_empty() {
            return Ok(());
        }
        let struck = strikes.iter().map(|fault| NodeId::new(&fault.target)).collect::<Result<Vec<_>, _>>()?;
        let after = self.client(&struck).await?.flows().await?;
        std::fs::write(self.out.join("after.json"), serde_json::to_vec_pretty(&after)?)?;
        let before: Vec<FlowStatus> = serde_json::from_slice(&std::fs::read(self.out.join("at-strike.json"))?)?;
        for fault in strikes {
            let story = match fault.kind {
                Kind::Slow(_) => Some(self.story(&struck).await?),
                _ => None,
            };
            let held = stages_of(&before, &fault.target);
            let still = stages_of(&after, &fault.target);
            measured.strikes.push(Strike {
                fault: fault.text.clone(),
                stages_held: held.len(),
                stages_moved: held.iter().filter(|stage| !still.contains(stage)).count(),
                may_write_late: matches!(fault.kind, Kind::Pause(_)),
                story,
            });
        }
        measured.refused_writes = Some(self.refused_writes().await?);
        Ok(())
    }

    /// What happened to the app's objectives; what is still under way may come to an end.
    async fn story(&self, struck: &[NodeId]) -> anyhow::Result<EventsReport> {
        let client = self.client(struck).await?;
        let begun = Instant::now();
        loop {
            let report = client.events(&format!("?since_us=0&app={}", self.app.manifest.name)).await?;
            let last = report.events.iter().rev().find(|event| event.kind != EventKind::Action);
            if last.is_some_and(|event| event.kind == EventKind::Restored) || begun.elapsed() >= STALL {
                return Ok(report);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The sum over all nodes that run of the writes of replaced owners that they refused.
    async fn refused_writes(&self) -> anyhow::Result<u64> {
        let cluster = self.cluster.lock().await;
        let texts = join_all(cluster.processes.values().map(|process| async move {
            let text = process.client().metrics().await.unwrap_or_default();
            (process.spec.name.clone(), text)
        }));
        let mut sum = 0;
        for (name, text) in texts.await {
            std::fs::write(metrics_file(&self.out, &name), &text)?;
            let lines = text.lines().filter_map(|line| line.strip_prefix("littoral_replica_fenced_total "));
            sum += lines.filter_map(|count| count.trim().parse::<u64>().ok()).sum::<u64>();
        }
        Ok(sum)
    }
}

fn metrics_file(out: &Path, node: &NodeId) -> std::path::PathBuf {
    out.join(format!("metrics-{node}.txt"))
}

/// The stage partitions of a node, each with its epoch.
fn stages_of(flows: &[FlowStatus], node: &str) -> Vec<(String, u32, u64)> {
    let stages = flows.iter().flat_map(|flow| &flow.stages);
    let own = stages.filter(|stage| stage.owner.as_deref() == Some(node));
    own.map(|stage| (stage.name.clone(), stage.partition, stage.epoch)).collect()
}
