//! The grid in virtual time: what happens is taken from a heap by its moment, and nothing waits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use grid_core::dispatch::remote::Report;
use grid_core::dispatch::retry::Miss;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::policy::{Client, Policy};
use crate::scenario::{Change, DEADLINE, MEAN_WORK, Scenario};
use crate::server::{ALLOCATED, Health, INSTANCES, Server};
use crate::{MS, Nanos, SECOND};

/// The time before this is not measured: queues have to fill first.
pub(crate) const WARM_UP: Nanos = 2 * SECOND;

enum Event {
    Comes(usize),
    Reaches(usize),
    Ends {
        server: usize,
        epoch: u64,
    },
    Back(usize, Fate),
    Neighbours(usize),
    Changes(usize),
    Probes {
        client: usize,
        server: usize,
    },
    Probed {
        client: usize,
        server: usize,
        in_flight: usize,
        latency: Nanos,
    },
}

enum Fate {
    Done {
        report: Report,
        served: Nanos,
    },
    Failed {
        report: Report,
        miss: Miss,
        retry_after: Option<Duration>,
    },
    Late,
}

struct Timed(Nanos, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct Request {
    client: usize,
    came: Nanos,
    sent: Nanos,
    server: usize,
    work: f64,
    tried: Vec<usize>,
}

/// What was measured.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Of each request, in nanoseconds; one without an answer counts as the whole deadline.
    pub(crate) latencies: Vec<Nanos>,
    pub(crate) errors: usize,
    /// Requests that reached the watched server, over an equal share.
    pub(crate) watched: f64,
}

pub(crate) struct Simulation<'a> {
    scenario: &'a Scenario,
    now: Nanos,
    sequence: u64,
    events: BinaryHeap<Reverse<Timed>>,
    servers: Vec<Server>,
    there: Vec<usize>,
    clients: Vec<Client>,
    requests: Vec<Request>,
    free: Vec<usize>,
    rng: SmallRng,
    /// Of its own, so that all policies see the same neighbours.
    neighbours: SmallRng,
    arrivals: SmallRng,
    reached: (u64, u64),
    outcome: Outcome,
}

impl<'a> Simulation<'a> {
    pub(crate) fn new(scenario: &'a Scenario, policy: Policy, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let clients = (0..scenario.clients).map(|_| Client::new(policy, scenario.servers, &mut rng));
        Self {
            clients: clients.collect(),
            scenario,
            now: 0,
            sequence: 0,
            events: BinaryHeap::new(),
            servers: (0..scenario.servers).map(|_| Server::new()).collect(),
            there: Vec::new(),
            requests: Vec::new(),
            free: Vec::new(),
            rng,
            neighbours: SmallRng::seed_from_u64(seed + 1),
            arrivals: SmallRng::seed_from_u64(seed + 2),
            reached: (0, 0),
            outcome: Outcome::default(),
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        for client in 0..self.scenario.clients {
            self.next_request(client);
        }
        for server in 0..self.scenario.servers {
            self.at(0, Event::Neighbours(server));
        }
        for (index, change) in self.scenario.changes.iter().enumerate() {
            self.at(change.0, Event::Changes(index));
        }
        self.list();
        while let Some(Reverse(Timed(now, _, event))) = self.events.pop() {
            self.now = now;
            self.handle(event);
        }
        let (watched, all) = self.reached;
        self.outcome.watched = watched as f64 * self.scenario.servers as f64 / all.max(1) as f64;
        self.outcome.latencies.sort_unstable();
        self.outcome
    }

    fn at(&mut self, when: Nanos, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse(Timed(when, self.sequence, event)));
    }

    /// A way through the network: 100 to 200 µs.
    fn way(&mut self) -> Nanos {
        self.now + self.rng.random_range(MS / 10..MS / 5)
    }

    fn list(&mut self) {
        let there = |&server: &usize| self.servers[server].health != Health::Absent;
        self.there = (0..self.servers.len()).filter(there).collect();
    }

    fn next_request(&mut self, client: usize) {
        let cores = ALLOCATED * self.scenario.servers as f64 * self.scenario.load;
        let mean = MEAN_WORK / cores * self.scenario.clients as f64;
        let gap = -mean * (1.0 - self.arrivals.random::<f64>()).ln();
        let when = self.now + gap as Nanos;
        if when < self.scenario.length {
            self.at(when, Event::Comes(client));
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Comes(client) => {
                self.next_request(client);
                let work = self.scenario.work.draw(&mut self.arrivals);
                let request = Request {
                    client,
                    came: self.now,
                    sent: self.now,
                    server: 0,
                    work,
                    tried: Vec::new(),
                };
                let index = match self.free.pop() {
                    Some(index) => {
                        self.requests[index] = request;
                        index
                    }
                    None => {
                        self.requests.push(request);
                        self.requests.len() - 1
                    }
                };
                self.clients[client].budget.request();
                self.send(index);
            }
            Event::Reaches(request) => self.reaches(request),
            Event::Ends { server, epoch } => {
                if self.servers[server].epoch == epoch {
                    self.servers[server].advance(self.now);
                    let finished = self.servers[server].finish(self.now);
                    let fate = Fate::Done {
                        report: self.servers[server].report(),
                        served: finished.queued + finished.computed,
                    };
                    let back = self.way();
                    self.at(back, Event::Back(finished.request, fate));
                    self.goes_on(server);
                }
            }
            Event::Back(request, fate) => self.back(request, fate),
            Event::Neighbours(server) => {
                let change = self.scenario.neighbours.draw(server, &mut self.neighbours);
                if let Some((cores, lasts)) = change {
                    self.change(server, |server| server.cores = cores);
                    if self.now + lasts < self.scenario.length {
                        self.at(self.now + lasts, Event::Neighbours(server));
                    }
                }
            }
            Event::Changes(index) => {
                let (_, server, change) = self.scenario.changes[index];
                self.change(server, |server| match change {
                    Change::Health(health) => server.health = health,
                    Change::Speed(speed) => server.speed = speed,
                });
                self.list();
            }
            Event::Probes { client, server } => {
                let here = &self.servers[server];
                let (in_flight, latency) = (here.in_flight(), here.latency_now());
                let back = self.way();
                self.at(
                    back,
                    Event::Probed {
                        client,
                        server,
                        in_flight,
                        latency,
                    },
                );
            }
            Event::Probed {
                client,
                server,
                in_flight,
                latency,
            } => self.clients[client]
                .pool
                .answered(self.now, server, in_flight, latency, &mut self.rng),
        }
    }

