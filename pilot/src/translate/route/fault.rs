//! Fault injection and cross-origin rules: what a route configures of HTTP filters.

use xebec_galley::spec::{CorsPolicy, GRPC_STATUS, HttpFaultInjection, Percent, UnmatchedPreflights};
use xebec_proto::envoy::extensions::filters::common::fault::v3 as common;
use xebec_proto::envoy::extensions::filters::http::cors::v3 as cors;
use xebec_proto::envoy::extensions::filters::http::fault::v3 as fault;

use super::super::wire::{bool_value, duration, fraction, runtime_fraction};
use super::matchers::string;

/// Translates `fault`. A part without a percentage, or without anything that Envoy can inject, is left out.
pub fn http_fault(from: &HttpFaultInjection) -> Option<fault::HttpFault> {
    let delay = from.delay.as_ref().and_then(|delay| {
        let percent = percent(delay.percentage, delay.percent)?;
        Some(common::FaultDelay {
            percentage: Some(fraction(percent)),
            fault_delay_secifier: Some(common::fault_delay::FaultDelaySecifier::FixedDelay(duration(
                delay.fixed_delay?.0,
            ))),
        })
    });
    let abort = from.abort.as_ref().and_then(|abort| {
        let percent = percent(abort.percentage, None)?;
        let error = match (abort.http_status, abort.grpc_status.as_deref()) {
            (Some(status), _) => fault::fault_abort::ErrorType::HttpStatus(u32::try_from(status).ok()?),
            (None, Some(status)) => fault::fault_abort::ErrorType::GrpcStatus(grpc_status(status)?),
            (None, None) => return None,
        };
        Some(fault::FaultAbort { percentage: Some(fraction(percent)), error_type: Some(error), ..Default::default() })
    });
    (delay.is_some() || abort.is_some()).then(|| fault::HttpFault { delay, abort, ..Default::default() })
}

/// Istio injects nothing when no percentage is given.
fn percent(exact: Option<Percent>, deprecated: Option<i32>) -> Option<f64> {
    exact.map(|p| p.value).or(deprecated.map(f64::from)).filter(|p| *p > 0.0)
}

/// A gRPC status by its name, or by its number.
fn grpc_status(name: &str) -> Option<u32> {
    let by_name =
        GRPC_STATUS.iter().position(|known| known.eq_ignore_ascii_case(name)).and_then(|i| u32::try_from(i).ok());
    by_name.or_else(|| name.parse().ok().filter(|code| *code <= 16))
}

/// Translates `corsPolicy`.
pub fn cors_policy(from: &CorsPolicy) -> cors::CorsPolicy {
    use xebec_proto::envoy::r#type::matcher::v3 as matcher;
    let exact = from.allow_origin.iter().map(|origin| matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(origin.clone())),
        ignore_case: false,
    });
    let join = |list: &[String]| list.join(",");
    cors::CorsPolicy {
        allow_origin_string_match: if from.allow_origins.is_empty() {
            exact.collect()
        } else {
            from.allow_origins.iter().map(string).collect()
        },
        allow_methods: join(&from.allow_methods),
        allow_headers: join(&from.allow_headers),
        expose_headers: join(&from.expose_headers),
        max_age: from.max_age.map(|age| age.0.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: from.allow_credentials.and_then(bool_value),
        filter_enabled: Some(runtime_fraction(100.0)),
        forward_not_matching_preflights: bool_value(from.unmatched_preflights != UnmatchedPreflights::Ignore),
        ..Default::default()
    }
}
