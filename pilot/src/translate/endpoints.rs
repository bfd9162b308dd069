//! Endpoints of a cluster: which ones, on which port, in which locality, with which weight and priority.
//!
//! - ALWAYS: every endpoint is listed with its health, so that a proxy keeps the connections that it has to one that drains, and
//!   nearer ones that fail count when traffic is handed to farther ones. Clusters turn Envoy's panic mode off: where all fail, it would
//!   use them all.
//! - ALWAYS: clients of gRPC, which know healthy endpoints only, are told of degraded ones when there is no other, as healthy ones.
//! - NEVER: an endpoint on a port that it does not serve.

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
        /// The client's network; empty is the default network.
        network: &'a str,
        /// Region to region, tried before other regions.
        regions: Vec<(&'a str, &'a str)>,
        /// Labels, most important first, by which closeness is measured instead of by locality: `key` or `key=value`. Those of the
        /// topology are known of every client and endpoint that has a locality or a network, whatever its platform.
        keys: Vec<&'a str>,
    },
    /// Only when the nearer ones fail, by the platform's own word.
    Nearest {
        /// Where the client is.
        client: &'a Locality,
        /// The client's node, when those on it come before the others of its zone.
        node: Option<&'a str>,
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
    /// Only those on this node.
    pub node: Option<&'a str>,
    /// How health is said.
    pub health: HealthForm,
}

/// How a client is told of endpoints that are not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthForm {
    /// Every endpoint, with its status.
    #[default]
    Status,
    /// Those that take traffic, without a status: the healthy ones, or the degraded ones where there are no others.
    Usable,
}

