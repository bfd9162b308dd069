//! What the suite needs to do to a platform, in the platform's own ways.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use xebec_testkit::Workdir;

/// The port of every instance. Kubernetes has one per service.
pub const PORT: u16 = 18080;

/// An instance as the suite registers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Unique within the platform.
    pub id: String,
    /// Unique within the suite.
    pub address: Ipv4Addr,
    /// The label `version`.
    pub version: String,
}

/// How an instance is, as the platform is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Takes traffic.
    Healthy,
    /// Fails its checks.
    Unhealthy,
    /// Is about to go.
    Draining,
}

/// Where the control plane reads.
#[derive(Debug, Clone)]
pub struct Source {
    /// For `--registry`.
    pub spec: String,
    /// For `--settings`; empty is none.
    pub settings: String,
}

/// A server that can be put behind a proxy.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Its URL.
    pub url: String,
    /// The certificates to trust, for `https`.
    pub ca: Option<std::path::PathBuf>,
}

/// A running platform. Methods panic when the platform refuses: that is no finding about an adapter.
#[allow(async_fn_in_trait)]
pub trait Platform: Sized {
    /// Whether it can say that an instance is about to go while it still serves.
    const DRAINS: bool = true;
    /// Whether a service can exist without ever having had an instance.
    const EMPTY: bool = false;

    /// Starts it; `None` when it is not here, and the test is skipped.
    async fn start(work: &Workdir) -> Option<Self>;

    /// Where the control plane reads it.
    fn source(&self) -> Source;

    /// Its server, when faults can be put in front of it.
    fn upstream(&self) -> Option<Upstream> {
        None
    }

    /// Where the control plane reads it through a proxy at `url`.
    fn source_at(&self, work: &Path, url: &str) -> Source {
        let _ = (work, url);
        unreachable!("it has no server")
    }

    /// The first two numbers of its instances' addresses.
    fn network(&self) -> [u8; 2] {
        [127, 77]
    }

    /// The hostname of a service.
    fn host(&self, service: &str) -> String;

    /// Registers a service without instances, on platforms that have such.
    async fn put_empty(&mut self, service: &str) {
        let _ = service;
    }

    /// Registers an instance, or changes it.
    async fn put(&mut self, service: &str, instance: &Instance);

    /// Takes an instance away.
    async fn remove(&mut self, service: &str, instance: &Instance);

    /// Says how an instance is.
    async fn set_health(&mut self, service: &str, instance: &Instance, health: Health);

    /// Makes a thousand changes to one service as fast as the platform takes them. Returns each final endpoint (`ADDRESS:PORT`) with
    /// its label `version`.
    async fn burst(&mut self, service: &str) -> BTreeMap<String, String>;

    /// Ends it without warning.
    async fn kill(&mut self);

    /// Brings it back, with its data.
    async fn restart(&mut self);
}

// === impl Instance ===

impl Instance {
    /// One with an address of this network that no other number has.
    pub fn numbered(service: &str, number: u8, network: [u8; 2]) -> Self {
        let [a, b] = network;
        let group = service.bytes().fold(7_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
        Self {
            id: format!("{service}-{number}"),
            address: Ipv4Addr::new(a, b, group, number.wrapping_add(1)),
            version: "v1".to_owned(),
        }
    }

    /// As an endpoint.
    pub fn endpoint(&self) -> String {
        format!("{}:{PORT}", self.address)
    }
}
