//! Heads and bodies of messages on the mesh: calls and replies, and the tensors with them.

use grid_core::artifact::Listing;
use grid_core::cluster::Digest;
use grid_core::tensor::AlignedBytes;
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::codec;
use grid_core::wire::envelope::{self, Message};
use grid_core::wire::message::{TensorHead, lay_out, tensors};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::input::Input;

/// What decoding may take beside a multiple of the bytes: serde sets room aside for up to 1 MiB on the word of a length, and
/// lists lie in lists.
const RESERVED: usize = 8 << 20;

/// Most memory for one byte: a list of nothing but empty lists.
const AMPLIFICATION: usize = 256;

/// Takes in a head with its length, then a body: as a call, and as a reply.
///
/// # Panics
/// When something does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (head, body) = (input.piece(), input.rest());
    match decoded("call", head) {
        Some(Call::Infer(infer)) => check(&infer.inputs, body),
        Some(Call::Sequence(call)) => check(&call.inputs, body),
        Some(Call::Hold(hold)) => check(&hold.image.tensors, body),
        _ => {}
    }
    match decoded("reply", head) {
        Some(Reply::Part { outputs } | Reply::Done { outputs, .. }) => check(&outputs, body),
        Some(Reply::Told {
            outputs: Ok(outputs), ..
        }) => check(&outputs, body),
        Some(Reply::Given(image)) => check(&image.tensors, body),
        Some(Reply::Listing(bytes)) => listing(&bytes),
        _ => {}
    }
    listing(body);
    unpacked::<Call>(head, body);
    unpacked::<Reply>(head, body);
}

/// Takes in a message that may stand in its own body.
fn unpacked<M: Message>(head: &[u8], body: &[u8]) {
    let whole = AlignedBytes::copy_of(body).freeze();
    let limit = 2 * RESERVED + AMPLIFICATION * (head.len() + body.len());
    match crate::memory::within(limit, || envelope::unpack::<M>(head, whole)) {
        Ok((_, rest)) => assert!(rest.len() <= body.len()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The value that bytes hold, if any.
///
/// # Panics
/// When it does not read back as it was, or takes too much memory.
pub fn decoded<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    what: &'static str,
    bytes: &[u8],
) -> Option<T> {
    let limit = RESERVED + AMPLIFICATION * bytes.len();
    match crate::memory::within(limit, || codec::decode::<T>(what, bytes)) {
        Ok(value) => {
            let again = codec::encode(&value);
            assert_eq!(codec::decode::<T>(what, &again).as_ref(), Ok(&value));
            Some(value)
        }
        Err(error) => {
            assert!(error.to_string().starts_with(what));
            None
        }
    }
}

fn check(heads: &[TensorHead], body: &[u8]) {
    let body = AlignedBytes::copy_of(body).freeze();
    // Tensors share the body, but for those that would not lie aligned: none does here.
    let limit = (64 << 10) + AMPLIFICATION * heads.len();
    match crate::memory::within(limit, || tensors(heads, &body)) {
        Ok(tensors) => {
            let (again, total) = lay_out(&tensors);
            assert_eq!((again.as_slice(), total), (heads, body.len()));
            for tensor in &tensors {
                let strings = tensor.strings().map(Iterator::count);
                assert!(strings.is_none_or(|count| count == tensor.elements()));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn listing(bytes: &[u8]) {
    match Listing::decode(Digest::of(bytes), bytes) {
        // There is one way to write it: what is named by the digest of its bytes is those bytes.
        Ok(listing) => assert_eq!(listing.encode(), bytes),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
