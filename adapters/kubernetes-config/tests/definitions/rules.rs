//! What a schema says beyond types: the checks of galley that the API server can do by itself.
//!
//! Lists that rules walk have a longest length, without which the server refuses a rule as too costly.

use serde_json::{Value, json};

/// Limits and formats of single fields, merged into their schemas: the message, the field, what is added.
pub fn field(message: &str, name: &str) -> Option<Value> {
    Some(match (message, name) {
        ("VirtualService", "hosts" | "gateways") | ("ServiceEntry", "hosts" | "addresses") => json!({"maxItems": 1024}),
        ("VirtualService", "http" | "tls" | "tcp") => json!({"maxItems": 1024}),
        ("HttpRoute" | "TlsRoute" | "TcpRoute", "route") => json!({"maxItems": 64}),
        ("HttpRoute" | "TlsRoute" | "TcpRoute", "match") => json!({"maxItems": 256}),
        ("TlsMatchAttributes", "sniHosts") => json!({"minItems": 1}),
        ("HttpRouteDestination" | "RouteDestination", "weight") => json!({"minimum": 0}),
        ("HttpRedirect", "redirectCode") => json!({"enum": [301, 302, 303, 307, 308]}),
        ("HttpRedirect", "scheme") => json!({"enum": ["", "http", "https"]}),
        ("HttpDirectResponse", "status") => json!({"minimum": 200, "maximum": 599}),
        ("HttpRetry", "attempts") => json!({"minimum": 0}),
        ("Destination" | "DestinationRule", "host") => json!({"minLength": 1}),
        ("Subset" | "Delegate", "name") => json!({"minLength": 1}),
        ("DestinationRule", "subsets") => json!({"maxItems": 1024}),
        ("TrafficPolicy", "portLevelSettings") => json!({"maxItems": 512}),
        ("LocalityLbSetting", "distribute") => json!({"maxItems": 128}),
        ("LocalityDistribute", "to") => json!({"maxProperties": 128}),
        ("LocalityDistribute", "from") => json!({"minLength": 1}),
        ("OutlierDetection", "maxEjectionPercent" | "minHealthPercent") => json!({"minimum": 0, "maximum": 100}),
        ("WarmupConfiguration", "minimumPercent") | ("RetryBudget", "percent") => json!({"minimum": 0, "maximum": 100}),
        ("WarmupConfiguration", "aggression") => json!({"minimum": 1}),
        ("Maglev", "tableSize") => json!({"minimum": 2, "maximum": 5_000_011}),
        ("Gateway", "servers") => json!({"minItems": 1, "maxItems": 256}),
        ("Server", "hosts") => json!({"minItems": 1, "maxItems": 1024}),
        ("Server", "bind") => json!({"maxLength": 256}),
        // A server on a Unix socket has no number; a rule of the server sees to that.
        ("Port", "number") => json!({"minimum": 0}),
        ("ServerTlsSettings", "credentialNames" | "tlsCertificates") => json!({"maxItems": 2}),
        ("ServiceEntry", "ports") => json!({"maxItems": 512}),
        ("ServiceEntry", "endpoints") => json!({"maxItems": 4096}),
        ("ServicePort", "name") => json!({"minLength": 1}),
        ("IstioEgressListener", "hosts") => json!({"minItems": 1}),
        ("Sidecar", "ingress" | "egress") => json!({"maxItems": 512}),
        ("FaultDelay", "percent") => json!({"minimum": 0, "maximum": 100}),
        ("TcpSettings", "maxConnections")
        | (
            "HttpSettings",
            "http1MaxPendingRequests"
            | "http2MaxRequests"
            | "maxRequestsPerConnection"
            | "maxRetries"
            | "maxConcurrentStreams",
        ) => json!({"minimum": 0}),
        _ => return None,
    })
}

/// Limits of the items of a list: hosts are names.
pub fn item(message: &str, name: &str) -> Option<Value> {
    Some(match (message, name) {
        ("VirtualService" | "ServiceEntry" | "Server", "hosts") => json!({"minLength": 1, "maxLength": 512}),
        ("VirtualService", "gateways") => json!({"maxLength": 512}),
        ("ServiceEntry", "addresses") => json!({"maxLength": 64}),
        _ => return None,
    })
}

