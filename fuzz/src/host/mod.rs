//! What the host takes from guests: the batches that a stage hands back, and where a guest wants to go. The host reads no
//! memory that it should not, whatever a guest says of its columns, and a name never grants an address that is not public.

mod bindings;
#[allow(dead_code, unreachable_pub, clippy::all)]
#[path = "../../../crates/runtime-wasm/src/stage/columns.rs"]
mod columns;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use arrow_array::Array;
use littoral_model::grant::Peer;

use bindings::littoral::flow::types::{BatchResult, SchemaResult};

/// What one input holds.
#[derive(Debug, Arbitrary)]
enum Said {
    Batch(SchemaResult, BatchResult),
    Peer(String, String, IpAddr, u16),
}

/// Takes what a guest says.
pub fn run(bytes: &[u8]) {
    match Said::arbitrary(&mut Unstructured::new(bytes)) {
        Ok(Said::Batch(schema, batch)) => take(schema, batch),
        Ok(Said::Peer(granted, host, ip, port)) => go(&granted, &host, SocketAddr::new(ip, port)),
        Err(_) => {}
    }
}

fn take(schema: SchemaResult, batch: BatchResult) {
    let Ok(schema) = columns::schema_out(schema) else { return };
    let Ok(batch) = columns::batch_out(&schema, batch) else { return };
    for column in batch.columns() {
        column.to_data().validate_full().expect("what was taken over is what Arrow takes for valid");
    }
    // Every byte of it is read, here and where it is handed to the next guest.
    let printed = format!("{batch:?}");
    assert!(!printed.is_empty());
    for from in [0, batch.num_rows() / 2] {
        let part = batch.slice(from, batch.num_rows() - from);
        let borrowed = columns::Borrowed::new(&part).expect("what came from a guest may go to one");
        let handed = borrowed.columns();
        let echoed = BatchResult::from(borrowed.batch(&handed));
        let again = columns::batch_out(&Arc::clone(&schema), echoed).expect("what the host hands over is valid");
        assert_eq!(format!("{again:?}"), format!("{part:?}"));
    }
}

fn go(granted: &str, host: &str, address: SocketAddr) {
    let Ok(peer) = granted.parse::<Peer>() else { return };
    assert_eq!(peer.to_string().parse::<Peer>().as_ref(), Ok(&peer), "what is written is read again");
    let grants = peer.grants(host, address);
    if grants && let Some(name) = peer.name() {
        assert!(name.eq_ignore_ascii_case(host), "{granted} granted {host}");
        assert!(!is_of_this_network(address.ip()), "{granted}, a name, granted {address}");
    }
    if grants && host.parse::<IpAddr>() == Ok(address.ip()) {
        assert!(peer.may_grant(host, address.port()), "{granted} grants {address} and says that it may not");
    }
}

/// Loopback, private and link-local addresses, also where IPv6 carries them; less than the whole list, worked out
/// differently.
fn is_of_this_network(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => {
            let mapped = ip.to_ipv4_mapped().is_some_and(|ip| is_of_this_network(ip.into()));
            mapped || ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
    }
}
