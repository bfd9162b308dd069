//! The data path: workers that accept, route and forward.
//!
//! ```text
//!            apply(Snapshot)                      one thread, one runtime, one pool per worker
//! control ──> live::Live (ArcSwap) ──version──> worker ──accept──> connection ──> http ──> router ──> pool ──> h1 | h2
//!                                                 │                    └────────> tcp
//!                                                 └── stats cells, access log buffer
//! ```
//!
//! - ALWAYS: what a request needs from configuration was compiled or counted when the configuration arrived.
//! - ALWAYS: a worker reads one immutable [`live::Live`] per request; a new one costs an integer comparison until it comes.
//! - ALWAYS: a changed configuration leaves connections open; they follow it at their next request.
//! - NEVER: a lock shared by workers on the path of a request over a pooled connection.
//!
//! Start reading at [`Workers`], then `connection.rs`, `http.rs` and `router.rs`.

mod attempt;
mod balance;
mod body;
mod clock;
mod connection;
mod control;
mod cors;
mod deadline;
mod flags;
mod h1;
mod headers;
mod http;
mod live;
mod log;
mod mirror;
mod pool;
mod record;
mod reply;
mod resolve;
mod respond;
mod retry;
mod rewrite;
mod router;
mod sniff;
mod stats;
mod stream;
mod tcp;
mod upstream;
mod worker;
mod workers;

#[cfg(test)]
mod tests;

pub use stats::{BUCKETS, HistogramSnapshot, StatsSnapshot};
pub use workers::{Applied, BindError, HostStatus, Options, Workers};
