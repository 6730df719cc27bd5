use std::collections::VecDeque;

use super::*;
use proptest::prelude::*;

/// A sender with whole messages to send, and a consumer that takes them when it is told to.
#[derive(Default)]
struct Sender {
    window: SendWindow,
    messages: VecDeque<(usize, u64)>,
    /// Bytes of the first message that are left, once its head was sent.
    body: Option<u64>,
    held: VecDeque<u64>,
}

struct World {
    ledger: Ledger,
    senders: Vec<Sender>,
}

impl World {
    fn new(budget: u64, messages: &[Vec<(usize, u64)>]) -> Self {
        let mut ledger = Ledger::new(budget);
        let senders = (0..).zip(messages).map(|(exchange, messages)| {
            ledger.open(exchange);
            Sender {
                messages: messages.iter().copied().collect(),
                ..Sender::default()
            }
        });
        let senders = senders.collect();
        Self { ledger, senders }
    }

    fn deliver(&mut self) {
        for grant in self.ledger.take_grants() {
            self.senders[grant.exchange as usize].window.grant(grant.bytes);
        }
    }

    /// Sends one frame of an exchange; whether there was anything that could be sent.
    fn send(&mut self, index: usize) -> bool {
        let sender = &mut self.senders[index];
        let exchange = index as u64;
        let Some(&(head, body)) = sender.messages.front() else {
            return false;
        };
        let left = match sender.body {
            None => {
                if !sender.window.take_head(head) {
                    return false;
                }
                self.ledger.head(exchange, head, body).unwrap();
                body
            }
            Some(left) => {
                let taken = sender.window.take((left as usize).min(MAX_PAYLOAD));
                if taken == 0 {
                    return false;
                }
                self.ledger.data(exchange, taken).unwrap();
                left - taken as u64
            }
        };
        sender.body = Some(left);
        if left == 0 {
            let cost = head as u64 + HEAD_COST + body;
            sender.body = None;
            sender.messages.pop_front();
            sender.held.push_back(cost);
            self.ledger.hold(exchange, cost);
        }
        self.deliver();
        true
    }

    fn consume(&mut self, index: usize) -> bool {
        let Some(cost) = self.senders[index].held.pop_front() else {
            return false;
        };
        self.ledger.consumed(index as u64, cost);
        self.deliver();
        true
    }
}

fn messages() -> impl Strategy<Value = Vec<Vec<(usize, u64)>>> {
    let body = prop_oneof![Just(0), 1..200_000u64, (WINDOW - 5)..5 * WINDOW];
    let message = (prop_oneof![0..100usize, Just(MAX_PAYLOAD)], body);
    prop::collection::vec(prop::collection::vec(message, 0..6), 1..5)
}

proptest! {
    #[test]
    fn whatever_the_order_all_messages_arrive_and_the_budget_holds(
        messages in messages(),
        budget in 0..4 * WINDOW,
        order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..200),
    ) {
        let mut world = World::new(budget, &messages);
        let longest = messages.iter().flatten().map(|&(_, body)| body).max().unwrap_or(0);
        for (index, consume) in order {
            let index = index.index(messages.len());
            match consume {
                true => world.consume(index),
                false => world.send(index),
            };
            prop_assert!(world.ledger.granted() <= budget + longest + WINDOW);
        }
        // Whatever came before, everything ends when all take part.
        loop {
            let mut moved = false;
            for index in 0..messages.len() {
                moved |= world.send(index);
                moved |= world.consume(index);
            }
            if !moved {
                break;
            }
        }
        prop_assert!(world.senders.iter().all(|sender| sender.messages.is_empty()));
        prop_assert_eq!(world.ledger.granted(), 0);
    }

    #[test]
    fn a_consumer_that_takes_nothing_holds_a_window_and_a_message(messages in prop::collection::vec((0..100usize, 0..2 * WINDOW), 50)) {
        let longest = messages.iter().map(|&(_, body)| body).max().unwrap_or(0);
        let mut world = World::new(WINDOW, &[messages]);
        while world.send(0) {}
        let held: u64 = world.senders[0].held.iter().sum();
        prop_assert!(held <= 2 * WINDOW + longest, "{held}");
    }
}

#[test]
fn a_slow_consumer_holds_up_nobody() {
    let mut world = World::new(WINDOW, &[vec![(0, 3 * WINDOW); 5], vec![(0, 3 * WINDOW); 5]]);
    while world.send(0) {}
    assert!(!world.senders[0].messages.is_empty());
    while world.send(1) || world.consume(1) {}
    assert!(world.senders[1].messages.is_empty());
}

#[test]
fn small_messages_cost_no_credit() {
    let mut world = World::new(WINDOW, &[vec![(100, 4096)]]);
    while world.send(0) || world.consume(0) {}
    assert_eq!(world.senders[0].window.left(), WINDOW - 100 - HEAD_COST - 4096);
}

#[test]
fn more_than_was_granted_is_an_error() {
    let mut ledger = Ledger::new(0);
    ledger.open(1);
    ledger.head(1, 0, 4 * WINDOW).unwrap();
    let error = ledger.data(1, WINDOW as usize).unwrap_err();
    assert_eq!(
        error,
        Overrun {
            exchange: 1,
            over: HEAD_COST
        }
    );
    assert_eq!(ledger.data(9, 1 << 30), Ok(()));
}
