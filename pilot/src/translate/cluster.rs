//! Clusters: one per service, port and subset.

use std::time::Duration;

use xebec_galley::spec::{
    ConnectionPoolSettings, H2UpgradePolicy, LoadBalancerSettings, OutlierDetection, RetryBudget, SimpleLb,
    TcpKeepalive,
};
use xebec_proto::envoy::config::cluster::v3 as cluster;
use xebec_proto::envoy::config::cluster::v3::cluster as parts;
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::endpoint::v3 as endpoint;
use xebec_proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use xebec_proto::envoy::extensions::clusters::dns::v3::DnsCluster;
use xebec_proto::envoy::extensions::upstreams::http::v3 as upstream;
use xebec_proto::envoy::extensions::upstreams::http::v3::http_protocol_options as http_options;
use xebec_proto::envoy::r#type::v3 as envoy_type;
use xebec_proto::google::protobuf as google;

use super::endpoints::Spread;
use super::policy::Policy;
use super::transport::{self, Peer};
use super::wire::{ads, any, duration, istio_metadata, text, u32_value};
use crate::model::{Port, Protocol, Service};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Istio's "no limit": Envoy's own defaults of 1024 would be limits that nobody asked for.
const UNLIMITED: u32 = u32::MAX;
/// Istio's bound for how much later than due a name is asked for.
const DNS_JITTER: Duration = Duration::from_millis(100);

/// A list of endpoints.
pub use endpoint::ClusterLoadAssignment as LoadAssignment;

/// How a cluster finds its endpoints.
#[derive(Debug, Clone, PartialEq)]
pub enum Discovery {
    /// By EDS.
    Pushed,
    /// By DNS, each answer an endpoint.
    StrictDns(LoadAssignment),
    /// By DNS, one logical endpoint.
    LogicalDns(LoadAssignment),
    /// Where the client meant to go.
    OriginalDst,
    /// In place.
    Static(LoadAssignment),
}

/// Settings of the mesh that reach every cluster.
#[derive(Debug, Clone, Copy)]
pub struct Defaults<'a> {
    /// Limit for connecting.
    pub connect_timeout: Duration,
    /// HTTP/1.1 becomes HTTP/2 towards destinations that declare HTTP.
    pub h2_upgrade: H2UpgradePolicy,
    /// TCP keep-alive.
    pub keepalive: Option<&'a TcpKeepalive>,
    /// How often names are resolved whose answers do not say how long they hold.
    pub dns_refresh_rate: Duration,
}

/// Everything that an outbound cluster is made of.
pub struct Outbound<'a> {
    /// Its name.
    pub name: String,
    /// Where it leads.
    pub service: &'a Service,
    /// Which port of it.
    pub port: &'a Port,
    /// Which subset of it; empty is all.
    pub subset: &'a str,
    /// What holds for it.
    pub policy: &'a Policy<'a>,
    /// How its endpoints are found.
    pub discovery: Discovery,
    /// How its localities are used.
    pub spread: &'a Spread<'a>,
    /// The mesh's settings.
    pub defaults: Defaults<'a>,
    /// The path of the DestinationRule behind the policy.
    pub rule: Option<String>,
}

