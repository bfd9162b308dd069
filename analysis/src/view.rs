//! The input, indexed by what analyzers ask.
//!
//! - ALWAYS: that something is absent is only said where the input would have it: it is complete, or it has others of its kind in the same
//!   namespace. Half of a mesh is a normal thing to look at.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use xebec_galley::Resource;
use xebec_galley::spec::{DestinationRule, Gateway, LabelMap, ServiceEntry, Sidecar, VirtualService};
use xebec_galley::{Config, Meta, SourceRef};
use xebec_pilot::mesh::names::{self, RuleHost};
use xebec_pilot::mesh::rules::{root_namespace, visibility};
use xebec_pilot::mesh::{CONFIG_REGISTRY, MeshService};
use xebec_pilot::model::Visibility;

use crate::input::Input;
use crate::object::{Body, Object, ServiceObject, Workload, selects};

/// See the module's text.
pub(crate) struct View<'a> {
    pub input: &'a Input,
    pub virtual_services: Vec<&'a Arc<Resource<VirtualService>>>,
    pub destination_rules: Vec<&'a Arc<Resource<DestinationRule>>>,
    pub gateways: Vec<&'a Arc<Resource<Gateway>>>,
    pub service_entries: Vec<&'a Arc<Resource<ServiceEntry>>>,
    pub sidecars: Vec<&'a Arc<Resource<Sidecar>>>,
    pub workloads: Vec<Running<'a>>,
    hosts: HashMap<&'a str, Vec<&'a Arc<MeshService>>>,
    wildcards: Vec<&'a Arc<MeshService>>,
    namespaces: HashMap<&'a str, &'a Object>,
    /// Where in `workloads` those of a namespace are.
    residents: HashMap<&'a str, Vec<usize>>,
    services: HashMap<&'a str, Vec<(&'a Object, &'a ServiceObject)>>,
    selectors: HashMap<&'a SourceRef, &'a ServiceObject>,
    /// Where in `destination_rules` those of a host are.
    rules: HashMap<Arc<str>, Vec<usize>>,
    wildcard_rules: Vec<(Arc<str>, usize)>,
}

/// Something that runs: a pod, the pods of a template, a WorkloadEntry, or an instance that a registry knows.
#[derive(Debug, Clone)]
pub(crate) struct Running<'a> {
    pub namespace: &'a str,
    pub name: String,
    pub labels: LabelMap,
    /// The object, where there is one.
    pub object: Option<(&'a Object, &'a Workload)>,
}

/// What became of a host's name.
#[derive(Debug, Clone)]
pub(crate) enum Host<'a> {
    /// It is this service.
    Known(&'a Arc<MeshService>),
    /// There is none, and what to do about it.
    Missing(Option<String>),
    /// There may be one elsewhere.
    Unknown,
}

// === impl View ===

