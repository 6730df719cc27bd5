//! The classification extension: instead of an output, its highest values with their places, as text.

use std::cmp::Ordering;
use std::fmt::Display;

use grid_core::tensor::{AlignedBytes, DataType, Element, Shape, Tensor, append_string};
use half::{bf16, f16};

/// Why an output cannot be classified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "classification: expected an output of numbers with at least one dimension, found {data_type} of shape {shape}"
)]
pub struct NotClassifiable {
    data_type: DataType,
    shape: Shape,
}

/// The `count` highest values along the last dimension, as BYTES of the form `value:index` or `value:index:label`,
/// highest first; equal values by their index, NaN last. The last dimension shrinks to `count`, or stays if it is
/// shorter than that.
///
/// # Errors
/// When the output has no numbers or no dimension.
pub fn classify(output: &Tensor, count: usize, labels: Option<&[String]>) -> Result<Tensor, NotClassifiable> {
    let task = Task { output, count, labels };
    let classes = match output.data_type() {
        DataType::Uint8 => task.run::<u8>(),
        DataType::Uint16 => task.run::<u16>(),
        DataType::Uint32 => task.run::<u32>(),
        DataType::Uint64 => task.run::<u64>(),
        DataType::Int8 => task.run::<i8>(),
        DataType::Int16 => task.run::<i16>(),
        DataType::Int32 => task.run::<i32>(),
        DataType::Int64 => task.run::<i64>(),
        DataType::Fp16 => task.run::<f16>(),
        DataType::Bf16 => task.run::<bf16>(),
        DataType::Fp32 => task.run::<f32>(),
        DataType::Fp64 => task.run::<f64>(),
        DataType::Bool | DataType::Bytes => None,
    };
    classes.ok_or_else(|| NotClassifiable {
        data_type: output.data_type(),
        shape: output.shape().clone(),
    })
}

struct Task<'a> {
    output: &'a Tensor,
    count: usize,
    labels: Option<&'a [String]>,
}

/// Highest first, and what equals only itself (NaN) last.
fn descending<T: PartialOrd>(left: &T, right: &T) -> Ordering {
    right.partial_cmp(left).unwrap_or_else(|| {
        let is_number = |value: &T| value.partial_cmp(value).is_some();
        is_number(right).cmp(&is_number(left))
    })
}

impl Task<'_> {
    fn run<T: Element + PartialOrd + Display>(&self) -> Option<Tensor> {
        let values = self.output.values::<T>()?;
        let mut shape = self.output.shape().clone();
        let last = shape.0.last_mut()?;
        let row = *last;
        *last = self.count.min(row);
        let count = *last;
        let mut bytes = AlignedBytes::default();
        let mut places: Vec<usize> = Vec::with_capacity(row);
        let mut text = String::new();
        // An empty row makes an empty output; `chunks` does not take its size.
        for row in values.chunks(row.max(1)) {
            places.clear();
            places.extend(0..row.len());
            places.sort_by(|&left, &right| match (row.get(left), row.get(right)) {
                (Some(left), Some(right)) => descending(left, right),
                _ => Ordering::Equal,
            });
            for (&place, value) in places
                .iter()
                .take(count)
                .filter_map(|place| Some((place, row.get(*place)?)))
            {
                self.describe(&mut text, value, place);
                append_string(&mut bytes, text.as_bytes());
            }
        }
        Tensor::new(DataType::Bytes, shape, bytes.freeze()).ok()
    }

    fn describe(&self, text: &mut String, value: &impl Display, place: usize) {
        text.clear();
        text.push_str(&format!("{value}:{place}"));
        if let Some(label) = self.labels.and_then(|labels| labels.get(place)) {
            text.push(':');
            text.push_str(label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(tensor: &Tensor) -> Vec<String> {
        let strings = tensor.strings().unwrap();
        strings.map(|text| String::from_utf8(text.to_vec()).unwrap()).collect()
    }

    #[test]
    fn each_row_gives_its_highest_values_with_their_places_and_labels() {
        let output = Tensor::from_values([2, 3].into(), &[0.25f32, 0.5, 0.125, 7.0, 8.5, 9.0]).unwrap();
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let classes = classify(&output, 2, Some(&labels)).unwrap();
        assert_eq!(classes.shape().dims(), &[2, 2]);
        assert_eq!(texts(&classes), ["0.5:1:dog", "0.25:0:cat", "9:2", "8.5:1:dog"]);
    }

    #[test]
    fn equal_values_keep_their_order_and_nan_comes_last() {
        let output = Tensor::from_values([4].into(), &[f32::NAN, 1.0, f32::INFINITY, 1.0]).unwrap();
        assert_eq!(
            texts(&classify(&output, 9, None).unwrap()),
            ["inf:2", "1:1", "1:3", "NaN:0"]
        );
    }

    #[test]
    fn what_has_no_classes_is_refused_or_empty() {
        let scalar = Tensor::from_values(Shape::default(), &[1i32]).unwrap();
        assert_eq!(
            classify(&scalar, 1, None).unwrap_err().to_string(),
            "classification: expected an output of numbers with at least one dimension, found INT32 of shape []"
        );
        let empty = Tensor::from_values::<i64>([3, 0].into(), &[]).unwrap();
        assert_eq!(classify(&empty, 5, None).unwrap().shape().dims(), &[3, 0]);
    }
}
