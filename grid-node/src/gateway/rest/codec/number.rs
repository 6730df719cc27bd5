//! JSON numbers: scanned once for the grammar, and converted from what the scan has already summed up.
//!
//! Why not `str::parse` on each token, or a float-parsing crate: finding the end of the token and checking JSON's
//! stricter grammar costs as much as summing up the digits, and with the digits at hand nearly every number needs one
//! multiplication or division more. The rest (more than 19 digits, far exponents, near ties) goes to `str::parse`,
//! which rounds correctly at any length; so does this, see [`Number::to_f32`].

/// A JSON number as the scan found it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<'a> {
    text: &'a [u8],
    negative: bool,
    /// Neither fraction nor exponent.
    whole: bool,
    /// The digits without the point; meaningless unless `complete`.
    digits: u64,
    /// Power of ten that `digits` is to be multiplied by.
    exponent: i32,
    /// Every digit is in `digits`, none was lost to overflow.
    complete: bool,
}

/// Digits that always fit a `u64`.
const MAX_DIGITS: usize = 19;

/// The powers of ten that an `f64` holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Sums up the digits from `at` on; returns where they end.
///
/// Eight at a time and without a branch on how many of the eight are digits: lengths vary from number to number, and
/// a wrong guess of the processor costs more than the whole sum.
#[inline(always)]
fn sum_digits(bytes: &[u8], mut at: usize, sum: &mut u64) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let digits = u64::from_le_bytes(*chunk) ^ 0x3030_3030_3030_3030;
        // The high bit of each byte that is above 9. A carry out of such a byte only spoils those behind it.
        let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
        let count = others.trailing_zeros() / 8;
        if count == 0 {
            return at;
        }
        // The digits move to the end of the eight, zeros before them.
        let digits = digits << (64 - 8 * count);
        *sum = sum
            .wrapping_mul(SCALES[count as usize])
            .wrapping_add(eight_digits(digits));
        at += count as usize;
        if count < 8 {
            return at;
        }
    }
    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')) {
        if digit > 9 {
            break;
        }
        *sum = sum.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    at
}

/// 10 to the number of digits in a chunk.
const SCALES: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// The value of eight digits, one a byte, the first in the lowest: neighbours are joined to pairs, those to fours,
/// those to eight.
#[inline]
fn eight_digits(digits: u64) -> u64 {
    const PAIRS: u64 = 0x0000_00ff_0000_00ff;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let high = (pairs & PAIRS).wrapping_mul(100 + (1_000_000 << 32));
    let low = ((pairs >> 16) & PAIRS).wrapping_mul(1 + (10_000 << 32));
    high.wrapping_add(low) >> 32
}

/// Scans the number at the front of `bytes[start..]`. Returns it with the position behind it, or the position of the
/// first byte that no JSON number has there.
#[inline(always)] // Called, it would hand its result over through memory: measured at a quarter of a small request.
pub(super) fn scan(bytes: &[u8], start: usize) -> Result<(Number<'_>, usize), usize> {
    let negative = bytes.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let mut digits = 0;
    let mut at = sum_digits(bytes, first, &mut digits);
    if at == first {
        return Err(at);
    }
    if at > first + 1 && bytes.get(first) == Some(&b'0') {
        // JSON has no leading zeros: whatever follows this one is not part of the number.
        at = first + 1;
        digits = 0;
    }
    let mut count = at - first;
    let mut exponent = 0;
    let mut whole = true;
    if bytes.get(at) == Some(&b'.') {
        let fraction = at + 1;
        at = sum_digits(bytes, fraction, &mut digits);
        if at == fraction {
            return Err(at);
        }
        count += at - fraction;
        // Only meaningful with at most MAX_DIGITS digits, so it may saturate.
        exponent = -i32::try_from(at - fraction).unwrap_or(i32::MAX);
        whole = false;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        let sign = bytes.get(at).copied();
        at += usize::from(matches!(sign, Some(b'+' | b'-')));
        let mut power = 0;
        let end = sum_digits(bytes, at, &mut power);
        if end == at {
            return Err(at);
        }
        // A power that may have wrapped around is sent to the slow way by one that is out of bounds anyway.
        let power = if end - at <= 4 { power as i32 } else { i32::MAX / 2 };
        exponent = exponent.saturating_add(if sign == Some(b'-') { -power } else { power });
        at = end;
        whole = false;
    }
    let number = Number {
        text: &bytes[start..at],
        negative,
        whole,
        digits,
        exponent,
        complete: count <= MAX_DIGITS,
    };
    Ok((number, at))
}

