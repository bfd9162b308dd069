//! The converter: the store of objects, and the one pass over them.

use std::collections::BTreeMap;

use xebec_galley::Config;

use crate::attach::{Attaching, Gateways, Reached, SetParents};
use crate::backend::Surroundings;
use crate::facts::{Carrier, Facts};
use crate::grant::{Grant, Grants};
use crate::ingress::{self, Classes};
use crate::listener::{GatewayState, ListenerState, SetState};
use crate::model::{
    Gateway, GatewayClass, Identity, Ingress, IngressClass, ListenerSet, Match, PathMatch, Route, Rule, TlsPolicy,
};
use crate::object::{Error, GROUP, Object, ObjectKey, ObjectKind};
use crate::policy;
use crate::read;
use crate::rule::{Rank, Scheme, answering, expand};
use crate::status::{Condition, ListenerStatus, ObjectStatus, Status, reason};
use crate::vs::{Origin, Pool};
use crate::{GATEWAY_CONTROLLER, GATEWAY_NAME_LABEL};

/// The Gateway API's own names of what is supported, sorted. TLS that ends at the gateway is not among them.
const FEATURES: [&str; 27] = [
    "GRPCRoute",
    "Gateway",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "Mesh",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
];

/// The newest minor version of the Gateway API's definitions that is known.
const NEWEST_MINOR: u32 = 5;

/// What an operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The cluster's domain, `cluster.local` unless said otherwise.
    pub domain: String,
    /// The namespace of what is generated for Ingresses, `istio-system` unless said otherwise.
    pub ingress_namespace: String,
}

/// What the objects amount to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// Istio's resources, by kind, namespace and name.
    pub configs: Vec<Config>,
    /// The statuses of all objects of ours that have one, by kind, namespace and name.
    pub statuses: Vec<ObjectStatus>,
    /// What no status can say: Ingress has no conditions.
    pub notes: Vec<Note>,
}

/// Something about an object that its owner should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// The object.
    pub key: ObjectKey,
    /// One sentence.
    pub message: String,
}

/// The objects, and what they amount to.
///
/// ```
/// use std::collections::BTreeMap;
/// use xebec_gateway_api::{Converter, Facts, Object, ObjectKind, ServicePorts, Settings};
///
/// struct Nothing;
/// impl Facts for Nothing {
///     fn service(&self, _: &str, _: &str) -> Option<ServicePorts> { None }
///     fn namespace_labels(&self, _: &str) -> Option<BTreeMap<String, String>> { None }
///     fn secret_exists(&self, _: &str, _: &str) -> bool { false }
/// }
///
/// let class = serde_json::json!({
///     "metadata": { "name": "xebec" },
///     "spec": { "controllerName": "xebec.io/gateway-controller" },
/// });
/// let mut converter = Converter::new(Settings::default());
/// converter.set(Object::from_json(ObjectKind::GatewayClass, class)?)?;
/// assert_eq!(converter.convert(&Nothing).statuses.len(), 1);
/// # Ok::<(), xebec_gateway_api::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Converter {
    settings: Settings,
    classes: BTreeMap<ObjectKey, GatewayClass>,
    gateways: BTreeMap<ObjectKey, Gateway>,
    sets: BTreeMap<ObjectKey, ListenerSet>,
    routes: BTreeMap<ObjectKey, Route>,
    grants: BTreeMap<ObjectKey, Grant>,
    policies: BTreeMap<ObjectKey, TlsPolicy>,
    ingresses: BTreeMap<ObjectKey, (Ingress, Vec<String>)>,
    ingress_classes: BTreeMap<ObjectKey, IngressClass>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { domain: "cluster.local".to_owned(), ingress_namespace: "istio-system".to_owned() }
    }
}

// === impl Converter ===

