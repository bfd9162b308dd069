//! Endpoints of a cluster: which ones, on which port, in which locality, with which weight and priority.
//!
//! Endpoints that are unhealthy or drain are left out: a proxy finishes what it has with an endpoint that vanishes, and a cluster
//! whose listed endpoints all fail would make Envoy panic and use them all.

use std::collections::BTreeMap;

use xebec_galley::spec::LabelMap;
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::config::endpoint::v3 as endpoint;

use super::wire::{host_address, pipe, socket_address, u32_value};
use crate::model::{Address, Endpoint, Health, Labels, Locality, Port};

/// How endpoints of other localities are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Spread<'a> {
    /// As the ones nearby.
    #[default]
    Even,
    /// Only when the nearer ones fail. Has an effect only where outlier detection notices that.
    Failover {
        /// Where the client is.
        client: &'a Locality,
        /// The client's labels.
        labels: Option<&'a Labels>,
        /// Region to region, tried before other regions.
        regions: Vec<(&'a str, &'a str)>,
        /// Labels, most important first, by which closeness is measured instead of by locality: `key` or `key=value`.
        keys: Vec<&'a str>,
    },
    /// In these shares, by locality pattern (`region/zone/subzone`, with `*`). Localities without a share get nothing.
    Distribute(Vec<(&'a str, u32)>),
}

/// Which endpoints of a service belong to a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// All of them.
    pub endpoints: &'a [Endpoint],
    /// The service's port.
    pub port: &'a Port,
    /// The subset's labels: an endpoint must have all of them.
    pub labels: &'a LabelMap,
    /// DNS names may be endpoints.
    pub dns: bool,
}

/// Lists the endpoints of the cluster `name`.
pub fn load_assignment(name: &str, selection: Selection<'_>, spread: &Spread<'_>) -> endpoint::ClusterLoadAssignment {
    let mut groups: BTreeMap<(u32, &Locality), Vec<&Endpoint>> = BTreeMap::new();
    for e in selection.iter() {
        let priority = match spread {
            Spread::Even | Spread::Distribute(_) => 0,
            Spread::Failover { client, regions, keys, .. } if keys.is_empty() => distance(client, &e.locality, regions),
            Spread::Failover { labels, keys, .. } => label_distance(keys, *labels, &e.labels),
        };
        groups.entry((priority, &e.locality)).or_default().push(e);
    }
    let mut lists: Vec<endpoint::LocalityLbEndpoints> = Vec::with_capacity(groups.len());
    let mut previous = None;
    let mut level = 0;
    for ((priority, locality), members) in &groups {
        // Envoy wants priorities without gaps.
        if previous.is_some_and(|p| p != *priority) {
            level += 1;
        }
        previous = Some(*priority);
        let weight = members.iter().map(|e| e.weight.max(1)).fold(0, u32::saturating_add);
        lists.push(endpoint::LocalityLbEndpoints {
            // Present also when nothing is known of it: clients of gRPC refuse a list without one.
            locality: Some(core::Locality {
                region: locality.region.to_string(),
                zone: locality.zone.to_string(),
                sub_zone: locality.subzone.to_string(),
            }),
            lb_endpoints: members.iter().map(|e| lb_endpoint(e, selection.port)).collect(),
            load_balancing_weight: u32_value(weight),
            priority: level,
            ..Default::default()
        });
    }
    if let Spread::Distribute(shares) = spread {
        lists = distribute(lists, shares);
    }
    endpoint::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: lists, ..Default::default() }
}

