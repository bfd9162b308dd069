//! A part: the outbound resources of one [`OutboundShape`], kept up to date host by host.
//!
//! The pieces that translation makes are small: the clusters and endpoints of a host, its virtual hosts, a listener, the frame of
//! a route table. A part remembers which pieces each host has, so that a change computes the pieces of the hosts that it touches
//! and compares their hashes; equal ones are not replaced.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use super::dirty::{Dirt, Dirty};
use super::pool::Pool;
use crate::mesh::Mesh;
use crate::model::Resolution;
use crate::proxy::{OutboundShape, ProxyKind};
use crate::resources::{Delta, Encoded, ResourceSet, ResourceType};
use crate::translate::outbound::{self, ListenerClass, ListenerKey};
use crate::translate::{Draft, View, gateway, grpc};

/// The outbound resources of one shape.
#[derive(Debug)]
pub struct Part {
    shape: Arc<OutboundShape>,
    sets: [ResourceSet; 5],
    /// All virtual hosts, whether they are served one by one or inside their tables.
    virtual_hosts: ResourceSet,
    hosts: HashMap<Arc<str>, Pieces, FxBuildHasher>,
    /// How many services are in each route table.
    tables: BTreeMap<Arc<str>, usize>,
    listeners: BTreeMap<ListenerKey, Members>,
    /// The route tables of the client's HTTP proxies, which need no service to exist.
    proxies: Vec<Arc<str>>,
    /// Names of what does not belong to a host.
    fixed: BTreeSet<(ResourceType, Arc<str>)>,
}

/// What a host has in the part.
#[derive(Debug, Default)]
struct Pieces {
    clusters: Vec<Arc<str>>,
    endpoints: Vec<Arc<str>>,
    virtual_hosts: Vec<Arc<str>>,
    tables: Vec<Arc<str>>,
    listeners: Vec<(ListenerKey, Option<ListenerClass>)>,
    /// Listeners and routes of its own, where they are not shared.
    own: Vec<(ResourceType, Arc<str>)>,
}

/// Who is on a listener.
#[derive(Debug, Default)]
struct Members {
    alike: BTreeMap<ListenerClass, BTreeSet<Arc<str>>>,
    single: BTreeSet<Arc<str>>,
}

/// What translation said about one host.
struct Computed {
    host: Arc<str>,
    dirt: Dirt,
    resources: Vec<Encoded>,
    kinds: Vec<ResourceType>,
    tables: Vec<Arc<str>>,
    listeners: Vec<(ListenerKey, Option<ListenerClass>)>,
}

/// What has been computed so far, for tests and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Hosts that were translated, wholly or partly.
    pub hosts: u64,
    /// Listeners and route tables that were translated.
    pub shared: u64,
}

/// What differs, gathered while a part is brought up to date.
#[derive(Debug, Default)]
struct Differences {
    names: [BTreeSet<Arc<str>>; 5],
}

/// Route tables that may be different, and whether they have come into being.
type Touched = BTreeMap<Arc<str>, bool>;

/// Where it pays to use several cores.
const MANY: usize = 512;

// === impl Part ===

impl Part {
    /// Computes everything for a shape.
    pub fn new(mesh: &Mesh, shape: Arc<OutboundShape>, pool: &mut Pool, work: &mut Work) -> Self {
        let mut part = Self {
            shape,
            sets: Default::default(),
            virtual_hosts: Default::default(),
            hosts: Default::default(),
            tables: Default::default(),
            listeners: Default::default(),
            proxies: Default::default(),
            fixed: Default::default(),
        };
        part.update(mesh, Dirty { everything: true, ..Dirty::default() }, pool, work);
        part
    }

    /// Its shape.
    pub fn shape(&self) -> &Arc<OutboundShape> {
        &self.shape
    }

    /// Its resources.
    pub fn sets(&self) -> &[ResourceSet; 5] {
        &self.sets
    }

    /// The hosts that it has anything for.
    pub fn hosts(&self) -> Vec<Arc<str>> {
        self.hosts.keys().cloned().collect()
    }

