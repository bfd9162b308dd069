//! DestinationRule: what clients do on the way to a host, once routing has chosen it.

use std::collections::BTreeMap;

use super::{Duration, LabelMap};

message! {
    /// Policies for a host and its subsets. Envoy: clusters.
    pub struct DestinationRule {
        /// The host; a short name belongs to this resource's namespace; a wildcard prefix is allowed.
        pub host: String,
        /// Policy for all subsets and ports that have no own.
        pub traffic_policy: Option<TrafficPolicy>,
        /// Named parts of the host's instances.
        pub subsets: Vec<Subset>,
        /// Namespaces that see this resource: `*`, `.`, `~` or a name. Empty is the mesh's default.
        pub export_to: Vec<String>,
        /// The client workloads of the same namespace that this applies to. Absent is all.
        pub workload_selector: Option<LabelSelector>,
    }
}

message! {
    /// Chooses workloads by labels.
    pub struct LabelSelector {
        /// All of these must be on the workload.
        pub match_labels: LabelMap,
    }
}

message! {
    /// The instances of a host that carry some labels. Envoy: a cluster of its own.
    pub struct Subset {
        /// Unique within the resource.
        pub name: String,
        /// All of these must be on the instance; empty is every instance.
        pub labels: LabelMap,
        /// Replaces blocks of the resource's policy.
        pub traffic_policy: Option<TrafficPolicy>,
    }
}

message! {
    /// What a client does with connections and requests.
    pub struct TrafficPolicy {
        /// How an instance is chosen. Envoy: `lb_policy`.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// Limits. Envoy: `circuit_breakers` and protocol options.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// When instances are avoided. Envoy: `outlier_detection`.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS to the destination. Envoy: `transport_socket`.
        pub tls: Option<ClientTlsSettings>,
        /// Replaces the four blocks above for one port each; what it does not set is at its default there.
        pub port_level_settings: Vec<PortTrafficPolicy>,
        /// Sends TCP through a proxy. Envoy: `tcp_proxy.tunneling_config`.
        pub tunnel: Option<TunnelSettings>,
        /// Sends the PROXY protocol. Envoy: the transport socket `upstream_proxy_protocol`.
        pub proxy_protocol: Option<ProxyProtocol>,
        /// Limits retries relative to requests. Envoy: `thresholds.retry_budget`.
        pub retry_budget: Option<RetryBudget>,
    }
}

message! {
    /// A policy for one port.
    pub struct PortTrafficPolicy {
        /// The service's port.
        pub port: Option<super::PortSelector>,
        /// How an instance is chosen.
        pub load_balancer: Option<LoadBalancerSettings>,
        /// Limits.
        pub connection_pool: Option<ConnectionPoolSettings>,
        /// When instances are avoided.
        pub outlier_detection: Option<OutlierDetection>,
        /// TLS to the destination.
        pub tls: Option<ClientTlsSettings>,
    }
}

message! {
    /// How an instance is chosen. At most one of `simple` and `consistentHash`.
    pub struct LoadBalancerSettings {
        /// A standard algorithm.
        pub simple: Option<SimpleLb>,
        /// Sends equal keys to equal instances.
        pub consistent_hash: Option<ConsistentHashLb>,
        /// Prefers near instances.
        pub locality_lb_setting: Option<LocalityLbSetting>,
        /// How fast new instances get their full share. Deprecated: `warmup` replaces it.
        pub warmup_duration_secs: Option<Duration>,
        /// How new instances get their full share. Envoy: `slow_start_config`.
        pub warmup: Option<WarmupConfiguration>,
        /// Keeps traffic within a zone. Envoy: `zone_aware_lb_config`.
        pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    }
}

choice! {
    /// Standard algorithms.
    pub enum SimpleLb {
        /// As `LEAST_REQUEST`.
        Unspecified,
        /// Deprecated name of `LEAST_REQUEST`.
        LeastConn,
        /// Any instance. Envoy: `RANDOM`.
        Random,
        /// The address that the client dialled. Envoy: `ORIGINAL_DST`.
        Passthrough,
        /// One after another. Envoy: `ROUND_ROBIN`.
        RoundRobin,
        /// The less busy of two. Envoy: `LEAST_REQUEST`.
        LeastRequest,
    }
}

message! {
    /// Sends equal keys to equal instances. One key, at most one of `ringHash` and `maglev`.
    pub struct ConsistentHashLb {
        /// The key is this request header.
        pub http_header_name: Option<String>,
        /// The key is a cookie.
        pub http_cookie: Option<HttpCookie>,
        /// The key is the client's address.
        pub use_source_ip: Option<bool>,
        /// The key is this query parameter.
        pub http_query_parameter_name: Option<String>,
        /// Envoy: `RING_HASH`.
        pub ring_hash: Option<RingHash>,
        /// Envoy: `MAGLEV`.
        pub maglev: Option<Maglev>,
        /// Deprecated: `ringHash.minimumRingSize` replaces it.
        pub minimum_ring_size: Option<u64>,
    }
}