impl Converter {
    /// Holds nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Default::default() }
    }

    /// Takes in a new or changed object.
    ///
    /// # Errors
    ///
    /// [`Error::Nameless`], and then nothing has changed.
    pub fn set(&mut self, object: Object) -> Result<(), Error> {
        let id = read::identity(object.kind(), object.metadata())?;
        let key = id.key.clone();
        match object {
            Object::GatewayClass(o) => {
                self.classes.insert(key, read::gateway_class(id, o.spec));
            }
            Object::Gateway(o) => {
                self.gateways.insert(key, read::gateway(id, o.spec));
            }
            Object::ListenerSet(o) => {
                self.sets.insert(key, read::listener_set(id, o.spec));
            }
            Object::HttpRoute(o) => {
                self.routes.insert(key, read::http_route(id, o.spec));
            }
            Object::GrpcRoute(o) => {
                self.routes.insert(key, read::grpc_route(id, o.spec));
            }
            Object::TlsRoute(o) => {
                self.routes.insert(key, read::tls_route(id, o.spec));
            }
            Object::TcpRoute(o) => {
                self.routes.insert(key, read::tcp_route(id, o.spec));
            }
            Object::ReferenceGrant(o) => {
                self.grants.insert(key, read::reference_grant(o.spec));
            }
            Object::BackendTlsPolicy(o) => {
                self.policies.insert(key, read::tls_policy(id, o.spec));
            }
            Object::Ingress(o) => {
                self.ingresses.insert(key, read::ingress(id, &o.metadata, o.spec));
            }
            Object::IngressClass(o) => {
                self.ingress_classes.insert(key, read::ingress_class(id, &o.metadata, o.spec));
            }
        }
        Ok(())
    }

    /// Forgets an object. One that is not known is no error. `namespace` is empty for kinds without one.
    pub fn remove(&mut self, kind: ObjectKind, namespace: &str, name: &str) {
        let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.classes.remove(&key);
        self.gateways.remove(&key);
        self.sets.remove(&key);
        self.routes.remove(&key);
        self.grants.remove(&key);
        self.policies.remove(&key);
        self.ingresses.remove(&key);
        self.ingress_classes.remove(&key);
    }

    /// What the objects amount to, given the facts. Costs time in proportion to all objects.
    pub fn convert(&self, facts: &dyn Facts) -> Output {
        let grants = Grants::new(self.grants.iter().map(|(key, grant)| (key.namespace.as_str(), grant)));
        let around = Surroundings { facts, grants: &grants, domain: &self.settings.domain };
        let mut output = Output::default();
        output.statuses.extend(self.our_classes().map(|class| class_status(class, facts)));
        let (gateways, sets) = self.states(around);
        let mut attaching = Attaching { around, gateways, sets, pool: Pool::default(), reached: Reached::new() };
        for (order, route) in by_age(self.routes.values(), |route| &route.id).into_iter().enumerate() {
            let status = Status::Route(attaching.route(route, order));
            output.statuses.push(ObjectStatus { key: route.id.key.clone(), status });
        }
        let Attaching { gateways, mut pool, reached, .. } = attaching;
        for state in gateways.values() {
            shield(state, &mut pool);
            let served = state.listeners.iter().filter(|listener| listener.is_served());
            output.configs.extend(served.map(|listener| listener.config(state.gateway)));
            output.statuses.push(gateway_status(state, facts));
            output.statuses.extend(state.sets.iter().map(|set| set_status(state, set)));
        }
        output.configs.extend(pool.finish());
        let policies = by_age(self.policies.values(), |policy| &policy.id);
        let (configs, statuses) = policy::convert(policies.into_iter(), around, &reached);
        output.configs.extend(configs);
        output.statuses.extend(statuses);
        self.convert_ingresses(around, &mut output);
        output.configs.sort_by(|a, b| a.meta().key.cmp(&b.meta().key));
        output.statuses.sort_by(|a, b| a.key.cmp(&b.key));
        output.notes.sort();
        output.notes.dedup();
        output
    }

    fn convert_ingresses(&self, around: Surroundings<'_>, output: &mut Output) {
        let classes = Classes::new(self.ingress_classes.values());
        let ingresses = by_age(self.ingresses.values(), |(ingress, _)| &ingress.id);
        let namespace = &self.settings.ingress_namespace;
        let made = ingress::convert(ingresses.iter().map(|(ingress, _)| ingress), &classes, namespace, around);
        output.configs.extend(made.configs);
        output.statuses.extend(made.statuses);
        output.notes.extend(made.notes);
        for (ingress, left_out) in self.ingresses.values() {
            let notes = left_out.iter().map(|message| Note { key: ingress.id.key.clone(), message: message.clone() });
            output.notes.extend(notes);
        }
    }

    fn our_classes(&self) -> impl Iterator<Item = &GatewayClass> {
        self.classes.values().filter(|class| class.controller == GATEWAY_CONTROLLER)
    }

    fn states<'a>(&'a self, around: Surroundings<'_>) -> (Gateways<'a>, SetParents) {
        let classes: BTreeMap<&str, &GatewayClass> =
            self.our_classes().map(|class| (class.id.key.name.as_str(), class)).collect();
        let mut sets: BTreeMap<(String, String), Vec<&ListenerSet>> = BTreeMap::new();
        for set in by_age(self.sets.values(), |set| &set.id) {
            let to = &set.parent;
            let is_gateway =
                to.group.as_deref().unwrap_or(GROUP) == GROUP && to.kind.as_deref().unwrap_or("Gateway") == "Gateway";
            if is_gateway {
                let namespace = to.namespace.as_ref().unwrap_or(&set.id.key.namespace);
                sets.entry((namespace.clone(), to.name.clone())).or_default().push(set);
            }
        }
        let (mut states, mut parents) = (Gateways::new(), SetParents::new());
        for gateway in self.gateways.values() {
            let Some(class) = classes.get(gateway.class.as_str()) else { continue };
            let key = (gateway.id.key.namespace.clone(), gateway.id.key.name.clone());
            let own = sets.remove(&key).unwrap_or_default();
            for set in &own {
                parents.insert((set.id.key.namespace.clone(), set.id.key.name.clone()), key.clone());
            }
            states.insert(key, GatewayState::new(gateway, class, &own, around));
        }
        (states, parents)
    }
}

