//! Retries: what is written, else what the mesh says, else what Istio does by itself.

use xebec_galley::spec::HttpRetry;
use xebec_proto::envoy::config::route::v3 as route;
use xebec_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use xebec_proto::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;

use super::super::wire::{any, duration, u32_value};

/// Failures that are safe to repeat, whatever the request does.
const DEFAULT_CONDITIONS: &str = "connect-failure,refused-stream,unavailable,cancelled";
const DEFAULT_ATTEMPTS: u32 = 2;

/// Translates a retry policy. `written` is the route's own, else the mesh's. `None` when nothing is retried.
///
/// `sticky` says that the cluster chooses endpoints by hash: another endpoint must then not be preferred for a retry.
pub fn retry_policy(written: Option<&HttpRetry>, sticky: bool) -> Option<route::RetryPolicy> {
    let mut policy = route::RetryPolicy {
        retry_on: DEFAULT_CONDITIONS.to_owned(),
        num_retries: u32_value(DEFAULT_ATTEMPTS),
        host_selection_retry_max_attempts: 5,
        retry_host_predicate: if sticky { Vec::new() } else { vec![other_host()] },
        ..Default::default()
    };
    let Some(written) = written else {
        return Some(policy);
    };
    let attempts = u32::try_from(written.attempts).ok().filter(|attempts| *attempts > 0)?;
    policy.num_retries = u32_value(attempts);
    if !written.retry_on.is_empty() {
        (policy.retry_on, policy.retriable_status_codes) = conditions_and_codes(&written.retry_on);
    }
    policy.per_try_timeout = written.per_try_timeout.filter(|t| !t.is_zero()).map(|t| duration(t.0));
    if written.retry_remote_localities == Some(true) {
        policy.retry_priority = Some(route::retry_policy::RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(route::retry_policy::retry_priority::ConfigType::TypedConfig(any(
                &PreviousPrioritiesConfig { update_frequency: 2 },
            ))),
        });
    }
    match written.retry_ignore_previous_hosts {
        Some(true) => policy.retry_host_predicate = vec![other_host()],
        Some(false) => policy.retry_host_predicate.clear(),
        None => {}
    }
    if let Some(base) = written.backoff.filter(|b| !b.is_zero()) {
        policy.retry_back_off =
            Some(route::retry_policy::RetryBackOff { base_interval: Some(duration(base.0)), max_interval: None });
    }
    Some(policy)
}

/// Numbers among the conditions are status codes.
fn conditions_and_codes(text: &str) -> (String, Vec<u32>) {
    let mut conditions: Vec<&str> = Vec::new();
    let mut codes = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        match part.parse::<u32>() {
            Ok(code) if (100..600).contains(&code) => codes.push(code),
            _ => conditions.push(part),
        }
    }
    if !codes.is_empty() && !conditions.contains(&"retriable-status-codes") {
        conditions.push("retriable-status-codes");
    }
    (conditions.join(","), codes)
}

fn other_host() -> route::retry_policy::RetryHostPredicate {
    route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate {},
        ))),
    }
}
