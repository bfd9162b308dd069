//! Plain values: rows as Nomad says them in, services and endpoints out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::wire::{DeploymentStatus, DesiredTransition, TaskState};

const WEB: &str = "web.default.service.nomad";

fn rules() -> Rules {
    Rules { settings: Arc::default(), registry: RegistryId("nomad:test".into()), region: "global".into() }
}

fn row(id: &str, port: i64, tags: &[&str]) -> Row {
    Row {
        id: id.into(),
        service_name: "web".into(),
        namespace: "default".into(),
        node_id: "node".into(),
        datacenter: "dc1".into(),
        job_id: "shop".into(),
        alloc_id: format!("alloc-{id}").into(),
        tags: tags.iter().map(|tag| (*tag).into()).collect(),
        address: "10.0.0.7".into(),
        port,
        create_index: 10,
    }
}

fn at(address: &str) -> Row {
    Row { address: address.into(), ..row("a", 8000, &[]) }
}

/// Around a running allocation of every row.
fn running(rows: &[Row]) -> Surroundings {
    let allocation = |row: &Row| Allocation {
        id: Arc::clone(&row.alloc_id),
        task_group: "front".into(),
        client_status: "running".into(),
        desired_status: "run".into(),
        ..Allocation::default()
    };
    let allocations = rows.iter().map(|row| (Arc::clone(&row.alloc_id), allocation(row))).collect();
    Surroundings { allocations, allocations_as_of: 100, ..Surroundings::default() }
}

fn all(rules: &Rules, rows: &[Row], around: &Surroundings) -> (Mapped, Vec<Skip>) {
    map(rules, "default", "web", rows.iter(), around)
}

/// The one service of rows that run, and why something was left out.
fn web(rows: &[Row]) -> (Service, Vec<Endpoint>, Vec<&'static str>) {
    let (mapped, skips) = all(&rules(), rows, &running(rows));
    let (service, endpoints) = mapped[&ServiceKey::new(WEB, "default")].clone();
    assert_eq!(mapped.len(), 1);
    (Service::clone(&service), endpoints, skips.iter().map(|skip| skip.reason).collect())
}

fn ports(service: &Service) -> Vec<(&str, u16, Protocol)> {
    service.ports.iter().map(|port| (&*port.name, port.number, port.protocol)).collect()
}

fn text<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
    labels.get(key).map(|value| &**value)
}

fn health_of(around: &Surroundings) -> Health {
    all(&rules(), &[row("a", 8000, &[])], around).0[&ServiceKey::new(WEB, "default")].1[0].health
}

/// The health of one instance, whose allocation is changed.
fn health_when(change: impl FnOnce(&mut Allocation)) -> Health {
    let mut around = running(&[row("a", 8000, &[])]);
    change(around.allocations.get_mut("alloc-a").unwrap());
    health_of(&around)
}

fn node(status: &str) -> Node {
    Node { id: "node".into(), name: "machine-1".into(), status: status.into(), ..Node::default() }
}

