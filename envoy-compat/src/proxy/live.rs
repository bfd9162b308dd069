//! A snapshot with everything resolved that a request would otherwise have to look up.

use super::log::{LiveLog, Sinks};
use super::stats::{HttpStats, ListenerStats, Sharded, StatsSnapshot, TcpStats};
use super::upstream::{LiveCluster, Resolved};
use crate::model::{
    Fault, FilterChain, Health, HttpConnectionManager, HttpFilter, Listener, NetworkFilter, RouteSource, RouteTable,
    Snapshot, TcpProxy,
};
use http::HeaderValue;
use rustc_hash::FxHashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// What a listener is bound as. A port of 0 is a different socket for every listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BindKey {
    pub address: SocketAddr,
    pub owner: Option<Arc<str>>,
}

/// The configuration that workers read.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub snapshot: Arc<Snapshot>,
    pub clusters: FxHashMap<Arc<str>, Arc<LiveCluster>>,
    pub listeners: FxHashMap<Arc<str>, Arc<LiveListener>>,
    pub by_bind: FxHashMap<BindKey, Arc<LiveListener>>,
    /// Listeners that are never bound, by the destination they stand for.
    pub by_destination: FxHashMap<SocketAddr, Arc<LiveListener>>,
}

#[derive(Debug)]
pub(super) struct LiveListener {
    pub config: Arc<Listener>,
    pub stats: Arc<Sharded<ListenerStats>>,
    pub chains: Vec<Arc<LiveChain>>,
    /// Connections, all workers; shared with the listener's next version.
    pub connections: Arc<AtomicU32>,
}

#[derive(Debug)]
pub(super) struct LiveChain {
    pub chain: Arc<FilterChain>,
    pub filter: LiveFilter,
}

#[derive(Debug)]
pub(super) enum LiveFilter {
    Http(Arc<LiveHttp>),
    Tcp(Arc<LiveTcp>),
}

#[derive(Debug)]
pub(super) struct LiveHttp {
    pub config: Arc<HttpConnectionManager>,
    pub stats: Arc<Sharded<HttpStats>>,
    pub logs: Vec<LiveLog>,
    /// Some log names a response header other than the service time.
    pub log_response_headers: bool,
    pub suppress_envoy_headers: bool,
    pub server: HeaderValue,
    /// The chain has a fault filter, with this policy of its own.
    pub fault: Option<Arc<Fault>>,
    pub cors: bool,
}

#[derive(Debug)]
pub(super) struct LiveTcp {
    pub config: Arc<TcpProxy>,
    pub stats: Arc<Sharded<TcpStats>>,
    pub logs: Vec<LiveLog>,
    pub total: u64,
}

/// What outlives a snapshot.
#[derive(Default)]
pub(super) struct Registry {
    http: FxHashMap<Arc<str>, Arc<Sharded<HttpStats>>>,
    tcp: FxHashMap<Arc<str>, Arc<Sharded<TcpStats>>>,
    listeners: FxHashMap<Arc<str>, Arc<Sharded<ListenerStats>>>,
}

// === impl BindKey ===

impl BindKey {
    pub fn all(listener: &Listener) -> impl Iterator<Item = Self> + '_ {
        std::iter::once(listener.address)
            .chain(listener.more_addresses.iter().copied())
            .map(|address| Self { address, owner: (address.port() == 0).then(|| listener.name.clone()) })
    }
}

// === impl Live ===

impl Live {
    pub fn build(
        snapshot: Arc<Snapshot>,
        old: &Self,
        registry: &mut Registry,
        resolved: &Resolved,
        resolved_changed: bool,
        sinks: &Sinks,
        workers: usize,
    ) -> Self {
        let mut live = Self { snapshot: snapshot.clone(), ..Self::default() };
        live.clusters.reserve(snapshot.clusters.len());
        for (name, entry) in &snapshot.clusters {
            let before = old.clusters.get(name);
            let same = before.filter(|before| {
                Arc::ptr_eq(&before.config, &entry.cluster)
                    && Arc::ptr_eq(&before.endpoints, &entry.endpoints)
                    && !(resolved_changed && needs_names(entry))
            });
            let cluster = match same {
                Some(same) => same.clone(),
                None => Arc::new(LiveCluster::new(entry, before.map(|before| &**before), resolved, workers)),
            };
            live.clusters.insert(name.clone(), cluster);
        }
        for (name, cluster) in &old.clusters {
            if !live.clusters.contains_key(name) {
                cluster.retire();
            }
        }
        for config in &snapshot.listeners {
            let before = old.listeners.get(&config.name);
            let listener = match before.filter(|before| Arc::ptr_eq(&before.config, config)) {
                Some(same) => same.clone(),
                None => Arc::new(LiveListener::new(config, before.map(|before| &**before), registry, sinks, workers)),
            };
            if config.bind_to_port {
                for key in BindKey::all(config) {
                    live.by_bind.entry(key).or_insert_with(|| listener.clone());
                }
            } else {
                live.by_destination.entry(config.address).or_insert_with(|| listener.clone());
            }
            live.listeners.insert(config.name.clone(), listener);
        }
        live
    }

