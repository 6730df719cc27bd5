//! A sequence that is wanted here and lives elsewhere, or did: it is sought, and brought here.
//!
//! From a home that lives it is handed over at a step boundary. From the copy of a home that is lost it is taken over: more
//! than half of the nodes must have been asked who has it, and give their word that no home of an earlier term goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use grid_core::InferError;
use grid_core::cluster::{NodeId, NodeName};
use grid_core::model::{ModelId, ModelName};
use grid_core::sequence::{Ballot, Keeper, SequenceError, SequenceId, Token, Tombstone};
use grid_core::wire::call::{Call, Reply};
use grid_core::wire::sequence::{Give, Seek, Seen, SeenAs, SequenceKey};
use tracing::{debug, info};

use super::actor::Inherited;
use super::company::Company;
use super::image::{self, HeldExport, Label};
use super::registry::{Brought, Grave, Key, Origin, Sessions, refused};
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

/// What was found of one sequence.
#[derive(Default)]
struct Found {
    live: Option<(NodeName, u64)>,
    over: Option<NodeName>,
    /// `(written, done)`, the term, who holds it, for which home.
    copy: Option<((u64, u64), u64, NodeName, NodeId)>,
    /// The home that wrote it.
    writer: Option<NodeId>,
    /// Highest term heard of.
    term: u64,
    /// Highest term in which one that answered was the home, and which.
    began: (u64, Option<NodeName>),
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
        let (model, id) = key;
        let own = company.own();
        let not_yet = |why: &str| Err(Short::NotYet(why.to_owned()));
        let (answers, all) = self.seek(company, &own.name, key).await;
        let answered: BTreeSet<NodeName> = answers.iter().map(|(name, _)| name.clone()).collect();
        let (mut found, mut others) = (BTreeMap::<u64, Found>::new(), false);
        for (name, seen) in answers
            .iter()
            .flat_map(|(name, seen)| seen.iter().map(move |seen| (name, seen)))
        {
            let mine = token.map_or(seen.open, |token| token == seen.token);
            match &seen.what {
                // They count beside something else only: below.
                SeenAs::Terms { .. } => continue,
                _ if !mine => {
                    others = true;
                    continue;
                }
                _ => {}
            }
            let found = found.entry(seen.birth).or_default();
            match &seen.what {
                SeenAs::Live { term } => {
                    found.term = found.term.max(*term);
                    found.live = found.live.take().max(Some((name.clone(), *term)));
                }
                SeenAs::Over => found.over = Some(name.clone()),
                SeenAs::Copy {
                    home,
                    term,
                    written,
                    writer,
                    done,
                } => {
                    found.term = found.term.max(*term);
                    let copy = ((*written, *done), *term, name.clone(), home.clone());
                    if found.copy.as_ref().is_none_or(|best| best.0 < copy.0) {
                        found.copy = Some(copy);
                        found.writer = Some(writer.clone());
                    }
                }
                SeenAs::Terms { .. } => {}
            }
        }
        for (name, seen) in answers
            .iter()
            .flat_map(|(name, seen)| seen.iter().map(move |seen| (name, seen)))
        {
            if let (SeenAs::Terms { promised, began }, Some(found)) = (&seen.what, found.get_mut(&seen.birth)) {
                found.term = found.term.max(*promised).max(*began);
                found.began = found.began.clone().max((*began, Some(name.clone())));
            }
        }
        // One that lives goes before one that did, and that before one that ended.
        let rank = |found: &Found| {
            (
                found.live.is_some(),
                found.copy.as_ref().map(|copy| copy.0),
                found.over.is_some(),
            )
        };
        let Some((birth, found)) = found.into_iter().max_by_key(|(_, found)| rank(found)) else {
            return match (others, all) {
                (true, _) => Err(Short::Never(refused(id, SequenceError::WrongToken))),
                (false, true) => Err(Short::Never(refused(id, SequenceError::Unknown))),
                (false, false) => not_yet("not all nodes answer, and those that do have none of that name"),
            };
        };
        let wire = SequenceKey {
            model: model.clone(),
            id: id.clone(),
            birth,
        };
        let mut give = Give {
            key: wire.clone(),
            to: own.clone(),
            seen: 0,
            term: 0,
            denied: false,
        };
        if let Some((at, term)) = found.live {
            give.seen = term;
            let (label, export) = self.ask_to_give(company, &at, give).await?;
            let giver = company.peers.get(&at).map(|peer| peer.id.clone());
            if self.is_copied(router, &label)
                && let Some(giver) = &giver
            {
                // It may have given what was taken over from it meanwhile.
                let ballot = Ballot {
                    term: export.term,
                    by: own.clone(),
                    from: term,
                    writer: giver.clone(),
                    deny: BTreeSet::new(),
                };
                self.have_words(company, &wire, &ballot, label.life).await?;
            }
            let has = giver
                .filter(|node| company.is_there(node))
                .map(|node| (node, export.done));
            let keeper = Keeper::new(export.term, has);
            self.copies.begins(&wire, export.term, label.life);
            info!(sequence = %id, from = %at, done = export.done, "a sequence was handed over");
            return self.settle_here(router, label, export, Some(keeper));
        }
        if let Some(at) = found.over {
            let (label, export) = self.ask_to_give(company, &at, give).await?;
            return self.settle_here(router, label, export, None);
        }
        let (Some(((written, done), seen, at, home)), Some(writer)) = (found.copy, found.writer) else {
            return not_yet("nobody has it");
        };
        let (began, by) = found.began;
        if began > written || (began == written && by.is_some_and(|by| by != writer.name)) {
            return not_yet("the node that has its newest copy does not answer");
        }
        give.denied = answered.contains(&home.name) && !company.is_lost(&home);
        if !give.denied && !company.is_lost(&home) && home != own {
            return not_yet("its node does not answer, and is not known to be down");
        }
        if !company.quorum().is_reached(&answered) {
            return not_yet("too few nodes are reached to take it over");
        }
        let term = found.term + 1;
        (give.seen, give.term) = (seen, term);
        let is_ours = at == own.name;
        let (label, export) = match is_ours {
            true => {
                let taken = self.copies.take(&wire, own.clone(), seen, term, |_| true);
                taken.ok_or_else(|| Short::NotYet("its copy has changed meanwhile".to_owned()))?
            }
            false => self.ask_to_give(company, &at, give).await?,
        };
        let ballot = Ballot {
            term,
            by: own.clone(),
            from: written,
            writer,
            // A home that answered has no such sequence; what anybody else asked for may still come to something.
            deny: answered,
        };
        self.have_words(company, &wire, &ballot, label.life).await?;
        info!(sequence = %id, from = %home, copy = %at, done, term, "a sequence was taken over");
        let holder = company.peers.get(&at).map(|peer| peer.id.clone());
        let has = holder
            .clone()
            .filter(|node| !is_ours && company.is_there(node))
            .map(|node| (node, export.done));
        self.copies.begins(&wire, term, label.life);
        let is_copied = self.is_copied(router, &label);
        self.settle_here(router, label, export, Some(Keeper::new(term, has)))?;
        if is_ours {
            self.copies.release(&wire, term);
        } else if let Some(holder) = holder.filter(|_| !is_copied) {
            // Nobody keeps it as new as the sequence is from now on.
            self.release_at(holder, wire, term);
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
        let mut all = company.reaches_all();
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
                let (label, _, export) = image::read(*image, &body).map_err(not_yet)?;
                Ok((label, export))
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
