use grid_core::tensor::ALIGNMENT;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 1000;

/// What a reader made of a stream of bytes, in a form that compares.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(u16, String),
    Violation(u16),
}

/// A frame as a client writes it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, [0x37, 0xfa, 0x21, 0x3d])
}

fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ ..126 => bytes.push(0x80 | short as u8),
        middle @ ..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn drain(reader: &mut FrameReader, seen: &mut Vec<Seen>) {
    loop {
        seen.push(match reader.next() {
            Ok(None) => return,
            Ok(Some(Incoming::Text(text))) => Seen::Text(text.to_vec()),
            Ok(Some(Incoming::Binary(message))) => {
                let bytes = message.as_slice();
                if let Some(length) = bytes.first_chunk::<4>() {
                    let tensors = bytes.as_ptr() as usize + 4 + u32::from_le_bytes(*length) as usize;
                    assert_eq!(tensors % ALIGNMENT, 0, "the tensors lie on a boundary");
                }
                Seen::Binary(bytes.to_vec())
            }
            Ok(Some(Incoming::Ping(payload))) => Seen::Ping(payload.as_slice().to_vec()),
            Ok(Some(Incoming::Pong)) => Seen::Pong,
            Ok(Some(Incoming::Close { code, reason })) => Seen::Close(code.into(), reason),
            Err(violation) => Seen::Violation(violation.code.into()),
        });
    }
}

fn read_in<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
    let mut reader = FrameReader::new(LIMIT);
    let mut seen = Vec::new();
    for chunk in chunks {
        reader.push(Bytes::copy_from_slice(chunk));
        drain(&mut reader, &mut seen);
    }
    seen
}

/// Reads the bytes at once and one by one, which has to be the same.
fn read(bytes: &[u8]) -> Vec<Seen> {
    let seen = read_in([bytes]);
    assert_eq!(read_in(bytes.chunks(1)), seen, "byte by byte");
    seen
}

fn refused(bytes: &[u8]) -> u16 {
    match read(bytes).as_slice() {
        [Seen::Violation(code)] => *code,
        seen => panic!("expected one violation, found {seen:?}"),
    }
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// Not the last fragment.
const MORE: u8 = 0x7f;
const CONTINUE: u8 = 0x80;

#[test]
fn messages_of_one_frame_are_handed_out_in_order() {
    let mut bytes = frame(TEXT, "grün".as_bytes());
    bytes.extend(frame(BINARY, &[7; 300]));
    bytes.extend(frame(TEXT, b""));
    bytes.extend(frame(BINARY, b""));
    bytes.extend(frame(BINARY, b"ab"));
    assert_eq!(
        read(&bytes),
        [
            Seen::Text("grün".into()),
            Seen::Binary(vec![7; 300]),
            Seen::Text(vec![]),
            Seen::Binary(vec![]),
            Seen::Binary(b"ab".to_vec())
        ]
    );
}

#[test]
fn fragments_join_and_control_frames_may_come_between_them() {
    let mut bytes = frame(TEXT & MORE, b"gr\xc3");
    bytes.extend(frame(PING, b"p"));
    bytes.extend(frame(CONTINUE & MORE, b""));
    bytes.extend(frame(PONG, b"whatever"));
    bytes.extend(frame(CONTINUE, b"\xbcn"));
    bytes.extend(frame(BINARY & MORE, b"\x02\0"));
    bytes.extend(frame(CONTINUE, b"\0\0{}tensors"));
    assert_eq!(
        read(&bytes),
        [
            Seen::Ping(b"p".to_vec()),
            Seen::Pong,
            Seen::Text("grün".into()),
            Seen::Binary(b"\x02\0\0\0{}tensors".to_vec())
        ]
    );
}

#[test]
fn the_memory_of_the_texts_of_one_chunk_is_one_allocation() {
    let bytes = [frame(TEXT, b"one"), frame(TEXT, b"two")].concat();
    let mut reader = FrameReader::new(LIMIT);
    reader.push(bytes.into());
    let texts: Vec<_> = std::iter::from_fn(|| match reader.next().unwrap()? {
        Incoming::Text(text) => Some(text),
        other => panic!("{other:?}"),
    })
    .collect();
    assert_eq!(texts[0].as_ptr().wrapping_add(3), texts[1].as_ptr());
    assert_eq!(reader.texts.capacity(), 0, "an idle reader keeps nothing");
}

#[test]
fn a_close_frame_is_the_last_thing_that_comes() {
    let mut bytes = frame(CLOSE, b"\x03\xe8bye");
    bytes.extend(frame(TEXT, b"late"));
    assert_eq!(read(&bytes), [Seen::Close(1000, "bye".to_owned())]);
    assert_eq!(read(&frame(CLOSE, b"")), [Seen::Close(1005, String::new())]);
}

#[test]
fn a_close_frame_with_half_a_code_a_code_not_to_be_sent_or_no_text_is_refused() {
    assert_eq!(refused(&frame(CLOSE, b"\x03")), 1002);
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        assert_eq!(refused(&frame(CLOSE, &code.to_be_bytes())), 1002, "{code}");
    }
    for code in [1000u16, 1003, 1007, 1011, 3000, 3999, 4000, 4999] {
        assert_eq!(
            read(&frame(CLOSE, &code.to_be_bytes())),
            [Seen::Close(code, String::new())]
        );
    }
    assert_eq!(refused(&frame(CLOSE, b"\x03\xe8\xff")), 1007);
}

