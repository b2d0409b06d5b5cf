//! MQTT on this node: who is let in, where sessions are kept, what is retained. What topics lead to is supplied by
//! [`wiring`](crate::wiring).

mod access;
mod retained;
mod sessions;

pub(crate) use access::settings;
pub(crate) use retained::Retained;
pub(crate) use sessions::Sessions;
