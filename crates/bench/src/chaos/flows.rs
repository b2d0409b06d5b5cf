//! `chaos-flow`: nodes of a hall are killed, paused, wiped and cut off, functions swapped, stages moved and numbers of partitions changed,
//! while a flow in SQL numbers rows by key, groups them in windows, and joins them with another stream. Whether what comes out is what an undisturbed
//! run comes to: each row once, and none that should not be.
//!
//! Records come in rounds of a minute of their own time. In each round something is done at a random moment, and the next round
//! begins when what it put out is there and all has its copies again. What has to come out is known by arithmetic.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use hyper::Method;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::nodes::{Nodes, slot_of};
use super::queue::{HALL, votes};
use super::schedule::{Disturbance, Kind};
use super::{ANSWER, HOLD, LIMIT, LOOK_EVERY, in_folder, wire};
use crate::client::Place;
use crate::guests::guest;
use crate::peers;
use crate::results::{Results, Series, load, quantile};

/// How many rounds there are, in the long form and in the short one.
const ROUNDS: (usize, usize) = (200, 10);
/// How many keys; of so many each partition has some.
const MACHINES: usize = 32;
/// How many publications a round has, and how far they are apart in the time of their records, in seconds.
const PUBLICATIONS: usize = 12;
const APART_S: usize = 5;
/// How long a round is in the time of its records, and a window, in seconds.
const ROUND_S: usize = PUBLICATIONS * APART_S;
const WINDOW_S: usize = 10;
/// The mark of a round is so far into it, and is joined with what is no farther from it than this, in seconds.
const MARK_S: usize = 30;
const NEAR_S: usize = 5;
/// How often all that came out is compared, in rounds: it is more each time.
const COMPARE_EVERY: usize = 10;
/// How long a publication may take before it is sent to another node.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two publications: what is done falls among them.
const PAUSE: Duration = Duration::from_millis(50);

/// Over how many partitions rows are spread by their keys: at first, and at most.
const PARTITIONS: (u32, u32) = (4, 8);

/// The flows, over so many partitions by key those with windows and those with pairs.
fn sql(windows: u32, pairs: u32) -> String {
    format!(
        "\
CREATE STREAM marks (machine text, ts timestamp);

CREATE FLOW numbered PREFER edge AS
  SELECT machine, ts, n FROM number(readings) AS numbered (machine text, ts timestamp, n bigint);

CREATE FLOW sums PREFER edge PARTITIONS {windows} AS
  SELECT machine, window_start, count(*) AS rows, sum(n) AS total, min(n) AS least, max(n) AS most
  FROM TUMBLE(numbered, ts, INTERVAL '10 seconds')
  GROUP BY machine, window_start;

CREATE FLOW pairs PREFER edge PARTITIONS {pairs} AS
  SELECT numbered.machine, n, marks.ts AS mark
  FROM numbered JOIN marks
    ON numbered.machine = marks.machine AND marks.ts BETWEEN numbered.ts - INTERVAL '5 seconds' AND numbered.ts + INTERVAL '5 seconds';
"
    )
}

/// The flows whose stages are moved.
const FLOWS: [&str; 4] = ["numbered", "sums-by-key", "sums", "pairs"];

/// What is done in a round.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Strike(Disturbance),
    Swap,
    /// Which of [`FLOWS`], and to which node of the hall.
    Move(usize, usize),
    /// To how many partitions by key, of windows and of pairs, and what happens while that is under way.
    Rescale(u32, u32, Option<Disturbance>),
}

impl Deed {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Strike(disturbance) => (disturbance.kind.names()[0], disturbance.target()),
            Self::Swap => ("swap", "number"),
            Self::Move(flow, _) => ("move", FLOWS.get(flow).copied().unwrap_or_default()),
            Self::Rescale(_, _, None) => ("rescale", "sums, pairs"),
            Self::Rescale(_, _, Some(disturbance)) => ("rescale+", disturbance.kind.names()[0]),
        }
    }

    /// What strikes a node.
    fn disturbance(self) -> Option<Disturbance> {
        match self {
            Self::Strike(disturbance) => Some(disturbance),
            Self::Rescale(_, _, disturbance) => disturbance,
            Self::Swap | Self::Move(..) => None,
        }
    }
}

