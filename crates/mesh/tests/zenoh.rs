//! The contract on Zenoh over TLS and real sockets behind shaped links, and who gets in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod contract;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{Echo, Fabric, PATIENCE, call, digest, members, misses, node, sees};
use littoral_mesh::identity::{Identity, NodeKey, Root};
use littoral_mesh::shaper::{LinkShape, Shaper};
use littoral_mesh::{LinkError, Mesh, MeshOptions, Method, Service, ZenohMesh, probe};
use littoral_model::id::{TenantId, Tier};

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn open(
    identity: Identity,
    tier: Tier,
    incarnation: u64,
    connect: Vec<String>,
    service: Arc<dyn Service>,
) -> ZenohMesh {
    // `RUST_LOG=zenoh=debug,littoral_mesh=debug cargo test ...` shows what a failing test did.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let digest = digest(identity.node.as_str(), tier, incarnation);
    let listen = if tier == Tier::Device { Vec::new() } else { vec![local()] };
    let tenant = TenantId::default_tenant();
    ZenohMesh::open(MeshOptions {
        identity,
        tenant,
        listen,
        connect,
        revoked: Default::default(),
        digest,
        service,
        threads: None,
    })
    .await
    .unwrap()
}

struct Real {
    root: Root,
    shape: LinkShape,
    hub: Option<SocketAddr>,
    nodes: HashMap<String, ZenohMesh>,
    links: HashMap<String, Shaper>,
}

impl Real {
    fn new(shape: LinkShape) -> Self {
        let root = Root::create().unwrap();
        Self { root, shape, hub: None, nodes: HashMap::new(), links: HashMap::new() }
    }
}

#[async_trait]
impl Fabric for Real {
    async fn start(&mut self, name: &str, incarnation: u64, service: Arc<dyn Service>) -> Arc<dyn Mesh> {
        let identity = self.root.identity(&node(name), &[]).unwrap();
        let mut connect = Vec::new();
        if let Some(hub) = self.hub {
            let link = Shaper::start(local(), hub, self.shape, 1).await.unwrap();
            connect.push(link.address().to_string());
            self.links.insert(name.to_owned(), link);
        }
        let opened = open(identity, Tier::Edge, incarnation, connect, service).await;
        self.hub.get_or_insert(opened.listening()[0]);
        let mesh = opened.mesh();
        self.nodes.insert(name.to_owned(), opened);
        mesh
    }

    async fn stop(&mut self, name: &str) {
        self.nodes.remove(name);
        self.links.remove(name);
    }

    fn cut(&mut self, name: &str) {
        self.links[name].cut();
    }

    fn heal(&mut self, name: &str) {
        self.links[name].heal();
    }
}

macro_rules! contract {
    ($($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            contract::$name(&mut Real::new(LinkShape::default())).await;
        }
    )*};
}

