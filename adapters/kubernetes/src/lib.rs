//! Kubernetes: Services, EndpointSlices, Pods, Nodes and Namespaces for the mesh, from an API server or from manifests.
//!
//! Start reading at [`convert`], the rules; [`state`] decides what a change changes; `watch` follows an API server, and
//! [`KubernetesRegistry`] joins them. [`ManifestRegistry`] does the same with files, and [`RemoteClusters`] finds other clusters.
//!
//! Promises:
//!
//! - ALWAYS: a change of one object costs what it touches.
//! - ALWAYS: of an object only what conversion needs is kept, and every string once.
//! - NEVER: an outage, a refusal or a broken answer removes anything. It is reported with the verb and the resource, and the last good
//!   state stays.

mod access;
mod connect;
pub mod convert;
mod files;
pub mod object;
mod registry;
mod remote;
mod skipped;
pub mod state;
mod watch;

pub use connect::{ConnectError, Connector, Manner, from_secret};
pub use files::{Loaded, ManifestRegistry};
pub use registry::{KubernetesRegistry, Settings};
pub use remote::{Registries, RemoteClusters};
pub use skipped::Skipped;
