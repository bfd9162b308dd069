//! Which traffic policy holds for one port of one subset.

use xebec_galley::spec::{
    ClientTlsSettings, ConnectionPoolSettings, DestinationRule, LoadBalancerSettings, OutlierDetection, ProxyProtocol,
    RetryBudget, SimpleLb, Subset, TrafficPolicy, TunnelSettings,
};
use xebec_proto::envoy::config::route::v3::route_action::{HashPolicy, hash_policy};

use super::wire::duration;
use crate::model::Distribution;

/// The blocks of a policy that hold; an absent block is at its default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy<'a> {
    /// How an endpoint is chosen.
    pub load_balancer: Option<&'a LoadBalancerSettings>,
    /// Limits.
    pub connection_pool: Option<&'a ConnectionPoolSettings>,
    /// When endpoints are avoided.
    pub outlier_detection: Option<&'a OutlierDetection>,
    /// TLS to the destination.
    pub tls: Option<&'a ClientTlsSettings>,
    /// A tunnel for TCP.
    pub tunnel: Option<&'a TunnelSettings>,
    /// The PROXY protocol.
    pub proxy_protocol: Option<&'a ProxyProtocol>,
    /// Limits of retries.
    pub retry_budget: Option<&'a RetryBudget>,
    /// The service's platform wants one client address to stay with one endpoint, and no rule says how endpoints are chosen.
    pub by_client_address: bool,
}

// === impl Policy ===

impl<'a> Policy<'a> {
    /// The policy of `rule` for one port, and for a subset when one is given.
    pub fn of(rule: Option<&'a DestinationRule>, subset: Option<&'a Subset>, port: u16) -> Self {
        let mut policy = Self::default();
        if let Some(whole) = rule.and_then(|r| r.traffic_policy.as_ref()) {
            policy.overlay(whole, port);
        }
        if let Some(part) = subset.and_then(|s| s.traffic_policy.as_ref()) {
            policy.overlay(part, port);
        }
        policy
    }

    /// With what the service's platform wants, where no rule chooses a load balancer.
    pub fn on(self, distribution: &Distribution) -> Self {
        let chosen = self.load_balancer.is_some_and(|lb| {
            lb.consistent_hash.is_some() || lb.simple.is_some_and(|simple| simple != SimpleLb::Unspecified)
        });
        Self { by_client_address: distribution.by_client_address && !chosen, ..self }
    }

    /// Replaces the blocks that `with` has; settings for the port replace all of the blocks that a port may have, so that
    /// what they leave out is at its default and not as it is for other ports.
    fn overlay(&mut self, with: &'a TrafficPolicy, port: u16) {
        let TrafficPolicy {
            load_balancer,
            connection_pool,
            outlier_detection,
            tls,
            port_level_settings,
            tunnel,
            proxy_protocol,
            retry_budget,
        } = with;
        self.load_balancer = load_balancer.as_ref().or(self.load_balancer);
        self.connection_pool = connection_pool.as_ref().or(self.connection_pool);
        self.outlier_detection = outlier_detection.as_ref().or(self.outlier_detection);
        self.tls = tls.as_ref().or(self.tls);
        self.tunnel = tunnel.as_ref().or(self.tunnel);
        self.proxy_protocol = proxy_protocol.as_ref().or(self.proxy_protocol);
        self.retry_budget = retry_budget.as_ref().or(self.retry_budget);
        if let Some(own) = port_level_settings.iter().find(|s| s.port.as_ref().is_some_and(|p| p.number == port)) {
            self.load_balancer = own.load_balancer.as_ref();
            self.connection_pool = own.connection_pool.as_ref();
            self.outlier_detection = own.outlier_detection.as_ref();
            self.tls = own.tls.as_ref();
        }
    }

    /// Whether connections go to the address that the client dialled, whatever the service says.
    pub fn is_passthrough(&self) -> bool {
        self.load_balancer.is_some_and(|lb| lb.simple == Some(SimpleLb::Passthrough))
    }

    /// Whether endpoints are chosen by a hash of the request.
    pub fn is_sticky(&self) -> bool {
        self.by_client_address || self.load_balancer.is_some_and(|lb| lb.consistent_hash.is_some())
    }

    /// Whether endpoints are chosen by the client's address.
    pub fn hashes_source_ip(&self) -> bool {
        self.by_client_address
            || self
                .load_balancer
                .and_then(|lb| lb.consistent_hash.as_ref())
                .is_some_and(|hash| hash.use_source_ip == Some(true))
    }

