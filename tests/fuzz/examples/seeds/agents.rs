//! What agents hear and are told.

use std::error::Error;

use grid_core::agent::{Answer, Ask};
use grid_core::catalog::{Deployment, Entry, Stamp};
use grid_core::cluster::{Addresses, Capacity, Digest, HostedReplica, NodeSnapshot, NodeStage, ReplicaStage};
use grid_core::model::ReplicaCount;
use grid_core::wire::codec::encode;
use grid_fuzz::input::piece;
use grid_fuzz::sealing::{NOW, address};
use grid_fuzz::snapshot;

use crate::{Add, Result, id, model};

pub(crate) fn node(name: &str, generation: u64, version: u64) -> Result<NodeSnapshot> {
    let replica = |name, stage| {
        Ok::<_, Box<dyn Error>>(HostedReplica {
            model: model(name)?,
            content: Digest::of(name.as_bytes()),
            stage,
            bytes: 1 << 20,
        })
    };
    Ok(NodeSnapshot {
        node: id(name, generation)?,
        version,
        addresses: Addresses {
            mesh: address(2),
            http: Some(address(3)),
            grpc: Some("[::1]:9000".parse()?),
        },
        zone: "east".to_owned(),
        capacity: Capacity {
            memory: 1 << 30,
            compute: 200,
        },
        stage: NodeStage::Serving,
        replicas: vec![
            replica("m0", ReplicaStage::Ready)?,
            replica("m1", ReplicaStage::Loading)?,
            replica("m2", ReplicaStage::Failed("no memory".to_owned()))?,
            replica("m3", ReplicaStage::Draining)?,
            replica("m4", ReplicaStage::Quarantined)?,
        ],
        catalog: Digest([9; 32]),
        artifacts: vec![Digest::of(b"m0"), Digest::of(b"m1")],
        footprints: vec![(Digest::of(b"content"), 1 << 20)],
    })
}

pub(crate) fn seeds(add: Add<'_>) -> Result {
    use snapshot::step;
    let entry = |name: &str, wall, replicas, deployed| {
        let deployment = Deployment {
            content: Digest::of(name.as_bytes()),
            size: 1 << 19,
            memory: 1 << 20,
            replicas,
            weight: 100,
        };
        let stamp = Stamp {
            wall,
            counter: 1,
            node: "n1".parse()?,
        };
        let entry = Entry {
            stamp,
            deployment: Some(deployment).filter(|_| deployed),
        };
        Ok::<_, Box<dyn Error>>((model(name)?, entry))
    };
    let entries = vec![
        entry("m0", NOW.wall, ReplicaCount::Exactly(2), true)?,
        entry("m1", NOW.wall - 1000, ReplicaCount::EveryNode, true)?,
        entry("m2", NOW.wall - 2000, ReplicaCount::Exactly(1), false)?,
        entry("m3", NOW.wall - 3000, ReplicaCount::Exactly(3), true)?,
    ];
    let answer = |answer: &Answer| [&[step::ANSWER][..], &piece(&encode(answer))].concat();
    let ask = |ask: &Ask| [&[step::ASK][..], &piece(&encode(ask))].concat();
    let snapshots = |name, version| Ok::<_, Box<dyn Error>>(answer(&Answer::Snapshots(vec![node(name, 1, version)?])));
    let compared = answer(&Answer::Compared {
        heads: Some(vec![(id("n1", 1)?, 3), (id("n2", 1)?, 2)]),
        catalog_differs: true,
    });
    let wait = |tenths| vec![step::WAIT, tenths];
    // A node comes; it is asked whether it believes the same, for its snapshot, and then for its catalog.
    let meeting = [
        vec![step::UP, 1, 1],
        compared.clone(),
        snapshots("n1", 3)?,
        answer(&Answer::Entries(entries.clone())),
        wait(30),
        vec![step::LOADED, 0, 5],
        vec![step::LOADED, 1, 0],
        vec![step::LOADED, 0, 200],
        wait(60),
    ]
    .concat();
    add("snapshot", "meeting", meeting.clone());
    let grid = [
        vec![step::UP, 1, 1, step::UP, 2, 1],
        snapshots("n1", 3)?,
        compared,
        snapshots("n2", 2)?,
        answer(&Answer::Entries(entries.clone())),
        vec![step::HEARD, 2, 1, 7, 9],
        wait(40),
        vec![step::SILENCE, step::DOWN, 1, 1, 0],
        wait(100),
        vec![step::UP, 1, 2],
        wait(50),
    ];
    add("snapshot", "departure", grid.concat());
    let leaving = [
        meeting,
        answer(&Answer::Stays(Some(5000))),
        ask(&Ask::Stay {
            model: model("m0")?,
            content: Digest::of(b"m0"),
        }),
        ask(&Ask::Entries(vec![0; 256])),
        ask(&Ask::Compare {
            view: Digest([1; 32]),
            catalog: Digest([2; 32]),
        }),
        ask(&Ask::Snapshots(vec!["n0".parse()?, "n1".parse()?])),
    ];
    add("snapshot", "asked", leaving.concat());
    add("snapshot", "entries", answer(&Answer::Entries(entries)));
    let mut draining = node("n1", 1, 9)?;
    draining.stage = NodeStage::Draining;
    let draining = [
        vec![step::UP, 1, 1, step::SILENCE],
        answer(&Answer::Snapshots(vec![draining])),
        wait(30),
    ];
    add("snapshot", "draining", draining.concat());
    Ok(())
}
