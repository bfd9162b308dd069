//! Clusters: discovery, balancing, limits and the protocol that is spoken.

use std::sync::Arc;
use std::time::Duration;

use xebec_proto::envoy::config::cluster::v3::{
    self as cluster,
    cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig},
};
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::extensions::clusters::dns::v3::DnsCluster;
use xebec_proto::google::protobuf::{Any, UInt32Value};
use xebec_proto::type_url;

use super::endpoint::{self, Names};
use super::place::{Outcome, Place, ignored, inert, refused};
use super::{ClusterParts, balancing, protocol, value};
use crate::model::{CircuitBreakers, Cluster, DNS_REFRESH, Discovery, Endpoints, OutlierDetection, UpstreamProtocol};

/// A cluster, its inline endpoints, and under which name its others are asked for.
pub(super) fn cluster(at: Place<'_>, value: &cluster::Cluster) -> Outcome<ClusterParts> {
    let cluster::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name,
        stats_matcher,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
        outlier_detection,
        cleanup_interval,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = value;

    refused!(at, "matchers of transport sockets are not supported"; transport_socket_matcher);
    refused!(at, "custom upstreams are not supported"; upstream_config);
    ignored!(at; stats_matcher, per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout, health_checks,
        http_protocol_options, dns_refresh_rate, dns_jitter, dns_failure_refresh_rate, dns_lookup_family, dns_resolvers,
        use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config, cleanup_interval,
        close_connections_on_host_health_failure, filters, lrs_server, lrs_report_endpoint_metrics, preconnect_policy,
        connection_pool_per_downstream_connection, queuing_policies);
    inert!(
        metadata,
        respect_dns_ttl,
        wait_for_warm_on_init,
        ignore_health_on_host_removal,
        track_timeout_budgets,
        track_cluster_stats,
        upstream_http_protocol_options
    );
    if name.is_empty() {
        return Err(at.field("name").refuse("a name is required"));
    }
    plain_text(at.field("transport_socket"), transport_socket.as_ref())?;
    at.field("transport_socket_matches").each(transport_socket_matches, |at, item| {
        plain_text(at.field("transport_socket"), item.transport_socket.as_ref())
    })?;
    if lb_subset_config.as_ref().is_some_and(|subsets| !subsets.subset_selectors.is_empty()) {
        return Err(at
            .field("lb_subset_config")
            .refuse("subsets by metadata are not supported; use a cluster per subset"));
    }

    let discovery = discovery(at, cluster_discovery_type.as_ref())?;
    let mut out = Cluster::new(name, discovery);
    if !alt_stat_name.is_empty() {
        // Istio closes the name with a delimiter for its own tag rules; it is not part of the name.
        out.stat_name = alt_stat_name.trim_end_matches(';').into();
    }
    if let Some(limit) = value::duration(at.field("connect_timeout"), connect_timeout.as_ref())? {
        if limit.is_zero() {
            return Err(at.field("connect_timeout").refuse("a connect timeout is more than zero"));
        }
        out.connect_timeout = limit;
    }
    out.lb = balancing::lb(at, *lb_policy, discovery, lb_config.as_ref())?;
    if let Some(policy) = load_balancing_policy {
        balancing::load_balancing(at.field("load_balancing_policy"), policy, &mut out)?;
    }
    if let Some(common) = common_lb_config {
        balancing::common_lb(at.field("common_lb_config"), common, &mut out)?;
    }
    if let Some(LbConfig::OriginalDstLbConfig(config)) = lb_config {
        balancing::original_dst(at.field("original_dst_lb_config"), config, &mut out)?;
    }
    if let Some(breakers) = circuit_breakers {
        out.breakers = self::breakers(at.field("circuit_breakers"), breakers);
    }
    if let Some(detection) = outlier_detection {
        out.outlier = Some(outlier(at.field("outlier_detection"), detection)?);
    }
    if let Some(bind) = upstream_bind_config {
        self::bind(at.field("upstream_bind_config"), bind, &mut out)?;
    }
    if let Some(options) = upstream_connection_options {
        connection_options(at.field("upstream_connection_options"), options, &mut out);
    }
    out.max_requests_per_connection = value::number(max_requests_per_connection.as_ref()).unwrap_or(0);
    if let Some(common) = common_http_protocol_options {
        protocol::common_http(at.field("common_http_protocol_options"), common, &mut out)?;
    }
    if let Some(http2) = http2_protocol_options {
        out.protocol = UpstreamProtocol::Http2;
        protocol::http2_options(at.field("http2_protocol_options"), http2, &mut out);
    }
    if *protocol_selection == cluster::cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32 {
        out.protocol = UpstreamProtocol::Downstream;
    }
    let extensions = at.field("typed_extension_protocol_options");
    for (key, any) in typed_extension_protocol_options {
        protocol::extension(extensions.key(key), any, &mut out)?;
    }

    let mut parts = ClusterParts { cluster: Arc::new(out), eds: None, inline: None };
    match discovery {
        Discovery::Eds => {
            let at = at.field("eds_cluster_config");
            let config = eds_cluster_config.as_ref().ok_or_else(|| at.refuse("required for a cluster of type EDS"))?;
            let cluster::cluster::EdsClusterConfig { eds_config, service_name } = config;
            let wait = value::from_same_stream(at.field("eds_config"), eds_config.as_ref())?;
            let service = if service_name.is_empty() { name } else { service_name };
            parts.eds = Some((service.as_str().into(), wait));
        }
        Discovery::OriginalDst => {}
        Discovery::Static | Discovery::StrictDns | Discovery::LogicalDns => {
            let at = at.field("load_assignment");
            let names = if discovery == Discovery::Static { Names::Refused } else { Names::Resolved };
            // A cluster without endpoints is a way to say that requests go nowhere.
            let endpoints = match load_assignment {
                Some(assignment) => endpoint::assignment(at, assignment, names)?,
                None => Endpoints::default(),
            };
            if discovery == Discovery::LogicalDns && endpoints.iter().count() != 1 {
                return Err(at.refuse("a LOGICAL_DNS cluster has exactly one endpoint"));
            }
            parts.inline = Some(Arc::new(endpoints));
        }
    }
    Ok(parts)
}

