//! HTTP clients of platforms: what the adapters of Consul and Nomad share.
//!
//! Start reading at [`Client`]. [`Endpoint`] says where and as whom; [`Answer`] is what came back whole; [`ClientError`] is why
//! nothing did; [`Backoff`] says when to try again.
//!
//! Promises:
//!
//! - ALWAYS: an [`Answer`] is complete, of a 2xx status, and within the limit of size. Whatever else the platform said or did not say is
//!   an error, so that no caller can take an outage for an empty list.
//! - ALWAYS: a request ends: it has a limit for connecting, for its answer to begin, for every pause within it, and for how slowly it
//!   comes.
//! - ALWAYS: tokens and certificates are read again when their files change. A certificate that cannot be used keeps the last good one.
//! - NEVER: a token in a log, an error or a `Debug` text. NEVER a redirect that is followed: it would carry the token elsewhere.

mod backoff;
mod client;
mod error;
mod files;
mod lines;
mod transport;

pub use backoff::Backoff;
pub use client::{Answer, Client, Endpoint, Options, TlsFiles, TokenSource, json};
pub use error::ClientError;
pub use http::HeaderMap;
pub use lines::Lines;

#[cfg(test)]
mod tests;
