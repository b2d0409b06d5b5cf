//! Direct lines between neighbours on real sockets: that calls take them, and what happens where they cannot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod contract;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use contract::{PATIENCE, call, digest, misses, node, sees};
use littoral_mesh::frame::{Envelope, ReplyError};
use littoral_mesh::identity::{Identity, Root};
use littoral_mesh::shaper::{LinkShape, Shaper};
use littoral_mesh::{CallError, Handling, Incoming, MeshOptions, Method, Priority, Service, ZenohMesh};
use littoral_model::id::{InvocationId, NodeId, TenantId, Tier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const PROTOCOL: &[u8] = b"littoral-call/1";
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const FAILED: u8 = 3;
/// More than a line carries at once.
const LARGE_BYTES: usize = 3 << 20;

/// Counts what it did: `Call` once it may, at once if its payload says so; `Compose` answers with much.
struct Counting {
    begun: AtomicUsize,
    done: AtomicUsize,
    gate: Semaphore,
    /// Whether it has no room for what arrives.
    is_full: AtomicBool,
}

impl Default for Counting {
    fn default() -> Self {
        let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { begun, done, gate: Semaphore::new(0), is_full: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Service for Counting {
    fn run(&self, _method: Method, handling: Handling) -> Option<Handling> {
        if self.is_full.load(Ordering::SeqCst) { None } else { Some(handling) }
    }

    async fn handle(&self, from: NodeId, call: Incoming) -> Result<Bytes, String> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        match call.method {
            Method::Call if call.payload.starts_with(b"wait") => {
                self.gate.acquire().await.unwrap().forget();
                let done = self.done.fetch_add(1, Ordering::SeqCst) + 1;
                Ok(Bytes::from(format!("{from} {done}")))
            }
            Method::Compose => {
                self.done.fetch_add(1, Ordering::SeqCst);
                Ok(vec![b'x'; LARGE_BYTES].into())
            }
            Method::Invoke => panic!("a bug in the service"),
            _ => Ok(call.payload),
        }
    }
}

/// What stands between a node and the one that it dials, and tells direct lines from links by what their handshakes ask for.
struct Proxy {
    address: SocketAddr,
    lines: Arc<Lines>,
}

struct Lines {
    /// Where lines are led, if not where links are; nowhere if that is nothing.
    to: Option<SocketAddr>,
    seen: AtomicUsize,
    cancel: Mutex<CancellationToken>,
}

impl Proxy {
    async fn start(target: SocketAddr, lines_to: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Lines { to: lines_to, seen: AtomicUsize::new(0), cancel: Mutex::default() };
        let lines = Arc::new(lines);
        let shared = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(pass(near, target, Arc::clone(&shared)));
            }
        });
        Self { address, lines }
    }

    /// Breaks the lines that there are, and leaves the links.
    fn break_lines(&self) {
        std::mem::take(&mut *self.lines.cancel.lock().unwrap()).cancel();
    }

    fn seen(&self) -> usize {
        self.lines.seen.load(Ordering::SeqCst)
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr, lines: Arc<Lines>) {
    let mut hello = vec![0; 4096];
    let bytes = near.read(&mut hello).await.unwrap_or(0);
    let is_line = hello[..bytes].windows(PROTOCOL.len()).any(|window| window == PROTOCOL);
    let to = if is_line { lines.to } else { Some(target) };
    let cancel = if is_line { lines.cancel.lock().unwrap().clone() } else { CancellationToken::new() };
    if is_line {
        lines.seen.fetch_add(1, Ordering::SeqCst);
    }
    let Some(to) = to else { return };
    let Ok(mut far) = TcpStream::connect(to).await else { return };
    if far.write_all(&hello[..bytes]).await.is_ok() {
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            () = cancel.cancelled() => {}
        }
    }
}

async fn open(identity: Identity, connect: Vec<String>, service: Arc<dyn Service>) -> ZenohMesh {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let digest = digest(identity.node.as_str(), Tier::Edge, 1);
    let (tenant, listen) = (TenantId::default_tenant(), vec!["127.0.0.1:0".parse().unwrap()]);
    let options =
        MeshOptions { identity, tenant, listen, connect, revoked: Default::default(), digest, service, threads: None };
    ZenohMesh::open(options).await.unwrap()
}

