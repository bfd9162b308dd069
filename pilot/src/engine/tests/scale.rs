//! The cost of a change is the cost of what it touches, whatever the size of the mesh.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use xebec_galley::{Config, ConfigEvent, Kind};

use super::model::*;
use crate::engine::part::Work;
use crate::engine::state::State;
use crate::model::{Protocol, ServiceKey};
use crate::registry::RegistryEvent;
use crate::resources::ResourceType;
use crate::xds::shape::ShapeLease;

pub fn host(n: usize) -> String {
    format!("s{n}.default.svc.cluster.local")
}

pub fn upsert(n: usize) -> Vec<RegistryEvent> {
    let endpoints: Vec<_> = (0..10).map(|e| endpoint(&format!("10.{}.{}.{e}", n / 250 % 250, n % 250), None)).collect();
    vec![
        RegistryEvent::UpsertService(Arc::new(service(&host(n), "default", &[(9080, Protocol::Http)]))),
        RegistryEvent::ReplaceEndpoints(ServiceKey::new(&host(n), "default"), endpoints.into()),
    ]
}

fn mesh_of(services: usize) -> State {
    let mut state = State::new(Arc::default(), "cluster.local");
    state.registry(&registry(), (0..services).flat_map(upsert).collect(), SystemTime::UNIX_EPOCH);
    state.config(vec![document(Kind::VirtualService, "default", "vs", weighted("s1", &[("s1", 90), ("s2", 10)]))]);
    state.commit(Instant::now());
    state
}

pub fn attach(state: &mut State, name: &str) -> ShapeLease {
    let mesh = Arc::clone(&state.mesh);
    state.live.attach(&mesh, sidecar(name)).0
}

fn work_of(state: &mut State, change: impl FnOnce(&mut State)) -> Work {
    let before = state.live.work;
    change(state);
    state.commit(Instant::now());
    let after = state.live.work;
    Work { hosts: after.hosts - before.hosts, shared: after.shared - before.shared }
}

fn changes(services: usize) -> Vec<Work> {
    let mut state = mesh_of(services);
    let _lease = attach(&mut state, "client");
    vec![
        work_of(&mut state, |s| {
            let event = RegistryEvent::ReplaceEndpoints(
                ServiceKey::new(&host(3), "default"),
                vec![endpoint("10.9.9.9", None)].into(),
            );
            s.registry(&registry(), vec![event], SystemTime::UNIX_EPOCH);
        }),
        work_of(&mut state, |s| {
            s.config(vec![document(Kind::VirtualService, "default", "vs", weighted("s1", &[("s1", 50), ("s2", 50)]))])
        }),
        work_of(&mut state, |s| s.registry(&registry(), upsert(99_999), SystemTime::UNIX_EPOCH)),
        work_of(&mut state, |s| {
            s.registry(
                &registry(),
                vec![RegistryEvent::RemoveService(ServiceKey::new(&host(4), "default"))],
                SystemTime::UNIX_EPOCH,
            )
        }),
    ]
}

#[test]
fn a_change_translates_as_many_hosts_in_a_large_mesh_as_in_a_small_one() {
    let small = changes(10);
    assert_eq!(small, changes(700));
    assert_eq!(small[0], Work { hosts: 1, shared: 0 }, "an endpoint is one host, no listener, no route table");
    assert!(small.iter().all(|w| w.hosts <= 2 && w.shared <= 1), "{small:?}");
}

#[test]
fn a_change_is_computed_once_for_all_proxies_of_one_shape() {
    let mut state = mesh_of(20);
    let leases: Vec<_> = (0..50).map(|n| attach(&mut state, &format!("client{n}"))).collect();
    assert_eq!(state.live.counts(), (1, 1, 50));
    let work = work_of(&mut state, |s| s.registry(&registry(), upsert(77), SystemTime::UNIX_EPOCH));
    assert_eq!(work.hosts, 1);
    assert!(leases.iter().all(|l| l.shape().snapshot().set(ResourceType::Cluster).keys().any(|n| n.contains("s77."))));
}

#[test]
fn an_endpoint_change_publishes_that_endpoint_list_only() {
    let mut state = mesh_of(5);
    let lease = attach(&mut state, "client");
    let before = lease.shape().snapshot();
    let event =
        RegistryEvent::ReplaceEndpoints(ServiceKey::new(&host(3), "default"), vec![endpoint("10.9.9.9", None)].into());
    state.registry(&registry(), vec![event], SystemTime::UNIX_EPOCH);
    state.commit(Instant::now());
    let after = lease.shape().snapshot();
    assert_eq!(after.generation, before.generation + 1);
    for kind in ResourceType::ALL {
        let same = before.set(kind).ptr_eq(after.set(kind));
        assert_eq!(same, kind != ResourceType::Endpoint, "{kind}");
    }
}

#[test]
fn a_change_without_effect_publishes_nothing() {
    let mut state = mesh_of(5);
    let lease = attach(&mut state, "client");
    let before = lease.shape().snapshot().generation;
    // A rule that nobody sees, a document that says the same again, and a service that is as it was.
    let mut hidden = weighted("s2", &[("s1", 1)]);
    hidden["exportTo"] = serde_json::json!(["~"]);
    state.config(vec![document(Kind::VirtualService, "default", "hidden", hidden)]);
    state.config(vec![document(Kind::VirtualService, "default", "vs", weighted("s1", &[("s1", 90), ("s2", 10)]))]);
    state.registry(&registry(), upsert(1), SystemTime::UNIX_EPOCH);
    state.commit(Instant::now());
    assert_eq!(lease.shape().snapshot().generation, before);
}