/// Makes an outbound cluster.
pub fn outbound(from: Outbound<'_>) -> cluster::Cluster {
    let Outbound { name, service, port, subset, policy, discovery, spread, defaults, rule } = from;
    let pool = policy.connection_pool;
    let version = http_version(port.protocol, pool, defaults.h2_upgrade);
    let peer = Peer {
        host: &service.key.hostname,
        http: !matches!(version, HttpVersion::NotHttp),
        http2: matches!(version, HttpVersion::Http2),
    };
    let mut fields = vec![(
        "services",
        list([structure([
            ("host", text(&*service.key.hostname)),
            ("name", text(service.key.hostname.split('.').next().unwrap_or_default())),
            ("namespace", text(&*service.key.namespace)),
        ])]),
    )];
    if let Some(rule) = rule {
        fields.push(("config", text(rule)));
    }
    if !subset.is_empty() {
        fields.push(("subset", text(subset)));
    }
    if service.external {
        fields.push(("external", google::Value { kind: Some(google::value::Kind::BoolValue(true)) }));
    }
    let mut made = base(name, discovery, defaults, policy);
    made.metadata = Some(istio_metadata(fields));
    made.transport_socket = transport::socket(policy.tls, policy.proxy_protocol, peer);
    if let Some(options) = http_options(version, pool, transport::follows_request(policy.tls, peer)) {
        made.typed_extension_protocol_options = [(HTTP_OPTIONS.to_owned(), any(&options))].into();
    }
    if !matches!(discovery_of(&made), parts::DiscoveryType::OriginalDst) {
        balance(&mut made, policy);
        // The platforms say which endpoints are well. Where too few are, that is no reason to use the others as well.
        made.common_lb_config.get_or_insert_with(|| parts::CommonLbConfig {
            healthy_panic_threshold: Some(envoy_type::Percent { value: 0.0 }),
            ..Default::default()
        });
        if matches!(spread, Spread::Distribute(_)) {
            made.common_lb_config.get_or_insert_default().locality_config_specifier =
                Some(parts::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                    parts::common_lb_config::LocalityWeightedLbConfig {},
                ));
        }
    }
    made
}

/// A cluster to the application of the proxy itself: only limits on connections apply to it.
pub fn inbound(
    name: String,
    protocol: Protocol,
    pool: Option<&ConnectionPoolSettings>,
    discovery: Discovery,
    defaults: Defaults<'_>,
) -> cluster::Cluster {
    let policy = Policy { connection_pool: pool, ..Policy::default() };
    let mut made = base(name, discovery, defaults, &policy);
    if !matches!(discovery_of(&made), parts::DiscoveryType::OriginalDst) {
        made.lb_policy = parts::LbPolicy::RoundRobin as i32;
    }
    let version = match protocol {
        p if p.is_http2() => HttpVersion::Http2,
        p if p.is_http() => HttpVersion::Http1,
        Protocol::Auto => HttpVersion::AsClient,
        _ => HttpVersion::NotHttp,
    };
    if let Some(options) = http_options(version, pool, false) {
        made.typed_extension_protocol_options = [(HTTP_OPTIONS.to_owned(), any(&options))].into();
    }
    made
}

/// Sends connections to where their clients meant them to go.
pub fn passthrough(name: &str, defaults: Defaults<'_>) -> cluster::Cluster {
    let mut made = base(name.to_owned(), Discovery::OriginalDst, defaults, &Policy::default());
    if let Some(options) = http_options(HttpVersion::AsClient, None, false) {
        made.typed_extension_protocol_options = [(HTTP_OPTIONS.to_owned(), any(&options))].into();
    }
    made
}

/// Has no endpoint.
pub fn black_hole(name: &str, defaults: Defaults<'_>) -> cluster::Cluster {
    cluster::Cluster {
        name: name.to_owned(),
        connect_timeout: Some(duration(defaults.connect_timeout)),
        cluster_discovery_type: Some(parts::ClusterDiscoveryType::Type(parts::DiscoveryType::Static as i32)),
        ..Default::default()
    }
}

