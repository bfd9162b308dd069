//! What the mesh says about a proxy: the Gateways and Sidecar that select it, the endpoints that it serves, and its shapes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use xebec_galley::spec::{Gateway, LabelMap, MeshConfig, Sidecar};
use xebec_galley::{Resource, ResourceKey};

use super::rules::{self, Rank};
use super::{Instance, Mesh};
use crate::model::{Address, Endpoint, Labels, ServiceKey};
use crate::proxy::{InboundShape, Interception, OutboundShape, Proxy, ProxyKind};

impl Mesh {
    /// All Gateways, oldest first.
    pub fn gateways(&self) -> Vec<&Arc<Resource<Gateway>>> {
        let mut all: Vec<_> = self.gateways.values().collect();
        all.sort_by_cached_key(|g| Rank::of(&g.meta));
        all
    }

    /// The Gateways that select proxies of a namespace with these labels, oldest first. An empty selector selects every gateway, and
    /// namespaces make no difference unless the Gateway [keeps to its own](xebec_galley::Meta::keeps_to_its_namespace).
    pub fn gateways_for(&self, namespace: &str, labels: &Labels) -> Vec<&Arc<Resource<Gateway>>> {
        let mut all = self.gateways();
        all.retain(|g| {
            let near = *g.meta.key.namespace == *namespace || !g.meta.keeps_to_its_namespace();
            near && selects(&g.spec.selector, labels)
        });
        all
    }

    /// All Sidecar resources.
    pub fn sidecars(&self) -> impl Iterator<Item = &Arc<Resource<Sidecar>>> {
        self.sidecars.values()
    }

    /// The Sidecar resource of that identity.
    pub fn sidecar(&self, key: &ResourceKey) -> Option<&Arc<Resource<Sidecar>>> {
        self.sidecars.get(key)
    }

    /// The Sidecar resource in force for a workload: the oldest of its namespace that selects it, else the oldest of its
    /// namespace without a selector, else the oldest of the root namespace without one.
    pub fn sidecar_for(&self, namespace: &str, labels: &Labels) -> Option<&Arc<Resource<Sidecar>>> {
        if self.sidecars.is_empty() {
            return None;
        }
        let root = rules::root_namespace(&self.settings);
        self.sidecars
            .values()
            .filter_map(|s| {
                let own = *s.meta.key.namespace == *namespace;
                let selector = s.spec.workload_selector.as_ref().filter(|w| !w.labels.is_empty());
                let level = match selector {
                    Some(w) if own && selects(&w.labels, labels) => 0,
                    None if own => 1,
                    None if *s.meta.key.namespace == *root => 2,
                    _ => return None,
                };
                Some(((level, Rank::of(&s.meta)), s))
            })
            .min_by(|(a, _), (b, _)| a.cmp(b))
            .map(|(_, s)| s)
    }

    /// The endpoints that a proxy serves, in order of their services' hostnames: those with one of its addresses, unless they name
    /// another workload.
    pub fn instances_of(&self, ips: &[IpAddr], workload: &Arc<str>) -> Vec<Instance> {
        let mut found = Vec::new();
        let mut keys: Vec<&ServiceKey> = Vec::new();
        for ip in ips {
            for name in [None, Some(Arc::clone(workload))] {
                let first = ServiceKey { hostname: "".into(), namespace: "".into() };
                let from = (*ip, name.clone(), first);
                keys.extend(
                    self.workloads.range(from..).take_while(|(i, n, _)| i == ip && *n == name).map(|(_, _, key)| key),
                );
            }
        }
        keys.sort_unstable();
        keys.dedup();
        for service in keys.into_iter().filter_map(|key| self.service(key)) {
            let mut own: Vec<(IpAddr, &Endpoint)> = Vec::new();
            for endpoint in service.endpoints.iter() {
                if let Address::Ip(ip) = endpoint.address
                    && ips.contains(&ip)
                    && endpoint.workload.as_ref().is_none_or(|w| w == workload)
                {
                    own.push((ip, endpoint));
                }
            }
            // Where the endpoints of others stand in the list must not matter.
            own.sort_by_key(|(ip, endpoint)| (*ip, &endpoint.workload));
            let instance =
                |endpoint: &Endpoint| Instance { service: Arc::clone(&service.service), endpoint: endpoint.clone() };
            found.extend(own.into_iter().map(|(_, endpoint)| instance(endpoint)));
        }
        found
    }