fn map_of(pairs: &[(&str, &str)]) -> Option<HashMap<Arc<str>, Arc<str>>> {
    Some(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
}

// === addresses and ports ===

#[test]
fn instances_keep_their_dynamic_ports_behind_one_port_that_clients_dial() {
    let (service, endpoints, skips) = web(&[row("a", 23001, &[]), row("b", 23002, &[])]);
    assert_eq!(ports(&service), [("http", 80, Protocol::Http)]);
    assert_eq!(service.resolution, Resolution::Static);
    let own: Vec<_> = endpoints.iter().map(|e| (e.address.clone(), e.ports["http"])).collect();
    let address = Address::Ip("10.0.0.7".parse().unwrap());
    assert_eq!(own, [(address.clone(), 23001), (address, 23002)]);
    assert_eq!(endpoints[0].workload.as_deref(), Some("alloc-a"));
    assert_eq!(endpoints[0].service_account.as_deref(), Some("shop"));
    assert!(skips.is_empty(), "{skips:?}");
}

#[test]
fn a_port_that_all_instances_share_can_be_dialled_too_unless_one_is_declared() {
    let (service, endpoints, _) = web(&[row("a", 5432, &["protocol=tcp"]), row("b", 5432, &[])]);
    assert_eq!(ports(&service), [("tcp", 80, Protocol::Tcp), ("tcp-5432", 5432, Protocol::Tcp)]);
    assert_eq!(endpoints[1].ports.values().copied().collect::<Vec<_>>(), [5432, 5432]);
    let (service, ..) = web(&[row("a", 5432, &["mesh-port=9000"])]);
    assert_eq!(ports(&service), [("http", 9000, Protocol::Http)]);
    let (service, ..) = web(&[row("a", 23_001, &[])]);
    assert_eq!(ports(&service), [("http", 80, Protocol::Http)], "the next allocation has another one");
}

#[test]
fn of_tags_that_contradict_each_other_the_oldest_instance_decides_and_it_is_said() {
    let young = Row { create_index: 20, ..row("a", 8000, &["mesh-port=1", "protocol=tcp"]) };
    let old = Row { create_index: 5, ..row("z", 8001, &["mesh-port=2", "protocol=grpc"]) };
    let (service, endpoints, skips) = web(&[young, old]);
    assert_eq!(ports(&service), [("grpc", 2, Protocol::Grpc)]);
    assert_eq!(endpoints.len(), 2);
    assert_eq!(skips, ["conflicting_tags", "conflicting_tags"]);
}

#[test]
fn a_tag_says_where_the_application_listens_behind_its_own_proxy() {
    let (_, endpoints, _) = web(&[row("a", 8000, &["mesh-app-port=8001"]), row("b", 8002, &[])]);
    assert_eq!(endpoints[0].app, BTreeMap::from([("http".into(), "127.0.0.1:8001".parse().unwrap())]));
    assert!(endpoints[1].app.is_empty(), "no proxy, no application behind it");
    assert!(text(&endpoints[0].labels, "mesh-app-port").is_none(), "it is no label");
}

#[test]
fn what_nobody_can_dial_is_left_out_alone_with_a_reason() {
    let good = || row("good", 9000, &[]);
    for address in [
        "",
        "host.example",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "10.0.0.1:80",
        "10.0.0",
        "255.255.255.255",
        "::ffff:255.255.255.255",
        "::ffff:0.0.0.0",
    ] {
        let (_, endpoints, skips) = web(&[at(address), good()]);
        assert_eq!((endpoints.len(), skips.as_slice()), (1, &["invalid_address"][..]), "{address:?}");
    }
    for port in [0, -1, 65_536, i64::MAX, i64::MIN] {
        let (_, endpoints, skips) = web(&[row("a", port, &[]), good()]);
        assert_eq!((endpoints.len(), skips.as_slice()), (1, &["invalid_port"][..]), "{port}");
    }
    for address in ["10.0.0.1", "fd00::1", "2001:db8::1", "127.0.0.1", "169.254.1.1"] {
        assert_eq!(web(&[at(address)]).1[0].address, Address::Ip(address.parse().unwrap()));
    }
}

#[test]
fn a_reason_names_the_instance_and_is_short_whatever_a_tenant_wrote() {
    let row = Row { id: "x".repeat(100_000).into(), address: "y".repeat(100_000).into(), ..row("a", 1, &[]) };
    let (_, skips) = all(&rules(), std::slice::from_ref(&row), &Surroundings::default());
    assert!(skips[0].detail.starts_with("instance \"xxx") && skips[0].detail.contains("yyy"), "{:?}", skips[0]);
    assert!(skips[0].detail.len() < 400, "{} bytes", skips[0].detail.len());
}

#[test]
fn a_name_that_is_no_dns_name_makes_no_service() {
    let long = "x".repeat(64);
    for (space, name) in [
        ("default", "a.b"),
        ("default", ""),
        ("default", "-a"),
        ("default", "a_b"),
        ("default", "ä"),
        ("default", &long),
        ("a b", "web"),
    ] {
        let (mapped, skips) = map(&rules(), space, name, [row("a", 8000, &[])].iter(), &Surroundings::default());
        assert!(mapped.is_empty(), "{space}/{name}");
        assert_eq!(skips.iter().map(|skip| skip.reason).collect::<Vec<_>>(), ["invalid_name"]);
    }
    let (mapped, _) = map(&rules(), "blue", "Web", [].iter(), &Surroundings::default());
    assert_eq!(mapped.keys().collect::<Vec<_>>(), [&ServiceKey::new("web.blue.service.nomad", "blue")]);
}

// === tags ===

#[test]
fn tags_are_labels_in_three_spellings_and_those_of_the_mesh_are_not() {
    let tags = ["version=v1", "track|canary", "plain", "mesh-port=9000", "protocol=http", "version=v2", "a=b=c"];
    let (_, endpoints, skips) = web(&[row("a", 8000, &tags)]);
    let labels: Vec<_> = endpoints[0].labels.iter().map(|(key, value)| (&**key, &**value)).collect();
    let expected = [
        ("a", "b=c"),
        ("nomad-group", "front"),
        ("nomad-job", "shop"),
        ("plain", ""),
        ("track", "canary"),
        ("version", "v1"),
    ];
    assert_eq!(labels, expected);
    assert!(skips.is_empty(), "{skips:?}");
}

#[test]
fn no_tag_can_say_of_which_job_an_instance_is() {
    let (_, endpoints, _) = web(&[row("a", 8000, &["nomad-job=bank", "nomad-group=vault"])]);
    assert_eq!(text(&endpoints[0].labels, "nomad-job"), Some("shop"));
    assert_eq!(text(&endpoints[0].labels, "nomad-group"), Some("front"));
}

#[test]
fn tags_of_others_languages_are_passed_over_in_silence() {
    let tags = ["traefik.http.routers.web.rule=Host(`a b`)", "urlprefix-/x strip=/x", "two words", "ctrl=\u{7}", ""];
    let (_, endpoints, skips) = web(&[row("a", 8000, &tags)]);
    assert_eq!(text(&endpoints[0].labels, "traefik.http.routers.web.rule"), Some("Host(`a b`)"));
    assert_eq!(endpoints[0].labels.len(), 3, "{:?}", endpoints[0].labels);
    assert!(skips.is_empty(), "{skips:?}");
}

#[test]
fn a_wrong_tag_of_the_mesh_is_said_and_costs_only_itself() {
    let tags = [
        "mesh-port=http",
        "mesh-port=0",
        "mesh-port=70000",
        "mesh-app-port=-1",
        "protocol=carrier-pigeon",
        "version=v1",
    ];
    let (service, endpoints, skips) = web(&[row("a", 8080, &tags)]);
    assert_eq!(skips, ["invalid_tag"; 5]);
    assert_eq!(ports(&service), [("http", 80, Protocol::Http), ("http-8080", 8080, Protocol::Http)]);
    assert_eq!(text(&endpoints[0].labels, "version"), Some("v1"));
}

#[test]
fn megabytes_of_tags_make_few_labels_and_one_sentence_each() {
    let many: Vec<String> = (0..100_000).map(|n| format!("tag-{n}=x")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (_, endpoints, skips) = web(&[row("a", 8000, &many)]);
    assert_eq!((endpoints[0].labels.len(), skips), (MOST_LABELS + 2, vec!["too_many_tags"]));
    let long = format!("big={}", "x".repeat(5_000_000));
    let rows = [row("a", 8000, &[&long, "version=v1"])];
    let (mapped, skips) = all(&rules(), &rows, &running(&rows));
    let endpoints = &mapped[&ServiceKey::new(WEB, "default")].1;
    assert!(text(&endpoints[0].labels, "big").is_none() && text(&endpoints[0].labels, "version") == Some("v1"));
    assert!(
        skips.len() == 1 && skips[0].reason == "invalid_tag" && skips[0].detail.len() < 400,
        "{} skips",
        skips.len()
    );
}

#[test]
fn one_instance_has_few_reasons_and_a_reason_that_all_instances_have_is_one() {
    let wrong: Vec<String> = (0..10_000).map(|n| format!("mesh-port=x{n}")).collect();
    let mut tags: Vec<&str> = wrong.iter().map(String::as_str).collect();
    tags.push("protocol=grpc");
    let rows = [row("a", 8000, &tags)];
    let (mapped, skips) = all(&rules(), &rows, &running(&rows));
    assert_eq!(skips.len(), MOST_WRONG + 1);
    assert!(skips[MOST_WRONG].detail.ends_with("9992 more of its tags are wrong"), "{:?}", skips[MOST_WRONG]);
    assert_eq!(ports(&mapped[&ServiceKey::new(WEB, "default")].0)[0].2, Protocol::Grpc, "the others count");
    let refused = ["mesh-hostname=bank.example"];
    let (.., skips) = web(&[row("a", 8000, &refused), row("b", 8000, &refused)]);
    assert_eq!(skips, ["hostname_not_allowed"]);
}

#[test]
fn the_order_of_instances_changes_nothing() {
    let rows = [row("a", 8000, &["x=1"]), row("b", 8001, &["mesh-port=90"]), row("c", 8000, &["mesh-port=91"]), at("")];
    let mut turned = rows.clone();
    turned.reverse();
    let around = running(&rows);
    assert_eq!(all(&rules(), &rows, &around), all(&rules(), &turned, &around));
}

#[test]
fn only_instances_with_all_wanted_tags_are_taken() {
    let mut settings = Settings::default();
    settings.services.tags = vec!["mesh".into(), "version=v1".into()];
    let rules = Rules { settings: settings.into(), ..rules() };
    let rows = [row("a", 1, &["mesh"]), row("b", 2, &["version=v1", "mesh"]), row("c", 3, &[])];
    let (mapped, skips) = all(&rules, &rows, &running(&rows));
    let endpoints = &mapped[&ServiceKey::new(WEB, "default")].1;
    assert_eq!(endpoints.iter().map(|e| e.workload.as_deref().unwrap()).collect::<Vec<_>>(), ["alloc-b"]);
    assert!(skips.is_empty());
}

// === joining other names ===

/// What an instance with these tags joins beside its own name: hostname and namespace; else the reason why not.
fn joins(allowed: &[&str], tags: &[&str]) -> Result<(String, String), &'static str> {
    let settings =
        Settings { mesh_hostnames: allowed.iter().map(|name| (*name).to_owned()).collect(), ..Settings::default() };
    let rules = Rules { settings: settings.into(), ..rules() };
    let rows = [row("a", 8000, tags)];
    let (mapped, skips) = all(&rules, &rows, &running(&rows));
    assert!(mapped.contains_key(&ServiceKey::new(WEB, "default")), "its own name stays");
    let other = mapped.into_keys().find(|key| &*key.hostname != WEB);
    other.map(|key| (key.hostname.to_string(), key.namespace.to_string())).ok_or_else(|| skips[0].reason)
}

#[test]
fn an_instance_joins_only_names_that_the_operator_has_opened() {
    let joined = |host: &str, space: &str| Ok((host.to_owned(), space.to_owned()));
    let reviews = "mesh-hostname=reviews.shop.svc.cluster.local";
    assert_eq!(joins(&[], &[reviews]), Err("hostname_not_allowed"));
    assert_eq!(joins(&["*.other.svc.cluster.local"], &[reviews]), Err("hostname_not_allowed"));
    assert_eq!(joins(&["*.shop.svc.cluster.local"], &[reviews]), joined("reviews.shop.svc.cluster.local", "shop"));
    assert_eq!(joins(&["*.shop.svc.cluster.local"], &[reviews, "mesh-namespace=bank"]), Err("invalid_hostname"));
    assert_eq!(joins(&["a.b"], &["mesh-hostname=A.B"]), joined("a.b", "default"));
    assert_eq!(joins(&["a.b"], &["mesh-hostname=a.b", "mesh-namespace=bank"]), joined("a.b", "bank"));
    assert_eq!(joins(&["*.b"], &["mesh-hostname=*.b"]), Err("invalid_hostname"));
    assert_eq!(joins(&["*.b"], &["mesh-hostname=.b"]), Err("invalid_hostname"));
}

#[test]
fn a_guest_takes_the_hosts_name_for_its_port_and_leaves_the_ports_to_the_host() {
    let settings = Settings { mesh_hostnames: vec!["a.b".into()], ..Settings::default() };
    let rules = Rules { settings: settings.into(), ..rules() };
    let rows = [row("a", 8000, &["mesh-hostname=a.b", "mesh-port-name=main", "mesh-port=9080", "mesh-app-port=8001"])];
    let (mapped, _) = all(&rules, &rows, &running(&rows));
    let (service, endpoints) = &mapped[&ServiceKey::new("a.b", "default")];
    assert_eq!(ports(service), [("main", 9080, Protocol::Http)]);
    assert_eq!(service.created, u64::MAX, "younger than whoever has the name as its own");
    assert_eq!(endpoints[0].ports, BTreeMap::from([("main".into(), 8000)]));
    assert_eq!(endpoints[0].app, BTreeMap::from([("main".into(), "127.0.0.1:8001".parse().unwrap())]));
}

#[test]
fn guests_that_call_the_port_differently_are_behind_the_name_that_the_oldest_gives_it() {
    let settings = Settings { mesh_hostnames: vec!["a.b".into()], ..Settings::default() };
    let rules = Rules { settings: settings.into(), ..rules() };
    let guest = |id: &str, name: &str| row(id, 9080, &["mesh-hostname=a.b", &format!("mesh-port-name={name}")]);
    let of = |rows: &[Row]| all(&rules, rows, &running(rows)).0[&ServiceKey::new("a.b", "default")].clone();
    let (service, endpoints) = of(&[guest("a", "main"), guest("b", "web"), row("c", 9080, &["mesh-hostname=a.b"])]);
    assert_eq!(ports(&service), [("main", 80, Protocol::Http), ("http-9080", 9080, Protocol::Http)]);
    let both = BTreeMap::from([("main".into(), 9080), ("http-9080".into(), 9080)]);
    assert!(endpoints.iter().all(|endpoint| endpoint.ports == both), "{endpoints:?}");
    let (service, _) = of(&[guest("a", "http-9080")]);
    assert_eq!(ports(&service)[0].0, "http", "that is the other port's name");
}

// === where it is ===

fn locality_on(node: Option<Node>) -> (String, String, String) {
    let rows = [row("a", 8000, &[])];
    let mut around = running(&rows);
    around.nodes.extend(node.map(|node| (Arc::clone(&node.id), node)));
    let endpoint = all(&rules(), &rows, &around).0[&ServiceKey::new(WEB, "default")].1[0].clone();
    let Locality { region, zone, subzone } = endpoint.locality;
    (region.to_string(), zone.to_string(), subzone.to_string())
}

#[test]
fn the_locality_is_region_then_metadata_then_cloud_then_datacenter() {
    let expected = |zone: &str, rack: &str| ("global".to_owned(), zone.to_owned(), rack.to_owned());
    assert_eq!(locality_on(None), expected("dc1", ""), "nodes may be hidden from the token");
    assert_eq!(locality_on(Some(node("ready"))), expected("dc1", ""));
    let cloud = map_of(&[("platform.gce.zone", "europe-west1-b"), ("platform.gce.machine-type", "n1")]);
    let in_cloud = Node { attributes: cloud, ..node("ready") };
    assert_eq!(locality_on(Some(in_cloud.clone())), expected("europe-west1-b", ""));
    let said = Node { meta: map_of(&[("zone", "z1"), ("rack", "r7")]), ..in_cloud };
    assert_eq!(locality_on(Some(said)), expected("z1", "r7"));
    let odd = Node { meta: map_of(&[("zone", "z\n1"), ("rack", &"r".repeat(1000))]), ..node("ready") };
    assert_eq!(locality_on(Some(odd)), expected("dc1", ""));
}

#[test]
fn an_endpoint_names_its_machine() {
    let rows = [row("a", 8000, &[])];
    let mut around = running(&rows);
    around.nodes.insert("node".into(), node("ready"));
    let endpoint = &all(&rules(), &rows, &around).0[&ServiceKey::new(WEB, "default")].1[0];
    assert_eq!(endpoint.node.as_deref(), Some("machine-1"));
}

// === health ===

#[test]
fn an_allocations_state_is_its_instances_health() {
    let task = |state: &str, failed, restarts| TaskState { state: state.into(), failed, restarts };
    assert_eq!(health_when(|_| {}), Health::Healthy);
    for status in ["pending", "complete", "failed", "lost", "unknown", "something new"] {
        assert_eq!(health_when(|a| a.client_status = status.into()), Health::Unhealthy, "{status}");
    }
    for status in ["stop", "evict"] {
        assert_eq!(health_when(|a| a.desired_status = status.into()), Health::Draining, "{status}");
    }
    assert_eq!(health_when(|a| a.desired_transition = DesiredTransition { migrate: Some(true) }), Health::Draining);
    assert_eq!(health_when(|a| a.desired_transition = DesiredTransition { migrate: Some(false) }), Health::Healthy);
    let with = |states: &[TaskState]| {
        health_when(|a| a.task_states = states.iter().zip(["app", "log"]).map(|(s, n)| (n.into(), s.clone())).collect())
    };
    assert_eq!(with(&[task("running", false, 3), task("dead", false, 0)]), Health::Healthy, "a task that is done");
    assert_eq!(with(&[task("running", false, 0), task("pending", false, 2)]), Health::Unhealthy, "it is restarting");
    assert_eq!(with(&[task("pending", false, 0)]), Health::Healthy, "one that starts for the first time");
    assert_eq!(with(&[task("dead", true, 0), task("running", false, 0)]), Health::Unhealthy);
}

#[test]
fn checks_have_the_last_word_over_what_a_deployment_found_once() {
    let deployed = |healthy| move |a: &mut Allocation| a.deployment_status = DeploymentStatus { healthy };
    assert_eq!(health_when(deployed(Some(false))), Health::Unhealthy);
    assert_eq!(health_when(deployed(Some(true))), Health::Healthy);
    let checked = |healthy, checks: &[(&str, bool)]| {
        let mut around = running(&[row("a", 8000, &[])]);
        deployed(healthy)(around.allocations.get_mut("alloc-a").unwrap());
        around.checks.insert("alloc-a".into(), checks.iter().map(|(name, ok)| ((*name).into(), *ok)).collect());
        health_of(&around)
    };
    assert_eq!(checked(None, &[("web", false)]), Health::Unhealthy);
    assert_eq!(checked(Some(false), &[("web", true)]), Health::Healthy);
    assert_eq!(checked(Some(true), &[("web", false)]), Health::Unhealthy);
    assert_eq!(
        checked(None, &[("admin", false)]),
        Health::Healthy,
        "another service of the allocation, or one of Consul's"
    );
}

#[test]
fn an_instance_without_an_allocation_is_new_or_dead() {
    let around = |as_of| Surroundings { allocations_as_of: as_of, ..Surroundings::default() };
    assert_eq!(health_of(&around(0)), Health::Healthy, "nothing was ever listed");
    assert_eq!(health_of(&around(10)), Health::Healthy, "it may be younger than the list");
    assert_eq!(health_of(&around(11)), Health::Unhealthy, "the list has all that run");
}

#[test]
fn a_node_that_is_down_takes_its_instances_with_it_and_one_that_drains_makes_them_the_last_choice() {
    let on = |node: Node| {
        let mut around = running(&[row("a", 8000, &[])]);
        around.nodes.insert(Arc::clone(&node.id), node);
        health_of(&around)
    };
    for (status, health) in [
        ("ready", Health::Healthy),
        ("initializing", Health::Healthy),
        ("down", Health::Unhealthy),
        ("disconnected", Health::Unhealthy),
    ] {
        assert_eq!(on(node(status)), health, "{status}");
    }
    assert_eq!(on(Node { drain: true, ..node("ready") }), Health::Degraded);
    assert_eq!(on(Node { drain_strategy: true, ..node("ready") }), Health::Degraded);
    assert_eq!(on(Node { drain: true, ..node("down") }), Health::Unhealthy);
}

proptest::proptest! {
    #[test]
    fn nothing_that_a_tenant_writes_panics(
        name: String, address: String, port: i64, tags in proptest::collection::vec(".{0,40}|mesh-[a-z-]{4,9}[=|].{0,9}", 0..9),
    ) {
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let row = Row { address: address.as_str().into(), ..row("a", port, &tags) };
        let (_, skips) = map(&rules(), "default", &name, [row.clone()].iter(), &running(&[row]));
        proptest::prop_assert!(skips.iter().all(|skip| skip.detail.len() < 2000));
    }
}

#[test]
fn a_job_and_a_datacenter_out_of_measure_are_told_to_nobody() {
    let (longest, longer) = ("x".repeat(253), "x".repeat(254));
    for bad in [&longer, "job\n", "\u{1b}[2J"] {
        let odd = Row { job_id: bad.into(), datacenter: bad.into(), ..row("a", 8000, &[]) };
        let (_, endpoints, skips) = web(&[odd]);
        let [endpoint] = &*endpoints else { panic!("{endpoints:?}") };
        assert_eq!((text(&endpoint.labels, JOB_LABEL), endpoint.service_account.as_deref()), (None, None), "{bad:?}");
        assert_eq!((&*endpoint.locality.zone, skips), ("", vec!["invalid_name", "invalid_name"]), "{bad:?}");
    }
    let fine = Row { job_id: longest.as_str().into(), datacenter: longest.as_str().into(), ..row("a", 8000, &[]) };
    let (_, endpoints, skips) = web(&[fine]);
    assert_eq!((endpoints[0].service_account.as_deref(), skips.len()), (Some(&*longest), 0));
    assert_eq!(&*endpoints[0].locality.zone, longest);
}