fn base(name: String, discovery: Discovery, defaults: Defaults<'_>, policy: &Policy<'_>) -> cluster::Cluster {
    use parts::{ClusterDiscoveryType, DiscoveryType};
    let tcp = policy.connection_pool.and_then(|p| p.tcp.as_ref());
    let connect_timeout = tcp.and_then(|t| t.connect_timeout).map_or(defaults.connect_timeout, |t| t.0);
    let of_type = |kind: DiscoveryType| ClusterDiscoveryType::Type(kind as i32);
    let (kind, load_assignment) = match discovery {
        Discovery::Pushed => (of_type(DiscoveryType::Eds), None),
        Discovery::StrictDns(list) => (by_dns(false, defaults), Some(list)),
        Discovery::LogicalDns(list) => (by_dns(true, defaults), Some(list)),
        Discovery::OriginalDst => (of_type(DiscoveryType::OriginalDst), None),
        Discovery::Static(list) => (of_type(DiscoveryType::Static), Some(list)),
    };
    let keepalive = tcp.and_then(|t| t.tcp_keepalive.as_ref()).or(defaults.keepalive);
    cluster::Cluster {
        alt_stat_name: format!("{name};"),
        eds_cluster_config: (kind == of_type(DiscoveryType::Eds))
            .then(|| parts::EdsClusterConfig { eds_config: Some(ads()), service_name: name.clone() }),
        connect_timeout: Some(duration(connect_timeout)),
        lb_policy: if kind == of_type(DiscoveryType::OriginalDst) {
            parts::LbPolicy::ClusterProvided as i32
        } else {
            parts::LbPolicy::LeastRequest as i32
        },
        load_assignment,
        circuit_breakers: Some(circuit_breakers(policy.connection_pool, policy.retry_budget)),
        outlier_detection: policy.outlier_detection.map(outlier_detection),
        // Where endpoints are avoided one by one, avoiding too many must not mean using all of them again.
        common_lb_config: policy.outlier_detection.map(|o| parts::CommonLbConfig {
            healthy_panic_threshold: Some(envoy_type::Percent { value: f64::from(o.min_health_percent.max(0)) }),
            ..Default::default()
        }),
        upstream_connection_options: keepalive.map(|k| cluster::UpstreamConnectionOptions {
            tcp_keepalive: Some(core::TcpKeepalive {
                keepalive_probes: k.probes.and_then(u32_value),
                keepalive_time: k.time.and_then(|t| u32_value(whole_seconds(t.0))),
                keepalive_interval: k.interval.and_then(|t| u32_value(whole_seconds(t.0))),
            }),
            ..Default::default()
        }),
        cluster_discovery_type: Some(kind),
        name,
        ..Default::default()
    }
}

/// Discovery by DNS: names are asked for again when their answers expire, a little apart so that not all proxies ask at once. All
/// addresses of a name may be one endpoint, of which connections take whichever address comes first.
fn by_dns(as_one: bool, defaults: Defaults<'_>) -> parts::ClusterDiscoveryType {
    parts::ClusterDiscoveryType::ClusterType(parts::CustomClusterType {
        name: "envoy.clusters.dns".to_owned(),
        typed_config: Some(any(&DnsCluster {
            dns_refresh_rate: Some(duration(defaults.dns_refresh_rate)),
            respect_dns_ttl: true,
            dns_jitter: Some(duration(DNS_JITTER)),
            dns_lookup_family: DnsLookupFamily::V4Preferred as i32,
            all_addresses_in_single_endpoint: as_one,
            ..Default::default()
        })),
    })
}

fn discovery_of(made: &cluster::Cluster) -> parts::DiscoveryType {
    match made.cluster_discovery_type {
        Some(parts::ClusterDiscoveryType::Type(kind)) => parts::DiscoveryType::try_from(kind).unwrap_or_default(),
        _ => parts::DiscoveryType::Static,
    }
}

