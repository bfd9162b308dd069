//! What is accepted, what waits, and in which order it takes effect.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use xebec_proto::envoy::config::core::v3::Node;
use xebec_proto::envoy::service::discovery::v3::Resource;

use super::{eds_cluster, endpoints, host, http_listener, resource, response, table};
use crate::xds::Kind;
use crate::xds::session::Session;
use crate::xds::store::{Now, Settled, Store};

/// A store with a clock that the test moves.
struct Bench {
    store: Store,
    now: Now,
}

impl Bench {
    fn new() -> Self {
        let now = Now { instant: Instant::now(), wall: SystemTime::now() };
        Self { store: Store::default(), now }
    }

    fn receive(&mut self, kind: Kind, resources: Vec<Resource>) -> Result<(), String> {
        self.change(kind, resources, &[])
    }

    fn change(&mut self, kind: Kind, resources: Vec<Resource>, removed: &[&str]) -> Result<(), String> {
        self.now.instant += Duration::from_millis(1);
        self.store.receive(kind, response(kind, resources, removed), self.now)
    }

    fn settle(&mut self) -> Settled {
        self.now.instant += Duration::from_millis(1);
        self.store.settle(self.now)
    }

    /// Listeners, tables and clusters in use, in alphabetical order.
    fn active(&self) -> (Vec<String>, Vec<String>, Vec<String>) {
        let snapshot = self.store.snapshot();
        let sorted = |names: &mut dyn Iterator<Item = String>| {
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        (
            sorted(&mut snapshot.listeners.iter().map(|listener| listener.name.to_string())),
            sorted(&mut snapshot.routes.keys().map(ToString::to_string)),
            sorted(&mut snapshot.clusters.keys().map(ToString::to_string)),
        )
    }

    /// One listener, one table, one cluster with an endpoint, all in use.
    fn serving() -> Self {
        let mut bench = Self::new();
        bench.receive(Kind::Cluster, vec![eds_cluster("a", "1")]).unwrap();
        bench.receive(Kind::Listener, vec![http_listener("l", "1", 0, "r")]).unwrap();
        bench.receive(Kind::Endpoint, vec![endpoints("a", "1", &[1])]).unwrap();
        bench.receive(Kind::Route, vec![table("r", "1", &[host("h", "*", "a")], false)]).unwrap();
        bench.settle();
        assert!(bench.store.is_initialized());
        bench
    }

    fn target(&self) -> Vec<String> {
        let table = self.store.snapshot().routes.get("r").unwrap().clone();
        table.hosts().iter().flat_map(|host| crate::convert::clusters_for_test(host)).collect()
    }
}

#[test]
fn nothing_is_in_use_before_everything_it_needs_is_there() {
    let mut bench = Bench::new();
    bench.receive(Kind::Listener, vec![http_listener("l", "1", 0, "r")]).unwrap();
    bench.receive(Kind::Route, vec![table("r", "1", &[host("h", "*", "a")], false)]).unwrap();
    assert!(bench.settle().snapshot.is_none(), "no clusters were answered yet");
    bench.receive(Kind::Cluster, vec![eds_cluster("a", "1")]).unwrap();
    assert!(bench.settle().snapshot.is_none(), "the cluster has no endpoints yet");
    assert!(!bench.store.is_initialized());
    bench.receive(Kind::Endpoint, vec![endpoints("a", "1", &[1])]).unwrap();
    assert!(bench.settle().snapshot.is_some());
    assert_eq!(bench.active(), (vec!["l".into()], vec!["r".into()], vec!["a".into()]));
    assert!(bench.store.is_initialized());
}

#[test]
fn a_new_cluster_takes_no_requests_before_its_endpoints_came() {
    let mut bench = Bench::serving();
    bench.receive(Kind::Cluster, vec![eds_cluster("b", "1")]).unwrap();
    bench.receive(Kind::Route, vec![table("r", "2", &[host("h", "*", "b")], false)]).unwrap();
    let settled = bench.settle();
    assert_eq!(bench.target(), ["a"], "the older routes stay meanwhile");
    assert!(settled.wake.is_some(), "the wait is bounded");
    bench.receive(Kind::Endpoint, vec![endpoints("b", "1", &[2])]).unwrap();
    bench.settle();
    assert_eq!(bench.target(), ["b"]);
}

#[test]
fn routes_wait_for_endpoints_only_so_long() {
    let mut bench = Bench::serving();
    bench.receive(Kind::Cluster, vec![eds_cluster("b", "1")]).unwrap();
    bench.receive(Kind::Route, vec![table("r", "2", &[host("h", "*", "b")], false)]).unwrap();
    let wake = bench.settle().wake.unwrap();
    bench.now.instant = wake;
    bench.settle();
    assert_eq!(bench.target(), ["b"]);
}

#[test]
fn a_cluster_that_is_removed_too_early_still_serves_the_routes_that_name_it() {
    let mut bench = Bench::serving();
    bench.change(Kind::Cluster, vec![], &["a"]).unwrap();
    let wake = bench.settle().wake.unwrap();
    assert_eq!(bench.active().2, ["a"]);
    assert!(bench.store.wanted().endpoints.contains("a"), "its endpoints are still followed");
    bench.receive(Kind::Route, vec![table("r", "2", &[host("h", "*", "other")], false)]).unwrap();
    bench.settle();
    assert!(bench.active().2.is_empty(), "nothing names it any more");

    let mut bench = Bench::serving();
    bench.change(Kind::Cluster, vec![], &["a"]).unwrap();
    bench.settle();
    bench.now.instant = wake + Duration::from_secs(60);
    bench.settle();
    assert!(bench.active().2.is_empty(), "it does not stay for ever");
}

#[test]
fn one_refused_resource_does_not_hold_up_the_others() {
    let mut bench = Bench::serving();
    let mut bad = eds_cluster("bad", "1");
    bad.resource =
        Some(xebec_proto::google::protobuf::Any { type_url: Kind::Cluster.type_url().into(), value: vec![0xff] });
    let tls = resource(
        Kind::Cluster,
        "tls",
        "1",
        json!({ "name": "tls", "type": "STATIC", "load_assignment": { "cluster_name": "tls" },
            "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" } } }),
    );
    let other =
        resource(Kind::Cluster, "good", "1", json!({ "name": "good", "type": "STATIC", "load_assignment": {} }));
    let reason = bench.receive(Kind::Cluster, vec![bad, tls, other]).unwrap_err();
    let lines: Vec<&str> = reason.lines().collect();
    assert_eq!(lines.len(), 2, "{reason}");
    assert!(lines[0].starts_with("bad: resource: "), "{reason}");
    assert!(lines[1].starts_with("tls: transport_socket: "), "{reason}");
    bench.settle();
    assert_eq!(bench.active().2, ["a", "good"]);
    assert_eq!(bench.store.clusters().refused().count(), 2);
    let versions = bench.store.versions(Kind::Cluster);
    assert!(versions.contains_key("good") && !versions.contains_key("tls"), "{versions:?}");
}