    /// What can change the proxy's outbound configuration.
    pub fn outbound_shape(&self, proxy: &Proxy) -> OutboundShape {
        let router = proxy.kind == ProxyKind::Router;
        let by_settings = self.settings.locality_lb_setting.as_ref().map_or(&[][..], |l| &l.failover_priority);
        let selected = |key: &str| {
            self.selected_labels.contains_key(key) || by_settings.iter().any(|k| rules::failover_label(k) == key)
        };
        let labels = proxy.labels.iter().filter(|(key, _)| selected(key));
        let ports = if router { self.ports_of(proxy) } else { Default::default() };
        OutboundShape {
            kind: proxy.kind,
            namespace: Arc::clone(&proxy.namespace),
            dns_domain: Arc::clone(&proxy.dns_domain),
            labels: labels.map(|(k, v)| (Arc::clone(k), Arc::clone(v))).collect(),
            locality: self.uses_locality().then(|| proxy.locality.clone()),
            node: proxy.node.clone().filter(|_| self.nodal_services > 0),
            network: Arc::clone(&proxy.network),
            interception: if proxy.kind == ProxyKind::Sidecar { proxy.interception } else { Interception::default() },
            bind: proxy.explicit_bind().filter(|_| proxy.kind == ProxyKind::Sidecar),
            http_proxy_port: proxy
                .http_proxy_port
                .or(self.settings.proxy_http_port)
                .filter(|_| proxy.kind == ProxyKind::Sidecar),
            vhds: proxy.delta && proxy.kind == ProxyKind::Sidecar,
            sidecar: if router {
                None
            } else {
                self.sidecar_for(&proxy.namespace, &proxy.labels).map(|s| s.meta.key.clone())
            },
            ports,
        }
    }

    /// What can change the workload's inbound configuration.
    pub fn inbound_shape(&self, proxy: &Proxy) -> InboundShape {
        let router = proxy.kind == ProxyKind::Router;
        let sidecar = if router { None } else { self.sidecar_for(&proxy.namespace, &proxy.labels) };
        // Captured connections arrive at one listener whatever the addresses are.
        let bound = proxy.kind == ProxyKind::Sidecar && (proxy.interception == Interception::None || sidecar.is_some());
        InboundShape {
            kind: proxy.kind,
            namespace: Arc::clone(&proxy.namespace),
            ips: if bound { proxy.ips.clone() } else { Vec::new() },
            interception: if proxy.kind == ProxyKind::Sidecar { proxy.interception } else { Interception::default() },
            instances: if router { Vec::new() } else { self.instances_of(&proxy.ips, &proxy.name) },
            sidecar: sidecar.map(|s| s.meta.key.clone()),
        }
    }

    fn ports_of(&self, proxy: &Proxy) -> BTreeMap<u16, u16> {
        let mut ports = BTreeMap::new();
        for instance in self.instances_of(&proxy.ips, &proxy.name) {
            for port in instance.service.ports.iter().filter(|p| instance.endpoint.serves(p)) {
                ports.entry(port.number).or_insert_with(|| instance.endpoint.port(port));
            }
        }
        ports
    }

    fn uses_locality(&self) -> bool {
        self.locality_rules > 0 || self.zonal_services > 0 || settings_use_locality(&self.settings)
    }
}

fn settings_use_locality(settings: &MeshConfig) -> bool {
    settings
        .locality_lb_setting
        .as_ref()
        .is_some_and(|l| !l.distribute.is_empty() || !l.failover.is_empty() || !l.failover_priority.is_empty())
}

fn selects(selector: &LabelMap, labels: &Labels) -> bool {
    rules::selects(selector.iter().map(|(k, v)| (k.as_str(), v.as_str())), labels)
}
