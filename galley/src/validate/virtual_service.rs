//! Rules of VirtualService.

use super::Findings;
use super::names::{covers, is_label, is_object_name, is_token};
use super::rules;
use crate::spec::{
    CorsPolicy, HeaderOperations, Headers, HttpBody, HttpFaultInjection, HttpMatchRequest, HttpRedirect, HttpRetry,
    HttpRewrite, HttpRoute, L4MatchAttributes, RouteDestination, StringMatch, TlsMatchAttributes, VirtualService,
};
use crate::yaml::At;

/// Envoy's limit, `max_direct_response_body_size_bytes` as Istio sets it.
const LARGEST_BODY: usize = 1024 * 1024;

/// Envoy's retry conditions, of HTTP and of gRPC.
const RETRY_ON: [&str; 18] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
    "unknown",
    "reset-before-response-started",
];

pub(super) fn check(service: &VirtualService, at: &At<'_>, findings: &mut Findings) {
    let delegate = service.hosts.is_empty();
    if delegate {
        // Without hosts it can only be the target of another resource's `delegate`, which is about HTTP.
        if service.http.is_empty() || !service.gateways.is_empty() || !service.tls.is_empty() || !service.tcp.is_empty()
        {
            findings.missing(
                &at.key("hosts"),
                "a VirtualService without hosts is a delegate, and has `http` routes and no gateways, `tls` or `tcp`",
                "add `hosts:`",
            );
        }
    } else if service.http.is_empty() && service.tls.is_empty() && service.tcp.is_empty() {
        findings.missing(at, "there are no routes", "add `http:`, `tls:` or `tcp:`");
    }
    let mesh = service.gateways.is_empty() || service.gateways.iter().any(|gateway| gateway == "mesh");
    for (index, host) in service.hosts.iter().enumerate() {
        let at = at.key("hosts");
        let at = at.index(index);
        rules::wildcard_host(host, &at, findings);
        if host == "*" && mesh {
            findings.invalid(
                &at,
                "`*` cannot be routed for sidecars",
                "name the hosts, or name gateways in `gateways:`",
            );
        }
    }
    rules::unique(service.hosts.iter().map(String::as_str), "host", &at.key("hosts"), "", findings);
    rules::export_to(&service.export_to, &at.key("exportTo"), findings);
    gateways(&service.gateways, &at.key("gateways"), findings);
    let mut taken_by: Option<usize> = None;
    for (index, route) in service.http.iter().enumerate() {
        let at = at.key("http");
        let at = at.index(index);
        http_route(route, delegate, &at, findings);
        if let Some(earlier) = taken_by {
            findings.suspicious(
                &at,
                format!("this route is never reached: `spec.http[{earlier}]` takes every request"),
                "move the more specific route above it",
            );
        } else if takes_everything(route) {
            taken_by = Some(index);
        }
    }
    for (index, route) in service.tls.iter().enumerate() {
        let at = at.key("tls");
        let at = at.index(index);
        if route.matches.is_empty() {
            findings.missing(&at.key("match"), "a TLS route needs a match", "add `match:` with `sniHosts:`");
        }
        for (index, condition) in route.matches.iter().enumerate() {
            tls_match(condition, &service.hosts, &at.key("match").index(index), findings);
        }
        destinations(&route.route, &at.key("route"), findings);
    }
    for (index, route) in service.tcp.iter().enumerate() {
        let at = at.key("tcp");
        let at = at.index(index);
        for (index, condition) in route.matches.iter().enumerate() {
            l4_match(condition, &at.key("match").index(index), findings);
        }
        destinations(&route.route, &at.key("route"), findings);
    }
}

fn gateways(names: &[String], at: &At<'_>, findings: &mut Findings) {
    for (index, gateway) in names.iter().enumerate() {
        let (namespace, name) = gateway.split_once('/').unwrap_or((".", gateway));
        let namespace_fits = namespace == "." || is_label(namespace);
        if !namespace_fits || !is_object_name(name) {
            findings.invalid(
                &at.index(index),
                format!("`{gateway}` is not a gateway's name"),
                "write `mesh`, `NAME` or `NAMESPACE/NAME`",
            );
        }
    }
}

