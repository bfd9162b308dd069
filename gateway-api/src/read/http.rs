//! HTTPRoute.

use gateway_api::Duration as GepDuration;
use gateway_api::experimental::httproutes as api;
use xebec_galley::spec::{Duration, HttpRetry, StringMatch};

use super::filters::{self, Filter, cors, header_operations, mirror};
use super::{backend_ref, check, every_request, exact, hostnames, parent_refs, prefix};
use crate::model::{Identity, Match, PathChange, PathMatch, Redirect, Route, Rule};
use crate::status::reason;

/// Istio's own number of retries, where only the limit of each try is written.
const DEFAULT_ATTEMPTS: i32 = 2;
/// Istio's own conditions for retries: failures that are safe to repeat, whatever the request does.
const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled";

/// Reads a filter; rules and backends have types of their own for it.
macro_rules! filter {
    ($name:ident, $filter:ident, $scheme:ident) => {
        fn $name(from: api::$filter) -> Filter {
            let api::$filter {
                cors: cross_origin,
                extension_ref,
                external_auth,
                request_header_modifier,
                request_mirror,
                request_redirect,
                response_header_modifier,
                r#type: _,
                url_rewrite,
            } = from;
            if let Some(from) = extension_ref {
                Filter::Extension(format!("{}/{}", from.group, from.kind))
            } else if external_auth.is_some() {
                Filter::NotDone("ExternalAuth")
            } else if let Some(from) = cross_origin {
                Filter::Cors(cors(
                    from.allow_origins,
                    from.allow_methods,
                    from.allow_headers,
                    from.expose_headers,
                    from.allow_credentials,
                    from.max_age,
                ))
            } else if let Some(from) = request_header_modifier {
                Filter::RequestHeaders(header_operations!(from))
            } else if let Some(from) = response_header_modifier {
                Filter::ResponseHeaders(header_operations!(from))
            } else if let Some(from) = request_mirror {
                mirror!(from)
            } else if let Some(from) = request_redirect {
                let Ok(port) = from.port.map(u16::try_from).transpose() else { return Filter::Hollow };
                let Ok(code) = u32::try_from(from.status_code.unwrap_or(302)) else { return Filter::Hollow };
                let scheme = from.scheme.map(|scheme| match scheme {
                    api::$scheme::Http => "http",
                    api::$scheme::Https => "https",
                });
                let path = from
                    .path
                    .map_or(PathChange::Keep, |path| path_change(path.replace_full_path, path.replace_prefix_match));
                Filter::Redirect { redirect: Redirect { scheme, hostname: from.hostname, port, code }, path }
            } else if let Some(from) = url_rewrite {
                let path = from
                    .path
                    .map_or(PathChange::Keep, |path| path_change(path.replace_full_path, path.replace_prefix_match));
                Filter::Rewrite { hostname: from.hostname, path }
            } else {
                Filter::Hollow
            }
        }
    };
}

filter!(rule_filter, HttpRouteRulesFilters, HttpRouteRulesFiltersRequestRedirectScheme);
filter!(backend_filter, HttpRouteRulesBackendRefsFilters, HttpRouteRulesBackendRefsFiltersRequestRedirectScheme);

fn path_change(full: Option<String>, prefix: Option<String>) -> PathChange {
    let rooted = |path: String| if path.starts_with('/') || path.is_empty() { path } else { format!("/{path}") };
    match (full, prefix) {
        (Some(full), _) if full.is_empty() => PathChange::Full("/".to_owned()),
        (Some(full), _) => PathChange::Full(rooted(full)),
        (None, Some(prefix)) => PathChange::Prefix(rooted(prefix).trim_end_matches('/').to_owned()),
        (None, None) => PathChange::Keep,
    }
}

/// Reads an HTTPRoute.
pub fn http_route(id: Identity, from: api::HttpRouteSpec) -> Route {
    let api::HttpRouteSpec { hostnames: names, parent_refs, rules, use_default_gateways } = from;
    let mut without_effect = Vec::new();
    if use_default_gateways.is_some() {
        without_effect.push("useDefaultGateways".to_owned());
    }
    let rules = rules.unwrap_or_else(|| vec![api::HttpRouteRules::default()]);
    let rules = rules.into_iter().enumerate().map(|(index, from)| rule(index, from, &mut without_effect)).collect();
    Route { id, parents: parent_refs!(parent_refs), hostnames: hostnames(names), rules, without_effect }
}