    /// The unbound listener for an original destination: the address itself, or any address with its port.
    pub fn for_destination(&self, destination: SocketAddr) -> Option<&Arc<LiveListener>> {
        let any = |ip: IpAddr| self.by_destination.get(&SocketAddr::new(ip, destination.port()));
        self.by_destination
            .get(&destination)
            .or_else(|| destination.is_ipv4().then(|| any(Ipv4Addr::UNSPECIFIED.into())).flatten())
            .or_else(|| any(Ipv6Addr::UNSPECIFIED.into()))
    }

    /// The route table of a connection manager.
    pub fn routes<'a>(&'a self, http: &'a HttpConnectionManager) -> Option<&'a Arc<RouteTable>> {
        match &http.routes {
            RouteSource::Inline(table) => Some(table),
            RouteSource::Rds(name) => self.snapshot.routes.get(name),
        }
    }
}

fn needs_names(entry: &crate::model::ClusterEntry) -> bool {
    entry.endpoints.iter().any(|(_, endpoint)| matches!(endpoint.address, crate::model::EndpointAddress::Name { .. }))
}

// === impl LiveListener ===

impl LiveListener {
    fn new(config: &Arc<Listener>, old: Option<&Self>, registry: &mut Registry, sinks: &Sinks, workers: usize) -> Self {
        let stats =
            registry.listeners.entry(config.stat_name.clone()).or_insert_with(|| Arc::new(Sharded::new(workers)));
        let stats = stats.clone();
        let chains = config
            .chains
            .iter()
            .chain(&config.default_chain)
            .map(|chain| Arc::new(LiveChain::new(chain, registry, sinks, workers)))
            .collect();
        let connections = old.map(|old| old.connections.clone()).unwrap_or_default();
        Self { config: config.clone(), stats, chains, connections }
    }

    /// The chain for a connection.
    pub fn chain(&self, facts: &crate::model::ConnectionFacts) -> Option<&Arc<LiveChain>> {
        let wanted = self.config.chain(facts)?;
        self.chains.iter().find(|live| Arc::ptr_eq(&live.chain, wanted))
    }
}

// === impl LiveChain ===

impl LiveChain {
    fn new(chain: &Arc<FilterChain>, registry: &mut Registry, sinks: &Sinks, workers: usize) -> Self {
        let filter = match &chain.filter {
            NetworkFilter::Http(config) => {
                let stats =
                    registry.http.entry(config.stat_prefix.clone()).or_insert_with(|| Arc::new(Sharded::new(workers)));
                LiveFilter::Http(Arc::new(LiveHttp::new(config, stats.clone(), sinks)))
            }
            NetworkFilter::Tcp(config) => {
                let stats =
                    registry.tcp.entry(config.stat_prefix.clone()).or_insert_with(|| Arc::new(Sharded::new(workers)));
                LiveFilter::Tcp(Arc::new(LiveTcp {
                    config: config.clone(),
                    stats: stats.clone(),
                    logs: config.access_logs.iter().map(|log| LiveLog::new(log, sinks)).collect(),
                    total: config.clusters.iter().map(|choice| u64::from(choice.weight)).sum(),
                }))
            }
        };
        Self { chain: chain.clone(), filter }
    }
}

// === impl LiveHttp ===

impl LiveHttp {
    fn new(config: &Arc<HttpConnectionManager>, stats: Arc<Sharded<HttpStats>>, sinks: &Sinks) -> Self {
        let logs: Vec<LiveLog> = config.access_logs.iter().map(|log| LiveLog::new(log, sinks)).collect();
        Self {
            log_response_headers: logs.iter().any(LiveLog::needs_response_headers),
            suppress_envoy_headers: config
                .filters
                .iter()
                .any(|filter| matches!(filter, HttpFilter::Router { suppress_envoy_headers: true })),
            server: HeaderValue::from_str(&config.server_name).unwrap_or(HeaderValue::from_static("envoy")),
            fault: config.filters.iter().find_map(|filter| match filter {
                HttpFilter::Fault(fault) => Some(fault.clone()),
                _ => None,
            }),
            cors: config.filters.iter().any(|filter| matches!(filter, HttpFilter::Cors)),
            config: config.clone(),
            stats,
            logs,
        }
    }
}

// === impl Registry ===

impl Registry {
    /// Adds all statistics to `stats`.
    pub fn collect(&self, live: &Live, stats: &mut StatsSnapshot) {
        for cluster in live.clusters.values() {
            let prefix = format!("cluster.{}", cluster.config.stat_name);
            stats.add(&prefix, &cluster.shared.stats);
            let of = |health| cluster.hosts_in(health).filter(|host| !cluster.is_ejected(host)).count() as u64;
            stats.gauges.push((format!("{prefix}.membership_total"), cluster.hosts.len() as u64));
            stats.gauges.push((format!("{prefix}.membership_healthy"), of(Health::Healthy)));
            stats.gauges.push((format!("{prefix}.membership_degraded"), of(Health::Degraded)));
        }
        for (name, blocks) in &self.http {
            stats.add(&format!("http.{name}"), blocks);
        }
        for (name, blocks) in &self.tcp {
            stats.add(&format!("tcp.{name}"), blocks);
        }
        for (name, blocks) in &self.listeners {
            stats.add(&format!("listener.{name}"), blocks);
        }
    }
}
