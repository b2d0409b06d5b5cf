//! Why something is refused or ended, with the codes that the protocol has for it.

use rmqtt_codec::v3::ConnectAckReason;

/// A reason that a client is told (MQTT 5.0, section 2.4); version 3.1.1 has words for few of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It is done.
    Success = 0x00,
    /// It cannot be done now, and nothing more is known.
    Unspecified = 0x80,
    /// A packet is no packet.
    Malformed = 0x81,
    /// A packet is not allowed, or not now.
    ProtocolError = 0x82,
    /// The protocol allows it, and this server does not.
    NotSupported = 0x83,
    /// The protocol is spoken in the versions 3.1.1 and 5 only.
    UnsupportedVersion = 0x84,
    /// There is no such name of a client.
    ClientInvalid = 0x85,
    /// The user or the password is not known.
    BadUserOrPassword = 0x86,
    /// The user may not do that.
    NotAuthorized = 0x87,
    /// The server cannot take messages now.
    ServerBusy = 0x89,
    /// The server stops.
    ShuttingDown = 0x8B,
    /// The server knows no way to authenticate but user and password, and certificates.
    BadMethod = 0x8C,
    /// Nothing was heard of the client.
    KeepAliveTimeout = 0x8D,
    /// The client has connected a second time.
    TakenOver = 0x8E,
    /// There is no such filter.
    FilterInvalid = 0x8F,
    /// There is no such topic, or no stream for it.
    TopicInvalid = 0x90,
    /// Aliases of topics are not taken.
    AliasInvalid = 0x94,
    /// A packet is too large.
    PacketTooLarge = 0x95,
    /// There are too many.
    QuotaExceeded = 0x97,
    /// A payload is no text in UTF-8.
    PayloadInvalid = 0x99,
    /// Exactly once is not offered.
    QosNotSupported = 0x9B,
    /// Subscriptions are not shared.
    SharedNotSupported = 0x9E,
    /// Subscriptions have no identifiers.
    IdentifiersNotSupported = 0xA1,
}

impl Reason {
    /// The code of version 5.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The code with which version 3.1.1 refuses a connection; none where it has none and the connection is just closed.
    pub(crate) fn of_v3(self) -> Option<ConnectAckReason> {
        Some(match self {
            Self::UnsupportedVersion => ConnectAckReason::UnacceptableProtocolVersion,
            Self::ClientInvalid => ConnectAckReason::IdentifierRejected,
            Self::ServerBusy | Self::ShuttingDown | Self::Unspecified => ConnectAckReason::ServiceUnavailable,
            Self::BadUserOrPassword => ConnectAckReason::BadUserNameOrPassword,
            Self::NotAuthorized => ConnectAckReason::NotAuthorized,
            _ => return None,
        })
    }
}
