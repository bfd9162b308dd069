//! The consuming side of xDS: the Rust sidecar, and bootstraps for stock Envoy.
//!
//! A proxy here is a client of the wire, as Envoy is: it knows Envoy's API and nothing of the control plane behind it.
//!
//! ```text
//! xDS stream ──> xds::client ──> xds::store (accept, warm, order) ──> convert ──> model (immutable snapshot) ──> proxy workers
//!                                      └── admin: what is held, what was refused, what is ignored
//! ```
//!
//! Start reading at [`run`], which joins the parts; then [`xds`] for the protocol and [`convert`] for what is honoured.
//!
//! Invariants:
//!
//! - ALWAYS: the last accepted configuration keeps serving, whatever happens to the control plane.
//! - ALWAYS: a field of Envoy's API is honoured, ignored and reported, or refused; it is refused only when serving without it
//!   would weaken security or send traffic to the wrong place.
//! - NEVER: a snapshot that names a cluster before that cluster can be used, when waiting can avoid it.

pub mod admin;
pub mod bootstrap;
pub mod convert;
pub mod model;
pub mod node;
pub mod proxy;
pub mod run;
pub mod xds;

pub use node::{Interception, Locality, NodeConfig, NodeKind};
pub use run::{Sidecar, SidecarConfig, SidecarHandle};
