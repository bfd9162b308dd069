//! Pilot: the abstract model of services, its translation to Envoy resources, and the xDS server.
//!
//! Platforms register services and endpoints through [`registry`]; operators' configuration arrives from
//! `xebec-galley`; [`mesh`] joins both into immutable snapshots; [`translate`] turns a snapshot and a proxy's
//! shape into Envoy resources; [`xds`] serves them.
//!
//! Start reading at [`model`], then [`resources`], the boundary between what is computed and what is served.
//!
//! Invariants:
//!
//! - ALWAYS: work per change is proportional to what changed and to who subscribed to it.
//! - ALWAYS: a resource is encoded once per shape, and its version is the hash of its content.
//! - NEVER: I/O, clocks or locks below [`translate`].

pub mod catalog;
pub mod engine;
pub mod mesh;
pub mod model;
pub mod proxy;
pub mod registry;
pub mod resources;
pub mod translate;
pub mod xds;
