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

fn loads(agent: &mut Agent) -> Vec<u64> {
    let loads = effects(agent).into_iter().filter_map(|effect| match effect {
        Effect::Load { memory, .. } => Some(memory),
        _ => None,
    });
    loads.collect()
}

fn footprints(agent: &Agent) -> Vec<(Digest, u64)> {
    let own = agent.view().node(agent.name()).unwrap();
    own.snapshot.clone().unwrap().footprints
}

/// Another node says this of itself.
fn says(agent: &mut Agent, now: Now, name: &str, footprints: Vec<(Digest, u64)>) {
    agent.up(now, id(name), address(2));
    let snapshot = NodeSnapshot {
        node: id(name),
        version: 1,
        addresses: Addresses {
            mesh: address(2),
            http: None,
            grpc: None,
        },
        zone: String::new(),
        capacity: Capacity {
            memory: 1 << 30,
            compute: 100,
        },
        stage: NodeStage::Serving,
        replicas: Vec::new(),
        catalog: agent.catalog().digest(),
        artifacts: Vec::new(),
        footprints,
    };
    let ask = Ask::Snapshots(vec![name.parse().unwrap()]);
    agent.answered(now, now.monotonic, &id(name), &ask, Answer::Snapshots(vec![snapshot]));
}

#[test]
fn what_a_refused_load_took_is_published_and_keeps_it_from_being_tried_where_it_does_not_fit() {
    let mut agent = agent("a", false);
    let (content, large) = (deployment().content, 2 << 30);
    agent.deploy(at(200), model(), deployment());
    agent.tick(at(200), 0);
    assert_eq!(loads(&mut agent), [1 << 20]);
    agent.replica_failed(at(300), &model(), content, "too large".to_owned(), Some(large));
    assert_eq!(footprints(&agent), [(content, large)]);
    // The failure itself would keep it away for 5 s only.
    agent.tick(at(60_000), 0);
    assert_eq!(loads(&mut agent), []);
    let cause = agent.assignment().unplaced[0].cause;
    assert!(cause.to_string().contains("2147483648 bytes"), "{cause}");
    // Was it an outlier? It is asked again, once the failure is forgotten.
    agent.tick(at(400_000), 0);
    agent.tick(at(400_001), 0);
    assert_eq!(loads(&mut agent), [1 << 20]);
}

#[test]
fn what_a_content_took_on_any_node_counts_on_all_also_when_it_is_not_there_any_more() {
    let mut agent = agent("a", true);
    let content = deployment().content;
    says(&mut agent, at(100), "b", vec![(content, 3 << 20)]);
    let two = Deployment {
        replicas: ReplicaCount::Exactly(2),
        ..deployment()
    };
    agent.deploy(at(200), model(), two);
    agent.tick(at(200), 0);
    assert_eq!(loads(&mut agent), [3 << 20]);
    agent.replica_loaded(at(300), &model(), content, 5 << 20);
    agent.replica_unloaded(at(400), &model());
    assert_eq!(footprints(&agent), [(content, 5 << 20)]);
    agent.take_back(at(500), model());
    agent.tick(at(500), 0);
    assert_eq!(footprints(&agent), []);
}

#[test]
fn a_replica_takes_its_memory_until_it_is_gone() {
    let mut agent = agent("a", false);
    agent.deploy(at(200), model(), deployment());
    agent.tick(at(200), 0);
    agent.replica_loaded(at(300), &model(), deployment().content, 5 << 20);
    agent.take_back(at(400), model());
    agent.tick(at(400), 0);
    agent.tick(at(10_000), 0);
    let unloads = effects(&mut agent)
        .into_iter()
        .filter(|effect| matches!(effect, Effect::Unload { .. }));
    assert_eq!(unloads.count(), 1);
    let bytes = |agent: &Agent| {
        let own = agent.view().node(agent.name()).unwrap().snapshot.clone().unwrap();
        own.replicas.iter().map(|replica| replica.bytes).sum::<u64>()
    };
    assert_eq!(bytes(&agent), 5 << 20);
    agent.replica_unloaded(at(10_100), &model());
    assert_eq!(bytes(&agent), 0);
}

#[test]
fn what_a_clock_far_ahead_deploys_is_not_taken_and_told_of_and_what_others_deploy_is_taken() {
    let mut agent = agent("a", true);
    agent.up(at(100), id("b"), address(2));
    effects(&mut agent);
    let entry = Entry {
        stamp: Stamp {
            wall: at(100).wall + 3_600_000,
            counter: 0,
            node: "b".parse().unwrap(),
        },
        deployment: Some(deployment()),
    };
    let ask = Ask::Entries(agent.catalog().buckets().to_vec());
    let fair = Entry {
        stamp: Stamp {
            wall: at(100).wall,
            ..entry.stamp.clone()
        },
        ..entry.clone()
    };
    let other = ModelId { version: 2, ..model() };
    let answer = Answer::Entries(vec![(model(), entry), (other.clone(), fair)]);
    agent.answered(at(200), MS * 100, &id("b"), &ask, answer);
    let deployed: Vec<_> = agent.catalog().deployments().map(|(model, _)| model.clone()).collect();
    assert_eq!(deployed, [other]);
    let told = effects(&mut agent).into_iter().find_map(|effect| match effect {
        Effect::Notice(notice) => Some(notice.to_string()),
        _ => None,
    });
    let told = told.expect("a person is told");
    assert!(told.contains("node b") && told.contains("clock"), "{told}");
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

/// A node that hosts the model.
fn host() -> Agent {
    let mut agent = agent("a", false);
    agent.deploy(at(100), model(), deployment());
    agent.tick(at(100), 0);
    agent.replica_loaded(at(200), &model(), deployment().content, 1 << 20);
    agent
}

#[test]
fn a_quarantined_replica_is_told_as_one_and_gives_no_word() {
    let mut agent = host();
    let stay = Ask::Stay {
        model: model(),
        content: deployment().content,
    };
    let stage = |agent: &Agent| {
        let own = agent.view().node(agent.name()).and_then(|node| node.snapshot.clone());
        own.expect("its own snapshot").replicas[0].stage.clone()
    };
    assert!(matches!(agent.asked(at(300), &stay), Answer::Stays(Some(_))));
    agent.replica_quarantined(at(400), &model(), true);
    assert_eq!(agent.asked(at(500), &stay), Answer::Stays(None));
    assert_eq!(stage(&agent), ReplicaStage::Quarantined);
    agent.replica_quarantined(at(600), &model(), false);
    assert!(matches!(agent.asked(at(700), &stay), Answer::Stays(Some(_))));
}

#[test]
fn a_node_that_leaves_has_not_left_before_it_knows_who_else_is_there() {
    let mut alone = host();
    alone.leave(at(1000));
    assert!(alone.has_left(), "nobody can host it");
    let mut agent = host();
    agent.up(at(900), id("b"), address(2));
    agent.leave(at(1000));
    assert!(!agent.has_left(), "what the other can host is not known yet");
}