#[test]
fn a_refused_update_keeps_the_older_version_and_is_asked_for_again() {
    let mut bench = Bench::serving();
    let broken = table("r", "2", &[host("h", "*", "a"), host("h2", "*", "a")], false);
    let reason = bench.receive(Kind::Route, vec![broken]).unwrap_err();
    assert!(reason.starts_with("r: resource: ") && reason.contains("repeats domain"), "{reason}");
    bench.settle();
    assert_eq!(bench.target(), ["a"]);
    assert!(bench.store.versions(Kind::Route).is_empty());
    bench.receive(Kind::Route, vec![table("r", "3", &[host("h", "*", "a")], false)]).unwrap();
    assert_eq!(bench.store.versions(Kind::Route)["r"], "3");
    assert_eq!(bench.store.routes().refused().count(), 0);
}

#[test]
fn discovered_hosts_join_their_table_and_leave_it_again() {
    let mut bench = Bench::new();
    bench.receive(Kind::Cluster, vec![]).unwrap();
    bench.receive(Kind::Listener, vec![http_listener("l", "1", 0, "80")]).unwrap();
    bench.receive(Kind::Route, vec![table("80", "1", &[host("all", "*", "x")], true)]).unwrap();
    assert!(bench.settle().snapshot.is_none(), "the hosts were not answered yet");
    assert!(bench.store.wanted().hosts);
    let discovered =
        |name: &str, version: &str, domain: &str| resource(Kind::VirtualHost, name, version, host("vh", domain, "y"));
    bench.receive(Kind::VirtualHost, vec![discovered("80/reviews", "1", "reviews")]).unwrap();
    bench.settle();
    let names = |bench: &Bench| -> Vec<String> {
        let table = bench.store.snapshot().routes["80"].clone();
        table.hosts().iter().flat_map(|host| host.domains.clone()).collect()
    };
    assert_eq!(names(&bench), ["*", "reviews"]);
    bench.receive(Kind::VirtualHost, vec![discovered("80/ratings", "1", "ratings")]).unwrap();
    bench.settle();
    assert_eq!(names(&bench), ["*", "ratings", "reviews"]);
    bench.change(Kind::VirtualHost, vec![], &["80/reviews", "80/ratings"]).unwrap();
    bench.settle();
    assert_eq!(names(&bench), ["*"], "the last host can go as well");
}

#[test]
fn discovered_hosts_are_still_there_when_their_table_comes_back() {
    let mut bench = Bench::new();
    let mut session = Session::new(Node::default());
    bench.receive(Kind::Cluster, vec![]).unwrap();
    bench.receive(Kind::Listener, vec![http_listener("l", "1", 0, "80")]).unwrap();
    bench.receive(Kind::Route, vec![table("80", "1", &[host("all", "*", "x")], true)]).unwrap();
    let discovered = |name: &str, version: &str| resource(Kind::VirtualHost, name, version, host("vh", "reviews", "y"));
    bench.receive(Kind::VirtualHost, vec![discovered("80/reviews", "1")]).unwrap();
    session.subscribe(&bench.store);
    bench.settle();
    assert_eq!(bench.store.snapshot().routes["80"].hosts().len(), 2);

    bench.change(Kind::Listener, vec![], &["l"]).unwrap();
    bench.settle();
    assert!(bench.active().1.is_empty());
    let asked = session.subscribe(&bench.store);
    assert!(asked.iter().all(|request| request.type_url != Kind::VirtualHost.type_url()), "the subscription stays");

    // The control plane has sent the host on this stream: it does not send it again.
    bench.receive(Kind::Listener, vec![http_listener("l", "2", 0, "80")]).unwrap();
    bench.receive(Kind::Route, vec![table("80", "1", &[host("all", "*", "x")], true)]).unwrap();
    bench.settle();
    assert_eq!(bench.store.snapshot().routes["80"].hosts().len(), 2);
    assert_eq!(bench.store.versions(Kind::VirtualHost)["80/reviews"], "1");
}

