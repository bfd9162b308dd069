//! Route configurations and virtual hosts.

use std::sync::Arc;
use std::time::Duration;

use xebec_proto::envoy::config::route::v3::{self as route, redirect_action, virtual_host::TlsRequirementType};

use super::matcher::{self, REQUEST, RESPONSE};
use super::place::{Outcome, Place, ignored, inert, refused};
use super::{HostParts, TableParts, action, filter, value};
use crate::model::{
    DirectResponse, Mirror, PathMatcher, PathRewrite, Redirect, Route, RouteAction, RouteMatch, RouteTable, VirtualHost,
};

/// A route configuration: everything but the virtual hosts that are discovered on their own.
pub(super) fn table(at: Place<'_>, value: &route::RouteConfiguration) -> Outcome<TableParts> {
    let route::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = value;
    refused!(at, "clients could write headers that only the mesh may write"; internal_only_headers);
    refused!(at, "requests would be routed differently"; vhost_header, ignore_path_parameters_in_path_matching, route_specifiers);
    ignored!(at; cluster_specifier_plugins, request_mirror_policies);
    // The bodies themselves are in the message: there is nothing left to limit.
    inert!(metadata, validate_clusters, max_direct_response_body_size_bytes);
    let hosts = at.field("virtual_hosts").each(virtual_hosts, host)?;
    let discovered = match vhds {
        Some(vhds) => {
            let vhds_at = at.field("vhds");
            Some(value::from_same_stream(vhds_at.field("config_source"), vhds.config_source.as_ref())?)
        }
        None => None,
    };
    let inline: Vec<Arc<VirtualHost>> = hosts.iter().map(|parts| parts.host.clone()).collect();
    // Indexed here already, so that a clash is refused with its resource and not found later.
    let mut table = RouteTable::new(name, inline).map_err(|error| at.refuse(error))?;
    table.request_headers = matcher::header_ops(at, REQUEST, request_headers_to_add, request_headers_to_remove)?;
    table.response_headers = matcher::header_ops(at, RESPONSE, response_headers_to_add, response_headers_to_remove)?;
    table.per_route = filter::per_route(at, typed_per_filter_config)?;
    table.most_specific_wins = *most_specific_header_mutations_wins;
    table.ignore_port = *ignore_port_in_host_matching;
    Ok(TableParts { table: Arc::new(table), hosts, discovered })
}

/// A route configuration inside of a listener.
pub(super) fn inline_table(at: Place<'_>, value: &route::RouteConfiguration) -> Outcome<RouteTable> {
    let TableParts { table, hosts: _, discovered: _ } = table(at, value)?;
    Ok(Arc::unwrap_or_clone(table))
}

