//! Attaching routes: to the listeners of Gateways, and to Services for the clients of the mesh.

use std::collections::{BTreeMap, BTreeSet};

use xebec_galley::spec::{L4MatchAttributes, TcpRoute, TlsMatchAttributes, TlsRoute};

use crate::backend::{RefFault as Fault, Resolved, Surroundings, service_host};
use crate::listener::{GatewayState, ListenerState, Serving};
use crate::model::{Gateway, ParentRef, Route};
use crate::object::{GROUP, ObjectKind};
use crate::rule::{Rank, Scheme, expand};
use crate::status::{Condition, ParentStatus, reason};
use crate::vs::{MESH, Origin, Place, Pool, resource_name};

/// All Gateways of ours, by namespace and name.
pub type Gateways<'a> = BTreeMap<(String, String), GatewayState<'a>>;

/// The Gateway of each ListenerSet of ours.
pub type SetParents = BTreeMap<(String, String), (String, String)>;

/// Which Gateways send requests to a Service.
pub type Reached = BTreeMap<(String, String), BTreeSet<(String, String)>>;

/// What routes attach to, and what comes of it.
pub struct Attaching<'a, 'f> {
    pub around: Surroundings<'f>,
    pub gateways: Gateways<'a>,
    pub sets: SetParents,
    pub pool: Pool,
    pub reached: Reached,
}

impl Attaching<'_, '_> {
    /// Attaches a route to all its parents of ours. Routes must come in order of age.
    pub fn route(&mut self, route: &Route, order: usize) -> Vec<ParentStatus> {
        let resolved = Resolved::new(route, self.around);
        let all_faulty = !route.rules.is_empty() && resolved.faulty_rules.len() == route.rules.len();
        let mut statuses: Vec<ParentStatus> = Vec::new();
        for parent in &route.parents {
            if statuses.iter().any(|status| status.parent == *parent) {
                continue;
            }
            let outcome = match all_faulty.then(|| resolved.faulty_rules.first()).flatten() {
                // Whether the parent is ours is asked all the same.
                Some((_, cause)) if self.knows(route, parent) => Some(Err(Fault {
                    reason: cause.reason,
                    message: format!("no rule can be done: {}", cause.message),
                })),
                Some(_) => None,
                None => self.attach_to_parent(route, order, parent, &resolved),
            };
            if let Some(outcome) = outcome {
                statuses
                    .push(ParentStatus { parent: parent.clone(), conditions: conditions(route, &resolved, outcome) });
            }
        }
        statuses
    }

    /// The Gateway that a parent means, as it is written in a namespace.
    fn gateway_of(&self, parent: &ParentRef, own: &str) -> Option<(String, String)> {
        if parent.group.as_deref().unwrap_or(GROUP) != GROUP {
            return None;
        }
        let namespace = parent.namespace.as_deref().unwrap_or(own);
        let key = (namespace.to_owned(), parent.name.clone());
        match parent.kind.as_deref().unwrap_or("Gateway") {
            "Gateway" => self.gateways.contains_key(&key).then_some(key),
            "ListenerSet" => self.sets.get(&key).cloned(),
            _ => None,
        }
    }

    fn is_service(parent: &ParentRef) -> bool {
        parent.group.as_deref() == Some("") && parent.kind.as_deref() == Some("Service")
    }

    fn knows(&self, route: &Route, parent: &ParentRef) -> bool {
        Self::is_service(parent) || self.gateway_of(parent, &route.id.key.namespace).is_some()
    }

    /// `None` when the parent is somebody else's.
    fn attach_to_parent(
        &mut self,
        route: &Route,
        order: usize,
        parent: &ParentRef,
        resolved: &Resolved,
    ) -> Option<Result<(), Fault>> {
        let own = &route.id.key.namespace;
        if Self::is_service(parent) {
            return Some(self.attach_to_service(route, order, parent, resolved));
        }
        let key = self.gateway_of(parent, own)?;
        Some(self.attach_to_gateway(route, order, parent, resolved, &key))
    }

