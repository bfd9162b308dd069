//! Listeners, filter chains and network filters.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use xebec_proto::envoy::config::core::v3::TrafficDirection as WireDirection;
use xebec_proto::envoy::config::listener::v3::{
    self as listener, filter, filter_chain_match::ConnectionSourceType, listener_filter,
};
use xebec_proto::envoy::extensions::filters::network::tcp_proxy::v3::{self as tcp, tcp_proxy::ClusterSpecifier};
use xebec_proto::type_url;

use super::cluster::plain_text;
use super::place::{Outcome, Place, ignored, inert, refused};
use super::{Wait, access_log, hcm, value};
use crate::model::{
    FilterChain, FilterChainMatch, Listener, ListenerFilter, NetworkFilter, SourceType, TcpProxy, TrafficDirection,
    WeightedCluster,
};

/// Network filters that observe: leaving them out weakens nothing.
const HARMLESS: &[&str] = &[
    "envoy.extensions.filters.network.mongo_proxy.",
    "envoy.extensions.filters.network.zookeeper_proxy.",
    "envoy.extensions.filters.network.set_filter_state.",
    "envoy.tcp.metadataexchange.config.",
    "io.istio.network.metadata_exchange.",
    "stats.PluginConfig",
];

/// A listener, and how long its routes are waited for.
pub(super) fn listener(at: Place<'_>, value: &listener::Listener) -> Outcome<(Listener, Wait)> {
    let listener::Listener {
        name,
        address,
        additional_addresses,
        stat_prefix,
        stats_matcher,
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        metadata,
        deprecated_v1,
        drain_type,
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent,
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        traffic_direction,
        udp_listener_config,
        api_listener,
        connection_balance_config,
        reuse_port,
        enable_reuse_port,
        access_log,
        tcp_backlog_size,
        max_connections_to_accept_per_socket_event,
        bind_to_port,
        enable_mptcp,
        ignore_global_conn_limit,
        bypass_overload_manager,
        tcp_keepalive,
        listener_specifier,
    } = value;
    refused!(at, "this kind of listener is not supported"; udp_listener_config, api_listener, listener_specifier);
    refused!(at, "filter chains have to be inline, with filter_chain_match"; fcds_config, filter_chain_matcher);
    ignored!(at; stats_matcher, per_connection_buffer_limit_bytes, per_connection_buffer_high_watermark_timeout, drain_type,
        freebind, socket_options, tcp_fast_open_queue_length, connection_balance_config, tcp_backlog_size,
        max_connections_to_accept_per_socket_event, enable_mptcp, tcp_keepalive);
    inert!(metadata, reuse_port, enable_reuse_port, ignore_global_conn_limit, bypass_overload_manager);

    let address = value::socket(at.field("address"), address.as_ref())?;
    let mut wait = Wait::NONE;
    let chains = at.field("filter_chains").each(filter_chains, |at, value| chain(at, value, &mut wait))?;
    let mut seen = HashSet::new();
    for (index, chain) in chains.iter().enumerate() {
        if !seen.insert(format!("{:?}", chain.matcher)) {
            let list = at.field("filter_chains");
            return Err(list.index(index).field("filter_chain_match").refuse("another chain has the same match"));
        }
    }
    let default_chain = match default_filter_chain {
        Some(value) => Some(chain(at.field("default_filter_chain"), value, &mut wait)?),
        None => None,
    };
    if chains.is_empty() && default_chain.is_none() {
        return Err(at.field("filter_chains").refuse("a listener needs a chain"));
    }
    let bind = bind_to_port.or_else(|| deprecated_v1.as_ref().and_then(|deprecated| deprecated.bind_to_port));
    let listener = Listener {
        name: if name.is_empty() { address.to_string().into() } else { name.as_str().into() },
        stat_name: if stat_prefix.is_empty() {
            address.to_string().replace(':', "_").into()
        } else {
            stat_prefix.as_str().into()
        },
        address,
        more_addresses: at.field("additional_addresses").each(additional_addresses, |at, more| {
            let listener::AdditionalAddress { address, socket_options, tcp_keepalive } = more;
            ignored!(at; socket_options, tcp_keepalive);
            value::socket(at.field("address"), address.as_ref())
        })?,
        bind_to_port: value::switch(bind.as_ref(), true),
        use_original_dst: value::switch(use_original_dst.as_ref(), false),
        transparent: value::switch(transparent.as_ref(), false),
        listener_filters: at
            .field("listener_filters")
            .each(listener_filters, listener_filter)?
            .into_iter()
            .flatten()
            .collect(),
        listener_filters_timeout: value::timeout(
            at.field("listener_filters_timeout"),
            listener_filters_timeout.as_ref(),
            Some(Duration::from_secs(15)),
        )?,
        continue_on_timeout: *continue_on_listener_filters_timeout,
        chains: chains.into_iter().map(Arc::new).collect(),
        default_chain: default_chain.map(Arc::new),
        direction: match WireDirection::try_from(*traffic_direction) {
            Ok(WireDirection::Inbound) => TrafficDirection::Inbound,
            Ok(WireDirection::Outbound) => TrafficDirection::Outbound,
            _ => TrafficDirection::Unspecified,
        },
        max_connections: None,
        access_logs: access_log::logs(at.field("access_log"), access_log)?,
    };
    Ok((listener, wait))
}