/// Lists the endpoints of the cluster `name`.
pub fn load_assignment(name: &str, selection: Selection<'_>, spread: &Spread<'_>) -> endpoint::ClusterLoadAssignment {
    let mut groups: BTreeMap<(u32, &Locality), Vec<&Endpoint>> = BTreeMap::new();
    for e in selection.iter() {
        let priority = match spread {
            Spread::Even | Spread::Distribute(_) => 0,
            Spread::Nearest { client, node } => nearness(client, *node, e),
            Spread::Failover { client, regions, keys, .. } if keys.is_empty() => distance(client, &e.locality, regions),
            Spread::Failover { client, labels, network, keys, .. } => {
                label_distance(keys, &Whereabouts { labels: *labels, locality: client, network }, e)
            }
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
            lb_endpoints: members.iter().map(|e| lb_endpoint(e, selection)).collect(),
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

fn lb_endpoint(e: &Endpoint, selection: Selection<'_>) -> endpoint::LbEndpoint {
    let number = e.port(selection.port);
    let address = match &e.address {
        Address::Ip(ip) => socket_address(*ip, number),
        Address::Dns(name) => host_address(name.to_string(), number),
        Address::Unix(path) => pipe(path),
    };
    let status = match (selection.health, e.health) {
        // Envoy's default, which costs no bytes.
        (HealthForm::Usable, _) | (_, Health::Healthy) => core::HealthStatus::Unknown,
        (HealthForm::Status, Health::Degraded) => core::HealthStatus::Degraded,
        (HealthForm::Status, Health::Unhealthy) => core::HealthStatus::Unhealthy,
        (HealthForm::Status, Health::Draining) => core::HealthStatus::Draining,
    };
    endpoint::LbEndpoint {
        health_status: status as i32,
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

/// 0 for the same node, where that counts, 1 for the same zone, 2 for others.
fn nearness(client: &Locality, node: Option<&str>, endpoint: &Endpoint) -> u32 {
    let zone = (&client.region, &client.zone) == (&endpoint.locality.region, &endpoint.locality.zone);
    match node {
        Some(node) if endpoint.node.as_deref() == Some(node) => 0,
        _ if zone && !client.zone.is_empty() => 1,
        _ => 2,
    }
}

/// What is known of where somebody is.
struct Whereabouts<'a> {
    labels: Option<&'a Labels>,
    locality: &'a Locality,
    network: &'a str,
}

impl Whereabouts<'_> {
    /// The value of a label. Locality and network say those of the topology, as Istio adds them to every workload's own labels.
    fn label(&self, key: &str) -> Option<&str> {
        let known = match key {
            "topology.kubernetes.io/region" => &*self.locality.region,
            "topology.kubernetes.io/zone" => &*self.locality.zone,
            "topology.istio.io/subzone" => &*self.locality.subzone,
            "topology.istio.io/network" => self.network,
            _ => "",
        };
        if known.is_empty() {
            self.labels.and_then(|labels| labels.get(key)).map(|value| &**value)
        } else {
            Some(known)
        }
    }
}

/// How many of `keys`, from the first that differs on, do not count as equal.
fn label_distance(keys: &[&str], client: &Whereabouts<'_>, endpoint: &Endpoint) -> u32 {
    let there =
        Whereabouts { labels: Some(&endpoint.labels), locality: &endpoint.locality, network: &endpoint.network };
    let equal = keys
        .iter()
        .take_while(|key| match key.split_once('=') {
            Some((key, value)) => there.label(key) == Some(value),
            None => client.label(key) == there.label(key),
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
    /// The endpoints that belong to it, in their registry's order.
    pub fn iter(self) -> impl Iterator<Item = &'a Endpoint> {
        let healthy = self.health == HealthForm::Usable && self.members().any(|e| e.health == Health::Healthy);
        self.members().filter(move |e| match self.health {
            HealthForm::Status => true,
            HealthForm::Usable if healthy => e.health == Health::Healthy,
            HealthForm::Usable => e.health == Health::Degraded,
        })
    }

    fn members(self) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.iter().filter(move |e| {
            e.serves(self.port)
                && (self.dns || !matches!(e.address, Address::Dns(_)))
                && self.node.is_none_or(|node| e.node.as_deref() == Some(node))
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
            node: None,
            health: Health::Healthy,
            app: BTreeMap::new(),
        }
    }

    fn port() -> Port {
        Port { name: "http".into(), number: 80, protocol: Protocol::Http }
    }

    fn all(port: &Port) -> Selection<'_> {
        static NONE: LabelMap = LabelMap::new();
        Selection { endpoints: &[], port, labels: &NONE, dns: false, node: None, health: HealthForm::Status }
    }

    fn assign(endpoints: &[Endpoint], labels: &LabelMap, spread: &Spread<'_>) -> endpoint::ClusterLoadAssignment {
        let port = port();
        load_assignment("c", Selection { endpoints, labels, ..all(&port) }, spread)
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

    fn of_each_health() -> Vec<Endpoint> {
        let all = [Health::Healthy, Health::Degraded, Health::Unhealthy, Health::Draining];
        (1..).zip(all).map(|(last, health)| Endpoint { health, ..at(last, "", 1) }).collect()
    }

    fn statuses(list: &endpoint::ClusterLoadAssignment) -> Vec<core::HealthStatus> {
        list.endpoints.iter().flat_map(|l| &l.lb_endpoints).map(|e| e.health_status()).collect()
    }

    #[test]
    fn every_endpoint_is_listed_with_its_health() {
        use xebec_proto::envoy::config::core::v3::HealthStatus::{Degraded, Draining, Unhealthy, Unknown};
        let list = assign(&of_each_health(), &LabelMap::new(), &Spread::Even);
        assert_eq!(statuses(&list), [Unknown, Degraded, Unhealthy, Draining]);
        assert_eq!(shape(&list)[0].2, 4, "Envoy itself takes off what a locality's sick endpoints weigh");
    }

    #[test]
    fn where_health_is_not_understood_only_what_takes_traffic_is_listed() {
        let port = port();
        let usable = |endpoints: &[Endpoint]| {
            let list = Selection { endpoints, health: HealthForm::Usable, ..all(&port) };
            let list = load_assignment("c", list, &Spread::Even);
            assert!(statuses(&list).iter().all(|s| *s == core::HealthStatus::Unknown));
            shape(&list).into_iter().flat_map(|l| l.3).collect::<Vec<_>>()
        };
        let endpoints = of_each_health();
        assert_eq!(usable(&endpoints), ["10.0.0.1:8080"]);
        assert_eq!(usable(&endpoints[1..]), ["10.0.0.2:8080"], "the degraded one is better than none");
        assert!(usable(&endpoints[2..]).is_empty());
    }

    #[test]
    fn an_endpoint_is_not_listed_on_a_port_that_it_does_not_serve() {
        let mut other = at(1, "", 1);
        other.ports.insert("http".into(), 0);
        let list = assign(&[other, at(2, "", 1)], &LabelMap::new(), &Spread::Even);
        assert_eq!(shape(&list)[0].3, ["10.0.0.2:8080"]);
    }

    #[test]
    fn the_nearest_come_first_by_zone_or_by_node() {
        let client = Locality::parse("r1/z1");
        let on = |last, locality, node: &str| Endpoint { node: Some(node.into()), ..at(last, locality, 1) };
        let endpoints = [on(1, "r1/z1", "n1"), on(2, "r1/z1/s", "n2"), on(3, "r2/z1", "n3")];
        let levels = |node| {
            let list = assign(&endpoints, &LabelMap::new(), &Spread::Nearest { client: &client, node });
            shape(&list).into_iter().map(|(_, level, _, hosts)| (level, hosts[0].clone())).collect::<Vec<_>>()
        };
        let host = |last: u8| format!("10.0.0.{last}:8080");
        assert_eq!(levels(None), [(0, host(1)), (0, host(2)), (1, host(3))]);
        assert_eq!(levels(Some("n2")), [(0, host(2)), (1, host(1)), (2, host(3))]);
        assert_eq!(levels(Some("elsewhere")), [(0, host(1)), (0, host(2)), (1, host(3))]);
    }

    #[test]
    fn a_service_that_stays_on_the_node_has_only_the_endpoints_there() {
        let port = port();
        let endpoints = [Endpoint { node: Some("n1".into()), ..at(1, "", 1) }, at(2, "", 1)];
        let on = |node| load_assignment("c", Selection { endpoints: &endpoints, node, ..all(&port) }, &Spread::Even);
        assert_eq!(shape(&on(Some("n1")))[0].3, ["10.0.0.1:8080"]);
        assert!(on(Some("n9")).endpoints.is_empty());
        assert_eq!(shape(&on(None))[0].3.len(), 2);
    }

    #[test]
    fn failover_orders_by_nearness_without_gaps() {
        let client = Locality::parse("r1/z1/s1");
        let endpoints = [at(1, "r1/z1/s1", 1), at(2, "r1/z2", 1), at(3, "r2/z", 1), at(4, "r3/z", 1)];
        let spread = Spread::Failover {
            client: &client,
            labels: None,
            network: "",
            regions: vec![("r1", "r3")],
            keys: Vec::new(),
        };
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
        let spread = Spread::Failover {
            client: &client,
            labels: Some(&labels),
            network: "",
            regions: Vec::new(),
            keys: vec!["version"],
        };
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