    /// Computes what is dirty again, and says what came out different.
    pub fn update(&mut self, mesh: &Mesh, mut dirty: Dirty, pool: &mut Pool, work: &mut Work) -> Delta {
        let scope = mesh.scope(&self.shape);
        let shape = Arc::clone(&self.shape);
        let view = View { mesh, shape: &shape, scope: &scope };
        let mut differences = Differences::default();
        let mut tables = Touched::new();
        if dirty.everything {
            let known = self.hosts.keys().chain(mesh.hosts()).cloned();
            dirty.hosts = known.chain(mesh.rule_only_hosts(&scope)).map(|host| (host, Dirt::ALL)).collect();
            dirty.frames = true;
            let before = std::mem::replace(&mut self.proxies, outbound::proxy_tables(&view));
            tables.extend(before.into_iter().map(|table| (table, false)));
        }
        let todo: Vec<(Arc<str>, Dirt)> =
            dirty.hosts.into_iter().filter(|(host, _)| self.concerns(mesh, host)).collect();
        work.hosts += todo.len() as u64;
        let mut listeners = BTreeSet::new();
        for computed in compute(&view, &todo) {
            self.place(computed, &mut tables, &mut listeners, pool, &mut differences);
        }
        if dirty.frames {
            for table in self.tables.keys().chain(&self.proxies).cloned() {
                tables.entry(table).or_default();
            }
        }
        if dirty.everything {
            listeners.extend(self.listeners.keys().cloned());
        }
        work.shared += (tables.len() + listeners.len()) as u64;
        for (table, appeared) in tables {
            self.frame(&view, &table, appeared, pool, &mut differences);
        }
        for key in listeners {
            self.listener(&view, &key, pool, &mut differences);
        }
        if dirty.everything || (dirty.gateway && self.shape.kind == ProxyKind::Router) {
            self.place_fixed(&view, pool, &mut differences);
        }
        differences.into_delta()
    }

    /// Hosts that neither exist nor existed here are guesses; nothing is computed for them.
    fn concerns(&self, mesh: &Mesh, host: &str) -> bool {
        self.hosts.contains_key(host) || !mesh.services_named(host).is_empty() || !mesh.rules_with_host(host).is_empty()
    }

    fn place(
        &mut self,
        computed: Computed,
        tables: &mut Touched,
        listeners: &mut BTreeSet<ListenerKey>,
        pool: &mut Pool,
        differences: &mut Differences,
    ) {
        let Computed { host, dirt, resources, kinds, tables: in_tables, listeners: on_listeners } = computed;
        let mut pieces = self.hosts.remove(&host).unwrap_or_default();
        let mut fresh = Pieces::default();
        for (resource, kind) in resources.into_iter().zip(kinds) {
            let name = Arc::clone(&resource.name);
            match kind {
                ResourceType::Cluster => fresh.clusters.push(name),
                ResourceType::Endpoint => fresh.endpoints.push(name),
                ResourceType::VirtualHost => fresh.virtual_hosts.push(name),
                ResourceType::Listener | ResourceType::Route => fresh.own.push((kind, name)),
            }
            if kind == ResourceType::VirtualHost {
                self.put_virtual_host(resource, tables, pool, differences);
            } else {
                self.put(kind, resource, pool, differences);
            }
        }
        if dirt.has(Dirt::CLUSTERS) {
            self.replace(ResourceType::Cluster, &mut pieces.clusters, fresh.clusters, differences);
        }
        if dirt.has(Dirt::CLUSTERS.and(Dirt::ENDPOINTS)) {
            self.replace(ResourceType::Endpoint, &mut pieces.endpoints, fresh.endpoints, differences);
        }
        if dirt.has(Dirt::ROUTES) {
            for gone in pieces.virtual_hosts.iter().filter(|n| !fresh.virtual_hosts.contains(n)) {
                if let (Some(_), Some(table)) = (self.virtual_hosts.remove(gone), table_of(gone)) {
                    tables.entry(table).or_default();
                }
                self.drop_resource(ResourceType::VirtualHost, gone, differences);
            }
            pieces.virtual_hosts = fresh.virtual_hosts;
            self.move_tables(&mut pieces.tables, in_tables, tables);
        }
        if dirt.has(Dirt::LISTENERS) {
            self.move_listeners(&host, &mut pieces.listeners, on_listeners, listeners);
        }
        if self.shape.kind == ProxyKind::Grpc {
            for (kind, gone) in pieces.own.iter().filter(|o| !fresh.own.contains(o)) {
                self.drop_resource(*kind, gone, differences);
            }
            pieces.own = fresh.own;
        }
        if !pieces.is_empty() {
            self.hosts.insert(host, pieces);
        }
    }

