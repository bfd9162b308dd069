//! The client of the control plane.
//!
//! - [`store`] holds what was received, decides what is accepted and when it can be used, and makes snapshots of it. It is
//!   pure: time is an argument.
//! - [`session`] is one stream's half of the protocol: which names are subscribed, what is acknowledged.
//! - [`client`] does the I/O: connects, backs off, moves messages between the two, and publishes.
//!
//! Promises:
//!
//! - ALWAYS: what was accepted last stays in use, with and without a control plane, until it is replaced or removed.
//! - ALWAYS: a response's good resources apply although others of it are refused; the refusal names each with its field.
//! - ALWAYS: a cluster waits for its endpoints, a table for its virtual hosts and its new clusters, a listener for its tables.
//!   Every wait is bounded unless the control plane asked for it to be endless.
//! - ALWAYS: a reconnecting client says what it has, so that nothing unchanged is sent again.

pub mod client;
mod kind;
pub mod session;
pub mod store;

#[cfg(test)]
pub(crate) mod tests;

pub use kind::Kind;