fn rule(index: usize, from: api::HttpRouteRules, without_effect: &mut Vec<String>) -> Rule {
    let api::HttpRouteRules { backend_refs, filters, matches, name: _, retry, session_persistence, timeouts } = from;
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
    rule.base.retries = retry.map(|from| {
        let codes: String = from.codes.into_iter().flatten().map(|code| format!(",{code}")).collect();
        HttpRetry {
            attempts: from.attempts.map_or(DEFAULT_ATTEMPTS, |n| i32::try_from(n).unwrap_or(i32::MAX)),
            retry_on: if codes.is_empty() { String::new() } else { format!("{DEFAULT_RETRY_ON}{codes}") },
            backoff: from.backoff.as_deref().and_then(|text| duration(&mut rule, text)),
            ..Default::default()
        }
    });
    if let Some(from) = timeouts {
        rule.base.timeout = from.request.as_deref().and_then(|text| duration(&mut rule, text));
        if let Some(limit) = from.backend_request.as_deref().and_then(|text| duration(&mut rule, text)) {
            let retries =
                rule.base.retries.get_or_insert_with(|| HttpRetry { attempts: DEFAULT_ATTEMPTS, ..Default::default() });
            if retries.attempts > 0 {
                retries.per_try_timeout = Some(limit);
            } else {
                rule.base.timeout = Some(rule.base.timeout.map_or(limit, |whole| whole.min(limit)));
            }
        }
    }
    if rule.base.retries.as_ref().is_some_and(|retries| retries.attempts == 0) {
        rule.base.retries = Some(HttpRetry::default());
    }
    check(&mut rule);
    rule
}

/// A duration of the Gateway API; zero is no limit.
fn duration(rule: &mut Rule, text: &str) -> Option<Duration> {
    match text.parse::<GepDuration>() {
        Ok(duration) => Some(Duration(std::time::Duration::new(duration.as_secs(), duration.subsec_nanos())))
            .filter(|duration| !duration.is_zero()),
        Err(_) => {
            filters::fault(rule, reason::UNSUPPORTED_VALUE, format!("`{text}` is not a duration"));
            None
        }
    }
}

fn condition(from: api::HttpRouteRulesMatches) -> Result<Match, String> {
    let api::HttpRouteRulesMatches { headers, method, path, query_params } = from;
    let path = match path {
        None => PathMatch::Prefix(String::new()),
        Some(from) => {
            let value = from.value.unwrap_or_else(|| "/".to_owned());
            match from.r#type {
                Some(api::HttpRouteRulesMatchesPathType::Exact) => exact(&value)?,
                None | Some(api::HttpRouteRulesMatchesPathType::PathPrefix) => prefix(&value)?,
                Some(api::HttpRouteRulesMatchesPathType::RegularExpression) => PathMatch::Regex(value),
            }
        }
    };
    let mut condition = Match { path, method: method.map(verb), ..every_request() };
    for from in headers.into_iter().flatten() {
        let value = match from.r#type {
            Some(api::HttpRouteRulesMatchesHeadersType::RegularExpression) => StringMatch::Regex(from.value),
            None | Some(api::HttpRouteRulesMatchesHeadersType::Exact) => StringMatch::Exact(from.value),
        };
        condition.headers.entry(from.name.to_ascii_lowercase()).or_insert(value);
    }
    for from in query_params.into_iter().flatten() {
        let value = match from.r#type {
            Some(api::HttpRouteRulesMatchesQueryParamsType::RegularExpression) => StringMatch::Regex(from.value),
            None | Some(api::HttpRouteRulesMatchesQueryParamsType::Exact) => StringMatch::Exact(from.value),
        };
        condition.query.entry(from.name).or_insert(value);
    }
    Ok(condition)
}

fn verb(from: api::HttpRouteRulesMatchesMethod) -> String {
    use api::HttpRouteRulesMatchesMethod as Method;
    match from {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
    }
    .to_owned()
}
