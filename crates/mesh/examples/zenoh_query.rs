//! Raw Zenoh queries over mutual TLS, for `make bench-mesh`: what a call costs without a mesh of ours around it.
//!
//! It is an example of this crate because only this crate may name Zenoh; nothing of the product uses it.
//!
//! - `zenoh_query identities FOLDER` makes certificates of one root: `FOLDER/{one,two}/{root.crt,node.crt,node.key}`.
//! - `zenoh_query serve FOLDER ADDRESS` answers queries with their own payload.
//! - `zenoh_query call FOLDER ADDRESS` reads lines `BYTES COUNT` and answers each with a line of round trips in
//!   microseconds, one query after the other.

use std::io::{BufRead as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use littoral_mesh::identity::Root;
use littoral_model::id::NodeId;
use serde_json::json;
use zenoh::Config;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const KEY: &str = "bench/echo";
/// How long the responder's declaration may take to arrive.
const START_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["identities", folder] => identities(Path::new(folder)),
        ["serve", folder, address] => serve(Path::new(folder), address).await,
        ["call", folder, address] => call(Path::new(folder), address).await,
        _ => Err("usage: zenoh_query identities FOLDER | serve FOLDER ADDRESS | call FOLDER ADDRESS".into()),
    }
}

fn identities(folder: &Path) -> Outcome<()> {
    let root = Root::create()?;
    for name in ["one", "two"] {
        let identity = root.identity(&name.parse::<NodeId>()?, &[IpAddr::V4(Ipv4Addr::LOCALHOST)])?;
        identity.save(&folder.join(name))?;
    }
    Ok(())
}

async fn serve(folder: &Path, address: &str) -> Outcome<()> {
    let session = zenoh::open(config(&folder.join("one"), "listen/endpoints", address)?).await?;
    let queryable = session.declare_queryable(KEY).await?;
    while let Ok(query) = queryable.recv_async().await {
        let payload = query.payload().cloned().unwrap_or_default();
        query.reply(KEY, payload).await?;
    }
    Ok(())
}

async fn call(folder: &Path, address: &str) -> Outcome<()> {
    let session = zenoh::open(config(&folder.join("two"), "connect/endpoints", address)?).await?;
    let deadline = Instant::now() + START_TIMEOUT;
    while round_trip(&session, Vec::new()).await.is_err() {
        if Instant::now() > deadline {
            return Err(format!("nobody answers at {address}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (bytes, count) = line.split_once(' ').ok_or("expected `BYTES COUNT`")?;
        let (bytes, count): (usize, usize) = (bytes.parse()?, count.parse()?);
        let mut round_trips_us = Vec::with_capacity(count);
        for _ in 0..count {
            round_trips_us.push(round_trip(&session, vec![b'x'; bytes]).await?.as_secs_f64() * 1e6);
        }
        let mut output = std::io::stdout().lock();
        serde_json::to_writer(&mut output, &round_trips_us)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

async fn round_trip(session: &zenoh::Session, payload: Vec<u8>) -> Outcome<Duration> {
    let bytes = payload.len();
    let begun = Instant::now();
    let replies = session.get(KEY).payload(payload).await?;
    let reply = replies.recv_async().await?;
    let elapsed = begun.elapsed();
    let sample = reply.into_result().map_err(|error| format!("the query failed: {error:?}"))?;
    if sample.payload().len() != bytes {
        return Err(format!("{bytes} bytes went out, {} came back", sample.payload().len()).into());
    }
    Ok(elapsed)
}

/// Two peers and a link with mutual TLS; otherwise Zenoh's defaults.
fn config(identity: &Path, endpoints: &str, address: &str) -> Outcome<Config> {
    let path = |file: &str| json!(identity.join(file).display().to_string());
    let mut config = Config::default();
    for (key, value) in [
        ("mode", json!("peer")),
        (endpoints, json!([format!("tls/{address}")])),
        ("scouting/multicast/enabled", json!(false)),
        ("scouting/gossip/enabled", json!(false)),
        (
            "transport/link/tls",
            json!({
                "enable_mtls": true,
                "root_ca_certificate": path("root.crt"),
                "listen_private_key": path("node.key"),
                "listen_certificate": path("node.crt"),
                "connect_private_key": path("node.key"),
                "connect_certificate": path("node.crt"),
                "verify_name_on_connect": false,
            }),
        ),
    ] {
        config.insert_json5(key, &value.to_string()).map_err(|error| format!("{key}: {error}"))?;
    }
    if !endpoints.starts_with("listen") {
        // Nobody needs to reach the caller.
        config.insert_json5("listen/endpoints", "[]").map_err(|error| format!("listen/endpoints: {error}"))?;
    }
    Ok(config)
}