#[test]
fn reserved_bits_reserved_opcodes_and_unmasked_frames_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        assert_eq!(refused(&frame(TEXT | bit, b"x")), 1002);
    }
    for opcode in (3..8).chain(11..16) {
        assert_eq!(refused(&frame(0x80 | opcode, b"")), 1002);
    }
    assert_eq!(refused(b"\x81\x01x"), 1002);
}

#[test]
fn control_frames_are_short_and_whole() {
    assert_eq!(read(&frame(PING, &[1; 125])), [Seen::Ping(vec![1; 125])]);
    assert_eq!(refused(&frame(PING, &[1; 126])), 1002);
    assert_eq!(refused(&frame(PING & MORE, b"")), 1002);
    assert_eq!(refused(&frame(CLOSE & MORE, b"")), 1002);
}

#[test]
fn fragments_come_in_their_order() {
    assert_eq!(refused(&frame(CONTINUE, b"x")), 1002);
    assert_eq!(refused(&frame(CONTINUE & MORE, b"x")), 1002);
    let twice = [frame(TEXT & MORE, b"a"), frame(TEXT, b"b")].concat();
    assert_eq!(refused(&twice), 1002);
    let other = [frame(BINARY & MORE, b""), frame(TEXT, b"b")].concat();
    assert_eq!(refused(&other), 1002);
    let again = [frame(TEXT, b"a"), frame(CONTINUE, b"b")].concat();
    assert_eq!(read(&again), [Seen::Text(b"a".to_vec()), Seen::Violation(1002)]);
}

#[test]
fn text_that_is_no_utf_8_is_refused_as_soon_as_it_is_seen() {
    assert_eq!(refused(&frame(TEXT, b"\xff")), 1007);
    assert_eq!(refused(&frame(TEXT, b"gr\xc3")), 1007, "ends within a character");
    let within = [frame(TEXT & MORE, b"gr\xc3"), frame(CONTINUE, b"")].concat();
    assert_eq!(refused(&within), 1007);
    // Above the last character there is: seen at its second byte, while most of the frame is not there.
    let whole = frame(TEXT, b"ab\xf4\x90\x80\x80 and more that does not arrive");
    assert_eq!(read_in([&whole[..6 + 3]]), []);
    assert_eq!(read_in([&whole[..6 + 4]]), [Seen::Violation(1007)]);
}

#[test]
fn the_limit_holds_over_all_fragments_and_before_their_bytes_arrive() {
    assert_eq!(read(&frame(BINARY, &[0; LIMIT])).len(), 1);
    assert_eq!(refused(&frame(BINARY, &[0; LIMIT + 1])[..8]), 1009);
    let mut bytes = frame(TEXT & MORE, &[b'a'; LIMIT - 1]);
    bytes.extend(frame(PING, b"not counted"));
    bytes.extend(frame(CONTINUE & MORE, b"a"));
    assert_eq!(read(&bytes), [Seen::Ping(b"not counted".to_vec())]);
    bytes.extend(&frame(CONTINUE, b"a")[..6]);
    assert_eq!(read(&bytes)[1], Seen::Violation(1009));
}

#[test]
fn hostile_lengths_are_refused() {
    let mask = [0; 4];
    let with = |length: u64| [&[BINARY, 0x80 | 127][..], &length.to_be_bytes(), &mask].concat();
    assert_eq!(refused(&with(u64::MAX)), 1002);
    assert_eq!(refused(&with(1 << 63)), 1002);
    assert_eq!(refused(&with((1 << 63) - 1)), 1009);
    assert_eq!(refused(&with(65535)), 1002, "not the shortest form");
    assert_eq!(refused(&[&[BINARY, 0x80 | 126, 0, 125][..], &mask].concat()), 1002);
}

#[test]
fn a_header_and_empty_fragments_hold_no_memory() {
    let mut reader = FrameReader::new(usize::MAX);
    reader.push(Bytes::from(
        [&[BINARY, 0x80 | 127][..], &(1u64 << 40).to_be_bytes(), &[0; 4]].concat(),
    ));
    assert!(reader.next().unwrap().is_none());
    assert!(matches!(&reader.message, Message::Binary(binary) if format!("{binary:?}").contains("body: None")));
    reader.push(Bytes::from_static(&[1, 2, 3, 4, 5]));
    assert!(reader.next().unwrap().is_none());
    assert_eq!(reader.held(), 5);

    let mut reader = FrameReader::new(LIMIT);
    let empty = frame(CONTINUE & MORE, b"");
    reader.push(frame(TEXT & MORE, b"").into());
    for _ in 0..1000 {
        reader.push(empty.clone().into());
        assert!(reader.next().unwrap().is_none());
    }
    assert_eq!(reader.held(), 0);
    assert!(matches!(&reader.message, Message::Text(text) if text.is_empty()));
}

#[test]
fn the_length_of_the_json_may_be_anything() {
    for length in [0, 1, 60, 61, 1 << 31, u32::MAX] {
        let payload = [&length.to_le_bytes()[..], b"{}tensors"].concat();
        assert_eq!(read(&frame(BINARY, &payload)), [Seen::Binary(payload)]);
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        "[a-zä-ü€😀]{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..300),
    ];
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x01, 0x02, 0x00, 0x80, TEXT, BINARY, PING, PONG]),
        1 => any::<u8>(),
    ];
    (first, payload, any::<[u8; 4]>()).prop_map(|(first, payload, mask)| masked(first, &payload, mask))
}

proptest! {
    #[test]
    fn any_split_into_chunks_gives_the_same(
        frames in prop::collection::vec(any_frame(), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes = frames.concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
        prop_assert_eq!(read_in(chunks), read(&bytes));
    }

    #[test]
    fn hostile_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read(&bytes);
    }
}