/// Two nodes, the edge linked to the hub through a proxy.
struct Two {
    root: Root,
    hub: ZenohMesh,
    edge: ZenohMesh,
    proxy: Proxy,
    services: [Arc<Counting>; 2],
}

impl Two {
    /// Both see one another; lines are led to `lines_to` of the hub's address.
    async fn start(lines_to: impl AsyncFnOnce(&Identity, SocketAddr) -> Option<SocketAddr>) -> Self {
        let root = Root::create().unwrap();
        let identity = |name: &str| root.identity(&node(name), &[]).unwrap();
        let services: [Arc<Counting>; 2] = Default::default();
        let hub = open(identity("hub"), Vec::new(), Arc::<Counting>::clone(&services[0])).await;
        let target = hub.listening()[0];
        let proxy = Proxy::start(target, lines_to(&identity("hub"), target).await).await;
        let connect = vec![proxy.address.to_string()];
        let edge = open(identity("edge"), connect, Arc::<Counting>::clone(&services[1])).await;
        sees(&*hub.mesh(), "edge").await;
        sees(&*edge.mesh(), "hub").await;
        Self { root, hub, edge, proxy, services }
    }

    /// The same, and there are lines that calls of both sides take.
    async fn with_lines() -> Self {
        let two = Self::start(async |_, target| Some(target)).await;
        two.lines_are_taken().await;
        two
    }

    async fn lines_are_taken(&self) {
        for (from, to) in [(&self.edge, "hub"), (&self.hub, "edge")] {
            let before = from.direct().answered;
            timeout(PATIENCE, async {
                while from.direct().answered == before {
                    assert_eq!(ask(from, to, Method::Call, "x").await, Ok(Bytes::from("x")));
                }
            })
            .await
            .expect("no call goes by a direct line");
        }
    }
}

async fn ask(from: &ZenohMesh, to: &str, method: Method, payload: impl Into<Bytes>) -> Result<Bytes, CallError> {
    let mesh = from.mesh();
    mesh.call(&node(to), call(&*mesh, method, payload)).await
}

