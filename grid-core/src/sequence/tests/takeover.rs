//! Homes, copies and votes of one sequence on five nodes, over a network that loses, repeats and reorders.

use std::collections::BTreeSet;

use super::*;
use crate::cluster::{Member, NodeId, NodeName, Quorum};

type State = String;

const NODES: usize = 5;

fn node(index: usize) -> NodeId {
    NodeId {
        name: format!("n{index}").parse().unwrap(),
        generation: 1,
    }
}

fn index(node: &NodeId) -> usize {
    node.name.as_str()[1..].parse().unwrap()
}

struct Home {
    core: Sut,
    keeper: Keeper,
}

#[derive(Clone)]
struct Hold {
    from: usize,
    to: usize,
    delta: Delta<String, State>,
    sent: u64,
}

#[derive(Default)]
struct World {
    homes: [Option<Home>; NODES],
    copies: [Option<SecondCopy<String, State>>; NODES],
    promises: [Option<Promise>; NODES],
    /// The last term in which each node was the home, and something was durable.
    began: [u64; NODES],
    /// The term of which each went on with what was written in it.
    saw: [u64; NODES],
    flying: Vec<Hold>,
    sends: u64,
    /// Which send each home waits for.
    awaited: [u64; NODES],
    /// The longest state that was ever acknowledged as durable.
    acknowledged: State,
    messages: u32,
}

#[derive(Clone, Debug)]
enum Event {
    Step(usize),
    /// The home looks after its copy; the outlook is that of whoever it takes to be there.
    Advance(usize, [bool; NODES]),
    /// A hold arrives; whether its answer does; whether it arrives once more, later.
    Arrive(usize, bool, bool),
    Lose(usize),
    /// A node takes over from what it sees at these; these hear of the vote.
    TakeOver(usize, [bool; NODES], [bool; NODES]),
    Crash(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let who = || 0..NODES;
    let some = || prop::array::uniform5(prop::bool::weighted(0.75));
    let event = prop_oneof![
        8 => who().prop_map(Event::Step),
        8 => (who(), some()).prop_map(|(who, seen)| Event::Advance(who, seen)),
        10 => (any::<usize>(), prop::bool::weighted(0.8), prop::bool::weighted(0.2))
            .prop_map(|(which, answered, again)| Event::Arrive(which, answered, again)),
        1 => any::<usize>().prop_map(Event::Lose),
        3 => (who(), some(), some()).prop_map(|(who, seen, heard)| Event::TakeOver(who, seen, heard)),
    ];
    prop::collection::vec(event, 0..300)
}

fn members(is_up: impl Fn(usize) -> bool) -> Vec<Member> {
    let member = |index: usize| Member {
        id: node(index),
        up: is_up(index),
        serves: true,
        gone: false,
    };
    (0..NODES).map(member).collect()
}

fn quorum() -> Quorum {
    Quorum::of(&node(0).name, &members(|_| true))
}

impl World {
    fn new() -> Self {
        let mut world = Self::default();
        world.homes[0] = Some(Home {
            core: Sut::start(token(), String::new(), LIMITS),
            keeper: Keeper::new(1, None),
        });
        world
    }

    fn vote(&mut self, ballot: &Ballot, heard: &[bool; NODES]) -> bool {
        let mut yes = BTreeSet::new();
        for (voter, heard) in heard.iter().enumerate() {
            if !heard && voter != index(&ballot.by) {
                continue;
            }
            let standpoint = Standpoint {
                lives: self.homes[voter].as_ref().map(|home| home.core.term()),
                copy: self.copies[voter].as_ref(),
                promise: self.promises[voter].as_ref(),
            };
            if let Ok(promise) = standpoint.vote(&node(voter), ballot, &quorum()) {
                self.promises[voter] = Some(promise);
                yes.insert(node(voter).name);
            }
        }
        quorum().is_reached(&yes)
    }