/// Plain text is all there is; anything else would send in the clear what was meant to be protected.
pub(super) fn plain_text(at: Place<'_>, socket: Option<&core::TransportSocket>) -> Outcome<()> {
    let Some(core::TransportSocket { name, config_type }) = socket else { return Ok(()) };
    let raw = match config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => {
            type_url::name_of(&any.type_url) == type_url::name_of(type_url::RAW_BUFFER)
        }
        None => name == "envoy.transport_sockets.raw_buffer" || name == "raw_buffer",
    };
    if raw {
        return Ok(());
    }
    Err(at.refuse(format_args!(
        "transport socket {name:?} is not supported, only raw_buffer is; traffic would be in plain text"
    )))
}

fn discovery(at: Place<'_>, value: Option<&ClusterDiscoveryType>) -> Outcome<Discovery> {
    match value {
        None => Ok(Discovery::Static),
        Some(ClusterDiscoveryType::Type(kind)) => match DiscoveryType::try_from(*kind) {
            Ok(DiscoveryType::Static) => Ok(Discovery::Static),
            Ok(DiscoveryType::StrictDns) => Ok(Discovery::StrictDns),
            Ok(DiscoveryType::LogicalDns) => Ok(Discovery::LogicalDns),
            Ok(DiscoveryType::Eds) => Ok(Discovery::Eds),
            Ok(DiscoveryType::OriginalDst) => Ok(Discovery::OriginalDst),
            Err(_) => Err(at.field("type").refuse("not a known type of discovery")),
        },
        Some(ClusterDiscoveryType::ClusterType(custom)) => cluster_type(at.field("cluster_type"), custom),
    }
}

/// The only type by extension that is known is Envoy's present way of discovery by DNS.
fn cluster_type(at: Place<'_>, value: &cluster::cluster::CustomClusterType) -> Outcome<Discovery> {
    let cluster::cluster::CustomClusterType { name, typed_config } = value;
    let is_dns = |any: &&Any| type_url::name_of(&any.type_url) == type_url::name_of(type_url::DNS_CLUSTER);
    let Some(any) = typed_config.as_ref().filter(is_dns) else {
        return Err(at.refuse(format_args!("cluster type {name:?} is not supported")));
    };
    let at = at.field("typed_config");
    let config: DnsCluster = value::unpack(at, any)?;
    let DnsCluster {
        dns_refresh_rate,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_jitter,
        typed_dns_resolver_config,
        dns_lookup_family,
        all_addresses_in_single_endpoint,
        dns_min_refresh_rate,
    } = &config;
    ignored!(at; dns_failure_refresh_rate, typed_dns_resolver_config, dns_min_refresh_rate);
    // Names are looked up every few seconds and by one thread, whatever their answers say of the time that they hold. Addresses of both
    // families are used.
    inert!(respect_dns_ttl, dns_jitter, dns_lookup_family);
    let rate = value::duration(at.field("dns_refresh_rate"), dns_refresh_rate.as_ref())?;
    if rate.is_some_and(|rate| rate < DNS_REFRESH) {
        at.field("dns_refresh_rate").ignored("names are looked up every five seconds");
    }
    Ok(if *all_addresses_in_single_endpoint { Discovery::LogicalDns } else { Discovery::StrictDns })
}