/// Deeds without end: each kind once, in a random order, then again.
struct Deeds {
    random: StdRng,
    slots: Vec<usize>,
    deck: Vec<Deed>,
}

impl Iterator for Deeds {
    type Item = Deed;

    fn next(&mut self) -> Option<Deed> {
        if self.deck.is_empty() {
            for kind in [Kind::Kill, Kind::Pause, Kind::Wipe, Kind::Cut] {
                let slot = *self.slots.choose(&mut self.random)?;
                self.deck.push(Deed::Strike(Disturbance { kind, slot }));
            }
            let flow = self.random.random_range(0..FLOWS.len());
            self.deck.extend([Deed::Swap, Deed::Move(flow, *self.slots.choose(&mut self.random)?)]);
            // New partitions have no copies yet that a wiped one could be restored from.
            let kind = *[Kind::Kill, Kind::Pause, Kind::Cut].choose(&mut self.random)?;
            let struck = Disturbance { kind, slot: *self.slots.choose(&mut self.random)? };
            for disturbance in [None, Some(struck)] {
                let [windows, pairs] = std::array::from_fn(|_| self.random.random_range(1..=PARTITIONS.1));
                self.deck.push(Deed::Rescale(windows, pairs, disturbance));
            }
            self.deck.shuffle(&mut self.random);
        }
        self.deck.pop()
    }
}

/// Runs it; without a seed one is drawn.
pub(crate) fn run(short: bool, seed: Option<u64>) -> anyhow::Result<()> {
    in_folder("chaos-flow", seed, async |seed, folder| disturb(short, seed, folder).await)
}

/// The app under way.
struct Mill {
    nodes: Nodes,
    places: Vec<Place>,
    /// Which of the places answered last: it is asked first, as a client would.
    answered: AtomicUsize,
    /// The component as it was built, and the file for the next one to be swapped in.
    component: Vec<u8>,
    next: PathBuf,
    swaps: usize,
    /// Where its manifest is.
    source: PathBuf,
}

async fn disturb(short: bool, seed: u64, folder: &Path) -> anyhow::Result<()> {
    let littoral = peers::littoral()?;
    let version = peers::version(&littoral)?;
    let nodes = Nodes::start(&littoral, folder).await?;
    let results = Results::begin("chaos-flow", short);
    let slots = HALL.map(slot_of).into_iter().collect::<anyhow::Result<Vec<usize>>>()?;
    let places = slots.iter().map(|slot| nodes.admin(*slot)).collect();
    let component = std::fs::read(guest("number")?)?;
    let (next, source) = (folder.join("next.wasm"), folder.join("apps/mill"));
    let mut mill = Mill { nodes, places, component, next, swaps: 0, source, answered: AtomicUsize::new(0) };
    mill.write()?;
    mill.deploy(PARTITIONS.0, PARTITIONS.0, &[])?;
    let deeds = Deeds { random: StdRng::seed_from_u64(seed), slots, deck: Vec::new() };
    let mut moments = StdRng::seed_from_u64(seed);
    let mut series = Series::new("what is done", format!("{version}, seed {seed}"), "resume_s");
    let mut pauses: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    println!("{:>6} {:8} {:12} {:>10} {:>9}", "round", "what", "to", "pause_ms", "resume_s");
    let (mut rounds, mut wrong) = (0, 0);
    for deed in deeds.take(if short { ROUNDS.1 } else { ROUNDS.0 }) {
        mill.whole().await?;
        let (resume_s, paused) = mill.round(rounds, deed, moments.random_range(1..PUBLICATIONS)).await?;
        rounds += 1;
        series.note(resume_s, &[]);
        let (what, to) = deed.names();
        let longest = paused.iter().copied().reduce(f64::max).map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        println!("{rounds:>6} {what:8} {to:12} {longest:>10} {resume_s:>9.2}");
        pauses.entry(what).or_default().extend(paused);
        if rounds % COMPARE_EVERY == 0 {
            wrong = mill.compare(rounds).await?;
            if wrong > 0 {
                break;
            }
        }
    }
    if wrong == 0 {
        wrong = mill.end(rounds).await?;
    }
    let compared = expected_sums(rounds).len() + expected_pairs(rounds).len();
    println!("{rounds} rounds, {compared} rows compared, {wrong} wrong");
    publish(results, series, &pauses, wrong)?;
    anyhow::ensure!(wrong == 0, "{wrong} rows are wrong");
    Ok(())
}