    fn change(&mut self, server: usize, change: impl FnOnce(&mut Server)) {
        self.servers[server].advance(self.now);
        change(&mut self.servers[server]);
        self.goes_on(server);
    }

    fn send(&mut self, index: usize) {
        let request = &mut self.requests[index];
        let client = &mut self.clients[request.client];
        let server = client.pick(self.now, &self.there, &request.tried, &self.servers, &mut self.rng);
        client.sent(server);
        request.server = server;
        request.sent = self.now;
        let (client, probes) = (request.client, client.probes(&self.there, &mut self.rng));
        let there = self.way();
        self.at(there, Event::Reaches(index));
        for server in probes {
            let there = self.way();
            self.at(there, Event::Probes { client, server });
        }
    }

    fn reaches(&mut self, index: usize) {
        let request = &self.requests[index];
        let (server, work) = (request.server, request.work);
        if let Some((watched, from, to)) = self.scenario.watched
            && (from..to).contains(&self.now)
        {
            self.reached.0 += u64::from(server == watched);
            self.reached.1 += 1;
        }
        let remaining = (request.came + DEADLINE).saturating_sub(self.now);
        let here = &mut self.servers[server];
        here.advance(self.now);
        let refused = match here.health {
            Health::Serves => here
                .refuses(remaining)
                .map(|retry_after| (Miss::Overloaded, Some(retry_after))),
            Health::FailsFast | Health::Absent => Some((Miss::NotRun, None)),
        };
        if let Some((miss, retry_after)) = refused {
            let report = here.report();
            let back = self.way();
            self.at(
                back,
                Event::Back(
                    index,
                    Fate::Failed {
                        report,
                        miss,
                        retry_after,
                    },
                ),
            );
            return;
        }
        here.accept(self.now, index, work);
        self.goes_on(server);
    }

    fn goes_on(&mut self, server: usize) {
        let (now, requests) = (self.now, &self.requests);
        let late = self.servers[server].begin(now, |index| requests[index].came + DEADLINE <= now);
        for request in late {
            let back = self.way();
            self.at(back, Event::Back(request, Fate::Late));
        }
        if let Some((when, epoch)) = self.servers[server].next_end() {
            self.at(when, Event::Ends { server, epoch });
        }
    }

    fn back(&mut self, index: usize, fate: Fate) {
        let request = &mut self.requests[index];
        let (server, took) = (request.server, self.now - request.sent);
        let client = &mut self.clients[request.client];
        let is_done = match fate {
            Fate::Done { report, served } => {
                client.answered(self.now, server, report, took.saturating_sub(served));
                client.ended(server);
                true
            }
            Fate::Late => {
                client.ended(server);
                false
            }
            Fate::Failed {
                report,
                miss,
                retry_after,
            } => {
                client.failed(self.now, server, report, retry_after);
                client.ended(server);
                request.tried.push(server);
                let now = Duration::from_nanos(self.now);
                let attempts = request.tried.len() as u32;
                let is_left = self.there.iter().any(|server| !request.tried.contains(server));
                if is_left && client.budget.may_retry(now, miss, attempts, true) {
                    return self.send(index);
                }
                false
            }
        };
        let took = self.now - request.came;
        let is_answered = is_done && took <= DEADLINE;
        if request.came >= WARM_UP {
            self.outcome
                .latencies
                .push(if is_answered { took } else { took.max(DEADLINE) });
            self.outcome.errors += usize::from(!is_answered);
        }
        self.free.push(index);
    }
}

/// Cores that the neighbours leave to a server, as in a cluster where a quarter of the machines is full.
pub(crate) fn left_by_neighbours(rng: &mut SmallRng) -> (f64, Nanos) {
    let is_full = rng.random::<f64>() < 0.25;
    let cores = match is_full {
        true => ALLOCATED * rng.random_range(1.0..1.5),
        false => rng.random_range(ALLOCATED * 1.5..ALLOCATED * 4.0),
    };
    let lasts = -1.5 * (1.0 - rng.random::<f64>()).ln();
    (
        cores.min(INSTANCES as f64 * 2.0),
        (lasts * SECOND as f64) as Nanos + 50 * MS,
    )
}
