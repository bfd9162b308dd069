//! What of the held resources is in use, and when the rest may follow.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Kind, Now, Store};
use crate::convert::{self, ClusterParts, HostParts, ListenerParts};
use crate::model::{ClusterEntry, Endpoints, RouteTable, Snapshot};

/// How long new routes wait for the endpoints of new clusters.
const HOLD: Duration = Duration::from_secs(2);
/// How long a cluster that was removed serves routes that still name it.
const LINGER: Duration = Duration::from_secs(5);

/// The outcome of [`Store::settle`].
#[derive(Debug)]
pub struct Settled {
    /// The new configuration, if it differs from the one before.
    pub snapshot: Option<Arc<Snapshot>>,
    /// When to settle again although nothing arrives.
    pub wake: Option<Instant>,
}

/// What is in use.
#[derive(Debug, Default)]
pub(super) struct Active {
    clusters: HashMap<Arc<str>, ActiveCluster>,
    tables: HashMap<Arc<str>, ActiveTable>,
    listeners: BTreeMap<Arc<str>, ActiveListener>,
    /// Tables whose newer content waits, and since when.
    waiting: HashMap<Arc<str>, Instant>,
}

#[derive(Debug)]
struct ActiveCluster {
    serial: u64,
    parts: ClusterParts,
    entry: ClusterEntry,
    /// Removed by the control plane at this moment.
    leaving: Option<Instant>,
}

#[derive(Debug)]
struct ActiveTable {
    serial: u64,
    /// The discovered hosts that it was made with.
    hosts: Vec<(Arc<str>, u64)>,
    table: Arc<RouteTable>,
    clusters: Vec<Arc<[Arc<str>]>>,
}

#[derive(Debug)]
struct ActiveListener {
    serial: u64,
    parts: ListenerParts,
}

/// A discovered virtual host: its resource's name, its serial, and what it became.
type Discovered<'a> = (&'a Arc<str>, u64, &'a HostParts);

/// The earliest of several moments.
#[derive(Default)]
struct Alarm(Option<Instant>);

impl Alarm {
    /// Whether `moment` has passed; otherwise it is remembered.
    fn passed(&mut self, now: Instant, moment: Option<Instant>) -> bool {
        let Some(moment) = moment else { return false };
        if moment <= now {
            return true;
        }
        self.0 = Some(self.0.map_or(moment, |other| other.min(moment)));
        false
    }
}

impl Active {
    pub(super) fn clusters(&self) -> impl Iterator<Item = &ClusterParts> {
        self.clusters.values().map(|active| &active.parts)
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = &ListenerParts> {
        self.listeners.values().map(|active| &active.parts)
    }

    pub(super) fn cluster_serial(&self, name: &str) -> Option<u64> {
        self.clusters.get(name).map(|active| active.serial)
    }

    pub(super) fn listener_serial(&self, name: &str) -> Option<u64> {
        self.listeners.get(name).map(|active| active.serial)
    }

    pub(super) fn table_serial(&self, name: &str) -> Option<u64> {
        self.tables.get(name).map(|active| active.serial)
    }
}

impl Store {
    /// Puts into use what can be used now.
    pub fn settle(&mut self, now: Now) -> Settled {
        let mut alarm = Alarm::default();
        let mut changed = self.settle_clusters(now.instant, &mut alarm);
        // Routes and listeners that come before the first clusters would send requests nowhere.
        if self.answered.contains_key(&Kind::Cluster) {
            changed |= self.settle_tables(now.instant, &mut alarm);
            changed |= self.settle_listeners(now.instant, &mut alarm);
        }
        changed |= self.retire_tables();
        changed |= self.retire_clusters(now.instant, &mut alarm);
        self.forget_unwanted();
        if !self.initialized {
            self.initialized = self.is_settled();
        }
        if changed {
            self.snapshot = Arc::new(self.assemble());
        }
        Settled { snapshot: changed.then(|| self.snapshot.clone()), wake: alarm.0 }
    }