    fn replace(
        &mut self,
        kind: ResourceType,
        old: &mut Vec<Arc<str>>,
        new: Vec<Arc<str>>,
        differences: &mut Differences,
    ) {
        for gone in old.iter().filter(|n| !new.contains(n)) {
            self.drop_resource(kind, gone, differences);
        }
        *old = new;
    }

    fn move_tables(&mut self, old: &mut Vec<Arc<str>>, new: Vec<Arc<str>>, touched: &mut Touched) {
        for gone in old.iter().filter(|t| !new.contains(t)) {
            let empty = self.tables.get_mut(gone).is_some_and(|count| {
                *count -= 1;
                *count == 0
            });
            if empty {
                self.tables.remove(gone);
                touched.entry(Arc::clone(gone)).or_default();
            }
        }
        for table in new.iter().filter(|t| !old.contains(t)) {
            let count = self.tables.entry(Arc::clone(table)).or_default();
            *count += 1;
            if *count == 1 {
                touched.insert(Arc::clone(table), true);
            }
        }
        *old = new;
    }

    fn move_listeners(
        &mut self,
        host: &Arc<str>,
        old: &mut Vec<(ListenerKey, Option<ListenerClass>)>,
        new: Vec<(ListenerKey, Option<ListenerClass>)>,
        touched: &mut BTreeSet<ListenerKey>,
    ) {
        for (key, class) in old.iter() {
            // One that matters by itself touches its listener in any case; one of many only when it comes or goes as the only one.
            let Some(members) = self.listeners.get_mut(key) else { continue };
            match class {
                None => {
                    members.single.remove(host);
                    touched.insert(key.clone());
                }
                Some(class) if !new.contains(&(key.clone(), Some(*class))) => {
                    let emptied =
                        members.alike.get_mut(class).is_some_and(|alike| alike.remove(host) && alike.is_empty());
                    if emptied {
                        members.alike.remove(class);
                        touched.insert(key.clone());
                    }
                }
                Some(_) => {}
            }
        }
        for (key, class) in &new {
            let members = self.listeners.entry(key.clone()).or_default();
            let matters = match class {
                None => {
                    members.single.insert(Arc::clone(host));
                    true
                }
                Some(class) => {
                    let alike = members.alike.entry(*class).or_default();
                    alike.insert(Arc::clone(host));
                    alike.len() == 1 && !old.contains(&(key.clone(), Some(*class)))
                }
            };
            if matters {
                touched.insert(key.clone());
            }
        }
        *old = new;
    }

    fn put_virtual_host(
        &mut self,
        resource: Encoded,
        tables: &mut Touched,
        pool: &mut Pool,
        differences: &mut Differences,
    ) {
        if let Some(old) = self.virtual_hosts.get(&resource.name).filter(|old| old.version == resource.version) {
            if old.origins != resource.origins {
                let resource = pool.share(ResourceType::VirtualHost, resource);
                restate(&mut self.sets[ResourceType::VirtualHost as usize], &resource);
                restate(&mut self.virtual_hosts, &resource);
            }
            return;
        }
        let resource = pool.share(ResourceType::VirtualHost, resource);
        let Some(table) = table_of(&resource.name) else { return };
        self.virtual_hosts.insert(Arc::clone(&resource.name), Arc::clone(&resource));
        let served = self.shape.vhds && self.has_table(&table);
        tables.entry(table).or_default();
        if served {
            differences.names[ResourceType::VirtualHost as usize].insert(Arc::clone(&resource.name));
            self.sets[ResourceType::VirtualHost as usize].insert(Arc::clone(&resource.name), resource);
        }
    }

    fn has_table(&self, table: &str) -> bool {
        self.tables.contains_key(table) || self.proxies.iter().any(|proxy| **proxy == *table)
    }

