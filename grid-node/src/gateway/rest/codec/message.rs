//! A client's message on a WebSocket: a request as in the body of HTTP, or a word about one.

use std::borrow::Cow;

use grid_core::InferError;
use grid_core::sequence::{SequenceId, Token};

use super::body::RequestBody;
use super::cursor::{Cursor, Fault, Kind};
use super::decode::{DecodedRequest, RequestMembers, explained, text, text_of};
use super::parameters::{Parameters, fill, number, sequence_id, token, typed};

/// What a client says.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for one call, and nearly all messages are the large variant"
)]
pub enum ClientMessage<'a> {
    /// `infer`, also without `type`: a request.
    Infer(DecodedRequest<'a>),
    /// `cancel` with `id`: takes a request back.
    Cancel(Cow<'a, str>),
    /// `cancel` with `sequence_id` and `sequence_number`: takes a message of a sequence back.
    CancelInSequence(SequenceId, u64),
    /// `start`: begins a sequence; without an id the server makes one.
    Start(Option<SequenceId>),
    /// `resume`: goes on with a sequence behind the last outcome that the client has, 0 if none.
    Resume {
        /// The sequence.
        id: SequenceId,
        /// What was given at its start.
        token: Token,
        /// The last outcome that the client has.
        last: u64,
    },
    /// `end`: no message follows.
    End(SequenceId),
    /// `ack`: the outcomes up to this number need not be kept.
    Acknowledge(SequenceId, u64),
}

/// A message that could not be read.
#[derive(Clone, Debug, PartialEq)]
pub struct RefusedMessage {
    /// The `id` that it has, if that could be read.
    pub id: Option<String>,
    /// The sequence that it is of, and its number, if that could be read.
    pub place: Option<(SequenceId, Option<u64>)>,
    /// What is wrong with it.
    pub error: InferError,
}

/// Reads a message.
///
/// # Errors
/// [`InferError::Invalid`] when it is none; the error names what was expected and what was found.
pub fn decode_message(body: &RequestBody) -> Result<ClientMessage<'_>, Box<RefusedMessage>> {
    let text = text_of(body).map_err(|error| {
        Box::new(RefusedMessage {
            id: None,
            place: None,
            error,
        })
    })?;
    read(text, body).map_err(|fault| {
        let (id, place) = named_in(text);
        Box::new(RefusedMessage {
            id,
            place,
            error: explained(text, fault),
        })
    })
}

fn read<'a>(text: &'a str, body: &RequestBody) -> Result<ClientMessage<'a>, Fault> {
    let mut members = Members {
        request: RequestMembers::new(body.binary()),
        kind: None,
        sequence: None,
        token: None,
        number: None,
        last: None,
    };
    let mut cursor = Cursor::new(text);
    cursor.object(|cursor, key| members.read(cursor, key))?;
    cursor.end()?;
    members.finish()
}

/// What names a broken message: its `id`, and its place in a sequence.
#[cold]
fn named_in(text: &str) -> (Option<String>, Option<(SequenceId, Option<u64>)>) {
    let (mut id, mut place) = (None, None);
    // What is broken in it has already been found.
    let _ = Cursor::new(text).object(|cursor, key| {
        let value = cursor.value()?;
        match (key, value.kind) {
            ("id", Kind::Text(text)) => id = Some(text.into_owned()),
            ("parameters", _) => {
                let parameters = Parameters::read(&mut Cursor::new(value.text)).ok();
                place = parameters.and_then(|read| Some((read.sequence_id?, read.sequence_number)));
            }
            _ => {}
        }
        Ok(())
    });
    (id, place)
}

struct Members<'a, 'b> {
    request: RequestMembers<'a, 'b>,
    kind: Option<Cow<'a, str>>,
    sequence: Option<Option<SequenceId>>,
    token: Option<Token>,
    number: Option<u64>,
    last: Option<u64>,
}

