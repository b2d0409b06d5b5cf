//! Producers beside the nodes, which publish records one after the other, each until somebody acknowledges it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use littoral_model::entry::{PORT_MAIN, PortBatch, ProducerSequence};
use littoral_model::id::NodeId;
use littoral_model::wire::{PublishReply, PublishRequest};
use littoral_model::work::WorkId;
use tokio::time::sleep;

use crate::history::Event;
use crate::net::{Reply, Request};
use crate::world::World;

/// How long a node may take to answer.
const DEADLINE: Duration = Duration::from_secs(3);

/// Publishes to a partition until told to stop; a record is named by its work and number.
pub(crate) async fn produce(world: Arc<World>, work: WorkId, stop: Arc<AtomicBool>) {
    let doors: Vec<NodeId> =
        world.machines.values().filter(|m| m.facts.site == work.site).map(|m| m.facts.node.clone()).collect();
    let mut sequence = 0;
    let mut hint: Option<NodeId> = None;
    while !stop.load(Ordering::Relaxed) {
        sequence += 1;
        let text = format!("{work}#{sequence}");
        let producer = ProducerSequence { producer: work.to_string(), epoch: 1, sequence };
        let arrow = Bytes::from(text.clone());
        let batch = PortBatch { port: PORT_MAIN.to_owned(), rows: 1, origin_us: None, arrow };
        let request = PublishRequest { work: work.clone(), batch, producer: Some(producer) };
        while !stop.load(Ordering::Relaxed) {
            let any = || doors.get(world.below(doors.len() as u64) as usize).cloned();
            let Some(door) = hint.take().or_else(any) else { return };
            match world.net.ask(&door, Request::Publish(request.clone()), DEADLINE).await {
                Ok(Reply::Publish(PublishReply::Stored { index, .. })) => {
                    world.history.note(Event::Acknowledged { work: work.clone(), index, text: text.clone() });
                    hint = Some(door);
                    break;
                }
                Ok(Reply::Publish(PublishReply::NotOwner(Some(known)))) if known.owner != door => {
                    hint = Some(known.owner);
                    sleep(Duration::from_millis(20)).await;
                }
                _ => sleep(Duration::from_millis(100 + world.below(100))).await,
            }
        }
        sleep(Duration::from_millis(250 + world.below(750))).await;
    }
}
