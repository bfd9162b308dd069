//! Plain values: listings and events in, what the mesh is told out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use xebec_pilot::model::{Health, RegistryId};

use super::*;
use crate::settings::Settings;
use crate::wire::{Event, Payload};

const KEEP: Duration = Duration::from_secs(600);
/// Of instances' ports tests only write what comes after this: they are dynamic ones.
const DYNAMIC: u16 = 20_000;

/// A mirror, a clock that the test moves, and what the mesh was told in short: `+HOST:PORT` a service, `-HOST` it is gone, `=HOST` and
/// the ports of its endpoints, those of unhealthy ones in brackets.
struct Told {
    mirror: Mirror,
    now: Instant,
}

// === impl Told ===

impl Told {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let rules =
            Rules { settings: settings.into(), registry: RegistryId("nomad:test".into()), region: "global".into() };
        Self { mirror: Mirror::new(rules), now: Instant::now() }
    }

    fn list(&mut self, index: u64, services: &[(&str, &[Row])]) -> Vec<String> {
        let name = |name: &str| ("default".into(), name.into());
        let services = services.iter().map(|(n, rows)| (name(n), (rows.to_vec(), index))).collect();
        self.take(Listing { services, index, ..Listing::default() })
    }

    fn take(&mut self, listing: Listing) -> Vec<String> {
        self.mirror.replace(listing, self.now);
        self.news()
    }

    fn hear(&mut self, index: u64, events: Vec<Event>) -> Vec<String> {
        self.mirror.apply(&Batch { index, events }, self.now);
        self.news()
    }

    fn after(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.mirror.expire(self.now, KEEP);
        self.news()
    }

    fn news(&mut self) -> Vec<String> {
        let host =
            |key: &ServiceKey| key.hostname.strip_suffix(".default.service.nomad").unwrap_or(&key.hostname).to_owned();
        let ports = |endpoints: &[Endpoint]| {
            let port = |e: &Endpoint| match (e.ports.values().next().unwrap() - DYNAMIC, e.health) {
                (port, Health::Healthy) => port.to_string(),
                (port, _) => format!("({port})"),
            };
            endpoints.iter().map(port).collect::<Vec<_>>().join(",")
        };
        let short = |event: RegistryEvent| match event {
            RegistryEvent::UpsertService(service) => format!("+{}:{}", host(&service.key), service.ports[0].number),
            RegistryEvent::RemoveService(key) => format!("-{}", host(&key)),
            RegistryEvent::ReplaceEndpoints(key, endpoints) => format!("={}:{}", host(&key), ports(&endpoints)),
            other => panic!("{other:?}"),
        };
        self.mirror.settle().0.into_iter().map(short).collect()
    }
}

fn row(name: &str, port: u16) -> Row {
    Row {
        id: format!("{name}-{port}").into(),
        service_name: name.into(),
        namespace: "default".into(),
        node_id: "node".into(),
        alloc_id: format!("alloc-{port}").into(),
        address: "10.0.0.7".into(),
        port: (DYNAMIC + port).into(),
        create_index: 1000,
        ..Row::default()
    }
}

fn tagged(name: &str, port: u16, tag: &str) -> Row {
    Row { tags: vec![tag.into()], ..row(name, port) }
}

fn event(topic: &str, kind: &str, payload: Payload) -> Event {
    Event { topic: topic.into(), kind: kind.into(), payload }
}

fn comes(row: Row) -> Event {
    event("Service", "ServiceRegistration", Payload { service: Some(row), ..Payload::default() })
}

fn goes(row: Row) -> Event {
    event("Service", "ServiceDeregistration", Payload { service: Some(row), ..Payload::default() })
}

fn allocation(port: u16, status: &str, index: u64) -> Allocation {
    let id = format!("alloc-{port}").into();
    Allocation {
        id,
        client_status: status.into(),
        desired_status: "run".into(),
        modify_index: index,
        ..Allocation::default()
    }
}

fn becomes(allocation: Allocation) -> Event {
    event("Allocation", "AllocationUpdated", Payload { allocation: Some(allocation), ..Payload::default() })
}

fn machine(status: &str, index: u64) -> Node {
    Node { id: "node".into(), name: "machine-1".into(), status: status.into(), modify_index: index, ..Node::default() }
}

fn turns(node: Node) -> Event {
    event("Node", "NodeStatusUpdate", Payload { node: Some(node), ..Payload::default() })
}

// === listings ===

