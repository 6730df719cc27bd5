//! The frames of a mesh link: a fixed header of 24 bytes, then a payload of at most 64 KiB.
//!
//! Why not `LengthDelimitedCodec`: it copies on encode, and slices of what it decodes are not aligned. With a header of fixed
//! length, a payload can be read straight to where it is to lie.

/// Bytes of a header.
pub const HEADER: usize = 24;

/// Most bytes of a payload: what a small message waits for at most, where a large one is in transit.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// The newest version of the protocol that this build speaks.
pub const VERSION: u8 = 1;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Handshake: who speaks, and what it can.
    Hello,
    /// Handshake: it holds the key.
    Proof,
    /// The handshake failed; the payload says why, as text.
    Refused,
    /// The beginning of a message: its head.
    Head,
    /// A piece of a message's body.
    Data,
    /// Bytes that the receiver may send more of one exchange.
    Credit,
    /// The opener wants no answer any more.
    Cancel,
    /// The responder will not answer.
    Reset,
    /// Asks for a pong with the same exchange id.
    Ping,
    /// Answers a ping.
    Pong,
    /// No exchange is opened or taken any more; what runs is finished.
    GoAway,
}

/// Every kind, by its number on the wire less one.
pub const ALL_KINDS: [Kind; 11] = [
    Kind::Hello,
    Kind::Proof,
    Kind::Refused,
    Kind::Head,
    Kind::Data,
    Kind::Credit,
    Kind::Cancel,
    Kind::Reset,
    Kind::Ping,
    Kind::Pong,
    Kind::GoAway,
];

impl Kind {
    /// Its number on the wire.
    pub const fn code(self) -> u8 {
        // The order of the variants is that of `ALL_KINDS`, which a test holds.
        self as u8 + 1
    }

    /// The kind of that number.
    pub fn from_code(code: u8) -> Option<Self> {
        ALL_KINDS.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Whether a frame of this kind may have a payload.
    const fn has_payload(self) -> bool {
        matches!(
            self,
            Self::Hello | Self::Proof | Self::Refused | Self::Head | Self::Data
        )
    }
}

/// On a [`Kind::Head`]: the sender has no further message for this exchange.
pub const LAST: u16 = 1;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload that follows.
    pub payload: u32,
    /// Version of the protocol.
    pub version: u8,
    /// What the frame is for.
    pub kind: Kind,
    /// [`LAST`], or nothing. Others are refused, so that they can get a meaning.
    pub flags: u16,
    /// Which exchange; a number to be returned, in a ping and its pong.
    pub exchange: u64,
    /// Head of a request: milliseconds that are left, 0 for no deadline. Credit: bytes. Reset: [`ResetCode`].
    pub argument: u32,
    /// Head: bytes of the body, in the data frames that follow.
    pub body: u32,
}

impl Header {
    /// A header without payload, flags, argument and body.
    pub const fn new(kind: Kind, exchange: u64) -> Self {
        Self {
            payload: 0,
            version: VERSION,
            kind,
            flags: 0,
            exchange,
            argument: 0,
            body: 0,
        }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&self.payload.to_le_bytes());
        bytes[4] = self.version;
        bytes[5] = self.kind.code();
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.exchange.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.argument.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.body.to_le_bytes());
        bytes
    }

    /// The header of these bytes.
    ///
    /// # Errors
    /// When it is none that this protocol has.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Self, FrameError> {
        let [p0, p1, p2, p3, version, kind, f0, f1, rest @ ..] = *bytes;
        let [e0, e1, e2, e3, e4, e5, e6, e7, a0, a1, a2, a3, b0, b1, b2, b3] = rest;
        let payload = u32::from_le_bytes([p0, p1, p2, p3]);
        if payload as usize > MAX_PAYLOAD {
            return Err(FrameError::Payload(payload));
        }
        let kind = Kind::from_code(kind).ok_or(FrameError::Kind(kind))?;
        if payload > 0 && !kind.has_payload() {
            return Err(FrameError::Unexpected { kind, payload });
        }
        let flags = u16::from_le_bytes([f0, f1]);
        if flags & !LAST != 0 {
            return Err(FrameError::Flags(flags));
        }
        Ok(Self {
            payload,
            version,
            kind,
            flags,
            exchange: u64::from_le_bytes([e0, e1, e2, e3, e4, e5, e6, e7]),
            argument: u32::from_le_bytes([a0, a1, a2, a3]),
            body: u32::from_le_bytes([b0, b1, b2, b3]),
        })
    }

    /// Whether [`LAST`] is set.
    pub const fn is_last(&self) -> bool {
        self.flags & LAST != 0
    }
}

