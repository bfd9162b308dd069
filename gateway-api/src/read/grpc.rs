//! GRPCRoute. Services and methods are paths: `/SERVICE/METHOD`.

use gateway_api::experimental::grpcroutes as api;
use xebec_galley::spec::StringMatch;

use super::filters::{self, Filter, escaped, header_operations, mirror};
use super::{backend_ref, check, every_request, hostnames, parent_refs};
use crate::model::{Identity, Match, PathMatch, Route, Rule};
use crate::status::reason;

/// Reads a filter; rules and backends have types of their own for it.
macro_rules! filter {
    ($name:ident, $filter:ident) => {
        fn $name(from: api::$filter) -> Filter {
            let api::$filter {
                extension_ref,
                request_header_modifier,
                request_mirror,
                response_header_modifier,
                r#type: _,
            } = from;
            if let Some(from) = extension_ref {
                Filter::Extension(format!("{}/{}", from.group, from.kind))
            } else if let Some(from) = request_header_modifier {
                Filter::RequestHeaders(header_operations!(from))
            } else if let Some(from) = response_header_modifier {
                Filter::ResponseHeaders(header_operations!(from))
            } else if let Some(from) = request_mirror {
                mirror!(from)
            } else {
                Filter::Hollow
            }
        }
    };
}

filter!(rule_filter, GrpcRouteRulesFilters);
filter!(backend_filter, GrpcRouteRulesBackendRefsFilters);

/// Reads a GRPCRoute.
pub fn grpc_route(id: Identity, from: api::GrpcRouteSpec) -> Route {
    let api::GrpcRouteSpec { hostnames: names, parent_refs, rules, use_default_gateways } = from;
    let mut without_effect = Vec::new();
    if use_default_gateways.is_some() {
        without_effect.push("useDefaultGateways".to_owned());
    }
    let rules = rules.unwrap_or_else(|| vec![api::GrpcRouteRules::default()]);
    let rules = rules.into_iter().enumerate().map(|(index, from)| rule(index, from, &mut without_effect)).collect();
    Route { id, parents: parent_refs!(parent_refs), hostnames: hostnames(names), rules, without_effect }
}

fn rule(index: usize, from: api::GrpcRouteRules, without_effect: &mut Vec<String>) -> Rule {
    let api::GrpcRouteRules { backend_refs, filters, matches, name: _, session_persistence } = from;
    if session_persistence.is_some() {
        without_effect.push(format!("rules[{index}].sessionPersistence"));
    }
    let mut rule = Rule::default();
    for from in matches.into_iter().flatten() {
        match condition(from) {
            Ok(condition) => rule.matches.push(condition),
            Err(message) => filters::fault(&mut rule, reason::UNSUPPORTED_VALUE, message),
        }
    }
    if rule.matches.is_empty() && rule.fault.is_none() {
        rule.matches.push(every_request());
    }
    filters::of_rule(&mut rule, filters.into_iter().flatten().map(rule_filter));
    for from in backend_refs.into_iter().flatten() {
        let filters = from.filters;
        let mut backend = backend_ref!(from, from.weight);
        filters::of_backend(&mut rule, &mut backend, filters.into_iter().flatten().map(backend_filter));
        rule.backends.push(backend);
    }
    check(&mut rule);
    rule
}

fn condition(from: api::GrpcRouteRulesMatches) -> Result<Match, String> {
    let api::GrpcRouteRulesMatches { headers, method } = from;
    let mut condition = every_request();
    if let Some(from) = method {
        let regex = matches!(from.r#type, Some(api::GrpcRouteRulesMatchesMethodType::RegularExpression));
        condition.path = path(regex, from.service.as_deref(), from.method.as_deref())?;
    }
    for from in headers.into_iter().flatten() {
        let value = match from.r#type {
            Some(api::GrpcRouteRulesMatchesHeadersType::RegularExpression) => StringMatch::Regex(from.value),
            None | Some(api::GrpcRouteRulesMatchesHeadersType::Exact) => StringMatch::Exact(from.value),
        };
        condition.headers.entry(from.name.to_ascii_lowercase()).or_insert(value);
    }
    Ok(condition)
}

fn path(regex: bool, service: Option<&str>, method: Option<&str>) -> Result<PathMatch, String> {
    let (service, method) = (service.filter(|text| !text.is_empty()), method.filter(|text| !text.is_empty()));
    let slashed = [service, method].into_iter().flatten().any(|text| text.contains('/'));
    if slashed && !regex {
        return Err("the name of a service or method has a slash".to_owned());
    }
    Ok(match (regex, service, method) {
        (_, None, None) => PathMatch::Prefix(String::new()),
        (false, Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
        (false, Some(service), None) => PathMatch::Prefix(format!("/{service}")),
        (false, None, Some(method)) => PathMatch::Regex(format!("/[^/]+/{}", escaped(method))),
        (true, service, method) => {
            PathMatch::Regex(format!("/(?:{})/(?:{})", service.unwrap_or("[^/]+"), method.unwrap_or("[^/]+")))
        }
    })
}