/// Whether every request that gets here is taken, whoever sends it.
fn takes_everything(route: &HttpRoute) -> bool {
    route.matches.is_empty() || route.matches.iter().any(is_empty_match)
}

fn is_empty_match(condition: &HttpMatchRequest) -> bool {
    let everything = HttpMatchRequest {
        name: condition.name.clone(),
        stat_prefix: condition.stat_prefix.clone(),
        ignore_uri_case: condition.ignore_uri_case,
        uri: condition.uri.clone(),
        ..HttpMatchRequest::default()
    };
    let every_path = match &condition.uri {
        None => true,
        Some(StringMatch::Prefix(prefix)) => prefix == "/",
        Some(StringMatch::Regex(pattern)) => pattern == ".*" || pattern == "*",
        _ => false,
    };
    every_path && *condition == everything
}

fn http_route(route: &HttpRoute, delegate: bool, at: &At<'_>, findings: &mut Findings) {
    let ways = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ];
    let given: Vec<&str> = ways.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match given.len() {
        0 => findings.missing(
            at,
            "the route says nothing about what happens to requests",
            "add one of `route:`, `redirect:`, `directResponse:` and `delegate:`",
        ),
        1 => {}
        _ => findings.contradiction(
            at,
            format!("the route has both `{}`", given.join("` and `")),
            "keep exactly one of them",
        ),
    }
    if route.redirect.is_some() && route.rewrite.is_some() {
        findings.contradiction(
            &at.key("rewrite"),
            "a redirect does not forward requests, so there is nothing to rewrite",
            "remove `rewrite` or `redirect`",
        );
    }
    if route.redirect.is_some() && route.fault.is_some() {
        findings.contradiction(
            &at.key("fault"),
            "a redirect does not forward requests, so no fault can be injected",
            "remove `fault` or `redirect`",
        );
    }
    for (index, condition) in route.matches.iter().enumerate() {
        http_match(condition, &at.key("match").index(index), findings);
    }
    for (index, target) in route.route.iter().enumerate() {
        let at = at.key("route");
        let at = at.index(index);
        rules::destination(&target.destination, &at.key("destination"), findings);
        headers(target.headers.as_ref(), &at.key("headers"), findings);
    }
    let weights: Vec<i32> = route.route.iter().map(|target| target.weight).collect();
    rules::weights(&weights, &at.key("route"), findings);
    if let Some(redirect_to) = &route.redirect {
        redirect(redirect_to, &at.key("redirect"), findings);
    }
    if let Some(response) = &route.direct_response {
        let at = at.key("directResponse");
        if !(200..=599).contains(&response.status) {
            findings.invalid(
                &at.key("status"),
                format!("{} is not a status to answer with", response.status),
                "use 200 to 599",
            );
        }
        let size = match &response.body {
            Some(HttpBody::String(text)) => text.len(),
            Some(HttpBody::Bytes(bytes)) => bytes.len(),
            None => 0,
        };
        if size > LARGEST_BODY {
            findings.invalid(
                &at.key("body"),
                format!("the body has {size} bytes, at most {LARGEST_BODY} are sent"),
                "serve it from a service",
            );
        }
    }
    if let Some(target) = &route.delegate {
        let at = at.key("delegate");
        if delegate {
            findings.invalid(&at, "a delegate cannot delegate again", "name the final routes here");
        }
        if !is_object_name(&target.name) {
            findings.invalid(&at.key("name"), "the name of the VirtualService to go on with is missing or wrong", "");
        }
    }
    if let Some(change) = &route.rewrite {
        rewrite(change, &at.key("rewrite"), findings);
    }
    if let Some(retries) = &route.retries {
        retry(retries, &at.key("retries"), findings);
    }
    if let Some(faults) = &route.fault {
        fault(faults, &at.key("fault"), findings);
    }
    mirrors(route, at, findings);
    if let Some(policy) = &route.cors_policy {
        cors(policy, &at.key("corsPolicy"), findings);
    }
    headers(route.headers.as_ref(), &at.key("headers"), findings);
}