fn listener_filter(at: Place<'_>, value: &listener::ListenerFilter) -> Outcome<Option<ListenerFilter>> {
    let listener::ListenerFilter { name, filter_disabled, config_type } = value;
    ignored!(at; filter_disabled);
    let kind = match config_type {
        Some(listener_filter::ConfigType::TypedConfig(any)) => type_url::of_name(type_url::name_of(&any.type_url)),
        Some(listener_filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(at.field("config_discovery").refuse("configuration discovery is not supported"));
        }
        None => return Err(at.field("typed_config").refuse(format_args!("filter {name:?} has no configuration"))),
    };
    Ok(Some(match kind.as_str() {
        type_url::TLS_INSPECTOR => ListenerFilter::TlsInspector,
        type_url::HTTP_INSPECTOR => ListenerFilter::HttpInspector,
        type_url::ORIGINAL_DST => ListenerFilter::OriginalDst,
        type_url::ORIGINAL_SRC => {
            at.ignored("upstreams see the proxy's address");
            return Ok(None);
        }
        other => {
            let kind = type_url::name_of(other);
            return Err(at.refuse(format_args!("listener filter {name:?} ({kind}) is not supported")));
        }
    }))
}

fn chain(at: Place<'_>, value: &listener::FilterChain, wait: &mut Wait) -> Outcome<FilterChain> {
    let listener::FilterChain {
        filter_chain_match,
        filters,
        use_proxy_proto,
        metadata,
        transport_socket,
        transport_socket_connect_timeout,
        name,
    } = value;
    inert!(metadata, transport_socket_connect_timeout);
    if value::switch(use_proxy_proto.as_ref(), false) {
        return Err(at.field("use_proxy_proto").refuse("the PROXY protocol is not supported"));
    }
    plain_text(at.field("transport_socket"), transport_socket.as_ref())?;
    let matcher = match filter_chain_match {
        Some(value) => chain_match(at.field("filter_chain_match"), value)?,
        None => FilterChainMatch::default(),
    };
    let list = at.field("filters");
    let mut terminal = None;
    for (index, filter) in filters.iter().enumerate() {
        let at = list.index(index);
        if terminal.is_some() {
            return Err(at.refuse("no filter may follow the terminal one"));
        }
        terminal = network_filter(at, filter, wait)?;
    }
    let filter =
        terminal.ok_or_else(|| list.refuse("the last filter has to be http_connection_manager or tcp_proxy"))?;
    Ok(FilterChain { name: name.as_str().into(), matcher, filter })
}