message! {
    /// A cookie that carries a hash key; made when absent if `ttl` is given.
    pub struct HttpCookie {
        /// Its name.
        pub name: String,
        /// Its path.
        pub path: String,
        /// How long it lives; zero is the session.
        pub ttl: Option<Duration>,
        /// Further attributes.
        pub attributes: Vec<HttpCookieAttribute>,
    }
}

message! {
    /// An attribute of a cookie.
    pub struct HttpCookieAttribute {
        /// Its name.
        pub name: String,
        /// Its value; empty is a flag.
        pub value: String,
    }
}

message! {
    /// Settings of the hash ring.
    pub struct RingHash {
        /// Entries at least; absent is 1024.
        pub minimum_ring_size: Option<u64>,
    }
}

message! {
    /// Settings of Maglev.
    pub struct Maglev {
        /// Entries, a prime; absent is 65537.
        pub table_size: Option<u64>,
    }
}

message! {
    /// Prefers near instances. At most one of `distribute`, `failover` and `failoverPriority`.
    pub struct LocalityLbSetting {
        /// Absent is the mesh's setting.
        pub enabled: Option<bool>,
        /// Shares per locality of the caller.
        pub distribute: Vec<LocalityDistribute>,
        /// Which region helps out which.
        pub failover: Vec<LocalityFailover>,
        /// Labels (`key` or `key=value`) whose equality makes an instance nearer, most important first.
        pub failover_priority: Vec<String>,
    }
}

message! {
    /// Shares of a caller's traffic per locality.
    pub struct LocalityDistribute {
        /// `region/zone/subzone` of the caller, with `*` as the last part.
        pub from: String,
        /// Percent per locality; the sum is 100.
        pub to: BTreeMap<String, u32>,
    }
}

message! {
    /// The region that helps out another.
    pub struct LocalityFailover {
        /// The region without healthy instances.
        pub from: String,
        /// The region that takes its traffic.
        pub to: String,
    }
}

message! {
    /// Keeps traffic within a zone. Envoy: `zone_aware_lb_config`.
    pub struct ZoneAwareLbSetting {
        /// Absent is off.
        pub enabled: Option<bool>,
        /// Which region helps out which.
        pub failover: Vec<LocalityFailover>,
        /// Labels whose equality makes an instance nearer.
        pub failover_priority: Vec<String>,
        /// Instances below which zones do not matter; absent is 6.
        pub min_cluster_size: Option<u32>,
    }
}

message! {
    /// How new instances get their full share. Envoy: `slow_start_config`.
    pub struct WarmupConfiguration {
        /// How long it takes.
        pub duration: Option<Duration>,
        /// Share in the beginning, in percent; absent is 10.
        pub minimum_percent: Option<f64>,
        /// Shape of the curve; 1 is a line.
        pub aggression: Option<f64>,
    }
}

message! {
    /// Limits on connections and requests.
    pub struct ConnectionPoolSettings {
        /// For every protocol.
        pub tcp: Option<TcpSettings>,
        /// For HTTP.
        pub http: Option<HttpSettings>,
    }
}

message! {
    /// Limits on connections.
    pub struct TcpSettings {
        /// Connections at most. Envoy: `thresholds.max_connections`; absent is no limit.
        pub max_connections: Option<i32>,
        /// Limit for connecting; absent is the mesh's. Envoy: `connect_timeout`.
        pub connect_timeout: Option<Duration>,
        /// TCP keep-alive. Envoy: `upstream_connection_options`.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// A connection lives no longer. Envoy: `max_connection_duration`.
        pub max_connection_duration: Option<Duration>,
        /// An idle connection is closed; zero is never. Envoy: `tcp_proxy.idle_timeout`.
        pub idle_timeout: Option<Duration>,
    }
}

message! {
    /// TCP keep-alive.
    pub struct TcpKeepalive {
        /// Unanswered probes until the connection is dead.
        pub probes: Option<u32>,
        /// Idle time until the first probe.
        pub time: Option<Duration>,
        /// Time between probes.
        pub interval: Option<Duration>,
    }
}

message! {
    /// Limits on HTTP requests.
    pub struct HttpSettings {
        /// Requests that wait for a connection, at most. Envoy: `thresholds.max_pending_requests`.
        pub http1_max_pending_requests: Option<i32>,
        /// Active requests at most. Envoy: `thresholds.max_requests`.
        pub http2_max_requests: Option<i32>,
        /// Requests until a connection is replaced; zero is no limit. Envoy: `max_requests_per_connection`.
        pub max_requests_per_connection: Option<i32>,
        /// Retries at one time, at most. Envoy: `thresholds.max_retries`.
        pub max_retries: Option<i32>,
        /// A connection without requests is closed. Envoy: `common_http_protocol_options.idle_timeout`.
        pub idle_timeout: Option<Duration>,
        /// Whether HTTP/1.1 becomes HTTP/2 towards the destination.
        pub h2_upgrade_policy: H2UpgradePolicy,
        /// Whether the client's protocol is kept. Envoy: `use_downstream_protocol_config`.
        pub use_client_protocol: bool,
        /// Streams of one HTTP/2 connection at most.
        pub max_concurrent_streams: Option<i32>,
        /// HTTP/2 PING.
        pub http2_keep_alive: Option<Http2KeepAlive>,
    }
}

