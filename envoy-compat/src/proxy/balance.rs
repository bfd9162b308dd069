//! Load balancing: priorities, weights, and the choice itself.
//!
//! Everything that depends only on configuration is computed when the cluster is built: the share of each priority
//! (Envoy's overprovisioning rule), panic mode, the effective weight of each host, the schedule of weighted round robin,
//! the hash ring. A pick is then a few array reads.

use super::upstream::Host;
use crate::model::{Cluster, Health, LbPolicy};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Schedules of weighted round robin are at most this long; coarser weights are drawn at random instead.
const SCHEDULE_LIMIT: u64 = 4096;

/// A locality: its priority, weight, and members as (host, weight, health).
pub(super) type Group = (u32, u32, Vec<(u32, u32, Health)>);

#[derive(Debug)]
pub(super) struct Balancer {
    policy: LbPolicy,
    levels: Vec<Level>,
}

/// Which hosts of a priority a level is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    Healthy,
    Degraded,
    /// All of them: too few are well, and using those alone would only break them too.
    Any,
}

/// How many hosts of a priority are in which health.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    total: usize,
    healthy: usize,
    degraded: usize,
}

/// Hosts of a priority that receive a share of requests.
#[derive(Debug)]
struct Level {
    /// Upper end of its share in percent; the last level ends at 100.
    until: u32,
    members: Vec<u32>,
    weighted: Option<Weighted>,
    ring: Vec<(u64, u32)>,
}

#[derive(Debug)]
struct Weighted {
    /// Turns of round robin as indexes of `members`; empty if weights are too fine.
    schedule: Vec<u32>,
    /// Running sums of the members' weights.
    sums: Vec<u64>,
}

// === impl Balancer ===

impl Balancer {
    pub fn new(cluster: &Cluster, overprovisioning: u32, groups: &[Group], hosts: &[Arc<Host>]) -> Self {
        let factor = if overprovisioning == 0 { 140 } else { overprovisioning };
        let last = groups.iter().map(|group| group.0).max().unwrap_or(0);
        let counts: Vec<Counts> = (0..=last).map(|priority| Counts::of(groups, priority)).collect();
        let available: Vec<[u32; 2]> = counts.iter().map(|count| count.available(factor)).collect();
        let sum = available.iter().flatten().sum::<u32>().min(100);
        let mut levels = Vec::new();
        let mut given = 0u32;
        // Envoy gives what the healthy hosts of all priorities can carry first, and to degraded ones what is left.
        for (tier, wanted) in [Tier::Healthy, Tier::Degraded].into_iter().enumerate() {
            for (priority, (count, available)) in (0..).zip(counts.iter().zip(&available)) {
                let share = (available[tier] * 100).checked_div(sum).unwrap_or(0).min(100 - given);
                if share == 0 {
                    continue;
                }
                given += share;
                let members = groups.iter().filter(|group| group.0 == priority);
                // Where all priorities together carry everything, none of them is in panic.
                let panic = sum < 100 && count.panics(cluster.panic_threshold);
                levels.push(Level::new(cluster, given, members, hosts, if panic { Tier::Any } else { wanted }));
            }
        }
        let everyone = counts.iter().map(|count| count.total).sum::<usize>();
        if sum == 0 && everyone > 0 && cluster.panic_threshold > 0.0 {
            // Nobody is healthy: Envoy would rather try than refuse.
            let first = groups.iter().filter(|group| !group.2.is_empty()).map(|group| group.0).min();
            let members = groups.iter().filter(|group| Some(group.0) == first);
            levels.push(Level::new(cluster, 100, members, hosts, Tier::Any));
        }
        if let Some(last) = levels.last_mut() {
            last.until = 100;
        }
        Self { policy: cluster.lb, levels }
    }

    /// A host's index, or `None` when there is none to use.
    pub fn pick(
        &self,
        hosts: &[Arc<Host>],
        cursor: &AtomicU32,
        random: &mut dyn FnMut() -> u64,
        hash: Option<u64>,
    ) -> Option<u32> {
        let level = self.level(random, hash)?;
        if let [only] = level.members.as_slice() {
            return Some(*only);
        }
        let at = match self.policy {
            LbPolicy::RoundRobin => level.turn(cursor, random),
            LbPolicy::Random => level.draw(random()),
            LbPolicy::LeastRequest { choices } => level.least(hosts, choices, random),
            LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. } => {
                return level.on_ring(hash.unwrap_or_else(random));
            }
        };
        level.members.get(at).copied()
    }

    /// Any host that `accepts`, by chance, whatever the policy prefers; `None` when none does.
    pub fn any(&self, random: &mut dyn FnMut() -> u64, mut accepts: impl FnMut(u32) -> bool) -> Option<u32> {
        let members = &self.level(random, None)?.members;
        let start = random() as usize % members.len().max(1);
        members[start..].iter().chain(&members[..start]).copied().find(|at| accepts(*at))
    }

    fn level(&self, random: &mut dyn FnMut() -> u64, hash: Option<u64>) -> Option<&Level> {
        match self.levels.as_slice() {
            [] => None,
            [only] => Some(only),
            levels => {
                let draw = (hash.unwrap_or_else(random) % 100) as u32;
                levels.iter().find(|level| draw < level.until)
            }
        }
    }
}