fn breakers(at: Place<'_>, value: &cluster::CircuitBreakers) -> CircuitBreakers {
    let cluster::CircuitBreakers { thresholds, per_host_thresholds } = value;
    ignored!(at; per_host_thresholds);
    let list = at.field("thresholds");
    let mut out = CircuitBreakers::default();
    for (index, threshold) in thresholds.iter().enumerate() {
        let at = list.index(index);
        let cluster::circuit_breakers::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = threshold;
        if *priority != core::RoutingPriority::Default as i32 {
            at.ignored("all requests have default priority");
            continue;
        }
        ignored!(at; retry_budget, max_connection_pools);
        inert!(track_remaining);
        let default = CircuitBreakers::default();
        out = CircuitBreakers {
            max_connections: value::number(max_connections.as_ref()).unwrap_or(default.max_connections),
            max_pending: value::number(max_pending_requests.as_ref()).unwrap_or(default.max_pending),
            max_requests: value::number(max_requests.as_ref()).unwrap_or(default.max_requests),
            max_retries: value::number(max_retries.as_ref()).unwrap_or(default.max_retries),
        };
    }
    out
}

fn outlier(at: Place<'_>, value: &cluster::OutlierDetection) -> Outcome<OutlierDetection> {
    let cluster::OutlierDetection {
        consecutive_5xx,
        interval,
        base_ejection_time,
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        failure_percentage_threshold,
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
        max_ejection_time,
        max_ejection_time_jitter,
        successful_active_health_check_uneject_host,
        monitors,
        always_eject_one_host,
        detect_degraded_hosts,
    } = value;
    ignored!(at; interval, success_rate_minimum_hosts, success_rate_request_volume, success_rate_stdev_factor,
        split_external_local_origin_errors, consecutive_local_origin_failure, enforcing_consecutive_local_origin_failure,
        failure_percentage_threshold, failure_percentage_minimum_hosts, failure_percentage_request_volume,
        max_ejection_time_jitter, monitors, always_eject_one_host, detect_degraded_hosts);
    inert!(successful_active_health_check_uneject_host);
    // Zero turns a detector off, which is all that there is here.
    for (name, share) in [
        ("enforcing_success_rate", enforcing_success_rate),
        ("enforcing_local_origin_success_rate", enforcing_local_origin_success_rate),
        ("enforcing_failure_percentage", enforcing_failure_percentage),
        ("enforcing_failure_percentage_local_origin", enforcing_failure_percentage_local_origin),
    ] {
        if value::number(share.as_ref()).is_some_and(|share| share > 0) {
            at.field(name).ignored("only consecutive failures eject");
        }
    }
    let detector = |count: &Option<UInt32Value>, enforcing: &Option<UInt32Value>, enforced_by_default: bool| {
        let on = value::number(enforcing.as_ref()).map_or(enforced_by_default, |share| share > 0);
        Some(value::number(count.as_ref()).unwrap_or(5)).filter(|count| on && *count > 0)
    };
    let default = OutlierDetection::default();
    let base = value::duration(at.field("base_ejection_time"), base_ejection_time.as_ref())?;
    let base = base.unwrap_or(default.base_ejection);
    let longest = value::duration(at.field("max_ejection_time"), max_ejection_time.as_ref())?;
    Ok(OutlierDetection {
        consecutive_5xx: detector(consecutive_5xx, enforcing_consecutive_5xx, true),
        consecutive_gateway: detector(consecutive_gateway_failure, enforcing_consecutive_gateway_failure, false),
        base_ejection: base,
        max_ejection: longest.unwrap_or(default.max_ejection).max(base),
        max_ejection_percent: value::number(max_ejection_percent.as_ref())
            .unwrap_or(default.max_ejection_percent)
            .min(100),
    })
}

fn bind(at: Place<'_>, value: &core::BindConfig, out: &mut Cluster) -> Outcome<()> {
    let core::BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = value;
    ignored!(at; freebind, socket_options, extra_source_addresses, additional_source_addresses, local_address_selector,
        validate_network_namespaces);
    if let Some(source) = source_address {
        let at = at.field("source_address");
        out.source_address = match value::socket_host(at, source)? {
            value::Host::Socket(socket) => Some(socket),
            value::Host::Name(name, _) => return Err(at.refuse(format_args!("{name:?} is not an IP address"))),
        };
    }
    Ok(())
}

fn connection_options(at: Place<'_>, value: &cluster::UpstreamConnectionOptions, out: &mut Cluster) {
    let cluster::UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = value;
    ignored!(at; happy_eyeballs_config);
    inert!(set_local_interface_name_on_upstream_connections);
    if let Some(core::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval }) = tcp_keepalive {
        let seconds = |value: &Option<UInt32Value>, default| {
            Duration::from_secs(u64::from(value::number(value.as_ref()).unwrap_or(default)))
        };
        // Linux's own defaults, which Envoy leaves in place for what is not set.
        let probes = value::number(keepalive_probes.as_ref()).unwrap_or(9);
        out.tcp_keepalive = Some((seconds(keepalive_time, 7200), seconds(keepalive_interval, 75), probes));
    }
}