#[test]
fn a_service_that_could_not_be_read_stays_as_it_was_and_is_followed_on() {
    let mut told = Told::new();
    assert_eq!(
        told.list(10, &[("db", &[row("db", 5)]), ("web", &[row("web", 1)])]),
        ["+db:80", "=db:5", "+web:80", "=web:1"]
    );
    let unread = BTreeSet::from([("default".into(), "web".into()), ("default".into(), "new".into())]);
    let services = BTreeMap::from([(("default".into(), "db".into()), (vec![row("db", 6)], 20))]);
    assert_eq!(told.take(Listing { services, unread, index: 20, ..Listing::default() }), ["=db:6"]);
    assert_eq!(told.hear(15, vec![comes(row("web", 2))]), ["=web:1,2"], "said before the list, and not in it");
    assert_eq!(told.list(30, &[("web", &[row("web", 2)])]), ["=db:", "=web:2"]);
}

// === events ===

#[test]
fn events_after_a_listing_add_change_and_remove() {
    let mut told = Told::new();
    assert_eq!(told.list(10, &[("web", &[row("web", 1)])]), ["+web:80", "=web:1"]);
    assert_eq!(told.hear(11, vec![comes(row("web", 2)), comes(row("db", 3))]), ["+db:80", "=db:3", "=web:1,2"]);
    assert_eq!(told.hear(12, vec![comes(tagged("web", 2, "mesh-port=90"))]), ["+web:90"]);
    assert_eq!(told.hear(13, vec![goes(row("web", 2))]), ["+web:80", "=web:1"]);
}

#[test]
fn several_events_of_one_index_all_count() {
    let mut told = Told::new();
    told.list(10, &[]);
    let all = vec![comes(row("web", 1)), comes(row("web", 2)), goes(row("web", 1)), comes(row("web", 3))];
    assert_eq!(told.hear(11, all), ["+web:80", "=web:2,3"]);
}

#[test]
fn an_event_that_is_older_than_the_list_changes_nothing() {
    let mut told = Told::new();
    told.list(10, &[("web", &[row("web", 1)])]);
    assert!(told.hear(10, vec![goes(row("web", 1))]).is_empty(), "it has come back since");
    assert!(told.hear(9, vec![comes(row("web", 2)), comes(row("old", 3))]).is_empty(), "they are gone since");
    assert_eq!(told.hear(11, vec![comes(row("old", 3))]), ["+old:80", "=old:3"]);
}

#[test]
fn each_service_is_as_old_as_its_own_listing() {
    let mut told = Told::new();
    let of = |name: &str, port, index| (("default".into(), name.into()), (vec![row(name, port)], index));
    let services = BTreeMap::from([of("web", 1, 20), of("db", 2, 12)]);
    told.take(Listing { services, index: 10, ..Listing::default() });
    let both = || vec![goes(row("web", 1)), goes(row("db", 2)), comes(row("new", 3))];
    assert_eq!(told.hear(15, both()), ["=db:", "+new:80", "=new:3"]);
}

#[test]
fn a_repeated_event_says_nothing_again() {
    let mut told = Told::new();
    told.list(10, &[]);
    assert_eq!(told.hear(11, vec![comes(row("web", 1))]), ["+web:80", "=web:1"]);
    assert!(told.hear(11, vec![comes(row("web", 1))]).is_empty());
    assert_eq!(told.hear(12, vec![goes(row("web", 1))]), ["=web:"]);
    assert!(told.hear(12, vec![goes(row("web", 1))]).is_empty());
    assert!(told.hear(13, vec![goes(row("never", 9))]).is_empty());
}

#[test]
fn an_event_that_comes_late_brings_nothing_back() {
    let mut told = Told::new();
    told.list(10, &[("web", &[row("web", 1), row("web", 2)])]);
    assert_eq!(told.hear(15, vec![goes(row("web", 2))]), ["=web:1"]);
    assert!(told.hear(14, vec![comes(row("web", 2))]).is_empty());
    assert!(told.hear(13, vec![goes(row("web", 1))]).is_empty());
    assert_eq!(told.hear(16, vec![comes(row("web", 2))]), ["=web:1,2"]);
}

#[test]
fn only_what_is_wanted_is_heard() {
    let mut settings = Settings::default();
    settings.services.exclude = vec!["internal-*".into()];
    let mut told = Told::with(settings);
    told.list(10, &[]);
    assert!(told.hear(11, vec![comes(row("internal-db", 1))]).is_empty());
}

// === listings ===

#[test]
fn a_list_that_says_the_same_says_nothing() {
    let mut told = Told::new();
    told.list(10, &[("web", &[row("web", 1), row("web", 2)])]);
    assert!(told.list(20, &[("web", &[row("web", 2), row("web", 1)])]).is_empty());
}

