//! The membership of one node: foca, and what is around it.

mod catch_up;
mod namesake;
mod receive;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use foca::{Foca, Incarnation, Notification, OwnedNotification, Runtime, State, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use catch_up::CatchUp;

use super::packet::{Identity, Item, Packet, PacketCodec, PassOn};
use super::roster::Roster;
use super::seal::{Kind, PROTOCOL, Refused, Seal};
use super::self_doubt::SelfDoubt;
use super::timers::Timers;
use super::trouble::{Said, Trouble};
use super::{Head, Membership, MembershipEffect, MembershipOptions, Peer, pace};
use crate::cluster::{Digest, NodeName, Now};
use crate::wire::codec::encode;

/// From here on a clock is worth a word: leases and deadlines are told in time that is thought to be common.
const CLOCK_OFF_MS: u64 = 10_000;

/// Time between two tries to make a new generation known.
const INSIST: Duration = Duration::from_secs(1);

/// Time from the first news to its first round of gossip, so that what comes together goes together.
const GATHER: Duration = Duration::from_millis(50);

/// Kind of word, for [`Said`], that another node is told it has a namesake.
const TOLD_NAMESAKE: u8 = u8::MAX;

/// SWIM membership, sans-IO: see the [module](super).
pub struct Swim {
    foca: Foca<Identity, PacketCodec, SmallRng, PassOn>,
    outbox: Outbox,
    timers: Timers,
    /// The gossip timer that foca counts on. It is `parked` while there is nothing to say, so that an idle node sleeps.
    gossip: Option<Timer<Identity>>,
    parked: bool,
    seal: Seal,
    doubt: SelfDoubt,
    /// Whom we probe, and whether it has answered.
    probe: Option<(NodeName, bool)>,
    /// Whom we suspect, in which incarnation, and until when.
    suspects: Vec<(Identity, Incarnation, Duration)>,
    said: Said,
    roster: Roster,
    head: Option<Head>,
    /// When to tell of our new generation again, as long as nobody has answered to it.
    insist: Option<Duration>,
    catch_up: Option<CatchUp>,
    rng: SmallRng,
    size_class: u32,
    left: bool,
    effects: VecDeque<MembershipEffect>,
}

/// What foca wants done in one call.
#[derive(Default)]
struct Outbox {
    sends: Vec<(SocketAddr, Vec<u8>)>,
    timers: Vec<(Duration, Timer<Identity>)>,
    said: Vec<OwnedNotification<Identity>>,
}

impl Runtime<Identity> for Outbox {
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        self.said.push(notification.to_owned());
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to.0.mesh, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Identity>, after: Duration) {
        self.timers.push((after, event));
    }
}

impl Swim {
    /// The membership of a node that knows nobody yet.
    pub fn new(options: &MembershipOptions) -> Self {
        let Digest(seed) = Digest::of(&encode(&("gossip", options.entropy, &options.node)));
        let identity = Identity(Peer {
            id: options.node.clone(),
            mesh: options.mesh,
        });
        let seal = Seal::new(options);
        let size_class = pace::size_class(1);
        let settings = pace::settings(size_class, seal.capacity());
        let mut rng = SmallRng::from_seed(seed);
        let foca_rng = SmallRng::from_rng(&mut rng);
        Self {
            foca: Foca::with_custom_broadcast(identity, settings, foca_rng, PacketCodec, PassOn),
            outbox: Outbox::default(),
            timers: Timers::default(),
            gossip: None,
            parked: false,
            seal,
            doubt: SelfDoubt::new(options.self_doubt),
            probe: None,
            suspects: vec![],
            said: Said::default(),
            roster: Roster::default(),
            head: None,
            insist: None,
            catch_up: None,
            rng,
            size_class,
            left: false,
            effects: VecDeque::new(),
        }
    }

    fn own(&self) -> &Peer {
        &self.foca.identity().0
    }

    fn trouble(&mut self, now: Now, about: SocketAddr, trouble: Trouble) {
        if self.said.admit(now.monotonic, trouble.kind(), about) {
            self.effects.push_back(MembershipEffect::Trouble(trouble));
        }
    }

