//! How one element of `data` is read from JSON, for each data type of a fixed size.

use bytemuck::Pod;
use half::{bf16, f16};

use super::number::{self, Number};

/// An element type of `data`.
pub(super) trait Leaf {
    /// The element as it lies in the tensor.
    type Stored: Pod;

    /// What a message says was expected.
    const EXPECTED: &'static str;

    /// Reads the element that begins at `at`, and tells where it ends; `None` if something else begins there.
    ///
    /// Positions go in and out by value, so that they stay in registers: numbers are read by the hundred thousand.
    fn read(bytes: &[u8], at: usize) -> Option<(Self::Stored, usize)>;
}

/// Reads a number and converts it.
#[inline]
fn number<T>(bytes: &[u8], at: usize, convert: impl FnOnce(Number<'_>) -> Option<T>) -> Option<(T, usize)> {
    let (number, end) = number::scan(bytes, at).ok()?;
    Some((convert(number)?, end))
}

/// `true`, `false`, and what clients write that have no such type: 1 and 0.
pub(super) struct Flag;

impl Leaf for Flag {
    type Stored = u8;
    const EXPECTED: &'static str = "BOOL, true or false";

    #[inline]
    fn read(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
        let rest = bytes.get(at..)?;
        if rest.starts_with(b"true") {
            return Some((1, at + 4));
        }
        if rest.starts_with(b"false") {
            return Some((0, at + 5));
        }
        number(bytes, at, |number| {
            u8::try_from(number.to_u64()?).ok().filter(|&flag| flag <= 1)
        })
    }
}

macro_rules! integers {
    ($($stored:ty, $read:ident, $expected:literal;)*) => {
        $(impl Leaf for $stored {
            type Stored = Self;
            const EXPECTED: &'static str = $expected;

            #[inline]
            fn read(bytes: &[u8], at: usize) -> Option<(Self, usize)> {
                number(bytes, at, |number| Self::try_from(number.$read()?).ok())
            }
        })*
    };
}

integers! {
    u8, to_u64, "UINT8, a whole number from 0 to 255";
    u16, to_u64, "UINT16, a whole number from 0 to 65535";
    u32, to_u64, "UINT32, a whole number from 0 to 4294967295";
    u64, to_u64, "UINT64, a whole number from 0 to 18446744073709551615";
    i8, to_i64, "INT8, a whole number from -128 to 127";
    i16, to_i64, "INT16, a whole number from -32768 to 32767";
    i32, to_i64, "INT32, a whole number from -2147483648 to 2147483647";
    i64, to_i64, "INT64, a whole number from -9223372036854775808 to 9223372036854775807";
}

impl Leaf for f32 {
    type Stored = Self;
    const EXPECTED: &'static str = "FP32, a number up to 3.4028235e38";

    #[inline]
    fn read(bytes: &[u8], at: usize) -> Option<(Self, usize)> {
        number(bytes, at, |number| number.to_f32().filter(|number| number.is_finite()))
    }
}

impl Leaf for f64 {
    type Stored = Self;
    const EXPECTED: &'static str = "FP64, a number up to 1.7976931348623157e308";

    #[inline]
    fn read(bytes: &[u8], at: usize) -> Option<(Self, usize)> {
        number(bytes, at, |number| number.to_f64().filter(|number| number.is_finite()))
    }
}

// The short floats are rounded twice, to f64 and then to 16 bits. That differs from rounding once only for numbers
// within 2⁻⁵³ of the middle between two of them, which a client that means one of them does not write.
macro_rules! short_floats {
    ($($stored:ty, $expected:literal;)*) => {
        $(impl Leaf for $stored {
            type Stored = Self;
            const EXPECTED: &'static str = $expected;

            #[inline]
            fn read(bytes: &[u8], at: usize) -> Option<(Self, usize)> {
                number(bytes, at, |number| {
                    Some(Self::from_f64(number.to_f64()?)).filter(|number| number.is_finite())
                })
            }
        })*
    };
}

short_floats! {
    f16, "FP16, a number up to 65504";
    bf16, "BF16, a number up to 3.3895314e38";
}
