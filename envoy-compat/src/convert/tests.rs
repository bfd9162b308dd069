//! What is honoured, what is reported, and what is refused, by the field that says it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use xebec_proto::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener, route::v3::RouteConfiguration,
};
use xebec_proto::json as proto_json;
use xebec_proto::prost::Message as _;

use crate::model::{
    AppendAction, Discovery, HostRewrite, LbPolicy, ListenerFilter, NetworkFilter, PathRewrite, RetryOn, RouteAction,
    RouteSource, Target, UpstreamProtocol,
};

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

fn cluster(body: Value) -> Result<super::Converted<super::ClusterParts>, super::Refusal> {
    super::cluster(&proto_json::decode::<Cluster>(body).unwrap())
}

/// A route configuration with one host `*` that has these routes.
fn routes(routes: Value) -> Result<super::Converted<super::TableParts>, super::Refusal> {
    let body = json!({ "name": "r", "virtual_hosts": [{ "name": "h", "domains": ["*"], "routes": routes }] });
    super::routes(&proto_json::decode::<RouteConfiguration>(body).unwrap())
}

fn route_action(action: Value) -> Result<RouteAction, super::Refusal> {
    let parts = routes(json!([{ "match": { "prefix": "/" }, "route": action }]))?;
    Ok(parts.value.hosts[0].host.routes()[0].action.clone())
}

fn forward(action: Value) -> crate::model::Forward {
    match route_action(action).unwrap() {
        RouteAction::Forward(forward) => *forward,
        other => panic!("{other:?}"),
    }
}

/// A listener with this connection manager.
fn manager(fields: Value, filters: Value) -> Result<super::Converted<super::ListenerParts>, super::Refusal> {
    let mut config = json!({
        "@type": HCM, "stat_prefix": "s", "http_filters": filters,
        "rds": { "config_source": { "ads": {} }, "route_config_name": "80" },
    });
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    listener(json!({ "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": config }] }] }))
}

fn listener(fields: Value) -> Result<super::Converted<super::ListenerParts>, super::Refusal> {
    let mut body = json!({ "name": "l", "address": { "socket_address": { "address": "0.0.0.0", "port_value": 80 } } });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    super::listener(&proto_json::decode::<Listener>(body).unwrap())
}

fn filter(kind: &str) -> Value {
    json!({ "name": kind, "typed_config": { "@type": format!("type.googleapis.com/{kind}") } })
}

fn router() -> Value {
    filter("envoy.extensions.filters.http.router.v3.Router")
}

fn paths<T>(converted: &super::Converted<T>) -> Vec<&str> {
    converted.ignored.iter().map(|ignored| ignored.path.as_str()).collect()
}

#[test]
fn a_cluster_as_istio_makes_it_is_honoured() {
    let made = cluster(json!({
        "name": "outbound|80||a", "alt_stat_name": "outbound|80||a;", "type": "EDS", "connect_timeout": "0.5s",
        "eds_cluster_config": { "eds_config": { "ads": {}, "initial_fetch_timeout": "0s" }, "service_name": "svc" },
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": { "thresholds": [{ "max_connections": 7, "max_retries": 9 }, { "priority": "HIGH" }] },
        "outlier_detection": { "consecutive_5xx": 3, "base_ejection_time": "10s", "enforcing_success_rate": 0 },
        "upstream_connection_options": { "tcp_keepalive": { "keepalive_time": 60 } },
        "common_lb_config": { "locality_weighted_lb_config": {}, "healthy_panic_threshold": { "value": 0 } },
        "metadata": { "filter_metadata": { "istio": { "config": "x" } } },
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": { "idle_timeout": "0s", "max_requests_per_connection": 5 },
            "explicit_http_config": { "http2_protocol_options": { "max_concurrent_streams": 17 } },
        } },
    }))
    .unwrap();
    assert_eq!(paths(&made), ["circuit_breakers.thresholds[1]"]);
    let (service, wait) = made.value.eds.unwrap();
    assert_eq!((&*service, wait), ("svc", None));
    let cluster = made.value.cluster;
    assert_eq!(&*cluster.stat_name, "outbound|80||a");
    assert_eq!(cluster.connect_timeout, Duration::from_millis(500));
    assert_eq!(cluster.lb, LbPolicy::LeastRequest { choices: 2 });
    assert_eq!((cluster.breakers.max_connections, cluster.breakers.max_requests), (7, 1024));
    assert_eq!(cluster.breakers.max_retries, 9);
    let outlier = cluster.outlier.unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.consecutive_gateway), (Some(3), None));
    assert_eq!((cluster.protocol, cluster.max_concurrent_streams), (UpstreamProtocol::Http2, 17));
    assert_eq!((cluster.idle_timeout, cluster.max_requests_per_connection), (None, 5));
    assert!(cluster.locality_weighted && cluster.panic_threshold == 0.0);
    assert_eq!(cluster.tcp_keepalive, Some((Duration::from_secs(60), Duration::from_secs(75), 9)));
}

