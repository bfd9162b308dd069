//! A mesh in a few lines, and what a client of it is told, decoded.
//!
//! ```text
//! let seen = mesh().service("reviews", |s| s.http(9080).endpoint("10.0.0.1", "v1")).rule(virtual_service("reviews", json!({...}))).sidecar();
//! seen.cluster("outbound|9080||reviews.default.svc.cluster.local")
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;
use xebec_galley::spec::MeshConfig;
use xebec_galley::{Kind, Meta, Resource, ResourceKey, SourceRef};
use xebec_proto::envoy::config::cluster::v3::Cluster;
use xebec_proto::envoy::config::core::v3::Node;
use xebec_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xebec_proto::envoy::config::listener::v3::{FilterChain, Listener, filter};
use xebec_proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use xebec_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use xebec_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use xebec_proto::prost::{Message, Name};

use super::{Draft, View, gateway, grpc, inbound, outbound};
use crate::mesh::{Change, Mesh, MeshService, apply};
use crate::model::{
    Address, Distribution, Endpoint, Health, Labels, Locality, Port, Protocol, RegistryId, Resolution, Service,
    ServiceKey, Visibility,
};
use crate::proxy::{Interception, Proxy, ProxyKind};
use crate::resources::{ResourceType, ShapeSnapshot};

/// Starts a mesh.
pub fn mesh() -> MeshBuilder {
    MeshBuilder::default()
}

/// A mesh in the making.
#[derive(Default)]
pub struct MeshBuilder {
    changes: Vec<Change>,
    created: u64,
}

/// A service in the making.
pub struct ServiceBuilder {
    service: Service,
    endpoints: Vec<Endpoint>,
}

/// Who asks.
#[derive(Clone)]
pub struct Client {
    pub proxy: Proxy,
}

/// What a client is told.
pub struct Seen {
    pub drafts: BTreeMap<(ResourceType, String), Draft>,
    pub notes: Vec<super::Note>,
}

// === impl MeshBuilder ===

impl MeshBuilder {
    /// A service of the namespace `default`; a name without a dot is a Kubernetes service.
    pub fn service(self, host: &str, with: impl FnOnce(ServiceBuilder) -> ServiceBuilder) -> Self {
        self.service_in("default", host, with)
    }

    /// As [`MeshBuilder::service`], in another namespace.
    pub fn service_in(
        mut self,
        namespace: &str,
        host: &str,
        with: impl FnOnce(ServiceBuilder) -> ServiceBuilder,
    ) -> Self {
        let host = if host.contains('.') { host.to_owned() } else { format!("{host}.{namespace}.svc.cluster.local") };
        self.created += 1;
        let made = with(ServiceBuilder {
            service: Service {
                key: ServiceKey::new(&host, namespace),
                addresses: Vec::new(),
                ports: Vec::new(),
                resolution: Resolution::Static,
                external: false,
                visibility: Visibility::Public,
                labels: Labels::new(),
                aliases: Vec::new(),
                created: self.created,
                registry: RegistryId("test".into()),
                origin: None,
                distribution: Distribution::default(),
            },
            endpoints: Vec::new(),
        });
        let service = MeshService::of(made.service, made.endpoints);
        self.changes.push(Change::Service(service.service.key.clone(), Some(Arc::new(service))));
        self
    }

    pub fn virtual_service(self, name: &str, spec: Value) -> Self {
        self.add("default", Kind::VirtualService, name, spec)
    }

    pub fn destination_rule(self, name: &str, spec: Value) -> Self {
        self.add("default", Kind::DestinationRule, name, spec)
    }

    pub fn gateway(self, name: &str, spec: Value) -> Self {
        self.add("default", Kind::Gateway, name, spec)
    }

    pub fn sidecar_resource(self, name: &str, spec: Value) -> Self {
        self.add("default", Kind::Sidecar, name, spec)
    }

