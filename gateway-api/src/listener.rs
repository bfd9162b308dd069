//! Gateways and their listeners: which are sound, which conflict, who may attach, and Istio's Gateway for each.

use std::collections::{BTreeMap, HashMap, HashSet};

use xebec_galley::honoured::NOT_YET;
use xebec_galley::spec;
use xebec_galley::validate::is_wildcard_name;
use xebec_galley::{Config, Kind};

use crate::GATEWAY_NAME_LABEL;
use crate::backend::{RefFault as Fault, Surroundings};
use crate::grant::KindName;
use crate::hostname::{self, ANY};
use crate::model::{Gateway, GatewayClass, Identity, Listener, ListenerSet, NamespaceChoice, Route};
use crate::object::{GROUP, ObjectKind};
use crate::status::reason;
use crate::vs::{Place, gateway_config, resource_name};

/// What a listener does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    Http,
    Https,
    /// TLS that is not terminated.
    PassedThrough,
    /// TLS around bytes.
    Terminated,
    Tcp,
    /// A protocol that is not known.
    Nothing,
}

/// A Gateway with everything that listens for it.
pub struct GatewayState<'a> {
    pub gateway: &'a Gateway,
    /// Why nothing is done for it.
    pub fault: Option<Fault>,
    /// Its own, then those of its ListenerSets, which come in order of age.
    pub listeners: Vec<ListenerState<'a>>,
    pub sets: Vec<SetState<'a>>,
    /// The names that are listened for on each port of HTTP.
    hosts: HashMap<u16, HashSet<String>>,
}

/// A ListenerSet of a Gateway.
pub struct SetState<'a> {
    pub set: &'a ListenerSet,
    /// Why it takes no part.
    pub fault: Option<Fault>,
}

/// A listener.
pub struct ListenerState<'a> {
    pub spec: &'a Listener,
    /// The Gateway or ListenerSet that has it.
    pub owner: &'a Identity,
    pub port: u16,
    pub serving: Serving,
    /// `*` is every name.
    pub hostname: &'a str,
    /// The kinds of routes that may attach.
    pub kinds: Vec<ObjectKind>,
    pub fault: Option<Fault>,
    pub conflict: Option<Fault>,
    pub refs: Option<Fault>,
    pub unprogrammed: Option<Fault>,
    pub attached: i32,
    /// The name of Istio's Gateway for it.
    pub resource: String,
    /// The names that make it what it is, from the Gateway's on.
    parts: Vec<String>,
    credentials: Vec<String>,
    claims: Claims,
}

/// The names that HTTPRoutes and GRPCRoutes have on a listener: they may not share one.
#[derive(Default)]
struct Claims {
    exact: HashMap<String, ObjectKind>,
    /// Wildcards that cover some claimed name: whether by HTTPRoutes, whether by GRPCRoutes.
    wider: HashMap<String, [bool; 2]>,
}

// === impl Serving ===

impl Serving {
    fn of(listener: &Listener) -> Self {
        let passthrough = listener.tls.as_ref().is_some_and(|tls| tls.passthrough);
        match listener.protocol.as_str() {
            "HTTP" => Self::Http,
            "HTTPS" if !passthrough => Self::Https,
            "TLS" if passthrough => Self::PassedThrough,
            "TLS" => Self::Terminated,
            "TCP" => Self::Tcp,
            _ => Self::Nothing,
        }
    }

    const fn kinds(self) -> &'static [ObjectKind] {
        match self {
            Self::Http | Self::Https => &[ObjectKind::HttpRoute, ObjectKind::GrpcRoute],
            Self::PassedThrough => &[ObjectKind::TlsRoute],
            Self::Terminated | Self::Tcp => &[ObjectKind::TcpRoute],
            Self::Nothing => &[],
        }
    }

    pub const fn terminates(self) -> bool {
        matches!(self, Self::Https | Self::Terminated)
    }

    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Listeners of one class may share a port.
    const fn class(self) -> u8 {
        match self {
            Self::Http => 0,
            Self::Https | Self::PassedThrough | Self::Terminated => 1,
            Self::Tcp => 2,
            Self::Nothing => 3,
        }
    }
}

