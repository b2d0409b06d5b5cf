//! Who gets into a fabric, and who does not and is told why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;

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
    assert!(said.contains("this is not a join token"), "{said}");
    let mut guessed: Token = first.token(&world, "10min").parse().unwrap();
    guessed.secret = [7; 32];
    let said = refused(&world, "edge-5", &guessed.to_text());
    assert!(said.contains("knows no such join token"), "{said}");
    // A name that is taken, though the token is good.
    let mut twin = world.spawn("twin", &joining("edge-1", &first.token(&world, "10min")));
    assert_eq!(twin.ended(), 1);
    assert!(twin.said().contains("already has a node named edge-1"), "{}", twin.said());
    eventually("nobody else got in", || first.sees(&world) == ["cloud-1", "edge-1"]);

    // Nothing of a refusal is left: with a good token the same directory gets in.
    let token = first.token(&world, "10min");
    let edge = world.start("edge-3", &joining("edge-3", &token));
    eventually("the third is in", || edge.sees(&world) == ["cloud-1", "edge-1", "edge-3"]);
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
    eventually("it says why it is not let in", || {
        let reason = format!("the node at {} belongs to another fabric", ours.address("mesh/0"));
        stranger.said().contains(&reason)
    });
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
    let outcome = without_certificate(&first, &first.address("mesh/0"));
    assert!(outcome.contains("CertificateRequired"), "{outcome}");
    assert_eq!(first.sees(&world), ["cloud-1"]);
}

#[test]
fn only_administrators_administer_from_afar() {
    let world = World::new();
    let ours = world.first_with("ours", &["--admin-listen", ANY_PORT]);
    let edge = world.start("edge-1", &joining("edge-1", &ours.token(&world, "10min")));
    let theirs = world.first("theirs");

    // Who asks with the credentials in a folder.
    let address = ours.address("admin");
    let ask = |context: &str, credentials: &Path| {
        let credentials = credentials.to_str().unwrap();
        let added = world.run(&["context", "add", context, "--address", &address, "--credentials", credentials]);
        assert!(added.status.success(), "{}", errors(&added));
        world.run(&["--context", context, "get", "nodes", "-o", "json"])
    };
    let answer = ask("ours", &ours.data.join("admin"));
    assert!(answer.status.success(), "{}", errors(&answer));
    assert!(String::from_utf8_lossy(&answer.stdout).contains("\"ours\""));

    // A member's certificate is of the right root, and no administrator's.
    let member = world.path("member");
    copy(&edge.data.join("identity"), &member);
    for kind in ["crt", "key"] {
        std::fs::rename(member.join(format!("node.{kind}")), member.join(format!("admin.{kind}"))).unwrap();
    }
    let refused = ask("member", &member);
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("may not take these credentials"), "{}", errors(&refused));
    assert!(ours.said().contains("its certificate is no administrator's"), "{}", ours.said());

    // An administrator of another fabric sees that the node is not theirs, and cannot pretend otherwise.
    let refused = ask("theirs", &theirs.data.join("admin"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("do not fit"), "{}", errors(&refused));
    let pretender = world.path("pretender");
    copy(&theirs.data.join("admin"), &pretender);
    std::fs::copy(ours.data.join("admin/root.crt"), pretender.join("root.crt")).unwrap();
    let refused = ask("pretender", &pretender);
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("may not take these credentials"), "{}", errors(&refused));
    eventually("it says why", || ours.said().contains("UnknownIssuer"));

    let outcome = without_certificate(&ours, &address);
    assert!(outcome.contains("CertificateRequired"), "{outcome}");
}

/// Connects without a certificate to an address of a node; how that ends.
fn without_certificate(node: &Node, address: &str) -> String {
    let config =
        rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(root_of(node))
            .with_no_client_auth();
    let name = node.data.file_name().unwrap().to_str().unwrap().to_owned();
    let name = rustls::pki_types::ServerName::try_from(name).unwrap();
    let mut tls = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut tcp = std::net::TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    loop {
        if tls.wants_write() {
            tls.write_tls(&mut tcp).unwrap();
        }
        match tls.read_tls(&mut tcp) {
            Ok(0) => return "closed".to_owned(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        if let Err(error) = tls.process_new_packets() {
            return error.to_string();
        }
    }
}

fn root_of(node: &Node) -> rustls::RootCertStore {
    use rustls::pki_types::pem::PemObject as _;
    let identity = littoral_mesh::identity::Identity::load(&node.data.join("identity")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(identity.root_pem.as_bytes()).unwrap()).unwrap();
    roots
}