    /// A resource of any kind in any namespace; later ones are younger.
    pub fn add(mut self, namespace: &str, kind: Kind, name: &str, spec: Value) -> Self {
        self.created += 1;
        let key = ResourceKey { kind, namespace: namespace.into(), name: name.into() };
        let meta = Meta {
            key: key.clone(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            created: self.created,
            source: SourceRef { file: format!("{name}.yaml").into(), line: 1, column: 1 },
        };
        fn read<T: serde::de::DeserializeOwned>(meta: Meta, spec: Value) -> Option<Arc<Resource<T>>> {
            Some(Arc::new(Resource { meta, spec: serde_json::from_value(spec).expect("a valid resource") }))
        }
        self.changes.push(match kind {
            Kind::VirtualService => Change::VirtualService(key, read(meta, spec)),
            Kind::DestinationRule => Change::DestinationRule(key, read(meta, spec)),
            Kind::Gateway => Change::Gateway(key, read(meta, spec)),
            Kind::Sidecar => Change::Sidecar(key, read(meta, spec)),
            other => panic!("{other:?} is not read by translation"),
        });
        self
    }

    pub fn settings(mut self, settings: Value) -> Self {
        let settings: MeshConfig = serde_json::from_value(settings).expect("a valid MeshConfig");
        self.changes.insert(0, Change::Settings(Arc::new(settings)));
        self
    }

    pub fn build(self) -> Mesh {
        apply(&Mesh::default(), self.changes).0
    }

    /// What a captured sidecar in `default` is told.
    pub fn sidecar(self) -> Seen {
        self.seen_by(&sidecar())
    }

    pub fn seen_by(self, client: &Client) -> Seen {
        client.look(&self.build())
    }
}

// === impl ServiceBuilder ===

impl ServiceBuilder {
    pub fn port(mut self, name: &str, number: u16, protocol: Protocol) -> Self {
        self.service.ports.push(Port { name: name.into(), number, protocol });
        self
    }

    pub fn http(self, number: u16) -> Self {
        self.port("http", number, Protocol::Http)
    }

    pub fn address(mut self, address: &str) -> Self {
        self.service.addresses.push(outbound::network(address).expect("an address"));
        self
    }

    pub fn alias(mut self, alias: &str) -> Self {
        self.service.aliases.push(alias.into());
        self
    }

    pub fn distribution(mut self, distribution: Distribution) -> Self {
        self.service.distribution = distribution;
        self
    }

    /// Anything else about it.
    pub fn with(mut self, change: impl FnOnce(&mut Service)) -> Self {
        change(&mut self.service);
        self
    }

    pub fn resolution(mut self, resolution: Resolution) -> Self {
        self.service.resolution = resolution;
        self
    }

    /// An instance with the label `version`.
    pub fn endpoint(self, ip: &str, version: &str) -> Self {
        self.endpoint_with(ip, |e| {
            e.labels.insert("version".into(), version.into());
        })
    }

    pub fn endpoint_with(mut self, address: &str, change: impl FnOnce(&mut Endpoint)) -> Self {
        let mut endpoint = Endpoint {
            address: address.parse().map_or_else(|_| Address::Dns(address.into()), Address::Ip),
            ports: BTreeMap::new(),
            labels: Labels::new(),
            locality: Locality::default(),
            weight: 1,
            service_account: None,
            workload: None,
            network: "".into(),
            node: None,
            health: Health::Healthy,
            app: BTreeMap::new(),
        };
        change(&mut endpoint);
        self.endpoints.push(endpoint);
        self
    }

    /// An instance whose application listens elsewhere, on every port.
    pub fn endpoint_for(self, ip: &str, app: &str) -> Self {
        let names: Vec<_> = self.service.ports.iter().map(|p| Arc::clone(&p.name)).collect();
        let app: SocketAddr = app.parse().expect("an address");
        self.endpoint_with(ip, |e| e.app = names.into_iter().map(|n| (n, app)).collect())
    }
}

/// A captured sidecar at 10.9.9.9 in the namespace `default`.
pub fn sidecar() -> Client {
    client(ProxyKind::Sidecar)
}

/// A gateway with the label `istio: ingressgateway`.
pub fn router() -> Client {
    client(ProxyKind::Router).label("istio", "ingressgateway")
}

/// A gRPC program.
pub fn grpc_client() -> Client {
    client(ProxyKind::Grpc)
}

fn client(kind: ProxyKind) -> Client {
    Client {
        proxy: Proxy {
            id: "sidecar~10.9.9.9~me.default~default.svc.cluster.local".into(),
            kind,
            ips: vec![IpAddr::from([10, 9, 9, 9])],
            name: "me".into(),
            namespace: "default".into(),
            dns_domain: "default.svc.cluster.local".into(),
            labels: Labels::new(),
            locality: Locality::default(),
            node: None,
            network: "".into(),
            cluster_id: "".into(),
            service_account: "".into(),
            interception: Interception::Redirect,
            http_proxy_port: None,
            version: "".into(),
            delta: true,
        },
    }
}

// === impl Client ===

impl Client {
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.proxy.labels.insert(key.into(), value.into());
        self
    }