/// The oldest first, then by namespace and name, as the Gateway API decides between objects.
fn by_age<'a, T>(objects: impl Iterator<Item = &'a T>, id: impl Fn(&T) -> &Identity) -> Vec<&'a T> {
    let mut sorted: Vec<&T> = objects.collect();
    sorted.sort_by(|a, b| {
        let (a, b) = (id(a), id(b));
        let place = |id: &Identity| (id.created, id.key.namespace.clone(), id.key.name.clone(), id.key.kind);
        place(a).cmp(&place(b))
    });
    sorted
}

/// A listener without routes for its own hostname still keeps its requests from wider listeners.
fn shield(state: &GatewayState<'_>, pool: &mut Pool) {
    for listener in state.listeners.iter().filter(|listener| listener.is_served()) {
        let place = listener.place(state.gateway, listener.hostname);
        if !state.shields(listener) || pool.has(&place) {
            continue;
        }
        let on = Match {
            path: PathMatch::Prefix(String::new()),
            method: None,
            headers: BTreeMap::new(),
            query: BTreeMap::new(),
        };
        let routes = expand(&answering(404), &Rule::default(), &on, Scheme::Http, None);
        pool.http(place, Origin { id: listener.owner, order: 0 }, 0, 0, Rank::of(&on), routes);
    }
}

fn class_status(class: &GatewayClass, facts: &dyn Facts) -> ObjectStatus {
    let generation = class.id.generation;
    let mut conditions = vec![if class.has_parameters {
        let message = "`parametersRef` is not supported";
        Condition::new("Accepted", false, reason::INVALID_PARAMETERS, message, generation)
    } else {
        Condition::new("Accepted", true, reason::ACCEPTED, "Gateways of this class are served", generation)
    }];
    if let Some(version) = facts.bundle_version() {
        let mut numbers = version.trim_start_matches('v').split(['.', '-']).map(str::parse::<u32>);
        let known = matches!((numbers.next(), numbers.next()), (Some(Ok(1)), Some(Ok(minor))) if minor <= NEWEST_MINOR);
        let (reason, message) = if known {
            (reason::SUPPORTED_VERSION, format!("the Gateway API {version} is known"))
        } else {
            (
                reason::UNSUPPORTED_VERSION,
                format!("the Gateway API {version} is not known; v1.0 to v1.{NEWEST_MINOR} are"),
            )
        };
        conditions.push(Condition::new("SupportedVersion", known, reason, message, generation));
    }
    let status = Status::GatewayClass { conditions, features: FEATURES.to_vec() };
    ObjectStatus { key: class.id.key.clone(), status }
}