fn whole_seconds(length: Duration) -> u32 {
    u32::try_from(length.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// Which HTTP a cluster's connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HttpVersion {
    NotHttp,
    Http1,
    Http2,
    /// The same as the client.
    AsClient,
}

fn http_version(protocol: Protocol, pool: Option<&ConnectionPoolSettings>, mesh: H2UpgradePolicy) -> HttpVersion {
    let http = pool.and_then(|p| p.http.as_ref());
    let rule = http.map(|h| h.h2_upgrade_policy).unwrap_or_default();
    if http.is_some_and(|h| h.use_client_protocol) {
        return HttpVersion::AsClient;
    }
    if protocol.is_http2() {
        return HttpVersion::Http2;
    }
    match (protocol, rule) {
        (Protocol::Http | Protocol::Auto, H2UpgradePolicy::Upgrade) => HttpVersion::Http2,
        // The mesh's wish holds only for ports that say that they are HTTP.
        (Protocol::Http, H2UpgradePolicy::Default) if mesh == H2UpgradePolicy::Upgrade => HttpVersion::Http2,
        (Protocol::Http, _) => HttpVersion::Http1,
        (Protocol::Auto, _) => HttpVersion::AsClient,
        _ => HttpVersion::NotHttp,
    }
}

/// `None` where Envoy's defaults do: HTTP/1.1 without limits on connections.
fn http_options(
    version: HttpVersion,
    pool: Option<&ConnectionPoolSettings>,
    name_from_request: bool,
) -> Option<upstream::HttpProtocolOptions> {
    use http_options::{ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config};
    if version == HttpVersion::NotHttp {
        return None;
    }
    let http = pool.and_then(|p| p.http.as_ref());
    let tcp = pool.and_then(|p| p.tcp.as_ref());
    let idle = http.and_then(|h| h.idle_timeout).or(tcp.and_then(|t| t.idle_timeout));
    let longest = tcp.and_then(|t| t.max_connection_duration);
    let requests =
        http.and_then(|h| h.max_requests_per_connection).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    let common = (idle.is_some() || longest.is_some() || requests.is_some()).then(|| core::HttpProtocolOptions {
        idle_timeout: idle.map(|t| duration(t.0)),
        max_connection_duration: longest.map(|t| duration(t.0)),
        max_requests_per_connection: requests.and_then(u32_value),
        ..Default::default()
    });
    let http2 = || core::Http2ProtocolOptions {
        max_concurrent_streams: http
            .and_then(|h| h.max_concurrent_streams)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0)
            .and_then(u32_value),
        connection_keepalive: http.and_then(|h| h.http2_keep_alive.as_ref()).map(|k| core::KeepaliveSettings {
            interval: k.interval.map(|t| duration(t.0)),
            timeout: k.timeout.map(|t| duration(t.0)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let explicit =
        |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    if version == HttpVersion::Http1 && common.is_none() && !name_from_request {
        return None;
    }
    Some(upstream::HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_http_protocol_options: name_from_request.then(|| core::UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: true,
            ..Default::default()
        }),
        upstream_protocol_options: Some(match version {
            HttpVersion::Http2 => explicit(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2())),
            HttpVersion::AsClient => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                http_protocol_options: Some(core::Http1ProtocolOptions::default()),
                http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
                http3_protocol_options: None,
            }),
            _ => explicit(explicit_http_config::ProtocolConfig::HttpProtocolOptions(
                core::Http1ProtocolOptions::default(),
            )),
        }),
        ..Default::default()
    })
}

fn circuit_breakers(pool: Option<&ConnectionPoolSettings>, budget: Option<&RetryBudget>) -> cluster::CircuitBreakers {
    let limit = |value: Option<i32>| {
        u32_value(value.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(UNLIMITED))
    };
    let http = pool.and_then(|p| p.http.as_ref());
    cluster::CircuitBreakers {
        thresholds: vec![cluster::circuit_breakers::Thresholds {
            max_connections: limit(pool.and_then(|p| p.tcp.as_ref()).and_then(|t| t.max_connections)),
            max_pending_requests: limit(http.and_then(|h| h.http1_max_pending_requests)),
            max_requests: limit(http.and_then(|h| h.http2_max_requests)),
            max_retries: limit(http.and_then(|h| h.max_retries)),
            retry_budget: budget.map(|b| cluster::circuit_breakers::thresholds::RetryBudget {
                budget_percent: Some(envoy_type::Percent { value: b.percent.unwrap_or(20.0).clamp(0.0, 100.0) }),
                min_retry_concurrency: u32_value(b.min_retry_concurrency.unwrap_or(3)),
                budget_interval: b.budget_interval.map(|t| duration(t.0)),
            }),
            track_remaining: true,
            ..Default::default()
        }],
        per_host_thresholds: Vec::new(),
    }
}

fn outlier_detection(from: &OutlierDetection) -> cluster::OutlierDetection {
    // Zero failures in a row is how an operator turns a detector off.
    let enforcing = |failures: Option<u32>| failures.and_then(|n| u32_value(if n == 0 { 0 } else { 100 }));
    let local = from.consecutive_local_origin_failures.filter(|n| *n > 0 && from.split_external_local_origin_errors);
    cluster::OutlierDetection {
        consecutive_5xx: from.consecutive_5xx_errors.and_then(u32_value),
        enforcing_consecutive_5xx: enforcing(from.consecutive_5xx_errors),
        consecutive_gateway_failure: from.consecutive_gateway_errors.and_then(u32_value),
        enforcing_consecutive_gateway_failure: enforcing(from.consecutive_gateway_errors),
        interval: from.interval.map(|t| duration(t.0)),
        base_ejection_time: from.base_ejection_time.map(|t| duration(t.0)),
        max_ejection_percent: u32::try_from(from.max_ejection_percent)
            .ok()
            .filter(|p| *p > 0)
            .and_then(|p| u32_value(p.min(100))),
        split_external_local_origin_errors: from.split_external_local_origin_errors,
        consecutive_local_origin_failure: local.and_then(u32_value),
        enforcing_consecutive_local_origin_failure: local.and_then(|_| u32_value(100)),
        enforcing_success_rate: u32_value(0),
        enforcing_local_origin_success_rate: if from.split_external_local_origin_errors { u32_value(0) } else { None },
        ..Default::default()
    }
}