    fn settle_clusters(&mut self, now: Instant, alarm: &mut Alarm) -> bool {
        let mut changed = false;
        for (name, held) in self.clusters.accepted() {
            let parts = &held.parts;
            let endpoints = match (&parts.inline, &parts.eds) {
                (Some(inline), _) => Some(inline.clone()),
                (None, None) => Some(Arc::default()),
                (None, Some((service, wait))) => match self.endpoints.get(service) {
                    Some(held) => Some(held.parts.clone()),
                    None => {
                        let limit = wait.map(|wait| held.since.instant + wait);
                        let give_up = self.endpoints.is_missing(service) || alarm.passed(now, limit);
                        give_up.then(Arc::<Endpoints>::default)
                    }
                },
            };
            let Some(endpoints) = endpoints else { continue };
            if let Some(active) = self.active.clusters.get_mut(name) {
                active.leaving = None;
                if active.serial == held.serial && Arc::ptr_eq(&active.entry.endpoints, &endpoints) {
                    continue;
                }
                // An empty stand-in must not look new every time.
                let both_empty = endpoints.localities.is_empty() && active.entry.endpoints.localities.is_empty();
                if active.serial == held.serial && both_empty {
                    continue;
                }
            }
            let entry = ClusterEntry { cluster: parts.cluster.clone(), endpoints };
            let active = ActiveCluster { serial: held.serial, parts: parts.clone(), entry, leaving: None };
            self.active.clusters.insert(name.clone(), active);
            changed = true;
        }
        changed
    }

    /// Whether a cluster is known but has never been usable so far.
    fn is_warming(&self, cluster: &Arc<str>) -> bool {
        self.clusters.get(cluster).is_some() && !self.active.clusters.contains_key(cluster)
    }

    fn settle_tables(&mut self, now: Instant, alarm: &mut Alarm) -> bool {
        let mut by_table: HashMap<&str, Vec<Discovered<'_>>> = HashMap::new();
        for (name, held) in self.hosts.accepted() {
            // A route configuration's name may hold slashes itself; a virtual host's may as well, but then the shorter one wins.
            if let Some(table) = self.table_of(name) {
                by_table.entry(table).or_default().push((name, held.serial, &held.parts));
            }
        }
        let mut fresh = Vec::new();
        for (name, held) in self.routes.accepted() {
            let empty = Vec::new();
            let hosts = match held.parts.discovered {
                Some(_) => by_table.get(&**name).unwrap_or(&empty),
                None => &empty,
            };
            let stamp: Vec<(Arc<str>, u64)> =
                hosts.iter().map(|(name, serial, _)| ((*name).clone(), *serial)).collect();
            let active = self.active.tables.get(name);
            if active.is_some_and(|active| active.serial == held.serial && active.hosts == stamp) {
                self.active.waiting.remove(name);
                continue;
            }
            let answered = self.answered.get(&Kind::VirtualHost).is_some_and(|at| at.instant > held.since.instant);
            let hosts_known = match held.parts.discovered {
                None => true,
                Some(_) if !hosts.is_empty() || answered || active.is_some_and(|active| !active.hosts.is_empty()) => {
                    true
                }
                Some(wait) => alarm.passed(now, wait.map(|wait| held.since.instant + wait)),
            };
            let parts: Vec<&HostParts> = hosts.iter().map(|(_, _, parts)| *parts).collect();
            let all = || held.parts.hosts.iter().chain(parts.iter().copied());
            let warming = all().flat_map(|host| host.clusters.iter()).any(|cluster| self.is_warming(cluster));
            let since = *self.active.waiting.entry(name.clone()).or_insert(now);
            if !hosts_known || (warming && !alarm.passed(now, Some(since + HOLD))) {
                continue;
            }
            let table = if parts.is_empty() {
                held.parts.table.clone()
            } else {
                let (table, clashes) = convert::with_hosts(&held.parts, &parts);
                for clash in clashes {
                    tracing::warn!(route_configuration = %name, "{clash}; it is left out");
                }
                Arc::new(table)
            };
            let clusters = all().map(|host| host.clusters.clone()).collect();
            fresh.push((name.clone(), ActiveTable { serial: held.serial, hosts: stamp, table, clusters }));
        }
        let changed = !fresh.is_empty();
        for (name, table) in fresh {
            self.active.waiting.remove(&name);
            self.active.tables.insert(name, table);
        }
        changed
    }

