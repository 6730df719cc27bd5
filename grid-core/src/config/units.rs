//! Sizes and times as people write them: `"4GiB"`, `"250ms"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written as a decimal number and a unit: `"512KiB"`, `"1.5GiB"`, `"100MB"`, `"100B"`.
///
/// `KiB`, `MiB`, `GiB`, `TiB` are powers of 1024; `kB` (or `KB`), `MB`, `GB`, `TB` powers of 1000. A fraction of a
/// byte is dropped. `4G` and `4Gb` are refused: they do not say which of the two, or whether bits are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A time span, written as a decimal number and a unit: `"250ms"`, `"1.5s"`, `"1m"`, `"10us"`, `"1h"`, `"0ms"`.
///
/// The units are `ns`, `us` (or `µs`), `ms`, `s`, `m`, `h`, `d`. A fraction of a nanosecond is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(pub Duration);

/// Longest time span that a config can hold. Deadlines are computed as `now + span`, and the clock's addition panics
/// when it overflows; a year is past every sensible setting and far from that edge.
pub const LONGEST_TIME_SPAN: Duration = Duration::from_secs(365 * 86_400);

/// Text that is no size or time span. Displays as what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// The text is no size.
    #[error("a size such as \"4GiB\"")]
    NoSize,
    /// The size does not fit 64 bits.
    #[error("a size of at most 16777215TiB")]
    SizeTooLarge,
    /// The text is no time span.
    #[error("a duration such as \"250ms\"")]
    NoTimeSpan,
    /// The time span is over [`LONGEST_TIME_SPAN`].
    #[error("a duration of at most 365d")]
    TimeSpanTooLong,
}

/// Largest first, so that a value is shown in the largest unit that divides it. The binary unit stands before the
/// decimal one of the same rank.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("KB", 1_000),
    ("B", 1),
];

/// In nanoseconds, largest first.
const TIME_UNITS: [(&str, u64); 8] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];

/// Most digits behind the point; the number is kept in units of 10⁻⁹, which keeps `"1.1GiB"` exact.
const MAX_FRACTION_DIGITS: usize = 9;
const BILLION: u128 = 1_000_000_000;

impl FromStr for ByteSize {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (billionths, unit) = split(text, &SIZE_UNITS).ok_or(InvalidQuantity::NoSize)?;
        billionths
            .checked_mul(u128::from(unit))
            .and_then(|product| u64::try_from(product / BILLION).ok())
            .map(Self)
            .ok_or(InvalidQuantity::SizeTooLarge)
    }
}

impl FromStr for TimeSpan {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (billionths, unit) = split(text, &TIME_UNITS).ok_or(InvalidQuantity::NoTimeSpan)?;
        billionths
            .checked_mul(u128::from(unit))
            .and_then(|product| u64::try_from(product / BILLION).ok())
            .map(Duration::from_nanos)
            .filter(|span| *span <= LONGEST_TIME_SPAN)
            .map(Self)
            .ok_or(InvalidQuantity::TimeSpanTooLong)
    }
}

/// The number in billionths, and the unit's factor. A number too large to keep is cut to one that is still too large
/// for every unit, so that the caller reports it as too large and not as malformed.
fn split(text: &str, units: &[(&str, u64)]) -> Option<(u128, u64)> {
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;

    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > MAX_FRACTION_DIGITS {
        return None;
    }
    let whole = whole.parse::<u64>().map_or(u128::from(u64::MAX) + 1, u128::from);
    let fraction = format!("{fraction:0<MAX_FRACTION_DIGITS$}").parse::<u128>().ok()?;
    Some((whole * BILLION + fraction, *factor))
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(f, u128::from(self.0), &SIZE_UNITS, "B")
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(f, self.0.as_nanos(), &TIME_UNITS, "ms")
    }
}

