//! What the grids are put through.

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::server::{Health, INSTANCES};
use crate::simulation::{WARM_UP, left_by_neighbours};
use crate::{MS, Nanos, SECOND};

/// Work of a request in nanoseconds of one core.
pub(crate) const MEAN_WORK: f64 = 13e6;
/// A request that is not answered by then is an error.
pub(crate) const DEADLINE: Nanos = 1000 * MS;

#[derive(Clone, Copy)]
pub(crate) enum Change {
    Health(Health),
    Speed(f64),
}

/// How much work a request is.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// A normal distribution whose deviation is its mean, cut off at nothing, as in the paper.
    Normal,
    /// Pareto with exponent 1.8: most are small, and a few in ten thousand a hundred times the mean.
    HeavyTail,
}

impl Work {
    pub(crate) fn draw(self, rng: &mut SmallRng) -> f64 {
        match self {
            Self::Normal => loop {
                let (radius, turn) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
                let normal = (-2.0 * radius.ln()).sqrt() * (turn * std::f64::consts::TAU).cos();
                if normal > -1.0 {
                    // Cutting off raises the mean to 1.2876.
                    return (normal + 1.0) * MEAN_WORK / 1.2876;
                }
            },
            Self::HeavyTail => {
                let least = MEAN_WORK * 0.8 / 1.8;
                (least * (1.0 - rng.random::<f64>()).powf(-1.0 / 1.8)).min(MEAN_WORK * 60.0)
            }
        }
    }
}

/// Who else uses the machines.
#[derive(Clone, Copy)]
pub(crate) enum Neighbours {
    Nobody,
    /// They come and go on each machine.
    Vary,
    /// A few servers get half a core for half of the time.
    Few(usize),
}

impl Neighbours {
    /// The cores that a server has, and for how long; `None` if for ever what it began with.
    pub(crate) fn draw(self, server: usize, rng: &mut SmallRng) -> Option<(f64, Nanos)> {
        match self {
            Self::Vary => Some(left_by_neighbours(rng)),
            Self::Few(few) if server < few => {
                let is_antagonised = rng.random::<bool>();
                Some((if is_antagonised { 0.5 } else { INSTANCES as f64 }, SECOND))
            }
            Self::Nobody | Self::Few(_) => None,
        }
    }
}

pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) clients: usize,
    pub(crate) servers: usize,
    /// Work that comes, over what is allocated.
    pub(crate) load: f64,
    pub(crate) length: Nanos,
    pub(crate) work: Work,
    pub(crate) neighbours: Neighbours,
    pub(crate) changes: Vec<(Nanos, usize, Change)>,
    /// A server, and from when to when the requests that reach it are counted.
    pub(crate) watched: Option<(usize, Nanos, Nanos)>,
}

impl Scenario {
    fn new(name: impl Into<String>, clients: usize, servers: usize, load: f64) -> Self {
        Self {
            name: name.into(),
            clients,
            servers,
            load,
            length: WARM_UP + 5 * SECOND,
            work: Work::Normal,
            neighbours: Neighbours::Nobody,
            changes: Vec::new(),
            watched: None,
        }
    }
}

/// The ramp of the paper: nine steps from 0.75 of the allocation to 1.74, with neighbours that vary.
pub(crate) fn ramp() -> Vec<Scenario> {
    (0..9)
        .map(|step| {
            let load = 0.75 * (10.0f64 / 9.0).powi(step);
            Scenario {
                neighbours: Neighbours::Vary,
                ..Scenario::new(format!("ramp {load:.2}"), 100, 100, load)
            }
        })
        .collect()
}

/// Grids in trouble, and small ones.
pub(crate) fn troubles() -> Vec<Scenario> {
    let slow = |servers: usize| (0..servers).step_by(2).map(|server| (0, server, Change::Speed(0.5)));
    let fails = |servers: std::ops::Range<usize>| {
        servers
            .map(|server| (WARM_UP, server, Change::Health(Health::FailsFast)))
            .collect()
    };
    let joins = WARM_UP + SECOND;
    let new = vec![
        (0, 0, Change::Health(Health::Absent)),
        (joins, 0, Change::Health(Health::Serves)),
        (joins, 0, Change::Speed(0.25)),
        (joins + SECOND, 0, Change::Speed(1.0)),
    ];
    let always = |server| Some((server, WARM_UP, WARM_UP + 5 * SECOND));
    let small = |name: &str, clients, servers| Scenario {
        neighbours: Neighbours::Vary,
        ..Scenario::new(name, clients, servers, 1.3)
    };
    vec![
        Scenario {
            work: Work::HeavyTail,
            neighbours: Neighbours::Vary,
            ..Scenario::new("heavy tail", 100, 100, 1.2)
        },
        Scenario {
            changes: slow(100).collect(),
            watched: always(0),
            ..Scenario::new("half are 2x slower", 100, 100, 1.7)
        },
        Scenario {
            neighbours: Neighbours::Few(5),
            watched: always(0),
            ..Scenario::new("5 antagonised", 100, 100, 1.7)
        },
        Scenario {
            changes: fails(0..1),
            watched: always(0),
            ..Scenario::new("1 fails fast", 100, 100, 1.7)
        },
        Scenario {
            changes: fails(0..85),
            watched: None,
            ..Scenario::new("85 fail fast", 100, 100, 0.3)
        },
        Scenario {
            changes: new.clone(),
            watched: Some((0, joins, joins + SECOND)),
            ..Scenario::new("1 new and cold", 100, 100, 1.7)
        },
        Scenario {
            changes: new.clone(),
            length: joins + 13 * SECOND,
            watched: Some((0, joins + 8 * SECOND, joins + 13 * SECOND)),
            ..Scenario::new("1 new, 8 s later", 100, 100, 1.7)
        },
        small("100 clients, 6 servers", 100, 6),
        small("6 clients, 6 servers", 6, 6),
        small("10 clients, 10 servers", 10, 10),
        small("10 clients, 100 servers", 10, 100),
        Scenario {
            changes: new,
            watched: Some((0, joins, joins + SECOND)),
            ..Scenario::new("6x6, 1 new and cold", 6, 6, 1.7)
        },
    ]
}