/// Fields that must be there.
pub fn required(message: &str) -> &'static [&'static str] {
    match message {
        "Destination" | "DestinationRule" => &["host"],
        "HttpRouteDestination" | "RouteDestination" | "HttpMirrorPolicy" => &["destination"],
        "HttpDirectResponse" => &["status"],
        "TlsRoute" => &["match", "route"],
        "TcpRoute" => &["route"],
        "TlsMatchAttributes" => &["sniHosts"],
        "Delegate" | "Subset" => &["name"],
        "PortTrafficPolicy" => &["port"],
        "PortSelector" => &["number"],
        "LocalityDistribute" => &["from", "to"],
        "WarmupConfiguration" => &["duration"],
        "HttpCookie" => &["name"],
        "TunnelSettings" => &["targetHost", "targetPort"],
        "Gateway" => &["servers"],
        "Server" => &["port", "hosts"],
        "ServiceEntry" | "IstioEgressListener" => &["hosts"],
        "ServicePort" => &["number", "name"],
        "IstioIngressListener" => &["port"],
        _ => &[],
    }
}

/// Rules in CEL, each with what it says when it is broken.
pub fn rules(message: &str) -> Vec<(String, &'static str)> {
    let given = |field: &str| format!("has(self.{field})");
    let some = |field: &str| format!("(has(self.{field}) && size(self.{field}) > 0)");
    let count = |parts: &[String]| parts.iter().map(|part| format!("({part} ? 1 : 0)")).collect::<Vec<_>>().join(" + ");
    let most_one = |parts: &[String]| format!("{} <= 1", count(parts));
    let weighted = "!has(self.route) || size(self.route) < 2 || self.route.exists(r, has(r.weight) && r.weight > 0)";
    match message {
        "VirtualService" => vec![
            (
                format!(
                    "{} || ({} && !{} && !{} && !{})",
                    some("hosts"),
                    some("http"),
                    some("gateways"),
                    some("tls"),
                    some("tcp")
                ),
                "a VirtualService without hosts is a delegate, and has http routes and no gateways, tls or tcp",
            ),
            (format!("{} || {} || {}", some("http"), some("tls"), some("tcp")), "there are no routes"),
            (
                format!(
                    "!has(self.hosts) || !self.hosts.exists(h, h == '*') || ({} && !self.gateways.exists(g, g == 'mesh'))",
                    some("gateways")
                ),
                "`*` cannot be routed for sidecars; name the hosts, or name gateways",
            ),
        ],
        "HttpRoute" => vec![
            (
                format!(
                    "{} == 1",
                    count(&[some("route"), given("redirect"), given("directResponse"), given("delegate")])
                ),
                "exactly one of route, redirect, directResponse and delegate says what happens to requests",
            ),
            (weighted.to_owned(), "the weights add up to 0, so no destination would get anything"),
            (
                "!has(self.redirect) || (!has(self.rewrite) && !has(self.fault))".to_owned(),
                "a redirect does not forward requests, so there is nothing to rewrite or to fail",
            ),
        ],
        "TlsRoute" | "TcpRoute" => vec![
            ("has(self.route) && size(self.route) > 0".to_owned(), "the route has no destination"),
            (weighted.to_owned(), "the weights add up to 0, so no destination would get anything"),
        ],
        "HttpRedirect" => vec![
            (most_one(&[given("port"), given("derivePort")]), "port and derivePort both choose the port"),
            (
                most_one(&[some("uri"), some("prefixRewrite")]),
                "uri replaces the whole path and prefixRewrite its beginning",
            ),
        ],
        "HttpRewrite" => {
            vec![(most_one(&[some("uri"), given("uriRegexRewrite")]), "keep one of uri and uriRegexRewrite")]
        }
        "LoadBalancerSettings" => vec![
            (
                most_one(&[given("simple"), given("consistentHash")]),
                "simple and consistentHash both choose the algorithm",
            ),
            (
                most_one(&[given("localityLbSetting"), given("zoneAwareLbSetting")]),
                "keep one of localityLbSetting and zoneAwareLbSetting",
            ),
        ],
        "ConsistentHashLb" => vec![
            (
                format!(
                    "{} == 1",
                    count(&[
                        given("httpHeaderName"),
                        given("httpCookie"),
                        "(has(self.useSourceIp) && self.useSourceIp)".to_owned(),
                        given("httpQueryParameterName"),
                    ])
                ),
                "exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName is hashed",
            ),
            (most_one(&[given("ringHash"), given("maglev")]), "keep one of ringHash and maglev"),
        ],
        "LocalityLbSetting" => vec![
            (most_one(&[some("distribute"), some("failover")]), "keep one of distribute and failover"),
            (most_one(&[some("distribute"), some("failoverPriority")]), "keep one of distribute and failoverPriority"),
        ],
        "LocalityDistribute" => {
            vec![("self.to.map(k, self.to[k]).sum() == 100".to_owned(), "the shares must add up to 100")]
        }
        "ConnectionPoolSettings" => {
            vec![("has(self.tcp) || has(self.http)".to_owned(), "the connection pool says nothing")]
        }
        "Server" => vec![(
            "(has(self.bind) && self.bind.startsWith('unix://')) || (has(self.port.number) && self.port.number > 0)"
                .to_owned(),
            "a port is a number from 1 to 65535",
        ), (
            "has(self.port.name) && size(self.port.name) > 0 && has(self.port.protocol) && size(self.port.protocol) > 0"
                .to_owned(),
            "the port needs a name and a protocol",
        )],
        "ServerTlsSettings" => vec![(
            most_one(&[some("credentialName"), some("credentialNames"), some("tlsCertificates")]),
            "keep one of credentialName, credentialNames and tlsCertificates",
        )],
        "ServiceEntry" => vec![
            ("size(self.hosts) > 0".to_owned(), "the service has no hosts"),
            ("self.hosts.all(h, h != '*')".to_owned(), "`*` alone is not a service's name"),
            (
                format!("!has(self.workloadSelector) || !{}", some("endpoints")),
                "keep one of workloadSelector and endpoints",
            ),
            (
                "!has(self.addresses) || !has(self.resolution) || self.resolution in ['NONE', 'STATIC'] || \
                 self.addresses.all(a, !a.contains('/'))"
                    .to_owned(),
                "networks are possible with the resolutions NONE and STATIC only",
            ),
            (
                format!("(has(self.resolution) && self.resolution != 'NONE') || !{}", some("endpoints")),
                "endpoints have no effect with the resolution NONE",
            ),
            (
                format!(
                    "!has(self.resolution) || self.resolution != 'DYNAMIC_DNS' || (!{} && !{} && \
                     self.hosts.all(h, h.startsWith('*.')))",
                    some("endpoints"),
                    some("addresses")
                ),
                "DYNAMIC_DNS is for wildcard hosts, and takes neither endpoints nor addresses",
            ),
            (
                "!has(self.resolution) || self.resolution != 'DNS_ROUND_ROBIN' || !has(self.endpoints) || \
                 size(self.endpoints) < 2"
                    .to_owned(),
                "DNS_ROUND_ROBIN takes at most one endpoint",
            ),
        ],
        "WorkloadEntry" => vec![(
            format!("{} || {}", some("address"), some("network")),
            "the address is missing; it may be left out where a network is given",
        )],
        "Sidecar" => vec![(
            format!(
                "{} || {} || has(self.outboundTrafficPolicy) || has(self.inboundConnectionPool)",
                some("ingress"),
                some("egress")
            ),
            "the Sidecar says nothing",
        )],
        "IstioIngressListener" => {
            vec![("has(self.port.number) && self.port.number > 0".to_owned(), "a port is a number from 1 to 65535")]
        }
        _ => Vec::new(),
    }
}
