//! The server's metrics, under Istio's names.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, gauge, histogram};

use super::session::Refusal;
use crate::proxy::Proxy;
use crate::resources::ResourceType;

/// Handles that are looked up once.
#[derive(Debug)]
pub(crate) struct Meters {
    pushes: [Counter; 5],
    push_time: [Histogram; 5],
    sizes: [Histogram; 5],
    expired: [Counter; 5],
    rejects: Counter,
    convergence: Histogram,
}

/// Counts a stream in `pilot_xds` until dropped.
#[derive(Debug)]
pub(crate) struct Connected {
    version: Arc<str>,
}

// === impl Meters ===

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            pushes: ResourceType::ALL.map(|kind| counter!("pilot_xds_pushes", "type" => word(kind))),
            push_time: ResourceType::ALL.map(|kind| histogram!("pilot_xds_push_time", "type" => word(kind))),
            sizes: ResourceType::ALL.map(|kind| histogram!("pilot_xds_config_size_bytes", "type" => kind.type_url())),
            expired: ResourceType::ALL.map(|kind| counter!("pilot_xds_expired_nonce", "type" => kind.short())),
            rejects: counter!("pilot_total_xds_rejects"),
            convergence: histogram!("pilot_proxy_convergence_time"),
        }
    }

    /// An answer was made in `took` and has `bytes`.
    pub(crate) fn pushed(&self, kind: ResourceType, took: Duration, bytes: usize) {
        self.pushes[kind as usize].increment(1);
        self.push_time[kind as usize].record(took.as_secs_f64());
        self.sizes[kind as usize].record(bytes as f64);
    }

    pub(crate) fn stale_nonce(&self, kind: ResourceType) {
        self.expired[kind as usize].increment(1);
    }

    pub(crate) fn refused(&self, proxy: &Proxy, refusal: &Refusal) {
        self.rejects.increment(1);
        gauge!(reject_name(refusal.kind), "node" => proxy.id.to_string(), "err" => refusal.code.to_string())
            .increment(1.0);
    }

    /// A proxy has accepted everything, `took` after the change entered the mesh.
    pub(crate) fn converged(&self, took: Duration) {
        self.convergence.record(took.as_secs_f64());
    }
}

fn word(kind: ResourceType) -> &'static str {
    match kind {
        ResourceType::Cluster => "cds",
        ResourceType::Endpoint => "eds",
        ResourceType::Listener => "lds",
        ResourceType::Route => "rds",
        ResourceType::VirtualHost => "vhds",
    }
}

fn reject_name(kind: ResourceType) -> &'static str {
    match kind {
        ResourceType::Cluster => "pilot_xds_cds_reject",
        ResourceType::Endpoint => "pilot_xds_eds_reject",
        ResourceType::Listener => "pilot_xds_lds_reject",
        ResourceType::Route => "pilot_xds_rds_reject",
        ResourceType::VirtualHost => "pilot_xds_vhds_reject",
    }
}

// === impl Connected ===

impl Connected {
    pub(crate) fn new(version: &Arc<str>) -> Self {
        gauge!("pilot_xds", "version" => version.to_string()).increment(1.0);
        Self { version: Arc::clone(version) }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        gauge!("pilot_xds", "version" => self.version.to_string()).decrement(1.0);
    }
}
