//! Each data type goes in and comes out as it is.

use grid_core::tensor::{AlignedBytes, DataType, append_string};
use half::{bf16, f16};

use super::tiny::{element, identity, model, sequence, tensor};
use super::*;

const ROW: Option<&[Option<u8>]> = Some(&[None]);

fn strings(elements: &[&[u8]]) -> Tensor {
    let mut bytes = AlignedBytes::default();
    for element in elements {
        append_string(&mut bytes, element);
    }
    Tensor::new(DataType::Bytes, [elements.len()].into(), bytes.freeze()).unwrap()
}

fn bools(bytes: &[u8]) -> Tensor {
    Tensor::new(
        DataType::Bool,
        [bytes.len()].into(),
        AlignedBytes::copy_of(bytes).freeze(),
    )
    .unwrap()
}

/// Each type with values that a wrong width or sign would change.
fn every_type() -> Vec<(u8, Tensor)> {
    let of = |tensor: Result<Tensor, _>| -> Tensor { tensor.unwrap() };
    vec![
        (element::BOOL, bools(&[1, 0, 1])),
        (element::UINT8, of(Tensor::from_values([2].into(), &[0u8, 255]))),
        (element::UINT16, of(Tensor::from_values([2].into(), &[1u16, u16::MAX]))),
        (element::UINT32, of(Tensor::from_values([2].into(), &[1u32, u32::MAX]))),
        (element::UINT64, of(Tensor::from_values([2].into(), &[1u64, u64::MAX]))),
        (element::INT8, of(Tensor::from_values([2].into(), &[-128i8, 127]))),
        (element::INT16, of(Tensor::from_values([2].into(), &[i16::MIN, 7]))),
        (
            element::INT32,
            of(Tensor::from_values([2].into(), &[i32::MIN, i32::MAX])),
        ),
        (element::INT64, of(Tensor::from_values([2].into(), &[-5i64, 1 << 30]))),
        (
            element::FLOAT16,
            of(Tensor::from_values([2].into(), &[f16::from_f32(-1.5), f16::MAX])),
        ),
        (
            element::BFLOAT16,
            of(Tensor::from_values([1].into(), &[bf16::from_f32(0.1)])),
        ),
        (
            element::FLOAT,
            of(Tensor::from_values([2].into(), &[-1.5f32, f32::MAX])),
        ),
        (element::DOUBLE, of(Tensor::from_values([2].into(), &[-1.5f64, 0.25]))),
        (element::STRING, strings(&[b"", b"a\0b", "ä".as_bytes(), &[255, 254]])),
    ]
}

#[test]
fn onnxruntime_passes_every_type_of_the_protocol() {
    let Some(runtime) = require_onnxruntime() else { return };
    for (element, tensor) in every_type() {
        let file = TempFile::new("type", &identity(element, ROW));
        let model = open(&*runtime, &file.0).unwrap();
        let spec = &model.signature().inputs[0];
        assert_eq!(
            (spec.data_type, spec.shape.as_deref()),
            (tensor.data_type(), Some(&[Dim::Dynamic][..]))
        );
        assert_eq!(run(&mut *instance(&*model), [tensor.clone()]).unwrap()[0], tensor);
    }
}

#[test]
fn rten_passes_every_type_that_it_opens_and_refuses_the_others_by_name() {
    let mut passed = 0;
    for (element, tensor) in every_type() {
        let file = TempFile::new("rten-type", &identity(element, ROW));
        match open(&Rten, &file.0) {
            Ok(model) => {
                assert_eq!(model.signature().inputs[0].data_type, tensor.data_type());
                assert_eq!(run(&mut *instance(&*model), [tensor.clone()]).unwrap()[0], tensor);
                passed += 1;
            }
            Err(OpenError::Unsupported { what, help, .. }) => {
                assert!(what.contains("`x`"), "{what}");
                assert!(help.contains("configs/fetch onnxruntime"), "{help}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(passed, 8);
}

#[test]
fn an_int64_that_rten_cannot_hold_is_refused_by_name_and_place() {
    let file = TempFile::new("int64", &identity(element::INT64, ROW));
    let model = open(&Rten, &file.0).unwrap();
    let input = Tensor::from_values([2].into(), &[1i64, 1 << 31]).unwrap();
    let error = run(&mut *instance(&*model), [input]).unwrap_err().to_string();
    assert_eq!(
        error,
        "input `x`: element 1 is 2147483648; rten computes INT64 in 32 bits"
    );
}

#[test]
fn a_bool_that_is_neither_0_nor_1_is_refused() {
    let file = TempFile::new("bool", &identity(element::BOOL, ROW));
    for runtime in runtimes() {
        let model = open(&*runtime, &file.0).unwrap();
        let error = run(&mut *instance(&*model), [bools(&[0, 2])]).unwrap_err().to_string();
        assert!(error.contains("element 1 of a BOOL input is 2"), "{error}");
    }
}

#[test]
fn an_empty_tensor_goes_through() {
    let file = TempFile::new("empty", &identity(element::FLOAT, ROW));
    for runtime in runtimes() {
        let model = open(&*runtime, &file.0).unwrap();
        let empty = Tensor::from_values::<f32>([0].into(), &[]).unwrap();
        assert_eq!(run(&mut *instance(&*model), [empty.clone()]).unwrap()[0], empty);
    }
}

#[test]
fn a_scalar_and_an_unknown_rank_are_told_apart() {
    let scalar = TempFile::new("scalar", &identity(element::FLOAT, Some(&[])));
    let unknown = TempFile::new("unknown-rank", &identity(element::FLOAT, None));
    for runtime in runtimes() {
        let rank = |file: &TempFile| open(&*runtime, &file.0).unwrap().signature().inputs[0].shape.clone();
        assert_eq!(rank(&scalar), Some(vec![]), "{}", runtime.name());
        assert_eq!(rank(&unknown), None, "{}", runtime.name());
    }
}

#[test]
fn an_output_that_is_no_tensor_is_refused_with_a_way_out() {
    let row = tensor(element::FLOAT, ROW);
    let file = TempFile::new("sequence", &model("SequenceConstruct", "", &row, &sequence(&row)));
    for runtime in runtimes() {
        let error = refusal(&*runtime, &file.0);
        assert!(matches!(error, OpenError::Unsupported { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("output `y`") && text.contains("zipmap: False"), "{text}");
    }
}

#[test]
fn an_element_type_that_the_protocol_lacks_is_refused_by_name() {
    let file = TempFile::new("complex", &identity(element::COMPLEX64, ROW));
    for runtime in runtimes() {
        let error = refusal(&*runtime, &file.0);
        let named = |what: &str| what.contains("`x`") || what.contains("complex64");
        assert!(
            matches!(&error, OpenError::Unsupported { what, .. } if named(what)),
            "{error}"
        );
    }
}
