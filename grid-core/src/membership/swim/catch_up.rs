//! Who comes anew learns who is there, page by page.
//!
//! foca answers a join with as many random nodes as fit a packet, about 35, and leaves the rest to chance: in a grid of
//! 200 it takes minutes until the newcomer has met all. So the newcomer asks for the whole list, sorted by name. It
//! asks for it once more a little later, since those who came at the same time may be in nobody's list yet.

use std::time::Duration;

use foca::Member;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::Swim;
use crate::cluster::{NodeName, Now};
use crate::membership::packet::Identity;
use crate::membership::seal::Kind;
use crate::membership::{MembershipEffect, Peer};
use crate::wire::codec::encode;

/// Time after which somebody else is asked.
const PATIENCE: Duration = Duration::from_millis(500);

/// Time after which the list is asked for once more.
const ONCE_MORE: Duration = Duration::from_secs(10);

/// Where a newcomer stands with the list.
pub(super) struct CatchUp {
    after: Option<NodeName>,
    pub(super) ask_at: Duration,
    last: bool,
}

/// Asks for a page.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask {
    asker: Peer,
    after: Option<NodeName>,
}

/// Those who are up and come after the name that was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Page {
    after: Option<NodeName>,
    peers: Vec<Peer>,
    more: bool,
}

impl Swim {
    /// Takes these for up, as after a long time together: nothing is sent, and nothing is left to be told. For simulations
    /// of large grids, where a thousand nodes that join within seconds cost more to compute than all that is looked at.
    pub fn acquaint(&mut self, now: Now, peers: impl IntoIterator<Item = Peer>) {
        let own = self.own().clone();
        let others = peers.into_iter().filter(|peer| *peer != own);
        let members = others.map(|peer| Member::alive(Identity(peer)));
        // It only fails for news of oneself.
        let _applied = self.foca.apply_many(members, false, &mut self.outbox);
        self.settle(now);
        self.catch_up = None;
    }

    pub(super) fn begin_catch_up(&mut self, now: Now) {
        self.catch_up = Some(CatchUp {
            after: None,
            ask_at: now.monotonic,
            last: false,
        });
    }

    /// Asks for the next page if it is time to.
    pub(super) fn ask(&mut self, now: Now) {
        let asker = self.own().clone();
        let Some(catch_up) = &mut self.catch_up else { return };
        if catch_up.ask_at > now.monotonic {
            return;
        }
        catch_up.ask_at = now.monotonic + PATIENCE;
        let after = catch_up.after.clone();
        let count = self.roster.len();
        if count > 0
            && let Some(peer) = self.roster.nth(self.rng.random_range(0..count))
        {
            let to = peer.mesh;
            self.send(now, to, Kind::Ask, &encode(&Ask { asker, after }));
        }
    }

    pub(super) fn answer(&mut self, now: Now, ask: Ask) {
        // Only who is known is answered: an old question, sent again, must not make us send to just anybody.
        if self.roster.get(&ask.asker.id.name) != Some(&ask.asker) {
            return;
        }
        let mut page = Page {
            after: ask.after,
            peers: vec![],
            more: false,
        };
        // Its length may take three bytes.
        let mut room = self.seal.capacity().saturating_sub(encode(&page).len() + 2);
        for peer in self.roster.after(page.after.as_ref()) {
            let size = encode(peer).len();
            if size > room {
                page.more = true;
                break;
            }
            room -= size;
            page.peers.push(peer.clone());
        }
        self.send(now, ask.asker.mesh, Kind::Page, &encode(&page));
    }

    pub(super) fn read(&mut self, now: Now, page: Page) {
        let own = self.own().id.name.clone();
        let Some(catch_up) = &mut self.catch_up else { return };
        if catch_up.after != page.after {
            return;
        }
        let last = page.peers.last().map(|peer| peer.id.name.clone());
        match (page.more, last) {
            // Each page is to bring us on, or we would ask for ever.
            (true, Some(last)) if catch_up.after.as_ref().is_none_or(|after| last > *after) => {
                catch_up.after = Some(last);
                catch_up.ask_at = now.monotonic;
            }
            _ if catch_up.last => self.catch_up = None,
            _ => {
                catch_up.after = None;
                catch_up.ask_at = now.monotonic + ONCE_MORE;
                catch_up.last = true;
            }
        }
        let peers = page.peers.into_iter().filter(|peer| peer.id.name != own);
        // Who suspects or buries them says so in the gossip; and what is known of them already stands.
        let members = peers.map(|peer| Member::alive(Identity(peer)));
        // It only fails for members that cannot be encoded.
        let _applied = self.foca.apply_many(members, false, &mut self.outbox);
    }

    /// Those who came up since `before` missed what the gossip told of us once.
    pub(super) fn greet(&mut self, now: Now, before: usize, item: &[u8]) {
        let came = self.effects.range(before..).filter_map(|effect| match effect {
            MembershipEffect::Up(peer) => Some(peer.mesh),
            _ => None,
        });
        let came: Vec<_> = came.collect();
        came.into_iter().for_each(|to| self.send(now, to, Kind::Item, item));
    }
}
