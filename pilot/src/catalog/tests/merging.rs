//! One service of several registrations, and workloads that ServiceEntries select.

use super::*;
use crate::mesh::ChangeSet;
use crate::model::WorkloadKey;

fn ports(of: &[(&str, u16, Protocol)]) -> Vec<Port> {
    of.iter()
        .map(|(name, number, protocol)| Port { name: (*name).into(), number: *number, protocol: *protocol })
        .collect()
}

fn upsert(
    registry: &str,
    created: u64,
    said: &[(&str, u16, Protocol)],
    change: impl FnOnce(&mut Service),
) -> RegistryEvent {
    let mut made = Service { ports: ports(said), ..service("reviews", registry, created, 80) };
    change(&mut made);
    RegistryEvent::UpsertService(Arc::new(made))
}

fn list(of: Vec<Endpoint>) -> RegistryEvent {
    RegistryEvent::ReplaceEndpoints(ServiceKey::new("reviews", "default"), of.into())
}

fn with_ports(ip: &str, ports: &[(&str, u16)]) -> Endpoint {
    Endpoint { ports: ports.iter().map(|(n, p)| ((*n).into(), *p)).collect(), ..endpoint(ip, "x") }
}

/// `name:number:protocol` of the merged service.
fn merged_ports(f: &Fixture) -> Vec<String> {
    let service = f.get("reviews").unwrap();
    service.service.ports.iter().map(|p| format!("{}:{}:{:?}", p.name, p.number, p.protocol)).collect()
}

/// Every endpoint with its own port behind each of the merged ones.
fn merged_endpoints(f: &Fixture) -> Vec<(String, Vec<u16>)> {
    let merged = f.get("reviews").unwrap();
    let own = |e: &Endpoint| merged.service.ports.iter().map(|p| e.port(p)).collect();
    f.addresses("reviews").into_iter().zip(merged.endpoints.iter().map(own)).collect()
}

fn conflicts(f: &Fixture) -> Vec<String> {
    let merged = f.get("reviews").unwrap();
    let text =
        |c: &crate::mesh::Conflict| format!("{}: {} of {} over {} of {}", c.what, c.kept, c.kept_by, c.lost, c.lost_by);
    merged.conflicts.iter().map(text).collect()
}

use Protocol::{Grpc, Http, Tcp, Udp};

#[test]
fn ports_are_joined_by_number_and_endpoints_speak_the_winning_names() {
    let mut f = Fixture::new();
    f.say("kube", upsert("kube", 10, &[("http", 80, Http), ("metrics", 9090, Http)], |_| {}));
    f.say("kube", list(vec![with_ports("10.0.0.1", &[("http", 8080), ("metrics", 9091)])]));
    f.say("nomad", upsert("nomad", 20, &[("web", 80, Http), ("metrics", 7000, Tcp)], |_| {}));
    f.say("nomad", list(vec![with_ports("10.0.0.2", &[("web", 23456), ("metrics", 23457)])]));
    assert_eq!(merged_ports(&f), ["http:80:Http", "metrics:9090:Http", "metrics-7000:7000:Tcp"]);
    assert_eq!(
        merged_endpoints(&f),
        [("10.0.0.1".to_owned(), vec![8080, 9091, 0]), ("10.0.0.2".to_owned(), vec![23456, 0, 23457])]
    );
    assert!(conflicts(&f).is_empty(), "two names for one thing contradict nobody");
    // The registration that decided goes; what is left is as it was said.
    f.say("kube", RegistryEvent::RemoveService(ServiceKey::new("reviews", "default")));
    assert_eq!(merged_ports(&f), ["web:80:Http", "metrics:7000:Tcp"]);
    assert_eq!(merged_endpoints(&f), [("10.0.0.2".to_owned(), vec![23456, 23457])]);
    assert!(conflicts(&f).is_empty());
}

#[test]
fn of_two_protocols_the_older_one_holds_and_the_conflict_is_said() {
    let mut f = Fixture::new();
    f.say("b", upsert("b", 5, &[("x", 80, Grpc)], |s| s.resolution = Resolution::Dns));
    f.say("a", upsert("a", 9, &[("x", 80, Http)], |_| {}));
    assert_eq!(merged_ports(&f), ["x:80:Grpc"]);
    assert_eq!(conflicts(&f), ["port 80: x (Grpc) of b over x (Http) of a", "resolution: Dns of b over Static of a"]);
    let notes = crate::translate::notes(&f.mesh);
    assert_eq!(notes.len(), 2);
    assert_eq!(notes[0].subject, "service default/reviews port 80");
    assert!(notes[0].text.starts_with("b registers x (Grpc) and a registers x (Http); the older"), "{}", notes[0].text);
}