#[test]
fn a_list_that_lacks_most_empties_those_services_and_keeps_them() {
    let mut told = Told::new();
    told.list(10, &[("a", &[tagged("a", 1, "mesh-port=90")]), ("b", &[row("b", 2)]), ("c", &[row("c", 3)])]);
    assert_eq!(told.list(20, &[("b", &[row("b", 2)])]), ["=a:", "=c:"]);
    assert_eq!(told.mirror.populated().count(), 1);
    assert_eq!(
        told.list(21, &[("a", &[tagged("a", 1, "mesh-port=90")]), ("b", &[row("b", 2)])]),
        ["=a:1"],
        "its port was kept"
    );
}

#[test]
fn after_an_index_that_goes_back_events_count_from_there() {
    let mut told = Told::new();
    told.list(1000, &[("web", &[row("web", 1)])]);
    told.hear(1005, vec![comes(row("web", 2))]);
    assert_eq!(told.list(50, &[("web", &[row("web", 3)])]), ["=web:3"]);
    assert_eq!(told.mirror.index(), 50);
    assert!(told.hear(50, vec![comes(row("web", 4))]).is_empty());
    assert_eq!(told.hear(51, vec![comes(row("web", 5)), comes(row("db", 6))]), ["+db:80", "=db:6", "=web:3,5"]);
}

#[test]
fn what_was_heard_while_a_list_was_read_is_applied_again_where_the_list_is_older() {
    let mut told = Told::new();
    told.list(10, &[("web", &[row("web", 1)])]);
    let heard = [
        Batch { index: 11, events: vec![comes(row("web", 2))] },
        Batch { index: 13, events: vec![goes(row("web", 1))] },
    ];
    // The list was read between the two.
    told.mirror.replace(
        Listing {
            services: BTreeMap::from([(("default".into(), "web".into()), (vec![row("web", 1), row("web", 2)], 12))]),
            index: 12,
            ..Listing::default()
        },
        told.now,
    );
    heard.iter().for_each(|batch| told.mirror.apply(batch, told.now));
    assert_eq!(told.news(), ["=web:2"]);
}

#[test]
fn a_service_that_was_never_seen_with_instances_is_not_announced() {
    let mut told = Told::new();
    assert!(told.list(10, &[("web", &[])]).is_empty());
    assert_eq!(told.hear(11, vec![comes(row("web", 1))]), ["+web:80", "=web:1"]);
}

// === empty services ===

#[test]
fn an_emptied_service_stays_for_a_while_with_its_ports_and_then_goes() {
    let mut told = Told::new();
    told.list(10, &[("web", &[tagged("web", 1, "mesh-port=90")])]);
    assert_eq!(told.hear(11, vec![goes(row("web", 1))]), ["=web:"]);
    assert!(told.after(KEEP / 2).is_empty());
    assert!(told.list(12, &[]).is_empty(), "another list starts no new wait");
    assert_eq!(told.after(KEEP / 2), ["-web"]);
    assert_eq!(told.hear(13, vec![comes(row("web", 2))]), ["+web:80", "=web:2"]);
}

#[test]
fn an_instance_that_comes_in_time_keeps_the_service() {
    let mut told = Told::new();
    told.list(10, &[("web", &[row("web", 1)])]);
    assert_eq!(told.hear(11, vec![goes(row("web", 1))]), ["=web:"]);
    told.after(KEEP / 2);
    assert_eq!(told.hear(12, vec![comes(row("web", 2))]), ["=web:2"]);
    assert!(told.after(KEEP).is_empty());
    assert_eq!(told.hear(13, vec![goes(row("web", 2))]), ["=web:"]);
    assert!(told.after(KEEP / 2).is_empty(), "the wait begins anew");
    assert_eq!(told.after(KEEP / 2), ["-web"]);
}

// === allocations, nodes, checks ===

#[test]
fn an_allocation_that_ends_makes_its_instances_unhealthy_and_older_news_of_it_do_not_count() {
    let mut told = Told::new();
    told.list(10, &[("web", &[row("web", 1)]), ("admin", &[row("admin", 1)])]);
    assert!(told.hear(11, vec![becomes(allocation(1, "running", 11))]).len() == 2, "the group's name is known now");
    assert_eq!(told.mirror.running(), ["alloc-1".into()]);
    assert_eq!(told.hear(12, vec![becomes(allocation(1, "failed", 12))]), ["=admin:(1)", "=web:(1)"]);
    assert!(told.hear(13, vec![becomes(allocation(1, "running", 11))]).is_empty());
    assert!(told.mirror.running().is_empty());
    assert!(told.hear(14, vec![becomes(allocation(9, "running", 14))]).is_empty(), "nobody's");
}

