//! A sequence that is wanted here and lives elsewhere, or did: it is sought, and brought here.
//!
//! From a home that lives it is handed over at a step boundary. From the copy of a home that is lost it is taken over: more
//! than half of the nodes must have been asked who has it, and give their word that no home of an earlier term goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use grid_core::InferError;
use grid_core::cluster::NodeName;
use grid_core::model::{ModelId, ModelName};
use grid_core::sequence::{Ballot, Delta, Keeper, Search, SeenAs, SequenceId, TakeOver, Token, Tombstone, Verdict};
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::sequence::{Give, Seek, Seen, SequenceKey};
use tracing::{debug, info};

use super::actor::Inherited;
use super::company::Company;
use super::image::{self, HeldExport, Label};
use super::registry::{Brought, Grave, Key, Origin, Sessions, leaves, refused};
use crate::actors::router::RouterHandle;

/// How long a caller waits for a sequence that cannot be brought yet: until a killed home is known to be gone, but not until
/// a frozen one is taken to be down.
const PATIENCE: Duration = Duration::from_secs(3);

/// Between two attempts.
const AGAIN: Duration = Duration::from_millis(40);

/// Why an attempt brought nothing.
enum Short {
    /// It is certain.
    Never(InferError),
    /// The next one may.
    NotYet(String),
}

