//! HTTP filters, and what routes say about them.
//!
//! A filter that is not known is refused, because it may be the one that keeps somebody out. Only filters that are known to
//! observe, or whose absence a client notices but cannot exploit, are left out and reported.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message as _;
use xebec_proto::envoy::config::route::v3 as route;
use xebec_proto::envoy::extensions::filters::common::fault::v3::{
    self as common_fault, fault_delay::FaultDelaySecifier,
};
use xebec_proto::envoy::extensions::filters::http::cors::v3 as cors;
use xebec_proto::envoy::extensions::filters::http::fault::v3::{self as fault, fault_abort::ErrorType};
use xebec_proto::envoy::extensions::filters::http::router::v3 as router;
use xebec_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter as Filter, http_filter::ConfigType,
};
use xebec_proto::google::protobuf::Any;
use xebec_proto::type_url;

use super::matcher;
use super::place::{Outcome, Place, ignored, inert};
use super::value;
use crate::model::{CorsPolicy, Fault, FaultAbort, FaultDelay, Fraction, HttpFilter, PerRoute};

/// Filters that observe, or whose absence weakens nothing: full names of their configurations, or prefixes ending with a dot.
const HARMLESS: &[&str] = &[
    "envoy.extensions.filters.http.grpc_stats.",
    "envoy.extensions.filters.http.grpc_web.",
    "envoy.extensions.filters.http.grpc_http1_bridge.",
    "envoy.extensions.filters.http.compressor.",
    "envoy.extensions.filters.http.decompressor.",
    "envoy.extensions.filters.http.stateful_session.",
    "envoy.extensions.filters.http.tap.",
    "envoy.extensions.filters.http.on_demand.",
    "envoy.extensions.filters.http.buffer.",
    "envoy.extensions.filters.http.cache.",
    "envoy.extensions.filters.http.set_filter_state.",
    "envoy.extensions.filters.http.header_to_metadata.",
    "envoy.extensions.filters.http.alternate_protocols_cache.",
    "io.istio.http.peer_metadata.",
    "stats.PluginConfig",
    "istio.envoy.config.filter.http.alpn.",
];

/// All filters of a connection manager. The router has to be last.
pub(super) fn chain(at: Place<'_>, filters: &[Filter]) -> Outcome<Vec<HttpFilter>> {
    let mut out = Vec::with_capacity(filters.len());
    for (index, filter) in filters.iter().enumerate() {
        let at = at.index(index);
        if let Some(filter) = one(at, filter)? {
            if matches!(out.last(), Some(HttpFilter::Router { .. })) {
                return Err(at.refuse("no filter may follow the router"));
            }
            out.push(filter);
        }
    }
    match out.last() {
        Some(HttpFilter::Router { .. }) => Ok(out),
        _ => Err(at.refuse("the last filter has to be envoy.filters.http.router")),
    }
}

fn one(at: Place<'_>, filter: &Filter) -> Outcome<Option<HttpFilter>> {
    let Filter { name, is_optional, disabled, config_type } = filter;
    if *disabled {
        at.field("disabled").ignored("the filter stays off, even where a route turns it on");
        return Ok(None);
    }
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) if *is_optional => {
            at.field("config_discovery").ignored("the filter is left out");
            return Ok(None);
        }
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(at.field("config_discovery").refuse("configuration discovery of filters is not supported"));
        }
        None => return Err(at.field("typed_config").refuse(format_args!("filter {name:?} has no configuration"))),
    };
    let inner = at.field("typed_config");
    match type_url::of_name(type_url::name_of(&any.type_url)).as_str() {
        type_url::ROUTER => router(inner, &value::unpack(inner, any)?).map(Some),
        type_url::FAULT => Ok(Some(HttpFilter::Fault(Arc::new(fault(inner, &value::unpack(inner, any)?)?)))),
        type_url::CORS => Ok(Some(HttpFilter::Cors)),
        _ if *is_optional || harmless(any) => {
            inner.ignored("the filter is left out");
            Ok(None)
        }
        other => Err(inner.refuse(format_args!(
            "filter {name:?} ({}) is not supported, and leaving it out may let requests through that it keeps out",
            type_url::name_of(other)
        ))),
    }
}

