//! What other nodes ask of this one for their sequences.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::Addr;
use grid_core::cluster::NodeId;
use grid_core::sequence::{Ballot, Delta, HoldAnswer};
use grid_core::tensor::{Buffer, Tensor};
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::sequence::{Give, Hold, Seek, Seen, SeenAs, SequenceKey};
use tokio::sync::oneshot;
use tracing::warn;

use super::actor::SessionActor;
use super::copies::NoWord;
use super::image::{self, HeldExport, Label};
use super::keeping::{Depart, Departure, LookAround};
use super::registry::{Key, Life, Sessions};

/// How long a sequence may take to come to a step boundary before whoever wants it asks again.
const BOUNDARY: Duration = Duration::from_millis(1800);

impl Sessions {
    /// Answers a call of another node about a sequence.
    ///
    /// # Errors
    /// When it is refused, for this reason.
    pub(crate) async fn answer(self: &Arc<Self>, call: Call, body: Buffer) -> Result<(Reply, Vec<Buffer>), String> {
        let reply = match call {
            Call::Hold(hold) => Reply::Held(self.hold(*hold, &body)?),
            Call::Release(release) => {
                self.copies.release(&release.key, release.term);
                Reply::Held(HoldAnswer::Held)
            }
            Call::Seek(seek) => Reply::Seen(self.seen(&seek)),
            Call::Vote(vote) => {
                let life = Duration::from_millis(vote.life_ms);
                match self.vote(&vote.key, &vote.ballot, life) {
                    Ok(()) => Reply::Voted(Ok(())),
                    Err(NoWord::Against(term)) => Reply::Voted(Err(term)),
                    Err(NoWord::Full) => return Err("it has given its word as often as it can remember".to_owned()),
                }
            }
            Call::Give(give) => {
                let (label, export) = self.give(give).await.ok_or("it is not here in this form any more")?;
                let oldest = export.done + 1 - export.kept.len() as u64;
                let (image, body) = image::write(&label, oldest, &export);
                return Ok((Reply::Given(Box::new(image)), body));
            }
            _ => return Err("that is no call about a sequence".to_owned()),
        };
        Ok((reply, Vec::new()))
    }

    fn hold(&self, hold: Hold, body: &Buffer) -> Result<HoldAnswer, String> {
        let Hold { home, after, image } = hold;
        let (label, oldest, export) = image::read(image, body)?;
        let lives = self.lives_here(&label.key).map(|(term, _)| term);
        let delta = Delta { after, oldest, export };
        let held = self.copies.hold(&self.budget, &home, label, delta, lives);
        held.inspect_err(|reason| warn!(%home, reason, "a copy of a sequence is refused"))
    }

    pub(super) fn vote(&self, key: &SequenceKey, ballot: &Ballot, life: Duration) -> Result<(), NoWord> {
        // Nobody asks a node for its word that is in no grid.
        let company = self.company().ok_or(NoWord::Full)?;
        let lives = self.lives_here(key).map(|(term, _)| term);
        let counted = company.judge(|others| others.quorum());
        self.copies.vote((&company.own(), &counted), key, ballot, life, lives)
    }

    pub(super) fn keep_handed_over(&self, written: u64, to: NodeId, label: Label, export: HeldExport) {
        if let Some(company) = self.company() {
            let by = (company.own(), written);
            self.copies.keep_handed_over(&self.budget, by, to, label, export);
        }
    }

    /// The term and the actor of a sequence that lives here.
    fn lives_here(&self, key: &SequenceKey) -> Option<(u64, Addr<SessionActor>)> {
        let entry = self.entries.get(&(key.model.clone(), key.id.clone()))?;
        match &entry.life {
            Life::Live { term, addr, .. } if entry.birth == key.birth => {
                Some((term.load(Ordering::Relaxed), addr.clone()))
            }
            _ => None,
        }
    }

    pub(super) fn seen(&self, seek: &Seek) -> Vec<Seen> {
        let key: Key = (seek.model.clone(), seek.id.clone());
        let mut seen = self.copies.seen(&key);
        if let Some(entry) = self.entries.get(&key) {
            let as_what = match &entry.life {
                Life::Live { term, open, token, .. } => {
                    let term = term.load(Ordering::Relaxed);
                    Some((*token, *open, SeenAs::Live { term }))
                }
                Life::Over { grave, .. } if grave.tombstone.has_ended() => {
                    Some((*grave.tombstone.token(), grave.open, SeenAs::Over))
                }
                Life::Over { .. } => None,
            };
            seen.extend(as_what.map(|(token, open, what)| Seen {
                birth: entry.birth,
                token,
                open,
                what,
            }));
        }
        seen
    }

    async fn give(&self, give: Give) -> Option<(Label, HeldExport)> {
        if let Some((term, addr)) = self.lives_here(&give.key) {
            if term != give.seen {
                return None;
            }
            let (reply, given) = oneshot::channel();
            addr.do_send(Depart(Departure::Given {
                to: give.to,
                term: term + 1,
                reply,
            }));
            return tokio::time::timeout(BOUNDARY, given).await.ok()?.ok();
        }
        if let Some(over) = self.over(&give.key) {
            return Some(over);
        }
        let company = self.company()?;
        let may = |home: &NodeId| give.denied || *home == give.to || company.is_lost(home);
        let key = &give.key;
        self.copies.take(key, give.to.clone(), give.seen, give.term, may)
    }

    /// What is remembered of one that has ended.
    fn over(&self, key: &SequenceKey) -> Option<(Label, HeldExport)> {
        let entry = self.entries.get(&(key.model.clone(), key.id.clone()))?;
        match &entry.life {
            Life::Over { grave, .. } if entry.birth == key.birth && grave.tombstone.has_ended() => {
                let export = image::to_held(grave.tombstone.export(smallvec::SmallVec::<[Tensor; 2]>::new()));
                let label = Label {
                    key: key.clone(),
                    version: entry.version,
                    open: grave.open,
                    life: grave.life,
                };
                Some((label, export))
            }
            _ => None,
        }
    }

    fn actors(&self) -> Vec<Addr<SessionActor>> {
        let live = |life: &Life| match life {
            Life::Live { addr, .. } => Some(addr.clone()),
            Life::Over { .. } => None,
        };
        self.entries.iter().filter_map(|entry| live(&entry.life)).collect()
    }

    /// The nodes of the grid are others than before: each sequence looks whether its copy is still where it should be.
    pub(crate) fn look_around(&self) {
        for actor in self.actors() {
            actor.do_send(LookAround);
        }
    }

    /// This node leaves: nothing begins here any more, and each sequence stops at a step boundary, with its copy as it is.
    /// Nothing is stopped that no other node could go on with.
    pub(crate) async fn leave(&self) {
        let Some(company) = self.company() else { return };
        if company.reached().is_empty() {
            return;
        }
        self.leaving.store(true, Ordering::Relaxed);
        let left = self.actors().into_iter().map(|actor| {
            let (left, gone) = oneshot::channel();
            actor.do_send(Depart(Departure::Left(left)));
            gone
        });
        futures_util::future::join_all(left.collect::<Vec<_>>()).await;
    }
}