fn http_match(condition: &HttpMatchRequest, at: &At<'_>, findings: &mut Findings) {
    for (field, value) in [
        ("uri", &condition.uri),
        ("scheme", &condition.scheme),
        ("method", &condition.method),
        ("authority", &condition.authority),
    ] {
        if let Some(value) = value {
            rules::string_match(value, &at.key(field), findings);
            if *value == StringMatch::Present {
                findings.missing(&at.key(field), "the match is empty", "give one of `exact`, `prefix` and `regex`");
            }
        }
    }
    for (field, map) in [("headers", &condition.headers), ("withoutHeaders", &condition.without_headers)] {
        let at = at.key(field);
        for (name, value) in map {
            // `@request.auth.claims` names a claim of the caller's token, not a header.
            if !name.starts_with('@') {
                rules::header_name(name, true, &at.key(name), findings);
            }
            rules::string_match(value, &at.key(name), findings);
        }
    }
    for (name, value) in &condition.query_params {
        let at = at.key("queryParams");
        rules::string_match(value, &at.key(name), findings);
        if name.is_empty() {
            findings.invalid(&at, "a query parameter without a name", "");
        }
    }
    if condition.ignore_uri_case && matches!(condition.uri, None | Some(StringMatch::Regex(_))) {
        findings.suspicious(
            &at.key("ignoreUriCase"),
            "`ignoreUriCase` has an effect on `exact` and `prefix` only",
            "use `(?i)` in the expression",
        );
    }
    if let Some(number) = condition.port {
        rules::port(number, &at.key("port"), findings);
    }
    rules::labels(&condition.source_labels, &at.key("sourceLabels"), findings);
    gateways(&condition.gateways, &at.key("gateways"), findings);
}

fn redirect(redirect: &HttpRedirect, at: &At<'_>, findings: &mut Findings) {
    if *redirect == HttpRedirect::default() {
        findings.missing(
            at,
            "the redirect changes nothing",
            "add `uri`, `authority`, `scheme`, `port` or `prefixRewrite`",
        );
    }
    if let Some(code) = redirect.redirect_code
        && !matches!(code, 301 | 302 | 303 | 307 | 308)
    {
        findings.invalid(
            &at.key("redirectCode"),
            format!("{code} is not a redirect that can be sent"),
            "use 301, 302, 303, 307 or 308",
        );
    }
    if !redirect.scheme.is_empty() && !matches!(redirect.scheme.as_str(), "http" | "https") {
        findings.invalid(
            &at.key("scheme"),
            format!("`{}` is not a scheme to redirect to", redirect.scheme),
            "use `http` or `https`",
        );
    }
    for (field, value) in
        [("uri", &redirect.uri), ("prefixRewrite", &redirect.prefix_rewrite), ("authority", &redirect.authority)]
    {
        rules::wire_text(value, &at.key(field), findings);
    }
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        findings.contradiction(
            at,
            "`uri` replaces the whole path and `prefixRewrite` its beginning",
            "keep one of them",
        );
    }
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        findings.contradiction(at, "`port` and `derivePort` both choose the port", "keep one of them");
    }
    if let Some(number) = redirect.port {
        rules::port(number, &at.key("port"), findings);
    }
}

fn rewrite(rewrite: &HttpRewrite, at: &At<'_>, findings: &mut Findings) {
    if *rewrite == HttpRewrite::default() {
        findings.missing(at, "the rewrite changes nothing", "add `uri`, `authority` or `uriRegexRewrite`");
    }
    rules::wire_text(&rewrite.uri, &at.key("uri"), findings);
    rules::wire_text(&rewrite.authority, &at.key("authority"), findings);
    if let Some(change) = &rewrite.uri_regex_rewrite {
        rules::wire_text(&change.rewrite, &at.key("uriRegexRewrite").key("rewrite"), findings);
    }
    if let Some(change) = &rewrite.uri_regex_rewrite {
        let at = at.key("uriRegexRewrite");
        if !rewrite.uri.is_empty() {
            findings.contradiction(&at, "`uri` and `uriRegexRewrite` both replace the path", "keep one of them");
        }
        if change.pattern.is_empty() {
            findings.missing(&at.key("match"), "the expression to look for is missing", "add `match:`");
        }
        rules::regex(&change.pattern, &at.key("match"), findings);
    }
}