/// The first field of `xds.type.v3.TypedStruct` and of its older twin: what the envelope holds.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "1")]
    type_url: String,
}

fn harmless(any: &Any) -> bool {
    let name = type_url::name_of(&any.type_url);
    let inner;
    // Istio's own filters are configured by their name in a generic envelope.
    let name = if name.ends_with(".TypedStruct") {
        inner = Envelope::decode(any.value.as_slice()).unwrap_or_default();
        type_url::name_of(&inner.type_url)
    } else {
        name
    };
    HARMLESS.iter().any(|known| name == *known || (known.ends_with('.') && name.starts_with(known)))
}

fn router(at: Place<'_>, value: &router::Router) -> Outcome<HttpFilter> {
    let router::Router {
        dynamic_stats,
        start_child_span,
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats,
        upstream_http_filters,
        reject_connect_request_early_data,
    } = value;
    ignored!(at; start_child_span, upstream_log, upstream_log_options, strict_check_headers, respect_expected_rq_timeout,
        upstream_http_filters, reject_connect_request_early_data);
    inert!(dynamic_stats, suppress_grpc_request_failure_code_stats);
    Ok(HttpFilter::Router { suppress_envoy_headers: *suppress_envoy_headers })
}

/// Fault injection.
fn fault(at: Place<'_>, value: &fault::HttpFault) -> Outcome<Fault> {
    let fault::HttpFault {
        delay,
        abort,
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
        response_rate_limit,
        delay_percent_runtime,
        abort_percent_runtime,
        delay_duration_runtime,
        abort_http_status_runtime,
        max_active_faults_runtime,
        response_rate_limit_percent_runtime,
        abort_grpc_status_runtime,
        disable_downstream_cluster_stats,
        filter_metadata,
    } = value;
    ignored!(at; max_active_faults, response_rate_limit, delay_percent_runtime, abort_percent_runtime, delay_duration_runtime,
        abort_http_status_runtime, max_active_faults_runtime, response_rate_limit_percent_runtime, abort_grpc_status_runtime);
    inert!(disable_downstream_cluster_stats, filter_metadata);
    if !downstream_nodes.is_empty() {
        return Err(at.field("downstream_nodes").refuse("limiting faults to nodes is not supported; use headers"));
    }
    Ok(Fault {
        delay: delay.as_ref().map(|value| self::delay(at.field("delay"), value)).transpose()?.flatten(),
        abort: abort.as_ref().map(|value| self::abort(at.field("abort"), value)).transpose()?.flatten(),
        headers: at.field("headers").each(headers, matcher::header)?,
        upstream_cluster: (!upstream_cluster.is_empty()).then(|| upstream_cluster.as_str().into()),
        max_active: None,
    })
}

/// A share that is not set is no request at all, for faults.
fn share(at: Place<'_>, value: Option<&xebec_proto::envoy::r#type::v3::FractionalPercent>) -> Outcome<Fraction> {
    match value {
        Some(share) => value::fraction(at.field("percentage"), share),
        None => Ok(Fraction { numerator: 0, denominator: 100 }),
    }
}

fn delay(at: Place<'_>, delay: &common_fault::FaultDelay) -> Outcome<Option<FaultDelay>> {
    let common_fault::FaultDelay { percentage, fault_delay_secifier } = delay;
    match fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => {
            let duration = value::duration(at.field("fixed_delay"), Some(fixed))?.unwrap_or_default();
            Ok(Some(FaultDelay { duration, share: share(at, percentage.as_ref())? }))
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => {
            at.field("header_delay").ignored("delays that clients ask for are not made");
            Ok(None)
        }
        None => Err(at.field("fixed_delay").refuse("a delay is required")),
    }
}

