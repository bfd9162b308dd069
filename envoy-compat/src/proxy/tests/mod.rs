//! The data path against real peers on loopback, configured straight from model values.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixture;
mod http;
mod reload;
mod resilience;
mod shutdown;
mod tcp;
