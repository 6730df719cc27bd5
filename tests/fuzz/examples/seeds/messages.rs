//! Calls and replies, with their bodies.

use std::error::Error;
use std::time::Duration;

use grid_core::InferError;
use grid_core::agent::{Answer, Ask};
use grid_core::artifact::{ChunkRequest, ListedFile, Listing};
use grid_core::cluster::Digest;
use grid_core::model::{Dim, Signature, TensorSpec};
use grid_core::sequence::{Ballot, HoldAnswer, SequenceError, Token};
use grid_core::tensor::{ALL_DATA_TYPES, AlignedBytes, DataType, Shape, Tensor, append_string};
use grid_core::wire::call::{Call, Description, Infer, LoadReport, Reply, SequenceCall, Times, Topology};
use grid_core::wire::codec::encode;
use grid_core::wire::message::{lay_out, next_offset};
use grid_core::wire::sequence::{
    Give, Hold, OutcomeHead, Release, Seek, Seen, SeenAs, SequenceImage, SequenceKey, Vote, WantedHead,
};
use grid_fuzz::input::piece;

use crate::agents::node;
use crate::{Add, Result, id, model};

fn tensor(data_type: DataType, dims: &[usize]) -> Result<Tensor> {
    let shape = Shape::new(dims);
    let count = shape.elements().ok_or("a small shape")?;
    let mut bytes = AlignedBytes::default();
    for index in 0..count {
        match data_type.size() {
            Some(size) => bytes.extend_from_slice(&vec![u8::try_from(index % 2)?; size]),
            None => append_string(&mut bytes, format!("text {index}").as_bytes()),
        }
    }
    Ok(Tensor::new(data_type, shape, bytes.freeze())?)
}

/// The bytes of tensors as they lie in a message's body.
fn body(tensors: &[Tensor]) -> Vec<u8> {
    let mut body = Vec::new();
    for tensor in tensors.iter().filter(|tensor| !tensor.data().is_empty()) {
        body.resize(next_offset(body.len()).expect("a short one"), 0);
        body.extend(tensor.data().as_slice());
    }
    body
}