fn abort(at: Place<'_>, abort: &fault::FaultAbort) -> Outcome<Option<FaultAbort>> {
    let fault::FaultAbort { percentage, response_body, error_type } = abort;
    ignored!(at; response_body);
    let (http_status, grpc_status) = match error_type {
        Some(ErrorType::HttpStatus(status)) => match u16::try_from(*status) {
            Ok(status @ 200..=599) => (status, None),
            _ => return Err(at.field("http_status").refuse("a status is between 200 and 599")),
        },
        Some(ErrorType::GrpcStatus(status)) => (200, Some(*status)),
        Some(ErrorType::HeaderAbort(_)) => {
            at.field("header_abort").ignored("aborts that clients ask for are not made");
            return Ok(None);
        }
        None => return Err(at.field("http_status").refuse("a status is required")),
    };
    Ok(Some(FaultAbort { http_status, grpc_status, share: share(at, percentage.as_ref())? }))
}

fn cors(at: Place<'_>, value: &cors::CorsPolicy) -> Outcome<CorsPolicy> {
    let cors::CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled,
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
    } = value;
    ignored!(at; shadow_enabled, allow_private_network_access);
    let enabled = match filter_enabled {
        Some(share) => value::runtime_fraction(at.field("filter_enabled"), share)?.numerator > 0,
        None => true,
    };
    let origins = at.field("allow_origin_string_match").each(allow_origin_string_match, matcher::string)?;
    Ok(CorsPolicy {
        allow_origins: if enabled { origins } else { Vec::new() },
        allow_methods: allow_methods.as_str().into(),
        allow_headers: allow_headers.as_str().into(),
        expose_headers: expose_headers.as_str().into(),
        max_age: max_age.as_str().into(),
        allow_credentials: value::switch(allow_credentials.as_ref(), false),
        forward_not_matching_preflights: value::switch(forward_not_matching_preflights.as_ref(), true),
    })
}

/// `typed_per_filter_config` of a table, virtual host, route or weighted cluster. A filter that is not supported has been
/// refused where it was installed, so that what a route says about it has nothing to act on.
pub(super) fn per_route(at: Place<'_>, configs: &HashMap<String, Any>) -> Outcome<PerRoute> {
    let mut out = PerRoute::default();
    let at = at.field("typed_per_filter_config");
    for (name, any) in configs {
        per_filter(at.key(name), name, any, &mut out)?;
    }
    Ok(out)
}

fn per_filter(at: Place<'_>, name: &str, any: &Any, out: &mut PerRoute) -> Outcome<()> {
    match type_url::of_name(type_url::name_of(&any.type_url)).as_str() {
        type_url::FAULT => out.fault = Some(Arc::new(fault(at, &value::unpack(at, any)?)?)),
        type_url::CORS_POLICY => out.cors = Some(Arc::new(cors(at, &value::unpack(at, any)?)?)),
        "type.googleapis.com/envoy.config.route.v3.FilterConfig" => {
            let route::FilterConfig { config, is_optional, disabled } = value::unpack(at, any)?;
            inert!(is_optional);
            match (disabled, name, config) {
                (true, "envoy.filters.http.fault", _) => out.fault = Some(Arc::new(Fault::default())),
                (true, "envoy.filters.http.cors", _) => {
                    out.cors =
                        Some(Arc::new(CorsPolicy { forward_not_matching_preflights: true, ..CorsPolicy::default() }));
                }
                (false, _, Some(config)) => {
                    // One envelope is enough; a second one inside would be a way to nest without end.
                    if type_url::name_of(&config.type_url) == "envoy.config.route.v3.FilterConfig" {
                        return Err(at.field("config").refuse("a FilterConfig inside a FilterConfig"));
                    }
                    per_filter(at.field("config"), name, &config, out)?;
                }
                _ => at.ignored(""),
            }
        }
        _ => at.ignored("the filter is not installed"),
    }
    Ok(())
}
