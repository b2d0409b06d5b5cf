//! `wasi:sockets/udp` and `ip-name-lookup`.
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress};
use wasip2::sockets::udp::{
    IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasip2::sockets::udp_create_socket::create_udp_socket;

use crate::expect;
use crate::tcp::{LOOPBACK, port, v4};

fn bound() -> (UdpSocket, IpSocketAddress) {
    let socket = create_udp_socket(IpAddressFamily::Ipv4).expect("a socket can be had");
    expect!(socket.start_bind(&instance_network(), v4(LOOPBACK, 0)), Ok(()));
    expect!(socket.finish_bind(), Ok(()));
    let address = socket.local_address().expect("it is bound");
    (socket, address)
}

fn send(to: &OutgoingDatagramStream, data: &[u8], remote_address: Option<IpSocketAddress>) -> Result<u64, ErrorCode> {
    to.subscribe().block();
    to.check_send()?;
    to.send(&[OutgoingDatagram { data: data.to_vec(), remote_address }])
}

fn receive(from: &IncomingDatagramStream) -> IncomingDatagram {
    loop {
        from.subscribe().block();
        if let Some(datagram) = from.receive(10).expect("it may receive").pop() {
            return datagram;
        }
    }
}

pub fn exchange() {
    let (server, address) = bound();
    expect!(port(&address), port if port != 0);
    let (from_client, to_client) = server.stream(None).expect("it may stream");
    let (client, client_address) = bound();
    let (_, unconnected) = client.stream(None).expect("it may stream");
    expect!(send(&unconnected, b"lost", None), Err(ErrorCode::InvalidArgument));
    expect!(send(&unconnected, b"one", Some(address)), Ok(1));
    let datagram = receive(&from_client);
    expect!((&datagram.data[..], port(&datagram.remote_address)), (b"one", from) if from == port(&client_address));
    drop(unconnected);
    let (from_server, connected) = client.stream(Some(address)).expect("it may stream");
    expect!(client.remote_address(), Ok(to) if port(&to) == port(&address));
    expect!(send(&connected, b"two", None), Ok(1));
    expect!(&receive(&from_client).data[..], [b't', b'w', b'o']);
    expect!(send(&connected, b"two", Some(v4(LOOPBACK, 9))), Err(ErrorCode::InvalidArgument));
    expect!(send(&to_client, b"", Some(client_address)), Ok(1));
    expect!(receive(&from_server).data.len(), 0);
    expect!(send(&to_client, b"x", Some(v4(LOOPBACK, 0))), Err(ErrorCode::InvalidArgument));
    expect!(from_client.receive(0), Ok(none) if none.is_empty());
    expect!(server.start_bind(&instance_network(), v4(LOOPBACK, 0)), Err(ErrorCode::InvalidState));
}

fn first(name: &str) -> Result<Option<IpAddress>, ErrorCode> {
    let addresses = resolve_addresses(&instance_network(), name)?;
    loop {
        match addresses.resolve_next_address() {
            Err(ErrorCode::WouldBlock) => addresses.subscribe().block(),
            found => return found,
        }
    }
}

pub fn names() {
    expect!(first("127.0.0.1"), Ok(Some(IpAddress::Ipv4(LOOPBACK))));
    expect!(first("::1"), Ok(Some(IpAddress::Ipv6((0, 0, 0, 0, 0, 0, 0, 1)))));
    expect!(first("localhost"), Ok(Some(_)));
    for wrong in ["", "a b", "http://localhost", "localhost:80"] {
        expect!(first(wrong), Err(ErrorCode::InvalidArgument));
    }
    expect!(first("nowhere.invalid"), Err(ErrorCode::NameUnresolvable | ErrorCode::TemporaryResolverFailure));
}
