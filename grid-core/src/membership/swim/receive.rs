//! What a datagram that opened does.

use std::net::SocketAddr;

use foca::{Message, State};

use super::{CLOCK_OFF_MS, Swim};
use crate::cluster::Now;
use crate::membership::packet::{Item, Packet, read};
use crate::membership::seal::{Kind, MAX_CLOCK_OFF_MS, Opened};
use crate::membership::{MembershipEffect, Trouble};
use crate::wire::codec::{CodecError, encode};

impl Swim {
    pub(super) fn opened(&mut self, now: Now, from: SocketAddr, opened: &Opened) -> Result<(), CodecError> {
        let by = i128::from(opened.wall) - i128::from(now.wall);
        let refused = by.unsigned_abs() > u128::from(MAX_CLOCK_OFF_MS);
        match opened.kind {
            Kind::Gossip => {
                let packet = Packet::parse(&opened.payload)?;
                let node = &packet.header.src.0.id;
                // What waited while we were paused is old by our own fault.
                let waited = by < 0 && self.doubt.reads_old(now.monotonic);
                if by.unsigned_abs() > u128::from(CLOCK_OFF_MS) && !waited && *node != self.own().id {
                    let node = node.clone();
                    let by = i64::try_from(by).unwrap_or(if by < 0 { i64::MIN } else { i64::MAX });
                    self.trouble(now, from, Trouble::ClockOff { node, by, refused });
                }
                if !refused {
                    self.packet(now, packet)?;
                }
            }
            _ if refused => {}
            Kind::Superseded => self.superseded(now, &read("word of a later life", &opened.payload)?),
            Kind::Ask => self.answer(now, read("question", &opened.payload)?),
            Kind::Page => self.read(now, read("page", &opened.payload)?),
            Kind::Item => self.learn(&read("item", &opened.payload)?),
        }
        Ok(())
    }

    fn learn(&mut self, item: &Item) {
        if item.node().name == self.own().id.name || !self.roster.learn(item) {
            return;
        }
        if let Item::Head { node, head } = item {
            let (node, head) = (node.clone(), *head);
            self.effects.push_back(MembershipEffect::Head { node, head });
        }
    }

    fn packet(&mut self, now: Now, mut packet: Packet<'_>) -> Result<(), CodecError> {
        let own = self.foca.identity().clone();
        let source = packet.header.src.clone();
        if source.name() == own.name() {
            // From our own address it is from an earlier life, or our own word come back.
            if source.0.mesh != own.0.mesh {
                self.same_name(now, source.0.mesh);
                self.tell_namesake(now, source.0.mesh, &own.0);
            }
            return Ok(());
        }
        if let Some(word) = self.outranked(&source) {
            if word.alive && word.by.mesh != source.0.mesh {
                self.tell_namesake(now, word.by.mesh, &source.0);
            }
            self.send(now, source.0.mesh, Kind::Superseded, &encode(&word));
            return Ok(());
        }
        // Who joins knows our address and not our name, and puts its own there.
        if packet.header.message == Message::Announce && packet.header.dst.name() == source.name() {
            packet.header.dst = own.clone();
        }
        for (member, _) in packet.members.iter().flatten() {
            let other = member.id();
            let namesake = other.name() == own.name() && other.0.mesh != own.0.mesh;
            if namesake && other.outranks(&own) && member.state() != State::Down {
                self.same_name(now, other.0.mesh);
            }
        }
        // foca would declare a namesake down in our view and all that listen to us: the later life stands, not ours.
        if let Some(members) = &mut packet.members {
            members.retain(|(member, _)| member.id().name() != own.name() || *member.id() == own);
        }
        let roster = &mut self.roster;
        let items = &mut packet.items;
        items.retain(|(item, _)| item.node().name != *own.name() && roster.learn(item));
        let probed = match &packet.header.message {
            Message::Ack(_) => Some(&source),
            Message::ForwardedAck { origin, .. } => Some(origin),
            _ => None,
        };
        if let (Some((name, answered)), Some(probed)) = (&mut self.probe, probed) {
            *answered |= name == probed.name();
        }
        let heard = (&source, packet.header.src_incarnation);
        self.suspects
            .retain(|(suspect, incarnation, _)| heard.0 != suspect || heard.1 <= *incarnation);
        let taken = self.foca.handle_data(&packet.encode(), &mut self.outbox);
        for (item, _) in packet.items {
            if let Item::Head { node, head } = item {
                self.effects.push_back(MembershipEffect::Head { node, head });
            }
        }
        taken.map_err(|error| CodecError::Malformed {
            what: "packet",
            reason: error.to_string(),
        })
    }
}
