//! Sequences as they travel between nodes.

use std::sync::Arc;
use std::time::Duration;

use grid_core::model::Version;
use grid_core::sequence::Export;
use grid_core::tensor::{Buffer, Tensor};
use grid_core::wire::message;
use grid_core::wire::sequence::{OutcomeHead, SequenceImage, SequenceKey, WantedHead};

use super::actor::States;
use super::message::{AnswerForm, StepOutcome, WantedOutput};
use crate::actors::routes::VersionRoute;
use crate::compute::{Answer, Timing};

/// An outcome that is held for another node, which knows its signature.
#[derive(Clone, Debug)]
pub(super) struct HeldOutcome {
    head: OutcomeHead,
    outputs: Vec<Tensor>,
}

/// What a second node holds.
pub(super) type HeldExport = Export<HeldOutcome, Vec<Tensor>>;

/// What all images of one sequence have in common.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) key: SequenceKey,
    pub(super) version: Version,
    pub(super) open: bool,
    pub(super) life: Duration,
}

fn held(outcome: &StepOutcome, bytes: usize) -> HeldOutcome {
    let wanted = |wanted: &WantedOutput| WantedHead {
        // A signature has no four thousand million outputs.
        index: u32::try_from(wanted.index).unwrap_or(u32::MAX),
        binary: wanted.binary,
        classification: wanted
            .classification
            .map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
    };
    let outputs = outcome
        .result
        .as_ref()
        .map_or(Vec::new(), |answer| answer.outputs.to_vec());
    HeldOutcome {
        head: OutcomeHead {
            id: outcome.form.id.as_deref().map(str::to_owned),
            wanted: outcome.form.wanted.iter().map(wanted).collect(),
            result: match &outcome.result {
                Ok(_) => Ok(u32::try_from(outputs.len()).unwrap_or(u32::MAX)),
                Err(error) => Err(error.clone()),
            },
            bytes: bytes as u64,
        },
        outputs,
    }
}

/// What a home has, in the form that others hold.
pub(super) fn to_held(export: Export<Arc<StepOutcome>, States>) -> HeldExport {
    Export {
        state: export.state.to_vec(),
        kept: export
            .kept
            .iter()
            .map(|(outcome, bytes)| (held(outcome, *bytes), *bytes))
            .collect(),
        token: export.token,
        epoch: export.epoch,
        term: export.term,
        done: export.done,
        ended: export.ended,
    }
}

/// The other way round, for the route of its model; `None` when it is not one of that model.
pub(super) fn from_held(export: HeldExport, route: &VersionRoute) -> Option<Export<Arc<StepOutcome>, States>> {
    let kept = export.kept.into_iter().map(|(held, bytes)| {
        let wanted = held.head.wanted.iter().map(|wanted| {
            let index = usize::try_from(wanted.index).ok()?;
            (index < route.signature.outputs.len()).then(|| WantedOutput {
                index,
                binary: wanted.binary,
                classification: wanted.classification.map(|count| count as usize),
            })
        });
        let outcome = StepOutcome {
            form: AnswerForm {
                model: route.id.clone(),
                signature: Arc::clone(&route.signature),
                id: held.head.id.map(Into::into),
                wanted: wanted.collect::<Option<_>>()?,
            },
            result: held.head.result.map(|_| Answer {
                outputs: held.outputs.into(),
                timing: Timing::default(),
            }),
            sent_by: None,
        };
        Some((Arc::new(outcome), bytes))
    });
    let kept = kept.collect::<Option<Vec<_>>>()?;
    let fits = export.ended || export.state.len() == route.states.len();
    fits.then(|| Export {
        state: export.state.into(),
        kept,
        token: export.token,
        epoch: export.epoch,
        term: export.term,
        done: export.done,
        ended: export.ended,
    })
}

/// Bytes that it takes.
pub(super) fn bytes(export: &HeldExport) -> u64 {
    let of_state: usize = export.state.iter().map(|tensor| tensor.data().len()).sum();
    // What is said of outcomes comes from other nodes.
    let kept = export.kept.iter().map(|(_, bytes)| *bytes);
    kept.fold(of_state, usize::saturating_add) as u64
}

/// The message that carries it, and its body.
pub(super) fn write(label: &Label, oldest: u64, export: &HeldExport) -> (SequenceImage, Vec<Buffer>) {
    let outputs = export.kept.iter().flat_map(|(held, _)| held.outputs.iter());
    let tensors: Vec<Tensor> = export.state.iter().chain(outputs).cloned().collect();
    let (heads, _) = message::lay_out(&tensors);
    let image = SequenceImage {
        key: label.key.clone(),
        version: label.version,
        token: export.token,
        open: label.open,
        life_ms: u64::try_from(label.life.as_millis()).unwrap_or(u64::MAX),
        epoch: export.epoch,
        term: export.term,
        done: export.done,
        ended: export.ended,
        oldest,
        states: u32::try_from(export.state.len()).unwrap_or(u32::MAX),
        outcomes: export.kept.iter().map(|(held, _)| held.head.clone()).collect(),
        tensors: heads,
    };
    (image, tensors.iter().map(|tensor| tensor.data().clone()).collect())
}

/// What a message carries, and what it is of.
///
/// # Errors
/// When head and body contradict each other.
pub(super) fn read(image: SequenceImage, body: &Buffer) -> Result<(Label, u64, HeldExport), String> {
    let tensors = message::tensors(&image.tensors, body).map_err(|error| error.to_string())?;
    // A part of a body keeps all of it.
    let mut tensors = tensors.iter().map(Tensor::compact);
    let mut take = |count: u32| -> Result<Vec<Tensor>, String> {
        let count = count as usize;
        let taken: Vec<Tensor> = tensors.by_ref().take(count).collect();
        match taken.len() == count {
            true => Ok(taken),
            false => Err("it has fewer tensors than it says".to_owned()),
        }
    };
    let state = take(image.states)?;
    let mut kept = Vec::with_capacity(image.outcomes.len());
    for head in image.outcomes {
        let outputs = take(head.result.as_ref().map_or(0, |count| *count))?;
        let bytes = usize::try_from(head.bytes).map_err(|_| "an outcome is too large")?;
        // What is counted is what is there, whatever is said of it.
        let least: usize = outputs.iter().map(|tensor| tensor.data().len()).sum();
        kept.push((HeldOutcome { head, outputs }, bytes.max(least)));
    }
    let label = Label {
        key: image.key,
        version: image.version,
        open: image.open,
        life: Duration::from_millis(image.life_ms),
    };
    let export = Export {
        token: image.token,
        epoch: image.epoch,
        term: image.term,
        state,
        done: image.done,
        kept,
        ended: image.ended,
    };
    Ok((label, image.oldest, export))
}
