//! Consul as a registry, and its key-value store as a source of configuration.
//!
//! Start reading at [`Settings`], which is what an operator chooses; `mapping` makes services of Consul's answers; `answer` decides
//! which answers are believed; [`ConsulRegistry`] joins them with one long poll per list of names and one per service.
//!
//! Promises:
//!
//! - ALWAYS: a change is said as soon as Consul ends the long poll of the service concerned; where more services are watched than Consul
//!   grants connections (plain HTTP), they take turns.
//! - ALWAYS: a service whose last instance is gone is there and empty, until it has been gone from the catalog for a while.
//! - NEVER: an error, a truncated answer, an answer without a leader, or one that lacks what the token may not see, removes anything.
//!   It is reported as degraded, and recovers by itself.
//! - NEVER: what a tenant of Consul writes (tags, meta, names) stops or starves the others: the one bad thing is skipped with a reason.

mod answer;
mod catalogue;
mod datacenters;
mod instances;
mod kv;
mod mapping;
mod plan;
mod registry;
mod settings;
mod turns;
mod watch;
mod wire;

pub use kv::{KvSource, KvStore, Stored};
pub use registry::ConsulRegistry;
pub use settings::{LabelSource, LocalityMeta, Services, Settings, Tls};
pub use xebec_adapter_client::ClientError;

#[cfg(test)]
mod tests;
