//! Clusters at run time: hosts with their load, and how one is chosen.
//!
//! A [`LiveCluster`] is rebuilt whenever its policy or endpoints change; what has to survive (statistics, breakers,
//! hosts with their pools and failures) is behind `Arc`s that the new one takes over from the old one by name and
//! address.

use super::balance::{Balancer, Group};
use super::stats::{ClusterStats, Sharded};
use crate::model::{CircuitBreakers, Cluster, ClusterEntry, Discovery, Endpoint, EndpointAddress, Endpoints, Health};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustc_hash::FxHashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Addresses of names, filled by the resolver.
pub(super) type Resolved = FxHashMap<(Arc<str>, u16), Vec<SocketAddr>>;

/// One endpoint with what is known about it here.
#[derive(Debug)]
pub(super) struct Host {
    /// Never reused; keys of pools.
    pub id: u64,
    pub address: SocketAddr,
    /// The name it was resolved from.
    pub hostname: Option<Arc<str>>,
    /// As text, for logs.
    pub text: Box<str>,
    /// Requests (or TCP connections) at this moment, all workers.
    pub active: AtomicU32,
    /// Requests ever.
    pub total: AtomicU64,
    /// Failed requests ever.
    pub errors: AtomicU64,
    /// No longer in any cluster: its idle connections are of no use.
    pub gone: AtomicBool,
    failures_5xx: AtomicU32,
    failures_gateway: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds since [`Shared::epoch`] until which the host is not used; 0: not ejected.
    ejected_until: AtomicU64,
}

/// What outlives a change of the cluster.
#[derive(Debug)]
pub(super) struct Shared {
    pub stats: Sharded<ClusterStats>,
    /// Next turn of round robin.
    pub cursor: AtomicU32,
    pub requests: AtomicU32,
    pub pending: AtomicU32,
    pub connections: AtomicU32,
    pub retries: AtomicU32,
    ejected: AtomicU32,
    /// Grows with every ejection and every return.
    ejections: AtomicU64,
    epoch: Instant,
    /// Hosts of an original-destination cluster.
    destinations: Mutex<FxHashMap<SocketAddr, Arc<Host>>>,
}

/// A cluster as the workers use it.
#[derive(Debug)]
pub(super) struct LiveCluster {
    pub config: Arc<Cluster>,
    pub endpoints: Arc<Endpoints>,
    pub hosts: Vec<Arc<Host>>,
    pub shared: Arc<Shared>,
    balancer: Balancer,
    /// What balancers are made of.
    groups: Vec<Group>,
    /// In use while hosts are ejected.
    detour: RwLock<Detour>,
}

/// The choice without the hosts that are ejected: they count as unhealthy, so that hashes go to other hosts and priorities
/// that cannot carry their share hand it on.
#[derive(Debug, Default)]
struct Detour {
    balancer: Option<Balancer>,
    /// [`Shared::ejections`] when it was made.
    ejections: u64,
    /// When the first of the ejected hosts returns, as in [`Host::ejected_until`].
    until: u64,
}

/// Why no host was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoHost;

// === impl Host ===

impl Host {
    pub fn new(address: SocketAddr, hostname: Option<Arc<str>>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            address,
            hostname,
            text: address.to_string().into(),
            active: AtomicU32::new(0),
            total: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            failures_5xx: AtomicU32::new(0),
            failures_gateway: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }
}

// === impl Shared ===

impl Shared {
    pub fn new(workers: usize) -> Self {
        Self {
            stats: Sharded::new(workers),
            cursor: AtomicU32::new(rand::random()),
            requests: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            ejected: AtomicU32::new(0),
            ejections: AtomicU64::new(0),
            epoch: Instant::now(),
            destinations: Mutex::new(FxHashMap::default()),
        }
    }

    fn millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Ends the ejection of a host that is `gone`. An ejection at the same moment sees either that, or is seen here.
    fn take_back(&self, host: &Host) {
        if host.ejected_until.swap(0, Ordering::AcqRel) != 0 {
            self.ejected.fetch_sub(1, Ordering::Relaxed);
            self.ejections.fetch_add(1, Ordering::Release);
        }
    }
}