#[test]
fn a_list_of_allocations_says_which_instances_are_dead() {
    let mut told = Told::new();
    let services = || BTreeMap::from([(("default".into(), "web".into()), (vec![row("web", 1), row("web", 2)], 2000))]);
    let listing = |allocations| Listing {
        services: services(),
        index: 2000,
        allocations,
        allocations_index: 2000,
        ..Listing::default()
    };
    assert_eq!(told.take(listing(vec![allocation(1, "running", 5)])), ["+web:80", "=web:1,(2)"]);
    assert_eq!(told.take(listing(vec![allocation(1, "running", 5), allocation(2, "running", 6)])), ["=web:1,2"]);
}

#[test]
fn a_node_that_is_lost_and_returns_changes_the_health_of_what_runs_there() {
    let mut told = Told::new();
    let services = || BTreeMap::from([(("default".into(), "web".into()), (vec![row("web", 1)], 10))]);
    let listing = |nodes| Listing { services: services(), index: 10, nodes, ..Listing::default() };
    assert_eq!(told.take(listing(Some(vec![machine("ready", 5)]))), ["+web:80", "=web:1"]);
    assert_eq!(told.hear(11, vec![turns(machine("down", 11))]), ["=web:(1)"]);
    assert!(told.hear(12, vec![turns(machine("ready", 5))]).is_empty(), "that was before");
    assert_eq!(told.hear(13, vec![turns(machine("ready", 13))]), ["=web:1"]);
    assert!(told.hear(14, vec![turns(machine("ready", 14))]).is_empty(), "a heartbeat changes nothing");
    assert!(told.take(listing(None)).is_empty(), "a token that may no longer see nodes does not unlearn them");
    assert_eq!(told.mirror.nodes().len(), 1);
}

#[test]
fn an_announcement_of_one_topic_is_not_taken_for_news_of_the_other() {
    let mut told = Told::new();
    told.list(10, &[("web", &[row("web", 1)])]);
    told.hear(11, vec![turns(machine("ready", 11))]);
    let payload = Payload {
        node: Some(machine("down", 12)),
        allocation: Some(allocation(1, "failed", 12)),
        ..Payload::default()
    };
    assert!(told.hear(12, vec![event("Job", "NodeDeregistration", payload)]).is_empty());
}

#[test]
fn checks_count_for_the_allocation_that_has_them_and_are_forgotten_with_it() {
    let mut told = Told::new();
    told.list(10, &[("web", &[row("web", 1), row("web", 2)])]);
    told.hear(11, vec![becomes(allocation(1, "running", 11)), becomes(allocation(2, "running", 11))]);
    let check = |told: &mut Told, allocation: &str, passes: &[bool]| {
        told.mirror.set_checks(&allocation.into(), passes.iter().map(|ok| ("web".into(), *ok)).collect());
        told.news()
    };
    assert_eq!(check(&mut told, "alloc-1", &[false]), ["=web:(1),2"]);
    assert!(check(&mut told, "alloc-1", &[false]).is_empty());
    assert_eq!(check(&mut told, "alloc-1", &[true]), ["=web:1,2"]);
    assert!(check(&mut told, "alloc-9", &[false]).is_empty(), "nobody's");
    check(&mut told, "alloc-2", &[false]);
    told.hear(12, vec![goes(row("web", 2))]);
    assert_eq!(told.hear(13, vec![comes(row("web", 2))]), ["=web:1,2"], "what is new has not been asked for yet");
}

// === names that several share ===

#[test]
fn guests_of_two_services_are_behind_one_name_which_goes_with_the_last() {
    let settings = Settings { mesh_hostnames: vec!["shared.example".into()], ..Settings::default() };
    let mut told = Told::with(settings);
    let guest = |name, port| tagged(name, port, "mesh-hostname=shared.example");
    told.list(10, &[("a", &[guest("a", 1)]), ("b", &[guest("b", 2)])]);
    assert_eq!(told.hear(11, vec![goes(row("a", 1))]), ["=a:", "=shared.example:2"]);
    assert_eq!(told.hear(12, vec![goes(row("b", 2))]), ["=b:", "=shared.example:"]);
    assert_eq!(told.after(KEEP), ["-a", "-b", "-shared.example"]);
}