#[test]
fn an_answer_without_hosts_ends_the_wait_for_them() {
    let mut bench = Bench::new();
    bench.receive(Kind::Cluster, vec![]).unwrap();
    bench.receive(Kind::Listener, vec![http_listener("l", "1", 0, "80")]).unwrap();
    bench.receive(Kind::Route, vec![table("80", "1", &[], true)]).unwrap();
    bench.settle();
    assert!(!bench.store.is_initialized());
    bench.receive(Kind::VirtualHost, vec![]).unwrap();
    bench.settle();
    assert!(bench.store.is_initialized());
}

#[test]
fn what_no_listener_needs_is_unsubscribed() {
    let mut bench = Bench::serving();
    let mut session = Session::new(Node::default());
    session.subscribe(&bench.store);
    bench.change(Kind::Listener, vec![], &["l"]).unwrap();
    bench.change(Kind::Cluster, vec![], &["a"]).unwrap();
    bench.settle();
    let requests = session.subscribe(&bench.store);
    let dropped: Vec<(&str, &[String])> =
        requests.iter().map(|r| (r.type_url.as_str(), r.resource_names_unsubscribe.as_slice())).collect();
    assert_eq!(
        dropped,
        [(Kind::Endpoint.type_url(), &["a".to_string()][..]), (Kind::Route.type_url(), &["r".to_string()][..])]
    );
    assert!(bench.store.endpoints().is_empty() && bench.store.routes().is_empty());
    assert_eq!(bench.active(), (vec![], vec![], vec![]));
}

#[test]
fn a_missing_table_does_not_keep_its_listener_waiting() {
    let mut bench = Bench::new();
    bench.receive(Kind::Cluster, vec![]).unwrap();
    bench.receive(Kind::Listener, vec![http_listener("l", "1", 0, "r")]).unwrap();
    bench.settle();
    assert!(bench.active().0.is_empty());
    bench.change(Kind::Route, vec![], &["r"]).unwrap();
    bench.settle();
    assert_eq!(bench.active().0, ["l"]);
}

#[test]
fn the_same_content_again_changes_nothing_but_its_version() {
    let mut bench = Bench::serving();
    let before = bench.store.snapshot().clone();
    bench.receive(Kind::Endpoint, vec![endpoints("a", "2", &[1])]).unwrap();
    bench.receive(Kind::Cluster, vec![eds_cluster("a", "2")]).unwrap();
    assert!(bench.settle().snapshot.is_none());
    assert!(std::sync::Arc::ptr_eq(&before, bench.store.snapshot()));
    assert_eq!(bench.store.versions(Kind::Cluster)["a"], "2");
}

#[test]
fn only_what_changed_gets_new_parts() {
    let mut bench = Bench::serving();
    bench
        .receive(Kind::Cluster, vec![resource(Kind::Cluster, "s", "1", json!({ "name": "s", "load_assignment": {} }))])
        .unwrap();
    bench.settle();
    let before = bench.store.snapshot().clone();
    bench.receive(Kind::Endpoint, vec![endpoints("a", "2", &[1, 2])]).unwrap();
    let after = bench.settle().snapshot.unwrap();
    let same = |name: &str| std::sync::Arc::ptr_eq(&before.clusters[name].cluster, &after.clusters[name].cluster);
    assert!(same("a") && same("s"));
    assert!(std::sync::Arc::ptr_eq(&before.clusters["s"].endpoints, &after.clusters["s"].endpoints));
    assert_eq!(after.clusters["a"].endpoints.iter().count(), 2);
    assert!(std::sync::Arc::ptr_eq(&before.routes["r"], &after.routes["r"]));
    assert!(std::sync::Arc::ptr_eq(&before.listeners[0], &after.listeners[0]));
}

#[test]
fn a_resource_under_another_name_or_listed_twice_is_refused() {
    let mut bench = Bench::new();
    let mut renamed = eds_cluster("a", "1");
    renamed.name = "b".into();
    let reason = bench.receive(Kind::Cluster, vec![renamed, eds_cluster("c", "1"), eds_cluster("c", "2")]).unwrap_err();
    assert!(reason.contains("b: name: \"a\""), "{reason}");
    assert!(reason.contains("c: resource: listed twice"), "{reason}");
    assert_eq!(bench.store.clusters().get("c").unwrap().version, "1");
}