fn display(f: &mut fmt::Formatter<'_>, value: u128, units: &[(&str, u64)], zero: &str) -> fmt::Result {
    let fits = |factor: u64| value != 0 && value.is_multiple_of(u128::from(factor));
    match units.iter().find(|(_, factor)| fits(*factor)) {
        Some((unit, factor)) => write!(f, "{}{unit}", value / u128::from(*factor)),
        None => write!(f, "{value}{zero}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(text: &str) -> Result<u64, InvalidQuantity> {
        text.parse().map(|ByteSize(bytes)| bytes)
    }

    fn span(text: &str) -> Result<Duration, InvalidQuantity> {
        text.parse().map(|TimeSpan(span)| span)
    }

    #[test]
    fn sizes_are_read_exactly() {
        assert_eq!(size("100B"), Ok(100));
        assert_eq!(size("512KiB"), Ok(512 << 10));
        assert_eq!(size("64 MiB"), Ok(64 << 20));
        assert_eq!(size("1.5GiB"), Ok(3 << 29));
        assert_eq!(
            size("1.1GiB"),
            Ok(1_181_116_006),
            "the fraction of a byte is dropped, nothing else"
        );
        assert_eq!(size("4kB"), Ok(4_000));
        assert_eq!(size("4KB"), Ok(4_000));
        assert_eq!(size("2GB"), Ok(2_000_000_000));
        assert_eq!(size("18446744073709551615B"), Ok(u64::MAX));
    }

    #[test]
    fn time_spans_are_read_exactly() {
        assert_eq!(span("0ms"), Ok(Duration::ZERO));
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(span("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(span("10us"), Ok(Duration::from_micros(10)));
        assert_eq!(span("10µs"), Ok(Duration::from_micros(10)));
        assert_eq!(span("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(span("1h"), Ok(Duration::from_secs(3_600)));
        assert_eq!(span("365d"), Ok(LONGEST_TIME_SPAN));
    }

    #[test]
    fn what_is_not_clearly_a_quantity_is_refused() {
        for text in [
            "", "4", "4G", "4Gb", "4gib", "-4GiB", "+4GiB", "GiB", ".5GiB", "5.GiB", "1.2.3GiB", "1e3B", "4  GiB",
        ] {
            assert_eq!(size(text), Err(InvalidQuantity::NoSize), "{text:?}");
        }
        for text in ["", "5", "-5s", "NaNs", "infs", "5sec", "5 s ", "1m30s", "0x5s", "٣s"] {
            assert_eq!(span(text), Err(InvalidQuantity::NoTimeSpan), "{text:?}");
        }
    }

    #[test]
    fn hostile_numbers_are_too_large_and_overflow_nothing() {
        for text in [
            "99999999999GiB",
            "16777216TiB",
            "18446744073709551616B",
            &format!("{}TiB", "9".repeat(1 << 16)),
        ] {
            assert_eq!(size(text), Err(InvalidQuantity::SizeTooLarge));
        }
        for text in ["366d", "18446744073709551615d", &format!("{}ns", "9".repeat(1 << 16))] {
            assert_eq!(span(text), Err(InvalidQuantity::TimeSpanTooLong));
        }
    }

    proptest! {
        #[test]
        fn a_size_that_is_shown_reads_back_as_itself(bytes: u64) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }

        #[test]
        fn a_round_size_is_shown_in_its_own_unit(count in 1u64..1000, unit in 0usize..4) {
            let (name, factor) = [("KiB", 1u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)][unit];
            prop_assert_eq!(ByteSize(count * factor).to_string(), format!("{count}{name}"));
        }

        #[test]
        fn a_time_span_that_is_shown_reads_back_as_itself(nanos in 0..=LONGEST_TIME_SPAN.as_nanos() as u64) {
            let span = TimeSpan(Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn no_text_makes_the_units_panic(text in "\\PC{0,40}|[0-9.]{1,40}[a-zA-Zµ ]{0,4}") {
            let _ = (size(&text), span(&text));
        }
    }
}
