//! A client of Prequal (Wydrowski, Kleinberg, Rumble, Archer, NSDI '24), as far as the paper tells: a pool of answers to
//! asynchronous probes, from which the hot-cold lexicographic rule selects.

use std::collections::VecDeque;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::{MS, Nanos};

/// Probes for each request.
pub(crate) const PROBES: usize = 3;
const MOST: usize = 16;
const OLDEST: Nanos = 1000 * MS;
/// Above this quantile of what was seen of late a server is hot.
const HOT: f64 = 0.84;
/// Numbers in flight from which the quantile is taken.
const SEEN: usize = 128;

struct Probe {
    server: usize,
    taken: Nanos,
    in_flight: usize,
    latency: Nanos,
    uses_left: u32,
}

pub(crate) struct Pool {
    probes: Vec<Probe>,
    seen: VecDeque<usize>,
    removes_oldest: bool,
    shunned_until: Vec<Nanos>,
    reuses: f64,
    now: Nanos,
}

impl Pool {
    pub(crate) fn new(servers: usize) -> Self {
        let (most, servers) = (MOST as f64, servers as f64);
        let kept = (1.0 - most / servers).max(0.0) * PROBES as f64 - 1.0;
        Self {
            probes: Vec::new(),
            seen: VecDeque::new(),
            removes_oldest: false,
            shunned_until: vec![0; servers as usize],
            reuses: if kept > 0.0 { (2.0 / kept).clamp(1.0, 8.0) } else { 8.0 },
            now: 0,
        }
    }

    pub(crate) fn shun(&mut self, server: usize, until: Nanos) {
        self.shunned_until[server] = until;
        self.probes.retain(|probe| probe.server != server);
    }

    pub(crate) fn answered(&mut self, now: Nanos, server: usize, in_flight: usize, latency: Nanos, rng: &mut SmallRng) {
        self.now = now;
        if self.shunned_until[server] > now {
            return;
        }
        self.seen.push_back(in_flight);
        if self.seen.len() > SEEN {
            self.seen.pop_front();
        }
        self.probes.push(Probe {
            server,
            taken: now,
            in_flight,
            latency,
            uses_left: self.reuses as u32 + u32::from(rng.random::<f64>() < self.reuses.fract()),
        });
        if self.probes.len() > MOST {
            self.probes.remove(0);
        }
    }

    fn hot(&self) -> usize {
        let mut seen: Vec<usize> = self.seen.iter().copied().collect();
        let at = (seen.len() as f64 * HOT) as usize;
        if at >= seen.len() {
            return usize::MAX;
        }
        *seen.select_nth_unstable(at).1
    }

    pub(crate) fn pick(&mut self, there: &[usize], tried: &[usize], rng: &mut SmallRng) -> usize {
        let now = self.now;
        self.probes.retain(|probe| probe.taken + OLDEST > now);
        let hot = self.hot();
        // Cold before hot; the cold by latency, the hot by their requests in flight.
        let rank = |probe: &Probe| match probe.in_flight > hot {
            false => (false, probe.latency),
            true => (true, probe.in_flight as Nanos),
        };
        let usable = |probe: &Probe| there.contains(&probe.server) && !tried.contains(&probe.server);
        let best = (0..self.probes.len())
            .filter(|&index| usable(&self.probes[index]))
            .min_by_key(|&index| rank(&self.probes[index]));
        let chosen = match best.filter(|_| self.probes.len() >= 2) {
            Some(best) => {
                let probe = &mut self.probes[best];
                // What is sent now is not in what it said.
                probe.in_flight += 1;
                probe.uses_left -= 1;
                let server = probe.server;
                if probe.uses_left == 0 {
                    self.probes.remove(best);
                }
                server
            }
            None => there[rng.random_range(0..there.len())],
        };
        self.remove_one(&rank);
        chosen
    }

    /// The oldest and the worst in turn, one for each request: what is left would otherwise be what nobody wants.
    fn remove_one(&mut self, rank: &impl Fn(&Probe) -> (bool, Nanos)) {
        self.removes_oldest = !self.removes_oldest;
        let gone = match self.removes_oldest {
            true => (!self.probes.is_empty()).then_some(0),
            false => (0..self.probes.len()).max_by_key(|&index| rank(&self.probes[index])),
        };
        if let Some(gone) = gone {
            self.probes.remove(gone);
        }
    }
}
