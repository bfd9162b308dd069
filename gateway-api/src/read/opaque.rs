//! TLSRoute and TCPRoute: routes of connections.

use gateway_api::experimental::{tcproutes, tlsroutes};

use super::{backend_ref, hostnames, parent_refs};
use crate::model::{Identity, Route, Rule};

/// Reads a TLSRoute.
pub fn tls_route(id: Identity, from: tlsroutes::TlsRouteSpec) -> Route {
    let tlsroutes::TlsRouteSpec { hostnames: names, parent_refs, rules, use_default_gateways } = from;
    let rules = rules
        .into_iter()
        .map(|tlsroutes::TlsRouteRules { backend_refs, name: _ }| Rule {
            backends: backend_refs.into_iter().map(|r| backend_ref!(r, r.weight)).collect(),
            ..Default::default()
        })
        .collect();
    let without_effect = use_default_gateways.map(|_| "useDefaultGateways".to_owned()).into_iter().collect();
    Route { id, parents: parent_refs!(parent_refs), hostnames: hostnames(Some(names)), rules, without_effect }
}

/// Reads a TCPRoute.
pub fn tcp_route(id: Identity, from: tcproutes::TcpRouteSpec) -> Route {
    let tcproutes::TcpRouteSpec { parent_refs, rules, use_default_gateways } = from;
    let rules = rules
        .into_iter()
        .map(|tcproutes::TcpRouteRules { backend_refs, name: _ }| Rule {
            backends: backend_refs.into_iter().map(|r| backend_ref!(r, r.weight)).collect(),
            ..Default::default()
        })
        .collect();
    let without_effect = use_default_gateways.map(|_| "useDefaultGateways".to_owned()).into_iter().collect();
    Route { id, parents: parent_refs!(parent_refs), hostnames: Vec::new(), rules, without_effect }
}