impl Sessions {
    /// Sees to it that a sequence is here, if it is anywhere. Quick where it is.
    ///
    /// # Errors
    /// When there is none, its token is another, or it cannot be had now.
    pub async fn bring(
        self: &Arc<Self>,
        router: &RouterHandle,
        model: &ModelName,
        id: &SequenceId,
        token: Option<Token>,
    ) -> Result<(), InferError> {
        let key: Key = (model.clone(), id.clone());
        let Some(company) = self.company() else { return Ok(()) };
        if self.entries.contains_key(&key) {
            return Ok(());
        }
        // It would be taken from where it can stay.
        if self.leaving.load(Ordering::Relaxed) {
            return Err(leaves(model));
        }
        let give_up = Instant::now() + PATIENCE;
        let mut reason = "it is being brought here already".to_owned();
        while Instant::now() < give_up {
            if self.entries.contains_key(&key) {
                return Ok(());
            }
            if self.bringing.insert(key.clone(), ()).is_none() {
                let _done = Bringing(self, &key);
                match self.try_to_bring(company, router, &key, token).await {
                    Ok(()) => return Ok(()),
                    Err(Short::Never(error)) => return Err(error),
                    Err(Short::NotYet(why)) => reason = why,
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(InferError::NotReady {
            model: model.to_string(),
            reason: format!("sequence `{id}`: {reason}"),
        })
    }

    async fn try_to_bring(
        self: &Arc<Self>,
        company: &Company,
        router: &RouterHandle,
        key: &Key,
        token: Option<Token>,
    ) -> Result<(), Short> {
        let own = company.own();
        let (answers, is_complete) = self.seek(company, &own.name, key).await;
        let verdict = company.judge(|others| {
            let search = Search {
                own: &own,
                others,
                answers: &answers,
                is_complete,
                token,
            };
            search.verdict()
        });
        let wire = |birth: u64| SequenceKey {
            model: key.0.clone(),
            id: key.1.clone(),
            birth,
        };
        match verdict {
            Verdict::HandOver { birth, at, term } => self.hand_over(company, router, wire(birth), &at, term).await,
            Verdict::Ended { birth, at } => {
                let give = Give::of_home(wire(birth), own, 0);
                let (label, export) = self.ask_to_give(company, &at, give).await?;
                self.settle_here(router, label, export, None)
            }
            Verdict::TakeOver(found) => self.take_over(company, router, wire(found.birth), found).await,
            Verdict::Never(error) => Err(Short::Never(refused(&key.1, error))),
            Verdict::NotYet(why) => Err(Short::NotYet(why.to_owned())),
        }
    }

    /// A caller without a token starts a sequence over: what the name stood for on other nodes ends, as it does here.
    pub(super) async fn end_elsewhere(self: &Arc<Self>, key: &Key) {
        let Some(company) = self.company() else { return };
        let own = company.own();
        let (answers, _) = self.seek(company, &own.name, key).await;
        let others = answers.into_iter().filter(|(name, _)| *name != own.name);
        let all: Vec<(NodeName, Seen)> = others
            .flat_map(|(name, seen)| seen.into_iter().map(move |seen| (name.clone(), seen)))
            .filter(|(_, seen)| seen.open && !matches!(seen.what, SeenAs::Terms { .. }))
            .collect();
        for (name, seen) in all {
            let wire = SequenceKey {
                model: key.0.clone(),
                id: key.1.clone(),
                birth: seen.birth,
            };
            if let SeenAs::Live { term } = seen.what {
                // What it gives is dropped; should it not, the name stands for the later one nevertheless.
                let _ = self
                    .ask_to_give(company, &name, Give::of_home(wire.clone(), own.clone(), term))
                    .await;
            }
            if let Some(peer) = company.peers.get(&name) {
                self.release_at(peer.id.clone(), wire, u64::MAX);
            }
        }
    }

    /// From a home that lives.
    async fn hand_over(
        self: &Arc<Self>,
        company: &Company,
        router: &RouterHandle,
        key: SequenceKey,
        at: &NodeName,
        term: u64,
    ) -> Result<(), Short> {
        let own = company.own();
        let give = Give::of_home(key.clone(), own.clone(), term);
        let (label, export) = self.ask_to_give(company, at, give).await?;
        let giver = company.peers.get(at).map(|peer| peer.id.clone());
        if self.is_copied(router, &label)
            && let Some(giver) = &giver
        {
            // It may have given what was taken over from it meanwhile.
            let ballot = Ballot::of_home(export.term, own, term, giver.clone());
            self.have_words(company, &key, &ballot, label.life).await?;
        }
        self.copies.goes_on_from(&key, term, label.life);
        let (term, done) = (export.term, export.done);
        let is_copied = self.is_copied(router, &label);
        let has = giver
            .clone()
            .filter(|node| company.is_there(node))
            .map(|node| (node, done));
        self.settle_here(router, label, export, Some(Keeper::new(term, has)))?;
        info!(sequence = %key.id, from = %at, done, "a sequence was handed over");
        if let Some(giver) = giver.filter(|_| !is_copied) {
            // It kept a copy for the case that this one could not take it.
            self.release_at(giver, key, term);
        }
        Ok(())
    }

    /// From the copy of a home that is lost.
    async fn take_over(
        self: &Arc<Self>,
        company: &Company,
        router: &RouterHandle,
        key: SequenceKey,
        found: TakeOver,
    ) -> Result<(), Short> {
        let own = company.own();
        let (at, term) = (&found.at, found.ballot.term);
        let is_ours = *at == own.name;
        let (label, export) = match is_ours {
            true => {
                let taken = self.copies.take(&key, own, found.seen, term, |_| true);
                taken.ok_or_else(|| Short::NotYet("its copy has changed meanwhile".to_owned()))?
            }
            false => {
                let give = Give {
                    key: key.clone(),
                    to: own,
                    seen: found.seen,
                    term,
                    denied: found.denied,
                };
                self.ask_to_give(company, at, give).await?
            }
        };
        self.have_words(company, &key, &found.ballot, label.life).await?;
        if is_ours && !self.copies.is_taken(&key, &company.own(), term) {
            return Err(Short::NotYet("another node has taken its copy meanwhile".to_owned()));
        }
        let holder = company.peers.get(at).map(|peer| peer.id.clone()).filter(|_| !is_ours);
        let is_copied = self.is_copied(router, &label);
        let has = holder
            .clone()
            .filter(|node| company.is_there(node))
            .map(|node| (node, export.done));
        self.copies.goes_on_from(&key, found.ballot.from, label.life);
        self.settle_here(router, label, export, Some(Keeper::new(term, has)))?;
        info!(sequence = %key.id, from = %found.home, copy = %at, done = found.done, term, "a sequence was taken over");
        if is_ours {
            self.copies.release(&key, term);
        } else if let Some(holder) = holder.filter(|_| !is_copied) {
            // Nobody keeps it as new as the sequence is from now on.
            self.release_at(holder, key, term);
        }
        Ok(())
    }

    async fn have_words(
        &self,
        company: &Company,
        key: &SequenceKey,
        ballot: &Ballot,
        life: Duration,
    ) -> Result<(), Short> {
        match self.ask_for_words(company, key, ballot, life).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Short::NotYet(
                "too few nodes give their word for taking it over".to_owned(),
            )),
            Err(term) => Err(Short::NotYet(format!("another node asked for term {term} of it"))),
        }
    }

    fn is_copied(&self, router: &RouterHandle, label: &Label) -> bool {
        let id = ModelId {
            name: label.key.model.clone(),
            version: label.version,
        };
        let route = router.routes().find(&id);
        route.is_none_or(|route| route.manifest.limits.are_sequences_copied())
    }

    /// Asks all nodes what they have of that name. Also tells whether all that are up have answered.
    async fn seek(&self, company: &Company, own: &NodeName, (model, id): &Key) -> (Vec<(NodeName, Vec<Seen>)>, bool) {
        let seek = Seek {
            model: model.clone(),
            id: id.clone(),
        };
        let here = self.seen(&seek);
        let call = Call::Seek(seek);
        let asked = company.reached().into_iter().map(|peer| {
            let call = &call;
            async move { (peer.id.name.clone(), company.ask(&peer.id.name, call, Vec::new()).await) }
        });
        let mut answers = vec![(own.clone(), here)];
        let mut all = company.judge(|others| others.reaches_all());
        for (name, answer) in futures_util::future::join_all(asked).await {
            match answer {
                Ok((Reply::Seen(seen), _)) => answers.push((name, seen)),
                other => {
                    debug!(node = %name, answer = ?other.map(|(reply, _)| reply), "a node does not say what it has");
                    all = false;
                }
            }
        }
        (answers, all)
    }

    async fn ask_to_give(&self, company: &Company, at: &NodeName, give: Give) -> Result<(Label, HeldExport), Short> {
        let key = give.key.clone();
        let call = Call::Give(give);
        let not_yet = |why: String| Short::NotYet(format!("node {at}: {why}"));
        match company.ask(at, &call, Vec::new()).await {
            Ok((Reply::Given(image), body)) if image.key == key => {
                let (label, oldest, export) = image::read(*image, &body).map_err(not_yet)?;
                let given = Delta {
                    after: None,
                    oldest,
                    export,
                };
                match given.is_sound() {
                    true => Ok((label, given.export)),
                    false => Err(not_yet("what it gives contradicts itself".to_owned())),
                }
            }
            Ok((Reply::Refused(reason), _)) => Err(not_yet(reason)),
            Ok(_) => Err(not_yet("its reply is of another kind".to_owned())),
            Err(error) => Err(not_yet(error.to_string())),
        }
    }

    fn settle_here(
        self: &Arc<Self>,
        router: &RouterHandle,
        label: Label,
        export: HeldExport,
        keeper: Option<Keeper>,
    ) -> Result<(), Short> {
        let id = ModelId {
            name: label.key.model.clone(),
            version: label.version,
        };
        let not_yet = |why: String| Short::NotYet(why);
        let route = router
            .routes()
            .find(&id)
            .ok_or_else(|| not_yet(format!("{id} is not served here")))?;
        let bytes = image::bytes(&export);
        let export = image::from_held(export, &route).ok_or_else(|| {
            let reason = "the model was replaced by one of another signature; start the sequence anew".to_owned();
            Short::Never(InferError::Invalid(reason))
        })?;
        if export.ended {
            let memory = self.budget.hold(bytes).map_err(|error| not_yet(error.to_string()))?;
            let grave = Grave {
                tombstone: Tombstone::of_export(export),
                open: label.open,
                life: label.life,
                _memory: memory,
            };
            self.lay_down(&label, grave);
            return Ok(());
        }
        let brought = Brought {
            birth: label.key.birth,
            open: label.open,
            inherited: Inherited { export, keeper },
        };
        let opened = self.open(router, &route, &label.key.id, Origin::Elsewhere(Box::new(brought)));
        opened.map(drop).map_err(|error| not_yet(error.to_string()))
    }
}

/// Marks a name while a sequence of it is brought here.
struct Bringing<'a>(&'a Sessions, &'a Key);

impl Drop for Bringing<'_> {
    fn drop(&mut self) {
        self.0.bringing.remove(self.1);
    }
}