fn balance(made: &mut cluster::Cluster, policy: &Policy<'_>) {
    use parts::{LbConfig, LbPolicy};
    if policy.by_client_address {
        made.lb_policy = LbPolicy::RingHash as i32;
        made.lb_config = Some(ring_of(None));
        return;
    }
    let Some(settings) = policy.load_balancer else { return };
    if let Some(hash) = &settings.consistent_hash {
        let (policy, config) = match (&hash.ring_hash, &hash.maglev) {
            (_, Some(maglev)) => (
                LbPolicy::Maglev,
                LbConfig::MaglevLbConfig(parts::MaglevLbConfig {
                    table_size: maglev.table_size.map(|value| google::UInt64Value { value }),
                }),
            ),
            (ring, None) => {
                let size = ring.as_ref().and_then(|r| r.minimum_ring_size).or(hash.minimum_ring_size);
                (LbPolicy::RingHash, ring_of(size))
            }
        };
        made.lb_policy = policy as i32;
        made.lb_config = Some(config);
        return;
    }
    let slow_start = slow_start(settings);
    match settings.simple.unwrap_or_default() {
        SimpleLb::Random => made.lb_policy = LbPolicy::Random as i32,
        SimpleLb::RoundRobin => {
            made.lb_policy = LbPolicy::RoundRobin as i32;
            made.lb_config = slow_start.map(|slow_start_config| {
                LbConfig::RoundRobinLbConfig(parts::RoundRobinLbConfig { slow_start_config: Some(slow_start_config) })
            });
        }
        SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Passthrough => {
            made.lb_config = slow_start.map(|slow_start_config| {
                LbConfig::LeastRequestLbConfig(parts::LeastRequestLbConfig {
                    slow_start_config: Some(slow_start_config),
                    ..Default::default()
                })
            });
        }
    }
}

fn ring_of(size: Option<u64>) -> parts::LbConfig {
    parts::LbConfig::RingHashLbConfig(parts::RingHashLbConfig {
        minimum_ring_size: Some(google::UInt64Value { value: size.filter(|s| *s > 0).unwrap_or(1024) }),
        ..Default::default()
    })
}

fn slow_start(settings: &LoadBalancerSettings) -> Option<parts::SlowStartConfig> {
    let warmup = settings.warmup.as_ref();
    let window = warmup.and_then(|w| w.duration).or(settings.warmup_duration_secs)?;
    Some(parts::SlowStartConfig {
        slow_start_window: Some(duration(window.0)),
        aggression: warmup.and_then(|w| w.aggression).map(|value| core::RuntimeDouble {
            default_value: value.max(1.0),
            runtime_key: "upstream.slow_start.aggression".to_owned(),
        }),
        min_weight_percent: Some(envoy_type::Percent {
            value: warmup.and_then(|w| w.minimum_percent).unwrap_or(10.0).clamp(0.0, 100.0),
        }),
    })
}

fn structure<const N: usize>(fields: [(&str, google::Value); N]) -> google::Value {
    google::Value {
        kind: Some(google::value::Kind::StructValue(google::Struct {
            fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        })),
    }
}

fn list<const N: usize>(values: [google::Value; N]) -> google::Value {
    google::Value { kind: Some(google::value::Kind::ListValue(google::ListValue { values: values.into() })) }
}

/// A list with one endpoint, which may be a DNS name.
pub fn one_host(name: &str, host: &str, port: u16) -> LoadAssignment {
    one_address(name, super::wire::host_address(host.to_owned(), port))
}

/// A list with one endpoint.
pub fn one_address(name: &str, address: core::Address) -> LoadAssignment {
    LoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                    address: Some(address),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}
