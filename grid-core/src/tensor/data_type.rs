//! Element types of the Open Inference Protocol v2.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The type of a tensor's elements, named as the Open Inference Protocol v2 names them.
///
/// Between nodes it travels as its [`code`](Self::code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum DataType {
    /// One byte an element: 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// IEEE 754 half precision.
    Fp16,
    /// bfloat16: the upper half of a single-precision number.
    Bf16,
    /// IEEE 754 single precision.
    Fp32,
    /// IEEE 754 double precision.
    Fp64,
    /// Byte strings of any length, each behind its length as four little-endian bytes.
    Bytes,
}

/// Every data type, in the order of the protocol's table. The order is that of their codes, so it never changes.
pub const ALL_DATA_TYPES: [DataType; 14] = [
    DataType::Bool,
    DataType::Uint8,
    DataType::Uint16,
    DataType::Uint32,
    DataType::Uint64,
    DataType::Int8,
    DataType::Int16,
    DataType::Int32,
    DataType::Int64,
    DataType::Fp16,
    DataType::Bf16,
    DataType::Fp32,
    DataType::Fp64,
    DataType::Bytes,
];

impl DataType {
    /// The protocol's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Its number between nodes.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Bytes of one element, or `None` for [`DataType::Bytes`], whose elements vary.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

impl From<DataType> for u8 {
    fn from(data_type: DataType) -> Self {
        data_type.code()
    }
}

/// A number that is the code of no data type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is the code of no data type")]
pub struct UnknownDataTypeCode(u8);

impl TryFrom<u8> for DataType {
    type Error = UnknownDataTypeCode;

    fn try_from(code: u8) -> Result<Self, Self::Error> {
        let found = ALL_DATA_TYPES.get(usize::from(code)).copied();
        found.ok_or(UnknownDataTypeCode(code))
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no data type of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected one of BOOL, UINT8…UINT64, INT8…INT64, FP16, BF16, FP32, FP64, BYTES")]
pub struct UnknownDataType;

impl FromStr for DataType {
    type Err = UnknownDataType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        ALL_DATA_TYPES
            .into_iter()
            .find(|data_type| data_type.name() == name)
            .ok_or(UnknownDataType)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_its_type() {
        for (code, data_type) in (0u8..).zip(ALL_DATA_TYPES) {
            assert_eq!((data_type.code(), DataType::try_from(code)), (code, Ok(data_type)));
        }
        assert_eq!(DataType::try_from(14), Err(UnknownDataTypeCode(14)));
    }

    #[test]
    fn every_name_reads_back_as_its_type() {
        for data_type in ALL_DATA_TYPES {
            assert_eq!(data_type.name().parse(), Ok(data_type));
        }
        assert_eq!("fp32".parse::<DataType>(), Err(UnknownDataType));
    }
}