// === impl Tier ===

impl Tier {
    fn has(self, health: Health) -> bool {
        match self {
            Self::Healthy => health == Health::Healthy,
            Self::Degraded => health == Health::Degraded,
            Self::Any => true,
        }
    }
}

// === impl Counts ===

impl Counts {
    fn of(groups: &[Group], priority: u32) -> Self {
        let mut counts = Self::default();
        for (.., health) in groups.iter().filter(|group| group.0 == priority).flat_map(|group| &group.2) {
            counts.total += 1;
            counts.healthy += usize::from(*health == Health::Healthy);
            counts.degraded += usize::from(*health == Health::Degraded);
        }
        counts
    }

    /// What percentage of all requests its healthy and its degraded hosts can carry.
    fn available(self, factor: u32) -> [u32; 2] {
        [self.healthy, self.degraded].map(|well| match self.total {
            0 => 0,
            total => ((well as u64 * u64::from(factor)) / total as u64).min(100) as u32,
        })
    }

    fn panics(self, threshold: f64) -> bool {
        (((self.healthy + self.degraded) * 100) as f64) < threshold * self.total as f64
    }
}

// === impl Level ===

impl Level {
    fn new<'a>(
        cluster: &Cluster,
        until: u32,
        groups: impl Iterator<Item = &'a Group>,
        hosts: &[Arc<Host>],
        tier: Tier,
    ) -> Self {
        let mut members = Vec::new();
        let mut weights: Vec<u64> = Vec::new();
        for (_, group_weight, group) in groups {
            let usable = || group.iter().filter(|member| tier.has(member.2));
            let sum: u64 = usable().map(|member| u64::from(member.1)).sum();
            for (host, weight, _) in usable() {
                let weight = u64::from(*weight);
                let weight = if cluster.locality_weighted {
                    (weight * u64::from(*group_weight) * 1000) / sum.max(1)
                } else {
                    weight
                };
                if weight > 0 {
                    members.push(*host);
                    weights.push(weight);
                }
            }
        }
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let ring = match cluster.lb {
            LbPolicy::RingHash { minimum, maximum } => ring(&members, &weights, hosts, minimum, maximum),
            LbPolicy::Maglev { table } => ring(&members, &weights, hosts, table, table),
            _ => Vec::new(),
        };
        Self { until, members, weighted: (!equal).then(|| Weighted::new(&weights)), ring }
    }

    fn turn(&self, cursor: &AtomicU32, random: &mut dyn FnMut() -> u64) -> usize {
        match &self.weighted {
            None => cursor.fetch_add(1, Ordering::Relaxed) as usize % self.members.len().max(1),
            Some(weighted) if weighted.schedule.is_empty() => weighted.draw(random()),
            Some(weighted) => {
                let turn = cursor.fetch_add(1, Ordering::Relaxed) as usize % weighted.schedule.len();
                weighted.schedule[turn] as usize
            }
        }
    }

    fn draw(&self, random: u64) -> usize {
        match &self.weighted {
            None => (random % self.members.len().max(1) as u64) as usize,
            Some(weighted) => weighted.draw(random),
        }
    }

    fn least(&self, hosts: &[Arc<Host>], choices: u32, random: &mut dyn FnMut() -> u64) -> usize {
        let load = |at: usize| {
            let host = self.members.get(at).and_then(|host| hosts.get(*host as usize));
            host.map_or(u32::MAX, |host| host.active.load(Ordering::Relaxed))
        };
        let mut best = self.draw(random());
        for _ in 1..choices.max(2) {
            let mut other = self.draw(random());
            if other == best {
                other = (other + 1) % self.members.len().max(1);
            }
            if load(other) < load(best) {
                best = other;
            }
        }
        best
    }

    fn on_ring(&self, hash: u64) -> Option<u32> {
        let at = self.ring.partition_point(|(point, _)| *point < hash);
        self.ring.get(at).or_else(|| self.ring.first()).map(|(_, host)| *host)
    }
}

// === impl Weighted ===

impl Weighted {
    fn new(weights: &[u64]) -> Self {
        let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let total: u64 = weights.iter().map(|weight| weight / divisor).sum();
        let mut sum = 0;
        let sums = weights
            .iter()
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        let schedule = if total <= SCHEDULE_LIMIT { smooth(weights, divisor, total) } else { Vec::new() };
        Self { schedule, sums }
    }