fn publish(
    mut results: Results,
    series: Series,
    pauses: &BTreeMap<&str, Vec<f64>>,
    wrong: usize,
) -> anyhow::Result<()> {
    let p95 = |samples: &Vec<f64>| quantile(samples, 0.95);
    let mut figures = vec![
        ("chaos_flow_wrong", wrong as f64),
        ("chaos_flow_rounds", series.samples.len() as f64),
        ("chaos_flow_resume_p95_s", p95(&series.samples)),
    ];
    for (what, name) in [("swap", "swap_pause_ms"), ("move", "move_pause_ms"), ("rescale", "rescale_pause_ms")] {
        figures.extend(pauses.get(what).filter(|samples| !samples.is_empty()).map(|samples| (name, p95(samples))));
    }
    results.ratios.extend(figures.into_iter().map(|(name, figure)| (name.to_owned(), figure)));
    results.series.push(series);
    results.load.1 = load();
    results.publish()
}

impl Mill {
    fn write(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.source)?;
        std::fs::write(self.source.join("number.wasm"), &self.component)?;
        let mut text = "name = \"mill\"\nversion = \"1.0.0\"\n\n[functions.number]\ncomponent = \"number.wasm\"\n\
                        placement = { site = \"hall-a\" }\n"
            .to_owned();
        for stream in ["readings", "marks", "numbered", "sums", "pairs"] {
            text +=
                &format!("\n[streams.{stream}]\npartitions = 4\nack = \"site\"\nplacement = {{ site = \"hall-a\" }}\n");
        }
        Ok(std::fs::write(self.source.join("littoral.toml"), text)?)
    }

    /// Deploys it over so many partitions by key, those of windows and those of pairs; what the program says of it.
    fn deploy(&self, windows: u32, pairs: u32, options: &[&str]) -> anyhow::Result<Value> {
        std::fs::write(self.source.join("flows.sql"), sql(windows, pairs))?;
        let source = self.source.to_str().context("the folder's name is not text")?;
        let arguments = ["deploy", source, "--no-build", "--timeout", "5min", "-o", "json"];
        Ok(serde_json::from_str(&self.nodes.tell(&[&arguments, options].concat())?)?)
    }

    /// Changes the numbers of partitions by key: for how long rows paused.
    fn rescale(&mut self, (windows, pairs): (u32, u32), disturbance: Option<Disturbance>) -> anyhow::Result<Vec<f64>> {
        let Some(disturbance) = disturbance else {
            return Ok(pauses(self.deploy(windows, pairs, &[])?.get("rescaled")));
        };
        self.deploy(windows, pairs, &["--no-wait"])?;
        self.nodes.strike(disturbance)?;
        Ok(Vec::new())
    }

    /// A round, in which something is done after so many publications: how long it took until its rows came out, and for how long
    /// what was swapped, moved or divided anew paused.
    async fn round(&mut self, round: usize, deed: Deed, at: usize) -> anyhow::Result<(f64, Vec<f64>)> {
        for publication in 0..at {
            self.publish(round, publication).await?;
        }
        let begun = Instant::now();
        let pauses = match deed {
            Deed::Strike(disturbance) => {
                self.nodes.strike(disturbance)?;
                Vec::new()
            }
            Deed::Swap => self.swap()?,
            Deed::Move(flow, slot) => self.relocate(FLOWS.get(flow).copied().unwrap_or_default(), slot)?,
            Deed::Rescale(windows, pairs, disturbance) => self.rescale((windows, pairs), disturbance)?,
        };
        for publication in at..PUBLICATIONS {
            self.publish(round, publication).await?;
        }
        // All windows of the round but the last are over.
        let windows = PUBLICATIONS / 2 - 1;
        let came = tokio::time::timeout(HOLD * 2, self.wait_for(round, windows)).await;
        let resumed = begun.elapsed();
        if let Some(disturbance) = deed.disturbance() {
            tokio::time::sleep(HOLD.saturating_sub(resumed)).await;
            self.nodes.mend(disturbance).await?;
        }
        if let Ok(Ok(())) = came {
            return Ok((resumed.as_secs_f64(), pauses));
        }
        // It may need the struck one to decide.
        self.wait_for(round, windows).await?;
        Ok((begun.elapsed().as_secs_f64(), pauses))
    }

    /// The places with their numbers, the one that answered last first.
    fn in_turn(&self) -> impl Iterator<Item = (usize, &Place)> {
        let first = self.answered.load(Ordering::Relaxed);
        self.places.iter().enumerate().cycle().skip(first).take(self.places.len())
    }

    /// Publishes a record of each machine, and once in a round a mark of each, to whichever node of the hall takes them; what is sent
    /// again has the same number.
    async fn publish(&self, round: usize, publication: usize) -> anyhow::Result<()> {
        let second = round * ROUND_S + publication * APART_S;
        let readings = (0..MACHINES).map(|machine| json!({ "key": name(machine), "value": second.to_string() }));
        self.store("readings", round * PUBLICATIONS + publication + 1, readings).await?;
        if publication == 0 {
            let ts = moment(round * ROUND_S + MARK_S);
            let marks = (0..MACHINES).map(|machine| {
                json!({ "key": name(machine), "value": json!({ "machine": name(machine), "ts": ts }).to_string() })
            });
            self.store("marks", round + 1, marks).await?;
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    async fn store(&self, stream: &str, sequence: usize, records: impl Iterator<Item = Value>) -> anyhow::Result<()> {
        let body: String = records.map(|record| format!("{record}\n")).collect();
        let path = format!("/v1/apps/mill/streams/{stream}/records?producer=chaos&epoch=1&sequence={sequence}");
        let deadline = Instant::now() + LIMIT;
        loop {
            for (number, place) in self.in_turn() {
                let sent = wire::ask(place, Method::POST, &path, Bytes::from(body.clone()), PATIENCE).await;
                if sent.is_ok_and(|(status, _)| status.is_success()) {
                    self.answered.store(number, Ordering::Relaxed);
                    return Ok(());
                }
            }
            anyhow::ensure!(Instant::now() < deadline, "nobody took records for {} s", LIMIT.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The same component under another digest: with a section that nobody reads.
    fn swap(&mut self) -> anyhow::Result<Vec<f64>> {
        self.swaps += 1;
        let section = format!("swap-{}", self.swaps);
        let length = u8::try_from(section.len())?;
        let header = [0, length + 1, length];
        std::fs::write(&self.next, [self.component.as_slice(), &header, section.as_bytes()].concat())?;
        std::fs::copy(&self.next, self.source.join("number.wasm"))?;
        let file = self.next.to_str().context("the folder's name is not text")?;
        let report: Value = serde_json::from_str(&self.nodes.tell(&["swap", "mill/number", file, "-o", "json"])?)?;
        Ok(pauses(report.get("stages")))
    }

    fn relocate(&self, flow: &str, slot: usize) -> anyhow::Result<Vec<f64>> {
        let (of, to) = (format!("mill/{flow}"), self.nodes.name(slot));
        let report: Value = serde_json::from_str(&self.nodes.tell(&["move", &of, "--to", to, "-o", "json"])?)?;
        Ok(pauses(report.get("works")))
    }

    /// Waits until all stages have two copies, and the nodes of the hall, and they alone, vote there; who is asked to swap and to move,
    /// at the cloud, sees that again, too.
    async fn whole(&self) -> anyhow::Result<()> {
        let hall = HALL.into_iter().map(|role| Ok(self.nodes.name(slot_of(role)?))).collect::<anyhow::Result<_>>()?;
        let deadline = Instant::now() + LIMIT;
        loop {
            for place in &self.places {
                if votes(place, &hall).await
                    && self.has_copies(place).await
                    && self.has_copies(&self.nodes.admin(0)).await
                {
                    return Ok(());
                }
            }
            let late = "the stages have no two copies, or the hall not its three voters";
            anyhow::ensure!(Instant::now() < deadline, "{late} within {} s", LIMIT.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn has_copies(&self, place: &Place) -> bool {
        let (Ok(flows), Ok(streams)) =
            (wire::get(place, "/v1/flows", ANSWER).await, wire::get(place, "/v1/streams", ANSWER).await)
        else {
            return false;
        };
        let copies = |work: &Value| work.get("in_sync").and_then(Value::as_array).map_or(0, Vec::len);
        let lists = |all: &Value, key: &str| -> Vec<Value> {
            let all = all.as_array().into_iter().flatten();
            all.filter_map(|one| one.get(key)?.as_array().cloned()).flatten().collect()
        };
        let works = [lists(&flows, "stages"), lists(&streams, "partitions")].concat();
        !works.is_empty() && works.iter().all(|work| copies(work) >= 2)
    }

    /// The rows of a stream, each as text, and how often it is there.
    async fn rows(&self, stream: &str) -> anyhow::Result<BTreeMap<String, usize>> {
        let path = format!("/v1/apps/mill/streams/{stream}/records?from=start");
        let mut reason = anyhow::anyhow!("there is no node");
        for (number, place) in self.in_turn() {
            let answer = wire::ask(place, Method::GET, &path, Bytes::new(), LIMIT / 3).await;
            match answer.and_then(|(_, body)| count(&body)) {
                Ok(rows) => {
                    self.answered.store(number, Ordering::Relaxed);
                    return Ok(rows);
                }
                Err(error) => reason = error,
            }
        }
        Err(reason)
    }

    /// Waits until so many windows of a round have come out for each machine, and all of the rounds before.
    async fn wait_for(&self, round: usize, windows: usize) -> anyhow::Result<()> {
        let wanted = MACHINES * (round * PUBLICATIONS / 2 + windows);
        let deadline = Instant::now() + LIMIT;
        loop {
            let came = self.rows("sums").await.map_or(0, |rows| rows.len());
            if came >= wanted {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "{came} of {wanted} windows within {} s", LIMIT.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How many rows of so many rounds are not there, there twice, or should not be there.
    async fn compare(&self, rounds: usize) -> anyhow::Result<usize> {
        let mut wrong = 0;
        for (stream, expected) in [("sums", expected_sums(rounds)), ("pairs", expected_pairs(rounds))] {
            let begun = Instant::now();
            loop {
                let came = self.rows(stream).await?;
                // Of a window or a mark of later rounds some may be there already; the last window of these may not.
                let last = format!("\"{}\"", moment(rounds * ROUND_S - WINDOW_S));
                let lost = expected.iter().filter(|row| !came.contains_key(*row) && !row.contains(&last));
                let lost: Vec<&String> = lost.collect();
                let doubled: Vec<&String> = came.iter().filter(|(_, count)| **count > 1).map(|(row, _)| row).collect();
                let odd = came.keys().filter(|row| !expected.contains(*row) && is_before(row, rounds));
                let odd: Vec<&String> = odd.collect();
                let found = lost.len() + doubled.len() + odd.len();
                if found == 0 || begun.elapsed() > LIMIT {
                    for (what, rows) in [("lost", &lost), ("doubled", &doubled), ("odd", &odd)] {
                        rows.iter().take(5).for_each(|row| println!("{stream} {what}: {row}"));
                    }
                    wrong += found;
                    break;
                }
                // Pairs may come later than windows.
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(wrong)
    }

    /// Closes the last windows, and compares all that came out.
    async fn end(&self, rounds: usize) -> anyhow::Result<usize> {
        self.whole().await?;
        self.publish(rounds, 0).await?;
        self.wait_for(rounds, 0).await.context("what the last round came to is not there")?;
        // What comes twice may come a moment later.
        tokio::time::sleep(HOLD).await;
        self.compare(rounds).await
    }
}

fn name(machine: usize) -> String {
    format!("m{machine}")
}

/// A moment so many seconds after 1970, as rows show it.
fn moment(second: usize) -> String {
    let (days, second) = (second / 86_400, second % 86_400);
    format!("1970-01-{:02}T{:02}:{:02}:{:02}Z", days + 1, second / 3_600, second / 60 % 60, second % 60)
}

fn pauses(moved: Option<&Value>) -> Vec<f64> {
    let moved = moved.and_then(Value::as_array).into_iter().flatten();
    moved.filter_map(|one| one.get("pause_ms")?.as_f64()).collect()
}

/// Each row without what the log adds to it, and how often it is there.
fn count(lines: &Bytes) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut rows = BTreeMap::new();
    for line in std::str::from_utf8(lines)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        anyhow::ensure!(row.get("_error").is_none(), "{row}");
        let row = row.get("row").cloned().unwrap_or(row);
        let own = row.as_object().context("a row is no object")?.iter().filter(|(column, _)| !column.starts_with('_'));
        let own: BTreeMap<&String, &Value> = own.collect();
        *rows.entry(serde_json::to_string(&own)?).or_insert(0) += 1;
    }
    Ok(rows)
}

/// What so many rounds come to in windows.
fn expected_sums(rounds: usize) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for window in 0..rounds * ROUND_S / WINDOW_S {
        let (least, most) = (2 * window + 1, 2 * window + 2);
        for machine in 0..MACHINES {
            let row: BTreeMap<&str, Value> = [
                ("machine", json!(name(machine))),
                ("window_start", json!(moment(window * WINDOW_S))),
                ("rows", json!(2)),
                ("total", json!(least + most)),
                ("least", json!(least)),
                ("most", json!(most)),
            ]
            .into();
            rows.insert(json!(row).to_string());
        }
    }
    rows
}

/// What so many rounds come to in pairs: the mark of a round with what is near to it.
fn expected_pairs(rounds: usize) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for round in 0..rounds {
        for second in (MARK_S - NEAR_S..=MARK_S + NEAR_S).step_by(APART_S) {
            let n = round * PUBLICATIONS + second / APART_S + 1;
            for machine in 0..MACHINES {
                let mark = moment(round * ROUND_S + MARK_S);
                rows.insert(json!({ "machine": name(machine), "mark": mark, "n": n }).to_string());
            }
        }
    }
    rows
}

/// Whether a row is of one of so many rounds.
fn is_before(row: &str, rounds: usize) -> bool {
    let row: Value = serde_json::from_str(row).unwrap_or_default();
    let at = ["window_start", "mark"].iter().find_map(|column| row.get(*column)?.as_str());
    at.is_none_or(|at| at < moment(rounds * ROUND_S).as_str())
}