    fn acknowledge(&mut self, who: usize) {
        let Some(home) = &self.homes[who] else { return };
        let upto = usize::try_from(home.core.durable()).unwrap();
        let durable: State = home.core.state().split_inclusive('/').take(upto).collect();
        let (short, long) = match durable.len() < self.acknowledged.len() {
            true => (&durable, &self.acknowledged),
            false => (&self.acknowledged, &durable),
        };
        assert!(long.starts_with(short.as_str()), "{long} does not go on from {short}");
        self.acknowledged = long.clone();
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Step(who) => {
                let Some(home) = &mut self.homes[who] else { return };
                self.messages += 1;
                let message = self.messages;
                home.core.offer(None, message, false);
                if let Some(Step::Run { message, state, .. }) = home.core.next_step() {
                    let state = format!("{state}{message}/");
                    let outcome = state.clone();
                    home.core.step_ended(StepEnd::Done {
                        state,
                        outcome,
                        bytes: 1,
                    });
                }
                drop(home.core.deliver_to_whoever_asked());
            }
            Event::Advance(who, seen) => {
                let Some(home) = &mut self.homes[who] else { return };
                let there = |other: &NodeId| seen[index(other)];
                let choice = (0..NODES).filter(|&other| other != who && seen[other]).map(node).next();
                let outlook = Outlook {
                    choice: choice.as_ref(),
                    is_second_there: home.keeper.second().is_some_and(there),
                    is_alone: false,
                };
                if let Errand::Send { to, after, term, vote } = home.keeper.next(home.core.done(), outlook) {
                    self.sends += 1;
                    self.awaited[who] = self.sends;
                    let mut delta = home.core.delta(after);
                    delta.export.term = term;
                    let ballot = Ballot::of_home(term, node(who), home.core.term(), node(who));
                    if vote && !self.vote(&ballot, &seen) {
                        self.homes[who].as_mut().unwrap().keeper.unanswered();
                        return;
                    }
                    self.flying.push(Hold {
                        from: who,
                        to: index(&to),
                        delta,
                        sent: self.sends,
                    });
                }
            }
            Event::Arrive(which, answered, again) => {
                if self.flying.is_empty() {
                    return;
                }
                let which = which % self.flying.len();
                let hold = match again {
                    true => self.flying[which].clone(),
                    false => self.flying.remove(which),
                };
                self.arrive(hold, answered);
            }
            Event::Lose(which) if !self.flying.is_empty() => {
                let which = which % self.flying.len();
                let hold = self.flying.remove(which);
                if let Some(home) = self.homes[hold.from]
                    .as_mut()
                    .filter(|_| self.awaited[hold.from] == hold.sent)
                {
                    home.keeper.unanswered();
                }
            }
            Event::TakeOver(who, seen, heard) => self.take_over(who, &seen, &heard),
            Event::Crash(who) => self.homes[who] = None,
            Event::Lose(_) => {}
        }
    }

    fn arrive(&mut self, hold: Hold, answered: bool) {
        let (home, term) = (node(hold.from), hold.delta.export.term);
        let standpoint = Standpoint {
            lives: self.homes[hold.to].as_ref().map(|home| home.core.term()),
            copy: self.copies[hold.to].as_ref(),
            promise: self.promises[hold.to].as_ref(),
        };
        let answer = if let Some(term) = standpoint.fences(&home, term) {
            HoldAnswer::Fenced { term }
        } else {
            match &mut self.copies[hold.to] {
                Some(copy) => copy.hold(&home, hold.delta.clone()),
                place @ None => match SecondCopy::begin(home.clone(), hold.delta.clone()) {
                    Some(copy) => {
                        *place = Some(copy);
                        HoldAnswer::Held
                    }
                    None => HoldAnswer::NeedAll,
                },
            }
        };
        if self.awaited[hold.from] != hold.sent || !answered {
            return;
        }
        let Some(home) = &mut self.homes[hold.from] else { return };
        if matches!(answer, HoldAnswer::Fenced { .. }) {
            self.homes[hold.from] = None;
        } else if let Some((durable, term)) = home.keeper.answered(answer) {
            self.began[hold.from] = term;
            home.core.set_term(term);
            home.core.made_durable(durable);
            self.acknowledge(hold.from);
        }
    }

    /// What a node says that is asked for the sequence.
    fn seen(&self, at: usize) -> Vec<Seen> {
        let live = self.homes[at]
            .as_ref()
            .map(|home| SeenAs::Live { term: home.core.term() });
        let copy = self.copies[at].as_ref().map(|copy| SeenAs::Copy {
            home: copy.home().clone(),
            term: copy.term(),
            written: copy.written(),
            writer: copy.writer().clone(),
            done: copy.done(),
        });
        let terms = SeenAs::Terms {
            promised: self.promises[at].as_ref().map_or(0, Promise::term),
            began: self.began[at],
            saw: self.saw[at],
        };
        let all = live.into_iter().chain(copy).chain([terms]);
        let seen = all.map(|what| Seen {
            birth: 1,
            token: token(),
            open: false,
            what,
        });
        seen.collect()
    }