/// Whether proxies terminate TLS: as long as galley says that they do not, no status claims it.
fn terminates_tls() -> bool {
    !NOT_YET.iter().any(|(kind, field, _)| *kind == Kind::Gateway && *field == "spec.servers[].tls.mode=SIMPLE")
}

fn fault(reason: &'static str, message: impl Into<String>) -> Fault {
    Fault { reason, message: message.into() }
}

// === impl GatewayState ===

impl<'a> GatewayState<'a> {
    /// Judges a Gateway of a class of ours, with its ListenerSets, the oldest first.
    pub fn new(gateway: &'a Gateway, class: &GatewayClass, sets: &[&'a ListenerSet], around: Surroundings<'_>) -> Self {
        let mut state = Self {
            gateway,
            fault: Self::fault_of(gateway, class),
            listeners: Vec::new(),
            sets: Vec::new(),
            hosts: HashMap::new(),
        };
        let key = &gateway.id.key;
        for set in sets {
            let from = &set.id.key.namespace;
            let labels = || around.facts.namespace_labels(from);
            let fault = if state.fault.is_some() {
                Some(fault(reason::PARENT_NOT_ACCEPTED, "the Gateway is not accepted"))
            } else if gateway.sets_from.admits(&key.namespace, from, labels) {
                None
            } else {
                let message = "the Gateway's `allowedListeners` does not admit this namespace";
                Some(fault(reason::NOT_ALLOWED, message))
            };
            state.sets.push(SetState { set, fault });
        }
        if state.fault.is_some() {
            return state;
        }
        for listener in &gateway.listeners {
            state.listeners.push(ListenerState::new(listener, &gateway.id, gateway, around));
        }
        for set in state.sets.iter().filter(|set| set.fault.is_none()).map(|set| set.set) {
            for listener in &set.listeners {
                state.listeners.push(ListenerState::new(listener, &set.id, gateway, around));
            }
        }
        state.find_conflicts();
        for listener in &mut state.listeners {
            listener.conclude(gateway);
            if listener.is_served() && listener.serving.is_http() {
                state.hosts.entry(listener.port).or_default().insert(listener.hostname.to_owned());
            }
        }
        state
    }

    fn fault_of(gateway: &Gateway, class: &GatewayClass) -> Option<Fault> {
        let name = &gateway.id.key.name;
        if class.has_parameters {
            return Some(fault(reason::INVALID_PARAMETERS, "its GatewayClass is not accepted"));
        }
        if gateway.has_parameters {
            let message = "`infrastructure.parametersRef` is not supported: proxies are not made, they join by label";
            return Some(fault(reason::INVALID_PARAMETERS, message));
        }
        if name.len() > 63 {
            let message = "the name is longer than 63 characters, so that no proxy can carry it as a label";
            return Some(fault(reason::INVALID_PARAMETERS, message));
        }
        let strange = gateway
            .addresses
            .iter()
            .find_map(|(kind, _)| kind.as_deref().filter(|kind| !matches!(*kind, "IPAddress" | "Hostname")));
        strange.map(|kind| fault(reason::UNSUPPORTED_ADDRESS, format!("addresses of type {kind} are not supported")))
    }

    /// Of the Gateway's own listeners that are not distinct, none is served. Of a ListenerSet's, the older claim stays.
    fn find_conflicts(&mut self) {
        let mut classes: HashMap<u16, HashSet<u8>> = HashMap::new();
        let mut places: HashMap<(u16, &str), usize> = HashMap::new();
        let own = &self.gateway.id.key;
        for listener in self.listeners.iter().filter(|l| l.owner.key == *own && l.fault.is_none()) {
            classes.entry(listener.port).or_default().insert(listener.serving.class());
            *places.entry((listener.port, listener.hostname)).or_default() += 1;
        }
        for listener in self.listeners.iter_mut().filter(|l| l.fault.is_none()) {
            let port = listener.port;
            let class = listener.serving.class();
            let known = classes.entry(port).or_default();
            let count = places.entry((port, listener.hostname)).or_default();
            let (clash, taken) = if listener.owner.key == *own {
                (known.len() > 1, *count > 1)
            } else {
                let clash = !known.is_empty() && !known.contains(&class);
                let taken = *count > 0;
                if !clash {
                    known.insert(class);
                    *count += 1;
                }
                (clash, taken)
            };
            if clash {
                let message = format!("port {port} has listeners of several protocols");
                listener.conflict = Some(fault(reason::PROTOCOL_CONFLICT, message));
            } else if taken {
                let message = format!("another listener has port {port} and hostname `{}`", listener.hostname);
                listener.conflict = Some(fault(reason::HOSTNAME_CONFLICT, message));
            }
        }
    }

    /// The hosts of `route` that it has on a listener: what both name, but for what a more specific listener of the port has.
    pub fn hosts_on(&self, index: usize, route: &Route) -> Vec<String> {
        let Some(listener) = self.listeners.get(index) else { return Vec::new() };
        let any = [ANY.to_owned()];
        let wanted: &[String] = if route.hostnames.is_empty() { &any } else { &route.hostnames };
        let mut hosts: Vec<String> = wanted
            .iter()
            .filter_map(|wanted| hostname::intersect(listener.hostname, wanted))
            .filter(|host| !self.belongs_to_narrower(listener, host))
            .map(str::to_owned)
            .collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    fn belongs_to_narrower(&self, listener: &ListenerState<'_>, host: &str) -> bool {
        let Some(others) = self.hosts.get(&listener.port).filter(|_| listener.serving.is_http()) else { return false };
        hostname::widening(host).take_while(|name| name != listener.hostname).any(|name| others.contains(&name))
    }

    /// Whether a listener of HTTP shields its names from a wider one of the same port, and so needs an answer of its own for all.
    pub fn shields(&self, listener: &ListenerState<'_>) -> bool {
        let Some(others) = self.hosts.get(&listener.port) else { return false };
        listener.serving.is_http() && hostname::widening(listener.hostname).skip(1).any(|name| others.contains(&name))
    }
}

