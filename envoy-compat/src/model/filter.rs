//! HTTP filters and what a route, virtual host or weighted cluster may override about them.

use super::header::HeaderMatcher;
use super::text::StringMatcher;
use std::sync::Arc;
use std::time::Duration;

/// A share of requests: `numerator` of `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    /// How many.
    pub numerator: u32,
    /// Of how many: 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

/// A filter of the HTTP chain, in order; the router is always last.
#[derive(Clone, Debug)]
pub enum HttpFilter {
    /// `envoy.filters.http.fault`; the route's own policy wins.
    Fault(Arc<Fault>),
    /// `envoy.filters.http.cors`; the policy comes from the route.
    Cors,
    /// `envoy.filters.http.router`.
    Router {
        /// `suppress_envoy_headers`: no `x-envoy-*` is added.
        suppress_envoy_headers: bool,
    },
}

/// Delays and aborts on purpose (`envoy.extensions.filters.http.fault.v3.HTTPFault`).
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// Wait before the request goes on.
    pub delay: Option<FaultDelay>,
    /// Answer instead of the upstream.
    pub abort: Option<FaultAbort>,
    /// Only requests with these headers are affected.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests to this cluster are affected; empty: all.
    pub upstream_cluster: Option<Arc<str>>,
    /// At most so many streams are affected at once.
    pub max_active: Option<u32>,
}

/// A fixed delay for a share of requests.
#[derive(Clone, Copy, Debug)]
pub struct FaultDelay {
    /// How long.
    pub duration: Duration,
    /// How often.
    pub share: Fraction,
}

/// An abort for a share of requests.
#[derive(Clone, Copy, Debug)]
pub struct FaultAbort {
    /// HTTP status, or 200 when `grpc_status` is set.
    pub http_status: u16,
    /// gRPC status.
    pub grpc_status: Option<u32>,
    /// How often.
    pub share: Fraction,
}

/// Cross-origin policy (`envoy.extensions.filters.http.cors.v3.CorsPolicy`).
#[derive(Clone, Debug, Default)]
pub struct CorsPolicy {
    /// Origins that are let in.
    pub allow_origins: Vec<StringMatcher>,
    /// `access-control-allow-methods`.
    pub allow_methods: Box<str>,
    /// `access-control-allow-headers`.
    pub allow_headers: Box<str>,
    /// `access-control-expose-headers`.
    pub expose_headers: Box<str>,
    /// `access-control-max-age`.
    pub max_age: Box<str>,
    /// `access-control-allow-credentials: true`.
    pub allow_credentials: bool,
    /// Preflights of other origins are forwarded instead of being answered.
    pub forward_not_matching_preflights: bool,
}

/// What `typed_per_filter_config` may say; the most specific level that says something wins.
#[derive(Clone, Debug, Default)]
pub struct PerRoute {
    /// Fault injection.
    pub fault: Option<Arc<Fault>>,
    /// CORS.
    pub cors: Option<Arc<CorsPolicy>>,
}

// === impl Fraction ===

impl Fraction {
    /// Every request.
    pub const ALL: Self = Self { numerator: 100, denominator: 100 };

    /// Whether a request that drew `random` is among the share.
    pub fn takes(&self, random: u64) -> bool {
        self.numerator >= self.denominator || random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_takes_exactly_its_part_of_all_draws() {
        let share = Fraction { numerator: 25, denominator: 100 };
        assert_eq!((0..10_000u64).filter(|draw| share.takes(*draw)).count(), 2_500);
        assert!((0..100).all(|draw| Fraction::ALL.takes(draw)));
        assert!(!Fraction { numerator: 0, denominator: 100 }.takes(0));
    }
}