fn listener_status(listener: &ListenerState<'_>) -> ListenerStatus {
    let generation = listener.owner.generation;
    let options = listener.spec.tls.as_ref().is_some_and(|tls| tls.has_options);
    let well = if options {
        "the listener is valid, but for tls.options, which have no effect"
    } else {
        "the listener is valid"
    };
    let condition = |kind, fault: Option<&crate::backend::RefFault>, good, well: &str| match fault {
        None => Condition::new(kind, true, good, well, generation),
        Some(fault) => Condition::new(kind, false, fault.reason, fault.message.clone(), generation),
    };
    let conflicted = match &listener.conflict {
        None => {
            Condition::new("Conflicted", false, reason::NO_CONFLICTS, "no other listener is in its way", generation)
        }
        Some(conflict) => Condition::new("Conflicted", true, conflict.reason, conflict.message.clone(), generation),
    };
    let not_accepted = listener.fault.as_ref().or(listener.conflict.as_ref());
    ListenerStatus {
        name: listener.spec.name.clone(),
        supported_kinds: listener.kinds.iter().map(|kind| (GROUP, kind.as_str())).collect(),
        attached_routes: listener.attached,
        conditions: vec![
            condition("Accepted", not_accepted, reason::ACCEPTED, well),
            condition("Programmed", listener.unprogrammed.as_ref(), reason::PROGRAMMED, "proxies are told to listen"),
            conflicted,
            condition("ResolvedRefs", listener.refs.as_ref(), reason::RESOLVED_REFS, "all references are resolved"),
        ],
    }
}

