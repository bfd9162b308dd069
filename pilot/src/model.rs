//! The abstract model of services: what every platform's adapter registers, and what translation reads.
//!
//! Nothing here knows a platform. A [`Service`] is a hostname with ports; an [`Endpoint`] is one instance behind
//! it. Names are Istio's where Istio has one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use xebec_galley::SourceRef;

/// Labels of a service or workload, sorted by key so that equal labels encode equally.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// The identity of a service in the mesh: its hostname within a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Lower-case fully qualified name, for example `reviews.default.svc.cluster.local`.
    pub hostname: Arc<str>,
    /// The namespace that owns the service. Platforms without namespaces use `default`.
    pub namespace: Arc<str>,
}

impl ServiceKey {
    /// Makes a key; the hostname is lowered, because DNS names compare without case.
    pub fn new(hostname: &str, namespace: &str) -> Self {
        Self { hostname: hostname.to_ascii_lowercase().into(), namespace: namespace.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// What a port speaks, as Istio selects it from `protocol`, `appProtocol` or the port's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.x, with upgrades.
    Http,
    /// HTTP/2, with prior knowledge when in plain text.
    Http2,
    /// HTTP/2 carrying gRPC.
    Grpc,
    /// gRPC-Web over HTTP/1.1 or HTTP/2.
    GrpcWeb,
    /// TLS that the mesh does not terminate; routed by SNI.
    Https,
    /// TLS that carries something other than HTTP; routed by SNI.
    Tls,
    /// Opaque bytes.
    Tcp,
    /// MongoDB's wire protocol; carried as TCP.
    Mongo,
    /// Redis; carried as TCP.
    Redis,
    /// MySQL; carried as TCP.
    MySql,
    /// Datagrams. Not carried by the mesh: such ports make no listeners and no clusters.
    Udp,
    /// Not declared: HTTP or TCP, decided by looking at the first bytes.
    Auto,
}

impl Protocol {
    /// Reads Istio's names for protocols, in any case. `None` for a name that is not one.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "http" | "http1" | "http1.1" => Self::Http,
            "http2" | "h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" | "grpcweb" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::MySql,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// Whether requests on this port are routed as HTTP.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether upstream connections use HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether the port carries TLS that is routed by SNI.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether the port is carried as opaque bytes.
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::Mongo | Self::Redis | Self::MySql)
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Port {
    /// Unique within the service; endpoints refer to it.
    pub name: Arc<str>,
    /// The port that clients dial.
    pub number: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

/// How a service's endpoints are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Endpoints are known and pushed (Envoy EDS).
    Static,
    /// Every address that DNS answers is an endpoint (Envoy STRICT_DNS).
    Dns,
    /// One DNS name, one logical endpoint (Envoy LOGICAL_DNS).
    DnsRoundRobin,
    /// The caller's original destination (Envoy ORIGINAL_DST).
    Passthrough,
}

/// To whom a service or rule is visible.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Visibility {
    /// Everybody (`*`).
    #[default]
    Public,
    /// The listed namespaces; an empty list is nobody (`~`).
    Namespaces(Vec<Arc<str>>),
}

impl Visibility {
    /// Whether a client in `namespace` sees it.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::Namespaces(list) => list.iter().any(|n| &**n == namespace),
        }
    }
}

/// A service: a hostname, its ports, and how its endpoints are found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// Its identity.
    pub key: ServiceKey,
    /// Virtual addresses that clients may dial, single addresses or networks. Empty when there is none.
    pub addresses: Vec<IpNet>,
    /// Its ports, in declaration order.
    pub ports: Vec<Port>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Outside of the mesh (`MESH_EXTERNAL`): never spoken to with mesh identity.
    pub external: bool,
    /// Who sees it.
    pub visibility: Visibility,
    /// Its labels.
    pub labels: Labels,
    /// Further names of the same service, such as `reviews` and `reviews.default` where the platform has them.
    /// Istio's Kubernetes short names are derived, not listed here.
    pub aliases: Vec<Arc<str>>,
    /// Orders services that claim one name: lower is older and wins. Seconds since the Unix epoch, or 0.
    pub created: u64,
    /// Which registry it came from.
    pub registry: RegistryId,
    /// Where it was written, for error messages; platforms that are not written in files have none.
    pub origin: Option<SourceRef>,
    /// What the platform itself says about spreading traffic; a DestinationRule has the last word.
    pub distribution: Distribution,
}

