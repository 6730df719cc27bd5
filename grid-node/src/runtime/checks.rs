//! Checks that every runtime needs before it looks at a file or a tensor.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use grid_core::tensor::{DataType, Tensor};

use super::{ModelError, OpenError};

/// The way out for a model with sequences or maps.
pub(super) const TENSORS_ONLY: &str =
    "the grid serves tensors: export the model without it (for classifiers of scikit-learn: `zipmap: False`)";

/// Whether the file can be read at all, so that a runtime's own complaint is about what is in it.
pub(super) fn check_readable(path: &Path) -> Result<(), OpenError> {
    let read = File::open(path).and_then(|mut file| file.read(&mut [0]));
    read.map(drop).map_err(|error| OpenError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Whether each byte of a BOOL tensor is 0 or 1. To C++ any other byte is undefined behaviour.
pub(super) fn check_bools(tensor: &Tensor) -> Result<(), ModelError> {
    if tensor.data_type() != DataType::Bool {
        return Ok(());
    }
    let bytes = tensor.data().as_slice();
    match bytes.iter().position(|byte| *byte > 1) {
        None => Ok(()),
        Some(index) => Err(ModelError(format!(
            "element {index} of a BOOL input is {}, expected 0 or 1",
            bytes[index]
        ))),
    }
}