#[test]
fn a_cluster_that_would_send_in_the_clear_or_elsewhere_is_refused() {
    let refused = |fields: Value| {
        let mut body = json!({ "name": "c" });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        cluster(body).unwrap_err().path
    };
    let tls = json!({ "name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" } });
    assert_eq!(refused(json!({ "transport_socket": tls })), "transport_socket");
    assert_eq!(
        refused(json!({ "transport_socket_matches": [{ "name": "m", "transport_socket": tls }] })),
        "transport_socket_matches[0].transport_socket"
    );
    assert_eq!(
        refused(json!({ "type": "ORIGINAL_DST", "original_dst_lb_config": { "upstream_port_override": 7 } })),
        "original_dst_lb_config.upstream_port_override"
    );
    assert_eq!(refused(json!({ "type": "EDS" })), "eds_cluster_config");
    assert_eq!(
        refused(json!({ "type": "EDS", "eds_cluster_config": { "eds_config": { "path": "/x" } } })),
        "eds_cluster_config.eds_config"
    );
    assert_eq!(refused(json!({ "connect_timeout": "0s" })), "connect_timeout");
    assert_eq!(refused(json!({ "type": "LOGICAL_DNS", "load_assignment": {} })), "load_assignment");
    assert_eq!(
        refused(json!({ "lb_policy": "MAGLEV", "maglev_lb_config": { "table_size": 100 } })),
        "maglev_lb_config.table_size"
    );
    let endless = json!({ "lb_policy": "MAGLEV", "maglev_lb_config": { "table_size": u64::MAX.to_string() } });
    assert_eq!(refused(endless), "maglev_lb_config.table_size");
    assert_eq!(
        refused(json!({ "load_assignment": { "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address":
            { "socket_address": { "address": "a.example", "port_value": 1 } } } }] }] } })),
        "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address"
    );
    let raw = json!({ "name": "envoy.transport_sockets.raw_buffer", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" } });
    assert!(cluster(json!({ "name": "c", "transport_socket": raw })).is_ok());
}

#[test]
fn a_cluster_without_endpoints_goes_nowhere_and_dns_names_are_kept() {
    let made = cluster(json!({ "name": "BlackHoleCluster", "type": "STATIC" })).unwrap();
    assert_eq!(made.value.inline.unwrap().iter().count(), 0);
    let made =
        cluster(json!({ "name": "d", "type": "STRICT_DNS", "load_assignment": { "endpoints": [{ "lb_endpoints": [
        { "endpoint": { "address": { "socket_address": { "address": "a.example", "port_value": 1 } } } } ] }] } }))
        .unwrap();
    assert_eq!(made.value.cluster.discovery, Discovery::StrictDns);
    assert_eq!(made.value.inline.unwrap().iter().count(), 1);
}

#[test]
fn discovery_by_dns_is_read_from_its_extension_as_well() {
    let of_type = |config: Value| {
        cluster(json!({ "name": "d", "cluster_type": { "name": "envoy.clusters.dns", "typed_config": config },
            "load_assignment": { "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": { "socket_address": { "address": "a.example", "port_value": 1 } } } } ] }] } }))
    };
    let dns = "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster";
    let made =
        of_type(json!({ "@type": dns, "dns_refresh_rate": "60s", "respect_dns_ttl": true, "dns_jitter": "0.1s" }));
    let made = made.unwrap();
    assert_eq!(made.value.cluster.discovery, Discovery::StrictDns);
    assert_eq!(made.value.inline.unwrap().iter().count(), 1);
    assert!(made.ignored.is_empty(), "{:?}", made.ignored);
    let made =
        of_type(json!({ "@type": dns, "all_addresses_in_single_endpoint": true, "dns_refresh_rate": "1s" })).unwrap();
    assert_eq!(made.value.cluster.discovery, Discovery::LogicalDns);
    assert_eq!(made.ignored.len(), 1, "{:?}", made.ignored);
    let other = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig";
    assert_eq!(of_type(json!({ "@type": other, "clusters": ["a"] })).unwrap_err().path, "cluster_type");
}

