//! The parameters of a request and of its tensors, and the time that its metadata gives it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use grid_core::InferError;
use grid_core::sequence::SequenceId;
use tonic::metadata::MetadataMap;

use super::generated::InferParameter;
use super::generated::infer_parameter::ParameterChoice;
use crate::gateway::rest::codec::{Parameters, Place};

/// The parameters of a tensor or of a request, by their names.
pub(super) type Map = BTreeMap<String, InferParameter>;

/// The parameter that puts a tensor into memory which client and server share.
const SHARED_MEMORY: &str = "shared_memory_region";

/// The parameters of a request that mean something here; any other may be sent, and is passed over.
pub(super) fn of_request(map: &Map) -> Result<Parameters, InferError> {
    let mut parameters = Parameters::default();
    for (key, value) in map {
        let value = Value(value);
        match key.as_str() {
            "timeout" => {
                let micros = value.digits().filter(|micros| *micros > 0);
                let expected = "a whole number of microseconds from 1 up";
                parameters.timeout = Some(Duration::from_micros(
                    micros.ok_or_else(|| value.refuse(key, expected))?,
                ));
            }
            "priority" => {
                let priority = value.whole().and_then(|priority| u32::try_from(priority).ok());
                let expected = "a whole number from 0 to 4294967295";
                parameters.priority = Some(priority.ok_or_else(|| value.refuse(key, expected))?);
            }
            "sequence_id" => {
                let id = match (value.whole(), value.text()) {
                    (Some(0), _) | (_, Some("")) => continue,
                    (Some(number), _) => Some(SequenceId::from(number)),
                    (_, text) => text.and_then(|text| text.parse().ok()),
                };
                let expected = "a whole number from 0 up, or a string of at most 128 bytes without control characters";
                parameters.sequence_id = Some(id.ok_or_else(|| value.refuse(key, expected))?);
            }
            "sequence_number" => {
                let number = value.whole().filter(|number| *number > 0);
                let expected = "a whole number from 1 up";
                parameters.sequence_number = Some(number.ok_or_else(|| value.refuse(key, expected))?);
            }
            "sequence_token" => {
                let token = value.text().and_then(|text| text.parse().ok());
                let expected = "the 32 hexadecimal digits that were given at the start";
                parameters.sequence_token = Some(token.ok_or_else(|| value.refuse(key, expected))?);
            }
            "sequence_start" => parameters.sequence_start = value.flag(key)?,
            "sequence_end" => parameters.sequence_end = value.flag(key)?,
            _ => {}
        }
    }
    Ok(parameters)
}

/// How many classes a requested output's parameters ask for.
pub(super) fn classification(map: &Map) -> Result<Option<usize>, String> {
    let Some(value) = map.get("classification").map(Value) else {
        return Ok(None);
    };
    let classes = value.whole().and_then(|classes| usize::try_from(classes).ok());
    match classes.filter(|classes| *classes > 0) {
        Some(classes) => Ok(Some(classes)),
        None => Err(format!(
            "`classification`: expected a whole number from 1 up, found {value}"
        )),
    }
}

/// Refuses a tensor elsewhere than in the message: passing that over would read or write another place than the client
/// means.
pub(super) fn refuse_shared_memory(map: &Map) -> Result<(), String> {
    if map.contains_key(SHARED_MEMORY) {
        return Err(format!(
            "`{SHARED_MEMORY}`: shared memory is not supported, expected the tensor in the message"
        ));
    }
    Ok(())
}

/// Where an answer stands in its sequence, by the names that REST has for it.
pub(super) fn of_place(place: &Place<'_>) -> Map {
    let number = |number| ParameterChoice::Int64Param(i64::try_from(number).unwrap_or(i64::MAX));
    let token = place
        .token
        .map(|token| ("sequence_token", ParameterChoice::StringParam(token.to_string())));
    let all = [
        ("sequence_id", ParameterChoice::StringParam(place.id.to_owned())),
        ("sequence_number", number(place.number)),
        ("sequence_durable", number(place.durable)),
        ("sequence_end", ParameterChoice::BoolParam(place.ends)),
    ];
    let parameter = |(name, choice): (&str, ParameterChoice)| {
        let parameter_choice = Some(choice);
        (name.to_owned(), InferParameter { parameter_choice })
    };
    all.into_iter().chain(token).map(parameter).collect()
}

/// A value as it was sent.
struct Value<'a>(&'a InferParameter);

