//! Dispatch alone: router, shard actor, lane and pool with a model that gives its input back; no HTTP, no encoding.
//!
//! A node is started in this process, so that its models have supervised shard actors and its metrics are recorded; the
//! bench has a router of its own, as a worker thread of a gateway has, and sends it requests from the router's thread.
//! Every figure is a median over rounds in which all measures take turns. Three parts:
//!
//! - *Inline*: the request runs on the caller's thread. Printed beside it is what it is made of, each part measured alone,
//!   and what an actor's mailbox would add.
//! - *Queued* (`inline_below = 0`): the request goes to a compute thread and back. The floor is a ping-pong between two
//!   threads that carries the same things through a queue under a lock and a oneshot channel.
//! - *Batched*: the same with a `max_batch_size`.
//!
//! `cargo bench -p grid-tests --bench dispatch -- [ROUNDS [SECONDS]]`

use std::collections::VecDeque;
use std::error::Error;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler, Message, SystemRunner};
use grid_core::batching::{DEFAULT_PRIORITY, Entry};
use grid_core::model::Dim;
use grid_core::tensor::Tensor;
use grid_node::Node;
use grid_node::actors::{RouterHandle, RouterOptions, VersionRoute};
use grid_node::compute::{Answer, Outcome, Pool, Request, Timing};
use grid_node::loading::available_cores;
use grid_node::runtime::{Inputs, Model, Progress, Work};
use grid_tests::bench::{Arguments, Side, in_turns};
use grid_tests::embedded::{Repository, start_node};
use grid_tests::identity::{Identity, IdentityModel};
use grid_tests::median;
use tokio::sync::oneshot;
use tracing::{Span, debug_span};

const IN_FLIGHT: [usize; 3] = [1, 8, 64];
/// Requests in flight where the inline path is looked at under load.
const CROWD: usize = 32;
const BATCHED_IN_FLIGHT: usize = 64;
const MAX_BATCH: usize = 32;
/// Time that a request has: so long that it never ends one here.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Requests after which a lane surely knows how long its runs take.
const LEARNING: usize = 100;
/// How often to try for a window in which no run was preempted.
const TRIES: usize = 20;

/// How often a part occurs on the inline path, in the order of [`parts`]: to be kept in step with `RouterHandle::dispatch`
/// and `Lane::run_inline`.
const OCCURRENCES: [(&str, usize); 8] = [
    ("make the request (a clock, a tensor, a span)", 1),
    ("read the clock", 2),
    ("a disabled span", 2),
    ("lock and unlock a Mutex", 2),
    ("record into a histogram", 3),
    ("clone and drop the inputs", 1),
    ("count in and out (an Arc and two atomics)", 1),
    ("catch_unwind around the identity's step", 1),
];

type Measure<'a> = Side<'a, Figure, Box<dyn Error>>;

/// What a measure found in one round.
#[derive(Clone, Copy, Debug)]
struct Figure {
    nanos: f64,
    /// Rows of the average run, where that was looked at.
    rows: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::of_process();
    let rounds = arguments.at(0, 5)?;
    let window = Duration::from_secs_f64(arguments.at(1, 0.5)?);
    let system = actix::System::new();
    let inline = Bed::start(&system, "")?;
    let queued = Bed::start(&system, "compute.inline_below = \"0us\"")?;
    println!(
        "dispatch of an identity model; medians of {rounds} rounds of {window:?}; ns a message unless another unit is named\n"
    );
    print_inline(&system, &inline, rounds, window)?;
    print_queued(&system, &queued, rounds, window)
}

/// A node with identity models, and a router on this thread to send to them.
struct Bed {
    plain: Target,
    batched: Target,
    _node: Node,
    _repository: Repository,
}

/// A model, and the way to it.
#[derive(Clone)]
struct Target {
    router: RouterHandle,
    route: Arc<VersionRoute>,
    inputs: Inputs,
}

