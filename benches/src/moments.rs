//! When things were first seen: endpoints by a client of ours, notifications by a bare client of a platform.
//!
//! ALWAYS: only the first time counts, so a key has to name what is new (an address, a state), not merely where it is.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use prost::Message;
use tokio::sync::Notify;
use xebec_proto::envoy::config::core::v3::HealthStatus;
use xebec_proto::envoy::config::core::v3::address::Address;
use xebec_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use xebec_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use xebec_proto::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};

use crate::wire;

/// First times, by key.
#[derive(Debug, Default)]
pub struct Moments {
    first: Mutex<HashMap<String, Instant>>,
    changed: Notify,
}

/// Endpoints that were received, of the hosts that are followed. An endpoint is there under `HOST IP:PORT`, and under
/// `HOST IP:PORT HEALTH`.
#[derive(Debug, Default)]
pub struct Sightings {
    hosts: Mutex<HashSet<String>>,
    moments: Moments,
}

// === impl Moments ===

impl Moments {
    /// Notes that `key` was seen.
    pub fn note(&self, key: String, at: Instant) {
        lock(&self.first).entry(key).or_insert(at);
        self.changed.notify_waiters();
    }

    /// Waits until `key` has been seen, and says when that was.
    pub async fn of(&self, key: &str, limit: Duration) -> Result<Instant> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(at) = lock(&self.first).get(key) {
                return Ok(*at);
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                bail!("{key} was not seen within {limit:?}");
            }
        }
    }

    /// Forgets everything.
    pub fn forget(&self) {
        lock(&self.first).clear();
    }
}

// === impl Sightings ===

impl Sightings {
    /// Notes from now on the endpoints of these hosts, and of no others; what was seen before is forgotten.
    pub fn follow(&self, hosts: impl IntoIterator<Item = String>) {
        *lock(&self.hosts) = hosts.into_iter().collect();
        self.moments.forget();
    }

    /// When an endpoint was first received, in any state of health; waits for it.
    pub async fn endpoint(&self, host: &str, address: &str, limit: Duration) -> Result<Instant> {
        self.moments.of(&format!("{host} {address}"), limit).await
    }

    /// When an endpoint was first received in this state of health; waits for it.
    pub async fn health(&self, host: &str, address: &str, health: HealthStatus, limit: Duration) -> Result<Instant> {
        self.moments.of(&format!("{host} {address} {}", health.as_str_name()), limit).await
    }

    /// Takes what is followed from an answer with endpoints.
    pub fn look(&self, answer: &wire::Answer<'_>, at: Instant) -> Result<()> {
        let hosts = lock(&self.hosts);
        for resource in &answer.resources {
            let host = resource.name.rsplit('|').next().unwrap_or_default();
            if !hosts.contains(host) {
                continue;
            }
            let assignment = ClusterLoadAssignment::decode(resource.body)?;
            for endpoint in assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints) {
                let Some(mut key) = address(endpoint).map(|address| format!("{host} {address}")) else { continue };
                self.moments.note(key.clone(), at);
                let health = match endpoint.health_status() {
                    // What is said of an endpoint that nobody checked.
                    HealthStatus::Unknown => HealthStatus::Healthy,
                    health => health,
                };
                // Writing to a String cannot fail.
                let _ = write!(key, " {}", health.as_str_name());
                self.moments.note(key, at);
            }
        }
        Ok(())
    }
}

fn address(endpoint: &LbEndpoint) -> Option<String> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { return None };
    let Some(Address::SocketAddress(socket)) = &endpoint.address.as_ref()?.address else { return None };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
    Some(format!("{}:{port}", socket.address))
}

/// A lock that a panic elsewhere does not spoil: the values behind it are plain.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
