//! Clusters and their endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A cluster together with its endpoints: what the data path needs to forward.
#[derive(Clone, Debug)]
pub struct ClusterEntry {
    /// The policy.
    pub cluster: Arc<Cluster>,
    /// Where requests may go; empty for [`Discovery::OriginalDst`].
    pub endpoints: Arc<Endpoints>,
}

/// How a group of endpoints is used (`envoy.config.cluster.v3.Cluster`).
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The name routes refer to.
    pub name: Arc<str>,
    /// The name in statistics (`alt_stat_name`, or the name).
    pub stat_name: Arc<str>,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// How one is chosen.
    pub lb: LbPolicy,
    /// TCP (and protocol) connect bound.
    pub connect_timeout: Duration,
    /// What is spoken.
    pub protocol: UpstreamProtocol,
    /// Limits at default priority.
    pub breakers: CircuitBreakers,
    /// A pooled connection without requests is closed after this; `None`: never. Envoy's default is one hour.
    pub idle_timeout: Option<Duration>,
    /// A connection serves at most so many requests; 0: no limit.
    pub max_requests_per_connection: u32,
    /// Streams at once on an HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// Local address for outgoing connections (loop avoidance of inbound passthrough).
    pub source_address: Option<SocketAddr>,
    /// TCP keep-alive: time, interval, probes.
    pub tcp_keepalive: Option<(Duration, Duration, u32)>,
    /// Ejection of failing endpoints.
    pub outlier: Option<OutlierDetection>,
    /// Below this percentage of healthy endpoints, health is ignored. Envoy's default: 50.
    pub panic_threshold: f64,
    /// Localities are weighted before endpoints (`locality_weighted_lb_config`).
    pub locality_weighted: bool,
    /// `x-envoy-original-dst-host` decides, for [`Discovery::OriginalDst`].
    pub use_original_dst_header: bool,
}

/// How often names are looked up.
pub const DNS_REFRESH: Duration = Duration::from_secs(5);

/// `Cluster.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// EDS.
    Eds,
    /// Inline.
    Static,
    /// Every address of the name is an endpoint.
    StrictDns,
    /// The first address of the name is the endpoint.
    LogicalDns,
    /// The connection's original destination.
    OriginalDst,
}

/// `Cluster.lb_policy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LbPolicy {
    /// In turns, by weight.
    RoundRobin,
    /// The one with fewer requests of `choices` random ones.
    LeastRequest {
        /// How many are compared; Envoy's default is 2.
        choices: u32,
    },
    /// Any, by weight.
    Random,
    /// Consistent: ring of hashes.
    RingHash {
        /// Entries at least.
        minimum: u64,
        /// Entries at most.
        maximum: u64,
    },
    /// Consistent: Maglev table.
    Maglev {
        /// Prime size of the table.
        table: u64,
    },
}

/// What is spoken with the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// What the client speaks (`use_downstream_protocol_config`).
    Downstream,
}

/// `CircuitBreakers.Thresholds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreakers {
    /// Connections.
    pub max_connections: u32,
    /// Requests waiting for a connection.
    pub max_pending: u32,
    /// Requests at once.
    pub max_requests: u32,
    /// Retries at once.
    pub max_retries: u32,
}

/// `OutlierDetection`: consecutive failures only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    /// 5xx (or local failures) in a row; `None`: not watched.
    pub consecutive_5xx: Option<u32>,
    /// 502, 503, 504 in a row; `None`: not watched.
    pub consecutive_gateway: Option<u32>,
    /// Base time of an ejection, multiplied by how often it happened.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// Share of endpoints that may be ejected.
    pub max_ejection_percent: u32,
}

/// All endpoints of a cluster (`ClusterLoadAssignment`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoints {
    /// Grouped by locality.
    pub localities: Vec<LocalityEndpoints>,
    /// `policy.overprovisioning_factor` in percent; Envoy's default is 140. 0 counts as the default.
    pub overprovisioning: u32,
}

/// Endpoints of a locality.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalityEndpoints {
    /// Where.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Weight among localities of the same priority, if weighted.
    pub weight: u32,
    /// Who.
    pub endpoints: Vec<Endpoint>,
}

/// A region, zone and sub-zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locality {
    /// Region.
    pub region: Box<str>,
    /// Zone.
    pub zone: Box<str>,
    /// Sub-zone.
    pub sub_zone: Box<str>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: EndpointAddress,
    /// Its share; at least 1.
    pub weight: u32,
    /// As told by the control plane.
    pub health: Health,
}

/// An endpoint's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A name, resolved by the data path (DNS clusters only).
    Name {
        /// The host name.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

/// `HealthStatus`, reduced to what load balancing does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Used.
    Healthy,
    /// Used when there are not enough healthy ones.
    Degraded,
    /// Not used, unless in panic.
    Unhealthy,
}

// === impl Cluster ===

impl Cluster {
    /// A cluster with Envoy's defaults.
    pub fn new(name: &str, discovery: Discovery) -> Self {
        let name: Arc<str> = name.into();
        Self {
            stat_name: name.clone(),
            name,
            discovery,
            lb: LbPolicy::RoundRobin,
            connect_timeout: Duration::from_secs(5),
            protocol: UpstreamProtocol::Http1,
            breakers: CircuitBreakers::default(),
            idle_timeout: Some(Duration::from_secs(3600)),
            max_requests_per_connection: 0,
            max_concurrent_streams: 1024,
            source_address: None,
            tcp_keepalive: None,
            outlier: None,
            panic_threshold: 50.0,
            locality_weighted: false,
            use_original_dst_header: false,
        }
    }
}

// === impl CircuitBreakers ===

impl Default for CircuitBreakers {
    fn default() -> Self {
        Self { max_connections: 1024, max_pending: 1024, max_requests: 1024, max_retries: 3 }
    }
}

// === impl OutlierDetection ===

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: Some(5),
            consecutive_gateway: None,
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 10,
        }
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// Healthy endpoints of weight 1 in one locality.
    pub fn of(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let endpoints = addresses.into_iter().map(Endpoint::new).collect();
        Self {
            localities: vec![LocalityEndpoints { locality: Locality::default(), priority: 0, weight: 1, endpoints }],
            overprovisioning: 140,
        }
    }

    /// Every endpoint with its locality.
    pub fn iter(&self) -> impl Iterator<Item = (&LocalityEndpoints, &Endpoint)> {
        self.localities.iter().flat_map(|group| group.endpoints.iter().map(move |endpoint| (group, endpoint)))
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A healthy endpoint of weight 1.
    pub fn new(address: SocketAddr) -> Self {
        Self { address: EndpointAddress::Socket(address), weight: 1, health: Health::Healthy }
    }
}
