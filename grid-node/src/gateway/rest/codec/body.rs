//! Collects the chunks of an HTTP body into memory that tensors can lie in.

use bytes::Bytes;
use grid_core::InferError;
use grid_core::tensor::{ALIGNMENT, AlignedBytes, Buffer};

/// The header that tells how many bytes of the body are JSON; raw tensors follow them.
pub const HEADER_LENGTH: &str = "Inference-Header-Content-Length";

/// Most memory that is reserved on the word of a content length alone. A client that announces more gets it as its
/// bytes arrive; one that announces and then sends nothing holds no more than this.
const MAX_RESERVED: usize = 1 << 20;

/// A whole request body: its JSON, and the raw tensors behind it if the request has the binary form.
#[derive(Debug)]
pub struct RequestBody {
    json: Json,
    binary: Option<Buffer>,
}

#[derive(Debug)]
enum Json {
    /// The only chunk, where it arrived.
    Chunk(Bytes),
    /// Several chunks, or JSON that raw tensors follow.
    Joined(Buffer),
}

impl RequestBody {
    /// Begins to collect a body of at most `limit` bytes. `header_length` is the value of [`HEADER_LENGTH`] as it
    /// came; `content_length` is a hint.
    ///
    /// # Errors
    /// When `header_length` is not a number, or the announced length is already over the limit.
    pub fn builder(
        header_length: Option<&[u8]>,
        content_length: Option<usize>,
        limit: usize,
    ) -> Result<BodyBuilder, InferError> {
        if content_length.is_some_and(|length| length > limit) {
            return Err(InferError::TooLarge { limit });
        }
        Ok(BodyBuilder {
            limit,
            header_length: header_length.map(parse_header_length).transpose()?,
            content_length: content_length.unwrap_or(0),
            len: 0,
            chunks: Chunks::None,
        })
    }

    /// The body that is one chunk without a binary part.
    pub fn from_json(json: Bytes) -> Self {
        Self {
            json: Json::Chunk(json),
            binary: None,
        }
    }

    /// A binary message of a WebSocket: the length of its JSON in four bytes (little-endian), the JSON, raw tensors. The
    /// tensors are used where they lie.
    ///
    /// # Errors
    /// When the message is shorter than it says.
    pub fn from_message(message: &Buffer) -> Result<Self, InferError> {
        let invalid = |found: usize| {
            InferError::Invalid(format!(
                "binary message: expected four bytes with the length of the JSON that follows them, at most {}, found {found}",
                message.len().saturating_sub(4)
            ))
        };
        let bytes = message.as_slice();
        let length = bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        let Some(length) = length else {
            let length = message.len();
            return Err(InferError::Invalid(format!(
                "binary message: expected at least four bytes, found {length}"
            )));
        };
        let end = length.checked_add(4).ok_or_else(|| invalid(length))?;
        let json = message.slice(4, end).ok_or_else(|| invalid(length))?;
        Ok(Self {
            json: Json::Joined(json),
            binary: message.slice(end, message.len()),
        })
    }

    /// The JSON.
    pub fn json(&self) -> &[u8] {
        match &self.json {
            Json::Chunk(bytes) => bytes,
            Json::Joined(buffer) => buffer.as_slice(),
        }
    }

    /// The raw tensors, from a 64-byte boundary on; `None` if the request had no [`HEADER_LENGTH`].
    pub fn binary(&self) -> Option<&Buffer> {
        self.binary.as_ref()
    }
}

fn parse_header_length(value: &[u8]) -> Result<usize, InferError> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            let found: String = String::from_utf8_lossy(value).chars().take(40).collect();
            InferError::Invalid(format!(
                "header {HEADER_LENGTH}: expected the number of bytes of the JSON, found `{found}`"
            ))
        })
}

/// A body of which chunks are still to come.
#[derive(Debug)]
pub struct BodyBuilder {
    limit: usize,
    header_length: Option<usize>,
    content_length: usize,
    len: usize,
    chunks: Chunks,
}

enum Chunks {
    None,
    One(Bytes),
    /// Behind as much padding as puts the binary part on a boundary.
    Joined(AlignedBytes),
}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::One(_) => "One",
            Self::Joined(_) => "Joined",
        })
    }
}

