use super::*;
use crate::model::ReplicaCount;

const MS: Duration = Duration::from_millis(1);

fn id(name: &str) -> NodeId {
    NodeId {
        name: name.parse().unwrap(),
        generation: 1,
    }
}

fn at(milliseconds: u32) -> Now {
    Now {
        monotonic: MS * milliseconds,
        wall: 1_000_000 + u64::from(milliseconds),
    }
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn agent(name: &str, has_seeds: bool) -> Agent {
    let options = AgentOptions {
        node: id(name),
        addresses: Addresses {
            mesh: address(1),
            http: None,
            grpc: None,
        },
        zone: String::new(),
        capacity: Capacity {
            memory: 1 << 30,
            compute: 100,
        },
        grace: Duration::from_secs(10),
        has_seeds,
    };
    Agent::new(options, Vec::new(), at(0))
}

fn model() -> ModelId {
    ModelId {
        name: "m".parse().unwrap(),
        version: 1,
    }
}

fn deployment() -> Deployment {
    Deployment {
        content: Digest::of(b"m"),
        size: 1,
        memory: 1 << 20,
        replicas: ReplicaCount::Exactly(1),
        weight: 100,
    }
}

fn effects(agent: &mut Agent) -> Vec<Effect> {
    std::iter::from_fn(|| agent.poll()).collect()
}

fn asks(agent: &mut Agent) -> Vec<Ask> {
    let asks = effects(agent).into_iter().filter_map(|effect| match effect {
        Effect::Ask { ask, .. } => Some(ask),
        _ => None,
    });
    asks.collect()
}

#[test]
fn what_is_deployed_here_is_acted_on_at_once() {
    let mut agent = agent("a", false);
    agent.tick(at(100), 0);
    agent.deploy(at(200), model(), deployment());
    assert!(agent.next_wake() <= MS * 200, "{:?}", agent.next_wake());
    agent.tick(at(200), 0);
    let loads = effects(&mut agent)
        .into_iter()
        .filter(|effect| matches!(effect, Effect::Load { .. }));
    assert_eq!(loads.count(), 1);
    assert!(agent.next_wake() > MS * 200);
}

#[test]
fn news_are_pulled_when_they_are_heard_of_and_again_when_nobody_answers() {
    let mut agent = agent("a", true);
    let news = Ask::Snapshots(vec!["b".parse().unwrap()]);
    agent.up(at(100), id("b"), address(2));
    assert!(asks(&mut agent).contains(&news));
    agent.heard(at(200), &id("b"), 7, agent.catalog().digest());
    assert_eq!(asks(&mut agent), [], "it is being asked already");
    agent.unanswered(&id("b"), &news);
    let again = agent.next_wake();
    assert!(again <= MS * 1300, "{again:?}");
    agent.tick(at(1300), 0);
    assert!(asks(&mut agent).contains(&news));
}

#[test]
fn another_catalog_is_pulled_when_it_is_heard_of() {
    let mut agent = agent("a", true);
    agent.up(at(100), id("b"), address(2));
    effects(&mut agent);
    agent.heard(at(200), &id("b"), 1, Digest::of(b"another one"));
    assert!(matches!(asks(&mut agent)[..], [Ask::Entries(_)]));
}

#[test]
fn an_agent_that_has_nothing_to_do_sleeps() {
    let mut agent = agent("a", true);
    agent.up(at(100), id("b"), address(2));
    let (mut now, mut wakes) = (MS * 100, 0);
    while now < Duration::from_secs(100) {
        now = agent.next_wake().max(now + MS);
        agent.tick(at(u32::try_from(now.as_millis()).unwrap()), 0);
        effects(&mut agent);
        wakes += 1;
    }
    assert!(wakes < 60, "{wakes} times in 100 s, with a node that never answers");
}

#[test]
fn a_node_that_says_it_holds_more_than_there_can_be_is_full_and_nothing_else() {
    let mut agent = agent("a", true);
    agent.up(at(100), id("b"), address(2));
    let replica = |name: &str| HostedReplica {
        model: ModelId {
            name: name.parse().unwrap(),
            version: 1,
        },
        content: Digest::of(b"taken back"),
        stage: ReplicaStage::Ready,
        bytes: u64::MAX,
    };
    let own = agent.view().node(agent.name()).unwrap().snapshot.clone().unwrap();
    let snapshot = NodeSnapshot {
        node: id("b"),
        replicas: vec![replica("x"), replica("y")],
        ..own
    };
    let ask = Ask::Snapshots(vec!["b".parse().unwrap()]);
    let answer = Answer::Snapshots(vec![snapshot]);
    agent.answered(at(200), at(150).monotonic, &id("b"), &ask, answer);
    agent.deploy(at(300), model(), deployment());
    agent.tick(at(5000), 0);
    assert_eq!(agent.placed_nodes().len(), 2);
    assert_eq!(agent.intents()[&model()].owners, ["a".parse().unwrap()]);
}