/// Takes a unit of a limit. `u32::MAX` means that nobody counts.
pub(super) fn take(counter: &AtomicU32, limit: u32) -> bool {
    if limit == u32::MAX {
        return true;
    }
    if counter.fetch_add(1, Ordering::Relaxed) >= limit {
        counter.fetch_sub(1, Ordering::Relaxed);
        return false;
    }
    true
}

/// Gives a unit back that was taken under `limit`.
pub(super) fn give(counter: &AtomicU32, limit: u32) {
    if limit != u32::MAX {
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl LiveCluster ===

impl LiveCluster {
    /// Builds the cluster, keeping from `old` whatever is still the same.
    pub fn new(entry: &ClusterEntry, old: Option<&Self>, resolved: &Resolved, workers: usize) -> Self {
        let shared = old.map_or_else(|| Arc::new(Shared::new(workers)), |old| old.shared.clone());
        let known: FxHashMap<SocketAddr, &Arc<Host>> =
            old.iter().flat_map(|old| &old.hosts).map(|host| (host.address, host)).collect();
        let mut hosts: Vec<Arc<Host>> = Vec::new();
        let mut groups = Vec::new();
        for group in &entry.endpoints.localities {
            let mut members = Vec::new();
            for endpoint in &group.endpoints {
                for (address, hostname) in addresses(entry, endpoint, resolved) {
                    let host = match known.get(&address) {
                        Some(host) => (*host).clone(),
                        None => Arc::new(Host::new(address, hostname)),
                    };
                    members.push((hosts.len() as u32, endpoint.weight.max(1), endpoint.health));
                    hosts.push(host);
                }
            }
            groups.push((group.priority, group.weight, members));
        }
        let balancer = Balancer::new(&entry.cluster, entry.endpoints.overprovisioning, &groups, &hosts);
        if let Some(old) = old {
            let kept: rustc_hash::FxHashSet<u64> = hosts.iter().map(|host| host.id).collect();
            for host in old.hosts.iter().filter(|host| !kept.contains(&host.id)) {
                host.gone.store(true, Ordering::Relaxed);
                shared.take_back(host);
            }
        }
        Self {
            config: entry.cluster.clone(),
            endpoints: entry.endpoints.clone(),
            hosts,
            shared,
            balancer,
            groups,
            detour: RwLock::default(),
        }
    }

    /// Marks all hosts as unused; called when the cluster is removed.
    pub fn retire(&self) {
        for host in &self.hosts {
            host.gone.store(true, Ordering::Relaxed);
        }
    }

    /// Limits.
    pub fn limits(&self) -> &CircuitBreakers {
        &self.config.breakers
    }

    /// Chooses a host. `avoid` are hosts tried before; `hash` is used by consistent policies; `destination` by
    /// original-destination clusters.
    pub fn choose(
        &self,
        random: &mut dyn FnMut() -> u64,
        hash: Option<u64>,
        avoid: &[u64],
        attempts: u32,
        destination: Option<SocketAddr>,
    ) -> Result<Arc<Host>, NoHost> {
        if self.config.discovery == Discovery::OriginalDst {
            return destination.map(|address| self.destination(address)).ok_or(NoHost);
        }
        if self.shared.ejected.load(Ordering::Relaxed) > 0 {
            let detour = self.detour();
            let balancer = detour.balancer.as_ref().unwrap_or(&self.balancer);
            return self.choose_by(balancer, random, hash, avoid, attempts);
        }
        self.choose_by(&self.balancer, random, hash, avoid, attempts)
    }

    fn choose_by(
        &self,
        balancer: &Balancer,
        random: &mut dyn FnMut() -> u64,
        hash: Option<u64>,
        avoid: &[u64],
        attempts: u32,
    ) -> Result<Arc<Host>, NoHost> {
        let usable = |host: &Host| !avoid.contains(&host.id);
        let mut last = NoHost.into_result();
        for _ in 0..attempts.max(1) {
            let Some(at) = balancer.pick(&self.hosts, &self.shared.cursor, random, hash) else { break };
            let Some(host) = self.hosts.get(at as usize) else { break };
            last = Ok(host);
            if usable(host) {
                return last.cloned();
            }
        }
        // A dead host has no requests in flight, so that the least loaded of two is always the one to avoid. Draws cannot be trusted
        // to find another one; looking for it can.
        if !avoid.is_empty() && hash.is_none() {
            let other = balancer.any(random, |at| self.hosts.get(at as usize).is_some_and(|host| usable(host)));
            if let Some(host) = other.and_then(|at| self.hosts.get(at as usize)) {
                return Ok(Arc::clone(host));
            }
        }
        last.cloned()
    }

    /// The choice without ejected hosts, made anew when one was ejected or came back.
    fn detour(&self) -> RwLockReadGuard<'_, Detour> {
        let is_current = |detour: &Detour| {
            detour.balancer.is_some()
                && detour.ejections == self.shared.ejections.load(Ordering::Acquire)
                && self.shared.millis() < detour.until
        };
        let detour = self.detour.read();
        if is_current(&detour) {
            return detour;
        }
        drop(detour);
        let mut detour = self.detour.write();
        if !is_current(&detour) {
            // Hosts whose time is over come back here.
            self.hosts.iter().for_each(|host| _ = self.is_ejected(host));
            // The count is read first: a later ejection is seen below, or makes this detour an old one.
            let ejections = self.shared.ejections.load(Ordering::Acquire);
            let mut until = u64::MAX;
            let mut groups = self.groups.clone();
            for (host, _, health) in groups.iter_mut().flat_map(|group| &mut group.2) {
                let end = self.hosts.get(*host as usize).map_or(0, |host| host.ejected_until.load(Ordering::Relaxed));
                if end > 0 {
                    *health = Health::Unhealthy;
                    until = until.min(end);
                }
            }
            let balancer = Balancer::new(&self.config, self.endpoints.overprovisioning, &groups, &self.hosts);
            *detour = Detour { balancer: Some(balancer), ejections, until };
        }
        parking_lot::RwLockWriteGuard::downgrade(detour)
    }

    /// The hosts that the control plane says to be in this health.
    pub fn hosts_in(&self, health: Health) -> impl Iterator<Item = &Arc<Host>> {
        let members = self.groups.iter().flat_map(|group| &group.2).filter(move |member| member.2 == health);
        members.filter_map(|member| self.hosts.get(member.0 as usize))
    }

    fn destination(&self, address: SocketAddr) -> Arc<Host> {
        let mut known = self.shared.destinations.lock();
        if known.len() > 1024 {
            known.retain(|_, host| {
                let used = Arc::strong_count(host) > 1;
                host.gone.store(!used, Ordering::Relaxed);
                used
            });
        }
        known.entry(address).or_insert_with(|| Arc::new(Host::new(address, None))).clone()
    }

    /// Whether the host is ejected now. An ejection that is over is taken back here.
    pub fn is_ejected(&self, host: &Host) -> bool {
        let until = host.ejected_until.load(Ordering::Relaxed);
        if until == 0 {
            return false;
        }
        if self.shared.millis() < until {
            return true;
        }
        if host.ejected_until.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.shared.ejected.fetch_sub(1, Ordering::Relaxed);
            self.shared.ejections.fetch_add(1, Ordering::Release);
            host.failures_5xx.store(0, Ordering::Relaxed);
            host.failures_gateway.store(0, Ordering::Relaxed);
        }
        false
    }

    /// Notes the outcome of a request: a status, or `None` for a connection that failed.
    pub fn report(&self, host: &Host, status: Option<u16>) {
        let failed = status.is_none_or(|status| status >= 500);
        if failed {
            host.errors.fetch_add(1, Ordering::Relaxed);
        }
        let Some(outlier) = &self.config.outlier else { return };
        let gateway = status.is_none_or(|status| (502..=504).contains(&status));
        let over = count(&host.failures_5xx, failed, outlier.consecutive_5xx)
            | count(&host.failures_gateway, gateway, outlier.consecutive_gateway);
        if over {
            self.eject(host, outlier.base_ejection, outlier.max_ejection, outlier.max_ejection_percent);
        }
    }

    fn eject(&self, host: &Host, base: Duration, most: Duration, percent: u32) {
        // A request that was under way when its host was removed: nobody would take the ejection back.
        if host.gone.load(Ordering::Relaxed) {
            return;
        }
        let ejected = self.shared.ejected.load(Ordering::Relaxed) as usize;
        // One ejection is always allowed, as in Envoy, however small the share is.
        if ejected > 0 && (ejected + 1) * 100 > self.hosts.len() * percent as usize {
            return;
        }
        let times = host.ejections.fetch_add(1, Ordering::Relaxed) + 1;
        let length = base.saturating_mul(times).min(most.max(base));
        let until = self.shared.millis() + length.as_millis().max(1) as u64;
        // Counted first, so that whoever takes the ejection back finds it counted.
        self.shared.ejected.fetch_add(1, Ordering::Relaxed);
        if host.ejected_until.swap(until, Ordering::AcqRel) != 0 {
            self.shared.ejected.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.ejections.fetch_add(1, Ordering::Release);
        if host.gone.load(Ordering::Relaxed) {
            self.shared.take_back(host);
        }
    }
}

impl NoHost {
    fn into_result<'a>(self) -> Result<&'a Arc<Host>, Self> {
        Err(self)
    }
}

/// Counts failures in a row; true when the threshold is reached.
fn count(counter: &AtomicU32, failed: bool, threshold: Option<u32>) -> bool {
    let Some(threshold) = threshold else { return false };
    if !failed {
        if counter.load(Ordering::Relaxed) != 0 {
            counter.store(0, Ordering::Relaxed);
        }
        return false;
    }
    let reached = counter.fetch_add(1, Ordering::Relaxed) + 1 >= threshold;
    if reached {
        counter.store(0, Ordering::Relaxed);
    }
    reached
}

fn addresses(entry: &ClusterEntry, endpoint: &Endpoint, resolved: &Resolved) -> Vec<(SocketAddr, Option<Arc<str>>)> {
    match &endpoint.address {
        EndpointAddress::Socket(address) => vec![(*address, None)],
        EndpointAddress::Name { host, port } => {
            let most = if entry.cluster.discovery == Discovery::LogicalDns { 1 } else { usize::MAX };
            let found = resolved.get(&(host.clone(), *port)).map(Vec::as_slice).unwrap_or_default();
            found.iter().take(most).map(|address| (*address, Some(host.clone()))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::model::{LbPolicy, OutlierDetection};

    fn entry(addresses: &[&str], change: impl FnOnce(&mut Cluster)) -> ClusterEntry {
        let mut cluster = Cluster::new("c", Discovery::Eds);
        change(&mut cluster);
        ClusterEntry {
            cluster: Arc::new(cluster),
            endpoints: Arc::new(Endpoints::of(addresses.iter().map(|address| address.parse().unwrap()))),
        }
    }

    fn choose(cluster: &LiveCluster, avoid: &[u64], attempts: u32) -> Arc<Host> {
        cluster.choose(&mut || 0, None, avoid, attempts, None).unwrap()
    }

    #[test]
    fn a_change_of_endpoints_keeps_known_hosts_and_retires_the_others() {
        let resolved = Resolved::default();
        let old = LiveCluster::new(&entry(&["1.1.1.1:1", "1.1.1.2:1"], |_| ()), None, &resolved, 1);
        let new = LiveCluster::new(&entry(&["1.1.1.2:1", "1.1.1.3:1"], |_| ()), Some(&old), &resolved, 1);
        assert!(Arc::ptr_eq(&old.hosts[1], &new.hosts[0]));
        assert!(old.hosts[0].gone.load(Ordering::Relaxed));
        assert!(!old.hosts[1].gone.load(Ordering::Relaxed));
        assert!(Arc::ptr_eq(&old.shared, &new.shared));
    }

    #[test]
    fn a_retry_prefers_a_host_that_was_not_tried() {
        let cluster = LiveCluster::new(&entry(&["1.1.1.1:1", "1.1.1.2:1"], |_| ()), None, &Resolved::default(), 1);
        let first = choose(&cluster, &[], 1);
        for _ in 0..10 {
            assert_ne!(choose(&cluster, &[first.id], 5).id, first.id);
        }
        let all: Vec<u64> = cluster.hosts.iter().map(|host| host.id).collect();
        assert!(all.contains(&choose(&cluster, &all, 5).id), "a tried host is better than none");
    }

    #[test]
    fn a_host_is_ejected_after_failures_in_a_row_and_comes_back() {
        let outlier = OutlierDetection {
            consecutive_5xx: Some(3),
            base_ejection: Duration::from_millis(30),
            max_ejection_percent: 50,
            ..OutlierDetection::default()
        };
        let entry = entry(&["1.1.1.1:1", "1.1.1.2:1"], |cluster| cluster.outlier = Some(outlier));
        let cluster = LiveCluster::new(&entry, None, &Resolved::default(), 1);
        let (bad, good) = (&cluster.hosts[0], &cluster.hosts[1]);
        for status in [Some(500), Some(200), Some(503), None] {
            cluster.report(bad, status);
        }
        assert!(!cluster.is_ejected(bad), "a success in between starts the count again");
        cluster.report(bad, Some(500));
        assert!(cluster.is_ejected(bad));
        assert!((0..20).all(|_| choose(&cluster, &[], 1).id == good.id));
        (0..3).for_each(|_| cluster.report(good, None));
        assert!(!cluster.is_ejected(good), "not more than half may be ejected");
        let start = Instant::now();
        while cluster.is_ejected(bad) && start.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
        assert!(!cluster.is_ejected(bad));
    }

    fn fragile(cluster: &mut Cluster) {
        cluster.outlier = Some(OutlierDetection { consecutive_5xx: Some(1), ..OutlierDetection::default() });
        cluster.panic_threshold = 0.0;
    }

    #[test]
    fn a_failure_of_a_removed_host_does_not_use_up_what_may_be_ejected() {
        let resolved = Resolved::default();
        let old = LiveCluster::new(&entry(&["1.1.1.1:1", "1.1.1.2:1"], fragile), None, &resolved, 1);
        let new = LiveCluster::new(&entry(&["1.1.1.2:1", "1.1.1.3:1"], fragile), Some(&old), &resolved, 1);
        old.report(&old.hosts[0], Some(500));
        assert!(!old.is_ejected(&old.hosts[0]));
        new.report(&new.hosts[0], Some(500));
        assert!(new.is_ejected(&new.hosts[0]));
    }

    #[test]
    fn a_hash_finds_another_host_while_its_own_is_ejected() {
        for lb in [LbPolicy::RingHash { minimum: 64, maximum: 64 }, LbPolicy::Maglev { table: 61 }] {
            let entry = entry(&["1.1.1.1:1", "1.1.1.2:1"], |cluster| {
                fragile(cluster);
                cluster.lb = lb;
            });
            let cluster = LiveCluster::new(&entry, None, &Resolved::default(), 1);
            let choose = || cluster.choose(&mut || 0, Some(12345), &[], 1, None).unwrap();
            let own = choose();
            cluster.report(&own, Some(500));
            assert_ne!(choose().id, own.id);
        }
    }

    #[test]
    fn the_next_priority_takes_over_from_ejected_hosts_until_they_come_back() {
        let mut entry = entry(&["1.1.1.1:1"], |cluster| {
            fragile(cluster);
            cluster.outlier.as_mut().unwrap().base_ejection = Duration::from_millis(30);
        });
        let mut second = Endpoints::of(["1.1.1.2:1".parse().unwrap()]).localities;
        second[0].priority = 1;
        Arc::make_mut(&mut entry.endpoints).localities.extend(second);
        let cluster = LiveCluster::new(&entry, None, &Resolved::default(), 1);
        let first = choose(&cluster, &[], 1);
        assert_eq!(first.id, cluster.hosts[0].id);
        cluster.report(&first, Some(500));
        assert_eq!(choose(&cluster, &[], 1).id, cluster.hosts[1].id);
        let start = Instant::now();
        // Nobody but the choice itself asks whether the host is back.
        while choose(&cluster, &[], 1).id != first.id {
            assert!(start.elapsed() < Duration::from_secs(5), "it never came back");
            std::thread::yield_now();
        }
    }

    #[test]
    fn limits_are_exact_and_the_largest_limit_is_free() {
        let counter = AtomicU32::new(0);
        assert!(take(&counter, 1) && !take(&counter, 1));
        give(&counter, 1);
        assert!(take(&counter, 1));
        assert!(take(&counter, u32::MAX));
        assert_eq!(counter.load(Ordering::Relaxed), 1);
    }
}
