//! Backend references: which destination they mean, whether they may, and what becomes of requests for those that mean none.

use std::collections::BTreeSet;

use xebec_galley::spec::{
    Destination, HttpMirrorPolicy, HttpRoute, HttpRouteDestination, Percent, PortSelector, RouteDestination,
};
use xebec_galley::validate::is_dns_name;

use crate::facts::Facts;
use crate::grant::{Grants, KindName};
use crate::model::{BackendRef, Route, RuleFault};
use crate::object::{GROUP, ObjectKind};
use crate::rule::{answering, failing, forwarded};
use crate::status::reason;

/// Names a host of the mesh as it is, Consul's and Nomad's too: `group: networking.istio.io`, `kind: Hostname`.
const HOSTNAME: (&str, &str) = ("networking.istio.io", "Hostname");

/// A destination that never exists (RFC 2606, section 2): connections to it are refused.
const NOWHERE: &str = "backend.invalid";

/// What conversion knows beside the objects.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    pub facts: &'a dyn Facts,
    pub grants: &'a Grants,
    /// The cluster's domain.
    pub domain: &'a str,
}

/// Why a reference does not count.
#[derive(Debug, Clone, PartialEq)]
pub struct RefFault {
    pub reason: &'static str,
    pub message: String,
}

/// A route with its references resolved.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resolved {
    /// One per rule, without matches; for HTTP and gRPC.
    pub http: Vec<HttpRoute>,
    /// One per rule; for TLS and TCP.
    pub opaque: Vec<Vec<RouteDestination>>,
    /// The first reference that does not count.
    pub fault: Option<RefFault>,
    /// The rules that cannot be done.
    pub faulty_rules: Vec<(usize, RuleFault)>,
    /// The Services that it sends requests to: namespace and name.
    pub services: BTreeSet<(String, String)>,
}

impl Resolved {
    /// Resolves everything that a route refers to.
    pub fn new(route: &Route, around: Surroundings<'_>) -> Self {
        let mut resolved = Self::default();
        match route.id.key.kind {
            ObjectKind::HttpRoute | ObjectKind::GrpcRoute => resolved.http_rules(route, around),
            _ => resolved.opaque_rules(route, around),
        }
        resolved
    }

    fn note(&mut self, fault: RefFault) {
        self.fault.get_or_insert(fault);
    }

    fn http_rules(&mut self, route: &Route, around: Surroundings<'_>) {
        let grpc = route.id.key.kind == ObjectKind::GrpcRoute;
        // Envoy tells a gRPC client 503 as UNAVAILABLE.
        let error = if grpc { 503 } else { 500 };
        for (index, rule) in route.rules.iter().enumerate() {
            let name = format!("{}.{}.{index}", route.id.key.namespace, route.id.key.name);
            let named = |made: HttpRoute| HttpRoute { name: name.clone(), ..made };
            if let Some(kind) = &rule.unknown_filter {
                let message = format!("rules[{index}] has a filter of kind {kind}, which is not known");
                self.note(RefFault { reason: reason::INVALID_KIND, message });
            }
            if let Some(fault) = &rule.fault {
                self.faulty_rules.push((index, fault.clone()));
            }
            let mut good: Vec<HttpRouteDestination> = Vec::new();
            let (mut sound, mut lost) = (0u64, 0u64);
            for backend in &rule.backends {
                // Kubernetes' default, and its limit.
                let weight = backend.weight.unwrap_or(1).clamp(0, 1_000_000);
                let share = u64::from(weight.unsigned_abs());
                match self.backend(backend, route, around) {
                    Ok(destination) if weight > 0 => {
                        sound += share;
                        good.push(HttpRouteDestination { destination, weight, headers: backend.headers.clone() });
                    }
                    Ok(_) => {}
                    Err(fault) => {
                        lost += share;
                        self.note(fault);
                    }
                }
            }
            let mirrors: Vec<HttpMirrorPolicy> = rule
                .mirrors
                .iter()
                .filter_map(|mirror| match self.backend(&mirror.to, route, around) {
                    Ok(destination) => Some(HttpMirrorPolicy {
                        destination,
                        percentage: mirror.percent.map(|value| Percent { value }),
                    }),
                    Err(fault) => {
                        self.note(fault);
                        None
                    }
                })
                .collect();
            if rule.fault.is_some() || rule.unknown_filter.is_some() {
                self.http.push(named(answering(error)));
                continue;
            }
            if rule.redirect.is_none() && good.is_empty() {
                self.http.push(named(answering(error)));
                continue;
            }
            let mut made = forwarded(rule, good);
            if rule.redirect.is_none() {
                made.mirrors = mirrors;
                if lost > 0 {
                    #[allow(clippy::cast_precision_loss, reason = "weights are at most a million each")]
                    let percent = lost as f64 * 100.0 / (lost + sound) as f64;
                    made.fault = Some(failing(percent, grpc));
                }
            }
            self.http.push(named(made));
        }
    }

