//! `wasi:sockets/tcp` on the loopback interface.
use wasip2::io::streams::{InputStream, OutputStream, StreamError};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

use crate::expect;

pub fn v4(address: (u8, u8, u8, u8), port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })
}

pub fn v6(address: (u16, u16, u16, u16, u16, u16, u16, u16), port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
}

pub const LOOPBACK: (u8, u8, u8, u8) = (127, 0, 0, 1);
const MAPPED: (u16, u16, u16, u16, u16, u16, u16, u16) = (0, 0, 0, 0, 0, 0xffff, 0x7f00, 1);

pub fn port(address: &IpSocketAddress) -> u16 {
    match address {
        IpSocketAddress::Ipv4(address) => address.port,
        IpSocketAddress::Ipv6(address) => address.port,
    }
}

fn socket() -> TcpSocket {
    create_tcp_socket(IpAddressFamily::Ipv4).expect("a socket can be had")
}

fn bind(socket: &TcpSocket, to: IpSocketAddress) -> Result<(), ErrorCode> {
    socket.start_bind(&instance_network(), to)?;
    finish(socket, || socket.finish_bind())
}

fn listen(socket: &TcpSocket) -> Result<(), ErrorCode> {
    socket.start_listen()?;
    finish(socket, || socket.finish_listen())
}

fn connect(socket: &TcpSocket, to: IpSocketAddress) -> Result<(InputStream, OutputStream), ErrorCode> {
    socket.start_connect(&instance_network(), to)?;
    finish(socket, || socket.finish_connect())
}

fn finish<T>(socket: &TcpSocket, mut finish: impl FnMut() -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
    loop {
        match finish() {
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            ended => return ended,
        }
    }
}

pub fn exchange() {
    let server = socket();
    expect!(bind(&server, v4(LOOPBACK, 0)), Ok(()));
    expect!(listen(&server), Ok(()));
    expect!(server.is_listening(), true);
    let address = server.local_address().expect("it is bound");
    expect!(port(&address), port if port != 0);
    let client = socket();
    let (from_server, to_server) = connect(&client, address).expect("it connects");
    let (accepted, from_client, to_client) = finish(&server, || server.accept()).expect("it accepts");
    expect!(accepted.is_listening(), false);
    expect!((accepted.remote_address(), client.local_address()), (Ok(theirs), Ok(ours)) if port(&theirs) == port(&ours));
    expect!(to_server.blocking_write_and_flush(b"ping"), Ok(()));
    expect!(from_client.blocking_read(4), Ok(bytes) if bytes == b"ping");
    expect!(to_client.blocking_write_and_flush(b"pong!"), Ok(()));
    expect!(from_server.blocking_read(100), Ok(bytes) if bytes == b"pong!");
    expect!(client.shutdown(ShutdownType::Send), Ok(()));
    expect!(from_client.blocking_read(1), Err(StreamError::Closed));
    expect!(to_client.blocking_write_and_flush(b"still"), Ok(()));
    expect!(from_server.blocking_read(100), Ok(bytes) if bytes == b"still");
}

pub fn states() {
    let network = instance_network();
    let fresh = socket();
    expect!(fresh.local_address(), Err(ErrorCode::InvalidState));
    expect!(fresh.remote_address(), Err(ErrorCode::InvalidState));
    expect!(fresh.finish_bind(), Err(ErrorCode::NotInProgress));
    expect!(fresh.finish_connect(), Err(ErrorCode::NotInProgress));
    expect!(fresh.finish_listen(), Err(ErrorCode::NotInProgress));
    expect!(fresh.start_listen(), Err(ErrorCode::InvalidState));
    expect!(fresh.accept(), Err(ErrorCode::InvalidState));
    expect!(fresh.shutdown(ShutdownType::Both), Err(ErrorCode::InvalidState));
    expect!(fresh.start_bind(&network, v6((0, 0, 0, 0, 0, 0, 0, 1), 0)), Err(ErrorCode::InvalidArgument));
    expect!(bind(&fresh, v4(LOOPBACK, 0)), Ok(()));
    expect!(bind(&fresh, v4(LOOPBACK, 0)), Err(ErrorCode::InvalidState));
    expect!(socket().start_connect(&network, v4(LOOPBACK, 0)), Err(ErrorCode::InvalidArgument));
    expect!(socket().start_connect(&network, v4((0, 0, 0, 0), 80)), Err(ErrorCode::InvalidArgument));
    expect!(socket().start_bind(&network, v4((224, 0, 0, 1), 0)), Err(ErrorCode::InvalidArgument));
    expect!(socket().start_connect(&network, v4((255, 255, 255, 255), 80)), Err(ErrorCode::InvalidArgument));
    let six = create_tcp_socket(IpAddressFamily::Ipv6).expect("a socket can be had");
    expect!(six.start_bind(&network, v6(MAPPED, 0)), Err(ErrorCode::InvalidArgument));
    expect!(six.start_connect(&network, v6(MAPPED, 80)), Err(ErrorCode::InvalidArgument));
    expect!(connect(&socket(), v4(LOOPBACK, 1)), Err(ErrorCode::ConnectionRefused));
    let taken = socket();
    expect!(bind(&taken, v4(LOOPBACK, 0)), Ok(()));
    expect!(listen(&taken), Ok(()));
    expect!(listen(&taken), Err(ErrorCode::InvalidState));
    expect!(bind(&socket(), taken.local_address().expect("it is bound")), Err(ErrorCode::AddressInUse));
}

pub fn options() {
    let socket = socket();
    expect!(socket.address_family(), IpAddressFamily::Ipv4);
    expect!(socket.keep_alive_enabled(), Ok(false));
    expect!(socket.set_keep_alive_enabled(true), Ok(()));
    expect!(socket.keep_alive_enabled(), Ok(true));
    expect!(socket.set_keep_alive_idle_time(0), Err(ErrorCode::InvalidArgument));
    expect!(socket.set_keep_alive_idle_time(30_000_000_000), Ok(()));
    expect!(socket.keep_alive_idle_time(), Ok(30_000_000_000));
    expect!(socket.set_keep_alive_interval(0), Err(ErrorCode::InvalidArgument));
    expect!(socket.set_keep_alive_interval(1_000_000_000), Ok(()));
    expect!(socket.set_keep_alive_count(0), Err(ErrorCode::InvalidArgument));
    expect!(socket.set_keep_alive_count(3), Ok(()));
    expect!(socket.keep_alive_count(), Ok(3));
    expect!(socket.set_hop_limit(0), Err(ErrorCode::InvalidArgument));
    expect!(socket.set_hop_limit(7), Ok(()));
    expect!(socket.hop_limit(), Ok(7));
    expect!(socket.set_receive_buffer_size(0), Err(ErrorCode::InvalidArgument));
    expect!(socket.set_receive_buffer_size(u64::MAX), Ok(()));
    expect!(socket.receive_buffer_size(), Ok(bytes) if bytes > 0);
    expect!(socket.set_send_buffer_size(0), Err(ErrorCode::InvalidArgument));
    expect!(socket.set_listen_backlog_size(0), Err(ErrorCode::InvalidArgument));
    expect!(socket.set_listen_backlog_size(16), Ok(()));
}