    pub fn namespace(mut self, namespace: &str) -> Self {
        self.proxy.namespace = namespace.into();
        self.proxy.dns_domain = format!("{namespace}.svc.cluster.local").into();
        self
    }

    pub fn locality(mut self, locality: &str) -> Self {
        self.proxy.locality = Locality::parse(locality);
        self
    }

    pub fn node(mut self, node: &str) -> Self {
        self.proxy.node = Some(node.into());
        self
    }

    /// Not captured, on an address of its own, with an HTTP proxy port if one is given.
    pub fn explicit(mut self, ip: &str, http_proxy_port: Option<u16>) -> Self {
        self.proxy.interception = Interception::None;
        self.proxy.ips = vec![ip.parse().expect("an address")];
        self.proxy.http_proxy_port = http_proxy_port;
        self
    }

    pub fn at(mut self, ip: &str) -> Self {
        self.proxy.ips = vec![ip.parse().expect("an address")];
        self
    }

    /// A client of the state of the world: virtual hosts come inside of their tables.
    pub fn state_of_the_world(mut self) -> Self {
        self.proxy.delta = false;
        self
    }

    /// Everything that translation makes for this client.
    pub fn look(&self, mesh: &Mesh) -> Seen {
        let shape = mesh.outbound_shape(&self.proxy);
        let scope = mesh.scope(&shape);
        let view = View { mesh, shape: &shape, scope: &scope };
        let mut drafts = outbound::fixed(&view);
        let mut tables: BTreeMap<Arc<str>, Vec<Draft>> = BTreeMap::new();
        let mut keys = std::collections::BTreeSet::new();
        let services: Vec<&MeshService> =
            mesh.hosts().filter_map(|h| mesh.service_in(h, &scope)).map(|s| &**s).collect();
        for service in &services {
            drafts.extend(outbound::service_resources(&view, service));
            if self.proxy.kind == ProxyKind::Grpc {
                drafts.extend(grpc::service_resources(&view, service));
            }
            if self.proxy.kind == ProxyKind::Sidecar {
                for table in outbound::route_names(&view, service) {
                    let hosts = outbound::virtual_hosts(&view, &table, service.host());
                    tables.entry(table).or_default().extend(hosts);
                }
                keys.extend(outbound::listener_keys(&view, service));
            }
        }
        let proxies = outbound::proxy_tables(&view);
        for table in &proxies {
            tables.entry(Arc::clone(table)).or_default();
        }
        for host in mesh.rule_only_hosts(&scope) {
            for (table, hosts) in tables.iter_mut().filter(|(name, _)| &***name == "80" || proxies.contains(name)) {
                hosts.extend(outbound::virtual_hosts(&view, table, &host));
            }
        }
        drafts.extend(keys.iter().filter_map(|key| outbound::listener(&view, key, &services)));
        for (table, mut hosts) in tables {
            hosts.sort_by(|a, b| a.name.cmp(&b.name));
            let bodies: Vec<_> = hosts.iter().map(|h| h.body.clone()).collect();
            drafts.push(outbound::route_frame(&view, &table, &bodies));
            drafts.extend(hosts);
        }
        drafts.extend(gateway::resources(&view));
        let inbound_shape = mesh.inbound_shape(&self.proxy);
        let inbound = match self.proxy.kind {
            ProxyKind::Grpc => grpc::inbound(&inbound_shape),
            _ => inbound::resources(mesh, &inbound_shape),
        };
        let mut seen = Seen { drafts: BTreeMap::new(), notes: gateway::notes(&view) };
        for draft in drafts {
            let name = draft.name.to_string();
            let previous = seen.drafts.insert((draft.kind, name.clone()), draft);
            assert!(previous.is_none(), "{name} is made twice");
        }
        // An address that both would bind is the workload's own.
        seen.drafts.extend(inbound.into_iter().map(|draft| ((draft.kind, draft.name.to_string()), draft)));
        seen
    }
}

// === impl Seen ===