impl Number<'_> {
    fn parse<T: std::str::FromStr>(&self) -> Option<T> {
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }

    /// The number as an unsigned integer; `None` if it has a sign, a fraction, an exponent or does not fit.
    #[inline]
    pub(super) fn to_u64(self) -> Option<u64> {
        match (self.whole, self.complete) {
            (true, true) if !self.negative || self.digits == 0 => Some(self.digits),
            (true, false) if !self.negative => self.parse(),
            _ => None,
        }
    }

    /// The number as a signed integer; `None` if it has a fraction, an exponent or does not fit.
    #[inline]
    pub(super) fn to_i64(self) -> Option<i64> {
        // The 19 digits of a complete number are as many as i64::MAX and i64::MIN have.
        match (self.whole && self.complete, self.negative) {
            (true, false) => i64::try_from(self.digits).ok(),
            (true, true) => 0i64.checked_sub_unsigned(self.digits),
            (false, _) => None,
        }
    }

    /// Digits times or divided by the power of ten: correct to two roundings of an `f64`.
    #[inline]
    fn near(self) -> Option<f64> {
        if !self.complete {
            return None;
        }
        let power = POWERS.get(self.exponent.unsigned_abs() as usize)?;
        let digits = self.digits as f64;
        Some(if self.exponent < 0 {
            digits / power
        } else {
            digits * power
        })
    }

    fn signed(self, magnitude: f64) -> f64 {
        // Not a branch: signs are as good as random.
        f64::from_bits(magnitude.to_bits() ^ (u64::from(self.negative) << 63))
    }

    /// The nearest `f32`, ties to even; infinite if the number is too large.
    ///
    /// [`near`](Self::near) is off by at most two units in the last place of an `f64` (each of its two roundings adds
    /// at most 2⁻⁵³ of the value). So unless it lies within a few such units of the middle between two `f32`s, it
    /// lies on the same side of that middle as the number itself, and rounding it gives the same `f32`. Below the
    /// normal range of `f32` the middles lie elsewhere.
    #[inline]
    pub(super) fn to_f32(self) -> Option<f32> {
        const DROPPED: u64 = (1 << 29) - 1;
        const MIDDLE: u64 = 1 << 28;
        const MARGIN: u64 = 4;
        if let Some(near) = self.near() {
            let off_middle = (near.to_bits() & DROPPED).abs_diff(MIDDLE);
            if (off_middle > MARGIN && near >= 2.0 * f64::from(f32::MIN_POSITIVE)) || self.digits == 0 {
                return Some(self.signed(near) as f32);
            }
        }
        self.parse()
    }

    /// The nearest `f64`, ties to even; infinite if the number is too large.
    #[inline]
    pub(super) fn to_f64(self) -> Option<f64> {
        // Both the digits and the power are exact, so the one operation on them is the only rounding.
        const EXACT: u64 = 1 << 53;
        match self.near() {
            Some(exact) if self.digits <= EXACT => Some(self.signed(exact)),
            _ => self.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Option<Number<'_>> {
        let (number, end) = scan(text.as_bytes(), 0).ok()?;
        (end == text.len()).then_some(number)
    }

    proptest! {
        #[test]
        fn the_grammar_is_that_of_json(text in "-?[0-9]{0,3}(\\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?[-+.0-9eE]{0,2}") {
            prop_assert_eq!(whole(&text).is_some(), serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok());
        }

        #[test]
        fn any_decimal_gives_the_nearest_floats(text in "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,22})?(e[+-]?[0-9]{1,2})?") {
            let number = whole(&text).unwrap();
            prop_assert_eq!(number.to_f32().map(f32::to_bits), text.parse().ok().map(f32::to_bits));
            prop_assert_eq!(number.to_f64().map(f64::to_bits), text.parse().ok().map(f64::to_bits));
        }

        #[test]
        fn every_float_reads_back_as_printed_and_widened(bits: u32) {
            let value = f32::from_bits(bits);
            prop_assume!(value.is_finite());
            for text in [format!("{value}"), format!("{value:e}"), f64::from(value).to_string(), format!("{value:.8e}")] {
                let read = whole(&text).unwrap().to_f32().unwrap();
                prop_assert_eq!(read.to_bits(), value.to_bits(), "{}", text);
            }
        }

        #[test]
        fn a_number_just_off_the_middle_of_two_floats_rounds_to_its_side(bits in 0u32..0x7f00_0000, nudge in -6i64..=6) {
            let middle = (f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0;
            let nudged = f64::from_bits(middle.to_bits().saturating_add_signed(nudge));
            for text in [format!("{nudged:e}"), format!("{nudged:.15e}"), format!("{nudged:.17e}")] {
                let read = whole(&text).unwrap().to_f32().unwrap();
                prop_assert_eq!(read.to_bits(), text.parse::<f32>().unwrap().to_bits(), "{}", text);
            }
        }

        #[test]
        fn every_integer_reads_back(signed: i64, unsigned: u64) {
            prop_assert_eq!(whole(&signed.to_string()).unwrap().to_i64(), Some(signed));
            prop_assert_eq!(whole(&unsigned.to_string()).unwrap().to_u64(), Some(unsigned));
        }
    }

    #[test]
    fn integers_past_their_range_and_fractions_are_none() {
        for text in ["18446744073709551616", "99999999999999999999999", "-1", "1.0", "1e2"] {
            assert_eq!(whole(text).unwrap().to_u64(), None, "{text}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "1.0", "-1e2"] {
            assert_eq!(whole(text).unwrap().to_i64(), None, "{text}");
        }
        assert_eq!(whole("-0").unwrap().to_u64(), Some(0));
    }

    #[test]
    fn exponents_without_end_are_zero_or_infinite() {
        let read = |text| whole(text).unwrap().to_f32();
        assert_eq!(read("1e99999999999999999999999"), Some(f32::INFINITY));
        assert_eq!(read("-1e-18446744073709551616"), Some(0.0));
        assert_eq!(read("0e99999999999999999999999"), Some(0.0));
        assert_eq!(whole("1e999").unwrap().to_f64(), Some(f64::INFINITY));
    }
}