impl Bed {
    fn start(system: &SystemRunner, config: &str) -> Result<Self, Box<dyn Error>> {
        // One instance, as the floor has one thread.
        let repository = Repository::default().with("plain", "instances = 1", "").with(
            "batched",
            &format!("instances = 1\n[batching]\nmax_batch_size = {MAX_BATCH}"),
            "",
        );
        let node = start_node(&repository, config, Arc::new(Identity(Dim::Fixed(16))));
        let options = RouterOptions {
            routes: Arc::clone(node.routes()),
            // A lane is served by whichever pool is told of it; the node's own one sleeps.
            pool: Pool::start(available_cores())?,
            place: 0,
            retries: Arc::default(),
        };
        let router = system.block_on(async { RouterHandle::start(options) });
        let tensor = Tensor::from_values([1, 16].into(), &[1.0_f32; 16])?;
        let target = |model: &str| -> Result<Target, Box<dyn Error>> {
            Ok(Target {
                router: router.clone(),
                route: node.routes().resolve(model, None)?,
                inputs: [tensor.clone()].into_iter().collect(),
            })
        };
        let bed = Self {
            plain: target("plain")?,
            batched: target("batched")?,
            _node: node,
            _repository: repository,
        };
        bed.plain.learn(system)?;
        bed.batched.learn(system)?;
        Ok(bed)
    }
}

impl Target {
    /// What a gateway makes of a body.
    fn request(&self) -> Request {
        let arrived = Instant::now();
        Request {
            partial: None,
            inputs: self.inputs.clone(),
            entry: Entry {
                key: 0,
                rows: 1,
                priority: DEFAULT_PRIORITY,
                arrived,
            },
            deadline: arrived + TIMEOUT,
            span: Span::none(),
        }
    }

    /// Lets the lane measure its run time: while that is unknown, or looks long, requests are queued.
    fn learn(&self, system: &SystemRunner) -> Result<(), Box<dyn Error>> {
        for _ in 0..LEARNING {
            system.block_on(self.send())?;
        }
        Ok(())
    }

    async fn send(&self) -> Result<(), Box<dyn Error>> {
        self.router.dispatch(&self.route, self.request()).await?;
        Ok(())
    }
}

/// How many times something is done between two looks at the clock.
const BETWEEN_LOOKS: u32 = 256;

/// Nanoseconds that `once` takes, done over and over for that long.
fn timed(window: Duration, mut once: impl FnMut()) -> Figure {
    let (start, mut count) = (Instant::now(), 0_u64);
    loop {
        for _ in 0..BETWEEN_LOOKS {
            once();
        }
        count += u64::from(BETWEEN_LOOKS);
        let elapsed = start.elapsed();
        if elapsed >= window {
            return Figure::of(elapsed, count);
        }
    }
}

/// The same for something that is awaited.
async fn timed_async(window: Duration, mut once: impl AsyncFnMut()) -> Figure {
    let (start, mut count) = (Instant::now(), 0_u64);
    loop {
        for _ in 0..BETWEEN_LOOKS {
            once().await;
        }
        count += u64::from(BETWEEN_LOOKS);
        let elapsed = start.elapsed();
        if elapsed >= window {
            return Figure::of(elapsed, count);
        }
    }
}