impl BodyBuilder {
    /// Takes the next chunk.
    ///
    /// # Errors
    /// When the body passes its limit.
    pub fn push(&mut self, chunk: Bytes) -> Result<(), InferError> {
        if chunk.len() > self.limit - self.len {
            return Err(InferError::TooLarge { limit: self.limit });
        }
        if chunk.is_empty() {
            return Ok(());
        }
        self.len += chunk.len();
        self.chunks = match std::mem::replace(&mut self.chunks, Chunks::None) {
            Chunks::None if self.header_length.is_none() => Chunks::One(chunk),
            Chunks::None => {
                let mut joined = self.joined();
                joined.extend_from_slice(&chunk);
                Chunks::Joined(joined)
            }
            Chunks::One(first) => {
                let mut joined = self.joined();
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&chunk);
                Chunks::Joined(joined)
            }
            Chunks::Joined(mut joined) => {
                joined.extend_from_slice(&chunk);
                Chunks::Joined(joined)
            }
        };
        Ok(())
    }

    fn padding(&self) -> usize {
        self.header_length
            .map_or(0, |length| (ALIGNMENT - length % ALIGNMENT) % ALIGNMENT)
    }

    fn joined(&self) -> AlignedBytes {
        let padding = self.padding();
        let expected = self.content_length.min(MAX_RESERVED).max(self.len);
        let mut joined = AlignedBytes::with_capacity(padding + expected);
        joined.extend_from_slice(&[0; ALIGNMENT][..padding]);
        joined
    }

    /// Ends the body.
    ///
    /// # Errors
    /// When [`HEADER_LENGTH`] is more than there is.
    pub fn finish(self) -> Result<RequestBody, InferError> {
        let padding = self.padding();
        let whole = match self.chunks {
            Chunks::None => AlignedBytes::default().freeze(),
            Chunks::One(bytes) => return Ok(RequestBody::from_json(bytes)),
            Chunks::Joined(joined) => joined.freeze(),
        };
        let (json, binary) = match self.header_length {
            None => (Some(whole), None),
            // An empty body was never padded.
            Some(length) if self.len == 0 => ((length == 0).then_some(whole), None),
            Some(length) => {
                let split = padding.checked_add(length);
                let json = split.and_then(|split| whole.slice(padding, split));
                (json, split.and_then(|split| whole.slice(split, whole.len())))
            }
        };
        let Some(json) = json else {
            return Err(InferError::Invalid(format!(
                "header {HEADER_LENGTH}: expected at most the body's {} bytes, found {}",
                self.len,
                self.header_length.unwrap_or(0),
            )));
        };
        Ok(RequestBody {
            json: Json::Joined(json),
            binary,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect(header: Option<&str>, chunks: &[&[u8]], limit: usize) -> Result<RequestBody, InferError> {
        let mut builder = RequestBody::builder(header.map(str::as_bytes), None, limit)?;
        for chunk in chunks {
            builder.push(Bytes::copy_from_slice(chunk))?;
        }
        builder.finish()
    }

    proptest! {
        #[test]
        fn chunks_join_in_order_and_the_binary_part_lies_on_a_boundary(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..150), 0..6),
            share in 0.0..=1.0f64,
            hint in prop::option::of(0usize..1000),
        ) {
            let whole = chunks.concat();
            let split = (whole.len() as f64 * share) as usize;
            let mut builder = RequestBody::builder(Some(split.to_string().as_bytes()), hint, 1000).unwrap();
            for chunk in &chunks {
                builder.push(chunk.clone().into()).unwrap();
            }
            // A body without a byte has no JSON, so it is refused here rather than by the decoder.
            prop_assume!(!whole.is_empty());
            let body = builder.finish().unwrap();
            prop_assert_eq!(body.json(), &whole[..split]);
            let binary = body.binary().unwrap().as_slice();
            prop_assert_eq!(binary, &whole[split..]);
            prop_assert_eq!(binary.as_ptr() as usize % ALIGNMENT, 0);
        }
    }

    #[test]
    fn a_single_chunk_of_json_is_not_copied() {
        let chunk = Bytes::from_static(b"{}");
        let mut builder = RequestBody::builder(None, Some(2), 10).unwrap();
        builder.push(chunk.clone()).unwrap();
        assert_eq!(builder.finish().unwrap().json().as_ptr(), chunk.as_ptr());
    }

    #[test]
    fn several_chunks_without_the_header_are_all_json() {
        let body = collect(None, &[b"{", b"", b"}", b" "], 10).unwrap();
        assert_eq!(body.json(), b"{} ");
        assert!(body.binary().is_none());
    }

    #[test]
    fn a_body_over_the_limit_is_refused_when_announced_and_when_it_arrives() {
        let too_large = Err(InferError::TooLarge { limit: 4 });
        assert_eq!(RequestBody::builder(None, Some(5), 4).map(drop), too_large);
        assert_eq!(collect(None, &[b"abc", b"de"], 4).map(drop), too_large);
        assert_eq!(collect(Some("1"), &[b"abc", b"de"], 4).map(drop), too_large);
        assert!(collect(None, &[b"abc", b"d"], 4).is_ok());
    }

    #[test]
    fn a_header_that_is_no_length_of_this_body_is_refused() {
        let refusal = |header, chunks: &[&[u8]]| collect(Some(header), chunks, 100).unwrap_err().to_string();
        for bad in ["", "-1", "+1", "1.5", "ten", "99999999999999999999999"] {
            assert_eq!(
                refusal(bad, &[b"{}"]),
                format!("header {HEADER_LENGTH}: expected the number of bytes of the JSON, found `{bad}`")
            );
        }
        for (length, body) in [("3", &b"{}"[..]), ("18446744073709551615", b"{}"), ("1", b"")] {
            let size = body.len();
            assert_eq!(
                refusal(length, &[body]),
                format!("header {HEADER_LENGTH}: expected at most the body's {size} bytes, found {length}")
            );
        }
    }
}