#[test]
fn endpoints_need_weights_and_priorities_without_gaps() {
    let convert = |body: Value| super::endpoints(&proto_json::decode::<ClusterLoadAssignment>(body).unwrap());
    let one = |more: Value| {
        let mut endpoint =
            json!({ "endpoint": { "address": { "socket_address": { "address": "10.0.0.1", "port_value": 1 } } } });
        endpoint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        endpoint
    };
    let made = convert(json!({ "cluster_name": "c", "endpoints": [
        { "lb_endpoints": [one(json!({ "health_status": "DRAINING", "load_balancing_weight": 3 }))],
          "locality": { "region": "r" }, "load_balancing_weight": 10 },
        { "lb_endpoints": [], "priority": 1 },
    ], "policy": { "drop_overloads": [{ "category": "x" }] } }))
    .unwrap();
    assert_eq!(paths(&made), ["policy.drop_overloads"]);
    let (group, endpoint) = made.value.iter().next().unwrap();
    assert_eq!((&*group.locality.region, group.weight, endpoint.weight), ("r", 10, 3));
    assert_eq!(endpoint.health, crate::model::Health::Unhealthy);
    let error = convert(json!({ "endpoints": [{ "priority": 1 }] })).unwrap_err();
    assert!(error.path == "endpoints" && error.reason.contains("0 is missing"), "{error}");
    let error = convert(json!({ "endpoints": [{ "lb_endpoints": [one(json!({ "load_balancing_weight": 0 }))] }] }))
        .unwrap_err();
    assert_eq!(error.path, "endpoints[0].lb_endpoints[0].load_balancing_weight");
}

#[test]
fn a_route_does_what_it_says() {
    let made = forward(json!({
        "weighted_clusters": { "clusters": [
            { "name": "a", "weight": 90, "request_headers_to_add": [{ "header": { "key": "x", "value": "%PROTOCOL%" } }] },
            { "name": "b", "weight": 10 } ] },
        "timeout": "0s",
        "max_stream_duration": { "grpc_timeout_header_max": "0s" },
        "retry_policy": { "retry_on": "connect-failure,retriable-status-codes", "num_retries": 2,
            "retriable_status_codes": [503], "per_try_timeout": "2s",
            "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts" }],
            "host_selection_retry_max_attempts": "5" },
        "prefix_rewrite": "/v2", "host_rewrite_literal": "b.example",
        "request_mirror_policies": [{ "cluster": "m", "runtime_fraction": { "default_value": { "numerator": 50 } } }],
    }));
    let Target::Weighted { clusters, total } = &made.target else { panic!("{:?}", made.target) };
    assert_eq!((clusters.len(), *total), (2, 100));
    assert_eq!(clusters[0].request_headers.write[0].action, AppendAction::AppendOrAdd);
    assert_eq!((made.timeout, made.grpc_timeout_max), (None, Some(Duration::ZERO)));
    let retry = made.retry.unwrap();
    assert!(retry.on.has(RetryOn::CONNECT_FAILURE) && retry.avoid_previous_hosts);
    assert_eq!((retry.retries, retry.host_attempts, &retry.status_codes[..]), (2, 5, &[503][..]));
    assert_eq!((retry.base_interval, retry.max_interval), (Duration::from_millis(25), Duration::from_millis(250)));
    assert!(matches!(made.path_rewrite, Some(PathRewrite::Prefix(ref prefix)) if &**prefix == "/v2"));
    assert!(matches!(made.host_rewrite, Some(HostRewrite::Literal(ref host)) if &**host == "b.example"));
    assert_eq!((made.mirrors[0].share.numerator, made.mirrors[0].share.denominator), (50, 100));
    assert_eq!(forward(json!({ "cluster": "a" })).timeout, Some(Duration::from_secs(15)), "Envoy's default");
}

