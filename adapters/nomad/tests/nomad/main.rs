//! The adapter against a real Nomad agent, and against servers that misbehave in ways that a real one does not do on demand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;
mod misbehaving;
mod real;
mod support;
mod variables;
