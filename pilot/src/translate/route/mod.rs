//! HTTP routes: from VirtualServices, and from services that none speaks about.

mod actions;
mod fault;
mod headers;
mod matchers;
mod retry;

use std::borrow::Cow;
use std::collections::HashMap;

use xebec_galley::spec::{Destination, HttpMatchRequest, HttpRoute, LabelMap};
use xebec_proto::envoy::config::route::v3 as route;

pub use actions::{direct_response, unlimited};
pub use matchers::{everything, is_catch_all, is_claim};

use super::policy::Policy;
use super::wire::{any, bool_value, istio_metadata, text};
use super::{View, filters, names};
use crate::mesh::rules::{gateway_reference, selects};
use crate::mesh::{MeshDestinationRule, MeshService, MeshVirtualService};
use crate::model::{Distribution, Port};

/// Who routes: which proxy, as which gateway, on which port.
#[derive(Clone)]
pub struct Context<'a> {
    /// What the proxy sees.
    pub view: View<'a>,
    /// `mesh`, or `namespace/name` of a Gateway.
    pub gateway: Cow<'a, str>,
    /// The port that is listened on: matched against, and the destination's where neither rule nor service says one.
    pub port: u16,
    /// The client is a gRPC library and not a proxy.
    pub grpc: bool,
}

/// Where a request goes.
pub struct Target<'a> {
    /// The destination's full name, known or not.
    pub host: Cow<'a, str>,
    /// The subset; empty is all of the service.
    pub subset: &'a str,
    /// The service's port.
    pub port: u16,
    /// The DestinationRule that holds for it.
    pub rule: Option<&'a MeshDestinationRule>,
    /// What its platform says about spreading traffic.
    pub distribution: Distribution,
}

/// Translates the HTTP routes of a VirtualService. Empty when none applies to this proxy on this port.
pub fn of_rule(context: &Context<'_>, rule: &MeshVirtualService) -> Vec<route::Route> {
    let mut routes = Vec::new();
    for http in &rule.resource.spec.http {
        if http.delegate.is_some() {
            continue;
        }
        if http.matches.is_empty() {
            routes.push(translate(context, rule, http, None));
            // Whatever follows is never reached.
            return routes;
        }
        for condition in &http.matches {
            if !context.applies(condition, rule) {
                continue;
            }
            let made = translate(context, rule, http, Some(condition));
            let last = made.r#match.as_ref().is_some_and(is_catch_all);
            routes.push(made);
            if last {
                return routes;
            }
        }
    }
    routes
}

/// Sends everything to a service's port, as Istio does where no VirtualService says anything.
pub fn to_service(context: &Context<'_>, service: &MeshService, port: &Port) -> route::Route {
    let target = Target {
        host: Cow::Borrowed(service.host()),
        subset: "",
        port: port.number,
        rule: context.view.rule_of(service),
        distribution: service.service.distribution,
    };
    route::Route {
        name: "default".to_owned(),
        r#match: Some(everything()),
        decorator: Some(decorator(&target.host, target.port, "/*")),
        action: Some(route::route::Action::Route(actions::forward_to(&target, context))),
        ..Default::default()
    }
}

/// Sends everything to one cluster, without retries.
pub fn to_cluster(name: &str, cluster: &str) -> route::Route {
    route::Route {
        name: name.to_owned(),
        r#match: Some(everything()),
        action: Some(route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
            ..unlimited()
        })),
        ..Default::default()
    }
}

