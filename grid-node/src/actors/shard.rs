//! The shard actor: one incarnation of one instance of a replica.
//!
//! Its inference mailbox is its [`Lane`]; its actix mailbox takes what concerns its life. However it ends, by request,
//! because its model panicked or because it panicked itself, its supervisor hears of it: the report is sent when the
//! actor is dropped, which unwinding does too.

use std::sync::Arc;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, Recipient};

use super::shard_supervisor::InstanceId;
use crate::compute::{Lane, LaneOptions};
use crate::runtime::Instance;

/// One incarnation of an instance.
pub struct ShardActor {
    lane: Arc<Lane>,
    exit: Exit,
}

/// The supervisor is told that an incarnation ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Exited {
    pub(super) instance: InstanceId,
    pub(super) incarnation: u64,
    pub(super) reason: &'static str,
}

/// Reports the end when dropped.
struct Exit {
    instance: InstanceId,
    incarnation: u64,
    reason: &'static str,
    supervisor: Recipient<Exited>,
    lane: Arc<Lane>,
}

impl Drop for Exit {
    fn drop(&mut self) {
        // First the lane: once the supervisor knows, no request may be left in it without an outcome.
        self.lane.close();
        self.supervisor.do_send(Exited {
            instance: self.instance.clone(),
            incarnation: self.incarnation,
            reason: self.reason,
        });
    }
}

impl ShardActor {
    /// Starts an incarnation on the present arbiter, and returns its address and the lane to it.
    pub(super) fn spawn(
        instance_id: InstanceId,
        incarnation: u64,
        options: LaneOptions,
        instance: Box<dyn Instance>,
        supervisor: Recipient<Exited>,
    ) -> (actix::Addr<Self>, Arc<Lane>) {
        let mut made = None;
        let addr = Self::create(|ctx: &mut Context<Self>| {
            let addr = ctx.address();
            let on_panic = Box::new(move || addr.do_send(ModelPanicked));
            let lane = Arc::new(Lane::new(options, instance, on_panic));
            made = Some(Arc::clone(&lane));
            let exit = Exit {
                instance: instance_id,
                incarnation,
                reason: "its actor panicked",
                supervisor,
                lane: Arc::clone(&lane),
            };
            Self { lane, exit }
        });
        let lane = made.expect("`create` calls its closure before it returns");
        (addr, lane)
    }

    fn stop(&mut self, reason: &'static str, ctx: &mut Context<Self>) {
        self.exit.reason = reason;
        self.lane.close();
        ctx.stop();
    }
}

impl Actor for ShardActor {
    type Context = Context<Self>;
}

/// A run of the instance panicked. What it computed is answered; the instance is not trusted any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ModelPanicked;

impl Handler<ModelPanicked> for ShardActor {
    type Result = ();

    fn handle(&mut self, _: ModelPanicked, ctx: &mut Self::Context) {
        self.stop("its model panicked", ctx);
    }
}

/// The supervisor ends this incarnation for good.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Retire;

impl Handler<Retire> for ShardActor {
    type Result = ();

    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        self.stop("it was retired", ctx);
    }
}

/// Makes the actor panic: the fault that tests inject.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Crash;

impl Handler<Crash> for ShardActor {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("a crash that was asked for");
    }
}