#[test]
fn datagrams_and_streams_of_one_number_are_two_ports() {
    let mut f = Fixture::new();
    f.say("a", upsert("a", 1, &[("dns", 53, Udp)], |_| {}));
    f.say("b", upsert("b", 2, &[("dns-tcp", 53, Tcp), ("dns", 53, Udp)], |_| {}));
    assert_eq!(merged_ports(&f), ["dns:53:Udp", "dns-tcp:53:Tcp"]);
    assert!(conflicts(&f).is_empty());
}

#[test]
fn the_same_socket_said_twice_counts_once_as_the_older_registration_says_it() {
    let mut f = Fixture::new();
    f.say("consul", upsert("consul", 0, &[("http", 80, Http)], |_| {}));
    f.say("nomad", upsert("nomad", 0, &[("http", 80, Http), ("admin", 90, Http)], |_| {}));
    let own = |ip, port, health| Endpoint { health, ..with_ports(ip, &[("http", port)]) };
    f.say("consul", list(vec![own("10.0.0.1", 8080, Health::Degraded), own("10.0.0.1", 8081, Health::Healthy)]));
    let mut same = own("10.0.0.1", 8080, Health::Healthy);
    same.ports.insert("admin".into(), 9999);
    let mut wholly = own("10.0.0.1", 8081, Health::Healthy);
    wholly.ports.insert("admin".into(), 0);
    f.say("nomad", list(vec![same, wholly, own("10.0.0.3", 8080, Health::Healthy)]));
    assert_eq!(
        merged_endpoints(&f),
        [
            ("10.0.0.1".to_owned(), vec![8080, 0]),
            ("10.0.0.1".to_owned(), vec![8081, 0]),
            // Only what the other does not say.
            ("10.0.0.1".to_owned(), vec![0, 9999]),
            ("10.0.0.3".to_owned(), vec![8080, 90]),
        ]
    );
    assert_eq!(f.get("reviews").unwrap().endpoints[0].health, Health::Degraded);
}

#[test]
fn addresses_and_aliases_are_joined_and_the_rest_is_the_oldests() {
    let mut f = Fixture::new();
    let said = [("http", 80, Http)];
    f.say(
        "a",
        upsert("a", 2, &said, |s| {
            s.addresses = vec!["10.96.0.1/32".parse().unwrap()];
            s.aliases = vec!["also".into(), "a".into()];
            s.visibility = Visibility::Namespaces(vec!["other".into()]);
        }),
    );
    f.say(
        "b",
        upsert("b", 1, &said, |s| {
            s.addresses = vec!["240.0.0.1/32".parse().unwrap()];
            s.aliases = vec!["also".into()];
            s.distribution = Distribution { by_client_address: true, ..Distribution::default() };
        }),
    );
    let merged = f.get("reviews").unwrap();
    assert_eq!(
        merged.service.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["240.0.0.1/32", "10.96.0.1/32"]
    );
    assert_eq!(merged.service.aliases, ["also".into(), "a".into()]);
    assert_eq!(
        (&merged.service.visibility, merged.service.distribution.by_client_address),
        (&Visibility::Public, true)
    );
    assert_eq!(merged.registrants.iter().map(|r| &*r.by).collect::<Vec<_>>(), ["b", "a"]);
}

#[test]
fn endpoints_of_each_registry_keep_their_health_labels_and_locality() {
    let mut f = Fixture::new();
    f.upsert("a", "reviews", 1, 80).upsert("b", "reviews", 2, 80);
    let mut here = endpoint("10.0.0.1", "v1");
    here.locality = Locality::parse("r1/z1");
    let mut there = endpoint("10.0.0.2", "v2");
    (there.locality, there.health) = (Locality::parse("r2/z2"), Health::Draining);
    f.say("a", list(vec![here.clone()])).say("b", list(vec![there.clone()]));
    assert_eq!(f.get("reviews").unwrap().endpoints.to_vec(), [here, there]);
}

#[test]
fn the_list_of_the_only_registration_with_endpoints_is_shared_and_not_copied() {
    let mut f = Fixture::new();
    let many: Arc<[Endpoint]> = (0..1000u32).map(|n| endpoint(&format!("10.1.{}.{}", n / 250, n % 250), "x")).collect();
    let said = RegistryEvent::ReplaceEndpoints(ServiceKey::new("reviews", "default"), Arc::clone(&many));
    f.upsert("a", "reviews", 1, 80).say("a", said);
    assert!(Arc::ptr_eq(&f.get("reviews").unwrap().endpoints, &many));
    f.upsert("b", "reviews", 0, 80);
    assert!(Arc::ptr_eq(&f.get("reviews").unwrap().endpoints, &many), "the other one has none");
    f.say("a", upsert("a", 1, &[("else", 80, Http)], |_| {}));
    assert!(!Arc::ptr_eq(&f.get("reviews").unwrap().endpoints, &many), "its names are not those of the service");
    assert_eq!(f.get("reviews").unwrap().endpoints.len(), 1000);
}