impl<'a> View<'a> {
    pub fn new(input: &'a Input) -> Self {
        let mut view = Self {
            input,
            virtual_services: Vec::new(),
            destination_rules: Vec::new(),
            gateways: Vec::new(),
            service_entries: Vec::new(),
            sidecars: Vec::new(),
            workloads: Vec::new(),
            hosts: HashMap::new(),
            wildcards: Vec::new(),
            namespaces: HashMap::new(),
            residents: HashMap::new(),
            services: HashMap::new(),
            selectors: HashMap::new(),
            rules: HashMap::new(),
            wildcard_rules: Vec::new(),
        };
        for config in &input.configs {
            match config {
                Config::VirtualService(resource) => view.virtual_services.push(resource),
                Config::DestinationRule(resource) => view.destination_rules.push(resource),
                Config::Gateway(resource) => view.gateways.push(resource),
                Config::ServiceEntry(resource) => view.service_entries.push(resource),
                Config::Sidecar(resource) => view.sidecars.push(resource),
                Config::WorkloadEntry(resource) => view.workloads.push(Running {
                    namespace: &resource.meta.key.namespace,
                    name: resource.meta.key.name.to_string(),
                    labels: resource.spec.labels.clone(),
                    object: None,
                }),
                #[allow(unreachable_patterns, reason = "further kinds join galley one by one")]
                _ => {}
            }
        }
        for service in &input.services {
            let host: &str = service.host();
            view.hosts.entry(host).or_default().push(service);
            if names::is_wildcard(host) {
                view.wildcards.push(service);
            }
            if !is_entry(service) {
                view.workloads.extend(service.endpoints.iter().filter(|e| !e.labels.is_empty()).map(|endpoint| {
                    Running {
                        namespace: &service.service.key.namespace,
                        name: endpoint.workload.as_deref().unwrap_or("").to_owned(),
                        labels: endpoint.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
                        object: None,
                    }
                }));
            }
        }
        for object in &input.objects {
            match &object.body {
                Body::Workload(workload) => view.workloads.push(Running {
                    namespace: &object.namespace,
                    name: object.name.to_string(),
                    labels: workload.labels.clone(),
                    object: Some((object, workload)),
                }),
                Body::Namespace => drop(view.namespaces.entry(&object.name).or_insert(object)),
                Body::Service(service) => {
                    view.services.entry(&object.namespace).or_default().push((object, service));
                    view.selectors.insert(&object.source, service);
                }
                _ => {}
            }
        }
        for (at, running) in view.workloads.iter().enumerate() {
            view.residents.entry(running.namespace).or_default().push(at);
        }
        for (at, rule) in view.destination_rules.iter().enumerate() {
            let host = RuleHost::new(&rule.spec.host, &rule.meta.key.namespace, &input.domain);
            if host.is_wildcard() {
                view.wildcard_rules.push((Arc::clone(&host.written), at));
            }
            for name in host.candidates() {
                view.rules.entry(Arc::clone(name)).or_default().push(at);
            }
        }
        for service in view.hosts.values_mut() {
            service.sort_by(|a, b| (a.service.created, &a.service.key).cmp(&(b.service.created, &b.service.key)));
        }
        view
    }

    /// The namespace whose resources apply to the whole mesh.
    pub fn root(&self) -> &str {
        root_namespace(&self.input.settings)
    }

