//! The messages of a sequence that a node may need again.
//!
//! A message whose state would not survive its node is kept after it has its outcome: a node that takes the sequence over
//! goes on from the last durable state, and needs what came after.

use std::collections::VecDeque;

use grid_core::tensor::Tensor;

/// A message of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    /// From 1, without a gap.
    pub(super) number: u64,
    /// Names of the inputs.
    pub(super) names: Vec<String>,
    /// The inputs.
    pub(super) inputs: Vec<Tensor>,
    /// No other follows.
    pub(super) end: bool,
}

impl Message {
    fn bytes(&self) -> usize {
        self.inputs.iter().map(|tensor| tensor.data().len()).sum()
    }
}

/// Those that are kept: without a gap, up to the last one that came.
#[derive(Debug)]
pub(super) struct Replay {
    kept: VecDeque<Message>,
    bytes: usize,
    most: usize,
    most_bytes: usize,
    next: u64,
}

impl Replay {
    /// Nothing is kept; the next number is `next`.
    pub(super) fn new(next: u64, most: usize, most_bytes: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            most: most.max(1),
            most_bytes,
            next,
        }
    }

    /// Whether no further message may come before some of those that are kept are durable. One is always taken.
    pub(super) fn is_full(&self) -> bool {
        self.kept.len() >= self.most || (self.bytes >= self.most_bytes && !self.kept.is_empty())
    }

    /// The next message.
    pub(super) fn push(&mut self, message: Message) {
        self.next = message.number + 1;
        self.bytes += message.bytes();
        self.kept.push_back(message);
    }

    /// The states up to this number are durable.
    pub(super) fn durable(&mut self, number: u64) {
        while self.kept.front().is_some_and(|message| message.number <= number)
            && let Some(message) = self.kept.pop_front()
        {
            self.bytes -= message.bytes();
        }
    }

    /// The first number that is kept; the next one where nothing is.
    pub(super) fn oldest(&self) -> u64 {
        self.kept.front().map_or(self.next, |message| message.number)
    }

    /// The last one that is kept.
    pub(super) fn newest(&self) -> Option<u64> {
        self.kept.back().map(|message| message.number)
    }

    pub(super) fn get(&self, number: u64) -> Option<&Message> {
        let position = usize::try_from(number.checked_sub(self.oldest())?).ok()?;
        self.kept.get(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64, bytes: usize) -> Message {
        Message {
            number,
            names: vec!["x".to_owned()],
            inputs: vec![Tensor::from_values([bytes].into(), &vec![0u8; bytes]).unwrap()],
            end: false,
        }
    }

    #[test]
    fn what_is_durable_is_forgotten_and_the_rest_is_found_by_its_number() {
        let mut replay = Replay::new(1, 10, 1000);
        (1..=5).for_each(|number| replay.push(message(number, 10)));
        replay.durable(3);
        assert_eq!((replay.oldest(), replay.newest()), (4, Some(5)));
        assert_eq!(replay.get(3), None);
        assert_eq!(replay.get(5).unwrap().number, 5);
        assert_eq!(replay.get(6), None);
        replay.durable(u64::MAX);
        assert_eq!((replay.oldest(), replay.newest(), replay.bytes), (6, None, 0));
    }

    #[test]
    fn it_is_bounded_in_count_and_in_bytes_and_takes_at_least_one() {
        let mut replay = Replay::new(1, 2, 100);
        assert!(!replay.is_full());
        replay.push(message(1, 500));
        assert!(replay.is_full(), "by its bytes");
        replay.durable(1);
        replay.push(message(2, 1));
        assert!(!replay.is_full());
        replay.push(message(3, 1));
        assert!(replay.is_full(), "by its count");
    }
}