    fn take_over(&mut self, who: usize, seen: &[bool; NODES], heard: &[bool; NODES]) {
        let asked: Vec<usize> = (0..NODES).filter(|&other| seen[other] || other == who).collect();
        let answers: Vec<(NodeName, Vec<Seen>)> = asked
            .iter()
            .map(|&other| (node(other).name, self.seen(other)))
            .collect();
        // Who is not asked is taken to be down, and may live.
        let members = members(|index| asked.contains(&index));
        let search = Search {
            own: &node(who),
            others: Others {
                own: &node(who).name,
                members: &members,
                is_linked: &|_| true,
            },
            answers: &answers,
            is_complete: true,
            token: Some(token()),
        };
        // What lives is handed over in another way.
        let Verdict::TakeOver(found) = search.verdict() else {
            return;
        };
        let (best, ballot) = (
            asked[answers.iter().position(|(name, _)| *name == found.at).unwrap()],
            found.ballot,
        );
        let copy = self.copies[best].as_mut().unwrap();
        let term = ballot.term;
        let Some(export) = copy.take(node(who), found.seen, term) else {
            return;
        };
        if self.vote(&ballot, heard) {
            self.saw[who] = self.saw[who].max(ballot.from);
            self.copies[who] = self.copies[who].take().filter(|_| best != who);
            self.homes[who] = Some(Home {
                core: Sut::import(export, LIMITS),
                keeper: Keeper::new(term, None),
            });
            self.acknowledge(who);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    /// Homes are frozen and cut off in all ways here, and none dies, so no acknowledged message may be missing in any.
    #[test]
    fn whoever_takes_over_when_what_counts_as_durable_has_one_history(events in events()) {
        let mut world = World::new();
        for event in events {
            world.apply(event);
        }
    }
}

#[test]
fn a_home_that_wakes_after_a_take_over_is_fenced_by_its_second_node() {
    let mut world = World::new();
    let all = [true; NODES];
    world.apply(Event::Step(0));
    world.apply(Event::Advance(0, all));
    world.apply(Event::Arrive(0, true, false));
    assert_eq!(world.acknowledged, "1/");
    world.apply(Event::Step(0));
    world.apply(Event::TakeOver(2, [false, true, true, true, true], all));
    world.apply(Event::Step(2));
    world.apply(Event::Advance(0, all));
    world.apply(Event::Arrive(0, true, false));
    assert!(world.homes[0].is_none(), "it was fenced off");
    world.apply(Event::Advance(2, [false, true, true, true, true]));
    world.apply(Event::Arrive(0, true, false));
    assert_eq!(world.acknowledged, "1/3/");
    world.apply(Event::Crash(2));
    world.apply(Event::TakeOver(4, all, all));
    assert_eq!(world.homes[4].as_ref().unwrap().core.state(), "1/3/");
}

fn at(nodes: &[usize]) -> [bool; NODES] {
    std::array::from_fn(|index| nodes.contains(&index))
}

/// The home 0 has its first copy, which is empty, on node 1, and the next one on node `second`, with the first message.
fn with_an_old_copy(second: usize) -> World {
    let mut world = World::new();
    world.apply(Event::Advance(0, at(&[1])));
    world.apply(Event::Arrive(0, true, false));
    world.apply(Event::Step(0));
    world.apply(Event::Advance(0, at(&[second, 3, 4])));
    world.apply(Event::Arrive(0, true, false));
    assert_eq!(world.acknowledged, "1/");
    world
}

#[test]
fn a_word_that_came_to_nothing_does_not_make_one_forget_the_word_before() {
    let mut world = with_an_old_copy(2);
    world.apply(Event::TakeOver(3, at(&[1, 2]), at(&[4])));
    assert!(world.homes[3].is_none(), "too few gave their word");
    world.apply(Event::TakeOver(3, at(&[1, 4]), at(&[1, 4])));
    assert!(world.homes[3].is_none(), "from a copy without the first message");
}

#[test]
fn a_home_that_never_came_so_far_as_a_copy_still_knows_that_older_ones_are_old() {
    let mut world = with_an_old_copy(2);
    world.apply(Event::TakeOver(2, at(&[3, 4]), at(&[3, 4])));
    assert!(world.homes[2].is_some());
    world.homes[2] = None;
    world.apply(Event::TakeOver(1, at(&[2, 3]), at(&[3, 4])));
    assert!(world.homes[1].is_none(), "from a copy without the first message");
}
