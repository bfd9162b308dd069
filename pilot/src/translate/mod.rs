//! Translation: pure functions from the mesh and a proxy's shape to encoded Envoy resources.
//!
//! Everything that a policy does to a proxy's configuration is visible here and testable with plain values. Start reading at
//! [`View`], what a proxy of one shape can see, then [`outbound`] and [`inbound`] for sidecars, [`gateway`] for gateways and
//! [`grpc`] for gRPC programs that need no proxy.
//!
//! Invariants:
//!
//! - ALWAYS: equal inputs make equal bytes, in every run of every process. A version is the hash of these bytes.
//! - ALWAYS: what is left out of the translation is said in a [`Note`], by name and place.
//! - NEVER: I/O, clocks, locks, panics.
//! - NEVER: a filter, cluster type or field that stock Envoy does not have, or has deprecated.

mod cluster;
mod endpoints;
mod filters;
pub(crate) mod names;
mod notes;
mod policy;
mod route;
mod transport;
mod wire;

pub mod gateway;
pub mod grpc;
pub mod inbound;
pub mod outbound;
pub mod static_config;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
pub(crate) mod fixture;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xebec_galley::SourceRef;
use xebec_galley::spec::{
    AccessLogEncoding, HttpRetry, MeshOutboundTrafficPolicyMode, OutboundTrafficPolicyMode, PathNormalizationType,
};

pub use notes::notes;

use crate::mesh::{Mesh, MeshDestinationRule, MeshService, Scope};
use crate::model::{Labels, Port, Protocol};
use crate::proxy::{Interception, OutboundShape, ProxyKind};
use crate::resources::{Encoded, ResourceType};

/// What proxies of one shape see: the mesh, who they are, and which services and rules are in their scope.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The mesh at one moment.
    pub mesh: &'a Mesh,
    /// Everything about the proxy that can change the output.
    pub shape: &'a OutboundShape,
    /// What its Sidecar resource, or the default scope, lets it see.
    pub scope: &'a Scope,
}

/// A translated resource, encoded, before it is hashed and shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its type.
    pub kind: ResourceType,
    /// Its xDS name.
    pub name: Arc<str>,
    /// The encoded message, without its `Any` envelope.
    pub body: Bytes,
    /// The documents that it was made from, each once, in the order of their influence.
    pub origins: Vec<SourceRef>,
}

/// Something that an operator wrote and that this translation does not do, or not as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Note {
    /// Where it was written. `None` for what a registry said.
    pub origin: Option<SourceRef>,
    /// What it concerns, for example `VirtualService default/reviews http[0]`.
    pub subject: String,
    /// What is not done, and what to do about it.
    pub text: String,
}

// === impl Draft ===

impl Draft {
    fn new(kind: ResourceType, name: impl Into<Arc<str>>, body: Bytes, origins: Vec<SourceRef>) -> Self {
        let mut unique: Vec<SourceRef> = Vec::with_capacity(origins.len());
        for origin in origins {
            if !unique.contains(&origin) {
                unique.push(origin);
            }
        }
        Self { kind, name: name.into(), body, origins: unique }
    }

    /// Hashes the bytes, which makes the resource's version.
    pub fn seal(self) -> Encoded {
        Encoded::new(self.name, self.body, self.origins.into())
    }
}

// === impl View ===

impl<'a> View<'a> {
    /// The client's namespace.
    fn namespace(&self) -> &'a str {
        &self.scope.namespace
    }

    /// The client's labels, as far as rules select by them.
    fn labels(&self) -> &'a Labels {
        &self.scope.labels
    }

    /// The full name and, when it is in scope, the service of a host that a rule in `namespace` writes.
    fn destination(&self, written: &'a str, namespace: &str) -> (Cow<'a, str>, Option<&'a MeshService>) {
        let host = self.mesh.resolve_host(written, namespace, self.scope);
        let service = self.service(&host);
        (host, service)
    }

    /// The service that this client means by a full name.
    fn service(&self, host: &str) -> Option<&'a MeshService> {
        self.mesh.service_in(host, self.scope).map(|s| &**s)
    }

    /// The DestinationRule that holds for a service.
    fn rule_of(&self, service: &MeshService) -> Option<&'a MeshDestinationRule> {
        self.mesh.destination_rule_for(&service.service, self.scope).map(|r| &**r)
    }

    fn default_retries(&self) -> Option<&'a HttpRetry> {
        self.mesh.settings.default_http_retry_policy.as_ref()
    }

    fn is_intercepted(&self) -> bool {
        self.shape.kind == ProxyKind::Sidecar && self.shape.interception != Interception::None
    }

    /// Whether calls to unknown hosts go where the client dialled. The Sidecar's word counts more than the mesh's.
    fn allows_any(&self) -> bool {
        match self.scope.sidecar.as_ref().and_then(|s| s.spec.outbound_traffic_policy.as_ref()) {
            Some(policy) => policy.mode == OutboundTrafficPolicyMode::AllowAny,
            None => self
                .mesh
                .settings
                .outbound_traffic_policy
                .as_ref()
                .is_none_or(|p| p.mode != MeshOutboundTrafficPolicyMode::RegistryOnly),
        }
    }
}

/// The mesh's access log, when there is one.
fn access_log(mesh: &Mesh) -> Option<filters::AccessLog> {
    let settings = &mesh.settings;
    if settings.access_log_file.is_empty() {
        return None;
    }
    let format = (!settings.access_log_format.is_empty()).then(|| match settings.access_log_encoding {
        AccessLogEncoding::Json => {
            serde_json::from_str::<std::collections::BTreeMap<String, String>>(&settings.access_log_format)
                .map_or_else(|_| filters::LogFormat::Text(settings.access_log_format.clone()), filters::LogFormat::Json)
        }
        AccessLogEncoding::Text => filters::LogFormat::Text(settings.access_log_format.clone()),
    });
    Some(filters::AccessLog { path: settings.access_log_file.clone(), format })
}

/// What a port is taken to speak. One that does not say is told from the first bytes, except where servers speak first, or where
/// clients may: looking would wait for ever.
fn protocol_of(port: &Port) -> Protocol {
    const NEVER_SNIFFED: [u16; 4] = [25, 53, 3306, 27017];
    match port.protocol {
        Protocol::Auto if NEVER_SNIFFED.contains(&port.number) => Protocol::Tcp,
        said => said,
    }
}

/// How the mesh makes paths canonical.
fn paths(mesh: &Mesh) -> PathNormalizationType {
    mesh.settings.path_normalization.as_ref().map(|p| p.normalization).unwrap_or_default()
}

/// What the mesh's settings say about every cluster.
fn cluster_defaults(mesh: &Mesh) -> cluster::Defaults<'_> {
    let settings = &mesh.settings;
    cluster::Defaults {
        connect_timeout: settings.connect_timeout.filter(|t| !t.is_zero()).map_or(Duration::from_secs(10), |t| t.0),
        h2_upgrade: settings.h2_upgrade_policy,
        keepalive: settings.tcp_keepalive.as_ref(),
        dns_refresh_rate: settings.dns_refresh_rate.filter(|t| !t.is_zero()).map_or(Duration::from_secs(60), |t| t.0),
    }
}
