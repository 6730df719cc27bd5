//! The promises of `model.toml`.

use super::*;
use crate::model::{Signature, TensorSpec};

fn manifest(text: &str) -> Manifest {
    Manifest::parse("model.toml", text).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn shown(problems: Vec<Diagnostic>) -> Vec<String> {
    problems.iter().map(Diagnostic::to_string).collect()
}

fn wrong(text: &str) -> Vec<String> {
    shown(Manifest::parse("model.toml", text).expect_err(text))
}

fn spec(name: &str, data_type: DataType, sizes: &[i64]) -> TensorSpec {
    let dim = |size: &i64| usize::try_from(*size).map_or(Dim::Dynamic, Dim::Fixed);
    TensorSpec {
        name: name.to_owned(),
        data_type,
        shape: Some(sizes.iter().map(dim).collect()),
    }
}

/// A recurrent model as they come: a chunk and a state in, a score and the next state out.
fn recurrent() -> Signature {
    Signature {
        inputs: vec![
            spec("input", DataType::Fp32, &[-1, -1]),
            spec("state", DataType::Fp32, &[2, -1, 128]),
            spec("step", DataType::Int64, &[]),
        ],
        outputs: vec![
            spec("output", DataType::Fp32, &[-1, 1]),
            spec("stateN", DataType::Fp32, &[-1, -1, -1]),
            spec("stepN", DataType::Int64, &[]),
        ],
    }
}

fn disagreement(text: &str) -> Vec<String> {
    shown(manifest(text).check("model.toml", &recurrent()).expect_err(text))
}

#[test]
fn an_empty_manifest_is_the_default() {
    assert_eq!(manifest("# nothing\n"), Manifest::default());
    assert_eq!(Manifest::default().instances, None);
    assert_eq!(Manifest::default().batching.max_batch_size, 0);
}

#[test]
fn every_key_is_read() {
    let text = r#"
        description = "d"
        default_version = 2
        replicas = "every node"
        instances = 3
        runtime = "rten"
        weight = 250
        threads_per_run = 2
        sharding = "replicated"
        [batching]
        max_batch_size = 32
        max_queue_delay = "2ms"
        shared = ["rate"]
        [limits]
        queue = 5
        timeout = "1s"
        memory = "10MiB"
        sequences = 9
        sequence_life = "3s"
        sequence_copies = 1
        [[warm_up]]
        [[warm_up]]
        rows = 4
        count = 2
        dims = { "input ids" = [1, 512], mask = [] }
        [[input]]
        name = "x"
        datatype = "FP32"
        shape = [-1, 4]
        [[output]]
        name = "y"
    "#;
    let found = manifest(text);
    let dims = [("input ids".to_owned(), vec![1, 512]), ("mask".to_owned(), vec![])];
    let expected = Manifest {
        description: Some("d".to_owned()),
        default_version: Some(2),
        replicas: ReplicaCount::EveryNode,
        instances: Some(3),
        runtime: Some("rten".to_owned()),
        weight: 250,
        threads_per_run: 2,
        sharding: Sharding::Replicated,
        batching: Batching {
            max_batch_size: 32,
            max_queue_delay: Duration::from_millis(2),
            shared: vec!["rate".to_owned()],
        },
        limits: ModelLimits {
            queue: Some(5),
            timeout: Some(Duration::from_secs(1)),
            memory: Some(10 << 20),
            sequences: Some(9),
            sequence_life: Some(Duration::from_secs(3)),
            sequence_copies: Some(1),
        },
        states: Vec::new(),
        warm_ups: vec![
            WarmUp::default(),
            WarmUp {
                rows: 4,
                count: 2,
                dims: dims.into(),
            },
        ],
        inputs: vec![DeclaredTensor {
            name: "x".to_owned(),
            data_type: Some(DataType::Fp32),
            shape: Some(vec![Dim::Dynamic, Dim::Fixed(4)]),
        }],
        outputs: vec![DeclaredTensor {
            name: "y".to_owned(),
            data_type: None,
            shape: None,
        }],
        places: Places::default(),
        written: Written::default(),
    };
    assert_eq!(found, expected);
}

#[test]
fn states_are_read_with_their_defaults() {
    let found =
        manifest("[[state]]\ninput = 'a'\noutput = 'b'\n[[state]]\ninput='c'\noutput='d'\ninitial=-1\nshape=[2]");
    let state = |input: &str, output: &str, initial, shape| StateTensor {
        input: input.to_owned(),
        output: output.to_owned(),
        initial,
        shape,
        batch_axis: 0,
    };
    assert_eq!(
        found.states,
        [state("a", "b", 0.0, None), state("c", "d", -1.0, Some(vec![2]))]
    );
}

#[test]
fn what_is_wrong_with_the_text_alone_is_told_by_line_and_key() {
    let cases: &[(&str, &str)] = &[
        (
            "instances = 0",
            "1: instances: expected a whole number from 1 to 1024, found the integer 0",
        ),
        (
            "instances = 1025",
            "1: instances: expected a whole number from 1 to 1024, found the integer 1025",
        ),
        (
            "instance = 2",
            "1: instance: unknown key; expected one of `description`, `default_version`, `instances`, `replicas`, \
                          `runtime`, `weight`, `threads_per_run`, `sharding`, `batching`, `limits`, `state`, `warm_up`, \
                          `input`, `output`; did you mean `instances`?",
        ),
        (
            "default_version = 0",
            "1: default_version: expected a whole number from 1 to 18446744073709551615, \
                                 found the integer 0",
        ),
        (
            "sharding = \"partitioned\"",
            "1: sharding: \"partitioned\" is not supported by this version; \
                                        expected \"replicated\"",
        ),
        (
            "sharding = \"replicate\"",
            "1: sharding: expected one of \"replicated\", \"partitioned\", \"pipelined\", \
                                      found \"replicate\"; did you mean `replicated`?",
        ),
        (
            "[state]\ninput = 'a'",
            "1: state: expected tables, each written `[[state]]`, found a table",
        ),
        (
            "[[state]]\ninput = 'a'",
            "1: state[0].output: missing; expected the name of an output",
        ),
        (
            "[[warm_up]]\n[[warm_up]]\nrow = 1",
            "3: warm_up[1].row: unknown key; expected one of `rows`, `count`, `dims`; \
                                               did you mean `rows`?",
        ),
        (
            "[[warm_up]]\ndims = { x = [1, -1] }",
            "2: warm_up[0].dims.x: expected a whole number from 0 to 268435456, \
                                                 found the integer -1",
        ),
        (
            "[[warm_up]]\ndims = { x = [268435456, 268435456, 268435456] }",
            "2: warm_up[0].dims.x: expected at most \
            268435456 elements, found the shape [268435456, 268435456, 268435456]",
        ),
        (
            "[[input]]\nname = 'x'\ndatatype = 'FP23'",
            "3: input[0].datatype: expected one of \"BOOL\", \"UINT8\", \
            \"UINT16\", \"UINT32\", \"UINT64\", \"INT8\", \"INT16\", \"INT32\", \"INT64\", \"FP16\", \"BF16\", \"FP32\", \
            \"FP64\", \"BYTES\", found \"FP23\"; did you mean `FP32`?",
        ),
        (
            "[[input]]\nname = 'x'\n[[input]]\nname = 'x'",
            "4: input[1].name: expected each tensor once, \
                                                          found \"x\" a second time",
        ),
        (
            "[batching]\nmax_queue_delay = '2m'",
            "2: batching.max_queue_delay: expected a duration of at most 1m, \
                                                found \"2m\"",
        ),
        (
            "[limits]\nsequences = 0",
            "2: limits.sequences: expected a whole number from 1 to 10000000, found the integer 0",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(wrong(text), [format!("model.toml:{expected}")], "{text}");
    }
}

#[test]
fn a_manifest_that_agrees_with_the_file_passes() {
    let text = r#"
        [[state]]
        input = "state"
        output = "stateN"
        shape = [2, 1, 128]
        initial = 0.0
        [[state]]
        input = "step"
        output = "stepN"
        [[input]]
        name = "input"
        datatype = "FP32"
        shape = [-1, -1]
        [[warm_up]]
        dims = { input = [1, 512] }
    "#;
    assert_eq!(manifest(text).check("model.toml", &recurrent()), Ok(()));
    assert_eq!(Manifest::default().check("model.toml", &recurrent()), Ok(()));
}

#[test]
fn a_name_type_or_shape_that_is_not_the_files_is_told_with_both() {
    assert_eq!(
        disagreement("[[input]]\nname = 'inputs'"),
        [
            "model.toml:2: input[0].name: expected one of \"input\", \"state\", \"step\", the names in the model file, \
          found \"inputs\"; did you mean `input`?"
        ]
    );
    assert_eq!(
        disagreement("[[output]]\nname = 'output'\ndatatype = 'FP64'\nshape = [-1, 2]"),
        [
            "model.toml:3: output[0].datatype: expected \"FP32\", the type in the model file, found \"FP64\"",
            "model.toml:4: output[0].shape: expected [-1, 1], the shape in the model file, found [-1, 2]",
        ]
    );
    assert_eq!(
        disagreement("[[warm_up]]\n[warm_up.dims]\ninput = [1]\nimput = [1]"),
        [
            "model.toml:3: warm_up[0].dims.input: expected a shape that fits [-1, -1], found [1]",
            "model.toml:4: warm_up[0].dims.imput: expected one of \"input\", \"state\", \"step\", the names in the model \
             file, found \"imput\"; did you mean `input`?",
        ]
    );
}

#[test]
fn a_state_must_come_out_as_it_goes_in() {
    assert_eq!(
        disagreement("[[state]]\ninput = 'state'\noutput = 'output'\nshape = [2, 1, 128]"),
        [
            "model.toml:3: state[0].output: expected an output that fits the input \"state\" of FP32 [2, -1, 128], \
          found \"output\" of FP32 [-1, 1]"
        ]
    );
    assert_eq!(
        disagreement("[[state]]\ninput = 'step'\noutput = 'stateN'"),
        [
            "model.toml:3: state[0].output: expected an output that fits the input \"step\" of INT64 [], \
          found \"stateN\" of FP32 [-1, -1, -1]"
        ]
    );
    assert_eq!(
        disagreement("[[state]]\ninput = 'state'\noutput = 'stateN'\nshape = [2, 1]"),
        ["model.toml:4: state[0].shape: expected one that fits [2, -1, 128], the shape of \"state\", found [2, 1]"]
    );
    assert_eq!(
        disagreement("[[state]]\ninput = 'state'\noutput = 'stateN'"),
        [
            "model.toml:1: state[0].shape: missing; expected the shape at the start, since the model file leaves \"state\" \
          open as [2, -1, 128]"
        ]
    );
    assert_eq!(
        disagreement("[[state]]\ninput = 'step'\noutput = 'stepN'\ninitial = 0.5"),
        ["model.toml:4: state[0].initial: expected a value of INT64, the type of \"step\", found 0.5"]
    );
    let twice = "[[state]]\ninput = 'step'\noutput = 'stepN'\n";
    assert_eq!(
        disagreement(&format!("{twice}{twice}")),
        [
            "model.toml:5: state[1].input: expected each tensor in one `[[state]]`, found \"step\" a second time",
            "model.toml:6: state[1].output: expected each tensor in one `[[state]]`, found \"stepN\" a second time",
        ]
    );
}

#[test]
fn batching_is_refused_where_requests_cannot_be_stacked() {
    assert_eq!(
        disagreement("[batching]\nmax_batch_size = 8"),
        [
            "model.toml:2: batching.max_batch_size: expected 0 (requests cannot be stacked: the first size of \"state\" is \
          not open in its shape [2, -1, 128]), found the integer 8"
        ]
    );
    let rows = spec("x", DataType::Fp32, &[-1, 4]);
    let stackable = Signature {
        inputs: vec![rows.clone()],
        outputs: vec![rows],
    };
    assert_eq!(
        manifest("[batching]\nmax_batch_size = 8").check("model.toml", &stackable),
        Ok(())
    );
}

#[test]
fn an_initial_value_fits_its_type_or_is_refused() {
    let check = |data_type, initial: &str| {
        let tensor = spec("s", data_type, &[1]);
        let signature = Signature {
            inputs: vec![tensor.clone()],
            outputs: vec![tensor],
        };
        manifest(&format!("[[state]]\ninput='s'\noutput='s'\ninitial={initial}")).check("model.toml", &signature)
    };
    for (data_type, good, bad) in [
        (DataType::Bool, "1", "2"),
        (DataType::Uint8, "255", "-1"),
        (DataType::Int8, "-128", "128"),
        (DataType::Int64, "-9223372036854775808", "9223372036854775808"),
        (DataType::Fp16, "65504", "70000"),
        (DataType::Fp32, "-inf", "1e39"),
        (DataType::Uint32, "0.0", "inf"),
    ] {
        assert_eq!(check(data_type, good), Ok(()), "{data_type} {good}");
        assert!(check(data_type, bad).is_err(), "{data_type} {bad}");
    }
    assert!(check(DataType::Bytes, "0").is_err());
}
