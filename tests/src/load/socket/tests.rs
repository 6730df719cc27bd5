use super::frame::{Frame, Kind, put_header};
use super::{Finder, NUMBER, Template, json_of, output_values};

/// A frame of the server with this payload.
fn framed(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    put_header(&mut frame, kind, payload.len());
    frame[1] &= 0x7F;
    frame.truncate(frame.len() - 4);
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn frames_of_every_length_are_read_when_their_last_byte_is_there() {
    for length in [0, 1, 125, 126, 65_535, 65_536] {
        let payload = vec![7; length];
        let frame = framed(Kind::Binary, &payload);
        for cut in [0, 1, 2, frame.len() - 1] {
            assert_eq!(
                Frame::parse(&frame[..cut.min(frame.len() - 1)]).expect("no violation"),
                None
            );
        }
        let (read, taken) = Frame::parse(&frame).expect("no violation").expect("a frame");
        assert_eq!(
            (read.kind, read.payload, taken),
            (Kind::Binary, &payload[..], frame.len())
        );
    }
}

#[test]
fn what_the_server_must_not_send_is_refused() {
    for first in [0x01, 0xC1, 0x83, 0x80] {
        assert!(Frame::parse(&[first, 0]).is_err(), "{first:#x}");
    }
    assert!(Frame::parse(&[0x81, 0x80, 0, 0, 0, 0]).is_err(), "masked");
}

#[test]
fn a_template_is_a_masked_frame_with_its_number_in_digits() {
    let mut frames = vec![1, 2, 3];
    Template::text(&format!("{{\"id\":\"{NUMBER}\"}}")).put(1234, &mut frames);
    assert_eq!(
        frames,
        [&[1, 2, 3, 0x81, 0x80 | 17, 0, 0, 0, 0][..], b"{\"id\":\"00001234\"}"].concat()
    );
    let mut frame = Vec::new();
    Template::binary(NUMBER, b"xyz", 2).put(99_999_999, &mut frame);
    assert_eq!(
        frame,
        [&[0x82, 0x80 | 17, 0, 0, 0, 0, 8, 0, 0, 0][..], b"99999999xyz"].concat()
    );
}

#[test]
fn a_number_is_found_where_it_was_and_elsewhere() {
    let mut finder = Finder::new("\"n\":");
    assert_eq!(finder.find(br#"{"n":17}"#), Some(17));
    assert_eq!(finder.find(br#"{"n":4,"m":5}"#), Some(4));
    assert_eq!(finder.find(br#"{"m":5,"n":6}"#), Some(6));
    assert_eq!(finder.find(br#"{"m":5}"#), None);
}

#[test]
fn values_are_read_as_numbers_and_as_bytes() {
    let json = br#"{"outputs":[{"name":"a","datatype":"FP32","parameters":{"binary_data_size":8}},
        {"name":"b","datatype":"INT64","data":[7]}]}"#;
    let tensors: Vec<u8> = [1.5_f32, -2.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let mut message = (json.len() as u32).to_le_bytes().to_vec();
    message.extend_from_slice(json);
    message.extend_from_slice(&tensors);
    let (head, rest) = json_of(&message, true).expect("a whole message");
    let values = output_values(head, rest).expect("values");
    assert_eq!(values["a"], [1.5, -2.0]);
    assert_eq!(values["b"], [7.0]);
    assert!(output_values(head, &rest[..4]).is_err());
    assert!(json_of(&message[..10], true).is_err());
}
