//! What a route does with a request: forward, redirect, answer.

use xebec_galley::spec::{
    DerivePort, Destination, HttpBody, HttpDirectResponse, HttpRedirect, HttpRewrite, HttpRoute, HttpRouteDestination,
};
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::route::v3 as route;
use xebec_proto::envoy::config::route::v3::route_action as parts;
use xebec_proto::envoy::r#type::matcher::v3 as matcher;

use super::headers::{HeaderOps, header_ops};
use super::retry::retry_policy;
use super::{Context, Target};
use crate::translate::filters::inline;
use crate::translate::wire::{bool_value, duration, regex, runtime_fraction, u32_value};

/// Forwards to the destinations of `http`.
pub fn forward<'a>(
    context: &Context<'a>,
    http: &'a HttpRoute,
    namespace: &str,
    ops: &mut HeaderOps,
) -> route::RouteAction {
    let chosen = weighted(&http.route);
    let targets: Vec<Target<'_>> = chosen.iter().map(|d| context.target(&d.destination, namespace)).collect();
    let mut action = route::RouteAction {
        hash_policy: targets.iter().filter_map(|t| t.policy().hash_policy()).collect(),
        request_mirror_policies: mirrors(context, http, namespace),
        ..unlimited()
    };
    if let Some(limit) = http.timeout {
        limit_time(&mut action, limit.0, context.grpc);
    }
    let sticky = targets.iter().any(|t| t.policy().is_sticky());
    action.retry_policy = retry_policy(http.retries.as_ref().or(context.view.default_retries()), sticky);
    if let Some(rewrite) = &http.rewrite {
        apply_rewrite(&mut action, rewrite);
    }
    if let (None, Some(host)) = (&action.host_rewrite_specifier, ops.host.take()) {
        action.host_rewrite_specifier = Some(parts::HostRewriteSpecifier::HostRewriteLiteral(host));
    }
    action.cluster_specifier = Some(match (chosen.as_slice(), targets.as_slice()) {
        ([only], [target]) => {
            let own = header_ops(only.headers.as_ref());
            ops.request_add.extend(own.request_add);
            ops.request_remove.extend(own.request_remove);
            ops.response_add.extend(own.response_add);
            ops.response_remove.extend(own.response_remove);
            if let (None, Some(host)) = (&action.host_rewrite_specifier, own.host) {
                action.host_rewrite_specifier = Some(parts::HostRewriteSpecifier::HostRewriteLiteral(host));
            }
            parts::ClusterSpecifier::Cluster(target.cluster())
        }
        _ => parts::ClusterSpecifier::WeightedClusters(route::WeightedCluster {
            clusters: chosen.iter().zip(&targets).map(|(d, target)| cluster_weight(d, target)).collect(),
            ..Default::default()
        }),
    });
    action
}

/// Forwards to one cluster, as Istio does where no VirtualService says anything.
pub fn forward_to(target: &Target<'_>, context: &Context<'_>) -> route::RouteAction {
    let policy = target.policy();
    route::RouteAction {
        cluster_specifier: Some(parts::ClusterSpecifier::Cluster(target.cluster())),
        retry_policy: retry_policy(context.view.default_retries(), policy.is_sticky()),
        hash_policy: policy.hash_policy().into_iter().collect(),
        ..unlimited()
    }
}

/// An action without a limit on time: Envoy's own default of 15 s would be a surprise.
///
/// `max_stream_duration` stays away: its presence, whatever it holds, makes Envoy ignore `timeout`.
pub fn unlimited() -> route::RouteAction {
    route::RouteAction { timeout: Some(duration(std::time::Duration::ZERO)), ..Default::default() }
}

fn limit_time(action: &mut route::RouteAction, limit: std::time::Duration, grpc: bool) {
    let limit = duration(limit);
    action.timeout = Some(limit);
    if grpc {
        // Clients of gRPC read only this one.
        action.max_stream_duration =
            Some(parts::MaxStreamDuration { max_stream_duration: Some(limit), ..Default::default() });
    }
}

/// The destinations that get requests. A single one gets all of them, whatever its weight.
fn weighted(all: &[HttpRouteDestination]) -> Vec<&HttpRouteDestination> {
    match all {
        [only] => vec![only],
        _ => all.iter().filter(|d| d.weight > 0).collect(),
    }
}