contract! {
    calls_are_answered_and_errors_are_told_apart
    a_repeated_call_has_one_effect
    members_come_go_and_return
    messages_come_in_order_and_a_slow_reader_stalls_only_its_publisher
    large_payloads_arrive_whole
    digests_spread
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_calls_pass_bulk_ones() {
    let shape = LinkShape { rtt: Duration::from_millis(10), bandwidth_bps: Some(100_000_000), loss: 0.0 };
    contract::urgent_calls_pass_bulk_ones(&mut Real::new(shape)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_fails_over_to_its_other_gateway_and_back() {
    let root = Root::create().unwrap();
    let identity = |name: &str| root.identity(&node(name), &[]).unwrap();
    let echo = || Arc::new(Echo::default());
    let one = open(identity("one"), Tier::Edge, 1, Vec::new(), echo()).await;
    let other = vec![one.listening()[0].to_string()];
    let two = open(identity("two"), Tier::Edge, 1, other, echo()).await;
    let links = [
        Shaper::start(local(), one.listening()[0], LinkShape::default(), 1).await.unwrap(),
        Shaper::start(local(), two.listening()[0], LinkShape::default(), 2).await.unwrap(),
    ];
    let gateways = links.iter().map(|link| link.address().to_string()).collect();
    let device = open(identity("device"), Tier::Device, 1, gateways, echo()).await;
    let (one, two, device) = (one.mesh(), two.mesh(), device.mesh());
    for mesh in [&one, &two, &device] {
        members(&**mesh, |members| members.len() == 3).await;
    }
    for link in &links {
        link.cut();
        // In flight over the cut as well as after it: both directions find the way round.
        for _ in 0..3 {
            for (from, to) in [(&device, &one), (&one, &device), (&device, &two), (&two, &device)] {
                let reply = from.call(to.node(), call(&**from, Method::Fetch, "x")).await;
                assert_eq!(reply, Ok(Bytes::from("x")), "{} to {}", from.node(), to.node());
            }
        }
        link.heal();
        members(&*device, |members| members.len() == 3).await;
        let before = link.bytes().0;
        // It is used again once it is up.
        tokio::time::timeout(PATIENCE, async {
            while link.bytes().0 < before + 10_000 {
                for to in [&one, &two] {
                    device.call(to.node(), call(&*device, Method::Fetch, vec![0; 1000])).await.unwrap();
                }
            }
        })
        .await
        .unwrap();
    }
    device.close().await;
    misses(&*one, "device").await;
    misses(&*two, "device").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_opens_with_no_network_and_joins_when_there_is_one() {
    let root = Root::create().unwrap();
    let identity = |name: &str| root.identity(&node(name), &[]).unwrap();
    let hub = open(identity("hub"), Tier::Edge, 1, Vec::new(), Arc::new(Echo::default())).await;
    let link = Shaper::start(local(), hub.listening()[0], LinkShape::default(), 1).await.unwrap();
    link.cut();
    let connect = || vec![link.address().to_string()];
    let edge = open(identity("edge"), Tier::Edge, 1, connect(), Arc::new(Echo::default())).await;
    let device = open(identity("device"), Tier::Device, 1, connect(), Arc::new(Echo::default())).await;
    assert_eq!(edge.mesh().members().borrow().len(), 1);
    link.heal();
    sees(&*edge.mesh(), "hub").await;
    sees(&*device.mesh(), "edge").await;
    let reply = edge.mesh().call(&node("device"), call(&*edge.mesh(), Method::Fetch, "x")).await;
    assert_eq!(reply, Ok(Bytes::from("x")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_started_anew_at_once_sees_the_others_each_time() {
    let root = Root::create().unwrap();
    let identity = |name: &str| root.identity(&node(name), &[]).unwrap();
    let hub = open(identity("hub"), Tier::Edge, 1, Vec::new(), Arc::new(Echo::default())).await;
    let connect = vec![hub.listening()[0].to_string()];
    // The one before it leaves as soon as the hub has told it of itself: shortly after the hub has computed its routes.
    for incarnation in 1..=5 {
        let edge = open(identity("edge"), Tier::Edge, incarnation, connect.clone(), Arc::new(Echo::default())).await;
        sees(&*edge.mesh(), "hub").await;
        edge.mesh().close().await;
    }
}

/// An identity that the root signed, but for a fabric of another name.
fn of_another_fabric(root: &Root) -> Identity {
    let dir = tempfile::tempdir().unwrap();
    root.save(dir.path()).unwrap();
    let key = rcgen::KeyPair::from_pem(&std::fs::read_to_string(dir.path().join("root.key")).unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(root.certificate_pem(), key).unwrap();
    let own = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["stranger".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "fabric-other");
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    Identity {
        node: node("stranger"),
        certificate_pem: params.signed_by(&own, &issuer).unwrap().pem(),
        key_pem: own.serialize_pem(),
        root_pem: root.certificate_pem().to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_nodes_of_the_fabric_get_in_and_the_others_are_told_why() {
    let (root, foreign) = (Root::create().unwrap(), Root::create().unwrap());
    let identity = |root: &Root, name: &str| root.identity(&node(name), &[]).unwrap();
    let hub = open(identity(&root, "hub"), Tier::Edge, 1, Vec::new(), Arc::new(Echo::default())).await;
    let endpoint = hub.listening()[0].to_string();
    assert_eq!(probe(&identity(&root, "a"), &endpoint).await, Ok(()));

    // A root of its own: it does not trust us.
    let stranger = identity(&foreign, "stranger");
    let wrong = probe(&stranger, &endpoint).await;
    assert_eq!(wrong, Err(LinkError::WrongRoot { endpoint: endpoint.clone() }));

    // It claims to trust us, but its certificate is of another root: we do not trust it.
    let posing = Identity { root_pem: root.certificate_pem().to_owned(), ..stranger.clone() };
    // A hub that is busy says so later than is waited for.
    let refusal = async {
        loop {
            if let Err(error) = probe(&posing, &endpoint).await {
                return error;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refusal).await.unwrap();
    assert!(matches!(refused, LinkError::Refused { .. }), "{refused:?}");

    let strangers = [
        open(stranger, Tier::Edge, 1, vec![endpoint.clone()], Arc::new(Echo::default())).await,
        open(posing, Tier::Edge, 2, vec![endpoint.clone()], Arc::new(Echo::default())).await,
        open(of_another_fabric(&root), Tier::Edge, 3, vec![endpoint.clone()], Arc::new(Echo::default())).await,
    ];
    // A friend that comes after them gets in; they have not.
    let friend =
        open(identity(&root, "friend"), Tier::Edge, 1, vec![endpoint.clone()], Arc::new(Echo::default())).await;
    sees(&*hub.mesh(), "friend").await;
    sees(&*friend.mesh(), "hub").await;
    assert_eq!(hub.mesh().members().borrow().len(), 2);
    for stranger in &strangers {
        assert_eq!(stranger.mesh().members().borrow().len(), 1);
    }

    // No certificate at all.
    let stream = tokio::net::TcpStream::connect(&endpoint).await.unwrap();
    let said = without_certificate(&root, stream).await;
    assert!(said.contains("CertificateRequired"), "{said}");
}

async fn without_certificate(root: &Root, stream: tokio::net::TcpStream) -> String {
    use rustls::pki_types::pem::PemObject as _;
    use tokio::io::AsyncReadExt as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(root.certificate_pem().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let error = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().unwrap_err();
    error.to_string()
}

#[test]
fn an_identity_is_kept_in_files_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = Root::create().unwrap();
    let dir = tempfile::tempdir().unwrap();
    root.save(dir.path()).unwrap();
    let identity = root.identity(&node("a"), &["10.0.0.1".parse().unwrap()]).unwrap();
    identity.save(dir.path()).unwrap();
    for key in ["root.key", "node.key"] {
        let mode = std::fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let loaded = Identity::load(dir.path()).unwrap();
    assert_eq!(loaded.node, node("a"));
    assert_eq!(loaded.fabric().unwrap(), root.fabric().unwrap());
    assert_eq!(Root::load(dir.path()).unwrap().hash().unwrap(), loaded.root_hash().unwrap());
    // A certificate of another root, or for another key, is noticed.
    let other = NodeKey::create(&node("a"), &[]).unwrap();
    let foreign = Root::create().unwrap().issue(other.csr_pem(), &node("a")).unwrap();
    let error = other.into_identity(foreign, root.certificate_pem().to_owned()).unwrap_err();
    assert!(error.to_string().contains("another root"), "{error}");
    std::fs::write(dir.path().join("node.key"), root.identity(&node("a"), &[]).unwrap().key_pem).unwrap();
    let error = Identity::load(dir.path()).unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");
}