// === impl ListenerState ===

/// Why the certificate in a Secret cannot be used.
pub fn lost_secret(namespace: &str, name: &str, around: Surroundings<'_>) -> String {
    if around.facts.knows_secrets() {
        format!("there is no Secret {namespace}/{name} with a certificate and key")
    } else {
        format!("Secrets are not read, so the certificate in {namespace}/{name} is not known")
    }
}

impl<'a> ListenerState<'a> {
    fn new(spec: &'a Listener, owner: &'a Identity, gateway: &Gateway, around: Surroundings<'_>) -> Self {
        let serving = Serving::of(spec);
        let key = &gateway.id.key;
        let parts: Vec<&str> = if owner.key == *key {
            vec![&key.name, &spec.name]
        } else {
            vec![&key.name, &owner.key.namespace, &owner.key.name, &spec.name]
        };
        let resource = resource_name(&parts, parts.len() > 2, "xebec-autogenerated-k8s-gateway");
        let parts = parts.into_iter().map(str::to_owned).collect();
        let mut listener = Self {
            spec,
            owner,
            port: u16::try_from(spec.port).unwrap_or(0),
            serving,
            hostname: match serving {
                Serving::Tcp => ANY,
                _ => spec.hostname.as_deref().unwrap_or(ANY),
            },
            kinds: serving.kinds().to_vec(),
            fault: None,
            conflict: None,
            refs: None,
            unprogrammed: None,
            attached: 0,
            resource,
            parts,
            credentials: Vec::new(),
            claims: Claims::default(),
        };
        if serving == Serving::Nothing {
            let message = format!("the protocol {} is not supported, or not in this mode of TLS", spec.protocol);
            listener.fault = Some(fault(reason::UNSUPPORTED_PROTOCOL, message));
        } else if listener.port == 0 {
            listener.fault = Some(fault(reason::PORT_UNAVAILABLE, format!("{} is not a port", spec.port)));
        } else if !is_wildcard_name(listener.hostname) {
            let message = format!("`{}` is not a hostname", listener.hostname);
            listener.fault = Some(fault(reason::UNSUPPORTED_VALUE, message));
        }
        listener.choose_kinds();
        if serving.terminates() {
            listener.find_certificates(around);
        }
        listener
    }