    fn opaque_rules(&mut self, route: &Route, around: Surroundings<'_>) {
        for rule in &route.rules {
            let mut targets: Vec<RouteDestination> = Vec::new();
            for backend in &rule.backends {
                let weight = backend.weight.unwrap_or(1).clamp(0, 1_000_000);
                let destination = match self.backend(backend, route, around) {
                    Ok(destination) => destination,
                    Err(fault) => {
                        self.note(fault);
                        nowhere()
                    }
                };
                if weight > 0 {
                    targets.push(RouteDestination { destination, weight });
                }
            }
            if targets.is_empty() {
                targets.push(RouteDestination { destination: nowhere(), weight: 1 });
            }
            self.opaque.push(targets);
        }
    }

    fn backend(&mut self, to: &BackendRef, from: &Route, around: Surroundings<'_>) -> Result<Destination, RefFault> {
        let group = to.group.as_deref().unwrap_or_default();
        let kind = to.kind.as_deref().unwrap_or("Service");
        let own = &from.id.key.namespace;
        let namespace = to.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(own);
        let port = to.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        if (group, kind) == HOSTNAME {
            if to.namespace.is_some() || !is_dns_name(&to.name) {
                let message = format!("`{}` is not a hostname, or has a namespace, which hostnames have not", to.name);
                return Err(RefFault { reason: reason::BACKEND_NOT_FOUND, message });
            }
            return Ok(Destination {
                host: to.name.to_ascii_lowercase(),
                subset: String::new(),
                port: port.map(|number| PortSelector { number }),
            });
        }
        if (group, kind) != ("", "Service") {
            let message = format!("backends of kind {group}/{kind} are not known");
            return Err(RefFault { reason: reason::INVALID_KIND, message });
        }
        let referrer = KindName::new(GROUP, from.id.key.kind.as_str());
        if !around.grants.allow(&referrer, own, &KindName::new("", "Service"), namespace, &to.name) {
            let message = format!(
                "the namespace {namespace} has no ReferenceGrant that lets a {} of {own} refer to its Service {}",
                referrer.kind, to.name
            );
            return Err(RefFault { reason: reason::REF_NOT_PERMITTED, message });
        }
        let lacking = |message: String| RefFault { reason: reason::BACKEND_NOT_FOUND, message };
        let Some(port) = port else {
            return Err(lacking(format!("the reference to Service {namespace}/{} has no port", to.name)));
        };
        let host = service_host(namespace, &to.name, around.domain);
        let service = around.facts.service(namespace, &to.name).filter(|_| is_dns_name(&host));
        match service {
            None => Err(lacking(format!("there is no Service {namespace}/{}", to.name))),
            Some(service) if !service.has(port) => {
                Err(lacking(format!("the Service {namespace}/{} has no port {port}", to.name)))
            }
            Some(_) => {
                self.services.insert((namespace.to_owned(), to.name.clone()));
                Ok(Destination { host, subset: String::new(), port: Some(PortSelector { number: port }) })
            }
        }
    }
}

/// The full name of a Service.
pub fn service_host(namespace: &str, name: &str, domain: &str) -> String {
    format!("{name}.{namespace}.svc.{domain}")
}

fn nowhere() -> Destination {
    Destination { host: NOWHERE.to_owned(), subset: String::new(), port: Some(PortSelector { number: 1 }) }
}
