//! Handshakes and frames.

use grid_core::wire::frame::{Header, Kind, LAST, ResetCode};
use grid_core::wire::handshake::{Handshake, Versions};
use grid_fuzz::handshake::{KEY, NONCES, hello};

use crate::{Add, Result};

pub(crate) fn seeds(add: Add<'_>) -> Result {
    let versions = Versions::default();
    let (own, other) = (hello(NONCES.0), hello(NONCES.1));
    let mut accepting = Handshake::accepting(KEY, versions, &own);
    let mut peer = Handshake::connecting(KEY, versions, &other);
    let mut arrives = peer.take_output();
    accepting.receive(&arrives)?;
    let agreed = peer.receive(&accepting.take_output())?;
    assert!(agreed.is_some());
    arrives.extend(peer.take_output());
    add("handshake", "accepting", [&[0, 1, 6][..], &arrives, b"behind"].concat());
    let mut connecting = Handshake::connecting(KEY, versions, &own);
    let mut peer = Handshake::accepting(KEY, versions, &other);
    peer.receive(&connecting.take_output())?;
    let arrives = peer.take_output();
    assert!(connecting.receive(&arrives)?.is_some());
    add("handshake", "connecting", [&[1, 0][..], &arrives].concat());
    let mut refusing = Handshake::accepting([9; 32], versions, &other);
    refusing.receive(&Handshake::connecting(KEY, versions, &own).take_output())?;
    add(
        "handshake",
        "wrong-key",
        [&[1, 0][..], &refusing.take_output()].concat(),
    );
    add("handshake", "http", [&[0, 0][..], b"GET / HTTP/1.1\r\n\r\n"].concat());

    let frame = |kind, exchange, argument, body: u32, payload: &[u8]| {
        let header = Header {
            payload: u32::try_from(payload.len()).expect("a short one"),
            flags: if kind == Kind::Head { LAST } else { 0 },
            argument,
            body,
            ..Header::new(kind, exchange)
        };
        [&header.encode()[..], payload].concat()
    };
    // Exchanges of the end that connects have odd numbers.
    let request = |exchange| {
        [
            frame(Kind::Head, exchange, 500, 100, b"head"),
            frame(Kind::Data, exchange, 0, 0, &[1; 60]),
            frame(Kind::Data, exchange, 0, 0, &[2; 40]),
        ]
        .concat()
    };
    let three = [request(1), request(3), frame(Kind::Head, 5, 0, 0, b"")].concat();
    add("frames", "requests", [&[0, 0][..], &three].concat());
    add("frames", "requests-in-pieces", [&[0, 3, 0, 7, 30][..], &three].concat());
    let cancelled = [
        frame(Kind::Head, 1, 0, 1000, b"head"),
        frame(Kind::Cancel, 1, 0, 0, b""),
        frame(Kind::Data, 1, 0, 0, &[1; 60]),
        request(3),
    ];
    add("frames", "cancelled", [&[0, 0][..], &cancelled.concat()].concat());
    let answers = [
        frame(Kind::Head, 1, 0, 10, b"answer"),
        frame(Kind::Data, 1, 0, 0, &[3; 10]),
        frame(Kind::Reset, 3, ResetCode::Busy.code(), 0, b""),
    ];
    add("frames", "answers", [&[1, 0][..], &answers.concat()].concat());
    let control = [
        frame(Kind::Ping, 77, 0, 0, b""),
        frame(Kind::Pong, 78, 0, 0, b""),
        frame(Kind::Credit, 1, 1000, 0, b""),
        frame(Kind::GoAway, 0, 0, 0, b""),
    ];
    add("frames", "control", [&[1, 1, 4][..], &control.concat()].concat());
    let refused = frame(Kind::Refused, 0, 0, 0, b"protocol broken: no");
    add("frames", "refused", [&[1, 0][..], &refused].concat());
    let large = [
        frame(Kind::Head, 1, 0, 9000, b"head"),
        frame(Kind::Data, 1, 0, 0, &[4; 5000]),
        frame(Kind::Data, 1, 0, 0, &[5; 4000]),
    ];
    add("frames", "large", [&[0, 2, 250, 100][..], &large.concat()].concat());
    let too_large = frame(Kind::Head, 1, 0, 1 << 30, b"head");
    add("frames", "too-large", [&[0, 0][..], &too_large].concat());
    Ok(())
}