    fn attach_to_gateway(
        &mut self,
        route: &Route,
        order: usize,
        parent: &ParentRef,
        resolved: &Resolved,
        key: &(String, String),
    ) -> Result<(), Fault> {
        let refuse = |reason, message: &str| Err(Fault { reason, message: message.to_owned() });
        let Some(state) = self.gateways.get_mut(key) else {
            return refuse(reason::NO_MATCHING_PARENT, "there is no such Gateway");
        };
        let own = &route.id.key.namespace;
        let is_set = parent.kind.as_deref() == Some("ListenerSet");
        let owner = if is_set { ObjectKind::ListenerSet } else { ObjectKind::Gateway };
        let namespace = parent.namespace.as_deref().unwrap_or(own);
        let meant: Vec<usize> = (0..state.listeners.len())
            .filter(|index| {
                let listener = &state.listeners[*index];
                let of = &listener.owner.key;
                of.kind == owner
                    && of.name == parent.name
                    && of.namespace == namespace
                    && parent.section.as_ref().is_none_or(|section| *section == listener.spec.name)
                    && parent.port.is_none_or(|port| port == listener.spec.port)
                    && listener.is_open()
            })
            .collect();
        if meant.is_empty() {
            return refuse(reason::NO_MATCHING_PARENT, "it has no valid listener of that name and port");
        }
        let admitted: Vec<usize> = meant
            .into_iter()
            .filter(|index| {
                let listener = &state.listeners[*index];
                listener.kinds.contains(&route.id.key.kind) && listener.admits(own, self.around)
            })
            .collect();
        if admitted.is_empty() {
            let message = "the listeners' `allowedRoutes` do not admit this kind of route, or this namespace";
            return refuse(reason::NOT_ALLOWED_BY_LISTENERS, message);
        }
        let hosted: Vec<(usize, Vec<String>)> = admitted
            .into_iter()
            .map(|index| (index, state.hosts_on(index, route)))
            .filter(|(_, hosts)| !hosts.is_empty())
            .collect();
        if hosted.is_empty() {
            let message = "no hostname of the route is one of the listeners'";
            return refuse(reason::NO_MATCHING_LISTENER_HOSTNAME, message);
        }
        let mut attached = false;
        for (index, hosts) in hosted {
            let Some(listener) = state.listeners.get_mut(index) else { continue };
            if !listener.claim(route.id.key.kind, &hosts) {
                continue;
            }
            attached = true;
            listener.attached += 1;
            if listener.is_served() {
                let from = Origin { id: &route.id, order };
                publish(&mut self.pool, listener, state.gateway, from, route, resolved, &hosts);
            }
        }
        if !attached {
            let message = "an older route of the other kind (HTTPRoute, GRPCRoute) has one of the hostnames";
            return refuse(reason::HOSTNAME_CONFLICT, message);
        }
        for service in &resolved.services {
            self.reached.entry(service.clone()).or_default().insert(key.clone());
        }
        Ok(())
    }

    fn attach_to_service(
        &mut self,
        route: &Route,
        order: usize,
        parent: &ParentRef,
        resolved: &Resolved,
    ) -> Result<(), Fault> {
        let refuse = |reason, message: &str| Err(Fault { reason, message: message.to_owned() });
        let key = &route.id.key;
        if key.kind == ObjectKind::TlsRoute {
            return refuse(reason::NOT_ALLOWED_BY_LISTENERS, "a TLSRoute cannot be attached to a Service");
        }
        let namespace = parent.namespace.as_deref().unwrap_or(&key.namespace);
        let Some(service) = self.around.facts.service(namespace, &parent.name) else {
            return refuse(reason::NO_MATCHING_PARENT, "there is no such Service");
        };
        let numbered = parent.port.map(|port| u16::try_from(port).unwrap_or(0));
        let named = parent.section.as_ref().map(|name| service.named(name).unwrap_or(0));
        let port = numbered.or(named);
        let lacks =
            port.is_some_and(|port| !service.has(port)) || (numbered.is_some() && named.is_some() && numbered != named);
        if lacks {
            return refuse(reason::NO_MATCHING_PARENT, "the Service has no such port");
        }
        let place = Place {
            namespace: key.namespace.clone(),
            name: resource_name(&[&parent.name, namespace], false, "xebec-autogenerated-k8s-mesh"),
            gateway: MESH.to_owned(),
            host: service_host(namespace, &parent.name, self.around.domain),
            exported: namespace == key.namespace,
        };
        let from = Origin { id: &route.id, order };
        if key.kind == ObjectKind::TcpRoute {
            for targets in &resolved.opaque {
                let matches: Vec<_> =
                    port.map(|port| L4MatchAttributes { port: Some(port), ..Default::default() }).into_iter().collect();
                self.pool.tcp(place.clone(), from, TcpRoute { matches, route: targets.clone() });
            }
        } else {
            publish_http(&mut self.pool, &place, from, route, resolved, Scheme::Http, port);
        }
        Ok(())
    }
}

