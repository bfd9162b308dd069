//! What one kind of client sees of the mesh: its namespace, and the hosts that its Sidecar resource imports.

use std::sync::Arc;

use xebec_galley::Resource;
use xebec_galley::spec::Sidecar;

use super::{Mesh, MeshService, MeshVirtualService, names};
use crate::model::{Labels, Visibility};
use crate::proxy::{OutboundShape, ProxyKind};

/// What a client sees. Made by [`Mesh::scope`].
#[derive(Debug, Clone)]
pub struct Scope {
    /// The client's namespace.
    pub namespace: Arc<str>,
    /// The client's labels, as far as rules select by them.
    pub labels: Labels,
    /// The Sidecar resource in force. `None` is the default scope: everything that is exported to the namespace.
    pub sidecar: Option<Arc<Resource<Sidecar>>>,
    /// What the Sidecar imports, one per egress listener. Empty when there is no Sidecar, or when it has no egress part:
    /// then everything is imported.
    pub egress: Vec<EgressListener>,
}

/// One egress listener of a Sidecar resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressListener {
    /// The one port that it is for; `None` is the catch-all for every port without one of its own.
    pub port: Option<u16>,
    /// The hosts that it imports.
    pub hosts: Vec<EgressHost>,
}

/// One `namespace/dnsName` of an egress listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressHost {
    /// Whose services; `None` is any namespace.
    pub namespace: Option<Arc<str>>,
    /// A host or a wildcard.
    pub pattern: Arc<str>,
    /// Takes out what other entries import (`~namespace/dnsName`).
    pub exclude: bool,
}

// === impl EgressHost ===

impl EgressHost {
    /// Reads `namespace/dnsName`, as a Sidecar in `own` namespace writes it. `None` for `~/...`, which imports nothing.
    pub fn parse(text: &str, own: &str) -> Option<Self> {
        let (namespace, pattern) = text.split_once('/').unwrap_or(("*", text));
        let (namespace, exclude) = match namespace.strip_prefix('~') {
            Some("") => return None,
            Some(rest) => (rest, true),
            None => (namespace, false),
        };
        let namespace = match namespace {
            "*" => None,
            "." => Some(own.into()),
            other => Some(other.into()),
        };
        Some(Self { namespace, pattern: names::lower(pattern).into_owned().into(), exclude })
    }

    fn covers(&self, namespace: &str, host: &str) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == namespace) && names::overlap(&self.pattern, host)
    }
}

// === impl EgressListener ===

impl EgressListener {
    /// Whether it imports the host of that namespace.
    pub fn imports(&self, namespace: &str, host: &str) -> bool {
        let mut imported = false;
        for entry in &self.hosts {
            if entry.covers(namespace, host) {
                if entry.exclude {
                    return false;
                }
                imported = true;
            }
        }
        imported
    }
}

// === impl Scope ===

impl Scope {
    /// Everything that is exported to `namespace`.
    pub fn namespace(namespace: &str) -> Self {
        Self { namespace: namespace.into(), labels: Labels::new(), sidecar: None, egress: Vec::new() }
    }

    /// Whether something exported like this is visible here at all.
    pub fn sees(&self, visibility: &Visibility) -> bool {
        visibility.includes(&self.namespace)
    }

    /// Whether the Sidecar imports the host of that namespace; without one, always.
    pub fn imports(&self, namespace: &str, host: &str) -> bool {
        self.egress.is_empty() || self.egress.iter().any(|listener| listener.imports(namespace, host))
    }

    /// Whether a rule takes part in this scope: it is exported here, and one of its hosts is imported.
    pub fn imports_rule(&self, rule: &MeshVirtualService) -> bool {
        self.sees(&rule.visibility)
            && (self.egress.is_empty()
                || rule.hosts.iter().any(|h| h.candidates().any(|name| self.imports(rule.namespace(), name))))
    }
}

impl Mesh {
    /// What clients of this shape see.
    pub fn scope(&self, shape: &OutboundShape) -> Scope {
        let sidecar = shape
            .sidecar
            .as_ref()
            .filter(|_| shape.kind != ProxyKind::Router)
            .and_then(|key| self.sidecars.get(key))
            .cloned();
        let egress = sidecar.as_ref().map(|s| egress_of(s)).unwrap_or_default();
        Scope { namespace: Arc::clone(&shape.namespace), labels: shape.labels.clone(), sidecar, egress }
    }

    /// Whether a service is in the scope: exported to it and imported, or the destination of a rule that is.
    pub fn in_scope(&self, service: &MeshService, scope: &Scope) -> bool {
        let key = &service.service.key;
        scope.sees(&service.service.visibility)
            && (scope.imports(&key.namespace, &key.hostname) || self.is_destination(service, scope))
    }

    fn is_destination(&self, service: &MeshService, scope: &Scope) -> bool {
        // Without a Sidecar everything visible is imported, and this is not asked.
        self.rules_routing_to(&service.service).any(|rule| {
            let imported = |r: &MeshVirtualService| r.serves_mesh() && scope.imports_rule(r);
            (imported(rule) || self.roots_delegating_to(rule).any(|root| imported(root)))
                && rule.destinations.iter().any(|d| *self.resolve_rule_host(d, scope) == **service.host())
        })
    }
}

fn egress_of(sidecar: &Resource<Sidecar>) -> Vec<EgressListener> {
    let own = &*sidecar.meta.key.namespace;
    sidecar
        .spec
        .egress
        .iter()
        .map(|listener| EgressListener {
            port: listener.port.as_ref().map(|p| p.number).filter(|n| *n > 0),
            hosts: listener.hosts.iter().filter_map(|h| EgressHost::parse(h, own)).collect(),
        })
        .collect()
}