#[test]
fn a_route_that_would_take_others_requests_is_refused_with_its_path() {
    let refused = |route: Value| {
        let first = json!({ "match": { "prefix": "/" }, "route": { "cluster": "a" } });
        routes(json!([first, route])).unwrap_err()
    };
    let to_a = json!({ "cluster": "a" });
    for (route, path) in [
        (json!({ "match": { "prefix": "/", "cookies": [{ "name": "c" }] }, "route": to_a }), "match.cookies"),
        (json!({ "match": { "prefix": "/", "tls_context": {} }, "route": to_a }), "match.tls_context"),
        (json!({ "match": { "safe_regex": { "regex": "(" } }, "route": to_a }), "match.safe_regex.regex"),
        (json!({ "match": { "prefix": "/" }, "route": { "cluster_header": "x" } }), "route.cluster_header"),
        (json!({ "match": { "prefix": "/" } }), "route"),
        (json!({ "match": {}, "route": to_a }), "match.prefix"),
        (
            json!({ "match": { "prefix": "/" }, "route": { "cluster": "a", "retry_policy": { "retry_back_off": {} } } }),
            "route.retry_policy.retry_back_off.base_interval",
        ),
        (
            json!({ "match": { "prefix": "/", "headers": [{ "name": "x", "string_match": { "safe_regex": { "regex": "[" } } }] }, "route": to_a }),
            "match.headers[0].string_match.safe_regex.regex",
        ),
        (
            json!({ "match": { "prefix": "/" }, "route": to_a, "request_headers_to_add": [{ "header": { "key": "x", "value": "%NOPE%" } }] }),
            "request_headers_to_add[0].header.value",
        ),
        (
            json!({ "match": { "prefix": "/" }, "route": { "weighted_clusters": { "clusters": [{ "name": "a", "weight": 0 }] } } }),
            "route.weighted_clusters.clusters",
        ),
        (json!({ "match": { "prefix": "/" }, "direct_response": { "status": 99 } }), "direct_response.status"),
    ] {
        assert_eq!(refused(route).path, format!("virtual_hosts[0].routes[1].{path}"));
    }
}

#[test]
fn fields_without_effect_are_reported_by_path() {
    let made = routes(json!([{
        "match": { "prefix": "/", "runtime_fraction": { "default_value": { "numerator": 5 }, "runtime_key": "k" } },
        "route": { "cluster": "a", "priority": "HIGH", "hedge_policy": {}, "rate_limits": [{}] },
        "stat_prefix": "p", "decorator": { "operation": "o" },
    }]))
    .unwrap();
    let at = "virtual_hosts[0].routes[0]";
    let wanted = [
        "match.runtime_fraction.runtime_key",
        "route.hedge_policy",
        "route.priority",
        "route.rate_limits",
        "stat_prefix",
    ];
    assert_eq!(paths(&made), wanted.map(|path| format!("{at}.{path}")));
    let share = made.value.hosts[0].host.routes()[0].matcher.share.unwrap();
    assert_eq!((share.numerator, share.denominator), (5, 100));
}

#[test]
fn per_route_faults_and_cors_are_read_and_other_filters_reported() {
    let made = routes(json!([{
        "match": { "prefix": "/" }, "route": { "cluster": "a" },
        "typed_per_filter_config": {
            "envoy.filters.http.fault": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                "abort": { "http_status": 503, "percentage": { "numerator": 500000, "denominator": "MILLION" } },
                "delay": { "fixed_delay": "2s", "percentage": { "numerator": 1 } },
            },
            "envoy.filters.http.cors": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
                "allow_origin_string_match": [{ "exact": "https://a" }], "allow_methods": "GET", "allow_credentials": true,
            },
            "envoy.filters.http.buffer": { "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute" },
        },
    }]))
    .unwrap();
    assert_eq!(paths(&made), ["virtual_hosts[0].routes[0].typed_per_filter_config[\"envoy.filters.http.buffer\"]"]);
    let per_route = made.value.hosts[0].host.routes()[0].per_route.clone();
    let fault = per_route.fault.unwrap();
    let abort = fault.abort.unwrap();
    assert_eq!((abort.http_status, abort.share.numerator, abort.share.denominator), (503, 500_000, 1_000_000));
    assert_eq!(fault.delay.unwrap().duration, Duration::from_secs(2));
    assert!(per_route.cors.unwrap().allow_credentials);
}