    /// Brings a route table, and the virtual hosts that are served beside it, in line with who is in it.
    fn frame(
        &mut self,
        view: &View<'_>,
        table: &Arc<str>,
        appeared: bool,
        pool: &mut Pool,
        differences: &mut Differences,
    ) {
        let prefix: Arc<str> = format!("{table}/").into();
        let within = |set: &ResourceSet| -> Vec<(Arc<str>, Arc<Encoded>)> {
            let from: (std::ops::Bound<Arc<str>>, std::ops::Bound<Arc<str>>) =
                (std::ops::Bound::Included(Arc::clone(&prefix)), std::ops::Bound::Unbounded);
            set.range::<_, Arc<str>>(from)
                .take_while(|(name, _)| name.starts_with(&*prefix))
                .map(|(n, r)| (Arc::clone(n), Arc::clone(r)))
                .collect()
        };
        let exists = self.has_table(table);
        let new = appeared || !self.sets[ResourceType::Route as usize].contains_key(table);
        if exists && self.shape.vhds && new {
            // Virtual hosts may have waited for it.
            for (name, resource) in within(&self.virtual_hosts) {
                self.put_arc(ResourceType::VirtualHost, name, resource, differences);
            }
        }
        if !exists {
            for (name, _) in within(&self.sets[ResourceType::VirtualHost as usize]) {
                self.drop_resource(ResourceType::VirtualHost, &name, differences);
            }
            self.drop_resource(ResourceType::Route, table, differences);
            return;
        }
        let bodies: Vec<Bytes> = if self.shape.vhds {
            Vec::new()
        } else {
            within(&self.virtual_hosts).into_iter().map(|(_, r)| r.body.clone()).collect()
        };
        let draft = outbound::route_frame(view, table, &bodies);
        self.put(ResourceType::Route, draft.seal(), pool, differences);
    }

    fn listener(&mut self, view: &View<'_>, key: &ListenerKey, pool: &mut Pool, differences: &mut Differences) {
        let made = self.listeners.get(key).and_then(|members| {
            let alike = members.alike.values().filter_map(|hosts| hosts.first());
            let services: Vec<_> = alike
                .chain(&members.single)
                .filter_map(|host| view.mesh.service_in(host, view.scope))
                .map(|s| &**s)
                .collect();
            outbound::listener(view, key, &services)
        });
        match made {
            Some(draft) => self.put(ResourceType::Listener, draft.seal(), pool, differences),
            None => {
                self.drop_resource(ResourceType::Listener, &Arc::from(key.to_string()), differences);
            }
        }
        if self.listeners.get(key).is_some_and(|m| m.single.is_empty() && m.alike.is_empty()) {
            self.listeners.remove(key);
        }
    }

    fn place_fixed(&mut self, view: &View<'_>, pool: &mut Pool, differences: &mut Differences) {
        let mut drafts = outbound::fixed(view);
        if self.shape.kind == ProxyKind::Router {
            drafts.extend(gateway::resources(view));
        }
        let mut fresh = BTreeSet::new();
        for draft in drafts {
            let kind = draft.kind;
            fresh.insert((kind, Arc::clone(&draft.name)));
            self.put(kind, draft.seal(), pool, differences);
        }
        let gone: Vec<_> = self.fixed.difference(&fresh).cloned().collect();
        for (kind, name) in gone {
            self.drop_resource(kind, &name, differences);
        }
        self.fixed = fresh;
    }

    fn put(&mut self, kind: ResourceType, resource: Encoded, pool: &mut Pool, differences: &mut Differences) {
        if let Some(old) = self.sets[kind as usize].get(&resource.name).filter(|old| old.version == resource.version) {
            if old.origins != resource.origins {
                restate(&mut self.sets[kind as usize], &pool.share(kind, resource));
            }
            return;
        }
        let resource = pool.share(kind, resource);
        self.put_arc(kind, Arc::clone(&resource.name), resource, differences);
    }

    fn put_arc(&mut self, kind: ResourceType, name: Arc<str>, resource: Arc<Encoded>, differences: &mut Differences) {
        let same = self.sets[kind as usize].get(&name).is_some_and(|old| old.version == resource.version);
        if !same {
            differences.names[kind as usize].insert(Arc::clone(&name));
            self.sets[kind as usize].insert(name, resource);
        }
    }

    fn drop_resource(&mut self, kind: ResourceType, name: &Arc<str>, differences: &mut Differences) {
        if self.sets[kind as usize].remove(name).is_some() {
            differences.names[kind as usize].insert(Arc::clone(name));
        }
    }
}