    /// What of a request is hashed. Envoy keeps this on the route, not on the cluster.
    pub fn hash_policy(&self) -> Option<HashPolicy> {
        use hash_policy::PolicySpecifier;
        let by_address = PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: true });
        if self.by_client_address {
            return Some(HashPolicy { terminal: false, policy_specifier: Some(by_address) });
        }
        let hash = self.load_balancer?.consistent_hash.as_ref()?;
        let specifier = if let Some(name) = &hash.http_header_name {
            PolicySpecifier::Header(hash_policy::Header { header_name: name.clone(), regex_rewrite: None })
        } else if let Some(cookie) = &hash.http_cookie {
            PolicySpecifier::Cookie(hash_policy::Cookie {
                name: cookie.name.clone(),
                ttl: cookie.ttl.map(|ttl| duration(ttl.0)),
                path: cookie.path.clone(),
                attributes: cookie
                    .attributes
                    .iter()
                    .map(|a| hash_policy::CookieAttribute { name: a.name.clone(), value: a.value.clone() })
                    .collect(),
            })
        } else if hash.use_source_ip == Some(true) {
            by_address
        } else {
            let name = hash.http_query_parameter_name.clone()?;
            PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name })
        };
        Some(HashPolicy { terminal: false, policy_specifier: Some(specifier) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn rule(json: serde_json::Value) -> DestinationRule {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_subset_replaces_whole_blocks_and_keeps_the_others() {
        let rule = rule(serde_json::json!({
            "host": "a",
            "trafficPolicy": {
                "loadBalancer": {"simple": "RANDOM"},
                "connectionPool": {"tcp": {"maxConnections": 7}},
            },
            "subsets": [{"name": "v1", "trafficPolicy": {"connectionPool": {"http": {"maxRetries": 3}}}}],
        }));
        let policy = Policy::of(Some(&rule), rule.subsets.first(), 80);
        assert_eq!(policy.load_balancer.unwrap().simple, Some(SimpleLb::Random));
        let pool = policy.connection_pool.unwrap();
        assert_eq!((pool.tcp.is_none(), pool.http.as_ref().unwrap().max_retries), (true, Some(3)));
    }

    #[test]
    fn settings_of_a_port_leave_nothing_of_the_other_ports_policy() {
        let rule = rule(serde_json::json!({
            "host": "a",
            "trafficPolicy": {
                "loadBalancer": {"simple": "RANDOM"},
                "outlierDetection": {"consecutive5xxErrors": 1},
                "portLevelSettings": [{"port": {"number": 80}, "connectionPool": {"tcp": {"maxConnections": 7}}}],
            },
        }));
        let on_80 = Policy::of(Some(&rule), None, 80);
        assert!(on_80.load_balancer.is_none() && on_80.outlier_detection.is_none() && on_80.connection_pool.is_some());
        let on_81 = Policy::of(Some(&rule), None, 81);
        assert!(on_81.load_balancer.is_some() && on_81.outlier_detection.is_some() && on_81.connection_pool.is_none());
    }

    #[test]
    fn each_kind_of_hash_key_becomes_a_hash_policy() {
        use hash_policy::PolicySpecifier;
        let of = |hash: serde_json::Value| {
            let rule =
                rule(serde_json::json!({"host": "a", "trafficPolicy": {"loadBalancer": {"consistentHash": hash}}}));
            Policy::of(Some(&rule), None, 80).hash_policy().unwrap().policy_specifier.unwrap()
        };
        assert!(
            matches!(of(serde_json::json!({"httpHeaderName": "x-user"})), PolicySpecifier::Header(h) if h.header_name == "x-user")
        );
        assert!(
            matches!(of(serde_json::json!({"useSourceIp": true})), PolicySpecifier::ConnectionProperties(c) if c.source_ip)
        );
        assert!(
            matches!(of(serde_json::json!({"httpQueryParameterName": "q"})), PolicySpecifier::QueryParameter(q) if q.name == "q")
        );
        let cookie = of(serde_json::json!({"httpCookie": {"name": "c", "path": "/p", "ttl": "0s"}}));
        assert!(matches!(cookie, PolicySpecifier::Cookie(c) if c.name == "c" && c.path == "/p" && c.ttl.is_some()));
    }
}