/// Answers everything with a status and no body.
pub fn answer(name: &str, status: u32) -> route::Route {
    route::Route {
        name: name.to_owned(),
        r#match: Some(everything()),
        action: Some(route::route::Action::DirectResponse(route::DirectResponseAction {
            status,
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn translate(
    context: &Context<'_>,
    rule: &MeshVirtualService,
    http: &HttpRoute,
    condition: Option<&HttpMatchRequest>,
) -> route::Route {
    use route::route::Action;
    let key = &rule.resource.meta.key;
    let mut ops = headers::header_ops(http.headers.as_ref());
    let mut operation = None;
    let action = if let Some(redirect) = &http.redirect {
        Action::Redirect(actions::redirect(redirect, context.port))
    } else if let Some(response) = &http.direct_response {
        Action::DirectResponse(direct_response(response))
    } else {
        if let Some(first) = http.route.first() {
            let target = context.target(&first.destination, &key.namespace);
            operation = Some(decorator(&target.host, target.port, "/*"));
        }
        Action::Route(actions::forward(context, http, &key.namespace, &mut ops))
    };
    let mut per_filter = HashMap::new();
    if let Some(fault) = http.fault.as_ref().and_then(fault::http_fault) {
        per_filter.insert(filters::FAULT.to_owned(), any(&fault));
    }
    if let Some(cors) = &http.cors_policy {
        per_filter.insert(filters::CORS.to_owned(), any(&fault::cors_policy(cors)));
    }
    let config = names::config_path("virtual-service", &key.namespace, &key.name);
    route::Route {
        name: route_name(http, condition),
        r#match: Some(matchers::route_match(condition)),
        metadata: Some(istio_metadata([("config", text(config))])),
        decorator: operation,
        typed_per_filter_config: per_filter,
        request_headers_to_add: ops.request_add,
        request_headers_to_remove: ops.request_remove,
        response_headers_to_add: ops.response_add,
        response_headers_to_remove: ops.response_remove,
        stat_prefix: condition.map(|c| c.stat_prefix.clone()).unwrap_or_default(),
        action: Some(action),
        ..Default::default()
    }
}

fn route_name(http: &HttpRoute, condition: Option<&HttpMatchRequest>) -> String {
    match condition {
        Some(condition) if !condition.name.is_empty() && !http.name.is_empty() => {
            format!("{}.{}", http.name, condition.name)
        }
        Some(condition) if http.name.is_empty() => condition.name.clone(),
        _ => http.name.clone(),
    }
}

fn decorator(host: &str, port: u16, path: &str) -> route::Decorator {
    route::Decorator { operation: format!("{host}:{port}{path}"), propagate: bool_value(true) }
}

// === impl Context ===

impl<'a> Context<'a> {
    /// Whether a condition can hold at all for this proxy, as this gateway, on this port: what Envoy is not asked.
    fn applies(&self, condition: &HttpMatchRequest, rule: &MeshVirtualService) -> bool {
        condition.port.is_none_or(|port| port == self.port)
            && self.source_fits(
                &condition.gateways,
                &condition.source_labels,
                &condition.source_namespace,
                rule.namespace(),
            )
    }

    /// Whether a condition of a rule in namespace `own` is about this client. Where gateways are named they alone decide, and the
    /// labels and namespace of the caller are not looked at.
    pub fn source_fits(&self, gateways: &[String], labels: &LabelMap, namespace: &str, own: &str) -> bool {
        if !gateways.is_empty() {
            return gateways.iter().any(|written| *gateway_reference(written, own) == *self.gateway);
        }
        selects(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())), self.view.labels())
            && (namespace.is_empty() || namespace == self.view.namespace())
    }

    /// Resolves a destination that a rule in `namespace` writes.
    pub fn target(&self, to: &'a Destination, namespace: &str) -> Target<'a> {
        let (host, service) = self.view.destination(&to.host, namespace);
        let port = match (&to.port, service.map(|s| s.service.ports.as_slice())) {
            (Some(port), _) => port.number,
            (None, Some([only])) => only.number,
            _ => self.port,
        };
        let rule = service.and_then(|s| self.view.rule_of(s));
        let distribution = service.map(|s| s.service.distribution).unwrap_or_default();
        Target { host, subset: &to.subset, port, rule, distribution }
    }
}

// === impl Target ===

impl<'a> Target<'a> {
    /// The cluster's name, whether it exists or not: Envoy answers 503 for one that does not.
    pub fn cluster(&self) -> String {
        names::outbound_cluster(self.port, self.subset, &self.host)
    }

    /// The traffic policy that holds for it.
    pub fn policy(&self) -> Policy<'a> {
        let rule = self.rule.map(|r| &r.spec);
        let subset = rule.and_then(|r| r.subsets.iter().find(|s| s.name == self.subset));
        Policy::of(rule, subset, self.port).on(&self.distribution)
    }
}
