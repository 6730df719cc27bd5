//! A sequence that is wanted here and lives elsewhere, or did, is sought and brought here.

use std::time::Duration;

use grid_core::InferError;
use grid_core::cluster::{NodeId, NodeName};
use grid_core::sequence::{Ballot, Export, Keeper, Search, Seen, Sequence, TakeOver, Token, Verdict};
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::sequence::{Give, Seek, SequenceKey};
use tokio::time::{Instant, sleep};

use super::answers::export_of;
use super::{LIMITS, Name, Node, refused};

/// How long a caller waits for a sequence that cannot be brought yet.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two attempts. The product's is shorter; here each one takes a person's time.
const AGAIN: Duration = Duration::from_millis(200);

/// Why an attempt brought nothing.
enum Short {
    /// It is certain.
    Never(InferError),
    /// The next one may.
    NotYet(String),
}

impl Node {
    /// Sees to it that a sequence is here, if it is anywhere.
    pub(super) async fn bring(&self, name: &Name, token: Option<Token>) -> Result<(), InferError> {
        let give_up = Instant::now() + PATIENCE;
        let mut reason = "it is being brought here already".to_owned();
        while Instant::now() < give_up {
            if self.0.core.borrow().sequences.homes.contains_key(name) {
                return Ok(());
            }
            let is_first = self.0.core.borrow_mut().sequences.bringing.insert(name.clone());
            if is_first {
                let brought = self.try_to_bring(name, token).await;
                self.0.core.borrow_mut().sequences.bringing.remove(name);
                match brought {
                    Ok(()) => return Ok(()),
                    Err(Short::Never(error)) => return Err(error),
                    Err(Short::NotYet(why)) => reason = why,
                }
            }
            sleep(AGAIN).await;
        }
        let model = name.0.to_string();
        Err(InferError::NotReady { model, reason })
    }

    async fn try_to_bring(&self, name: &Name, token: Option<Token>) -> Result<(), Short> {
        let (answers, is_complete) = self.seek(name).await;
        let verdict = {
            let core = &mut *self.0.core.borrow_mut();
            self.judge(core, |sequences, others| {
                let search = Search {
                    own: &sequences.own,
                    others,
                    answers: &answers,
                    is_complete,
                    token,
                };
                search.verdict()
            })
        };
        let key = |birth: u64| SequenceKey {
            model: name.0.clone(),
            id: name.1.clone(),
            birth,
        };
        match verdict {
            Verdict::HandOver { birth, at, term } => self.hand_over(key(birth), &at, term).await,
            Verdict::TakeOver(found) => self.take_over(key(found.birth), found).await,
            // No simulated sequence ends.
            Verdict::Ended { .. } => Err(Short::NotYet("it has ended".into())),
            Verdict::Never(error) => Err(Short::Never(refused(name, error))),
            Verdict::NotYet(why) => Err(Short::NotYet(why.into())),
        }
    }

    async fn seek(&self, (model, id): &Name) -> (Vec<(NodeName, Vec<Seen>)>, bool) {
        let seek = Seek {
            model: model.clone(),
            id: id.clone(),
        };
        let mut answers = vec![(self.0.machine.name.clone(), self.seen(&seek))];
        let mut is_complete = {
            let core = &mut *self.0.core.borrow_mut();
            self.judge(core, |_, others| others.reaches_all())
        };
        for (name, answer) in self.ask_all(&Call::Seek(seek)).await {
            match answer {
                Some(Reply::Seen(seen)) => answers.push((name, seen)),
                _ => is_complete = false,
            }
        }
        (answers, is_complete)
    }

    /// From a home that lives.
    async fn hand_over(&self, key: SequenceKey, at: &NodeName, term: u64) -> Result<(), Short> {
        let own = self.0.core.borrow().sequences.own.clone();
        let export = self
            .ask_to_give(at, Give::of_home(key.clone(), own.clone(), term))
            .await?;
        let giver = self.id_of(at);
        if let Some(giver) = &giver {
            // It may have given what was taken over from it meanwhile.
            let ballot = Ballot::of_home(export.term, own, term, giver.clone());
            self.have_words(&key, &ballot, export.done).await?;
        }
        self.0.core.borrow_mut().sequences.goes_on_from(&key, term);
        self.settle(key, export, giver)
    }

    /// From the copy of a home that is lost.
    async fn take_over(&self, key: SequenceKey, found: TakeOver) -> Result<(), Short> {
        let own = self.0.core.borrow().sequences.own.clone();
        let (at, term) = (&found.at, found.ballot.term);
        let is_ours = *at == own.name;
        let export = match is_ours {
            true => {
                let taken = self.take_copy(&key, own, found.seen, term, found.denied);
                taken.ok_or_else(|| Short::NotYet("its copy has changed meanwhile".into()))?
            }
            false => {
                let give = Give {
                    key: key.clone(),
                    to: own,
                    seen: found.seen,
                    term,
                    denied: found.denied,
                };
                self.ask_to_give(at, give).await?
            }
        };
        self.have_words(&key, &found.ballot, export.done).await?;
        let holder = self.id_of(at).filter(|_| !is_ours);
        let from = found.ballot.from;
        self.0.core.borrow_mut().sequences.goes_on_from(&key, from);
        self.settle(key.clone(), export, holder)?;
        if is_ours {
            self.release(&key, term);
        }
        Ok(())
    }

    /// It lives here from now on; `has` is the node that has all of it, too.
    fn settle(&self, key: SequenceKey, export: Export<u64, u64>, has: Option<NodeId>) -> Result<(), Short> {
        let (term, done) = (export.term, export.done);
        let has = {
            let core = &mut *self.0.core.borrow_mut();
            self.judge(core, |_, others| has.filter(|node| others.is_there(node)))
        };
        let keeper = Keeper::new(term, has.map(|node| (node, done)));
        let opened = self.open(key, Sequence::import(export, LIMITS), keeper);
        opened.map_err(|error| Short::NotYet(error.to_string()))
    }

    async fn have_words(&self, key: &SequenceKey, ballot: &Ballot, done: u64) -> Result<(), Short> {
        match self.ask_for_words(key, ballot, done).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Short::NotYet("too few nodes give their word".into())),
            Err(term) => Err(Short::NotYet(format!("another node asked for term {term} of it"))),
        }
    }

    async fn ask_to_give(&self, at: &NodeName, give: Give) -> Result<Export<u64, u64>, Short> {
        let key = give.key.clone();
        let given = match self.ask_for_sequence(at, &Call::Give(give), Vec::new()).await {
            Some((Reply::Given(image), body)) if image.key == key => export_of(&image, &body),
            Some((Reply::Refused(why), _)) => return Err(Short::NotYet(why)),
            _ => None,
        };
        given.ok_or_else(|| Short::NotYet(format!("{at} does not give it")))
    }

    fn id_of(&self, name: &NodeName) -> Option<NodeId> {
        let core = self.0.core.borrow();
        core.agent.view().node(name).map(|node| node.id.clone())
    }
}