pub(super) fn retry(retry: &HttpRetry, at: &At<'_>, findings: &mut Findings) {
    rules::not_negative(Some(retry.attempts), &at.key("attempts"), findings);
    let idle = HttpRetry { attempts: 0, ..HttpRetry::default() };
    if retry.attempts == 0 && *retry != idle {
        findings.contradiction(
            at,
            "retries are off (`attempts` is 0), so the other settings have no effect",
            "set `attempts`, or remove the others",
        );
    }
    rules::positive(retry.per_try_timeout, &at.key("perTryTimeout"), findings);
    rules::positive(retry.backoff, &at.key("backoff"), findings);
    for condition in retry.retry_on.split(',').map(str::trim).filter(|condition| !condition.is_empty()) {
        let code = condition.parse::<u16>().is_ok_and(|code| (100..600).contains(&code));
        if !code && !RETRY_ON.contains(&condition) {
            let near = crate::yaml::suggest(condition, RETRY_ON)
                .map_or(String::new(), |near| format!("did you mean `{near}`? "));
            findings.invalid(
                &at.key("retryOn"),
                format!("`{condition}` is not a condition for retries"),
                &format!("{near}Use status codes, or any of {}", RETRY_ON.join(", ")),
            );
        }
    }
}

fn fault(fault: &HttpFaultInjection, at: &At<'_>, findings: &mut Findings) {
    if fault.delay.is_none() && fault.abort.is_none() {
        findings.missing(at, "the fault is neither a delay nor an abort", "add `delay:` or `abort:`");
    }
    if let Some(delay) = &fault.delay {
        let at = at.key("delay");
        rules::percent(delay.percentage, &at.key("percentage"), findings);
        if let Some(percent) = delay.percent {
            rules::whole_percent(percent.into(), &at.key("percent"), findings);
            findings.deprecated(&at.key("percent"), "`percent` is deprecated", "write `percentage: { value: … }`");
        }
        if delay.fixed_delay.is_none() && delay.exponential_delay.is_none() {
            findings.missing(&at.key("fixedDelay"), "how long the delay takes is missing", "add `fixedDelay:`");
        }
        rules::positive(delay.fixed_delay, &at.key("fixedDelay"), findings);
        rules::positive(delay.exponential_delay, &at.key("exponentialDelay"), findings);
    }
    if let Some(abort) = &fault.abort {
        let at = at.key("abort");
        rules::percent(abort.percentage, &at.key("percentage"), findings);
        let given = [abort.http_status.is_some(), abort.grpc_status.is_some(), abort.http2_error.is_some()];
        match given.iter().filter(|given| **given).count() {
            0 => findings.missing(&at, "what the abort answers is missing", "add `httpStatus:` or `grpcStatus:`"),
            1 => {}
            _ => findings.contradiction(
                &at,
                "more than one of `httpStatus`, `grpcStatus` and `http2Error`",
                "keep one of them",
            ),
        }
        if let Some(status) = abort.http_status
            && !(200..=599).contains(&status)
        {
            findings.invalid(
                &at.key("httpStatus"),
                format!("{status} is not a status to answer with"),
                "use 200 to 599",
            );
        }
        if let Some(status) = &abort.grpc_status
            && !crate::spec::GRPC_STATUS.contains(&status.as_str())
        {
            let near = crate::yaml::suggest(status, crate::spec::GRPC_STATUS)
                .map_or(String::new(), |near| format!("did you mean `{near}`?"));
            findings.invalid(&at.key("grpcStatus"), format!("`{status}` is not a gRPC status"), &near);
        }
    }
}

fn mirrors(route: &HttpRoute, at: &At<'_>, findings: &mut Findings) {
    if let Some(mirror) = &route.mirror {
        rules::destination(mirror, &at.key("mirror"), findings);
        if !route.mirrors.is_empty() {
            findings.contradiction(&at.key("mirrors"), "both `mirror` and `mirrors`", "move `mirror` into `mirrors`");
        }
    }
    if let Some(percent) = route.mirror_percent {
        rules::whole_percent(percent.into(), &at.key("mirrorPercent"), findings);
        findings.deprecated(
            &at.key("mirrorPercent"),
            "`mirrorPercent` is deprecated",
            "write `mirrorPercentage: { value: … }`",
        );
    }
    rules::percent(route.mirror_percentage, &at.key("mirrorPercentage"), findings);
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let at = at.key("mirrors");
        let at = at.index(index);
        rules::destination(&mirror.destination, &at.key("destination"), findings);
        rules::percent(mirror.percentage, &at.key("percentage"), findings);
    }
}

