//! Ways to machines that were not granted: names, spellings of addresses, redirects, sockets.
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{ErrorCode as HttpError, Fields, OutgoingRequest, Scheme};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::OutgoingDatagram;
use wasip2::sockets::udp_create_socket::create_udp_socket;

use crate::Report;

/// More than a request has reason to hold open.
const OPENED: usize = 100_000;

/// Sends a request; its status, and where it says to go on.
pub fn request(scheme: Scheme, authority: &str) -> Result<(u16, String), HttpError> {
    let request = OutgoingRequest::new(Fields::new());
    let unsaid = |()| HttpError::HttpRequestUriInvalid;
    request.set_scheme(Some(&scheme)).map_err(unsaid)?;
    request.set_authority(Some(authority)).map_err(unsaid)?;
    request.set_path_with_query(Some("/taken")).map_err(unsaid)?;
    let response = handle(request, None)?;
    response.subscribe().block();
    let response = response.get().expect("it is ready").expect("it is taken once")?;
    let to = response.headers().get("location").first().map(|to| String::from_utf8_lossy(to).into_owned());
    Ok((response.status(), to.unwrap_or_default()))
}

/// Tries to send requests to a port of this machine; the node grants `localhost` there, which leads to no public address.
pub fn requests(report: &mut Report, port: &str) {
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "user@127.0.0.1",
        "granted.example@localhost",
    ] {
        report.refused(&format!("a request to {host}"), request(Scheme::Http, &format!("{host}:{port}")));
        report.refused(&format!("a request by TLS to {host}"), request(Scheme::Https, &format!("{host}:{port}")));
    }
    for other in ["169.254.169.254", "[fd00:ec2::254]", "metadata.google.internal", "10.0.0.1", "192.168.0.1"] {
        report.refused(&format!("a request to {other}"), request(Scheme::Http, other));
    }
    report.refused(
        "a request by another scheme",
        request(Scheme::Other("file".to_owned()), &format!("127.0.0.1:{port}")),
    );
}

/// Asks a granted server that sends it elsewhere: the host must leave it to the guest to go there, which it may not.
pub fn redirect(report: &mut Report, granted: &str) {
    let (status, to) = request(Scheme::Http, granted).expect("it is granted");
    report.harmless("be redirected", status == 302 && !to.is_empty(), &format!("{status} {to}"));
    let authority = to.trim_start_matches("http://").trim_end_matches('/');
    report.refused(&format!("follow to {authority}"), request(Scheme::Http, authority));
}

fn v4(address: (u8, u8, u8, u8), port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })
}

fn v6(address: (u16, u16, u16, u16, u16, u16, u16, u16), port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
}

fn family(address: &IpSocketAddress) -> IpAddressFamily {
    match address {
        IpSocketAddress::Ipv4(_) => IpAddressFamily::Ipv4,
        IpSocketAddress::Ipv6(_) => IpAddressFamily::Ipv6,
    }
}

fn targets(port: u16) -> [IpSocketAddress; 7] {
    [
        v4((127, 0, 0, 1), port),
        v4((0, 0, 0, 0), port),
        v4((169, 254, 169, 254), 80),
        v6((0, 0, 0, 0, 0, 0, 0, 1), port),
        v6((0, 0, 0, 0, 0, 0, 0, 0), port),
        v6((0, 0, 0, 0, 0, 0xffff, 0x7f00, 1), port),
        v6((0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 80),
    ]
}

fn connect(to: IpSocketAddress) -> Result<TcpSocket, ErrorCode> {
    let socket = create_tcp_socket(family(&to))?;
    socket.start_connect(&instance_network(), to)?;
    socket.subscribe().block();
    socket.finish_connect()?;
    Ok(socket)
}

fn send(to: IpSocketAddress, connected: bool) -> Result<u64, ErrorCode> {
    let socket = create_udp_socket(family(&to))?;
    let any = match to {
        IpSocketAddress::Ipv4(_) => v4((0, 0, 0, 0), 0),
        IpSocketAddress::Ipv6(_) => v6((0, 0, 0, 0, 0, 0, 0, 0), 0),
    };
    socket.start_bind(&instance_network(), any)?;
    socket.finish_bind()?;
    let (_incoming, outgoing) = socket.stream(connected.then_some(to))?;
    outgoing.subscribe().block();
    outgoing.check_send()?;
    let remote_address = (!connected).then_some(to);
    outgoing.send(&[OutgoingDatagram { data: b"taken".to_vec(), remote_address }])
}

/// Tries to reach a port of this machine by sockets.
pub fn sockets(report: &mut Report, port: &str) {
    let port = port.parse().expect("a port");
    for to in targets(port) {
        report.refused(&format!("connect to {to:?}"), connect(to));
        report.refused(&format!("send a datagram to {to:?}"), send(to, false));
        report.refused(&format!("send a datagram over a connection to {to:?}"), send(to, true));
    }
}

/// Tries to listen: at an address of its own, at all of them, at one that others use.
pub fn listen(report: &mut Report, port: &str) {
    let port = port.parse().expect("a port");
    for at in [v4((127, 0, 0, 1), 0), v4((0, 0, 0, 0), 0), v4((127, 0, 0, 1), port), v6((0, 0, 0, 0, 0, 0, 0, 0), 0)] {
        report.refused(&format!("listen at {at:?}"), listen_at(at));
    }
    for at in [v4((127, 0, 0, 1), 0), v4((127, 0, 0, 1), port)] {
        let socket = create_udp_socket(IpAddressFamily::Ipv4);
        let bound = socket.and_then(|socket| {
            socket.start_bind(&instance_network(), at)?;
            socket.finish_bind()
        });
        report.refused(&format!("take datagrams at {at:?}"), bound);
    }
}

fn listen_at(at: IpSocketAddress) -> Result<(), ErrorCode> {
    let socket = create_tcp_socket(family(&at))?;
    socket.start_bind(&instance_network(), at)?;
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.finish_listen()
}

/// Tries to find out about names.
pub fn look_up(report: &mut Report) {
    let found = resolve_addresses(&instance_network(), "localhost").and_then(|addresses| {
        addresses.subscribe().block();
        addresses.resolve_next_address()
    });
    report.refused("look up a name", found);
}

/// Makes sockets until the host says no.
pub fn hoard(report: &mut Report) {
    let mut held = Vec::new();
    while held.len() < OPENED {
        match create_tcp_socket(IpAddressFamily::Ipv4) {
            Ok(socket) => held.push(socket),
            Err(error) => return report.harmless("open sockets", true, &format!("{} and then {error:?}", held.len())),
        }
    }
    report.harmless("open sockets", false, &format!("{} at once", held.len()));
}