    fn refused(&mut self, now: Now, from: SocketAddr, refused: Refused) {
        let trouble = match refused {
            Refused::Stranger => Trouble::Stranger { from },
            Refused::WrongKey => Trouble::WrongKey { from },
            Refused::Malformed(reason) => Trouble::Malformed { from, reason },
            Refused::OtherGrid(found) => Trouble::OtherGrid { from, found },
            Refused::OtherProtocol(found) => Trouble::OtherProtocol {
                from,
                found,
                ours: PROTOCOL,
            },
        };
        self.trouble(now, from, trouble);
    }

    fn send(&mut self, now: Now, to: SocketAddr, kind: Kind, payload: &[u8]) {
        let bytes = self.seal.seal(now.wall, kind, payload);
        self.effects.push_back(MembershipEffect::Send { to, bytes });
    }

    fn spread_head(&mut self) {
        if let Some(head) = self.head {
            let node = self.own().id.clone();
            // It only fails for items that are none.
            let _spread = self.foca.add_broadcast(&encode(&Item::Head { node, head }));
        }
    }

    /// Notes that we run.
    fn runs(&mut self, now: Now) {
        if let Some(by) = self.doubt.runs(now.monotonic, self.timers.next()) {
            self.timers.put_off(by);
        }
    }

    /// Does what foca wants done, until it wants nothing more.
    fn settle(&mut self, now: Now) {
        for (after, timer) in std::mem::take(&mut self.outbox.timers) {
            self.set_timer(now, after, timer);
        }
        for (to, packet) in std::mem::take(&mut self.outbox.sends) {
            self.send(now, to, Kind::Gossip, &packet);
        }
        let said = std::mem::take(&mut self.outbox.said);
        for one in &said {
            match one {
                OwnedNotification::Rejoin(_) => self.renewed(now),
                OwnedNotification::Active => {
                    self.insist = None;
                    self.begin_catch_up(now);
                }
                _ => {}
            }
        }
        let before = self.effects.len();
        self.roster.follow(said, &mut self.effects);
        if let Some(head) = self.head {
            let node = self.own().id.clone();
            self.greet(now, before, &encode(&Item::Head { node, head }));
        }
        self.ask(now);
        let size_class = pace::size_class(self.foca.num_members() + 1);
        if size_class != self.size_class && !self.left {
            self.size_class = size_class;
            let settings = pace::settings(size_class, self.seal.capacity());
            let set = self.foca.set_config(settings);
            debug_assert!(set.is_ok(), "only what may change has changed");
        }
        if self.parked && self.has_news() {
            self.parked = false;
            if let Some(timer) = self.gossip.clone() {
                self.timers.set(now.monotonic + GATHER, timer);
            }
        }
    }

    fn has_news(&self) -> bool {
        self.foca.updates_backlog() + self.foca.custom_broadcast_backlog() > 0
    }

    fn set_timer(&mut self, now: Now, after: Duration, timer: Timer<Identity>) {
        let after = match &timer {
            Timer::SendIndirectProbe { probed_id, .. } => {
                self.probe = Some((probed_id.name().clone(), false));
                self.doubt.stretch(after)
            }
            Timer::ProbeRandomMember(_) => self.doubt.stretch(after),
            Timer::ChangeSuspectToDown {
                member_id, incarnation, ..
            } => {
                let after = self.doubt.stretch(after);
                let known = self
                    .suspects
                    .iter()
                    .any(|suspect| (&suspect.0, suspect.1) == (member_id, *incarnation));
                if !known {
                    let until = now.monotonic + after;
                    self.suspects.push((member_id.clone(), *incarnation, until));
                    self.accuse(now);
                }
                after
            }
            Timer::PeriodicGossip(_) => {
                self.gossip = Some(timer.clone());
                self.parked = false;
                after
            }
            _ => after,
        };
        self.timers.set(now.monotonic + after, timer);
    }

    /// Tells those whom we suspect so, and asks for an answer: foca leaves it to the gossip to come by them, and if it
    /// does not, a node is declared down that never had the chance to object. (Lifeguard's "buddy system".)
    fn accuse(&mut self, now: Now) {
        self.suspects.retain(|(.., until)| *until > now.monotonic);
        for (suspect, incarnation, _) in self.suspects.clone() {
            let accusation = Packet::accusation(self.foca.identity(), &suspect, incarnation);
            self.send(now, suspect.0.mesh, Kind::Gossip, &accusation);
        }
    }

