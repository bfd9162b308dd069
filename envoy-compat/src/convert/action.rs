//! Forwarding: where requests go, and how they change on the way.

use std::sync::Arc;
use std::time::Duration;

use xebec_proto::envoy::config::core::v3::RoutingPriority;
use xebec_proto::envoy::config::route::v3::{
    self as route,
    route_action::{
        self, ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, hash_policy::PolicySpecifier,
    },
    weighted_cluster,
};

use super::matcher::{self, REQUEST, RESPONSE};
use super::place::{Outcome, Place, ignored, inert, refused};
use super::route::ROUTE_TIMEOUT;
use super::{filter, value};
use crate::model::{
    Forward, Fraction, HashKey, HashPolicy, HeaderKey, HostRewrite, Mirror, PathRewrite, RetryOn, RetryPolicy,
    RouteAction, Target, VirtualHost, WeightedCluster,
};

/// Every cluster that the routes of a host may send to, without repetition.
pub(super) fn clusters_of(host: &VirtualHost) -> Vec<Arc<str>> {
    let mut out = Vec::new();
    for route in host.routes() {
        let RouteAction::Forward(forward) = &route.action else { continue };
        match &forward.target {
            Target::Cluster(name) => out.push(name.clone()),
            Target::Weighted { clusters, total: _ } => out.extend(clusters.iter().map(|choice| choice.cluster.clone())),
        }
        out.extend(forward.mirrors.iter().map(|mirror| mirror.cluster.clone()));
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// A route to an upstream.
pub(super) fn forward(at: Place<'_>, value: &route::RouteAction) -> Outcome<Forward> {
    let route::RouteAction {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = value;
    refused!(at, "requests would get another path"; path_rewrite_policy);
    ignored!(at; metadata_match, idle_timeout, flush_timeout, early_data_policy, retry_policy_typed_config, rate_limits,
        include_vh_rate_limits, cors, grpc_timeout_offset, internal_redirect_policy, internal_redirect_action,
        max_internal_redirects, hedge_policy);
    if *priority != RoutingPriority::Default as i32 {
        at.field("priority").ignored("all requests have default priority");
    }
    let mut out = Forward::new(target(at, cluster_specifier.as_ref())?);
    out.cluster_not_found = match ClusterNotFoundResponseCode::try_from(*cluster_not_found_response_code) {
        Ok(ClusterNotFoundResponseCode::NotFound) => 404,
        Ok(ClusterNotFoundResponseCode::InternalServerError) => 500,
        _ => 503,
    };
    out.timeout = value::timeout(at.field("timeout"), timeout.as_ref(), Some(ROUTE_TIMEOUT))?;
    out.grpc_timeout_max = value::duration(at.field("max_grpc_timeout"), max_grpc_timeout.as_ref())?;
    if let Some(limits) = max_stream_duration {
        let at = at.field("max_stream_duration");
        let route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            grpc_timeout_header_offset,
        } = limits;
        ignored!(at; grpc_timeout_header_offset);
        if let Some(limit) = value::duration(at.field("grpc_timeout_header_max"), grpc_timeout_header_max.as_ref())? {
            out.grpc_timeout_max = Some(limit);
        }
        // Bounds the whole stream, and so the response; the shorter of both wins.
        let longest = value::timeout(at.field("max_stream_duration"), max_stream_duration.as_ref(), None)?;
        out.timeout = match (out.timeout, longest) {
            (Some(timeout), Some(longest)) => Some(timeout.min(longest)),
            (timeout, longest) => timeout.or(longest),
        };
    }
    out.retry =
        retry_policy.as_ref().map(|policy| retry(at.field("retry_policy"), policy).map(Arc::new)).transpose()?;
    out.path_rewrite = if let Some(rewrite) = regex_rewrite {
        let (pattern, substitution) = matcher::substitution(at.field("regex_rewrite"), rewrite)?;
        Some(PathRewrite::regex(pattern, substitution))
    } else if !prefix_rewrite.is_empty() {
        Some(PathRewrite::Prefix(prefix_rewrite.as_str().into()))
    } else if !path_rewrite.is_empty() {
        Some(plain_path(at.field("path_rewrite"), path_rewrite)?)
    } else {
        None
    };
    out.host_rewrite = host_rewrite(at, host_rewrite_specifier.as_ref())?;
    out.append_x_forwarded_host = *append_x_forwarded_host;
    out.hash = at.field("hash_policy").each(hash_policy, hash)?.into_iter().flatten().collect();
    out.mirrors = at.field("request_mirror_policies").each(request_mirror_policies, mirror)?;
    out.upgrades = at.field("upgrade_configs").each(upgrade_configs, |at, upgrade| {
        let route_action::UpgradeConfig { upgrade_type, enabled, connect_config } = upgrade;
        if connect_config.is_some() {
            return Err(at.field("connect_config").refuse("terminating CONNECT is not supported"));
        }
        Ok((upgrade_type.to_ascii_lowercase().into(), value::switch(enabled.as_ref(), true)))
    })?;
    Ok(out)
}

/// A path that is written as it is; operators are not supported.
pub(super) fn plain_path(at: Place<'_>, path: &str) -> Outcome<PathRewrite> {
    if path.contains('%') {
        return Err(at.refuse("operators in a path are not supported"));
    }
    Ok(PathRewrite::Full(path.into()))
}

fn target(at: Place<'_>, value: Option<&ClusterSpecifier>) -> Outcome<Target> {
    match value {
        Some(ClusterSpecifier::Cluster(name)) if !name.is_empty() => Ok(Target::Cluster(name.as_str().into())),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => self::weighted(at.field("weighted_clusters"), weighted),
        Some(ClusterSpecifier::ClusterHeader(_)) => {
            Err(at.field("cluster_header").refuse("choosing the cluster by a header is not supported"))
        }
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            Err(at.field("cluster_specifier_plugin").refuse("plugins are not supported"))
        }
        Some(ClusterSpecifier::Cluster(_)) | None => Err(at.field("cluster").refuse("a cluster is required")),
    }
}

fn weighted(at: Place<'_>, value: &route::WeightedCluster) -> Outcome<Target> {
    let route::WeightedCluster { clusters, total_weight, runtime_key_prefix, random_value_specifier } = value;
    ignored!(at; runtime_key_prefix, random_value_specifier);
    inert!(total_weight);
    let choices = at.field("clusters").each(clusters, |at, choice| {
        let weighted_cluster::ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = choice;
        refused!(at, "choosing the cluster by a header is not supported"; cluster_header);
        ignored!(at; metadata_match);
        if name.is_empty() {
            return Err(at.field("name").refuse("a cluster is required"));
        }
        let mut out = WeightedCluster::new(name, value::number(weight.as_ref()).unwrap_or(0));
        out.request_headers = matcher::header_ops(at, REQUEST, request_headers_to_add, request_headers_to_remove)?;
        out.response_headers = matcher::header_ops(at, RESPONSE, response_headers_to_add, response_headers_to_remove)?;
        out.per_route = filter::per_route(at, typed_per_filter_config)?;
        out.host_rewrite = host_rewrite_specifier.as_ref().map(|specifier| match specifier {
            weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host) => {
                HostRewrite::Literal(host.as_str().into())
            }
        });
        Ok(out)
    })?;
    let total: u64 = choices.iter().map(|choice| u64::from(choice.weight)).sum();
    if total == 0 || total > u64::from(u32::MAX) {
        return Err(at.field("clusters").refuse("the sum of the weights has to be between 1 and 4294967295"));
    }
    Ok(Target::weighted(choices))
}

