//! What galley publishes: typed resources with their identity and the place they were written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::spec::{DestinationRule, Gateway, ServiceEntry, Sidecar, VirtualService, WorkloadEntry};

/// A place in a configuration source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRef {
    /// The file's path as the operator gave it, or a URI for other sources.
    pub file: Arc<str>,
    /// 1-based line of the document's first key.
    pub line: u32,
    /// 1-based column.
    pub column: u32,
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The kinds of configuration that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `networking.istio.io` VirtualService
    VirtualService,
    /// `networking.istio.io` DestinationRule
    DestinationRule,
    /// `networking.istio.io` Gateway
    Gateway,
    /// `networking.istio.io` ServiceEntry
    ServiceEntry,
    /// `networking.istio.io` WorkloadEntry
    WorkloadEntry,
    /// `networking.istio.io` Sidecar
    Sidecar,
}

/// The identity of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; `default` where the document names none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// Everything about a resource but its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Its identity.
    pub key: ResourceKey,
    /// `metadata.labels`
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `metadata.annotations`
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// `metadata.creationTimestamp` in seconds since the Unix epoch, or 0: older wins, then name, then namespace.
    pub created: u64,
    /// Where the document begins.
    pub source: SourceRef,
}

/// An annotation of a Gateway: with the value [`OWN_NAMESPACE`] it selects proxies of its own namespace only, whereas Istio's selector
/// is about those of all namespaces.
pub const PROXIES: &str = "xebec.io/proxies";

/// The value of [`PROXIES`] that narrows.
pub const OWN_NAMESPACE: &str = "own-namespace";

/// A validated resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource<T> {
    /// Identity and place.
    pub meta: Meta,
    /// Content.
    pub spec: T,
}

/// A resource of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Config {
    /// See [`VirtualService`].
    VirtualService(Arc<Resource<VirtualService>>),
    /// See [`DestinationRule`].
    DestinationRule(Arc<Resource<DestinationRule>>),
    /// See [`Gateway`].
    Gateway(Arc<Resource<Gateway>>),
    /// See [`ServiceEntry`].
    ServiceEntry(Arc<Resource<ServiceEntry>>),
    /// See [`WorkloadEntry`].
    WorkloadEntry(Arc<Resource<WorkloadEntry>>),
    /// See [`Sidecar`].
    Sidecar(Arc<Resource<Sidecar>>),
}

impl Meta {
    /// Whether proxies of other namespaces are none of its business; see [`PROXIES`].
    pub fn keeps_to_its_namespace(&self) -> bool {
        self.annotations.get(PROXIES).is_some_and(|value| &**value == OWN_NAMESPACE)
    }
}

impl Config {
    /// Identity and place, whatever the kind.
    pub fn meta(&self) -> &Meta {
        match self {
            Self::VirtualService(r) => &r.meta,
            Self::DestinationRule(r) => &r.meta,
            Self::Gateway(r) => &r.meta,
            Self::ServiceEntry(r) => &r.meta,
            Self::WorkloadEntry(r) => &r.meta,
            Self::Sidecar(r) => &r.meta,
        }
    }
}

/// One change of configuration. Sources say several at once, as one batch that becomes visible together.
#[derive(Debug, Clone, PartialEq)]
pub enum ConfigEvent {
    /// New, or different from before.
    Upsert(Config),
    /// Gone.
    Remove(ResourceKey),
}