pub(crate) fn seeds(add: Add<'_>) -> Result {
    let some = [
        tensor(DataType::Fp32, &[1, 3])?,
        tensor(DataType::Bytes, &[2])?,
        tensor(DataType::Int8, &[0, 4])?,
        tensor(DataType::Uint64, &[])?,
    ];
    let (heads, _) = lay_out(&some);
    let every = ALL_DATA_TYPES.map(|data_type| tensor(data_type, &[2, 1]));
    let every = every.into_iter().collect::<Result<Vec<_>>>()?;
    let token = Token::new(7);
    let key = SequenceKey {
        model: "vitals".parse()?,
        id: "bed-7".parse()?,
        birth: 9,
    };
    let outcome = |result| OutcomeHead {
        id: Some("r1".to_owned()),
        wanted: vec![WantedHead {
            index: 0,
            binary: true,
            classification: Some(3),
        }],
        result,
        bytes: 100,
    };
    let image = SequenceImage {
        key: key.clone(),
        version: 1,
        token,
        open: true,
        life_ms: 60_000,
        epoch: 2,
        term: 3,
        done: 4,
        ended: false,
        oldest: 3,
        states: 2,
        outcomes: vec![outcome(Ok(2)), outcome(Err(InferError::Cancelled))],
        tensors: heads.clone(),
    };
    let infer = |inputs| {
        Ok::<_, Box<dyn Error>>(Infer {
            model: model("digits")?,
            interface: Digest([3; 32]),
            inputs,
            priority: 1,
            parts: true,
        })
    };
    let ballot = Ballot {
        term: 5,
        by: id("a", 1)?,
        from: 4,
        writer: id("b", 2)?,
        deny: [("c".parse()?, 4)].into(),
        void: 3,
    };
    let calls = [
        ("infer", Call::Infer(infer(heads.clone())?), &some[..]),
        ("infer-every-type", Call::Infer(infer(lay_out(&every).0)?), &every[..]),
        (
            "agent",
            Call::Agent {
                to: id("b", 2)?,
                ask: Ask::Snapshots(vec!["c".parse()?]),
            },
            &[],
        ),
        ("describe", Call::Describe(model("digits")?), &[]),
        ("listing", Call::Listing(Digest([1; 32])), &[]),
        (
            "chunk",
            Call::Chunk(ChunkRequest {
                content: Digest([1; 32]),
                file: 1,
                offset: 1 << 20,
                length: 1 << 18,
            }),
            &[],
        ),
        (
            "topology",
            Call::Topology {
                known: Some(Digest([2; 32])),
            },
            &[],
        ),
        (
            "sequence",
            Call::Sequence(SequenceCall {
                model: "vitals".parse()?,
                version: Some(1),
                id: "bed-7".parse()?,
                start: true,
                end: false,
                number: 1,
                token: Some(token),
                names: vec!["sample".to_owned()],
                inputs: lay_out(&some[..1]).0,
            }),
            &some[..1],
        ),
        (
            "hold",
            Call::Hold(Box::new(Hold {
                home: id("a", 1)?,
                after: Some(3),
                image: image.clone(),
            })),
            &some[..],
        ),
        (
            "release",
            Call::Release(Release {
                key: key.clone(),
                term: 3,
            }),
            &[],
        ),
        (
            "seek",
            Call::Seek(Seek {
                model: "vitals".parse()?,
                id: "bed-7".parse()?,
            }),
            &[],
        ),
        (
            "give",
            Call::Give(Give {
                key: key.clone(),
                to: id("b", 1)?,
                seen: 3,
                term: 4,
                denied: true,
            }),
            &[],
        ),
        (
            "vote",
            Call::Vote(Vote {
                key,
                ballot,
                life_ms: 60_000,
            }),
            &[],
        ),
    ];
    for (name, call, tensors) in calls {
        add(
            "calls",
            &format!("call-{name}"),
            [piece(&encode(&call)), body(tensors)].concat(),
        );
    }
    let load = LoadReport {
        in_flight: 1,
        instances: 2,
        service_us: 300,
    };
    let listing = listing()?;
    let seen = |what| Seen {
        birth: 9,
        token,
        open: false,
        what,
    };
    let replies = [
        ("part", Reply::Part { outputs: heads.clone() }, &some[..]),
        (
            "done",
            Reply::Done {
                outputs: heads.clone(),
                times: Times {
                    queued: 1,
                    computed: 300,
                    rows: 2,
                },
                load,
            },
            &some[..],
        ),
        (
            "failed",
            Reply::Failed {
                error: InferError::Overloaded {
                    model: model("digits")?,
                    reason: "the queue is full".to_owned(),
                    retry_after: Duration::from_millis(20),
                },
                may_have_run: false,
                load,
            },
            &[],
        ),
        (
            "not-owner",
            Reply::NotOwner {
                hint: vec!["c".parse()?],
            },
            &[],
        ),
        ("agent", Reply::Agent(Answer::Snapshots(vec![node("b", 1, 3)?])), &[]),
        (
            "description",
            Reply::Description(Box::new(Description {
                model: model("vitals")?,
                interface: Digest([3; 32]),
                signature: Signature {
                    inputs: vec![TensorSpec {
                        name: "sample".to_owned(),
                        data_type: DataType::Fp32,
                        shape: Some(vec![Dim::Dynamic, Dim::Fixed(3)]),
                    }],
                    outputs: Vec::new(),
                },
                manifest: "weight = 3".to_owned(),
                runtime: "rten".to_owned(),
                instances: 2,
                in_parts: false,
                content: Digest([4; 32]),
            })),
            &[],
        ),
        ("listing", Reply::Listing(listing.encode()), &[]),
        ("chunk", Reply::Chunk, &some[..1]),
        ("refused", Reply::Refused("no".to_owned()), &[]),
        (
            "topology",
            Reply::Topology(Some(Box::new(Topology {
                digest: Digest([2; 32]),
                nodes: vec![node("a", 1, 2)?, node("b", 1, 3)?],
            }))),
            &[],
        ),
        (
            "told",
            Reply::Told {
                number: 3,
                durable: 2,
                token: Some(token),
                names: vec!["score".to_owned()],
                outputs: Ok(lay_out(&some[..1]).0),
            },
            &some[..1],
        ),
        (
            "told-of-failure",
            Reply::Told {
                number: 3,
                durable: 2,
                token: None,
                names: Vec::new(),
                outputs: Err(InferError::Sequence {
                    id: "bed-7".parse()?,
                    error: SequenceError::Ended { last: 2 },
                }),
            },
            &[],
        ),
        ("held", Reply::Held(HoldAnswer::Held), &[]),
        (
            "seen",
            Reply::Seen(vec![
                seen(SeenAs::Live { term: 3 }),
                seen(SeenAs::Over),
                seen(SeenAs::Terms {
                    promised: 3,
                    began: 2,
                    saw: 1,
                }),
                seen(SeenAs::Copy {
                    home: id("a", 1)?,
                    term: 3,
                    written: 2,
                    writer: id("b", 1)?,
                    done: 4,
                }),
            ]),
            &[],
        ),
        ("given", Reply::Given(Box::new(image)), &some[..]),
        ("voted", Reply::Voted(Err(7)), &[]),
    ];
    for (name, reply, tensors) in replies {
        add(
            "calls",
            &format!("reply-{name}"),
            [piece(&encode(&reply)), body(tensors)].concat(),
        );
    }
    add("calls", "body-listing", [piece(&[]), listing.encode()].concat());
    Ok(())
}

fn listing() -> Result<Listing> {
    let file = |path: &str, bytes, content: &[u8]| {
        Ok::<_, Box<dyn Error>>(ListedFile {
            path: path.parse()?,
            bytes,
            digest: Digest::of(content),
        })
    };
    Ok(Listing::new(vec![
        file("model.toml", 0, b"")?,
        file("version/model.onnx", 300, b"weights")?,
        file("version/data/weights.bin", 1 << 33, b"more weights")?,
    ])?)
}
