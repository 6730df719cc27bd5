use super::*;
use crate::gateway::websocket::frames::{FrameReader, Incoming};

/// The payload of a ping, as it is read.
fn ping(payload: &[u8]) -> ControlPayload {
    let mut reader = FrameReader::new(0);
    let header = [0x89, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    reader.push([&header[..], payload].concat().into());
    match reader.next().unwrap() {
        Some(Incoming::Ping(payload)) => payload,
        other => panic!("{other:?}"),
    }
}

fn poll(body: &mut OutboundBody) -> Poll<Option<Bytes>> {
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(body)
        .poll_next(&mut cx)
        .map(|piece| piece.map(|Ok(piece)| piece))
}

fn pieces(body: &mut OutboundBody) -> Vec<Bytes> {
    std::iter::from_fn(|| match poll(body) {
        Poll::Ready(piece) => piece,
        Poll::Pending => None,
    })
    .collect()
}

#[test]
fn small_messages_leave_together() {
    let (outbound, mut body) = queue(1000, None);
    outbound.send_text(b"one");
    outbound.send_binary([Bytes::from_static(b"t"), Bytes::from_static(b"wo")]);
    outbound.send_binary([]);
    outbound.ping();
    assert_eq!(outbound.buffered(), 5 + 5 + 2 + 2);
    assert_eq!(pieces(&mut body), [&b"\x81\x03one\x82\x03two\x82\x00\x89\x00"[..]]);
    assert_eq!(outbound.buffered(), 0);
}

#[test]
fn a_large_part_is_queued_where_it_lies_and_leaves_in_pieces() {
    let (outbound, mut body) = queue(1000, None);
    let large = Bytes::from(vec![7; 3 * PIECE]);
    outbound.send_text(b"before");
    outbound.send_binary([Bytes::from_static(b"head"), large.clone()]);
    outbound.send_text(b"behind");
    let pieces = pieces(&mut body);
    assert_eq!(pieces.len(), 5);
    assert!(pieces[0].ends_with(b"head") && pieces[4] == b"\x81\x06behind"[..]);
    for (index, piece) in pieces[1..4].iter().enumerate() {
        assert_eq!(piece.len(), PIECE);
        assert_eq!(piece.as_ptr(), large.as_ptr().wrapping_add(index * PIECE));
    }
}

#[test]
fn pongs_are_few_and_stand_between_frames() {
    let (outbound, mut body) = queue(1 << 20, None);
    let large = Bytes::from(vec![7; 2 * PIECE]);
    outbound.send_binary([large.clone()]);
    outbound.send_text(b"behind");
    let mut seen = vec![poll(&mut body)];
    for n in 0..1000u16 {
        outbound.pong(ping(&n.to_be_bytes()));
    }
    assert_eq!(outbound.buffered(), large.len() + 8 + MAX_PONGS * 4);
    seen.extend(pieces(&mut body).into_iter().map(|piece| Poll::Ready(Some(piece))));
    let seen: Vec<_> = seen
        .into_iter()
        .map(|piece| match piece {
            Poll::Ready(Some(piece)) => piece,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen.len(), 5, "header, two pieces, pongs, the next message");
    assert!(seen[3].starts_with(b"\x8a\x02\0\0\x8a\x02\0\x01") && seen[3].ends_with(&999u16.to_be_bytes()));
    assert_eq!(seen[4], &b"\x81\x06behind"[..]);
    assert_eq!(outbound.buffered(), 0);
}

#[test]
fn nothing_follows_a_close_frame_and_the_body_ends_when_told() {
    let (outbound, mut body) = queue(1000, None);
    outbound.send_close(CloseCode::Policy, &"é".repeat(200));
    outbound.send_text(b"late");
    outbound.pong(ping(b"late"));
    outbound.send_close(CloseCode::Normal, "");
    let sent = pieces(&mut body).concat();
    assert_eq!(
        &sent[..4],
        b"\x88\x7c\x03\xf0",
        "122 bytes of the reason: no half of a character"
    );
    assert_eq!(sent.len(), 2 + 2 + 122);
    assert!(poll(&mut body).is_pending());
    outbound.end();
    assert_eq!(poll(&mut body), Poll::Ready(None));
}

#[test]
fn a_queue_that_was_high_says_once_that_it_is_low() {
    let (outbound, mut body) = queue(4 * PIECE, None);
    outbound.send_binary([Bytes::from(vec![0; 4 * PIECE])]);
    for _ in 0..3 {
        assert!(poll(&mut body).is_ready());
        assert!(!outbound.take_writable());
    }
    assert!(poll(&mut body).is_ready());
    assert!(outbound.take_writable() && !outbound.take_writable());
}

#[test]
fn what_is_sent_when_the_connection_is_gone_is_not_kept() {
    let (outbound, body) = queue(1000, None);
    outbound.send_text(b"queued");
    drop(body);
    outbound.send_text(b"late");
    assert!(outbound.is_gone());
    assert_eq!(outbound.buffered(), 0);
}
