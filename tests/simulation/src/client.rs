//! Clients: each is at home at one node, and goes to others while that one does not answer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use grid_core::InferError;
use grid_core::model::ModelId;
use grid_core::wire::codec::{decode, encode};
use grid_core::wire::handshake::Peer;
use tokio::time::{Instant, sleep};

use crate::freeze::Freezer;
use crate::history::Event;
use crate::links::{Pool, Spawner};
use crate::node::{GATEWAY, body_of};
use crate::sequence;
use crate::world::World;

/// The host that all clients run on.
pub const HOST: &str = "clients";

/// What a request has in all.
pub const DEADLINE: Duration = Duration::from_secs(4);

/// Between two requests of a client, in milliseconds.
const PAUSE: [u64; 2] = [100, 300];

/// Between two tries of a request.
const AGAIN: Duration = Duration::from_millis(100);

/// Makes requests to every node while the world is open.
///
/// # Errors
/// Never.
pub async fn run(world: Rc<World>) -> turmoil::Result {
    let panicked = {
        let world = Rc::clone(&world);
        move |message| {
            let whose = String::from(HOST);
            world.record(Event::Panicked { whose, message });
        }
    };
    let spawner = Spawner {
        freezer: Rc::new(Freezer::default()),
        panicked: Rc::new(panicked),
    };
    let pool = Rc::new(Pool::new(spawner.clone(), Peer::Client));
    for _ in 0..sequence::AT_ONCE {
        spawner.spawn(sequence::run(Rc::clone(&world), Rc::clone(&pool)));
    }
    let mut home = 0;
    loop {
        let homes = world.machines.borrow().len();
        sleep(Duration::from_millis(
            world.between(PAUSE[0], PAUSE[1]) / (homes as u64).max(1),
        ))
        .await;
        if !world.is_open.get() || homes == 0 {
            continue;
        }
        home = (home + 1) % homes;
        let Some(model) = any_model(&world) else {
            continue;
        };
        let request = world.next_request();
        world.record(Event::Sent {
            request,
            model: model.clone(),
        });
        let (world, pool) = (Rc::clone(&world), Rc::clone(&pool));
        spawner.spawn(async move {
            let result = ask(&world, &pool, home, request, model).await;
            world.record(Event::Outcome { request, result });
        });
    }
}

/// One of the models that are asked for.
pub(crate) fn any_model(world: &World) -> Option<ModelId> {
    let models = world.asked_for.borrow();
    let last = models.len().checked_sub(1)?;
    let index = world.between(0, last as u64);
    models.get(usize::try_from(index).ok()?).cloned()
}

/// One request, until it has an answer or its time is over.
async fn ask(world: &World, pool: &Pool, home: usize, request: u64, model: ModelId) -> Result<(), String> {
    let end = Instant::now() + DEADLINE;
    for attempt in 0.. {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let machine = {
            let machines = world.machines.borrow();
            Rc::clone(&machines[(home + attempt) % machines.len()])
        };
        let at = SocketAddr::new(turmoil::lookup(machine.name.as_str()), GATEWAY);
        let answer = pool.ask(at, encode(&model), body_of(request), left).await;
        // A node that is gone has lost the request, and it is stateless: it goes to the next node.
        if let Ok(answer) = answer {
            match decode::<Result<u64, InferError>>("answer", &answer.head) {
                Ok(Ok(number)) if number == request => return Ok(()),
                Ok(Err(error)) if !(error.can_retry() && world.clients_retry.get()) => return Err(error.to_string()),
                Ok(Err(_)) => {}
                wrong => return Err(format!("an answer that is none: {wrong:?}")),
            }
        }
        sleep(AGAIN).await;
    }
    Err(String::from("no answer in time"))
}
