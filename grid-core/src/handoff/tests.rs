use super::*;
use proptest::prelude::*;

fn name(node: usize) -> NodeName {
    format!("n{node}").parse().unwrap()
}

fn model() -> ModelId {
    ModelId {
        name: "m".parse().unwrap(),
        version: 1,
    }
}

fn content(number: u8) -> Digest {
    Digest::of(&[number])
}

fn intents(owners: &[usize], of: u8) -> Intents {
    let intent = Intent {
        content: content(of),
        owners: owners.iter().copied().map(name).collect(),
    };
    Intents::from([(model(), intent)])
}

fn ready(node: usize) -> Handoff {
    let mut handoff = Handoff::new(name(node));
    handoff.step(Duration::ZERO, &intents(&[node], 0));
    handoff.loaded(&model(), content(0));
    handoff
}

fn stage(handoff: &Handoff) -> Stage {
    handoff
        .replicas()
        .get(&model())
        .map_or(Stage::Absent, |replica| replica.stage)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_replica_goes_when_its_new_owner_has_given_its_word_and_drains_before() {
    let mut old = ready(0);
    let moved = intents(&[1], 0);
    let ask = Action::Ask {
        owner: name(1),
        model: model(),
        content: content(0),
    };
    assert_eq!(old.step(seconds(1), &moved), std::slice::from_ref(&ask));
    assert_eq!(old.step(seconds(1), &moved), [], "it waits for the answer");
    old.word(seconds(1), &name(1), &model(), None);
    assert_eq!(old.step(seconds(2), &moved), [ask], "it asks again");
    old.word(seconds(2), &name(1), &model(), Some(LEASE));
    assert_eq!(old.step(seconds(3), &moved), []);
    assert_eq!(stage(&old), Stage::Draining { since: seconds(3) });
    assert_eq!(old.next_wake(seconds(3)), Some(seconds(3) + STALENESS));
    assert_eq!(
        old.step(seconds(3) + STALENESS, &moved),
        [Action::Unload { model: model() }]
    );
    old.unloaded(&model());
    old.step(seconds(9), &moved);
    assert!(old.replicas().is_empty());
}

#[test]
fn a_word_is_not_believed_longer_than_its_lease() {
    let mut old = ready(0);
    let moved = intents(&[1, 2], 0);
    old.step(seconds(1), &moved);
    old.word(seconds(1), &name(1), &model(), Some(seconds(1000)));
    old.step(seconds(7), &moved);
    old.word(seconds(7), &name(2), &model(), Some(LEASE));
    old.step(seconds(8), &moved);
    assert_eq!(stage(&old), Stage::Ready, "the first word has lapsed meanwhile");
}

#[test]
fn who_has_given_its_word_stays_until_the_lease_ends() {
    let mut owner = ready(0);
    assert_eq!(
        owner.asked(seconds(1), &model(), &content(0), &intents(&[0], 0)),
        Some(LEASE)
    );
    let moved = intents(&[1], 0);
    for second in 2..6 {
        owner.step(seconds(second), &moved);
        owner.word(seconds(second), &name(1), &model(), Some(LEASE));
    }
    assert_eq!(stage(&owner), Stage::Ready);
    owner.step(seconds(1) + LEASE, &moved);
    assert!(matches!(stage(&owner), Stage::Draining { .. }));
}

#[test]
fn who_wants_to_leave_or_has_another_content_gives_no_word() {
    let mut node = ready(0);
    assert_eq!(node.asked(seconds(1), &model(), &content(0), &intents(&[1], 0)), None);
    assert_eq!(node.asked(seconds(1), &model(), &content(1), &intents(&[0], 1)), None);
    assert_eq!(node.asked(seconds(1), &model(), &content(0), &Intents::new()), None);
}

#[test]
fn what_was_taken_back_drains_without_asking_anybody() {
    let mut node = ready(0);
    assert_eq!(node.step(seconds(1), &Intents::new()), []);
    assert_eq!(stage(&node), Stage::Draining { since: seconds(1) });
}

#[test]
fn a_new_content_is_loaded_beside_the_old_one_and_its_failure_touches_nothing() {
    let mut node = ready(0);
    let changed = intents(&[0], 1);
    let load = Action::Load {
        model: model(),
        content: content(1),
    };
    assert_eq!(node.step(seconds(1), &changed), std::slice::from_ref(&load));
    node.load_failed(seconds(2), &model(), content(1), "broken".to_owned());
    assert_eq!(node.step(seconds(3), &changed), []);
    let replica = &node.replicas()[&model()];
    assert_eq!((replica.stage, replica.content), (Stage::Ready, Some(content(0))));
    assert_eq!(node.step(seconds(7), &changed), [load], "it is tried again");
    node.load_failed(seconds(7), &model(), content(1), "broken".to_owned());
    assert_eq!(node.next_wake(seconds(8)), Some(seconds(17)), "and then more slowly");
    node.step(seconds(17), &changed);
    node.loaded(&model(), content(1));
    assert_eq!(node.replicas()[&model()].content, Some(content(1)));
}

#[test]
fn who_can_do_nothing_now_does_not_ask_to_be_woken_at_once() {
    let mut node = ready(0);
    let changed = intents(&[0], 1);
    node.step(seconds(1), &changed);
    node.step(seconds(2), &Intents::new());
    assert_eq!(node.next_wake(seconds(2)), Some(seconds(2) + STALENESS));
    node.step(seconds(9), &Intents::new());
    assert_eq!(node.next_wake(seconds(9)), None, "the drain waits for the load to end");
    let mut other = Handoff::new(name(1));
    other.step(seconds(1), &intents(&[1], 0));
    other.load_failed(seconds(1), &model(), content(0), "broken".to_owned());
    other.step(seconds(2), &intents(&[0], 0));
    assert_eq!(other.next_wake(seconds(2)), Some(seconds(6)));
    other.step(seconds(6), &intents(&[0], 0));
    assert_eq!(other.next_wake(seconds(6)), None, "it is another node's turn");
}

#[test]
fn with_no_room_anywhere_who_hosts_it_goes_on() {
    let mut node = ready(0);
    assert_eq!(node.step(seconds(1), &intents(&[], 0)), []);
    assert_eq!(node.step(seconds(60), &intents(&[], 0)), []);
    assert_eq!(stage(&node), Stage::Ready);
}

/// Few nodes: the fewer, the sooner they believe what contradicts.
const NODES: usize = 2;

/// What happens to a grid; each node believes what it likes.
#[derive(Clone, Debug)]
enum Event {
    /// A node comes to believe that these are the owners.
    Believe(usize, Vec<usize>),
    /// Time passes, and everybody steps.
    Pass(u64),
    /// A message in transit arrives, or is lost.
    Arrive(usize),
    Lose(usize),
    /// A load ends.
    Load(usize, bool),
}

#[derive(Clone, Debug)]
enum InTransit {
    Question {
        from: usize,
        to: usize,
        asked: Duration,
    },
    Answer {
        from: usize,
        to: usize,
        asked: Duration,
        lease: Option<Duration>,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0usize..NODES, prop::collection::vec(0usize..NODES, 1..NODES))
            .prop_map(|(node, owners)| Event::Believe(node, owners)),
        2 => (100u64..2000).prop_map(Event::Pass),
        6 => (0usize..3).prop_map(Event::Arrive),
        1 => (0usize..3).prop_map(Event::Lose),
        2 => (0usize..NODES, any::<bool>()).prop_map(|(node, well)| Event::Load(node, well)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn whatever_the_nodes_believe_somebody_serves(events in prop::collection::vec(event(), 0..200)) {
        let mut now = Duration::ZERO;
        let mut nodes: Vec<Handoff> = (0..NODES).map(|node| Handoff::new(name(node))).collect();
        nodes[0] = ready(0);
        let mut beliefs = vec![intents(&[0], 0); NODES];
        let mut transit: Vec<InTransit> = Vec::new();
        for event in events {
            match event {
                Event::Believe(node, owners) => beliefs[node] = intents(&owners, 0),
                Event::Pass(milliseconds) => now += Duration::from_millis(milliseconds),
                Event::Lose(index) if index < transit.len() => drop(transit.remove(index)),
                Event::Arrive(index) if index < transit.len() => match transit.remove(index) {
                    InTransit::Question { from, to, asked } => {
                        let lease = nodes[to].asked(now, &model(), &content(0), &beliefs[to]);
                        transit.push(InTransit::Answer { from: to, to: from, asked, lease });
                    }
                    InTransit::Answer { from, to, asked, lease } => {
                        nodes[to].word(asked, &name(from), &model(), lease);
                    }
                },
                Event::Load(node, well) => {
                    let loads = nodes[node].replicas().get(&model()).is_some_and(|replica| replica.loading.is_some());
                    if loads && well {
                        nodes[node].loaded(&model(), content(0));
                    } else if loads {
                        nodes[node].load_failed(now, &model(), content(0), "no".to_owned());
                    }
                }
                Event::Arrive(_) | Event::Lose(_) => {}
            }
            for from in 0..NODES {
                for action in nodes[from].step(now, &beliefs[from]) {
                    match action {
                        Action::Load { .. } => {}
                        Action::Ask { owner, .. } => {
                            let to = (0..NODES).find(|&node| name(node) == owner).unwrap();
                            transit.push(InTransit::Question { from, to, asked: now });
                        }
                        Action::Unload { model } => nodes[from].unloaded(&model),
                    }
                }
            }
            prop_assert!(nodes.iter().any(|node| stage(node) == Stage::Ready));
        }
    }
}