    fn draw(&self, random: u64) -> usize {
        let total = self.sums.last().copied().unwrap_or(1).max(1);
        let draw = random % total;
        self.sums.partition_point(|sum| *sum <= draw)
    }
}

/// Smooth weighted round robin: heavy members are spread over the schedule instead of coming in a row.
fn smooth(weights: &[u64], divisor: u64, total: u64) -> Vec<u32> {
    let mut credit = vec![0i64; weights.len()];
    let mut schedule = Vec::with_capacity(total as usize);
    for _ in 0..total {
        let mut best = 0;
        for (at, weight) in weights.iter().enumerate() {
            credit[at] += (weight / divisor) as i64;
            if credit[at] > credit[best] {
                best = at;
            }
        }
        credit[best] -= total as i64;
        schedule.push(best as u32);
    }
    schedule
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// A ring of hashes of `address_N`, as many per host as its weight asks for.
fn ring(members: &[u32], weights: &[u64], hosts: &[Arc<Host>], minimum: u64, maximum: u64) -> Vec<(u64, u32)> {
    let total: u64 = weights.iter().sum::<u64>().max(1);
    let size = minimum.max(members.len() as u64).min(maximum.max(members.len() as u64)).min(1 << 20);
    let mut ring = Vec::with_capacity(size as usize + members.len());
    for (member, weight) in members.iter().zip(weights) {
        let Some(host) = hosts.get(*member as usize) else { continue };
        let points = (size * weight).div_ceil(total).max(1);
        for point in 0..points {
            let key = format!("{}_{point}", host.text);
            ring.push((xxhash_rust::xxh3::xxh3_64(key.as_bytes()), *member));
        }
    }
    ring.sort_unstable();
    ring
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::model::Discovery;

    struct Fixture {
        hosts: Vec<Arc<Host>>,
        balancer: Balancer,
        cursor: AtomicU32,
        random: u64,
    }

    fn fixture(lb: LbPolicy, groups: &[Group]) -> Fixture {
        let count = groups.iter().map(|group| group.2.len()).sum::<usize>();
        let hosts: Vec<Arc<Host>> =
            (0..count).map(|at| Arc::new(Host::new(format!("10.0.0.{at}:80").parse().unwrap(), None))).collect();
        let mut cluster = Cluster::new("c", Discovery::Eds);
        cluster.lb = lb;
        cluster.locality_weighted = groups.iter().any(|group| group.1 != 1);
        let balancer = Balancer::new(&cluster, 140, groups, &hosts);
        Fixture { hosts, balancer, cursor: AtomicU32::new(0), random: 0 }
    }

    impl Fixture {
        fn pick(&mut self, hash: Option<u64>) -> Option<u32> {
            let random = &mut self.random;
            let mut draw = || {
                *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                *random >> 33
            };
            self.balancer.pick(&self.hosts, &self.cursor, &mut draw, hash)
        }

        fn shares(&mut self, picks: usize) -> Vec<usize> {
            let mut shares = vec![0; self.hosts.len()];
            for _ in 0..picks {
                shares[self.pick(None).unwrap() as usize] += 1;
            }
            shares
        }
    }

    fn healthy(host: u32, weight: u32) -> (u32, u32, Health) {
        (host, weight, Health::Healthy)
    }

    #[test]
    fn round_robin_gives_equal_turns_and_weighted_turns_are_exact_and_spread() {
        let members = vec![healthy(0, 1), healthy(1, 1), healthy(2, 1)];
        assert_eq!(fixture(LbPolicy::RoundRobin, &[(0, 1, members)]).shares(30), vec![10, 10, 10]);
        let mut weighted = fixture(LbPolicy::RoundRobin, &[(0, 1, vec![healthy(0, 3), healthy(1, 1)])]);
        let turns: Vec<u32> = (0..4).map(|_| weighted.pick(None).unwrap()).collect();
        assert_eq!(turns.iter().filter(|turn| **turn == 0).count(), 3);
        assert_ne!(&turns[..3], &[0, 0, 0], "turns are spread");
    }

    #[test]
    fn fewer_requests_in_flight_win() {
        let mut fixture = fixture(LbPolicy::LeastRequest { choices: 2 }, &[(0, 1, vec![healthy(0, 1), healthy(1, 1)])]);
        fixture.hosts[0].active.store(5, Ordering::Relaxed);
        assert_eq!(fixture.shares(20), vec![0, 20]);
    }

    #[test]
    fn unhealthy_hosts_are_left_out_until_too_few_are_left() {
        let sick = |host| (host, 1, Health::Unhealthy);
        let mut some = fixture(LbPolicy::RoundRobin, &[(0, 1, vec![sick(0), healthy(1, 1), healthy(2, 1)])]);
        assert_eq!(some.shares(10), vec![0, 5, 5]);
        let mut few = fixture(LbPolicy::RoundRobin, &[(0, 1, vec![sick(0), sick(1), healthy(2, 1)])]);
        assert_eq!(few.shares(9), vec![3, 3, 3]);
        let mut none = fixture(LbPolicy::RoundRobin, &[(0, 1, vec![sick(0), sick(1)])]);
        assert_eq!(none.shares(4), vec![2, 2]);
        assert_eq!(fixture(LbPolicy::RoundRobin, &[]).pick(None), None);
    }

    #[test]
    fn the_next_priority_takes_over_what_the_first_cannot_carry() {
        let sick = |host| (host, 1, Health::Unhealthy);
        // One of two is healthy: 50 % x 1.4 = 70 % stay.
        let groups = [(0, 1, vec![healthy(0, 1), sick(1)]), (1, 1, vec![healthy(2, 1)])];
        let shares = fixture(LbPolicy::RoundRobin, &groups).shares(10_000);
        assert!((6_700..7_300).contains(&shares[0]), "{shares:?}");
        assert_eq!(shares[1], 0);
        let all_sick = [(0, 1, vec![sick(0)]), (1, 1, vec![healthy(1, 1)])];
        assert_eq!(fixture(LbPolicy::RoundRobin, &all_sick).shares(10), vec![0, 10]);
    }

    #[test]
    fn degraded_hosts_are_used_only_for_what_healthy_ones_cannot_carry() {
        let degraded = |host| (host, 1, Health::Degraded);
        let enough = [(0, 1, vec![healthy(0, 1), healthy(1, 1), healthy(2, 1), degraded(3)])];
        assert_eq!(fixture(LbPolicy::RoundRobin, &enough).shares(30), vec![10, 10, 10, 0]);
        // One of two is healthy: 50 % x 1.4 = 70 % stay with it.
        let shares = fixture(LbPolicy::RoundRobin, &[(0, 1, vec![healthy(0, 1), degraded(1)])]).shares(10_000);
        assert!((6_700..7_300).contains(&shares[0]) && shares[0] + shares[1] == 10_000, "{shares:?}");
        let alone = [(0, 1, vec![degraded(0), (1, 1, Health::Unhealthy)])];
        assert_eq!(fixture(LbPolicy::RoundRobin, &alone).shares(10), vec![10, 0]);
        // Healthy ones far away come before degraded ones nearby.
        let far = [(0, 1, vec![degraded(0)]), (1, 1, vec![healthy(1, 1)])];
        assert_eq!(fixture(LbPolicy::RoundRobin, &far).shares(10), vec![0, 10]);
    }

    #[test]
    fn without_a_panic_threshold_nobody_healthy_means_nobody_is_picked() {
        let groups = [(0, 1, vec![(0, 1, Health::Unhealthy)]), (1, 1, vec![(1, 1, Health::Unhealthy)])];
        let mut fixture = fixture(LbPolicy::RoundRobin, &groups);
        let mut cluster = Cluster::new("c", Discovery::Eds);
        cluster.panic_threshold = 0.0;
        fixture.balancer = Balancer::new(&cluster, 140, &groups, &fixture.hosts);
        assert_eq!(fixture.pick(None), None);
    }

    #[test]
    fn locality_weights_come_before_endpoint_weights() {
        let groups = [(0, 3, vec![healthy(0, 1)]), (0, 1, vec![healthy(1, 1), healthy(2, 1)])];
        assert_eq!(fixture(LbPolicy::RoundRobin, &groups).shares(800), vec![600, 100, 100]);
    }

    #[test]
    fn most_hashes_keep_their_host_when_another_host_leaves() {
        let lb = LbPolicy::RingHash { minimum: 1024, maximum: 8192 };
        let all: Vec<_> = (0..4).map(|host| healthy(host, 1)).collect();
        let mut before = fixture(lb, &[(0, 1, all.clone())]);
        let mut after = fixture(lb, &[(0, 1, all[..3].to_vec())]);
        let (mut stayed, mut kept) = (0, 0);
        for key in 0..2000u64 {
            let hash = xxhash_rust::xxh3::xxh3_64(&key.to_le_bytes());
            let old = before.pick(Some(hash)).unwrap();
            assert_eq!(before.pick(Some(hash)), Some(old), "a hash has one host");
            if old != 3 {
                stayed += 1;
                kept += usize::from(after.pick(Some(hash)) == Some(old));
            }
        }
        // Remaining hosts get more points on the ring, which moves some; a modulo would keep a third.
        assert!(kept * 100 > stayed * 70, "{kept} of {stayed}");
    }
}