    fn is_suspect(&self, identity: &Identity, incarnation: Incarnation) -> bool {
        let mut known = self.foca.iter_membership_state();
        known.any(|member| {
            let same = member.id() == identity && member.incarnation() == incarnation;
            same && member.state() == State::Suspect
        })
    }

    fn serve(&mut self, now: Now, timer: Timer<Identity>) {
        match &timer {
            Timer::PeriodicGossip(_) if self.gossip.as_ref() != Some(&timer) => return,
            Timer::PeriodicGossip(_) if !self.has_news() => {
                self.parked = true;
                return;
            }
            // foca 2.0 declares nobody down who has objected, but tells even those that they are, and so makes each of
            // them take a new generation.
            Timer::ChangeSuspectToDown {
                member_id, incarnation, ..
            } if !self.is_suspect(member_id, *incarnation) => return,
            Timer::ProbeRandomMember(_) => {
                self.accuse(now);
                if let Some((name, answered)) = self.probe.take() {
                    self.doubt.probed(name, answered);
                }
            }
            _ => {}
        }
        // What it calls errors here are timers of a time before we were cut off, of which it makes the best.
        let _stale = self.foca.handle_timer(timer, &mut self.outbox);
    }
}

impl Membership for Swim {
    fn datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        if self.left {
            return;
        }
        self.runs(now);
        match self.seal.open(bytes) {
            Err(refused) => self.refused(now, from, refused),
            Ok(opened) => {
                if let Err(error) = self.opened(now, from, &opened) {
                    self.refused(now, from, Refused::Malformed(error.to_string()));
                }
            }
        }
        self.settle(now);
    }

    fn tick(&mut self, now: Now) {
        if self.left {
            return;
        }
        self.runs(now);
        let mut served = false;
        while let Some(timer) = self.timers.due(now.monotonic) {
            served = true;
            self.serve(now, timer);
            self.settle(now);
        }
        if served {
            self.doubt.served();
        }
        if self.insist.is_some_and(|at| at <= now.monotonic) {
            self.insist = (self.foca.num_members() > 0).then_some(now.monotonic + INSIST);
            // It only fails when a packet cannot hold a header.
            let _told = self.foca.gossip(&mut self.outbox);
        }
        self.settle(now);
    }

    fn next_wake(&self) -> Option<Duration> {
        let ask_at = self.catch_up.as_ref().map(|catch_up| catch_up.ask_at);
        [self.timers.next(), self.insist, ask_at].into_iter().flatten().min()
    }

    fn join(&mut self, now: Now, seeds: &[SocketAddr]) {
        if self.left {
            return;
        }
        self.runs(now);
        let own = self.own().clone();
        for mesh in seeds.iter().filter(|seed| **seed != own.mesh) {
            let whoever = Identity(Peer {
                id: own.id.clone(),
                mesh: *mesh,
            });
            // It only fails when a packet cannot hold a header.
            let _asked = self.foca.announce(whoever, &mut self.outbox);
        }
        self.settle(now);
    }

    fn leave(&mut self, now: Now) {
        if self.left {
            return;
        }
        self.left = true;
        let settings = pace::farewell(pace::settings(self.size_class, self.seal.capacity()));
        let node = self.own().id.clone();
        // None of these can fail but for packets that cannot hold a header, and there is no later time to do better.
        let _set = self.foca.set_config(settings);
        let _spread = self.foca.add_broadcast(&encode(&Item::Left { node }));
        let _left = self.foca.leave_cluster(&mut self.outbox);
        let _again = self.foca.gossip(&mut self.outbox);
        self.settle(now);
        self.timers.clear();
        self.insist = None;
        self.catch_up = None;
    }

    fn set_head(&mut self, now: Now, head: Head) {
        if self.left {
            return;
        }
        self.runs(now);
        self.head = Some(head);
        self.spread_head();
        self.settle(now);
    }

    fn poll(&mut self) -> Option<MembershipEffect> {
        self.effects.pop_front()
    }
}