#[test]
fn a_workload_that_gains_an_endpoint_gets_inbound_resources_and_others_do_not() {
    let mut state = mesh_of(3);
    let mesh = Arc::clone(&state.mesh);
    let own = proxy("sidecar", "10.77.0.1", "w", "default", serde_json::json!({}), true);
    let (own, _) = state.live.attach(&mesh, own);
    let other = attach(&mut state, "other");
    let inbound = |l: &ShapeLease| l.shape().snapshot().set(ResourceType::Cluster).contains_key("inbound|9080||");
    assert!(!inbound(&own));
    let event =
        RegistryEvent::ReplaceEndpoints(ServiceKey::new(&host(1), "default"), vec![endpoint("10.77.0.1", None)].into());
    state.registry(&registry(), vec![event], SystemTime::UNIX_EPOCH);
    state.commit(Instant::now());
    assert!(inbound(&own));
    assert!(!inbound(&other));
}

#[test]
fn a_changed_destination_rule_limits_the_workloads_that_it_means() {
    let mut state = mesh_of(3);
    let mut serve = |n: usize, ip: &str| {
        let key = ServiceKey::new(&host(n), "default");
        let event = RegistryEvent::ReplaceEndpoints(key, vec![endpoint(ip, None)].into());
        state.registry(&registry(), vec![event], SystemTime::UNIX_EPOCH);
        state.commit(Instant::now());
        let mesh = Arc::clone(&state.mesh);
        state.live.attach(&mesh, proxy("sidecar", ip, "w", "default", serde_json::json!({}), true)).0
    };
    let (own, other) = (serve(1, "10.77.0.1"), serve(2, "10.77.0.2"));
    let inbound = |l: &ShapeLease| {
        l.shape().snapshot().set(ResourceType::Cluster).get("inbound|9080||").map(|cluster| cluster.version)
    };
    let (before, untouched) = (inbound(&own), inbound(&other));
    assert!(before.is_some() && untouched.is_some());
    let mut limit = |host: &str, most: i32| {
        let spec =
            serde_json::json!({"host": host, "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": most}}}});
        state.config(vec![document(Kind::DestinationRule, "default", "limits", spec)]);
        state.commit(Instant::now());
    };
    limit(&host(1), 3);
    let three = inbound(&own);
    assert_ne!(three, before);
    assert_eq!(inbound(&other), untouched);
    limit("*", 4);
    assert!(inbound(&own) != three && inbound(&own) != before);
    assert_ne!(inbound(&other), untouched, "the wildcard means it as well");
    limit(&host(3), 4);
    assert_eq!((inbound(&own), inbound(&other)), (before, untouched));
}

#[test]
fn proxies_that_are_gone_leave_nothing_behind() {
    let mut state = mesh_of(3);
    let mesh = Arc::clone(&state.mesh);
    let (lease, id) = state.live.attach(&mesh, sidecar("a"));
    drop(lease);
    state.live.detach(id);
    assert_eq!(state.live.counts(), (0, 1, 0), "the part may serve a proxy that comes back at once");
    let work = work_of(&mut state, |s| s.registry(&registry(), upsert(50), SystemTime::UNIX_EPOCH));
    assert_eq!(work, Work::default());
    assert_eq!(state.live.counts(), (0, 0, 0));
}

#[test]
fn a_document_that_moves_to_another_file_is_blamed_there_and_nothing_is_sent() {
    let mut state = mesh_of(3);
    let lease = attach(&mut state, "client");
    let name = format!("9080/{}:9080", host(1));
    let blamed = |lease: &ShapeLease| {
        let snapshot = lease.shape().snapshot();
        let resource = &snapshot.set(ResourceType::VirtualHost)[name.as_str()];
        (resource.version, resource.origins.iter().map(|o| o.file.to_string()).collect::<Vec<_>>())
    };
    let (version, before) = blamed(&lease);
    assert!(!before.is_empty() && !before.contains(&"moved.yaml".to_owned()), "{before:?}");
    let generation = lease.shape().snapshot().generation;
    let mut moved = document(Kind::VirtualService, "default", "vs", weighted("s1", &[("s1", 90), ("s2", 10)]));
    let ConfigEvent::Upsert(Config::VirtualService(rule)) = &mut moved else { panic!("{moved:?}") };
    Arc::make_mut(rule).meta.source.file = "moved.yaml".into();
    state.config(vec![moved]);
    state.commit(Instant::now());
    assert_eq!(lease.shape().snapshot().generation, generation);
    // Who looks at the next published change finds the new file.
    state.registry(&registry(), upsert(7), SystemTime::UNIX_EPOCH);
    state.commit(Instant::now());
    let (now, after) = blamed(&lease);
    assert_eq!(now, version);
    assert!(after.contains(&"moved.yaml".to_owned()), "{after:?}");
}
