//! What foca's packets hold: who a node is, how it is written, and what rides along.

use bytes::{Buf, BufMut};
use foca::{BroadcastHandler, Codec, Header, Incarnation, Invalidates, Member, Message, State};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Head, MAX_DATAGRAM, Peer};
use crate::cluster::{NodeId, NodeName};
use crate::wire::codec::{CodecError, decode_first, encode};

/// What decoding a datagram may allocate. bincode counts numbers at their full width, so a full datagram needs more
/// than its length.
const MAX_DECODED: usize = 8 * MAX_DATAGRAM;

/// The value of these bytes. Unlike [`decode`](crate::wire::codec::decode) it allocates little, whatever they say.
pub(super) fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    match decode_first::<T, MAX_DECODED>(what, bytes)? {
        (value, used) if used == bytes.len() => Ok(value),
        (_, used) => Err(CodecError::Trailing {
            what,
            extra: bytes.len() - used,
        }),
    }
}

/// A life of a node, as foca knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity(pub(super) Peer);

impl Identity {
    pub(super) fn name(&self) -> &NodeName {
        &self.0.id.name
    }

    /// Of two that claim one name, the later life stands. The address only makes sure that all choose the same one of
    /// two with one generation.
    pub(super) fn outranks(&self, other: &Self) -> bool {
        (self.0.id.generation, self.0.mesh) > (other.0.id.generation, other.0.mesh)
    }

    /// The life after that of `generation`.
    pub(super) fn after(&self, generation: u64) -> Option<Self> {
        let mut next = self.clone();
        next.0.id.generation = generation.checked_add(1)?;
        Some(next)
    }
}

impl foca::Identity for Identity {
    type Addr = NodeName;

    fn renew(&self) -> Option<Self> {
        self.after(self.0.id.generation)
    }

    fn addr(&self) -> NodeName {
        self.name().clone()
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.outranks(adversary)
    }
}

/// Answers a node whose name stands for another life: foca alone would tell it that it is down, again and again, while
/// it climbs generation by generation to one that may be years of milliseconds away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Superseded {
    /// Who bears the name.
    pub(super) by: Peer,
    /// It is up; otherwise it is remembered as down.
    pub(super) alive: bool,
}

/// What rides on the gossip beside foca's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Item {
    Head { node: NodeId, head: Head },
    Left { node: NodeId },
}

impl Item {
    pub(super) fn node(&self) -> &NodeId {
        match self {
            Self::Head { node, .. } | Self::Left { node } => node,
        }
    }
}

/// Of each node only the latest item is passed on.
pub(super) struct ItemKey(NodeName);

impl Invalidates for ItemKey {
    fn invalidates(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// Passes on all that it is given: what is no news has been taken out of the packet before foca sees it.
pub(super) struct PassOn;

impl BroadcastHandler<Identity> for PassOn {
    type Key = ItemKey;
    type Error = CodecError;

    fn receive_item(&mut self, data: &[u8], _sender: Option<&Identity>) -> Result<Option<ItemKey>, CodecError> {
        let item: Item = read("item", data)?;
        Ok(Some(ItemKey(item.node().name.clone())))
    }
}

/// Headers and members as bytes, one after the other.
pub(super) struct PacketCodec;

fn put(what: &'static str, value: &impl Serialize, mut buffer: impl BufMut) -> Result<(), CodecError> {
    let bytes = encode(value);
    if bytes.len() > buffer.remaining_mut() {
        let reason = String::from("the packet is full");
        return Err(CodecError::Malformed { what, reason });
    }
    buffer.put_slice(&bytes);
    Ok(())
}

fn take<T: DeserializeOwned>(what: &'static str, mut buffer: impl Buf) -> Result<T, CodecError> {
    // In one piece: foca says so, and ours are slices.
    let (value, used) = decode_first::<T, MAX_DATAGRAM>(what, buffer.chunk())?;
    buffer.advance(used);
    Ok(value)
}

impl Codec<Identity> for PacketCodec {
    type Error = CodecError;

    fn encode_header(&mut self, header: &Header<Identity>, buffer: impl BufMut) -> Result<(), CodecError> {
        put("header", header, buffer)
    }

    fn decode_header(&mut self, buffer: impl Buf) -> Result<Header<Identity>, CodecError> {
        take("header", buffer)
    }

    fn encode_member(&mut self, member: &Member<Identity>, buffer: impl BufMut) -> Result<(), CodecError> {
        put("member", member, buffer)
    }

    fn decode_member(&mut self, buffer: impl Buf) -> Result<Member<Identity>, CodecError> {
        take("member", buffer)
    }
}

/// A packet of foca's taken apart, so that it can be put together again without what foca should not see.
pub(super) struct Packet<'a> {
    pub(super) header: Header<Identity>,
    /// `None` when the packet ends before the list of members.
    pub(super) members: Option<Vec<(Member<Identity>, &'a [u8])>>,
    pub(super) items: Vec<(Item, &'a [u8])>,
}

fn cut_short(what: &'static str) -> CodecError {
    let reason = String::from("it is cut short");
    CodecError::Malformed { what, reason }
}

impl<'a> Packet<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let (header, used) = decode_first::<Header<Identity>, MAX_DATAGRAM>("header", bytes)?;
        let mut rest = &bytes[used..];
        let mut members = None;
        if header.message != Message::Broadcast && rest.len() >= 2 {
            let mut read = vec![];
            for _ in 0..rest.get_u16() {
                let (member, used) = decode_first::<Member<Identity>, MAX_DATAGRAM>("member", rest)?;
                let (raw, after) = rest.split_at(used);
                read.push((member, raw));
                rest = after;
            }
            members = Some(read);
        }
        let mut items = vec![];
        while !rest.is_empty() {
            let length = rest.try_get_u16().map_err(|_| cut_short("item"))?;
            let (raw, after) = rest.split_at_checked(length.into()).ok_or_else(|| cut_short("item"))?;
            items.push((read("item", raw)?, raw));
            rest = after;
        }
        Ok(Self { header, members, items })
    }

    /// A ping for one who is suspected, with the suspicion in it: it objects, and its answer shows that it has.
    pub(super) fn accusation(own: &Identity, suspect: &Identity, incarnation: Incarnation) -> Vec<u8> {
        let member = Member::new(suspect.clone(), incarnation, State::Suspect);
        let raw = encode(&member);
        let header = Header {
            src: own.clone(),
            // foca does not tell our own. The least says nothing about us.
            src_incarnation: 0,
            dst: suspect.clone(),
            // The answer counts for nothing but that it came: foca's own probes have other numbers, or mean the same.
            message: Message::Ping(0),
        };
        let members = Some(vec![(member, &raw[..])]);
        let items = vec![];
        Packet { header, members, items }.encode()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // None of these lists has grown since a datagram held them: their lengths fit.
        let length = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
        let mut bytes = encode(&self.header);
        if let Some(members) = &self.members {
            bytes.put_u16(length(members.len()));
            members.iter().for_each(|(_, raw)| bytes.put_slice(raw));
        }
        for (_, raw) in &self.items {
            bytes.put_u16(length(raw.len()));
            bytes.put_slice(raw);
        }
        bytes
    }
}