/// Nanoseconds for each, with that many under way at any time.
async fn timed_in_flight(window: Duration, in_flight: usize, once: impl AsyncFn() + 'static) -> Figure {
    let (start, once) = (Instant::now(), Rc::new(once));
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let once = Rc::clone(&once);
            actix_web::rt::spawn(async move {
                let mut count = 0_u64;
                while start.elapsed() < window {
                    once().await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += task.await.unwrap_or(0);
    }
    Figure::of(start.elapsed(), count)
}

impl Figure {
    fn of(elapsed: Duration, count: u64) -> Self {
        Self {
            nanos: elapsed.as_secs_f64() * 1e9 / count as f64,
            rows: f64::NAN,
        }
    }
}

fn print_inline(system: &SystemRunner, bed: &Bed, rounds: usize, window: Duration) -> Result<(), Box<dyn Error>> {
    let target = &bed.plain;
    let lane = target.route.lanes.first().ok_or("the model has no instance")?;
    let (bare, carrying) = system.block_on(async { (Bare.start(), Carrying.start()) });
    let (bare, carrying) = (&bare, &carrying);
    let mut sides: Vec<Measure<'_>> = vec![
        Box::new(|| {
            Ok(system.block_on(timed_async(window, async || {
                black_box(target.router.dispatch(&target.route, target.request()).await).ok();
            })))
        }),
        Box::new(|| {
            // A run that was preempted looks slow, and the lane then wants some queued ones before it runs inline again.
            for _ in 0..TRIES {
                let mut inline = true;
                let figure = timed(window, || {
                    inline &= black_box(lane.run_inline(&target.request())).is_some()
                });
                if inline {
                    return Ok(figure);
                }
                target.learn(system)?;
            }
            Err("the lane does not run the identity inline".into())
        }),
        Box::new(|| {
            Ok(system.block_on(timed_async(window, async || {
                black_box(bare.send(Ping).await).ok();
            })))
        }),
        Box::new(|| {
            Ok(system.block_on(timed_async(window, async || {
                let carry = Carry {
                    route: Arc::clone(&target.route),
                    request: target.request(),
                };
                black_box(carrying.send(carry).await).ok();
            })))
        }),
        Box::new(|| {
            Ok(system.block_on(timed_async(window, async || {
                let (sender, receiver) = oneshot::channel();
                sender.send(1_u64).ok();
                black_box(receiver.await).ok();
            })))
        }),
    ];
    let crowded = sides.len();
    sides.push(Box::new(|| under_load(system, target, CROWD, window)));
    let parts_from = sides.len();
    sides.extend(parts(target, window)?);
    let rows = in_turns(rounds, sides)?;
    let of = |side: usize| median(rows.iter().map(|row| row[side].nanos));
    let [whole, in_lane, bare, carrying, oneshot] = std::array::from_fn(of);
    let request = of(parts_from);
    println!(
        "inline, one after the other, on the router's thread; budget of gateway, router, actor and lane together: 4,000"
    );
    line(
        "RouterHandle::dispatch, whole",
        whole,
        &format!("{:.2} million a second", 1e3 / whole),
    );
    line("  Lane::run_inline alone", in_lane, "");
    line("  the router's share", whole - in_lane, "");
    println!("  made of, each measured alone:");
    let mut sum = 0.0;
    for (place, (part, times)) in OCCURRENCES.iter().enumerate() {
        let each = of(parts_from + place);
        sum += each * *times as f64;
        line(
            &format!("    {times} × {part}"),
            each * *times as f64,
            &format!("{each:.1} each"),
        );
    }
    line(
        "    sum of the parts",
        sum,
        &format!("{:.0} % explained", 100.0 * sum / whole),
    );
    let (request_size, outcome_size) = (size_of::<Request>(), size_of::<Outcome>());
    println!(
        "    (the rest: moving a request of {request_size} bytes and an outcome of {outcome_size}, counting, branching)"
    );
    line(
        &format!("  whole, with {CROWD} in flight"),
        of(crowded),
        "more than of one: hiccups that made it queue",
    );
    println!("  left out, for comparison:");
    line(
        "    Addr::send to a trivial actor of this thread",
        bare,
        "a mailbox, there and back",
    );
    line(
        "    the same, carrying a request and an outcome",
        carrying - request,
        "without making the request",
    );
    line("    a oneshot channel, made, sent and awaited", oneshot, "");
    println!();
    Ok(())
}

/// What the inline path is made of: one measure for each of [`OCCURRENCES`].
fn parts<'a>(target: &'a Target, window: Duration) -> Result<Vec<Measure<'a>>, Box<dyn Error>> {
    let mutex = Mutex::new(0_u64);
    let counter = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let model: Arc<dyn Model> = Arc::new(IdentityModel::new(Dim::Fixed(16)));
    let mut instance = model.instance(None)?;
    Ok(vec![
        Box::new(move || Ok(timed(window, || drop(black_box(target.request()))))),
        Box::new(move || {
            Ok(timed(window, || {
                black_box(Instant::now());
            }))
        }),
        Box::new(move || {
            Ok(timed(window, || {
                let span = debug_span!(parent: Span::none(), "part", model = %target.route.id.name);
                span.in_scope(|| black_box(()));
            }))
        }),
        Box::new(move || {
            Ok(timed(window, || {
                if let Ok(mut locked) = mutex.lock() {
                    *locked = black_box(*locked);
                }
            }))
        }),
        Box::new(move || {
            let histogram = &target.route.metrics.queued;
            Ok(timed(window, || histogram.record(black_box(Duration::from_nanos(100)))))
        }),
        Box::new(move || Ok(timed(window, || drop(black_box(target.inputs.clone()))))),
        Box::new(move || {
            Ok(timed(window, || {
                use std::sync::atomic::Ordering;
                counter.fetch_add(1, Ordering::Relaxed);
                let held = black_box(Arc::clone(&counter));
                held.fetch_sub(1, Ordering::Release);
            }))
        }),
        Box::new(move || {
            let mut work = [Work {
                id: 0,
                inputs: target.inputs.clone(),
                progress: Progress::Running,
            }];
            Ok(timed(window, || {
                black_box(catch_unwind(AssertUnwindSafe(|| instance.step(&mut work)))).ok();
            }))
        }),
    ])
}