fn cluster_weight(from: &HttpRouteDestination, target: &Target<'_>) -> route::weighted_cluster::ClusterWeight {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let HeaderOps { request_add, request_remove, response_add, response_remove, host } =
        header_ops(from.headers.as_ref());
    route::weighted_cluster::ClusterWeight {
        name: target.cluster(),
        weight: u32::try_from(from.weight).ok().and_then(u32_value),
        request_headers_to_add: request_add,
        request_headers_to_remove: request_remove,
        response_headers_to_add: response_add,
        response_headers_to_remove: response_remove,
        host_rewrite_specifier: host.map(HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    }
}

fn mirrors<'a>(context: &Context<'a>, http: &'a HttpRoute, namespace: &str) -> Vec<parts::RequestMirrorPolicy> {
    let mirror = |to: &'a Destination, percent: f64| {
        (percent > 0.0).then(|| parts::RequestMirrorPolicy {
            cluster: context.target(to, namespace).cluster(),
            runtime_fraction: Some(runtime_fraction(percent)),
            trace_sampled: bool_value(false),
            disable_shadow_host_suffix_append: true,
            ..Default::default()
        })
    };
    let single = http.mirror.as_ref().and_then(|to| {
        let percent = http.mirror_percentage.map(|p| p.value).or(http.mirror_percent.map(f64::from));
        mirror(to, percent.unwrap_or(100.0))
    });
    let several = http.mirrors.iter().filter_map(|m| mirror(&m.destination, m.percentage.map_or(100.0, |p| p.value)));
    single.into_iter().chain(several).collect()
}

fn apply_rewrite(action: &mut route::RouteAction, rewrite: &HttpRewrite) {
    if let Some(by_regex) = &rewrite.uri_regex_rewrite {
        action.regex_rewrite = Some(matcher::RegexMatchAndSubstitute {
            pattern: Some(regex(&by_regex.pattern)),
            substitution: by_regex.rewrite.clone(),
        });
    } else {
        // Where the match was not by prefix, Envoy puts this in the place of the whole path, which is what Istio means.
        action.prefix_rewrite.clone_from(&rewrite.uri);
    }
    if !rewrite.authority.is_empty() {
        action.host_rewrite_specifier =
            Some(parts::HostRewriteSpecifier::HostRewriteLiteral(rewrite.authority.clone()));
    }
}

/// Answers with a redirect. `port` is the listener's.
pub fn redirect(from: &HttpRedirect, port: u16) -> route::RedirectAction {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let derived = (from.derive_port == Some(DerivePort::FromRequestPort)).then_some(port).filter(|port| {
        // The scheme says these already.
        !matches!((port, from.scheme.as_str()), (80, "" | "http") | (443, "" | "https"))
    });
    route::RedirectAction {
        host_redirect: from.authority.clone(),
        port_redirect: from.port.or(derived).map_or(0, u32::from),
        response_code: match from.redirect_code {
            Some(302) => RedirectResponseCode::Found,
            Some(303) => RedirectResponseCode::SeeOther,
            Some(307) => RedirectResponseCode::TemporaryRedirect,
            Some(308) => RedirectResponseCode::PermanentRedirect,
            _ => RedirectResponseCode::MovedPermanently,
        } as i32,
        scheme_rewrite_specifier: (!from.scheme.is_empty())
            .then(|| SchemeRewriteSpecifier::SchemeRedirect(from.scheme.clone())),
        path_rewrite_specifier: if !from.prefix_rewrite.is_empty() {
            Some(PathRewriteSpecifier::PrefixRewrite(from.prefix_rewrite.clone()))
        } else if !from.uri.is_empty() {
            Some(PathRewriteSpecifier::PathRedirect(from.uri.clone()))
        } else {
            None
        },
        ..Default::default()
    }
}

/// Answers in place.
pub fn direct_response(from: &HttpDirectResponse) -> route::DirectResponseAction {
    route::DirectResponseAction {
        status: from.status,
        body: from.body.as_ref().map(|body| match body {
            HttpBody::String(text) => inline(text.clone()),
            HttpBody::Bytes(bytes) => core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineBytes(bytes.clone())),
                ..Default::default()
            },
        }),
        body_format: None,
    }
}