impl Value<'_> {
    fn whole(&self) -> Option<u64> {
        match self.0.parameter_choice {
            Some(ParameterChoice::Int64Param(number)) => u64::try_from(number).ok(),
            Some(ParameterChoice::Uint64Param(number)) => Some(number),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match &self.0.parameter_choice {
            Some(ParameterChoice::StringParam(text)) => Some(text),
            _ => None,
        }
    }

    /// A whole number, as such or as text.
    fn digits(&self) -> Option<u64> {
        match self.text() {
            // `parse` would take a sign.
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            Some(_) => None,
            None => self.whole(),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, InferError> {
        match self.0.parameter_choice {
            Some(ParameterChoice::BoolParam(flag)) => Ok(flag),
            _ => Err(self.refuse(key, "true or false")),
        }
    }

    #[cold]
    fn refuse(&self, key: &str, expected: &str) -> InferError {
        InferError::Invalid(format!("parameter `{key}`: expected {expected}, found {self}"))
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => write!(f, "{value}"),
            Some(ParameterChoice::Int64Param(value)) => write!(f, "{value}"),
            Some(ParameterChoice::Uint64Param(value)) => write!(f, "{value}"),
            Some(ParameterChoice::DoubleParam(value)) => write!(f, "{value:?}"),
            Some(ParameterChoice::StringParam(value)) => write!(f, "`{value}`"),
            None => f.write_str("no value"),
        }
    }
}

/// The header with the time that a call has: up to eight digits and a unit.
const TIMEOUT: &str = "grpc-timeout";

/// The time that a call's metadata gives it.
pub(super) fn call_timeout(metadata: &MetadataMap) -> Result<Option<Duration>, InferError> {
    let Some(value) = metadata.get(TIMEOUT) else {
        return Ok(None);
    };
    let value = value.as_encoded_bytes();
    match parse_timeout(value) {
        Some(timeout) => Ok(Some(timeout)),
        None => {
            let found: String = String::from_utf8_lossy(value).chars().take(40).collect();
            Err(InferError::Invalid(format!(
                "metadata {TIMEOUT}: expected up to 8 digits and one of H, M, S, m, u, n, found `{found}`"
            )))
        }
    }
}

fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(choice: ParameterChoice) -> InferParameter {
        InferParameter {
            parameter_choice: Some(choice),
        }
    }

    fn read(key: &str, choice: ParameterChoice) -> Result<Parameters, String> {
        of_request(&Map::from([(key.to_owned(), parameter(choice))])).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_numbers_are_taken_however_they_are_sent() {
        let timeout = Some(Duration::from_micros(1500));
        for choice in [
            ParameterChoice::Int64Param(1500),
            ParameterChoice::Uint64Param(1500),
            ParameterChoice::StringParam("1500".to_owned()),
        ] {
            assert_eq!(read("timeout", choice).unwrap().timeout, timeout);
        }
        let number = Some(SequenceId::from(7));
        assert_eq!(
            read("sequence_id", ParameterChoice::Int64Param(7)).unwrap().sequence_id,
            number
        );
        let text = Some("a".parse::<SequenceId>().unwrap());
        let choice = ParameterChoice::StringParam("a".to_owned());
        assert_eq!(read("sequence_id", choice).unwrap().sequence_id, text);
        for none in [
            ParameterChoice::Uint64Param(0),
            ParameterChoice::StringParam(String::new()),
        ] {
            assert_eq!(read("sequence_id", none).unwrap().sequence_id, None);
        }
    }

    #[test]
    fn other_values_are_refused_by_name() {
        for (key, choice, expected) in [
            (
                "timeout",
                ParameterChoice::Int64Param(-3),
                "parameter `timeout`: expected a whole number of microseconds from 1 up, found -3",
            ),
            (
                "timeout",
                ParameterChoice::StringParam("+5".to_owned()),
                "parameter `timeout`: expected a whole number of microseconds from 1 up, found `+5`",
            ),
            (
                "priority",
                ParameterChoice::DoubleParam(1.0),
                "parameter `priority`: expected a whole number from 0 to 4294967295, found 1.0",
            ),
            (
                "sequence_end",
                ParameterChoice::Int64Param(1),
                "parameter `sequence_end`: expected true or false, found 1",
            ),
        ] {
            assert_eq!(read(key, choice).unwrap_err(), expected);
        }
        assert_eq!(
            read("anything", ParameterChoice::BoolParam(true)).unwrap(),
            Parameters::default()
        );
    }

    #[test]
    fn a_call_has_the_time_that_its_metadata_says() {
        let of = |value: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(TIMEOUT, value.parse().unwrap());
            call_timeout(&metadata)
        };
        assert_eq!(call_timeout(&MetadataMap::new()), Ok(None));
        for (value, millis) in [
            ("2H", 7_200_000),
            ("3M", 180_000),
            ("4S", 4000),
            ("99999999m", 99_999_999),
        ] {
            assert_eq!(of(value), Ok(Some(Duration::from_millis(millis))));
        }
        assert_eq!(of("5u"), Ok(Some(Duration::from_micros(5))));
        assert_eq!(of("0n"), Ok(Some(Duration::ZERO)));
        for wrong in ["", "S", "5", "5s", "-5S", "123456789S", "1.5S"] {
            let error = of(wrong).unwrap_err().to_string();
            assert!(error.ends_with(&format!("found `{wrong}`")), "{error}");
        }
    }
}