    /// Which route configuration a discovered virtual host belongs to.
    fn table_of<'n>(&self, resource: &'n str) -> Option<&'n str> {
        resource.match_indices('/').map(|(at, _)| &resource[..at]).find(|prefix| self.routes.get(prefix).is_some())
    }

    fn settle_listeners(&mut self, now: Instant, alarm: &mut Alarm) -> bool {
        let mut changed = false;
        for (name, held) in self.listeners.accepted() {
            if self.active.listener_serial(name) == Some(held.serial) {
                continue;
            }
            let parts = &held.parts;
            let arrived = |route: &Arc<str>| self.active.tables.contains_key(route) || self.routes.is_missing(route);
            let limit = parts.wait.0.map(|wait| held.since.instant + wait);
            let routes = parts.routes.iter().all(arrived) || alarm.passed(now, limit);
            let warming = parts.clusters.iter().any(|cluster| self.is_warming(cluster));
            if !routes || (warming && !alarm.passed(now, Some(held.since.instant + HOLD))) {
                continue;
            }
            let active = ActiveListener { serial: held.serial, parts: parts.clone() };
            self.active.listeners.insert(name.clone(), active);
            changed = true;
        }
        let held = &self.listeners;
        self.active.listeners.retain(|name, _| {
            let keep = held.get(name).is_some();
            changed |= !keep;
            keep
        });
        changed
    }

    /// Drops tables that no listener names.
    fn retire_tables(&mut self) -> bool {
        let wanted = self.wanted().routes;
        let before = self.active.tables.len();
        self.active.tables.retain(|name, _| wanted.contains(name));
        self.active.waiting.retain(|name, _| wanted.contains(name));
        before != self.active.tables.len()
    }

    /// Drops clusters that were removed, unless something in use still names them.
    fn retire_clusters(&mut self, now: Instant, alarm: &mut Alarm) -> bool {
        let gone = |name: &Arc<str>| self.clusters.get(name).is_none();
        if !self.active.clusters.keys().any(gone) {
            return false;
        }
        let named: HashSet<&Arc<str>> = self
            .active
            .tables
            .values()
            .flat_map(|table| table.clusters.iter().flat_map(|clusters| clusters.iter()))
            .chain(self.active.listeners.values().flat_map(|listener| listener.parts.clusters.iter()))
            .collect();
        let mut changed = false;
        let held = &self.clusters;
        self.active.clusters.retain(|name, active| {
            if held.get(name).is_some() {
                return true;
            }
            let since = *active.leaving.get_or_insert(now);
            let keep = named.contains(name) && !alarm.passed(now, Some(since + LINGER));
            changed |= !keep;
            keep
        });
        changed
    }

    /// Forgets what was asked for by name and is not wanted any more: the subscription ends with it. Virtual hosts stay: their
    /// subscription never ends, so that the control plane goes on sending what changes and nothing else.
    fn forget_unwanted(&mut self) {
        let wanted = self.wanted();
        self.endpoints.keep_only(|name| wanted.endpoints.contains(name));
        self.routes.keep_only(|name| wanted.routes.contains(name));
    }

    /// Whether clusters and listeners have been answered and all of them are in use.
    fn is_settled(&self) -> bool {
        self.answered.contains_key(&Kind::Cluster)
            && self.answered.contains_key(&Kind::Listener)
            && self.clusters.accepted().all(|(name, _)| self.active.clusters.contains_key(name))
            && self.listeners.accepted().all(|(name, _)| self.active.listeners.contains_key(name))
    }

    fn assemble(&self) -> Snapshot {
        Snapshot {
            listeners: self.active.listeners.values().map(|active| active.parts.listener.clone()).collect(),
            routes: self.active.tables.iter().map(|(name, active)| (name.clone(), active.table.clone())).collect(),
            clusters: self.active.clusters.iter().map(|(name, active)| (name.clone(), active.entry.clone())).collect(),
        }
    }
}