/// How a platform wants a service's traffic spread where no DestinationRule says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Distribution {
    /// One client address stays with one endpoint (Kubernetes `sessionAffinity: ClientIP`).
    pub by_client_address: bool,
    /// Which endpoints are nearer than others.
    pub prefer: Prefer,
    /// Only endpoints on the caller's own node take its traffic (Kubernetes `internalTrafficPolicy: Local`).
    pub node_local: bool,
}

/// Which endpoints are used first, the others only when these are not healthy (Kubernetes `trafficDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Prefer {
    /// All alike.
    #[default]
    None,
    /// Those of the caller's zone (`PreferSameZone`, formerly `PreferClose`).
    Zone,
    /// Those of the caller's node, then those of its zone (`PreferSameNode`).
    Node,
}

impl Distribution {
    /// Whether clients in different zones are told different things.
    pub fn depends_on_zone(&self) -> bool {
        self.prefer != Prefer::None
    }

    /// Whether clients on different nodes are told different things.
    pub fn depends_on_node(&self) -> bool {
        self.node_local || self.prefer == Prefer::Node
    }
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name, allowed only where the service's [`Resolution`] is by DNS.
    Dns(Arc<str>),
    /// A Unix domain socket's path.
    Unix(Arc<str>),
}

/// Region, zone and subzone; empty parts are unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Locality {
    /// For example `eu-west-1`.
    pub region: Arc<str>,
    /// For example `eu-west-1a`.
    pub zone: Arc<str>,
    /// For example a rack.
    pub subzone: Arc<str>,
}

impl Locality {
    /// Reads `region/zone/subzone`, where the later parts may be missing.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(Arc::from);
        let mut next = || parts.next().unwrap_or_else(|| Arc::from(""));
        Self { region: next(), zone: next(), subzone: next() }
    }
}

/// Whether an endpoint takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// It does.
    #[default]
    Healthy,
    /// It passes its checks with a warning: used when too few others are healthy.
    Degraded,
    /// It fails its checks: kept out of load balancing.
    Unhealthy,
    /// It finishes what it has and takes nothing new.
    Draining,
}

/// One instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Its own port for each of the service's ports, by port name. A name that is missing means the service's number; a port of 0
    /// means that this endpoint does not serve the service's port of that name.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// The workload's labels, which subsets select on.
    pub labels: Labels,
    /// Where it runs.
    pub locality: Locality,
    /// Its share relative to others of its locality; at least 1.
    pub weight: u32,
    /// The workload's service account, for its identity.
    pub service_account: Option<Arc<str>>,
    /// The workload's name, as its proxy names itself. Distinguishes workloads that share an address.
    pub workload: Option<Arc<str>>,
    /// The network it is on; empty is the default network.
    pub network: Arc<str>,
    /// The machine that it runs on, as its platform names it; unknown when there is none.
    pub node: Option<Arc<str>>,
    /// Whether it takes traffic.
    pub health: Health,
    /// Where the application itself listens, by port name, when its proxy does not intercept: the proxy then listens on the
    /// endpoint's own address and port and forwards to this one.
    pub app: BTreeMap<Arc<str>, SocketAddr>,
}

impl Endpoint {
    /// Its own number for a port of its service; 0 when it does not serve that port.
    pub fn port(&self, port: &Port) -> u16 {
        self.ports.get(&port.name).copied().unwrap_or(port.number)
    }

    /// Whether it serves that port of its service at all.
    pub fn serves(&self, port: &Port) -> bool {
        self.port(port) != 0
    }
}

/// Names a workload of a platform: a Kubernetes pod, a machine, an allocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name, unique within its namespace and registry.
    pub name: Arc<str>,
}

/// Names a registry within this control plane, for example `file:/etc/xebec` or `kubernetes:prod`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryId(pub Arc<str>);

impl fmt::Display for RegistryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
