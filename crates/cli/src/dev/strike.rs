//! Carries out a fault when its time has come, and writes down what was seen before and after.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use littoral_model::id::NodeId;
use rustix::process::Signal;
use serde::Serialize;
use tokio::sync::{Mutex, watch};

use super::cluster::Cluster;
use super::collect::dump;
use super::fault::{Fault, Kind};
use super::replay::now_us;

/// How long a killed node stays away.
const AWAY: Duration = Duration::from_secs(10);

/// How long a slow node stands still, and then runs, in turns: so briefly that it stays a member.
const SLOW: (Duration, Duration) = (Duration::from_millis(1_800), Duration::from_millis(200));

/// Where faults find what they need.
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a Mutex<Cluster>,
    pub(super) app: &'a str,
    /// The stream that shows that records are processed.
    pub(super) scored: &'a str,
    pub(super) out: &'a Path,
    pub(super) published: watch::Receiver<u64>,
    pub(super) total: u64,
}

/// One event of a run.
#[derive(Serialize)]
struct Event<'a> {
    time_us: u64,
    event: &'a str,
    fault: &'a str,
}

impl Stage<'_> {
    /// Waits for a fault's time and carries it out.
    pub(super) async fn strike(mut self, fault: &Fault) -> anyhow::Result<()> {
        self.reached(fault.at).await?;
        match fault.kind {
            Kind::Cut(until) => self.cut(fault, until).await,
            Kind::Slow(until) => self.slow(fault, until).await,
            _ => self.strike_node(fault).await,
        }
    }

    /// Waits until this share of the records is published.
    async fn reached(&mut self, share: f64) -> anyhow::Result<()> {
        let wanted = self.count_at(share);
        self.published.wait_for(|published| *published >= wanted).await.context("the replay ended early")?;
        Ok(())
    }

    /// How many records that share is.
    fn count_at(&self, share: f64) -> u64 {
        // Shares of a count of records need no more than a double's precision.
        (self.total as f64 * share) as u64
    }

    async fn strike_node(&self, fault: &Fault) -> anyhow::Result<()> {
        let node = NodeId::new(&fault.target)?;
        {
            let mut cluster = self.cluster.lock().await;
            self.note_owners(&cluster, &node).await?;
            self.event("strike", fault)?;
            let process = cluster.process_mut(&node)?;
            match fault.kind {
                Kind::Pause(_) => process.signal(Signal::STOP)?,
                _ => process.kill().await?,
            }
            if fault.kind == Kind::Wipe {
                std::fs::remove_dir_all(process.data()).context("cannot delete the node's data")?;
            }
        }
        match fault.kind {
            Kind::Pause(time) => {
                tokio::time::sleep(time).await;
                self.cluster.lock().await.process(&node)?.signal(Signal::CONT)?;
                self.event("continue", fault)?;
            }
            Kind::Kill => {
                tokio::time::sleep(AWAY).await;
                self.cluster.lock().await.process_mut(&node)?.restart().await?;
                self.event("return", fault)?;
            }
            Kind::Wipe | Kind::Cut(_) | Kind::Slow(_) => {}
        }
        Ok(())
    }

    /// Writes down who owns which stage, as another node tells it.
    async fn note_owners(&self, cluster: &Cluster, struck: &NodeId) -> anyhow::Result<()> {
        let flows = cluster.witness(std::slice::from_ref(struck))?.client().flows().await?;
        std::fs::write(self.out.join("at-strike.json"), serde_json::to_vec_pretty(&flows)?)?;
        Ok(())
    }

    async fn slow(mut self, fault: &Fault, until: f64) -> anyhow::Result<()> {
        let node = NodeId::new(&fault.target)?;
        self.note_owners(&*self.cluster.lock().await, &node).await?;
        self.event("slow", fault)?;
        let wanted = self.count_at(until);
        let (stands, runs) = SLOW;
        while *self.published.borrow_and_update() < wanted {
            self.cluster.lock().await.process(&node)?.signal(Signal::STOP)?;
            tokio::time::sleep(stands).await;
            self.cluster.lock().await.process(&node)?.signal(Signal::CONT)?;
            tokio::time::sleep(runs).await;
        }
        self.event("well", fault)
    }

    async fn cut(mut self, fault: &Fault, until: f64) -> anyhow::Result<()> {
        self.pull(fault, true).await?;
        self.reached(until).await?;
        self.dump_scores(fault, "scores-at-heal.ndjson").await?;
        self.pull(fault, false).await
    }

    /// Cuts, or mends, all links of the target.
    async fn pull(&self, fault: &Fault, cut: bool) -> anyhow::Result<()> {
        let cluster = self.cluster.lock().await;
        let struck = cluster.topology.named(&fault.target);
        let of_target = |node: &NodeId| struck.contains(node);
        for link in cluster.links.iter().filter(|link| of_target(&link.from) != of_target(&link.to)) {
            if cut {
                link.shaper.cut();
            } else {
                link.shaper.heal();
            }
        }
        self.event(if cut { "cut" } else { "heal" }, fault)?;
        drop(cluster);
        if cut { self.dump_scores(fault, "scores-at-cut.ndjson").await } else { Ok(()) }
    }

    async fn dump_scores(&self, fault: &Fault, file: &str) -> anyhow::Result<()> {
        let client = {
            let cluster = self.cluster.lock().await;
            let struck = cluster.topology.named(&fault.target);
            cluster.witness(&struck)?.client()
        };
        dump(&client, self.app, self.scored, &self.out.join(file)).await.map(drop)
    }

    fn event(&self, event: &str, fault: &Fault) -> anyhow::Result<()> {
        let path: PathBuf = self.out.join("timeline.ndjson");
        let mut file = File::options().create(true).append(true).open(path)?;
        let line = serde_json::to_string(&Event { time_us: now_us(), event, fault: &fault.text })?;
        eprintln!("{event}: {}", fault.text);
        writeln!(file, "{line}")?;
        Ok(())
    }
}
