//! The way to a grid: the link that nodes and apps share.

#![forbid(unsafe_code)]

pub mod link;
