//! The invariants find what they are there to find.
