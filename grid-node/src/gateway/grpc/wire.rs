//! Messages from bytes and back: what the generated code uses as its codec.
//!
//! tonic-prost's codec is not used for two reasons. prost makes a value of a hundred and more bytes of each tensor
//! description, and two bytes on the wire suffice for an empty one: a message within the limit could take a hundred times
//! its size. So a request is looked through before it is decoded. And a large answer gets its room at once, instead of
//! being moved each time that the buffer grows.

use std::marker::PhantomData;

use bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost::{Message, Name};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::generated::ModelInferRequest;
use crate::gateway::rest::codec::MAX_TENSORS;

/// A request has fewer fields than this, with those of the descriptions of its tensors. A tensor has a name, a type, a shape, a
/// content and perhaps some parameters; shapes are packed into one field, or one field for each of few dimensions.
const MAX_FIELDS: usize = 16 * MAX_TENSORS;

/// Fields of a request that hold the description of a tensor.
const TENSORS: [u32; 2] = [5, 6];

/// The codec of a method: writes `E`, reads `D`.
#[derive(Debug)]
pub(super) struct Wire<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Default for Wire<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for Wire<E, D>
where
    E: Message + 'static,
    D: Message + Name + Default + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Message, D> Encoder for Wire<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, message: E, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(message.encoded_len());
        message
            .encode(out)
            .map_err(|error| Status::internal(format!("the answer cannot be written: {error}")))
    }
}

impl<E, D: Message + Name + Default> Decoder for Wire<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        if D::NAME == ModelInferRequest::NAME && !has_few_fields(message.chunk()) {
            return Err(Status::invalid_argument(format!(
                "expected a request of fewer than {MAX_FIELDS} fields in all, found more"
            )));
        }
        match D::decode(message) {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(Status::invalid_argument(format!(
                "expected a message {}, found other bytes: {error}",
                D::NAME
            ))),
        }
    }
}

/// Whether a request has fewer fields than it may. What is no message at all is left to who decodes it, which stops at
/// the same byte.
fn has_few_fields(message: &[u8]) -> bool {
    let mut left = MAX_FIELDS;
    count(message, &TENSORS, &mut left);
    left > 0
}

/// Takes the fields of a message from `left`, and those of its fields `below`. `None` when none is left, or where the
/// message is broken.
fn count(mut message: &[u8], below: &[u32], left: &mut usize) -> Option<()> {
    while !message.is_empty() {
        let (field, wire_type) = decode_key(&mut message).ok()?;
        *left = left.checked_sub(1)?;
        let skipped = match wire_type {
            WireType::Varint => {
                decode_varint(&mut message).ok()?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
                let content = message.get(..length)?;
                if below.contains(&field) {
                    count(content, &[], left)?;
                }
                length
            }
            // Old and unknown here; what stands within counts as if it stood without.
            WireType::StartGroup | WireType::EndGroup => 0,
        };
        message = message.get(skipped..)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::generated::model_infer_request::InferInputTensor;
    use super::*;

    fn inputs(count: usize) -> Vec<u8> {
        let request = ModelInferRequest {
            inputs: vec![InferInputTensor::default(); count],
            ..ModelInferRequest::default()
        };
        request.encode_to_vec()
    }

    #[test]
    fn a_message_that_would_take_many_times_its_size_is_found_before_it_is_decoded() {
        assert!(has_few_fields(&inputs(MAX_TENSORS)));
        assert!(!has_few_fields(&inputs(MAX_FIELDS)));
        let mut nested = InferInputTensor::default();
        for parameter in 0..MAX_FIELDS {
            nested.parameters.insert(parameter.to_string(), Default::default());
        }
        let request = ModelInferRequest {
            inputs: vec![nested],
            ..ModelInferRequest::default()
        };
        assert!(!has_few_fields(&request.encode_to_vec()));
    }

    #[test]
    fn broken_bytes_are_left_to_the_decoder() {
        let whole = inputs(3);
        for end in 0..whole.len() {
            assert!(has_few_fields(&whole[..end]));
        }
        assert!(has_few_fields(&[0xff; 40]));
    }
}