fn host_rewrite(at: Place<'_>, value: Option<&HostRewriteSpecifier>) -> Outcome<Option<HostRewrite>> {
    Ok(match value {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(HostRewrite::Literal(host.as_str().into())),
        Some(HostRewriteSpecifier::AutoHostRewrite(on)) => on.value.then_some(HostRewrite::Auto),
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
            let at = at.field("host_rewrite_header");
            Some(HostRewrite::Header(HeaderKey::parse(name).map_err(|_| at.refuse("not a header"))?))
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => {
            return Err(at.field("host_rewrite_path_regex").refuse("the authority would be another one"));
        }
        Some(HostRewriteSpecifier::HostRewrite(text)) => {
            if text.contains('%') {
                return Err(at.field("host_rewrite").refuse("operators in a host are not supported"));
            }
            Some(HostRewrite::Literal(text.as_str().into()))
        }
    })
}

fn hash(at: Place<'_>, value: &route_action::HashPolicy) -> Outcome<Option<HashPolicy>> {
    let route_action::HashPolicy { terminal, policy_specifier } = value;
    let key = match policy_specifier {
        Some(PolicySpecifier::Header(route_action::hash_policy::Header { header_name, regex_rewrite })) => {
            let at = at.field("header");
            ignored!(at; regex_rewrite);
            let key = HeaderKey::parse(header_name).map_err(|_| at.field("header_name").refuse("not a header"))?;
            HashKey::Header(key)
        }
        Some(PolicySpecifier::Cookie(route_action::hash_policy::Cookie { name, ttl, path, attributes })) => {
            let at = at.field("cookie");
            ignored!(at; attributes);
            let ttl = value::duration(at.field("ttl"), ttl.as_ref())?;
            HashKey::Cookie { name: name.as_str().into(), path: path.as_str().into(), ttl }
        }
        Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => HashKey::SourceIp,
        Some(PolicySpecifier::QueryParameter(parameter)) => HashKey::Query(parameter.name.as_str().into()),
        Some(PolicySpecifier::FilterState(_) | PolicySpecifier::ConnectionProperties(_)) | None => {
            at.ignored("");
            return Ok(None);
        }
    };
    Ok(Some(HashPolicy { key, terminal: *terminal }))
}