fn publish(
    pool: &mut Pool,
    listener: &ListenerState<'_>,
    gateway: &Gateway,
    from: Origin<'_>,
    route: &Route,
    resolved: &Resolved,
    hosts: &[String],
) {
    for host in hosts {
        let place = listener.place(gateway, host);
        match listener.serving {
            Serving::Http | Serving::Https => {
                let scheme = if listener.serving == Serving::Https { Scheme::Https } else { Scheme::Http };
                publish_http(pool, &place, from, route, resolved, scheme, None);
            }
            Serving::PassedThrough => {
                for targets in &resolved.opaque {
                    let on = TlsMatchAttributes { sni_hosts: vec![host.clone()], ..Default::default() };
                    pool.tls(place.clone(), from, TlsRoute { matches: vec![on], route: targets.clone() });
                }
            }
            Serving::Tcp | Serving::Terminated => {
                for targets in &resolved.opaque {
                    pool.tcp(place.clone(), from, TcpRoute { matches: Vec::new(), route: targets.clone() });
                }
            }
            Serving::Nothing => {}
        }
    }
}

fn publish_http(
    pool: &mut Pool,
    place: &Place,
    from: Origin<'_>,
    route: &Route,
    resolved: &Resolved,
    scheme: Scheme,
    port: Option<u16>,
) {
    for (index, (rule, base)) in route.rules.iter().zip(&resolved.http).enumerate() {
        for (number, on) in rule.matches.iter().enumerate() {
            let routes = expand(base, rule, on, scheme, port);
            pool.http(place.clone(), from, index, number, Rank::of(on), routes);
        }
    }
}

fn conditions(route: &Route, resolved: &Resolved, outcome: Result<(), Fault>) -> Vec<Condition> {
    let generation = route.id.generation;
    let accepted = outcome.is_ok();
    let mut conditions = Vec::new();
    conditions.push(match outcome {
        Ok(()) if route.without_effect.is_empty() => {
            Condition::new("Accepted", true, reason::ACCEPTED, "the route is in effect", generation)
        }
        Ok(()) => {
            let message = format!("the route is in effect, except for {}", route.without_effect.join(", "));
            Condition::new("Accepted", true, reason::ACCEPTED, message, generation)
        }
        Err(Fault { reason, message }) => Condition::new("Accepted", false, reason, message, generation),
    });
    conditions.push(match &resolved.fault {
        None => Condition::new("ResolvedRefs", true, reason::RESOLVED_REFS, "all references are resolved", generation),
        Some(Fault { reason, message }) => Condition::new("ResolvedRefs", false, reason, message.clone(), generation),
    });
    if accepted && let Some((_, first)) = resolved.faulty_rules.first() {
        let rules: Vec<String> = resolved.faulty_rules.iter().map(|(index, _)| format!("rules[{index}]")).collect();
        let message =
            format!("Dropped Rule: {}, whose requests are answered with an error: {}", rules.join(", "), first.message);
        conditions.push(Condition::new("PartiallyInvalid", true, first.reason, message, generation));
    }
    conditions
}