/// What is behind a name that several instances join: its ports, and for each endpoint its own number for each of them.
fn joined(rows: &[Row]) -> (Vec<String>, Vec<Vec<u16>>) {
    let settings = Settings { mesh_hostnames: vec!["*.example".into(), "*.nomad".into()], ..Settings::default() };
    let mut told = Told::with(settings);
    let mut services: BTreeMap<Name, (Vec<Row>, u64)> = BTreeMap::new();
    for row in rows {
        let name = ("default".into(), Arc::clone(&row.service_name));
        services.entry(name).or_insert((Vec::new(), 10)).0.push(row.clone());
    }
    told.mirror.replace(Listing { services, index: 10, ..Listing::default() }, told.now);
    told.mirror.settle();
    let host = rows[0].tags[0].strip_prefix("mesh-hostname=").unwrap();
    let (service, endpoints) = &told.mirror.said[&ServiceKey::new(host, "default")];
    let ports = service.ports.iter().map(|port| format!("{}:{}", port.name, port.number)).collect();
    let own = |endpoint: &Endpoint| service.ports.iter().map(|port| endpoint.port(port)).collect();
    (ports, endpoints.iter().map(own).collect())
}

fn guest(name: &str, port: i64, host: &str, more: &[&str]) -> Row {
    let tags = std::iter::once(format!("mesh-hostname={host}").into()).chain(more.iter().map(|tag| (*tag).into()));
    Row { port, tags: tags.collect(), ..row(name, 1) }
}

#[test]
fn behind_a_shared_name_each_instance_serves_only_the_ports_of_its_own_service() {
    let of = |name: &str, port, more: &[&str]| guest(name, port, "reviews.example", more);
    let expected = |ports: &[&str], own: &[[u16; 2]]| {
        (ports.iter().map(|port| (*port).to_owned()).collect::<Vec<_>>(), own.iter().map(|own| own.to_vec()).collect())
    };
    // Nobody listens on 9080 where ports are dynamic, whoever comes first.
    assert_eq!(
        joined(&[of("reviews-v1", 9080, &[]), of("reviews-v2", 23_001, &[])]),
        expected(&["http:80", "http-9080:9080"], &[[9080, 9080], [23_001, 0]])
    );
    assert_eq!(
        joined(&[of("reviews-v1", 23_001, &[]), of("reviews-v2", 9080, &[])]),
        expected(&["http:80", "http-9080:9080"], &[[23_001, 0], [9080, 9080]])
    );
    // Ports are the same when their numbers are, whatever they are called.
    assert_eq!(
        joined(&[of("a", 23_001, &["mesh-port=90"]), of("b", 23_002, &["mesh-port=91"])]),
        expected(&["http:90", "http-91:91"], &[[23_001, 0], [0, 23_002]])
    );
    assert_eq!(
        joined(&[of("a", 9080, &["mesh-port-name=main"]), of("b", 9080, &[])]),
        expected(&["main:80", "http-9080:9080"], &[[9080, 9080], [9080, 9080]])
    );
}

#[test]
fn whoever_has_the_name_as_its_own_decides_before_guests() {
    let host = "web.default.service.nomad";
    let own = Row { port: 23_001, ..row("web", 1) };
    let (ports, own) = joined(&[guest("a", 23_002, host, &["mesh-port=90", "mesh-app-port=8001"]), own]);
    assert_eq!(ports, ["http:80", "http-90:90"]);
    assert_eq!(own, [[0, 23_002], [23_001, 0]]);
}

#[test]
fn what_is_left_out_is_said_once() {
    let mut told = Told::new();
    let bad = Row { address: "".into(), ..row("web", 1) };
    let list = |rows: Vec<Row>| Listing {
        services: BTreeMap::from([(("default".into(), "web".into()), (rows, 10))]),
        index: 10,
        ..Listing::default()
    };
    told.mirror.replace(list(vec![bad.clone(), row("web", 2)]), told.now);
    let reasons = |skips: &[Skip]| skips.iter().map(|skip| skip.reason).collect::<Vec<_>>();
    let first = told.mirror.settle().1.remove(0);
    assert_eq!((reasons(&first.now), reasons(&first.before)), (vec!["invalid_address"], vec![]));
    told.mirror.replace(list(vec![bad.clone(), row("web", 2), row("web", 3)]), told.now);
    let (events, skips) = told.mirror.settle();
    assert!(events.len() == 1 && skips.is_empty(), "{skips:?}");
    told.mirror.replace(list(vec![bad, Row { port: 0, ..row("web", 4) }]), told.now);
    let more = told.mirror.settle().1.remove(0);
    assert_eq!(
        (reasons(&more.now), reasons(&more.before)),
        (vec!["invalid_address", "invalid_port"], vec!["invalid_address"])
    );
}