    fn choose_kinds(&mut self) {
        let Some(wanted) = &self.spec.kinds else { return };
        let possible = self.serving.kinds();
        let mut kinds = Vec::new();
        for (group, name) in wanted {
            let kind = ObjectKind::parse(name).filter(|kind| possible.contains(kind));
            match kind.filter(|_| group.as_deref().unwrap_or(GROUP) == GROUP) {
                Some(kind) if !kinds.contains(&kind) => kinds.push(kind),
                Some(_) => {}
                None => {
                    let message = format!("{name} is not a kind of route for the protocol {}", self.spec.protocol);
                    self.refs.get_or_insert(fault(reason::INVALID_ROUTE_KINDS, message));
                }
            }
        }
        self.kinds = kinds;
    }

    fn find_certificates(&mut self, around: Surroundings<'_>) {
        let own = &self.owner.key;
        let certificates = self.spec.tls.as_ref().map(|tls| tls.certificates.as_slice()).unwrap_or_default();
        let lacking = |message: String| fault(reason::INVALID_CERTIFICATE_REF, message);
        let mut problem =
            certificates.is_empty().then(|| lacking("there is no certificate to end TLS with".to_owned()));
        for to in certificates {
            let namespace = to.namespace.as_deref().unwrap_or(&own.namespace);
            let (group, kind) = (to.group.as_deref().unwrap_or_default(), to.kind.as_deref().unwrap_or("Secret"));
            let referrer = KindName::new(GROUP, own.kind.as_str());
            let secret = KindName::new("", "Secret");
            if (group, kind) != ("", "Secret") {
                problem.get_or_insert(lacking(format!("certificates of kind {group}/{kind} are not known")));
            } else if !around.grants.allow(&referrer, &own.namespace, &secret, namespace, &to.name) {
                let message = format!("the namespace {namespace} has no ReferenceGrant for its Secret {}", to.name);
                problem.get_or_insert(fault(reason::REF_NOT_PERMITTED, message));
            } else if !around.facts.secret_exists(namespace, &to.name) {
                problem.get_or_insert(lacking(lost_secret(namespace, &to.name, around)));
            } else {
                // Istio's way to name a Secret of any namespace.
                self.credentials.push(format!("kubernetes-gateway://{namespace}/{}", to.name));
            }
        }
        // A certificate that is missing weighs more than a kind of route.
        if problem.is_some() {
            self.refs = problem;
            self.credentials.clear();
        }
        self.credentials.truncate(2);
    }

    fn conclude(&mut self, gateway: &Gateway) {
        let validates =
            gateway.validates_clients.as_ref().is_some_and(|ports| ports.is_empty() || ports.contains(&self.port));
        self.unprogrammed = if let Some(cause) = self.fault.as_ref().or(self.conflict.as_ref()) {
            Some(fault(reason::INVALID, cause.message.clone()))
        } else if self.serving.terminates() && self.credentials.is_empty() {
            let cause = self.refs.as_ref().map(|refs| refs.message.clone());
            Some(fault(reason::INVALID, cause.unwrap_or_default()))
        } else if self.serving.terminates() && validates {
            // Without the check it would let everybody in.
            Some(fault(reason::INVALID, "clients' certificates are not validated yet, so the listener is left out"))
        } else if self.serving.terminates() && !terminates_tls() {
            Some(fault(
                reason::INVALID,
                "TLS is not terminated yet; use the protocol TLS with mode Passthrough, or HTTP",
            ))
        } else if self.kinds.is_empty() {
            Some(fault(reason::INVALID, "no kind of route may attach"))
        } else {
            None
        };
        if self.serving.terminates() && validates {
            self.credentials.clear();
        }
    }