    /// What a host of a rule in `namespace` stands for.
    pub fn host(&self, written: &str, namespace: &str) -> Host<'a> {
        let name = RuleHost::new(written, namespace, &self.input.domain);
        let mut hidden = None;
        for candidate in name.candidates() {
            for &service in self.hosts.get(&**candidate).into_iter().flatten() {
                if service.service.visibility.includes(namespace) {
                    return Host::Known(service);
                }
                hidden.get_or_insert(service);
            }
        }
        let visible = self.wildcards.iter().filter(|s| s.service.visibility.includes(namespace));
        let covering = visible.filter(|s| names::matches(s.host(), &name.written));
        if let Some(&service) = covering.max_by_key(|service| service.host().len()) {
            return Host::Known(service);
        }
        if name.is_wildcard() {
            let mut all = self.hosts.iter().filter(|(host, _)| names::matches(&name.written, host));
            return match all.find_map(|(_, services)| services.first()) {
                Some(&service) => Host::Known(service),
                None if self.input.complete => Host::Missing(None),
                None => Host::Unknown,
            };
        }
        if let Some(service) = hidden {
            let key = &service.service.key;
            return Host::Missing(Some(format!("{key} is not exported to the namespace `{namespace}`")));
        }
        let expanded = name.expanded.as_deref().unwrap_or(&name.written);
        let help = self.suggest(&name.written, namespace);
        if self.would_know(expanded, namespace) || help.as_ref().is_some_and(|_| is_partial(&name.written)) {
            return Host::Missing(help);
        }
        Host::Unknown
    }

    /// A service's namespaces of which something is known.
    fn would_know(&self, host: &str, namespace: &str) -> bool {
        if self.input.complete {
            return true;
        }
        let domain = format!(".svc.{}", self.input.domain);
        let platform = || self.input.services.iter().filter(|service| !is_entry(service));
        match host.strip_suffix(&domain).and_then(|rest| rest.rsplit_once('.')) {
            Some((_, of)) => platform().any(|service| *service.service.key.namespace == *of),
            None if !host.contains('.') => platform().any(|service| *service.service.key.namespace == *namespace),
            // Names outside of the cluster's domain are registered one by one.
            None => {
                let parent = |name: &str| name.split_once('.').map(|(_, rest)| rest.to_owned());
                let own = parent(host);
                own.is_some() && self.hosts.keys().any(|known| parent(known) == own)
            }
        }
    }

    fn suggest(&self, written: &str, namespace: &str) -> Option<String> {
        let full = |suffix: &str| format!("{written}{suffix}");
        let domain = &self.input.domain;
        for name in [full(&format!(".svc.{domain}")), full(&format!(".{domain}"))] {
            if self.hosts.contains_key(name.as_str()) {
                return Some(format!("write `{name}`: only names without a dot are completed"));
            }
        }
        let domain = format!(".svc.{domain}");
        let services = self.input.services.iter().filter(|service| service.service.visibility.includes(namespace));
        let names: BTreeSet<String> = services
            .flat_map(|service| {
                let key = &service.service.key;
                let short = key.hostname.strip_suffix(&domain).and_then(|rest| rest.rsplit_once('.'));
                let short = short.filter(|(_, of)| *of == namespace).map(|(name, _)| name.to_owned());
                [Some(key.hostname.to_string()), short]
            })
            .flatten()
            .collect();
        let elsewhere = self.hosts.keys().find(|host| {
            host.strip_suffix(&domain).and_then(|rest| rest.rsplit_once('.')).is_some_and(|(name, _)| name == written)
        });
        match xebec_galley::yaml::suggest(written, names.iter().map(String::as_str)) {
            Some(near) => Some(format!("did you mean `{near}`?")),
            None => elsewhere.map(|host| {
                format!("a short name belongs to the rule's namespace `{namespace}`; did you mean `{host}`?")
            }),
        }
    }

    /// Everything that runs behind a service.
    pub fn workloads_of(&self, service: &MeshService) -> Vec<LabelMap> {
        let mut found: Vec<LabelMap> = service
            .endpoints
            .iter()
            .map(|e| e.labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
            .collect();
        if let Some(object) = self.service_object(service).filter(|object| !object.selector.is_empty()) {
            let all = self.residents(&service.service.key.namespace);
            found.extend(all.filter(|w| selects(&object.selector, &w.labels)).map(|w| w.labels.clone()));
        }
        if !is_entry(service) {
            return found;
        }
        for entry in self.service_entries.iter().filter(|e| e.meta.key.namespace == service.service.key.namespace) {
            let Some(selector) = &entry.spec.workload_selector else { continue };
            if entry.spec.hosts.iter().any(|host| host.eq_ignore_ascii_case(service.host())) {
                let all = self.residents(&entry.meta.key.namespace);
                found.extend(all.filter(|w| selects(&selector.labels, &w.labels)).map(|w| w.labels.clone()));
            }
        }
        found
    }

    fn service_object(&self, service: &MeshService) -> Option<&'a ServiceObject> {
        self.selectors.get(service.origin.as_ref()?).copied()
    }

    /// The Services of Kubernetes that have a workload with these labels.
    pub fn services_of(
        &self,
        namespace: &str,
        labels: &LabelMap,
    ) -> impl Iterator<Item = (&'a Object, &'a ServiceObject)> {
        let all = self.services.get(namespace).into_iter().flatten().copied();
        all.filter(move |(_, service)| !service.selector.is_empty() && selects(&service.selector, labels))
    }

    /// What runs in a namespace.
    pub fn residents(&self, namespace: &str) -> impl Iterator<Item = &Running<'a>> {
        self.residents.get(namespace).into_iter().flatten().filter_map(|at| self.workloads.get(*at))
    }

    /// The DestinationRules of a host, in any namespace, those of wildcards that cover it included.
    pub fn rules_of(&self, host: &RuleHost) -> impl Iterator<Item = &'a Arc<Resource<DestinationRule>>> {
        let exact = host.candidates().filter_map(|name| self.rules.get(name)).flatten().copied();
        let covers = |pattern: &str| host.candidates().any(|name| names::matches(pattern, name));
        let wild = self.wildcard_rules.iter().filter(move |(pattern, _)| covers(pattern)).map(|(_, at)| *at);
        let all: BTreeSet<usize> = exact.chain(wild).collect();
        all.into_iter().filter_map(|at| self.destination_rules.get(at).copied())
    }

    /// A namespace, where its own document is known.
    pub fn namespace(&self, name: &str) -> Option<&'a Object> {
        self.namespaces.get(name).copied()
    }

    /// Whether a selector that finds nothing in a namespace is a mistake. From the root namespace it reaches everywhere.
    pub fn knows_workloads(&self, namespace: &str) -> bool {
        self.input.complete
            || self.residents.contains_key(namespace)
            || (namespace == self.root() && !self.workloads.is_empty())
    }

    /// Whether a selector of a resource in `namespace` finds anything.
    pub fn selected(&self, namespace: &str, selector: &LabelMap) -> impl Iterator<Item = &Running<'a>> {
        let everywhere = namespace == self.root();
        self.workloads
            .iter()
            .filter(move |w| everywhere || w.namespace == namespace)
            .filter(move |w| selects(selector, &w.labels))
    }

    /// The workloads that a Gateway is for, in any namespace.
    pub fn gateway_workloads(&self, selector: &LabelMap) -> Vec<&Running<'a>> {
        self.workloads.iter().filter(|w| selects(selector, &w.labels)).collect()
    }

    /// Whether gateways run in what is known: gateways are mostly installed apart from what they serve.
    pub fn knows_gateways(&self) -> bool {
        self.input.complete || self.workloads.iter().any(is_gateway)
    }

    /// Whether an object's namespace is known to be without sidecars.
    pub fn is_outside(&self, namespace: &str) -> bool {
        self.namespace(namespace).is_some_and(|object| !is_injected(object))
    }

    /// Whether a workload is known to be without a sidecar.
    pub fn is_plain(&self, object: &Object, workload: &Workload) -> bool {
        let wish = workload.labels.get(INJECT).or_else(|| workload.annotations.get(INJECT)).map(String::as_str);
        match wish {
            Some("true") => false,
            Some("false") => true,
            _ => workload.host_network || is_system(&object.namespace) || self.is_outside(&object.namespace),
        }
    }
}