#[test]
fn a_filter_that_may_keep_somebody_out_is_never_left_out() {
    for kind in [
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "envoy.extensions.filters.http.wasm.v3.Wasm",
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
    ] {
        let error = manager(json!({}), json!([filter(kind), router()])).unwrap_err();
        assert_eq!(error.path, "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config");
        assert!(error.reason.contains(kind), "{error}");
    }
    let network = listener(
        json!({ "filter_chains": [{ "filters": [filter("envoy.extensions.filters.network.rbac.v3.RBAC")] }] }),
    );
    assert_eq!(network.unwrap_err().path, "filter_chains[0].filters[0].typed_config");
    let tls = json!({ "filter_chains": [{ "filters": [], "transport_socket": { "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true } } }] });
    assert_eq!(listener(tls).unwrap_err().path, "filter_chains[0].transport_socket");
}

#[test]
fn filters_that_observe_are_left_out_and_the_router_has_to_be_last() {
    let stats = filter("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig");
    let istio = json!({ "name": "istio.stats", "typed_config": {
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "type.googleapis.com/stats.PluginConfig" } });
    let made = manager(json!({}), json!([stats, istio, router()])).unwrap();
    assert_eq!(made.ignored.len(), 2);
    assert!(manager(json!({}), json!([])).is_err());
    assert!(manager(json!({}), json!([router(), filter("envoy.extensions.filters.http.cors.v3.Cors")])).is_err());
}

#[test]
fn a_connection_manager_as_istio_makes_it_is_honoured() {
    let made = manager(
        json!({
            "codec_type": "HTTP2", "stream_idle_timeout": "0s", "use_remote_address": true, "normalize_path": true,
            "server_name": "istio-envoy", "upgrade_configs": [{ "upgrade_type": "WebSocket" }],
            "http2_protocol_options": { "max_concurrent_streams": 9 },
            "access_log": [{ "name": "f", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/dev/stdout", "log_format": { "text_format_source": { "inline_string": "%RESPONSE_CODE%\n" } } } }],
            "tracing": {},
        }),
        json!([filter("envoy.extensions.filters.http.fault.v3.HTTPFault"), router()]),
    )
    .unwrap();
    assert_eq!(paths(&made), ["filter_chains[0].filters[0].typed_config.tracing"]);
    assert_eq!(made.value.routes.iter().map(|name| &**name).collect::<Vec<_>>(), ["80"]);
    assert_eq!(made.value.wait.0, Some(Duration::from_secs(15)), "Envoy's default");
    let NetworkFilter::Http(manager) = &made.value.listener.chains[0].filter else { panic!() };
    assert!(matches!(&manager.routes, RouteSource::Rds(name) if &**name == "80"));
    assert_eq!((manager.stream_idle_timeout, manager.max_concurrent_streams), (None, 9));
    assert_eq!((&*manager.server_name, &*manager.upgrades[0]), ("istio-envoy", "websocket"));
    assert_eq!((manager.filters.len(), manager.access_logs.len()), (2, 1));
}

#[test]
fn a_listener_with_capture_and_sniffing_is_honoured() {
    let tcp = json!({ "name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t",
        "weighted_clusters": { "clusters": [{ "name": "a", "weight": 1 }, { "name": "b", "weight": 2 }] } } });
    let inspector = |kind: &str| filter(&format!("envoy.extensions.filters.listener.{kind}"));
    let made = listener(json!({
        "use_original_dst": true, "bind_to_port": false, "traffic_direction": "OUTBOUND",
        "listener_filters": [inspector("tls_inspector.v3.TlsInspector"), inspector("http_inspector.v3.HttpInspector"),
            inspector("original_dst.v3.OriginalDst")],
        "listener_filters_timeout": "0s", "continue_on_listener_filters_timeout": true,
        "filter_chains": [{ "name": "one", "filter_chain_match": {
            "destination_port": 443, "prefix_ranges": [{ "address_prefix": "10.1.2.3", "prefix_len": 8 }],
            "server_names": ["*.Example.com"], "transport_protocol": "tls", "application_protocols": ["h2"] },
            "filters": [tcp] }],
        "default_filter_chain": { "filters": [tcp] },
    }))
    .unwrap();
    let listener = &made.value.listener;
    assert!(listener.use_original_dst && !listener.bind_to_port && listener.continue_on_timeout);
    assert_eq!(listener.listener_filters_timeout, None);
    assert_eq!(
        listener.listener_filters,
        [ListenerFilter::TlsInspector, ListenerFilter::HttpInspector, ListenerFilter::OriginalDst]
    );
    let matcher = &listener.chains[0].matcher;
    assert_eq!(matcher.prefix_ranges[0].to_string(), "10.0.0.0/8");
    assert_eq!(&*matcher.server_names[0], "*.example.com");
    assert_eq!(made.value.clusters.iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "b"]);
    assert!(listener.default_chain.is_some());
    assert!(made.ignored.is_empty(), "{:?}", made.ignored);
}

/// A listener and a route configuration with much in them, as bytes.
fn specimens() -> [Vec<u8>; 2] {
    let manager = json!({ "name": "hcm", "typed_config": { "@type": HCM, "stat_prefix": "s", "http_filters": [router()],
        "access_log": [{ "name": "f", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/stdout",
            "typed_json_format": { "a": "%RESPONSE_CODE%", "b": { "c": 7 } } } }],
        "route_config": { "name": "r", "virtual_hosts": [{ "name": "h", "domains": ["*"], "routes": [
            { "match": { "prefix": "/", "headers": [{ "name": "x", "range_match": { "start": "1", "end": "9" } }] },
              "route": { "cluster": "a", "timeout": "1s", "regex_rewrite": { "pattern": { "regex": "a+" }, "substitution": "b" },
                "hash_policy": [{ "cookie": { "name": "c", "ttl": "5s" } }] } }] }] } } });
    let listener = json!({ "name": "l", "address": { "socket_address": { "address": "0.0.0.0", "port_value": 80 } },
        "filter_chains": [{ "filter_chain_match": { "prefix_ranges": [{ "address_prefix": "::1", "prefix_len": 64 }] },
            "filters": [manager] }] });
    let table = json!({ "name": "r", "virtual_hosts": [{ "name": "h", "domains": ["a.*", "*.b"], "routes": [
        { "match": { "path": "/" }, "redirect": { "port_redirect": 8443, "response_code": "FOUND" } },
        { "match": { "path_separated_prefix": "/x" }, "direct_response": { "status": 200, "body": { "inline_string": "x" } } } ] }] });
    [
        proto_json::decode::<Listener>(listener).unwrap().encode_to_vec(),
        proto_json::decode::<RouteConfiguration>(table).unwrap().encode_to_vec(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever bytes come, there is a value or a refusal.
    #[test]
    fn nothing_on_the_wire_makes_it_panic(which in 0usize..2, changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
        let mut bytes = specimens()[which].clone();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let _ = Listener::decode(bytes.as_slice()).map(|value| super::listener(&value));
        let _ = RouteConfiguration::decode(bytes.as_slice()).map(|value| super::routes(&value));
        let _ = Cluster::decode(bytes.as_slice()).map(|value| super::cluster(&value));
        let _ = ClusterLoadAssignment::decode(bytes.as_slice()).map(|value| super::endpoints(&value));
    }
}

#[test]
fn the_specimens_are_good_before_they_are_broken() {
    let [listener, table] = specimens();
    super::listener(&Listener::decode(listener.as_slice()).unwrap()).unwrap();
    super::routes(&RouteConfiguration::decode(table.as_slice()).unwrap()).unwrap();
}