impl<'a> Members<'a, '_> {
    fn read(&mut self, cursor: &mut Cursor<'a>, key: &str) -> Result<(), Fault> {
        match key {
            "type" => fill(&mut self.kind, key, text(cursor, key)?),
            "sequence_id" => {
                let expected = "a whole number from 0 up, or a string of at most 128 bytes without control characters";
                fill(&mut self.sequence, key, typed(cursor, key, expected, sequence_id)?)
            }
            "sequence_token" => {
                let expected = "the 32 hexadecimal digits that were given at the start";
                fill(&mut self.token, key, typed(cursor, key, expected, token)?)
            }
            "sequence_number" => fill(
                &mut self.number,
                key,
                typed(cursor, key, "a whole number from 1 up", number)?,
            ),
            "last" => {
                let whole = |kind: Kind<'_>| match kind {
                    Kind::Number(number) => number.to_u64(),
                    _ => None,
                };
                fill(
                    &mut self.last,
                    key,
                    typed(cursor, key, "a whole number from 0 up", whole)?,
                )
            }
            _ => self.request.read(cursor, key),
        }
    }

    fn finish(self) -> Result<ClientMessage<'a>, Fault> {
        let missing = |key: &str| Fault::Refused(format!("`{key}`: missing"));
        let sequence = |sequence: Option<Option<SequenceId>>| sequence.flatten().ok_or_else(|| missing("sequence_id"));
        Ok(match self.kind.as_deref() {
            None | Some("infer") => ClientMessage::Infer(self.request.finish()?),
            Some("cancel") => match (self.request.id(), self.sequence.flatten()) {
                (_, Some(id)) => {
                    ClientMessage::CancelInSequence(id, self.number.ok_or_else(|| missing("sequence_number"))?)
                }
                (Some(id), None) => ClientMessage::Cancel(Cow::Owned(id.to_owned())),
                (None, None) => return Err(missing("id")),
            },
            Some("start") => ClientMessage::Start(self.sequence.flatten()),
            Some("resume") => ClientMessage::Resume {
                id: sequence(self.sequence)?,
                token: self.token.ok_or_else(|| missing("sequence_token"))?,
                last: self.last.ok_or_else(|| missing("last"))?,
            },
            Some("end") => ClientMessage::End(sequence(self.sequence)?),
            Some("ack") => ClientMessage::Acknowledge(
                sequence(self.sequence)?,
                self.number.ok_or_else(|| missing("sequence_number"))?,
            ),
            Some(other) => {
                let expected = "one of infer, cancel, start, resume, end, ack";
                return Err(Fault::unexpected("`type`", expected, other));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ClientMessage<'static>, (Option<String>, String)> {
        let body = RequestBody::from_json(text.to_owned().into());
        match decode_message(&body) {
            Ok(ClientMessage::Infer(_)) => panic!("requests are tested elsewhere"),
            Ok(ClientMessage::Cancel(id)) => Ok(ClientMessage::Cancel(Cow::Owned(id.into_owned()))),
            Ok(ClientMessage::CancelInSequence(id, number)) => Ok(ClientMessage::CancelInSequence(id, number)),
            Ok(ClientMessage::Start(id)) => Ok(ClientMessage::Start(id)),
            Ok(ClientMessage::Resume { id, token, last }) => Ok(ClientMessage::Resume { id, token, last }),
            Ok(ClientMessage::End(id)) => Ok(ClientMessage::End(id)),
            Ok(ClientMessage::Acknowledge(id, number)) => Ok(ClientMessage::Acknowledge(id, number)),
            Err(refused) => Err((refused.id, refused.error.to_string())),
        }
    }

    #[test]
    fn each_word_is_read() {
        let id: SequenceId = "bed 7".parse().unwrap();
        let token = "000102030405060708090a0b0c0d0e0f";
        let cases = [
            (
                r#"{"type":"cancel","id":"r"}"#.to_owned(),
                ClientMessage::Cancel("r".into()),
            ),
            (
                r#"{"type":"cancel","sequence_id":"bed 7","sequence_number":3}"#.to_owned(),
                ClientMessage::CancelInSequence(id.clone(), 3),
            ),
            (r#"{"type":"start"}"#.to_owned(), ClientMessage::Start(None)),
            (
                r#"{"type":"start","sequence_id":12}"#.to_owned(),
                ClientMessage::Start(Some(12.into())),
            ),
            (
                format!(r#"{{"type":"resume","sequence_id":"bed 7","sequence_token":"{token}","last":0}}"#),
                ClientMessage::Resume {
                    id: id.clone(),
                    token: token.parse().unwrap(),
                    last: 0,
                },
            ),
            (
                r#"{"sequence_id":"bed 7","type":"end"}"#.to_owned(),
                ClientMessage::End(id.clone()),
            ),
            (
                r#"{"type":"ack","sequence_id":"bed 7","sequence_number":9}"#.to_owned(),
                ClientMessage::Acknowledge(id, 9),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(read(&text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_the_id_where_there_is_one() {
        let refused = |text: &str| read(text).unwrap_err();
        assert_eq!(
            refused(r#"{"type":"stop","id":"a"}"#),
            (
                Some("a".to_owned()),
                "`type`: expected one of infer, cancel, start, resume, end, ack, found `stop`".to_owned()
            )
        );
        assert_eq!(refused(r#"{"inputs":3,"id":"b"}"#).0, Some("b".to_owned()));
        assert_eq!(
            refused(r#"{"type":"end"}"#),
            (None, "`sequence_id`: missing".to_owned())
        );
        assert_eq!(refused("[]").0, None);
        assert_eq!(
            refused(r#"{"type":"ack","sequence_id":"a","sequence_number":0}"#).0,
            None
        );
    }

    #[test]
    fn a_broken_message_of_a_sequence_is_known_by_its_place() {
        let text = r#"{"inputs":[{"name":"x"}],"parameters":{"sequence_id":"a","sequence_number":3}}"#;
        let body = RequestBody::from_json(text.into());
        let refused = decode_message(&body).unwrap_err();
        assert_eq!(refused.place, Some(("a".parse().unwrap(), Some(3))));
    }

    #[test]
    fn a_binary_message_is_taken_apart() {
        use grid_core::tensor::AlignedBytes;
        let message = |bytes: &[u8]| RequestBody::from_message(&AlignedBytes::copy_of(bytes).freeze());
        let body = message(b"\x02\0\0\0{}rest").unwrap();
        assert_eq!(
            (body.json(), body.binary().unwrap().as_slice()),
            (&b"{}"[..], &b"rest"[..])
        );
        for broken in [&b""[..], b"\x02\0\0", b"\x03\0\0\0{}", b"\xff\xff\xff\xff{}"] {
            assert!(message(broken).is_err(), "{broken:?}");
        }
    }
}