/// What is wrong with listeners, as a sentence, and whether anything is right.
fn listeners_verdict(listeners: &[&ListenerState<'_>]) -> (bool, bool, String) {
    let invalid: Vec<&str> =
        listeners.iter().filter(|l| !l.is_open() || l.refs.is_some()).map(|l| l.spec.name.as_str()).collect();
    let some_valid = listeners.iter().any(|l| l.is_open());
    let message = format!("not valid: {}", invalid.join(", "));
    (invalid.is_empty(), some_valid, message)
}

fn programmed_verdict(listeners: &[&ListenerState<'_>]) -> Result<String, String> {
    let faulty: Vec<String> = listeners
        .iter()
        .filter_map(|l| l.unprogrammed.as_ref().map(|fault| format!("{}: {}", l.spec.name, fault.message)))
        .collect();
    if listeners.len() == faulty.len() {
        Err(if faulty.is_empty() { "there are no listeners".to_owned() } else { faulty.join("; ") })
    } else if faulty.is_empty() {
        Ok("proxies are told to listen".to_owned())
    } else {
        Ok(format!("proxies are told to listen, except for {}", faulty.join("; ")))
    }
}

/// The addresses of a Gateway, and those that it asks for and does not have.
///
/// An address of type Hostname may name a Service that leads to the proxies, as in Istio: then only what it leads to counts.
fn addresses<'a>(gateway: &'a Gateway, carriers: &[Carrier]) -> (Vec<String>, Vec<&'a str>) {
    let hostname = |kind: &Option<String>| kind.as_deref() == Some("Hostname");
    let means = |value: &str, carrier: &Carrier| {
        let value = value.trim_end_matches('.');
        carrier.names.iter().any(|name| name.eq_ignore_ascii_case(value))
    };
    let wanted: Vec<(bool, &str)> = gateway
        .addresses
        .iter()
        .filter_map(|(kind, value)| Some((hostname(kind), value.as_deref().filter(|value| !value.is_empty())?)))
        .collect();
    let named = |carrier: &&Carrier| wanted.iter().any(|(hostname, value)| *hostname && means(value, carrier));
    let mut chosen: Vec<&Carrier> = carriers.iter().filter(named).collect();
    if chosen.is_empty() {
        chosen = carriers.iter().collect();
    }
    let mut known: Vec<String> = Vec::new();
    for address in chosen.iter().flat_map(|carrier| &carrier.addresses) {
        if !known.contains(address) {
            known.push(address.clone());
        }
    }
    let is_there = |(hostname, value): &(bool, &str)| {
        known.iter().any(|known| known == value) || (*hostname && chosen.iter().any(|carrier| means(value, carrier)))
    };
    let lacking = wanted.iter().filter(|wanted| !is_there(wanted)).map(|(_, value)| *value).collect();
    (known, lacking)
}

fn gateway_status(state: &GatewayState<'_>, facts: &dyn Facts) -> ObjectStatus {
    let key = &state.gateway.id.key;
    let generation = state.gateway.id.generation;
    let own: Vec<&ListenerState<'_>> = state.listeners.iter().filter(|l| l.owner.key == *key).collect();
    let all: Vec<&ListenerState<'_>> = state.listeners.iter().collect();
    let carriers = facts.carriers(&key.namespace, &key.name);
    let (known, lacking) = addresses(state.gateway, &carriers);
    let (valid, some_valid, message) = listeners_verdict(&all);
    let accepted = match &state.fault {
        Some(fault) => Condition::new("Accepted", false, fault.reason, fault.message.clone(), generation),
        None if valid && state.gateway.without_effect.is_empty() => {
            Condition::new("Accepted", true, reason::ACCEPTED, "the Gateway is valid", generation)
        }
        None if valid => {
            let message = format!("the Gateway is valid; without effect: {}", state.gateway.without_effect.join(", "));
            Condition::new("Accepted", true, reason::ACCEPTED, message, generation)
        }
        None => Condition::new("Accepted", some_valid, reason::LISTENERS_NOT_VALID, message, generation),
    };
    let (holds, why, message) = match (&state.fault, programmed_verdict(&all)) {
        (Some(fault), _) => (false, reason::INVALID, fault.message.clone()),
        (None, Err(message)) => (false, reason::INVALID, message),
        (None, Ok(_)) if carriers.is_empty() => {
            let message = format!(
                "no proxy with the label `{GATEWAY_NAME_LABEL}: {}` is ready in the namespace {}",
                key.name, key.namespace
            );
            (false, reason::ADDRESS_NOT_ASSIGNED, message)
        }
        (None, Ok(_)) if known.is_empty() => {
            let names: Vec<&str> = carriers.iter().filter_map(|c| c.names.first()).map(String::as_str).collect();
            let message = format!("proxies are ready; {} was given no address yet", names.join(", "));
            (false, reason::ADDRESS_NOT_ASSIGNED, message)
        }
        (None, Ok(_)) if !lacking.is_empty() => {
            let message =
                format!("{}: not an address of the proxies; they have {}", lacking.join(", "), known.join(", "));
            (false, reason::ADDRESS_NOT_USABLE, message)
        }
        (None, Ok(message)) => (true, reason::PROGRAMMED, message),
    };
    let conditions = vec![accepted, Condition::new("Programmed", holds, why, message, generation)];
    let status = Status::Gateway {
        addresses: known,
        attached_sets: i32::try_from(state.sets.iter().filter(|set| set.fault.is_none()).count()).unwrap_or(i32::MAX),
        conditions,
        listeners: own.into_iter().map(listener_status).collect(),
    };
    ObjectStatus { key: key.clone(), status }
}

fn set_status(state: &GatewayState<'_>, set: &SetState<'_>) -> ObjectStatus {
    let key = &set.set.id.key;
    let generation = set.set.id.generation;
    let own: Vec<&ListenerState<'_>> = state.listeners.iter().filter(|l| l.owner.key == *key).collect();
    let (valid, some_valid, message) = listeners_verdict(&own);
    let accepted = match &set.fault {
        Some(fault) => Condition::new("Accepted", false, fault.reason, fault.message.clone(), generation),
        None if valid => Condition::new("Accepted", true, reason::ACCEPTED, "the ListenerSet is valid", generation),
        None => Condition::new("Accepted", some_valid, reason::LISTENERS_NOT_VALID, message, generation),
    };
    let programmed = match (&set.fault, programmed_verdict(&own)) {
        (Some(fault), _) => Condition::new("Programmed", false, fault.reason, fault.message.clone(), generation),
        (None, Err(message)) => Condition::new("Programmed", false, reason::INVALID, message, generation),
        (None, Ok(message)) => Condition::new("Programmed", true, reason::PROGRAMMED, message, generation),
    };
    let status = Status::ListenerSet {
        conditions: vec![accepted, programmed],
        listeners: own.into_iter().map(listener_status).collect(),
    };
    ObjectStatus { key: key.clone(), status }
}