/// A virtual host, and the clusters that its routes name.
pub(super) fn host(at: Place<'_>, value: &route::VirtualHost) -> Outcome<HostParts> {
    let route::VirtualHost {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = value;
    refused!(at, "requests would be routed differently"; matcher, route_specifiers);
    ignored!(at; virtual_clusters, rate_limits, cors, retry_policy_typed_config, hedge_policy,
        include_is_timeout_retry_header, per_request_buffer_limit_bytes, request_body_buffer_limit);
    inert!(metadata);
    if domains.is_empty() {
        return Err(at.field("domains").refuse("a virtual host needs a domain"));
    }
    let mirrors = at.field("request_mirror_policies").each(request_mirror_policies, action::mirror)?;
    let routes = at.field("routes").each(routes, |at, value| route(at, value, &mirrors))?;
    let mut host = VirtualHost::new(name, domains.iter().cloned(), routes);
    host.request_headers = matcher::header_ops(at, REQUEST, request_headers_to_add, request_headers_to_remove)?;
    host.response_headers = matcher::header_ops(at, RESPONSE, response_headers_to_add, response_headers_to_remove)?;
    host.per_route = filter::per_route(at, typed_per_filter_config)?;
    host.retry = retry_policy
        .as_ref()
        .map(|policy| action::retry(at.field("retry_policy"), policy).map(Arc::new))
        .transpose()?;
    host.request_attempt_count = *include_request_attempt_count;
    host.response_attempt_count = *include_attempt_count_in_response;
    host.require_tls = match TlsRequirementType::try_from(*require_tls) {
        Ok(TlsRequirementType::None) => false,
        Ok(TlsRequirementType::All) => true,
        Ok(TlsRequirementType::ExternalOnly) => {
            return Err(at.field("require_tls").refuse("EXTERNAL_ONLY is not supported; use ALL or NONE"));
        }
        Err(_) => return Err(at.field("require_tls").refuse("not a known requirement")),
    };
    let clusters = action::clusters_of(&host);
    Ok(HostParts { host: Arc::new(host), clusters: clusters.into() })
}

fn route(at: Place<'_>, value: &route::Route, host_mirrors: &[Mirror]) -> Outcome<Route> {
    let route::Route {
        name,
        r#match,
        metadata,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = value;
    refused!(at, "requests would be routed differently"; route_specifiers);
    ignored!(at; tracing, per_request_buffer_limit_bytes, stat_prefix, request_body_buffer_limit);
    inert!(metadata, decorator);
    let match_at = at.field("match");
    let matcher = r#match.as_ref().ok_or_else(|| match_at.refuse("a match is required"))?;
    let matcher = matches(match_at, matcher)?;
    let action = match action {
        Some(route::route::Action::Route(forward)) => {
            let mut forward = action::forward(at.field("route"), forward)?;
            if forward.mirrors.is_empty() {
                forward.mirrors = host_mirrors.to_vec();
            }
            RouteAction::Forward(Box::new(forward))
        }
        Some(route::route::Action::Redirect(value)) => {
            RouteAction::Redirect(Box::new(redirect(at.field("redirect"), value)?))
        }
        Some(route::route::Action::DirectResponse(value)) => {
            RouteAction::Direct(direct(at.field("direct_response"), value)?)
        }
        Some(route::route::Action::NonForwardingAction(_)) => RouteAction::NonForwarding,
        Some(route::route::Action::FilterAction(_)) => {
            return Err(at.field("filter_action").refuse("actions of filters are not supported"));
        }
        None => return Err(at.field("route").refuse("an action is required")),
    };
    let mut out = Route::new(matcher, action);
    out.name = name.as_str().into();
    out.request_headers = matcher::header_ops(at, REQUEST, request_headers_to_add, request_headers_to_remove)?;
    out.response_headers = matcher::header_ops(at, RESPONSE, response_headers_to_add, response_headers_to_remove)?;
    out.per_route = filter::per_route(at, typed_per_filter_config)?;
    Ok(out)
}

fn matches(at: Place<'_>, value: &route::RouteMatch) -> Outcome<RouteMatch> {
    use route::route_match::PathSpecifier;
    let route::RouteMatch {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = value;
    refused!(at, "this match is not supported, and without it the route would take requests of others";
        cookies, tls_context, dynamic_metadata, filter_state);
    let path = match path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => PathMatcher::Prefix(prefix.as_str().into()),
        Some(PathSpecifier::Path(path)) => PathMatcher::Exact(path.as_str().into()),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                return Err(at.field("path_separated_prefix").refuse("has to start with `/` and not to end with it"));
            }
            PathMatcher::SeparatedPrefix(prefix.as_str().into())
        }
        Some(PathSpecifier::SafeRegex(regex)) => {
            PathMatcher::Regex(matcher::full_regex(at.field("safe_regex"), regex)?)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => PathMatcher::Connect,
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            return Err(at.field("path_match_policy").refuse("path policies are not supported"));
        }
        None => return Err(at.field("prefix").refuse("a path is required; use prefix `/` for every one")),
    };
    Ok(RouteMatch {
        path,
        case_sensitive: value::switch(case_sensitive.as_ref(), true),
        headers: at.field("headers").each(headers, matcher::header)?,
        query: at.field("query_parameters").each(query_parameters, matcher::query)?,
        grpc: grpc.is_some(),
        share: runtime_fraction
            .as_ref()
            .map(|share| value::runtime_fraction(at.field("runtime_fraction"), share))
            .transpose()?,
    })
}

fn redirect(at: Place<'_>, value: &route::RedirectAction) -> Outcome<Redirect> {
    use redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let route::RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = value;
    let path = match path_rewrite_specifier {
        None => None,
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(PathRewrite::Full(path.as_str().into())),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(PathRewrite::Prefix(prefix.as_str().into())),
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            let (pattern, substitution) = matcher::substitution(at.field("regex_rewrite"), rewrite)?;
            Some(PathRewrite::regex(pattern, substitution))
        }
        Some(PathRewriteSpecifier::PathRewrite(path)) => Some(action::plain_path(at.field("path_rewrite"), path)?),
    };
    Ok(Redirect {
        scheme: match scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.as_str().into()),
            Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
        },
        host: (!host_redirect.is_empty()).then(|| host_redirect.as_str().into()),
        port: match *port_redirect {
            0 => None,
            port => Some(u16::try_from(port).map_err(|_| at.field("port_redirect").refuse("not a port"))?),
        },
        path,
        status: match RedirectResponseCode::try_from(*response_code) {
            Ok(RedirectResponseCode::MovedPermanently) => 301,
            Ok(RedirectResponseCode::Found) => 302,
            Ok(RedirectResponseCode::SeeOther) => 303,
            Ok(RedirectResponseCode::TemporaryRedirect) => 307,
            Ok(RedirectResponseCode::PermanentRedirect) => 308,
            Err(_) => return Err(at.field("response_code").refuse("not a known code")),
        },
        strip_query: *strip_query,
    })
}

fn direct(at: Place<'_>, value: &route::DirectResponseAction) -> Outcome<DirectResponse> {
    let route::DirectResponseAction { status, body, body_format } = value;
    ignored!(at; body_format);
    let status = u16::try_from(*status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .ok_or_else(|| at.field("status").refuse("a status is between 200 and 599"))?;
    let body = body.as_ref().map(|source| value::inline_data(at.field("body"), source)).transpose()?;
    Ok(DirectResponse { status, body: body.unwrap_or_default().into() })
}

/// Unset: Envoy's 15 seconds. Zero: without limit.
pub(super) const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);
