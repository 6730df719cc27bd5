//! Calls and answers that are longer than a frame's head may be.
//!
//! A head is one frame, and so at most 64 KiB; what a node says of a grid of some hundred replicas is more. Such a message
//! travels as the first part of its own body, behind a short head that says how long it is. Whoever sends one asks [`pack`]
//! and whoever gets one asks [`unpack`], and neither sees which way it went.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::call::{Call, Reply};
use super::codec::{self, CodecError, MAX_ENCODED};
use super::frame::MAX_PAYLOAD;
use super::message::next_offset;
use crate::tensor::{AlignedBytes, Buffer};

/// What travels as a message's head, or as the first part of its body.
pub trait Message: Serialize + DeserializeOwned {
    /// Names it in errors.
    const WHAT: &'static str;

    /// The short head for one that is in the body, and so many bytes long.
    fn in_body(length: u32) -> Self;

    /// How long the one in the body is, if this is such a head.
    fn length_in_body(&self) -> Option<u32>;
}

impl Message for Call {
    const WHAT: &'static str = "call";

    fn in_body(length: u32) -> Self {
        Self::InBody { length }
    }

    fn length_in_body(&self) -> Option<u32> {
        match self {
            Self::InBody { length } => Some(*length),
            _ => None,
        }
    }
}

impl Message for Reply {
    const WHAT: &'static str = "reply";

    fn in_body(length: u32) -> Self {
        Self::InBody { length }
    }

    fn length_in_body(&self) -> Option<u32> {
        match self {
            Self::InBody { length } => Some(*length),
            _ => None,
        }
    }
}

/// The head and the parts of the body that a message with these tensors travels as.
///
/// One that is longer than [`MAX_ENCODED`], which nobody would decode, stays a head that no frame can carry: the link refuses
/// it as too large.
pub fn pack<M: Message>(message: &M, mut body: Vec<Buffer>) -> (Vec<u8>, Vec<Buffer>) {
    let encoded = codec::encode(message);
    if encoded.len() <= MAX_PAYLOAD || encoded.len() > MAX_ENCODED {
        return (encoded, body);
    }
    // What is in a body takes part in its alignment like a tensor, and so the tensors behind it lie as they would without it.
    let head = M::in_body(encoded.len() as u32);
    body.insert(0, AlignedBytes::copy_of(&encoded).freeze());
    (codec::encode(&head), body)
}

/// The message of this head and body, and what of the body is not the message itself.
///
/// # Errors
/// When it is none: what came is hostile, or broken.
pub fn unpack<M: Message>(head: &[u8], body: Buffer) -> Result<(M, Buffer), CodecError> {
    let message: M = codec::decode(M::WHAT, head)?;
    let Some(length) = message.length_in_body() else {
        return Ok((message, body));
    };
    let length = length as usize;
    let wrong = |reason: String| CodecError::Malformed { what: M::WHAT, reason };
    if length > MAX_ENCODED {
        return Err(wrong(format!(
            "it is {length} bytes long, at most {MAX_ENCODED} may be"
        )));
    }
    let encoded = body.slice(0, length);
    let encoded = encoded.ok_or_else(|| wrong(format!("it is {length} bytes of a body of {}", body.len())))?;
    let message: M = codec::decode(M::WHAT, encoded.as_slice())?;
    if message.length_in_body().is_some() {
        return Err(wrong("it is in the body of one that is in a body".to_owned()));
    }
    let behind = match body.len() == length {
        true => Some(length),
        false => next_offset(length),
    };
    let rest = behind.and_then(|behind| body.slice(behind, body.len()));
    let rest = rest.ok_or_else(|| wrong("what follows it in the body is not where it is to be".to_owned()))?;
    Ok((message, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ALIGNMENT;
    use proptest::prelude::*;

    /// As a link lays it out.
    fn travelled(parts: &[Buffer]) -> Buffer {
        let mut body = AlignedBytes::default();
        for part in parts.iter().filter(|part| !part.is_empty()) {
            body.resize(next_offset(body.len()).unwrap());
            body.extend_from_slice(part.as_slice());
        }
        body.freeze()
    }

    #[test]
    fn a_message_of_any_length_is_read_as_it_was_written_and_its_tensors_stay_aligned() {
        for length in [0, 100, MAX_PAYLOAD - 8, MAX_PAYLOAD, MAX_PAYLOAD + 1, 700 << 10] {
            let reply = Reply::Listing((0..length).map(|index| index as u8).collect());
            for tensors in [vec![], vec![AlignedBytes::copy_of(&[7; 100]).freeze()]] {
                let (head, parts) = pack(&reply, tensors.clone());
                assert!(head.len() <= MAX_PAYLOAD);
                let (read, rest) = unpack::<Reply>(&head, travelled(&parts)).unwrap();
                assert_eq!(read, reply);
                assert_eq!(rest.as_slice(), travelled(&tensors).as_slice());
                assert!(rest.is_empty() || rest.as_slice().as_ptr().addr().is_multiple_of(ALIGNMENT));
            }
        }
    }

    #[test]
    fn one_that_nobody_would_decode_is_left_for_the_link_to_refuse() {
        let (head, parts) = pack(&Reply::Listing(vec![0; MAX_ENCODED]), Vec::new());
        assert!(head.len() > MAX_PAYLOAD && parts.is_empty());
    }

    #[test]
    fn a_length_that_lies_and_a_message_in_a_message_in_a_body_are_refused() {
        let refused = |length: u32, body: &[u8]| {
            let head = codec::encode(&Call::InBody { length });
            let refused = unpack::<Call>(&head, AlignedBytes::copy_of(body).freeze());
            refused.unwrap_err().to_string()
        };
        assert!(refused(u32::MAX, &[]).contains("at most"));
        assert!(refused(10, &[0; 9]).contains("of a body of 9"));
        let nested = codec::encode(&Call::InBody { length: 0 });
        assert!(refused(nested.len() as u32, &nested).contains("in a body"));
        // The call takes less than it says.
        let call = codec::encode(&Call::Topology { known: None });
        assert!(refused(call.len() as u32 + 1, &[&call[..], &[0]].concat()).contains("follow"));
        // Behind it is something that ends before tensors may begin.
        assert!(refused(call.len() as u32, &[&call[..], &[0]].concat()).contains("not where"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(head: Vec<u8>, length: u32, body: Vec<u8>) {
            let body = AlignedBytes::copy_of(&body).freeze();
            let _ = unpack::<Reply>(&head, body.clone());
            let _ = unpack::<Reply>(&codec::encode(&Reply::InBody { length }), body.clone());
            let _ = unpack::<Reply>(&codec::encode(&Reply::InBody { length: length % 64 }), body);
        }
    }
}
