//! What the conversion asks about the cluster beside the objects themselves.

use std::collections::BTreeMap;

/// A Service, as far as routes refer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePorts {
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePort {
    /// Its name; may be empty where it is the only one.
    pub name: String,
    /// Its number.
    pub number: u16,
}

/// What leads to the proxies that serve a Gateway: a Service, or, where there is none, the proxies' own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Carrier {
    /// The names by which an address of type Hostname may mean it, in lower case, the full one first. Empty for proxies themselves.
    pub names: Vec<String>,
    /// IP addresses or host names at which it is reached. Empty: it was given none yet.
    pub addresses: Vec<String>,
}

/// What is known about the cluster. Answers must not change while one conversion runs.
pub trait Facts {
    /// The Service of that name, if it exists.
    fn service(&self, namespace: &str, name: &str) -> Option<ServicePorts>;

    /// The labels of a namespace, if it exists. `kubernetes.io/metadata.name` need not be among them.
    fn namespace_labels(&self, namespace: &str) -> Option<BTreeMap<String, String>>;

    /// Whether there is a Secret of that name that holds a certificate and key.
    fn secret_exists(&self, namespace: &str, name: &str) -> bool;

    /// Whether it is known which Secrets there are. If not, none exists as far as [`secret_exists`](Self::secret_exists) can tell.
    fn knows_secrets(&self) -> bool {
        true
    }

    /// What leads to the proxies of a Gateway. None means that no proxy is known to serve it.
    fn carriers(&self, namespace: &str, name: &str) -> Vec<Carrier> {
        let _ = (namespace, name);
        Vec::new()
    }

    /// IP addresses or host names at which the proxies for Ingresses are reached.
    fn ingress_addresses(&self) -> Vec<String> {
        Vec::new()
    }

    /// The version of the installed Gateway API definitions, such as `v1.5.0`: the annotation
    /// `gateway.networking.k8s.io/bundle-version` of the CustomResourceDefinition of GatewayClass. `None` says nothing about it.
    fn bundle_version(&self) -> Option<String> {
        None
    }
}

// === impl ServicePorts ===

impl ServicePorts {
    /// A Service with ports of these numbers, without names.
    pub fn numbered(numbers: impl IntoIterator<Item = u16>) -> Self {
        Self { ports: numbers.into_iter().map(|number| ServicePort { name: String::new(), number }).collect() }
    }

    /// Whether it has a port of that number.
    pub fn has(&self, number: u16) -> bool {
        self.ports.iter().any(|port| port.number == number)
    }

    /// The number of the port of that name.
    pub fn named(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|port| port.name == name).map(|port| port.number)
    }
}
