//! What clients may ask of a gateway.

use std::time::Duration;

/// The bounds of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a client may take to send the head of a request, and how long a connection may be idle before it.
    pub header_timeout: Duration,
    /// How long a client may take none of what it is sent.
    pub write_timeout: Duration,
    /// How large a request's head may be, in bytes; larger ones are answered with 431, as are those with more than 100 headers.
    pub header_bytes_max: usize,
    /// How large a request's body may be, in bytes; larger ones are answered with 413.
    pub body_bytes_max: u64,
    /// How many connections may be open; more wait in the system's queue.
    pub connections_max: usize,
}

impl Default for Settings {
    /// 30 s for the head and for a client that takes nothing, 32 KiB of headers, as much as common proxies pass on; 8 MiB of body; and as many
    /// connections as fit into two gigabytes when each fills its buffers of 128 KiB each way.
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            header_bytes_max: 32 << 10,
            body_bytes_max: 8 << 20,
            connections_max: 8_192,
        }
    }
}
