//! The boundary between what is computed and what is served.
//!
//! The [`engine`](crate::engine) computes, for every *shape* of proxy, one set of encoded resources per type; the
//! [`xds`](crate::xds) server serves them. Resources are encoded once and shared as [`Bytes`]; their version is the hash of
//! their bytes, so content that did not change is never sent again.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use xebec_galley::SourceRef;

/// The types of resource that are served, in the order in which they are sent when something is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster = 0,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoint = 1,
    /// `envoy.config.listener.v3.Listener`
    Listener = 2,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route = 3,
    /// `envoy.config.route.v3.VirtualHost`; resources are named `ROUTE_CONFIGURATION/VIRTUAL_HOST`.
    VirtualHost = 4,
}

impl ResourceType {
    /// Every type, in the order in which additions are sent. Removals are sent in the reverse order.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route, Self::VirtualHost];

    /// The type URL, as on the wire.
    pub fn type_url(self) -> &'static str {
        use xebec_proto::type_url;
        match self {
            Self::Cluster => type_url::CLUSTER,
            Self::Endpoint => type_url::CLUSTER_LOAD_ASSIGNMENT,
            Self::Listener => type_url::LISTENER,
            Self::Route => type_url::ROUTE_CONFIGURATION,
            Self::VirtualHost => type_url::VIRTUAL_HOST,
        }
    }

    /// The type behind a type URL; `None` for one that is not served.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.type_url() == url)
    }

    /// Istio's short name: `CDS`, `EDS`, `LDS`, `RDS`, `VHDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
            Self::VirtualHost => "VHDS",
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// One resource, encoded once and shared by every stream that is sent it.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The xDS resource name.
    pub name: Arc<str>,
    /// XXH3 of `body`; on the wire as 16 hex digits.
    pub version: u64,
    /// The encoded message, without its `Any` envelope.
    pub body: Bytes,
    /// The configuration documents that this resource was made from, for error messages. May be empty.
    pub origins: Arc<[SourceRef]>,
}

impl Encoded {
    /// Encodes nothing: takes bytes that are already encoded, and hashes them.
    pub fn new(name: Arc<str>, body: Bytes, origins: Arc<[SourceRef]>) -> Self {
        let version = xxhash_rust::xxh3::xxh3_64(&body);
        Self { name, version, body, origins }
    }

    /// The version as it is written on the wire.
    pub fn version_text(&self) -> String {
        format!("{:016x}", self.version)
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} {:016x} {} bytes)", self.name, self.version, self.body.len())
    }
}

/// All resources of one type for one shape, by name. Copies share structure.
pub type ResourceSet = imbl::OrdMap<Arc<str>, Arc<Encoded>>;

/// Everything that proxies of one shape are served, at one moment. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ShapeSnapshot {
    /// Grows by one with each published change of this shape.
    pub generation: u64,
    /// One set per [`ResourceType`], indexed by its number.
    pub sets: [ResourceSet; 5],
}

impl ShapeSnapshot {
    /// The resources of one type.
    pub fn set(&self, kind: ResourceType) -> &ResourceSet {
        &self.sets[kind as usize]
    }
}

/// What one published change did to a shape: names per type, each either in the new snapshot (added or changed) or not (removed).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Names whose resource is new, different or gone, per [`ResourceType`].
    pub names: [Vec<Arc<str>>; 5],
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.names.iter().all(Vec::is_empty)
    }
}
