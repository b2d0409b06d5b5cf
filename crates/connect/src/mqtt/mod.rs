//! MQTT: the client of a broker outside. A source takes the messages of topics, a sink publishes rows to one.
//!
//! The packets are a crate's; `packet` is what of them a client says and hears, in either version. A [`Connection`] is driven by whom it
//! belongs to and has no task of its own: who does not read it is read by nobody, which is the back-pressure.

mod connection;
mod packet;
mod sink;
mod source;

pub(crate) use sink::MqttSink;
pub(crate) use source::MqttSource;

use connection::Connection;
use littoral_model::manifest::Broker;
use littoral_model::work::WorkId;

/// How many messages may be on their way that are not acknowledged, in either direction.
const WINDOW: u16 = 512;

/// How the client of a source or a sink names itself: the same whichever node has it, so that a broker keeps one session for it, and ends
/// the connection of a node that has it no more.
fn client_id(work: &WorkId, broker: &Broker) -> String {
    // Without the site: whatever node of whichever site has it, it is the same client.
    let named = || {
        let work = work.to_string();
        let (name, _) = work.rsplit_once('/').unwrap_or((&work, ""));
        format!("littoral.{}", name.replace('/', "."))
    };
    broker.client_id.clone().unwrap_or_else(named)
}