/// A copy of requests to another cluster.
pub(super) fn mirror(at: Place<'_>, value: &route_action::RequestMirrorPolicy) -> Outcome<Mirror> {
    let route_action::RequestMirrorPolicy {
        cluster,
        cluster_header,
        runtime_fraction,
        trace_sampled,
        disable_shadow_host_suffix_append,
        request_headers_mutations,
        host_rewrite_literal,
    } = value;
    refused!(at, "choosing the cluster by a header is not supported"; cluster_header);
    ignored!(at; disable_shadow_host_suffix_append, request_headers_mutations, host_rewrite_literal);
    inert!(trace_sampled);
    if cluster.is_empty() {
        return Err(at.field("cluster").refuse("a cluster is required"));
    }
    let share = match runtime_fraction {
        Some(share) => value::runtime_fraction(at.field("runtime_fraction"), share)?,
        None => Fraction::ALL,
    };
    Ok(Mirror { cluster: cluster.as_str().into(), share })
}

/// When and how often to try again.
pub(super) fn retry(at: Place<'_>, value: &route::RetryPolicy) -> Outcome<RetryPolicy> {
    let route::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = value;
    ignored!(at; per_try_idle_timeout, retry_priority, retry_options_predicates, rate_limited_retry_back_off,
        refresh_cluster_on_retry);
    refused!(at, "requests would be repeated that must not be"; retriable_request_headers);
    let (on, unknown) = RetryOn::parse(retry_on);
    if !unknown.is_empty() {
        at.field("retry_on").ignored("a condition is not known");
    }
    let mut avoid_previous_hosts = false;
    let predicates = at.field("retry_host_predicate");
    for (index, predicate) in retry_host_predicate.iter().enumerate() {
        if predicate.name == "envoy.retry_host_predicates.previous_hosts" {
            avoid_previous_hosts = true;
        } else {
            predicates.index(index).ignored("");
        }
    }
    let mut base_interval = Duration::from_millis(25);
    let mut longest = None;
    if let Some(route::retry_policy::RetryBackOff { base_interval: base, max_interval }) = retry_back_off {
        let at = at.field("retry_back_off");
        let base = value::duration(at.field("base_interval"), base.as_ref())?.filter(|base| !base.is_zero());
        base_interval = base.ok_or_else(|| at.field("base_interval").refuse("more than zero"))?;
        longest = value::duration(at.field("max_interval"), max_interval.as_ref())?;
        if longest.is_some_and(|longest| longest < base_interval) {
            return Err(at.field("max_interval").refuse("not less than base_interval"));
        }
    }
    let status_codes = at
        .field("retriable_status_codes")
        .each(retriable_status_codes, |at, code| u16::try_from(*code).map_err(|_| at.refuse("not a status")))?;
    Ok(RetryPolicy {
        on,
        retries: value::number(num_retries.as_ref()).unwrap_or(1),
        per_try_timeout: value::timeout(at.field("per_try_timeout"), per_try_timeout.as_ref(), None)?,
        status_codes,
        response_headers: at.field("retriable_headers").each(retriable_headers, matcher::header)?,
        base_interval,
        max_interval: longest.unwrap_or(base_interval.saturating_mul(10)),
        avoid_previous_hosts,
        host_attempts: u32::try_from(*host_selection_retry_max_attempts).unwrap_or(1).max(1),
    })
}
