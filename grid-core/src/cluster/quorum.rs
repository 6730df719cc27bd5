//! On which side of a partition something goes on that may go on once only.
//!
//! Each side counts the nodes that it knows of. More than half of them agree on one side at most; of exactly half, the side
//! with the lowest name. Not counted are nodes that cannot be on any side: they said farewell, or their process is provably
//! gone, because their host refuses connections to where it listened. So a grid whose nodes are killed one after the other
//! goes on to the last one, and a grid that falls apart goes on in one part.

use std::collections::BTreeSet;

use super::{NodeId, NodeName};

/// A node that counts, or does not, as one other sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node, in the life that is known of it.
    pub id: NodeId,
    /// Membership holds it to be there.
    pub up: bool,
    /// It takes what it is given: it does not leave.
    pub serves: bool,
    /// It has left, or its process is provably gone.
    pub gone: bool,
}

impl Member {
    /// Whether that life of the node is over, or nothing is heard of it.
    pub fn is_lost(&self, life: &NodeId) -> bool {
        self.gone || !self.up || self.id.generation > life.generation
    }
}

/// Those whose word counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    counted: BTreeSet<NodeName>,
}

impl Quorum {
    /// The quorum of these, and of this node itself.
    pub fn of<'a>(own: &NodeName, members: impl IntoIterator<Item = &'a Member>) -> Self {
        let counted = members.into_iter().filter(|member| !member.gone);
        let names = counted.map(|member| member.id.name.clone());
        Self {
            counted: names.chain([own.clone()]).collect(),
        }
    }

    /// Whether these are all that count.
    pub fn is_everybody<'a>(&self, agreeing: impl IntoIterator<Item = &'a NodeName>) -> bool {
        let agreeing: BTreeSet<&NodeName> = agreeing.into_iter().collect();
        self.counted.iter().all(|name| agreeing.contains(name))
    }

    /// Whether these are enough.
    pub fn is_reached<'a>(&self, agreeing: impl IntoIterator<Item = &'a NodeName>) -> bool {
        let agreeing: BTreeSet<&NodeName> = agreeing
            .into_iter()
            .filter(|name| self.counted.contains(*name))
            .collect();
        let (twice, all) = (2 * agreeing.len(), self.counted.len());
        let lowest = self.counted.first();
        twice > all || (twice == all && lowest.is_some_and(|lowest| agreeing.contains(lowest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(index: usize) -> NodeName {
        format!("n{index:02}").parse().unwrap()
    }

    fn member(index: usize, up: bool, gone: bool) -> Member {
        Member {
            id: NodeId {
                name: name(index),
                generation: 1,
            },
            up,
            serves: true,
            gone,
        }
    }

    #[test]
    fn a_node_that_others_cut_off_is_no_quorum_and_one_whose_others_are_gone_is() {
        let own = name(1);
        let down = [member(0, false, false), member(1, true, false), member(2, false, false)];
        assert!(!Quorum::of(&own, &down).is_reached([&own]));
        let gone = [member(0, false, true), member(1, true, false), member(2, false, true)];
        assert!(Quorum::of(&own, &gone).is_reached([&own]));
        assert!(Quorum::of(&own, &[]).is_reached([&own]));
    }

    #[test]
    fn of_two_the_lower_name_goes_on() {
        let two = [member(0, true, false), member(1, true, false)];
        assert!(Quorum::of(&name(0), &two).is_reached([&name(0)]));
        assert!(!Quorum::of(&name(1), &two).is_reached([&name(1)]));
    }

    #[test]
    fn a_life_is_lost_when_another_follows() {
        let known = member(0, true, false);
        assert!(!known.is_lost(&known.id));
        let before = NodeId {
            generation: 0,
            ..known.id.clone()
        };
        assert!(known.is_lost(&before));
    }

    proptest! {
        #[test]
        fn of_the_parts_of_a_grid_one_at_most_is_a_quorum(parts in prop::collection::vec(0u8..3, 1..12)) {
            let all: Vec<Member> = (0..parts.len()).map(|index| member(index, true, false)).collect();
            let quorate = (0u8..3).filter(|part| {
                let agreeing: Vec<NodeName> = (0..parts.len()).filter(|&index| parts[index] == *part).map(name).collect();
                agreeing.first().is_some_and(|own| Quorum::of(own, &all).is_reached(&agreeing))
            });
            prop_assert!(quorate.count() <= 1);
        }
    }
}