/// Waits for what is not told.
async fn until(mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it never came to be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_functions_take_the_line_in_both_directions_and_nothing_else_does() {
    let two = Two::with_lines().await;
    for (from, to) in [(&two.edge, "hub"), (&two.hub, "edge")] {
        let before = from.direct().answered;
        for bytes in [0, 1, 16_384, 300_000, 1 << 20] {
            let payload = Bytes::from(vec![7; bytes]);
            assert_eq!(ask(from, to, Method::Call, payload.clone()).await, Ok(payload));
        }
        assert_eq!(from.direct().answered, before + 5);
        ask(from, to, Method::Fetch, "x").await.unwrap();
        let large = Bytes::from(vec![7; LARGE_BYTES]);
        assert_eq!(ask(from, to, Method::Call, large.clone()).await, Ok(large), "too large for a line");
        assert_eq!(from.direct().answered, before + 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_for_a_line_comes_by_the_other_way_and_has_one_effect() {
    let two = Two::with_lines().await;
    let begun = two.services[0].begun.load(Ordering::SeqCst);
    let answered = two.edge.direct().answered;
    assert_eq!(ask(&two.edge, "hub", Method::Compose, "x").await.map(|reply| reply.len()), Ok(LARGE_BYTES));
    assert_eq!(two.services[0].begun.load(Ordering::SeqCst), begun + 1);
    assert_eq!(two.edge.direct().answered, answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_panics_fails_its_call_and_the_line_goes_on() {
    let two = Two::with_lines().await;
    let failed = ask(&two.edge, "hub", Method::Invoke, "x").await;
    assert!(matches!(failed, Err(CallError::Failed(_))), "{failed:?}");
    assert!(two.edge.direct().lines > 0);
    two.lines_are_taken().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_nobody_takes_up_is_refused() {
    let two = Two::with_lines().await;
    two.services[0].is_full.store(true, Ordering::SeqCst);
    let refused = ask(&two.edge, "hub", Method::Call, "x").await;
    assert!(matches!(refused, Err(CallError::Refused { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_a_line_takes_at_once_wait_and_are_all_answered() {
    let two = Arc::new(Two::with_lines().await);
    let calls: Vec<_> = (0..1000_usize)
        .map(|number| {
            let two = Arc::clone(&two);
            tokio::spawn(async move {
                let (from, to) = if number % 2 == 0 { (&two.edge, "hub") } else { (&two.hub, "edge") };
                let payload = Bytes::from(vec![u8::try_from(number % 251).unwrap(); 20_000 + number]);
                assert_eq!(ask(from, to, Method::Call, payload.clone()).await, Ok(payload));
            })
        })
        .collect();
    for call in calls {
        timeout(PATIENCE, call).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_breaks_leaves_its_calls_one_answer_and_one_effect() {
    let two = Two::with_lines().await;
    for (from, to, service) in [(&two.edge, "hub", &two.services[0]), (&two.hub, "edge", &two.services[1])] {
        two.lines_are_taken().await;
        let begun = service.begun.load(Ordering::SeqCst);
        let under_way = tokio::spawn({
            let mesh = from.mesh();
            let waits = call(&*mesh, Method::Call, "wait");
            async move { mesh.call(&node(to), waits).await }
        });
        until(|| service.begun.load(Ordering::SeqCst) > begun).await;
        let seen = two.proxy.seen();
        two.proxy.break_lines();
        // The line is made anew while the call is still under way: by whichever way it is repeated, it is one call.
        until(|| two.proxy.seen() > seen).await;
        service.gate.add_permits(1);
        let reply = timeout(PATIENCE, under_way).await.unwrap().unwrap();
        assert_eq!(reply, Ok(Bytes::from(format!("{} 1", from.mesh().node()))));
        assert_eq!(service.done.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_ends_with_the_link_that_it_lies_beside_and_comes_back_with_it() {
    let root = Root::create().unwrap();
    let identity = |name: &str| root.identity(&node(name), &[]).unwrap();
    let services: [Arc<Counting>; 2] = Default::default();
    let hub = open(identity("hub"), Vec::new(), Arc::<Counting>::clone(&services[0])).await;
    let listen = "127.0.0.1:0".parse().unwrap();
    let link = Shaper::start(listen, hub.listening()[0], LinkShape::default(), 1).await.unwrap();
    let connect = vec![link.address().to_string()];
    let edge = open(identity("edge"), connect, Arc::<Counting>::clone(&services[1])).await;
    sees(&*edge.mesh(), "hub").await;
    until(|| edge.direct().lines > 0 && hub.direct().lines > 0).await;
    until_answered(&edge, "hub").await;

    let mesh = edge.mesh();
    let waits = call(&*mesh, Method::Call, "wait");
    let begun = services[0].begun.load(Ordering::SeqCst);
    let under_way = tokio::spawn({
        let (mesh, waits) = (Arc::clone(&mesh), waits.clone());
        async move { mesh.call(&node("hub"), waits).await }
    });
    until(|| services[0].begun.load(Ordering::SeqCst) > begun).await;
    link.cut();
    misses(&*mesh, "hub").await;
    misses(&*hub.mesh(), "edge").await;
    until(|| edge.direct().lines == 0 && hub.direct().lines == 0).await;
    let lost = timeout(PATIENCE, under_way).await.unwrap().unwrap();
    assert!(matches!(lost, Err(CallError::Unreachable { .. })), "{lost:?}");

    link.heal();
    services[0].gate.add_permits(1);
    sees(&*mesh, "hub").await;
    assert_eq!(mesh.call(&node("hub"), waits).await, Ok(Bytes::from("edge 1")), "the same call, repeated");
    assert_eq!(services[0].done.load(Ordering::SeqCst), 1);
    until_answered(&edge, "hub").await;
    until_answered(&hub, "edge").await;
}

async fn until_answered(from: &ZenohMesh, to: &str) {
    let before = from.direct().answered;
    let calling = async {
        while from.direct().answered == before {
            ask(from, to, Method::Call, "x").await.unwrap();
        }
    };
    timeout(PATIENCE, calling).await.expect("no call goes by a direct line");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_revoked_has_no_line_and_gets_none() {
    let two = Two::with_lines().await;
    two.hub.mesh().refuse(&node("edge"));
    until(|| two.hub.direct().lines == 0).await;
    let begun = two.services[0].begun.load(Ordering::SeqCst);
    let refused = ask(&two.edge, "hub", Method::Call, "x").await;
    assert!(refused.is_err(), "{refused:?}");
    // It dials again, in vain.
    let seen = two.proxy.seen();
    until(|| two.proxy.seen() >= seen + 2).await;
    assert_eq!(two.hub.direct().lines, 0);
    assert_eq!(two.services[0].begun.load(Ordering::SeqCst), begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_that_knows_no_direct_lines_is_called_as_ever() {
    // What an older hub does: it takes the connection for a link, whose handshake asks for nothing.
    let older = async |identity: &Identity, _| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server_config(identity)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = acceptor.accept(stream).await.unwrap();
                // It waits for a link's first message, and gets none.
                assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
            }
        });
        Some(address)
    };
    let two = Two::start(older).await;
    until(|| two.proxy.seen() > 0).await;
    for (from, to) in [(&two.edge, "hub"), (&two.hub, "edge")] {
        for _ in 0..20 {
            assert_eq!(ask(from, to, Method::Call, "x").await, Ok(Bytes::from("x")));
        }
        assert_eq!((from.direct().lines, from.direct().answered), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_neighbour_whose_lines_are_turned_away_is_called_as_ever() {
    let two = Two::start(async |_, _| None).await;
    until(|| two.proxy.seen() > 1).await;
    for (from, to) in [(&two.edge, "hub"), (&two.hub, "edge")] {
        assert_eq!(ask(from, to, Method::Call, "x").await, Ok(Bytes::from("x")));
        assert_eq!((from.direct().lines, from.direct().answered), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_calls_in_another_nodes_name() {
    let two = Two::with_lines().await;
    let begun = two.services[0].begun.load(Ordering::SeqCst);
    let mut mallory = raw(&two.root.identity(&node("mallory"), &[]).unwrap(), two.hub.listening()[0]).await;
    mallory.write_all(&request(1, &envelope("edge", Method::Call), b"x")).await.unwrap();
    let (kind, number, body) = frame(&mut mallory).await;
    assert_eq!((kind, number), (FAILED, 1));
    let refused = ReplyError::decode(&body);
    assert!(matches!(&refused, ReplyError::Refused(reason) if reason.contains("mallory")), "{refused:?}");
    // Nor is anything but calls of functions answered.
    mallory.write_all(&request(2, &envelope("mallory", Method::Hello), b"x")).await.unwrap();
    let (kind, _, body) = frame(&mut mallory).await;
    assert!(kind == FAILED && matches!(ReplyError::decode(&body), ReplyError::Refused(_)));
    assert_eq!(two.services[0].begun.load(Ordering::SeqCst), begun);
    // In its own name, it is a node as others are.
    mallory.write_all(&request(3, &envelope("mallory", Method::Call), b"x")).await.unwrap();
    assert_eq!(frame(&mut mallory).await, (REPLY, 3, b"x".to_vec()));
}

/// Who dials has done its part of the handshake when it sends the last of it, and may ask at once: both may arrive together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_arrives_with_the_end_of_the_handshake_is_answered() {
    let two = Two::with_lines().await;
    let identity = two.root.identity(&node("mallory"), &[]).unwrap();
    let mut stream = TcpStream::connect(two.hub.listening()[0]).await.unwrap();
    let mut tls = rustls::ClientConnection::new(client_config(&identity), "localhost".try_into().unwrap()).unwrap();
    while tls.is_handshaking() {
        send(&mut tls, &mut stream).await;
        take(&mut tls, &mut stream).await;
    }
    tls.writer().write_all(&request(1, &envelope("mallory", Method::Call), b"x")).unwrap();
    send(&mut tls, &mut stream).await;
    let reply = [&6_u32.to_le_bytes()[..], &[REPLY], &1_u32.to_le_bytes(), b"x"].concat();
    let mut read = vec![0; reply.len()];
    while tls.reader().read_exact(&mut read).is_err() {
        take(&mut tls, &mut stream).await;
    }
    assert_eq!(read, reply);
}

/// Sends all that there is to be sent, as one.
async fn send(tls: &mut rustls::ClientConnection, stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    stream.write_all(&bytes).await.unwrap();
}

async fn take(tls: &mut rustls::ClientConnection, stream: &mut TcpStream) {
    let mut bytes = vec![0; 4096];
    let length = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("nothing is said").unwrap();
    assert_ne!(length, 0, "it is closed");
    let mut bytes = &bytes[..length];
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes).unwrap();
        tls.process_new_packets().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_own_connection_only() {
    let two = Two::with_lines().await;
    let identity = two.root.identity(&node("mallory"), &[]).unwrap();
    let answered = two.edge.direct().answered;
    let lines = two.edge.direct().lines;
    let unasked = [&5_u32.to_le_bytes()[..], &[REPLY], &9_u32.to_le_bytes()].concat();
    let oversized = [&u32::MAX.to_le_bytes()[..], &[REQUEST], &9_u32.to_le_bytes()].concat();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 64], unasked, oversized] {
        let mut stream = raw(&identity, two.hub.listening()[0]).await;
        stream.write_all(&garbage).await.unwrap();
        let ended = timeout(PATIENCE, stream.read(&mut [0])).await.unwrap();
        assert!(!matches!(ended, Ok(1..)), "{garbage:?}");
    }
    // Not even TLS.
    let mut stream = TcpStream::connect(two.hub.listening()[0]).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    while matches!(timeout(PATIENCE, stream.read(&mut [0])).await.unwrap(), Ok(1..)) {}
    assert_eq!(ask(&two.edge, "hub", Method::Call, "x").await, Ok(Bytes::from("x")));
    assert_eq!((two.edge.direct().lines, two.edge.direct().answered), (lines, answered + 1));
}

fn chain(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Arc<rustls::RootCertStore>) {
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate(&identity.root_pem)).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    (vec![certificate(&identity.certificate_pem)], key, Arc::new(roots))
}

fn server_config(identity: &Identity) -> rustls::ServerConfig {
    let (chain, key, roots) = chain(identity);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap()
}

fn client_config(identity: &Identity) -> Arc<rustls::ClientConfig> {
    let (chain, key, roots) = chain(identity);
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Arc::new(config)
}

/// A direct line by hand.
async fn raw(identity: &Identity, to: SocketAddr) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(to).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(client_config(identity));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(PROTOCOL));
    stream
}

fn envelope(from: &str, method: Method) -> Bytes {
    let envelope = Envelope {
        from: node(from),
        method: method as u8,
        priority: Priority::Data,
        deadline_ms: 10_000,
        invocation: InvocationId::from_parts(1, u128::from(method as u8)),
        trace: None,
    };
    envelope.encode().unwrap()
}

fn request(number: u32, envelope: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(5 + 2 + envelope.len() + payload.len()).unwrap();
    let envelope_bytes = u16::try_from(envelope.len()).unwrap().to_le_bytes();
    [&length.to_le_bytes()[..], &[REQUEST], &number.to_le_bytes(), &envelope_bytes, envelope, payload].concat()
}

async fn frame(stream: &mut TlsStream<TcpStream>) -> (u8, u32, Vec<u8>) {
    let reading = async {
        let length = stream.read_u32_le().await.unwrap();
        let (kind, number) = (stream.read_u8().await.unwrap(), stream.read_u32_le().await.unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap() - 5];
        stream.read_exact(&mut body).await.unwrap();
        (kind, number, body)
    };
    timeout(PATIENCE, reading).await.unwrap()
}
