//! Every Zenoh setting that differs from its default, and why.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use zenoh::Config;

use crate::call::PAYLOAD_BYTES_MAX;
use crate::identity::Identity;
use crate::mesh::MeshError;

/// A link that has been silent for so long is closed. Keep-alives go four times in it.
const LEASE_MS: u64 = 2000;
/// Small kernel buffers keep the queue in Zenoh, where priorities count: an urgent call behind bulk traffic at 50 Mbit/s
/// took 33 ms with this and 675 ms without.
const SOCKET_BYTES: u32 = 65_536;
/// Room for a call's key and attachment beside its payload.
const FRAME_BYTES: usize = 64 << 10;
/// Opening and accepting a link takes some round trips; a peer that takes longer is hung.
const OPEN_TIMEOUT_MS: u64 = 3000;

/// What all sessions of a node have in common.
pub(super) struct Settings {
    pub(super) fabric: String,
    pub(super) identity: Identity,
    /// The root that it trusts, without the nodes that were shut out.
    pub(super) trusted_pem: String,
    pub(super) device: bool,
}

/// The configuration of one session. Where it listens may say more after a `#`.
pub(super) fn line_config(
    settings: &Settings,
    zid: &str,
    listen: &[String],
    connect: &[String],
) -> Result<Config, MeshError> {
    let endpoints =
        |addresses: &[String]| -> Vec<String> { addresses.iter().map(|address| format!("tls/{address}")).collect() };
    let values = [
        ("id", json!(zid)),
        ("mode", json!(if settings.device { "client" } else { "router" })),
        ("listen/endpoints", json!(endpoints(listen))),
        ("connect/endpoints", json!(endpoints(connect))),
        // A router makes its links in the background for ever; a client's session is opened again until it succeeds.
        ("connect/timeout_ms", json!(if settings.device { 0 } else { -1 })),
        ("connect/exit_on_failure", json!(settings.device)),
        ("connect/retry", json!({ "period_init_ms": 200, "period_max_ms": 1000, "period_increase_factor": 2.0 })),
        // Nodes are told whom to link to: no multicast, and no waiting for what it might find.
        ("scouting/multicast/enabled", json!(false)),
        ("scouting/delay", json!(0)),
        ("scouting/gossip/enabled", json!(false)),
        ("open/return_conditions/connect_scouted", json!(false)),
        ("timestamping/enabled", json!(false)),
        ("transport/unicast/open_timeout", json!(OPEN_TIMEOUT_MS)),
        ("transport/unicast/accept_timeout", json!(OPEN_TIMEOUT_MS)),
        ("transport/link/protocols", json!(["tls"])),
        ("transport/link/tx/lease", json!(LEASE_MS)),
        ("transport/link/rx/max_message_size", json!(PAYLOAD_BYTES_MAX + FRAME_BYTES)),
        ("transport/link/tls", tls(&settings.identity, &settings.trusted_pem)),
        ("access_control", access(&settings.fabric)),
    ];
    let mut config = Config::default();
    for (key, value) in values {
        let set = config.insert_json5(key, &value.to_string());
        set.map_err(|error| MeshError::Open { reason: format!("the setting {key} is refused: {error}") })?;
    }
    Ok(config)
}

fn tls(identity: &Identity, trusted_pem: &str) -> Value {
    let text = |pem: &str| STANDARD.encode(pem);
    json!({
        "enable_mtls": true,
        "root_ca_certificate_base64": text(trusted_pem),
        "listen_private_key_base64": text(&identity.key_pem),
        "listen_certificate_base64": text(&identity.certificate_pem),
        "connect_private_key_base64": text(&identity.key_pem),
        "connect_certificate_base64": text(&identity.certificate_pem),
        // Nodes move and sit behind shapers: what counts is that the fabric's root signed, see `access`.
        "verify_name_on_connect": false,
        "close_link_on_expiration": true,
        "so_sndbuf": SOCKET_BYTES,
        "so_rcvbuf": SOCKET_BYTES,
    })
}

/// A connecting Zenoh session also trusts every public certificate authority, and nothing turns that off. So only a
/// peer whose certificate carries the fabric's name may say or hear anything.
fn access(fabric: &str) -> Value {
    json!({
        "enabled": true,
        "default_permission": "deny",
        "rules": [{
            "id": "mesh",
            "messages": [
                "put", "delete", "declare_subscriber", "query", "reply", "declare_queryable",
                "liveliness_token", "liveliness_query", "declare_liveliness_subscriber",
            ],
            "flows": ["egress", "ingress"],
            "permission": "allow",
            "key_exprs": [format!("littoral/{fabric}/**")],
        }],
        "subjects": [{ "id": "fabric", "cert_common_names": [fabric] }],
        "policies": [{ "rules": ["mesh"], "subjects": ["fabric"] }],
    })
}
