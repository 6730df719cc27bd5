//! Several that claim one name: lives of one node, or two nodes that were given the same name by mistake.

use std::net::SocketAddr;

use super::{INSIST, Swim, TOLD_NAMESAKE};
use crate::cluster::Now;
use crate::membership::packet::{Identity, Superseded};
use crate::membership::seal::Kind;
use crate::membership::{MembershipEffect, Peer, Trouble};
use crate::wire::codec::encode;

impl Swim {
    pub(super) fn same_name(&mut self, now: Now, at: SocketAddr) {
        let name = self.own().id.name.clone();
        self.trouble(now, at, Trouble::SameName { name, at });
    }

    /// Who bears the name of this node rather than this life of it.
    pub(super) fn outranked(&self, source: &Identity) -> Option<Superseded> {
        let (by, alive) = match self.roster.get(source.name()) {
            Some(peer) => (Identity(peer.clone()), true),
            None => {
                let mut known = self.foca.iter_membership_state();
                (
                    known.find(|member| member.id().name() == source.name())?.id().clone(),
                    false,
                )
            }
        };
        by.outranks(source).then_some(Superseded { by: by.0, alive })
    }

    pub(super) fn tell_namesake(&mut self, now: Now, to: SocketAddr, of: &Peer) {
        if self.said.admit(now.monotonic, TOLD_NAMESAKE, to) {
            let word = Superseded {
                by: of.clone(),
                alive: true,
            };
            self.send(now, to, Kind::Superseded, &encode(&word));
        }
    }

    pub(super) fn superseded(&mut self, now: Now, word: &Superseded) {
        let own = self.foca.identity().clone();
        let by = Identity(word.by.clone());
        if by.name() != own.name() {
            return;
        }
        if word.alive && by.0.mesh != own.0.mesh {
            self.same_name(now, by.0.mesh);
            return;
        }
        // Our own earlier life had a higher generation: its record was lost, or the clock went back.
        let next = by.outranks(&own).then(|| own.after(by.0.id.generation)).flatten();
        if let Some(next) = next {
            // It only fails for the identity that we have.
            let _same = self.foca.change_identity(next, &mut self.outbox);
            self.renewed(now);
        }
    }

    pub(super) fn renewed(&mut self, now: Now) {
        self.insist = Some(now.monotonic + INSIST);
        let node = self.own().id.clone();
        self.effects.push_back(MembershipEffect::Renewed(node));
        self.spread_head();
    }
}