    /// Whether routes can attach.
    pub fn is_open(&self) -> bool {
        self.fault.is_none() && self.conflict.is_none()
    }

    /// Whether there is a Gateway of Istio's for it.
    pub fn is_served(&self) -> bool {
        self.is_open() && (!self.serving.terminates() || !self.credentials.is_empty())
    }

    /// Whether routes of that namespace may attach.
    pub fn admits(&self, namespace: &str, around: Surroundings<'_>) -> bool {
        let choice: &NamespaceChoice = &self.spec.namespaces;
        choice.admits(&self.owner.key.namespace, namespace, || around.facts.namespace_labels(namespace))
    }

    /// Takes the hosts for routes of a kind, unless routes of the other kind have one of them: the older stays.
    pub fn claim(&mut self, kind: ObjectKind, hosts: &[String]) -> bool {
        if !self.serving.is_http() {
            return true;
        }
        let own = usize::from(kind == ObjectKind::GrpcRoute);
        let taken = hosts.iter().any(|host| {
            self.claims.wider.get(host).is_some_and(|kinds| kinds[1 - own])
                || hostname::widening(host).any(|name| self.claims.exact.get(&name).is_some_and(|by| *by != kind))
        });
        if taken {
            return false;
        }
        for host in hosts {
            for wider in hostname::widening(host).skip(1) {
                self.claims.wider.entry(wider).or_default()[own] = true;
            }
            self.claims.exact.insert(host.clone(), kind);
        }
        true
    }

    /// Where the routes of a host go.
    pub fn place(&self, gateway: &Gateway, host: &str) -> Place {
        let parts: Vec<&str> = self.parts.iter().map(String::as_str).chain([host]).collect();
        Place {
            namespace: gateway.id.key.namespace.clone(),
            name: resource_name(&parts, parts.len() > 3, "xebec-autogenerated-k8s-gateway"),
            gateway: self.resource.clone(),
            host: host.to_owned(),
            exported: false,
        }
    }

    /// Istio's Gateway for it.
    pub fn config(&self, gateway: &Gateway) -> Config {
        let tls = match self.serving {
            Serving::Http | Serving::Tcp | Serving::Nothing => None,
            Serving::PassedThrough => Some(spec::ServerTlsSettings::default()),
            Serving::Https | Serving::Terminated => {
                let mut settings = spec::ServerTlsSettings { mode: spec::ServerTlsMode::Simple, ..Default::default() };
                match self.credentials.as_slice() {
                    [one] => settings.credential_name.clone_from(one),
                    several => settings.credential_names = several.to_vec(),
                }
                Some(settings)
            }
        };
        let protocol = match self.serving {
            Serving::Http => "HTTP",
            Serving::Https => "HTTPS",
            Serving::PassedThrough | Serving::Terminated => "TLS",
            Serving::Tcp | Serving::Nothing => "TCP",
        };
        let server = spec::Server {
            port: spec::Port {
                number: self.port,
                protocol: protocol.to_owned(),
                name: "listener".to_owned(),
                target_port: None,
            },
            // Routes of other namespaces come with the Gateway's permission only, as VirtualServices of its own namespace.
            hosts: vec![format!("./{}", self.hostname)],
            tls,
            ..Default::default()
        };
        let key = &gateway.id.key;
        let selector = BTreeMap::from([(GATEWAY_NAME_LABEL.to_owned(), key.name.clone())]);
        gateway_config(&key.namespace, &self.resource, self.owner, spec::Gateway { selector, servers: vec![server] })
    }
}
