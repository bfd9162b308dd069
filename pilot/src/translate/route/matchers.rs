//! From `http[].match[]` to Envoy's route matches.

use xebec_galley::spec::{HttpMatchRequest, StringMatch};
use xebec_proto::envoy::config::route::v3 as route;
use xebec_proto::envoy::r#type::matcher::v3 as matcher;

use super::super::wire::{bool_value, regex};

/// A header for a condition that never holds.
const NOWHERE: &str = "x-never";

/// Translates one entry of `match`; `None` matches everything.
pub fn route_match(from: Option<&HttpMatchRequest>) -> route::RouteMatch {
    let Some(from) = from else { return everything() };
    if from.headers.keys().chain(from.without_headers.keys()).any(|name| is_claim(name)) {
        return nothing();
    }
    let mut headers: Vec<_> = from.headers.iter().map(|(name, value)| header(name, value)).collect();
    for (name, value) in &from.without_headers {
        headers.push(route::HeaderMatcher {
            invert_match: true,
            // A request that lacks the header does not have the unwanted value either.
            treat_missing_header_as_empty: !is_presence(value),
            ..header(name, value)
        });
    }
    for (name, value) in [(":method", &from.method), (":authority", &from.authority), (":scheme", &from.scheme)] {
        headers.extend(value.iter().map(|value| header(name, value)));
    }
    let ignores_case = from.ignore_uri_case && !matches!(from.uri, Some(StringMatch::Regex(_)));
    route::RouteMatch {
        case_sensitive: if ignores_case { bool_value(false) } else { None },
        headers,
        query_parameters: from.query_params.iter().map(|(name, value)| query(name, value)).collect(),
        path_specifier: Some(path(from.uri.as_ref())),
        ..Default::default()
    }
}

/// Matches every request.
pub fn everything() -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    }
}

/// Whether a name among header conditions is not a header's: `@request.auth.claims.x` is a claim of the caller's token. No token is
/// checked yet, so nobody is known to have a claim, nor to lack one.
pub fn is_claim(name: &str) -> bool {
    name.starts_with('@')
}

/// Matches no request, whatever headers the client supports: nothing is both there and missing.
fn nothing() -> route::RouteMatch {
    let presence = header(NOWHERE, &StringMatch::Present);
    let absence = route::HeaderMatcher { invert_match: true, ..presence.clone() };
    route::RouteMatch { headers: vec![presence, absence], ..everything() }
}

/// Whether no request passes by: what follows such a route is never reached, and is not emitted.
pub fn is_catch_all(from: &route::RouteMatch) -> bool {
    use route::route_match::PathSpecifier;
    let any_path = match &from.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == ".*" || regex.regex == "*",
        _ => false,
    };
    any_path && from.headers.is_empty() && from.query_parameters.is_empty() && from.dynamic_metadata.is_empty()
}

/// A value that only asks for the header to be there.
fn is_presence(value: &StringMatch) -> bool {
    match value {
        StringMatch::Present => true,
        StringMatch::Exact(text) | StringMatch::Prefix(text) => text.is_empty(),
        StringMatch::Regex(text) => text.is_empty() || text == "*",
    }
}

fn path(uri: Option<&StringMatch>) -> route::route_match::PathSpecifier {
    use route::route_match::PathSpecifier;
    match uri {
        None | Some(StringMatch::Present) => PathSpecifier::Prefix("/".to_owned()),
        Some(StringMatch::Exact(text)) => PathSpecifier::Path(text.clone()),
        Some(StringMatch::Prefix(text)) => PathSpecifier::Prefix(text.clone()),
        Some(StringMatch::Regex(text)) => PathSpecifier::SafeRegex(regex(text)),
    }
}

fn header(name: &str, value: &StringMatch) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier;
    let specifier = if is_presence(value) {
        HeaderMatchSpecifier::PresentMatch(true)
    } else {
        HeaderMatchSpecifier::StringMatch(string(value))
    };
    route::HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn query(name: &str, value: &StringMatch) -> route::QueryParameterMatcher {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier;
    let specifier = if is_presence(value) {
        QueryParameterMatchSpecifier::PresentMatch(true)
    } else {
        QueryParameterMatchSpecifier::StringMatch(string(value))
    };
    route::QueryParameterMatcher { name: name.to_owned(), query_parameter_match_specifier: Some(specifier) }
}

/// A comparison of strings as Envoy writes it.
pub fn string(value: &StringMatch) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern;
    let pattern = match value {
        StringMatch::Present => MatchPattern::SafeRegex(regex(".*")),
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(text) => MatchPattern::SafeRegex(regex(text)),
    };
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}