/// The label and annotation that asks for a sidecar, or against one.
pub(crate) const INJECT: &str = "sidecar.istio.io/inject";
/// The label of namespaces that asks for sidecars.
pub(crate) const INJECTION: &str = "istio-injection";
/// The label of namespaces that asks for sidecars of a revision.
pub(crate) const REVISION: &str = "istio.io/rev";

/// Whether a namespace gets sidecars.
pub(crate) fn is_injected(namespace: &Object) -> bool {
    match namespace.labels.get(INJECTION) {
        Some(value) => value == "enabled",
        None => namespace.labels.contains_key(REVISION),
    }
}

/// Whether a namespace belongs to the platform or to the mesh itself.
pub(crate) fn is_system(namespace: &str) -> bool {
    matches!(namespace, "kube-system" | "kube-public" | "kube-node-lease" | "local-path-storage" | "istio-system")
}

/// Whether a service is known by a ServiceEntry only.
fn is_entry(service: &MeshService) -> bool {
    &*service.service.registry.0 == CONFIG_REGISTRY
}

/// Whether the name may lack the end of a full one.
fn is_partial(written: &str) -> bool {
    written.contains('.')
}

fn is_gateway(running: &Running<'_>) -> bool {
    let template = running.object.and_then(|(_, w)| w.annotations.get("inject.istio.io/templates"));
    running.labels.get("istio").is_some_and(|role| !matches!(role.as_str(), "pilot" | "istiod"))
        || template.is_some_and(|name| name == "gateway")
        || running.object.is_some_and(|(_, workload)| {
            workload.containers.iter().any(|c| c.name == "istio-proxy" && c.arguments.iter().any(|a| a == "router"))
        })
}

/// Who sees a VirtualService.
pub(crate) fn seen_by(view: &View<'_>, meta: &Meta, export_to: &[String]) -> Visibility {
    visibility(export_to, &view.input.settings.default_virtual_service_export_to, &meta.key.namespace)
}