fn cors(policy: &CorsPolicy, at: &At<'_>, findings: &mut Findings) {
    if !policy.allow_origin.is_empty() {
        findings.deprecated(
            &at.key("allowOrigin"),
            "`allowOrigin` is deprecated",
            "write `allowOrigins:` with `exact:`",
        );
    }
    for (index, origin) in policy.allow_origins.iter().enumerate() {
        rules::string_match(origin, &at.key("allowOrigins").index(index), findings);
    }
    for (index, method) in policy.allow_methods.iter().enumerate() {
        if !is_token(method) {
            findings.invalid(&at.key("allowMethods").index(index), format!("`{method}` is not a method"), "");
        }
    }
    for (field, names) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)] {
        for (index, name) in names.iter().enumerate() {
            rules::header_name(name, false, &at.key(field).index(index), findings);
        }
    }
}

fn headers(headers: Option<&Headers>, at: &At<'_>, findings: &mut Findings) {
    let Some(headers) = headers else { return };
    for (field, operations, authority) in [("request", &headers.request, true), ("response", &headers.response, false)]
    {
        if let Some(operations) = operations {
            header_operations(operations, authority, &at.key(field), findings);
        }
    }
}

fn header_operations(operations: &HeaderOperations, authority: bool, at: &At<'_>, findings: &mut Findings) {
    rules::header_map(&operations.set, authority, &at.key("set"), findings);
    rules::header_map(&operations.add, authority, &at.key("add"), findings);
    for (index, name) in operations.remove.iter().enumerate() {
        let remove = at.key("remove");
        rules::header_name(name, false, &remove.index(index), findings);
        rules::not_framing(name, &remove.index(index), findings);
    }
}

fn destinations(targets: &[RouteDestination], at: &At<'_>, findings: &mut Findings) {
    if targets.is_empty() {
        findings.missing(at, "the route has no destination", "add `route:` with a `destination:`");
    }
    for (index, target) in targets.iter().enumerate() {
        rules::destination(&target.destination, &at.index(index).key("destination"), findings);
    }
    let weights: Vec<i32> = targets.iter().map(|target| target.weight).collect();
    rules::weights(&weights, at, findings);
}

fn tls_match(condition: &TlsMatchAttributes, hosts: &[String], at: &At<'_>, findings: &mut Findings) {
    if condition.sni_hosts.is_empty() {
        findings.missing(&at.key("sniHosts"), "a TLS match needs server names", "add `sniHosts:`");
    }
    for (index, name) in condition.sni_hosts.iter().enumerate() {
        let at = at.key("sniHosts");
        let at = at.index(index);
        rules::wildcard_host(name, &at, findings);
        if !hosts.is_empty() && !hosts.iter().any(|host| covers(host, name)) {
            findings.invalid(
                &at,
                format!("`{name}` is not among the hosts of this resource"),
                "add it to `hosts:`, or use one of them",
            );
        }
    }
    l4(&condition.destination_subnets, condition.port, at, findings);
    rules::labels(&condition.source_labels, &at.key("sourceLabels"), findings);
    gateways(&condition.gateways, &at.key("gateways"), findings);
}

fn l4_match(condition: &L4MatchAttributes, at: &At<'_>, findings: &mut Findings) {
    l4(&condition.destination_subnets, condition.port, at, findings);
    if !condition.source_subnet.is_empty() {
        rules::subnet(&condition.source_subnet, &at.key("sourceSubnet"), findings);
    }
    rules::labels(&condition.source_labels, &at.key("sourceLabels"), findings);
    gateways(&condition.gateways, &at.key("gateways"), findings);
}

fn l4(subnets: &[String], port: Option<u16>, at: &At<'_>, findings: &mut Findings) {
    for (index, subnet) in subnets.iter().enumerate() {
        rules::subnet(subnet, &at.key("destinationSubnets").index(index), findings);
    }
    if let Some(number) = port {
        rules::port(number, &at.key("port"), findings);
    }
}