fn print_queued(system: &SystemRunner, bed: &Bed, rounds: usize, window: Duration) -> Result<(), Box<dyn Error>> {
    let ping_pong = PingPong::start()?;
    let mut sides: Vec<Measure<'_>> = Vec::new();
    for in_flight in IN_FLIGHT {
        let ping_pong = ping_pong.clone();
        let target = bed.plain.clone();
        sides.push(Box::new(move || {
            let (ping_pong, target) = (ping_pong.clone(), target.clone());
            let once = async move || ping_pong.send(target.request()).await;
            Ok(system.block_on(timed_in_flight(window, in_flight, once)))
        }));
        sides.push(Box::new(move || under_load(system, &bed.plain, in_flight, window)));
    }
    let batched = sides.len();
    sides.push(Box::new(|| under_load(system, &bed.batched, BATCHED_IN_FLIGHT, window)));
    let parts = sides.len();
    sides.push(Box::new(|| {
        Ok(system.block_on(timed_async(window, async || {
            black_box(actix_web::rt::spawn(async { black_box(1) }).await).ok();
        })))
    }));
    sides.push(Box::new(|| {
        Ok(system.block_on(timed_async(window, async || {
            let timeout = tokio::time::timeout(TIMEOUT, tokio::task::yield_now());
            black_box(timeout.await).ok();
        })))
    }));
    sides.push(Box::new(|| {
        Ok(system.block_on(timed_async(window, async || tokio::task::yield_now().await)))
    }));
    let rows = in_turns(rounds, sides)?;
    let of = |side: usize| median(rows.iter().map(|row| row[side].nanos));
    println!("queued, to a compute thread and back: two hops between threads; the floor is a bare ping-pong");
    println!(
        "  {:<9} {:>9} {:>9} {:>7} {:>12} {:>12} {:>12}",
        "in flight", "floor", "node", "ratio", "node − floor", "ns a hop", "messages/s"
    );
    for (place, in_flight) in IN_FLIGHT.iter().enumerate() {
        let (floor, node) = (of(2 * place), of(2 * place + 1));
        // Several in flight share their wake-ups; only of one is it known how long a hop took.
        let hop = if *in_flight == 1 {
            format!("{:.0}", node / 2.0)
        } else {
            "–".to_owned()
        };
        println!(
            "  {in_flight:<9} {floor:>9.0} {node:>9.0} {:>7.3} {:>12.0} {hop:>12} {:>12.0}",
            median(rows.iter().map(|row| row[2 * place].nanos / row[2 * place + 1].nanos)),
            node - floor,
            1e9 / node
        );
    }
    println!("  (ratio: the node's rate by the floor's; no target is set for it)");
    println!("batched, at most {MAX_BATCH} rows, {BATCHED_IN_FLIGHT} in flight");
    let node = of(batched);
    let rows_a_run = median(rows.iter().map(|row| row[batched].rows));
    line(
        "  whole",
        node,
        &format!("{:.0} messages/s, {rows_a_run:.1} rows a run", 1e9 / node),
    );
    println!("parts of the queued path that the floor has not:");
    line(
        "  a task, spawned and awaited",
        of(parts),
        "the reply of a request that waits",
    );
    line(
        "  a timeout, set and taken back",
        of(parts + 1) - of(parts + 2),
        "the deadline",
    );
    Ok(())
}