impl Seen {
    pub fn names(&self, kind: ResourceType) -> Vec<&str> {
        self.drafts.keys().filter(|(k, _)| *k == kind).map(|(_, name)| name.as_str()).collect()
    }

    pub fn has(&self, kind: ResourceType, name: &str) -> bool {
        self.drafts.contains_key(&(kind, name.to_owned()))
    }

    fn get<M: Message + Default>(&self, kind: ResourceType, name: &str) -> M {
        let draft = self.drafts.get(&(kind, name.to_owned()));
        let draft = draft.unwrap_or_else(|| panic!("no {kind} {name}; there are {:?}", self.names(kind)));
        M::decode(draft.body.clone()).expect("decodes")
    }

    pub fn cluster(&self, name: &str) -> Cluster {
        self.get(ResourceType::Cluster, name)
    }

    pub fn endpoints(&self, name: &str) -> ClusterLoadAssignment {
        self.get(ResourceType::Endpoint, name)
    }

    /// `ip:port` of every endpoint, sorted.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        addresses(&self.endpoints(name))
    }

    pub fn listener(&self, name: &str) -> Listener {
        self.get(ResourceType::Listener, name)
    }

    pub fn table(&self, name: &str) -> RouteConfiguration {
        self.get(ResourceType::Route, name)
    }

    pub fn host(&self, table: &str, name: &str) -> VirtualHost {
        self.get(ResourceType::VirtualHost, &format!("{table}/{name}"))
    }

    /// The virtual host as proto3 JSON.
    pub fn host_json(&self, table: &str, name: &str) -> Value {
        json(&self.host(table, name))
    }

    /// Where and why: the documents that a resource comes from.
    pub fn origins(&self, kind: ResourceType, name: &str) -> Vec<String> {
        self.drafts[&(kind, name.to_owned())].origins.iter().map(|o| o.file.to_string()).collect()
    }

    pub fn snapshot(&self) -> ShapeSnapshot {
        let mut snapshot = ShapeSnapshot::default();
        for draft in self.drafts.values().cloned() {
            let kind = draft.kind;
            let sealed = Arc::new(draft.seal());
            snapshot.sets[kind as usize].insert(Arc::clone(&sealed.name), sealed);
        }
        snapshot
    }

    /// One complete configuration for Envoy.
    pub fn bootstrap(&self) -> Value {
        let node = Node { id: "test".into(), cluster: "test".into(), ..Default::default() };
        let made = super::static_config::bootstrap(&self.snapshot(), node, SocketAddr::from(([127, 0, 0, 1], 0)));
        json(&made.expect("decodes"))
    }
}

/// Proto3 JSON, its fields written `likeThis`.
pub fn json<M: Message + Name>(message: &M) -> Value {
    fn camel(value: Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .into_iter()
                .map(|(key, value)| {
                    let mut parts = key.split('_');
                    let first = parts.next().unwrap_or_default().to_owned();
                    // Names of filters are keys of maps, and no fields.
                    let name = if key.contains('.') {
                        key.clone()
                    } else {
                        parts.fold(first, |name, part| name + &part[..1].to_ascii_uppercase() + &part[1..])
                    };
                    (name, camel(value))
                })
                .collect(),
            Value::Array(items) => items.into_iter().map(camel).collect(),
            other => other,
        }
    }
    camel(xebec_proto::json::encode(message).expect("has JSON"))
}

/// `ip:port` of every endpoint, sorted.
pub fn addresses(list: &ClusterLoadAssignment) -> Vec<String> {
    let json = json(list);
    let mut found: Vec<String> = json["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|l| l["lbEndpoints"].as_array().cloned().unwrap_or_default())
        .map(|e| {
            let at = &e["endpoint"]["address"]["socketAddress"];
            format!("{}:{}", at["address"].as_str().unwrap_or("?"), at["portValue"])
        })
        .collect();
    found.sort();
    found
}

/// The connection manager of a chain.
pub fn http(chain: &FilterChain) -> HttpConnectionManager {
    unpacked(chain)
}

/// The TCP proxy of a chain.
pub fn tcp(chain: &FilterChain) -> TcpProxy {
    unpacked(chain)
}

fn unpacked<M: Message + Name + Default>(chain: &FilterChain) -> M {
    let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else { panic!("no config") };
    xebec_proto::any::unpack(any).expect("the wanted filter")
}
