//! Files that are no models.

use super::samples::path_of;
use super::tiny::{element, identity, model, tensor};
use super::*;

/// Repeatable noise.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(byte).take(length).collect()
}

#[test]
fn a_file_that_is_no_model_is_refused_with_its_name() {
    for runtime in runtimes() {
        for (name, bytes) in [
            ("empty", vec![]),
            ("text", b"This is no model, it is text.".to_vec()),
            ("zeros", vec![0; 4096]),
            ("noise", noise(7, 4096)),
        ] {
            let file = TempFile::new(name, &bytes);
            let error = refusal(&*runtime, &file.0);
            assert!(matches!(error, OpenError::Invalid { .. }), "{error}");
            assert!(error.to_string().contains(&file.0.display().to_string()), "{error}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_as_that() {
    for runtime in runtimes() {
        for path in [Path::new("no/such/model.onnx"), &std::env::temp_dir()] {
            let error = refusal(&*runtime, path);
            assert!(matches!(error, OpenError::Unreadable { .. }), "{error}");
        }
    }
}

#[test]
fn a_model_cut_off_anywhere_is_refused() {
    let Some(path) = path_of("credit_risk") else { return };
    let whole = std::fs::read(path).unwrap();
    for runtime in runtimes() {
        for end in (1..whole.len()).step_by(97) {
            let file = TempFile::new("cut", &whole[..end]);
            refusal(&*runtime, &file.0);
        }
    }
}

#[test]
fn a_damaged_model_is_opened_or_refused_without_panic() {
    let Some(path) = path_of("credit_risk") else { return };
    let whole = std::fs::read(path).unwrap();
    for runtime in runtimes() {
        for (round, place) in (0..whole.len()).step_by(151).enumerate() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1 << (round % 8);
            let file = TempFile::new("damaged", &damaged);
            let _ = open(&*runtime, &file.0);
        }
    }
}

#[test]
fn an_unknown_operator_is_unsupported_and_named() {
    let row = tensor(element::FLOAT, Some(&[None]));
    let file = TempFile::new("operator", &model("Frobnicate", "", &row, &row));
    for runtime in runtimes() {
        let error = refusal(&*runtime, &file.0);
        assert!(
            matches!(&error, OpenError::Unsupported { what, .. } if what.contains("Frobnicate")),
            "{error}"
        );
    }
}

#[test]
fn rten_tells_the_version_that_is_compiled_in() {
    let lock = std::fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    assert!(lock.contains(&format!("name = \"rten\"\nversion = \"{}.", Rten.version())));
}

#[test]
fn a_model_outlives_the_file_and_the_runtime_that_opened_it() {
    for runtime in runtimes() {
        let file = TempFile::new("gone", &identity(element::FLOAT, Some(&[None])));
        let model = open(&*runtime, &file.0).unwrap();
        drop((file, runtime));
        let input = Tensor::from_values([2].into(), &[1.0f32, 2.0]).unwrap();
        let mut instance = instance(&*model);
        drop(model);
        assert_eq!(run(&mut *instance, [input.clone()]).unwrap()[0], input);
    }
}
