use super::*;
use proptest::prelude::*;

const KEY: [u8; 32] = [7; 32];

fn hello(grid: &str, nonce: u8) -> Hello {
    Hello {
        grid: grid.parse().unwrap(),
        peer: Peer::Client,
        purpose: Purpose::Requests,
        nonce: [nonce; 32],
    }
}

type Outcome = Result<Option<(Agreed, Vec<u8>)>, HandshakeError>;

/// Carries bytes between both ends until neither has more, in pieces of `piece` bytes; how it ended for each.
fn carry(connecting: &mut Handshake, accepting: &mut Handshake, piece: usize) -> (Outcome, Outcome) {
    let (mut left, mut right) = (Ok(None), Ok(None));
    loop {
        let there = connecting.take_output();
        let back = accepting.take_output();
        if there.is_empty() && back.is_empty() {
            return (left, right);
        }
        for (bytes, end, outcome) in [
            (there, &mut *accepting, &mut right),
            (back, &mut *connecting, &mut left),
        ] {
            for piece in bytes.chunks(piece) {
                match end.receive(piece) {
                    Ok(None) => {}
                    ended => *outcome = ended,
                }
            }
        }
    }
}

fn both(left: ([u8; 32], Versions, Hello), right: ([u8; 32], Versions, Hello)) -> (Outcome, Outcome) {
    let mut connecting = Handshake::connecting(left.0, left.1, &left.2);
    let mut accepting = Handshake::accepting(right.0, right.1, &right.2);
    carry(&mut connecting, &mut accepting, 1000)
}

#[test]
fn both_ends_learn_of_each_other_in_pieces_of_any_size() {
    for piece in [1, 7, 23, 24, 25, 10_000] {
        let mut connecting = Handshake::connecting(KEY, Versions { min: 1, max: 3 }, &hello("grid", 1));
        let mut accepting = Handshake::accepting(KEY, Versions { min: 2, max: 4 }, &hello("grid", 2));
        let (left, right) = carry(&mut connecting, &mut accepting, piece);
        let agreed = |nonce| {
            Ok(Some((
                Agreed {
                    version: 3,
                    hello: hello("grid", nonce),
                },
                Vec::new(),
            )))
        };
        assert_eq!((left, right), (agreed(2), agreed(1)));
    }
}

#[test]
fn a_wrong_key_is_named_on_both_sides() {
    let mine = (KEY, Versions::default(), hello("grid", 1));
    let (left, right) = both(mine.clone(), ([8; 32], Versions::default(), hello("grid", 2)));
    assert_eq!(left, Err(HandshakeError::WrongKey));
    let told = right.unwrap_err().to_string();
    assert_eq!(told, "it refused: its key is not the key of this grid");
}

#[test]
fn another_grid_is_named_on_both_sides() {
    let mine = (KEY, Versions::default(), hello("ours", 1));
    let (left, right) = both(mine, (KEY, Versions::default(), hello("theirs", 2)));
    let expected = "it belongs to grid `theirs`, expected `ours`";
    assert_eq!(left.unwrap_err().to_string(), expected);
    let expected = "it belongs to grid `ours`, expected `theirs`";
    assert_eq!(right.unwrap_err().to_string(), expected);
}

#[test]
fn versions_without_a_common_one_are_named_on_both_sides() {
    let mine = (KEY, Versions { min: 1, max: 2 }, hello("grid", 1));
    let (left, right) = both(mine, (KEY, Versions { min: 3, max: 3 }, hello("grid", 2)));
    assert_eq!(
        left.unwrap_err().to_string(),
        "it speaks protocol versions 3, this end 1 to 2"
    );
    assert_eq!(
        right.unwrap_err().to_string(),
        "it speaks protocol versions 1 to 2, this end 3"
    );
}

#[test]
fn other_protocols_are_named_by_what_they_began_with() {
    for (first, named) in [
        (&b"GET / HTTP/1.1\r\n"[..], "GET / HTTP/1.1"),
        (b"HTTP/1.1 400 Bad Request\r\n", "HTTP/1.1 400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01", "\\u{16}\\u{3}\\u{1}"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "SSH-2.0"),
    ] {
        let mut handshake = Handshake::accepting(KEY, Versions::default(), &hello("grid", 1));
        let error = handshake.receive(first).unwrap_err();
        assert!(matches!(error, HandshakeError::NotOurProtocol(_)));
        assert!(error.to_string().contains(named), "{error}");
        assert_eq!(handshake.take_output(), []);
    }
}

#[test]
fn a_reflected_proof_is_refused() {
    // Whoever does not hold the key can only send back what it gets.
    let mut connecting = Handshake::connecting(KEY, Versions::default(), &hello("grid", 1));
    let own = connecting.take_output();
    assert_eq!(connecting.receive(&own), Ok(None));
    // Not even the right MAC under the wrong label, which a second connection might be tricked into.
    let reflected: [u8; PROOF] = connecting
        .mac(Role::Connecting, &connecting.own)
        .finalize()
        .into_bytes()
        .into();
    let mut frame = Header {
        payload: PROOF as u32,
        ..Header::new(Kind::Proof, 0)
    }
    .encode()
    .to_vec();
    frame.extend(reflected);
    assert_eq!(connecting.receive(&frame), Err(HandshakeError::WrongKey));
}

#[test]
fn bytes_behind_the_handshake_are_handed_on() {
    let mut connecting = Handshake::connecting(KEY, Versions::default(), &hello("grid", 1));
    let mut accepting = Handshake::accepting(KEY, Versions::default(), &hello("grid", 2));
    accepting.receive(&connecting.take_output()).unwrap();
    connecting.receive(&accepting.take_output()).unwrap().unwrap();
    let mut last = connecting.take_output();
    last.extend(b"behind");
    let (_, behind) = accepting.receive(&last).unwrap().unwrap();
    assert_eq!(behind, b"behind");
}

proptest! {
    #[test]
    fn no_bytes_panic_or_convince(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..6)) {
        let mut handshake = Handshake::accepting(KEY, Versions::default(), &hello("grid", 1));
        for piece in pieces {
            prop_assert!(!matches!(handshake.receive(&piece), Ok(Some(_))));
        }
    }

    #[test]
    fn a_changed_byte_is_noticed(at: prop::sample::Index, change in 1u8..) {
        let mut connecting = Handshake::connecting(KEY, Versions::default(), &hello("grid", 1));
        let mut accepting = Handshake::accepting(KEY, Versions::default(), &hello("grid", 2));
        let mut sent = connecting.take_output();
        // Behind the header, whose other fields mean nothing here.
        let at = HEADER + at.index(sent.len() - HEADER);
        sent[at] ^= change;
        if accepting.receive(&sent).is_ok() {
            prop_assert!(!matches!(connecting.receive(&accepting.take_output()), Ok(Some(_))));
        }
    }
}