fn chain_match(at: Place<'_>, value: &listener::FilterChainMatch) -> Outcome<FilterChainMatch> {
    let listener::FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = value;
    refused!(at, "matching on address suffixes is not supported"; address_suffix, suffix_len);
    let port =
        |at: Place<'_>, port: u32| u16::try_from(port).map_err(|_| at.refuse(format_args!("{port} is not a port")));
    Ok(FilterChainMatch {
        destination_port: value::number(destination_port.as_ref())
            .map(|number| port(at.field("destination_port"), number))
            .transpose()?,
        prefix_ranges: at.field("prefix_ranges").each(prefix_ranges, value::cidr)?,
        server_names: at.field("server_names").each(server_names, |at, name| {
            let lower = name.to_ascii_lowercase();
            let rest = lower.strip_prefix('*').unwrap_or(&lower);
            if rest.contains('*') || (lower.starts_with('*') && !rest.is_empty() && !rest.starts_with('.')) {
                return Err(at.refuse(format_args!("{name:?}: only a leading `*.` is a wildcard")));
            }
            Ok(lower.into_boxed_str())
        })?,
        transport_protocol: transport_protocol.as_str().into(),
        application_protocols: application_protocols.iter().map(|name| name.as_str().into()).collect(),
        direct_source_ranges: at.field("direct_source_prefix_ranges").each(direct_source_prefix_ranges, value::cidr)?,
        source_type: match ConnectionSourceType::try_from(*source_type) {
            Ok(ConnectionSourceType::Any) => SourceType::Any,
            Ok(ConnectionSourceType::SameIpOrLoopback) => SourceType::Local,
            Ok(ConnectionSourceType::External) => SourceType::External,
            Err(_) => return Err(at.field("source_type").refuse("not a known type")),
        },
        source_ranges: at.field("source_prefix_ranges").each(source_prefix_ranges, value::cidr)?,
        source_ports: at.field("source_ports").each(source_ports, |at, number| port(at, *number))?,
    })
}

/// `None` for a filter that is left out.
fn network_filter(at: Place<'_>, value: &listener::Filter, wait: &mut Wait) -> Outcome<Option<NetworkFilter>> {
    let listener::Filter { name, config_type } = value;
    let any = match config_type {
        Some(filter::ConfigType::TypedConfig(any)) => any,
        Some(filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(at.field("config_discovery").refuse("configuration discovery of filters is not supported"));
        }
        None => return Err(at.field("typed_config").refuse(format_args!("filter {name:?} has no configuration"))),
    };
    let inner = at.field("typed_config");
    match type_url::of_name(type_url::name_of(&any.type_url)).as_str() {
        type_url::HTTP_CONNECTION_MANAGER => {
            let (manager, routes) = hcm::manager(inner, &value::unpack(inner, any)?)?;
            *wait = wait.longer(routes);
            Ok(Some(NetworkFilter::Http(Arc::new(manager))))
        }
        type_url::TCP_PROXY => Ok(Some(NetworkFilter::Tcp(Arc::new(tcp_proxy(inner, &value::unpack(inner, any)?)?)))),
        other => {
            let kind = type_url::name_of(other);
            if HARMLESS.iter().any(|known| kind == *known || (known.ends_with('.') && kind.starts_with(known))) {
                inner.ignored("the filter is left out");
                return Ok(None);
            }
            Err(inner.refuse(format_args!(
                "filter {name:?} ({kind}) is not supported, and leaving it out may let connections through that it keeps out"
            )))
        }
    }
}

fn tcp_proxy(at: Place<'_>, value: &tcp::TcpProxy) -> Outcome<TcpProxy> {
    let tcp::TcpProxy {
        stat_prefix,
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        hash_policy,
        tunneling_config,
        max_downstream_connection_duration,
        max_downstream_connection_duration_jitter_percentage,
        access_log_flush_interval,
        flush_access_log_on_connected,
        access_log_options,
        proxy_protocol_tlvs,
        proxy_protocol_tlv_merge_policy,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        cluster_specifier,
    } = value;
    refused!(at, "connections would go to the wrong place"; tunneling_config);
    ignored!(at; on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout, backoff_options, hash_policy,
        max_downstream_connection_duration, max_downstream_connection_duration_jitter_percentage, access_log_flush_interval,
        flush_access_log_on_connected, access_log_options, proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy,
        upstream_connect_mode, max_early_data_bytes, check_drain_close);
    let clusters = match cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![WeightedCluster::new(name, 1)],
        Some(ClusterSpecifier::WeightedClusters(list)) => {
            let at = at.field("weighted_clusters");
            at.field("clusters").each(&list.clusters, |at, choice| {
                let tcp::tcp_proxy::weighted_cluster::ClusterWeight { name, weight, metadata_match } = choice;
                ignored!(at; metadata_match);
                Ok(WeightedCluster::new(name, *weight))
            })?
        }
        None => return Err(at.field("cluster").refuse("a cluster is required")),
    };
    Ok(TcpProxy {
        stat_prefix: stat_prefix.as_str().into(),
        clusters,
        idle_timeout: value::timeout(at.field("idle_timeout"), idle_timeout.as_ref(), Some(Duration::from_secs(3600)))?,
        max_connect_attempts: value::number(max_connect_attempts.as_ref()).unwrap_or(1).max(1),
        access_logs: access_log::logs(at.field("access_log"), access_log)?,
    })
}