/// Bytes that are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload is too long.
    #[error("a payload of {0} bytes; there are at most {MAX_PAYLOAD}")]
    Payload(u32),
    /// No such kind.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// A payload where there is none.
    #[error("a payload of {payload} bytes in a {kind:?} frame, which has none")]
    Unexpected {
        /// Of which kind.
        kind: Kind,
        /// How long.
        payload: u32,
    },
    /// Flags without a meaning.
    #[error("flags {0:#06x}, which have no meaning")]
    Flags(u16),
}

/// Why a responder does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    /// It took the request and lost it: whether it ran cannot be told.
    Lost,
    /// As many exchanges are under way as it takes. The request did not run.
    Busy,
    /// The request is over its limit. It did not run.
    TooLarge,
    /// It takes no exchanges any more. The request did not run.
    GoingAway,
    /// It answers no requests at all. The request did not run.
    NotServed,
}

/// Every code, by its number on the wire less one.
pub const ALL_RESET_CODES: [ResetCode; 5] = [
    ResetCode::Lost,
    ResetCode::Busy,
    ResetCode::TooLarge,
    ResetCode::GoingAway,
    ResetCode::NotServed,
];

impl ResetCode {
    /// Its number on the wire.
    pub const fn code(self) -> u32 {
        // The order of the variants is that of `ALL_RESET_CODES`, which a test holds.
        self as u32 + 1
    }

    /// The code of that number. An unknown one is taken for the one that promises least.
    pub fn from_code(code: u32) -> Self {
        let index = (code as usize).wrapping_sub(1);
        ALL_RESET_CODES.get(index).copied().unwrap_or(Self::Lost)
    }

    /// Whether the request provably did not run.
    pub const fn proves_not_run(self) -> bool {
        !matches!(self, Self::Lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_read_back(payload in 0..=MAX_PAYLOAD as u32, kind in 0usize..11, last: bool, numbers: (u8, u64, u32, u32)) {
            let kind = ALL_KINDS[kind];
            let header = Header {
                payload: if kind.has_payload() { payload } else { 0 },
                version: numbers.0,
                kind,
                flags: u16::from(last) * LAST,
                exchange: numbers.1,
                argument: numbers.2,
                body: numbers.3,
            };
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn no_bytes_panic_and_what_is_accepted_is_written_the_same(bytes: [u8; HEADER]) {
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn numbers_of_kinds_and_codes_read_back() {
        for kind in ALL_KINDS {
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        assert_eq!((Kind::from_code(0), Kind::from_code(12)), (None, None));
        for code in ALL_RESET_CODES {
            assert_eq!(ResetCode::from_code(code.code()), code);
        }
        assert_eq!(ResetCode::from_code(0), ResetCode::Lost);
        assert_eq!(ResetCode::from_code(99), ResetCode::Lost);
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_with_its_length() {
        let mut bytes = Header::new(Kind::Data, 1).encode();
        bytes[0..4].copy_from_slice(&65_537u32.to_le_bytes());
        let error = Header::decode(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "a payload of 65537 bytes; there are at most 65536");
    }

    #[test]
    fn the_layout_never_changes() {
        let header = Header {
            payload: 0x0102,
            flags: LAST,
            argument: 0x0a0b_0c0d,
            body: 0x1112_1314,
            ..Header::new(Kind::Head, 0x0102_0304_0506_0708)
        };
        let bytes = [
            2, 1, 0, 0, 1, 4, 1, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a, 0x14, 0x13, 0x12, 0x11,
        ];
        assert_eq!(header.encode(), bytes);
    }
}