message! {
    /// HTTP/2 PING. Envoy: `connection_keepalive`.
    pub struct Http2KeepAlive {
        /// Time between PINGs.
        pub interval: Option<Duration>,
        /// Limit for the answer.
        pub timeout: Option<Duration>,
    }
}

choice! {
    /// Whether HTTP/1.1 becomes HTTP/2 towards the destination.
    pub enum H2UpgradePolicy {
        /// The mesh's setting.
        Default,
        /// No.
        DoNotUpgrade,
        /// Yes.
        Upgrade,
    }
}

message! {
    /// When instances are avoided. Envoy: `outlier_detection`.
    pub struct OutlierDetection {
        /// Istio reads it and does nothing with it. Deprecated.
        pub consecutive_errors: Option<i32>,
        /// Whether local errors are counted apart. Envoy: `split_external_local_origin_errors`.
        pub split_external_local_origin_errors: bool,
        /// Local errors in a row. Envoy: `consecutive_local_origin_failure`.
        pub consecutive_local_origin_failures: Option<u32>,
        /// 502, 503 and 504 in a row; zero is off. Envoy: `consecutive_gateway_failure`.
        pub consecutive_gateway_errors: Option<u32>,
        /// 5xx in a row; zero is off, absent is 5. Envoy: `consecutive_5xx`.
        pub consecutive_5xx_errors: Option<u32>,
        /// Time between checks; absent is 10s. Envoy: `interval`.
        pub interval: Option<Duration>,
        /// Time that an instance is avoided, times how often it was; absent is 30s. Envoy: `base_ejection_time`.
        pub base_ejection_time: Option<Duration>,
        /// Percent of instances that may be avoided at one time; zero is Istio's 10. Envoy: `max_ejection_percent`.
        pub max_ejection_percent: i32,
        /// Below this percentage of healthy instances all are used. Envoy: `healthy_panic_threshold`.
        pub min_health_percent: i32,
        /// Status codes that count as errors, instead of 5xx.
        pub outlier_detection_http_error_codes: Vec<u32>,
    }
}

message! {
    /// TLS to the destination. Envoy: `UpstreamTlsContext`.
    pub struct ClientTlsSettings {
        /// What is done.
        pub mode: ClientTlsMode,
        /// Path of the client's certificate chain, for `MUTUAL`.
        pub client_certificate: String,
        /// Path of the client's private key, for `MUTUAL`.
        pub private_key: String,
        /// Path of the authorities that vouch for the server; empty is the system's.
        pub ca_certificates: String,
        /// Name of a secret that holds all three, instead of paths.
        pub credential_name: String,
        /// Names that the server's certificate must have one of.
        pub subject_alt_names: Vec<String>,
        /// Server name to send.
        pub sni: String,
        /// Whether the server's certificate is accepted unseen.
        pub insecure_skip_verify: Option<bool>,
        /// Path of a revocation list.
        pub ca_crl: String,
    }
}

choice! {
    /// What is done about TLS to the destination.
    pub enum ClientTlsMode {
        /// No TLS.
        Disable,
        /// TLS; the server is verified.
        Simple,
        /// TLS with a client certificate from files or a secret.
        Mutual,
        /// TLS with the workload's mesh identity.
        IstioMutual,
    }
}

message! {
    /// Sends TCP through an HTTP proxy. Envoy: `tcp_proxy.tunneling_config`.
    pub struct TunnelSettings {
        /// `CONNECT` (the meaning of empty) or `POST`.
        pub protocol: String,
        /// The host that the proxy connects to.
        pub target_host: String,
        /// The port that the proxy connects to.
        pub target_port: u16,
    }
}

message! {
    /// Sends the PROXY protocol.
    pub struct ProxyProtocol {
        /// Its version.
        pub version: ProxyProtocolVersion,
    }
}

choice! {
    /// Version of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        /// Text.
        V1,
        /// Binary.
        V2,
    }
}

message! {
    /// Limits retries relative to requests.
    pub struct RetryBudget {
        /// Percent of active requests that may be retries; absent is 20.
        pub percent: Option<f64>,
        /// Retries that are always allowed; absent is 3.
        pub min_retry_concurrency: Option<u32>,
        /// Window in which requests are counted; zero counts those that are active.
        pub budget_interval: Option<Duration>,
    }
}
