//! Who gets into a fabric, and who does not and is told why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::*;
use littoral_mesh::token::Token;

/// How a node that joins is started.
fn joining<'a>(name: &'a str, token: &'a str) -> Vec<&'a str> {
    vec!["--name", name, "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT, "--join", token]
}

/// Starts a node that must not get in; what it says.
fn refused(world: &World, name: &str, token: &str) -> String {
    let mut node = world.spawn(name, &joining(name, token));
    assert_eq!(node.ended(), 1);
    node.said()
}

#[test]
fn a_token_lets_one_node_in_and_everybody_else_is_told_why_not() {
    let world = World::new();
    let first = world.first("cloud-1");
    let token = first.token(&world, "10min");
    let edge = world.start("edge-1", &joining("edge-1", &token));
    eventually("both see both", || [&first, &edge].iter().all(|node| node.sees(&world) == ["cloud-1", "edge-1"]));

    let said = refused(&world, "edge-2", &token);
    assert!(said.contains("has been used by node edge-1"), "{said}");
    let said = refused(&world, "edge-3", &first.token(&world, "0s"));
    assert!(said.contains("has expired"), "{said}");
    let said = refused(&world, "edge-4", "nonsense");
    assert!(said.contains("token"), "{said}");
    // A name that is taken, though the token is good.
    let mut twin = world.spawn("twin", &joining("edge-1", &first.token(&world, "10min")));
    assert_eq!(twin.ended(), 1);
    assert!(twin.said().contains("already has a node named edge-1"), "{}", twin.said());
    assert_eq!(first.sees(&world), ["cloud-1", "edge-1"]);
}

#[test]
fn a_node_of_another_root_does_not_get_in() {
    let world = World::new();
    let (ours, theirs) = (world.first("ours"), world.first("theirs"));
    // Their token, and our address: the root that answers is not the one in the token.
    let mut token: Token = theirs.token(&world, "10min").parse().unwrap();
    token.endpoints = vec![ours.address("join")];
    let said = refused(&world, "edge-1", &token.to_text());
    assert!(said.contains("its root of trust differs"), "{said}");

    // A node with a good certificate of their fabric connects to our mesh.
    assert_eq!(theirs.stop(), 0);
    let stranger = world.start("theirs", &["--connect", &ours.address("mesh/0")]);
    eventually("it says why it is not let in", || stranger.said().contains(&ours.address("mesh/0")));
    assert_eq!(stranger.sees(&world), ["theirs"]);
    assert_eq!(ours.sees(&world), ["ours"]);
}

#[test]
fn without_a_certificate_there_is_no_way_in() {
    let world = World::new();
    let first = world.first("cloud-1");
    // A node that joined, and lost its certificate.
    let token = first.token(&world, "10min");
    let edge = world.start("edge-1", &joining("edge-1", &token));
    assert_eq!(edge.stop(), 0);
    std::fs::remove_dir_all(world.path("edge-1").join("identity")).unwrap();
    let mut bare = world.spawn("edge-1", &[]);
    assert_eq!(bare.ended(), 1);
    assert!(bare.said().contains("identity"), "{}", bare.said());

    // A TLS client without a certificate is turned away by the mesh in its handshake.
    let address = first.address("mesh/0");
    let config =
        rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(root_of(&first))
            .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("cloud-1").unwrap();
    let mut tls = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut tcp = std::net::TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let outcome = loop {
        if tls.wants_write() {
            tls.write_tls(&mut tcp).unwrap();
        }
        match tls.read_tls(&mut tcp) {
            Ok(0) => break "closed".to_owned(),
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
        if let Err(error) = tls.process_new_packets() {
            break error.to_string();
        }
    };
    assert!(outcome.contains("CertificateRequired"), "{outcome}");
    assert_eq!(first.sees(&world), ["cloud-1"]);
}

fn root_of(node: &Node) -> rustls::RootCertStore {
    use rustls::pki_types::pem::PemObject as _;
    let identity = littoral_mesh::identity::Identity::load(&node.data.join("identity")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(identity.root_pem.as_bytes()).unwrap()).unwrap();
    roots
}
