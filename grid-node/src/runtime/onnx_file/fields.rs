//! The fields of protobuf messages, one after the other, from a file.

use std::io::{self, BufReader, Read, Seek};

/// Longest name that is read.
const MAX_TEXT: u64 = 4096;

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file could not be read.
    Io(io::Error),
    /// It is not what it should be.
    Malformed(String),
}

impl Fault {
    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed(reason.into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Self::malformed("the file ends in the middle of a field")
        } else {
            Self::Io(error)
        }
    }
}

/// A field: its number in the message's definition, and what follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) payload: Payload,
}

/// What follows a field's tag.
#[derive(Clone, Copy, Debug)]
pub(super) enum Payload {
    /// A number, already read.
    Number(u64),
    /// Four or eight bytes, not read.
    Fixed(u64),
    /// Bytes up to this position, not read: a text, a message, packed numbers.
    Bytes(u64),
}

/// Reads fields and keeps count of the position.
pub(super) struct Fields<R> {
    reader: BufReader<R>,
    position: u64,
    length: u64,
}

impl<R: Read + Seek> Fields<R> {
    /// Over a reader of `length` bytes.
    pub(super) fn new(reader: BufReader<R>, length: u64) -> Self {
        Self {
            reader,
            position: 0,
            length,
        }
    }

    /// The next field of the message that ends at `end`; `None` at its end. The field before must have been read or skipped.
    pub(super) fn next(&mut self, end: u64) -> Result<Option<Field>, Fault> {
        if self.position == end {
            return Ok(None);
        }
        let tag = self.varint(end)?;
        let payload = match tag & 7 {
            0 => Payload::Number(self.varint(end)?),
            1 => Payload::Fixed(8),
            2 => {
                let claimed = self.varint(end)?;
                let reached = self.position.checked_add(claimed).filter(|reached| *reached <= end);
                Payload::Bytes(reached.ok_or_else(|| {
                    Fault::malformed(format!(
                        "a field claims {claimed} bytes, only {} are left",
                        end - self.position
                    ))
                })?)
            }
            5 => Payload::Fixed(4),
            other => return Err(Fault::malformed(format!("a field of unknown wire type {other}"))),
        };
        if let Payload::Fixed(bytes) = payload
            && end - self.position < bytes
        {
            return Err(Fault::malformed("a number reaches past the end of its message"));
        }
        Ok(Some(Field {
            number: tag >> 3,
            payload,
        }))
    }

    /// Passes over what follows a field's tag.
    pub(super) fn skip(&mut self, field: Field) -> Result<(), Fault> {
        let target = match field.payload {
            Payload::Number(_) => return Ok(()),
            Payload::Fixed(bytes) => self.position + bytes,
            Payload::Bytes(end) => end,
        };
        debug_assert!(self.position <= target && target <= self.length);
        let distance = i64::try_from(target - self.position);
        let distance = distance.map_err(|_| Fault::malformed("a field longer than any file"))?;
        self.reader.seek_relative(distance)?;
        self.position = target;
        Ok(())
    }

    /// The text up to `end`.
    pub(super) fn text(&mut self, end: u64) -> Result<String, Fault> {
        let length = end - self.position;
        if length > MAX_TEXT {
            return Err(Fault::malformed(format!(
                "a name of {length} bytes, expected at most {MAX_TEXT}"
            )));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.reader.read_exact(&mut bytes)?;
        self.position = end;
        String::from_utf8(bytes).map_err(|_| Fault::malformed("a name that is no UTF-8"))
    }

    fn varint(&mut self, end: u64) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.position == end {
                return Err(Fault::malformed("a number reaches past the end of its message"));
            }
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::malformed("a number of more than ten bytes"))
    }
}