#[test]
fn who_registers_may_change_without_a_change_of_the_mesh() {
    let mut f = Fixture::new();
    f.upsert("b", "reviews", 1, 80);
    let id = RegistryId("z".into());
    f.catalog.registry_event(
        &id,
        RegistryEvent::UpsertService(Arc::new(service("reviews", "z", 2, 80))),
        SystemTime::UNIX_EPOCH,
    );
    let (mesh, set) = apply(&f.mesh, f.catalog.take_changes());
    assert_eq!(set, ChangeSet::default());
    f.mesh = mesh;
    assert_eq!(f.get("reviews").unwrap().registrants.len(), 2);
}

#[test]
fn a_removed_registry_takes_everything_that_it_registered_and_nothing_else() {
    let mut f = Fixture::new();
    f.upsert("a", "reviews", 1, 80).endpoints("a", "reviews", &[("10.0.0.1", "x")]);
    f.upsert("b", "reviews", 2, 80).endpoints("b", "reviews", &[("10.0.0.2", "x")]);
    f.upsert("a", "only-a", 0, 80);
    select(&mut f);
    f.say("a", workload("pod", "10.0.0.7", "x"));
    assert_eq!(f.addresses("sel.example.com"), ["10.0.0.1", "10.0.0.2", "10.0.0.7"]);
    let id = RegistryId("a".into());
    let status = f.catalog.registries()[&id].clone();
    assert_eq!((status.services, status.endpoints, status.workloads, status.events), (2, 1, 1, 4));
    f.catalog.remove_registry(&id);
    f.commit();
    assert!(f.get("only-a").is_none() && !f.catalog.registries().contains_key(&id));
    assert_eq!(f.addresses("reviews"), ["10.0.0.2"]);
    assert_eq!(f.addresses("sel.example.com"), ["10.0.0.2"]);
}

// === Workloads ===

fn select(f: &mut Fixture) {
    f.entry(
        "se",
        0,
        json!({"hosts": ["sel.example.com"], "resolution": "STATIC", "workloadSelector": {"labels": {"app": "x"}},
               "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}]}),
    );
}

fn workload_key(name: &str) -> WorkloadKey {
    WorkloadKey { namespace: "default".into(), name: name.into() }
}

fn workload(name: &str, ip: &str, app: &str) -> RegistryEvent {
    RegistryEvent::UpsertWorkload(workload_key(name), Arc::new(endpoint(ip, app)))
}

#[test]
fn a_selector_takes_workloads_of_every_registry_each_address_once() {
    let mut f = Fixture::new();
    select(&mut f);
    f.upsert("a", "backend", 0, 80).endpoints("a", "backend", &[("10.0.0.1", "x")]);
    f.say("a", workload("pod-1", "10.0.0.1", "x")).say("a", workload("pod-2", "10.0.0.2", "x"));
    f.say("b", workload("pod-2", "10.0.0.3", "x")).say("b", workload("other", "10.0.0.4", "y"));
    assert_eq!(f.addresses("sel.example.com"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(f.port_of("sel.example.com", "10.0.0.3", "http"), 8080);
    f.say("a", RegistryEvent::RemoveWorkload(workload_key("pod-2")));
    assert_eq!(f.addresses("sel.example.com"), ["10.0.0.1", "10.0.0.3"]);
    // A workload that loses the label is not selected any more.
    f.say("b", workload("pod-2", "10.0.0.3", "y"));
    assert_eq!(f.addresses("sel.example.com"), ["10.0.0.1"]);
}

#[test]
fn a_workload_that_nobody_selects_changes_nothing() {
    let mut f = Fixture::new();
    select(&mut f);
    let id = RegistryId("a".into());
    let mut say = |event| {
        f.catalog.registry_event(&id, event, SystemTime::UNIX_EPOCH);
        f.catalog.take_changes().len()
    };
    assert_eq!(say(workload("pod", "10.0.0.1", "y")), 0);
    assert_eq!(say(workload("pod", "10.0.0.1", "x")), 1, "now it is selected");
    assert_eq!(say(workload("pod", "10.0.0.1", "x")), 0, "the same again");
    assert_eq!(say(workload("pod", "10.0.0.2", "y")), 1, "it was selected");
    assert_eq!(say(RegistryEvent::RemoveWorkload(workload_key("pod"))), 0);
}

#[test]
fn many_workloads_at_once_are_selected_once() {
    let mut f = Fixture::new();
    select(&mut f);
    let id = RegistryId("a".into());
    for n in 0..1000u32 {
        let event = workload(&format!("pod-{n}"), &format!("10.1.{}.{}", n / 250, n % 250), "x");
        f.catalog.registry_event(&id, event, SystemTime::UNIX_EPOCH);
    }
    assert_eq!(f.catalog.take_changes().len(), 1);
    f.commit();
}