fn line(what: &str, nanos: f64, note: &str) {
    println!("{what:<52} {nanos:>9.1}   {note}");
}

/// Sends to a model for a while, and looks at how many rows its runs had.
fn under_load(
    system: &SystemRunner,
    target: &Target,
    in_flight: usize,
    window: Duration,
) -> Result<Figure, Box<dyn Error>> {
    let before = target.route.stats();
    let sent = target.clone();
    let once = async move || {
        black_box(sent.router.dispatch(&sent.route, sent.request()).await).ok();
    };
    let figure = system.block_on(timed_in_flight(window, in_flight, once));
    let after = target.route.stats();
    if after.failed > before.failed {
        return Err("requests failed".into());
    }
    let (rows, runs) = (after.rows - before.rows, after.runs - before.runs);
    if runs == 0 {
        return Err("nothing ran".into());
    }
    Ok(Figure {
        rows: rows as f64 / runs as f64,
        ..figure
    })
}

/// The floor of a queued request: a thread that answers what stands in a queue. A lock and a condition variable are what
/// the node's pool sleeps on too; all else of the pool is left out.
#[derive(Clone)]
struct PingPong(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    queue: Mutex<VecDeque<(Request, oneshot::Sender<Outcome>)>>,
    came: Condvar,
}

impl PingPong {
    /// The thread sleeps until the end of the process once nothing is sent any more.
    fn start() -> Result<Self, Box<dyn Error>> {
        let waiting: Arc<Waiting> = Arc::default();
        let served = Arc::clone(&waiting);
        std::thread::Builder::new()
            .name("ping-pong".to_owned())
            .spawn(move || {
                while let Ok(queue) = served.queue.lock()
                    && let Ok(mut queue) = served.came.wait_while(queue, |queue| queue.is_empty())
                {
                    let first = queue.pop_front();
                    drop(queue);
                    if let Some((request, reply)) = first {
                        reply.send(identity(request)).ok();
                    }
                }
            })?;
        Ok(Self(waiting))
    }

    async fn send(&self, request: Request) {
        let (reply, answer) = oneshot::channel();
        if let Ok(mut queue) = self.0.queue.lock() {
            queue.push_back((request, reply));
        }
        self.0.came.notify_one();
        black_box(answer.await).ok();
    }
}

fn identity(request: Request) -> Outcome {
    Ok(Answer {
        outputs: request.inputs,
        timing: Timing::default(),
    })
}

/// An actor that does nothing.
struct Bare;

struct Ping;

impl Message for Ping {
    type Result = u64;
}

impl Actor for Bare {
    type Context = Context<Self>;
}

impl Handler<Ping> for Bare {
    type Result = u64;

    fn handle(&mut self, Ping: Ping, _: &mut Self::Context) -> u64 {
        1
    }
}

/// An actor that gives a request back.
struct Carrying;

struct Carry {
    route: Arc<VersionRoute>,
    request: Request,
}

impl Message for Carry {
    type Result = Outcome;
}

impl Actor for Carrying {
    type Context = Context<Self>;
}

impl Handler<Carry> for Carrying {
    type Result = Outcome;

    fn handle(&mut self, Carry { route, request }: Carry, _: &mut Self::Context) -> Outcome {
        drop(route);
        identity(request)
    }
}