/// Replaces a resource by one of the same content that was made from other documents. Clients need not be told; a later refusal
/// names the right documents.
fn restate(set: &mut ResourceSet, resource: &Arc<Encoded>) {
    if let Some(held) = set.get_mut(&resource.name) {
        *held = Arc::clone(resource);
    }
}

fn table_of(virtual_host: &str) -> Option<Arc<str>> {
    virtual_host.split_once('/').map(|(table, _)| table.into())
}

/// Translates hosts, on several cores when there are many. Answers in the order of the hosts.
fn compute(view: &View<'_>, todo: &[(Arc<str>, Dirt)]) -> Vec<Computed> {
    let one =
        |part: &[(Arc<str>, Dirt)]| part.iter().map(|(host, dirt)| compute_host(view, host, *dirt)).collect::<Vec<_>>();
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    if todo.len() < MANY || cores == 1 {
        return one(todo);
    }
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            todo.chunks(todo.len().div_ceil(cores)).map(|part| (part, scope.spawn(move || one(part)))).collect();
        // A panic in translation is a bug; it is met again, and reported, on this thread.
        threads.into_iter().flat_map(|(part, thread)| thread.join().unwrap_or_else(|_| one(part))).collect()
    })
}

fn compute_host(view: &View<'_>, host: &Arc<str>, mut dirt: Dirt) -> Computed {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut tables = Vec::new();
    let mut listeners = Vec::new();
    let service = view.mesh.service_in(host, view.scope).map(|s| &**s);
    match (view.shape.kind, service) {
        (ProxyKind::Grpc, service) => {
            // Few resources, made together.
            dirt = Dirt::ALL;
            if let Some(service) = service {
                drafts.extend(outbound::service_resources(view, service));
                drafts.extend(grpc::service_resources(view, service));
            }
        }
        (kind, Some(service)) => {
            // Where endpoints are not simply pushed, whether there are any may decide how they are found.
            let pushed =
                service.service.resolution == Resolution::Static && !outbound::endpoints_shape_clusters(view, service);
            if dirt.has(Dirt::ENDPOINTS) && !pushed {
                dirt = dirt.and(Dirt::CLUSTERS);
            }
            if dirt.has(Dirt::CLUSTERS) {
                drafts.extend(outbound::service_resources(view, service));
            } else if dirt.has(Dirt::ENDPOINTS) {
                drafts.extend(outbound::endpoint_resources(view, service));
            }
            if dirt.has(Dirt::ROUTES) && kind == ProxyKind::Sidecar {
                tables = outbound::route_names(view, service);
                drafts.extend(tables.iter().flat_map(|table| outbound::virtual_hosts(view, table, host)));
            }
            if dirt.has(Dirt::LISTENERS) && kind == ProxyKind::Sidecar {
                let class = |key: ListenerKey| {
                    let class = outbound::listener_class(view, &key, service);
                    (key, class)
                };
                listeners = outbound::listener_keys(view, service).into_iter().map(class).collect();
            }
        }
        (ProxyKind::Sidecar, None) if dirt.has(Dirt::ROUTES) && view.mesh.is_rule_only_host(host, view.scope) => {
            drafts.extend(outbound::virtual_hosts(view, "80", host));
            for table in outbound::proxy_tables(view).iter().filter(|table| ***table != *"80") {
                drafts.extend(outbound::virtual_hosts(view, table, host));
            }
        }
        (_, None) => {}
    }
    let kinds = drafts.iter().map(|d| d.kind).collect();
    Computed {
        host: Arc::clone(host),
        dirt,
        resources: drafts.into_iter().map(Draft::seal).collect(),
        kinds,
        tables,
        listeners,
    }
}

// === impl Pieces ===

impl Pieces {
    fn is_empty(&self) -> bool {
        self.clusters.is_empty()
            && self.endpoints.is_empty()
            && self.virtual_hosts.is_empty()
            && self.tables.is_empty()
            && self.listeners.is_empty()
            && self.own.is_empty()
    }
}

// === impl Differences ===

impl Differences {
    fn into_delta(self) -> Delta {
        Delta { names: self.names.map(|names| names.into_iter().collect()) }
    }
}