fn lb_endpoint(e: &Endpoint, port: &Port) -> endpoint::LbEndpoint {
    let number = e.ports.get(&port.name).copied().unwrap_or(port.number);
    let address = match &e.address {
        Address::Ip(ip) => socket_address(*ip, number),
        Address::Dns(name) => host_address(name.to_string(), number),
        Address::Unix(path) => pipe(path),
    };
    endpoint::LbEndpoint {
        load_balancing_weight: u32_value(e.weight.max(1)),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(address),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// 0 for the same subzone, 1 for the same zone, 2 for the same region, 3 for a region that is preferred, 4 for others.
fn distance(client: &Locality, other: &Locality, regions: &[(&str, &str)]) -> u32 {
    if client.region != other.region {
        let preferred = regions.iter().find(|(from, _)| *from == &*client.region).map(|(_, to)| *to);
        return match preferred {
            Some(to) if to == &*other.region => 3,
            _ => 4,
        };
    }
    if client.zone != other.zone {
        2
    } else if client.subzone != other.subzone {
        1
    } else {
        0
    }
}

/// How many of `keys`, from the first that differs on, do not count as equal.
fn label_distance(keys: &[&str], client: Option<&Labels>, endpoint: &Labels) -> u32 {
    let equal = keys
        .iter()
        .take_while(|key| match key.split_once('=') {
            Some((key, value)) => endpoint.get(key).is_some_and(|v| &**v == value),
            None => client.and_then(|c| c.get(**key)) == endpoint.get(**key),
        })
        .count();
    u32::try_from(keys.len() - equal).unwrap_or(u32::MAX)
}

/// Divides each pattern's share among its localities in proportion to their own weights.
fn distribute(lists: Vec<endpoint::LocalityLbEndpoints>, shares: &[(&str, u32)]) -> Vec<endpoint::LocalityLbEndpoints> {
    let share_of = |list: &endpoint::LocalityLbEndpoints| {
        let locality = list.locality.clone().unwrap_or_default();
        shares
            .iter()
            .position(|(pattern, _)| locality_matches(pattern, &locality.region, &locality.zone, &locality.sub_zone))
    };
    let weight_of = |list: &endpoint::LocalityLbEndpoints| list.load_balancing_weight.map_or(1, |w| u64::from(w.value));
    let mut totals = vec![0u64; shares.len()];
    for list in &lists {
        if let Some(index) = share_of(list) {
            totals[index] += weight_of(list);
        }
    }
    lists
        .into_iter()
        .filter_map(|mut list| {
            let index = share_of(&list)?;
            let share = u64::from(shares[index].1);
            if share == 0 {
                return None;
            }
            // Scaled so that the smallest locality of a share does not vanish by rounding.
            let weight = (share * 10_000 * weight_of(&list) / totals[index].max(1)).max(1);
            list.load_balancing_weight = u32_value(u32::try_from(weight).unwrap_or(u32::MAX));
            Some(list)
        })
        .collect()
}

/// Whether a locality fits `region/zone/subzone`, where a `*` fits anything and missing parts too.
pub fn locality_matches(pattern: &str, region: &str, zone: &str, subzone: &str) -> bool {
    let mut parts = pattern.splitn(3, '/');
    [region, zone, subzone].into_iter().all(|value| parts.next().is_none_or(|part| part == "*" || part == value))
}

// === impl Selection ===

impl<'a> Selection<'a> {
    /// The endpoints that take traffic on this port, in their registry's order.
    pub fn iter(self) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.iter().filter(move |e| {
            e.health == Health::Healthy
                && (self.dns || !matches!(e.address, Address::Dns(_)))
                && self.labels.iter().all(|(k, v)| e.labels.get(k.as_str()).is_some_and(|own| **own == **v))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::model::Protocol;

    fn at(last: u8, locality: &str, weight: u32) -> Endpoint {
        Endpoint {
            address: Address::Ip([10, 0, 0, last].into()),
            ports: BTreeMap::from([("http".into(), 8080)]),
            labels: BTreeMap::from([("version".into(), format!("v{last}").into())]),
            locality: Locality::parse(locality),
            weight,
            service_account: None,
            workload: None,
            network: "".into(),
            health: Health::Healthy,
            app: BTreeMap::new(),
        }
    }

    fn port() -> Port {
        Port { name: "http".into(), number: 80, protocol: Protocol::Http }
    }

    fn assign(endpoints: &[Endpoint], labels: &LabelMap, spread: &Spread<'_>) -> endpoint::ClusterLoadAssignment {
        let port = port();
        load_assignment("c", Selection { endpoints, port: &port, labels, dns: false }, spread)
    }

    fn shape(assignment: &endpoint::ClusterLoadAssignment) -> Vec<(String, u32, u32, Vec<String>)> {
        assignment
            .endpoints
            .iter()
            .map(|l| {
                let locality = l.locality.clone().unwrap_or_default();
                let hosts = l.lb_endpoints.iter().map(|e| {
                    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(e)) = &e.host_identifier else { panic!() };
                    match e.address.clone().unwrap().address.unwrap() {
                        core::address::Address::SocketAddress(s) => match s.port_specifier.unwrap() {
                            core::socket_address::PortSpecifier::PortValue(p) => format!("{}:{p}", s.address),
                            other => panic!("{other:?}"),
                        },
                        other => panic!("{other:?}"),
                    }
                });
                let name = format!("{}/{}/{}", locality.region, locality.zone, locality.sub_zone);
                (name, l.priority, l.load_balancing_weight.unwrap().value, hosts.collect())
            })
            .collect()
    }

    #[test]
    fn endpoints_are_grouped_by_locality_and_use_their_own_port_for_the_services_port() {
        let endpoints = [at(1, "r1/z1", 1), at(2, "r1/z2", 3), at(3, "r1/z1", 4)];
        assert_eq!(
            shape(&assign(&endpoints, &LabelMap::new(), &Spread::Even)),
            [
                ("r1/z1/".into(), 0, 5, vec!["10.0.0.1:8080".into(), "10.0.0.3:8080".into()]),
                ("r1/z2/".into(), 0, 3, vec!["10.0.0.2:8080".to_owned()]),
            ]
        );
    }

    #[test]
    fn an_endpoint_without_a_port_of_its_own_listens_on_the_services_number() {
        let mut e = at(1, "", 1);
        e.ports.clear();
        assert_eq!(shape(&assign(&[e], &LabelMap::new(), &Spread::Even))[0].3, ["10.0.0.1:80"]);
    }

    #[test]
    fn a_subset_has_only_the_endpoints_with_all_of_its_labels() {
        let endpoints = [at(1, "", 1), at(2, "", 1)];
        let labels = LabelMap::from([("version".into(), "v2".into())]);
        assert_eq!(shape(&assign(&endpoints, &labels, &Spread::Even))[0].3, ["10.0.0.2:8080"]);
        let more = LabelMap::from([("version".into(), "v2".into()), ("tier".into(), "x".into())]);
        assert!(assign(&endpoints, &more, &Spread::Even).endpoints.is_empty());
    }

    #[test]
    fn endpoints_that_fail_or_drain_are_left_out() {
        let (mut sick, mut leaving) = (at(1, "", 1), at(2, "", 1));
        sick.health = Health::Unhealthy;
        leaving.health = Health::Draining;
        let list = assign(&[sick, leaving, at(3, "", 1)], &LabelMap::new(), &Spread::Even);
        assert_eq!(shape(&list)[0].3, ["10.0.0.3:8080"]);
    }

    #[test]
    fn failover_orders_by_nearness_without_gaps() {
        let client = Locality::parse("r1/z1/s1");
        let endpoints = [at(1, "r1/z1/s1", 1), at(2, "r1/z2", 1), at(3, "r2/z", 1), at(4, "r3/z", 1)];
        let spread = Spread::Failover { client: &client, labels: None, regions: vec![("r1", "r3")], keys: Vec::new() };
        let levels: Vec<_> =
            shape(&assign(&endpoints, &LabelMap::new(), &spread)).into_iter().map(|(l, p, ..)| (l, p)).collect();
        assert_eq!(
            levels,
            [("r1/z1/s1".into(), 0), ("r1/z2/".into(), 1), ("r3/z/".into(), 2), ("r2/z/".to_owned(), 3)]
        );
    }

    #[test]
    fn failover_by_labels_counts_the_labels_that_agree_from_the_first() {
        let client = Locality::default();
        let labels = Labels::from([("a".into(), "1".into()), ("version".into(), "v2".into())]);
        let spread =
            Spread::Failover { client: &client, labels: Some(&labels), regions: Vec::new(), keys: vec!["version"] };
        let endpoints = [at(1, "", 1), at(2, "", 1)];
        let lists = shape(&assign(&endpoints, &LabelMap::new(), &spread));
        assert_eq!(lists[0].3, ["10.0.0.2:8080"]);
        assert_eq!(lists[1].1, 1);
    }

    #[test]
    fn distribution_gives_each_pattern_its_share_and_drops_what_has_none() {
        let endpoints = [at(1, "r1/z1", 1), at(2, "r1/z2", 3), at(3, "r2/z1", 1), at(4, "r3/z1", 1)];
        let spread = Spread::Distribute(vec![("r1/*", 80), ("r2/z1/*", 20)]);
        let weights: Vec<_> =
            shape(&assign(&endpoints, &LabelMap::new(), &spread)).into_iter().map(|(l, _, w, _)| (l, w)).collect();
        assert_eq!(weights, [("r1/z1/".into(), 200_000), ("r1/z2/".into(), 600_000), ("r2/z1/".to_owned(), 200_000)]);
    }
}
