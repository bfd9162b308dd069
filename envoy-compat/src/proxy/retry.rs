//! When a request is tried again, and after how long. Pure decisions; the loop is in `router.rs`.

use crate::model::{RequestView, RetryOn, RetryPolicy};
use http::{HeaderMap, StatusCode};
use std::time::Duration;

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// With a response.
    Response(StatusCode, &'a HeaderMap),
    /// Without one.
    Failed(Failure),
}

/// Why there was no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection.
    Connect,
    /// No connection within the time.
    ConnectTimeout,
    /// A limit: never tried again.
    Overflow,
    /// The connection was closed; `started`: after a part of the request was written, so that the upstream may have
    /// acted on it.
    Closed { started: bool },
    /// HTTP/2: the stream was reset.
    Reset,
    /// HTTP/2: the stream was refused, nothing happened.
    Refused,
    /// The attempt took too long.
    PerTryTimeout,
    /// The answer made no sense.
    Protocol,
}

/// Whether `policy` allows another attempt after `outcome`.
pub(super) fn is_retriable(policy: &RetryPolicy, outcome: &Outcome<'_>) -> bool {
    let on = policy.on;
    match outcome {
        Outcome::Failed(Failure::Overflow) => false,
        Outcome::Failed(failure) => {
            // A missing response counts as 5xx and as gateway error.
            on.has(RetryOn::RESET | RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR)
                || match failure {
                    Failure::Connect | Failure::ConnectTimeout => {
                        on.has(RetryOn::CONNECT_FAILURE | RetryOn::RESET_BEFORE_REQUEST)
                    }
                    Failure::Refused => on.has(RetryOn::REFUSED_STREAM | RetryOn::RESET_BEFORE_REQUEST),
                    Failure::Closed { started: false } => on.has(RetryOn::RESET_BEFORE_REQUEST),
                    _ => false,
                }
        }
        Outcome::Response(status, headers) => {
            let code = status.as_u16();
            (on.has(RetryOn::SERVER_ERROR) && code >= 500)
                || (on.has(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&code))
                || (on.has(RetryOn::RETRIABLE_4XX) && code == 409)
                || (on.has(RetryOn::STATUS_CODES) && policy.status_codes.contains(&code))
                || (on.has(RetryOn::RATE_LIMITED) && headers.contains_key("x-envoy-ratelimited"))
                || (on.has(RetryOn::HEADERS) && names_headers(policy, headers))
                || is_retriable_grpc(on, headers)
        }
    }
}

fn names_headers(policy: &RetryPolicy, headers: &HeaderMap) -> bool {
    let view = RequestView { method: "", path_and_query: "", authority: "", scheme: "", headers };
    policy.response_headers.iter().any(|matcher| matcher.matches(&view))
}

fn is_retriable_grpc(on: RetryOn, headers: &HeaderMap) -> bool {
    let condition = match headers.get("grpc-status").map(|value| value.as_bytes()) {
        Some(b"1") => RetryOn::GRPC_CANCELLED,
        Some(b"4") => RetryOn::GRPC_DEADLINE,
        Some(b"8") => RetryOn::GRPC_EXHAUSTED,
        Some(b"13") => RetryOn::GRPC_INTERNAL,
        Some(b"14") => RetryOn::GRPC_UNAVAILABLE,
        _ => return false,
    };
    on.has(condition)
}

/// Envoy's fully jittered exponential back-off before retry number `retry` (from 1).
pub(super) fn back_off(policy: &RetryPolicy, retry: u32, random: u64) -> Duration {
    let ceiling = policy.base_interval.saturating_mul(1 << retry.min(16)) - policy.base_interval;
    let most = ceiling.max(policy.base_interval).min(policy.max_interval).as_micros() as u64;
    Duration::from_micros(if most == 0 { 0 } else { random % most })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn policy(on: &str) -> RetryPolicy {
        RetryPolicy { on: RetryOn::parse(on).0, status_codes: vec![418], ..RetryPolicy::default() }
    }

    fn response(on: &str, status: u16, headers: &[(&'static str, &'static str)]) -> bool {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        is_retriable(&policy(on), &Outcome::Response(StatusCode::from_u16(status).unwrap(), &headers))
    }

    fn failed(on: &str, failure: Failure) -> bool {
        is_retriable(&policy(on), &Outcome::Failed(failure))
    }

    #[test]
    fn responses_are_tried_again_by_their_class() {
        assert!(response("5xx", 500, &[]) && !response("5xx", 404, &[]));
        assert!(response("gateway-error", 503, &[]) && !response("gateway-error", 500, &[]));
        assert!(response("retriable-4xx", 409, &[]) && !response("retriable-4xx", 404, &[]));
        assert!(response("retriable-status-codes", 418, &[]) && !response("retriable-status-codes", 417, &[]));
        assert!(response("unavailable", 200, &[("grpc-status", "14")]));
        assert!(!response("unavailable", 200, &[("grpc-status", "0")]));
        assert!(!response("connect-failure", 503, &[]));
    }

    #[test]
    fn failures_are_tried_again_by_their_kind_and_overflow_never_is() {
        assert!(failed("connect-failure", Failure::Connect) && failed("connect-failure", Failure::ConnectTimeout));
        assert!(!failed("connect-failure", Failure::Closed { started: true }));
        assert!(failed("reset", Failure::Closed { started: true }) && failed("5xx", Failure::PerTryTimeout));
        assert!(failed("refused-stream", Failure::Refused) && !failed("refused-stream", Failure::Reset));
        assert!(failed("reset-before-request", Failure::Closed { started: false }));
        assert!(!failed("reset-before-request", Failure::Closed { started: true }));
        assert!(!failed("5xx,reset,connect-failure", Failure::Overflow));
    }

    #[test]
    fn the_back_off_grows_up_to_its_maximum() {
        let policy = RetryPolicy::default();
        let most = |retry| (0..2000).map(|random| back_off(&policy, retry, random * 997)).max().unwrap();
        assert!(most(1) < Duration::from_millis(25));
        assert!(most(2) > Duration::from_millis(25) && most(2) < Duration::from_millis(75));
        assert!(most(10) <= Duration::from_millis(250));
    }
}
