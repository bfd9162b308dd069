#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Names, precedence and visibility, and what a change set names.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use xebec_galley::{Kind, Meta};

use super::*;
use crate::model::{
    Address, Distribution, Health, Labels, Locality, Port, Protocol, RegistryId, Resolution, Visibility,
};
use crate::proxy::Proxy;

fn key(kind: Kind, namespace: &str, name: &str) -> ResourceKey {
    ResourceKey { kind, namespace: namespace.into(), name: name.into() }
}

fn resource<T: DeserializeOwned>(
    kind: Kind,
    namespace: &str,
    name: &str,
    created: u64,
    spec: Value,
) -> (ResourceKey, Option<Arc<Resource<T>>>) {
    let meta = Meta {
        key: key(kind, namespace, name),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created,
        source: SourceRef { file: format!("{name}.yaml").into(), line: 1, column: 1 },
    };
    (meta.key.clone(), Some(Arc::new(Resource { meta, spec: serde_json::from_value(spec).unwrap() })))
}

fn rule(namespace: &str, name: &str, created: u64, spec: Value) -> Change {
    let (key, resource) = resource(Kind::VirtualService, namespace, name, created, spec);
    Change::VirtualService(key, resource)
}

fn policy(namespace: &str, name: &str, created: u64, spec: Value) -> Change {
    let (key, resource) = resource(Kind::DestinationRule, namespace, name, created, spec);
    Change::DestinationRule(key, resource)
}

fn sidecar(namespace: &str, name: &str, created: u64, spec: Value) -> Change {
    let (key, resource) = resource(Kind::Sidecar, namespace, name, created, spec);
    Change::Sidecar(key, resource)
}

fn gateway(namespace: &str, name: &str, created: u64, spec: Value) -> Change {
    let (key, resource) = resource(Kind::Gateway, namespace, name, created, spec);
    Change::Gateway(key, resource)
}

fn settings(value: Value) -> Change {
    Change::Settings(Arc::new(serde_json::from_value(value).unwrap()))
}

fn service(host: &str, namespace: &str) -> Service {
    Service {
        key: ServiceKey::new(host, namespace),
        addresses: Vec::new(),
        ports: vec![Port { name: "http".into(), number: 80, protocol: Protocol::Http }],
        resolution: Resolution::Static,
        external: false,
        visibility: Visibility::Public,
        labels: Labels::new(),
        aliases: Vec::new(),
        created: 0,
        registry: RegistryId("test".into()),
        origin: None,
        distribution: Distribution::default(),
    }
}

fn endpoint(ip: &str, workload: Option<&str>) -> Endpoint {
    Endpoint {
        address: Address::Ip(ip.parse().unwrap()),
        ports: BTreeMap::new(),
        labels: Labels::new(),
        locality: Locality::default(),
        weight: 1,
        service_account: None,
        workload: workload.map(Arc::from),
        network: "".into(),
        node: None,
        health: Health::Healthy,
        app: BTreeMap::new(),
    }
}

fn add(service: Service, endpoints: Vec<Endpoint>) -> Change {
    Change::Service(service.key.clone(), Some(Arc::new(MeshService::of(service, endpoints))))
}

fn plain(host: &str, namespace: &str) -> Change {
    add(service(host, namespace), Vec::new())
}

fn mesh(changes: impl IntoIterator<Item = Change>) -> Mesh {
    apply(&Mesh::default(), changes).0
}

fn scope(namespace: &str) -> Scope {
    Scope::namespace(namespace)
}

fn client(namespace: &str, labels: Value) -> Proxy {
    let id = format!("sidecar~10.0.0.1~w.{namespace}~{namespace}.svc.cluster.local");
    Proxy::from_parts(&id, json!({"LABELS": labels}).as_object().unwrap(), Locality::default(), true).unwrap()
}

fn scope_of(mesh: &Mesh, namespace: &str, labels: Value) -> Scope {
    mesh.scope(&mesh.outbound_shape(&client(namespace, labels)))
}

fn to(host: &str) -> Value {
    json!([{"route": [{"destination": {"host": host}}]}])
}

fn name_of(rule: Option<&Arc<MeshVirtualService>>) -> Option<&str> {
    rule.map(|r| &*r.resource.meta.key.name)
}

const REVIEWS: &str = "reviews.default.svc.cluster.local";

// === Names ===

#[test]
fn a_short_name_is_expanded_with_the_namespace_of_the_rule() {
    let mesh = mesh([plain(REVIEWS, "default")]);
    assert_eq!(mesh.resolve_host("reviews", "default", &scope("shop")), REVIEWS);
    assert_eq!(mesh.resolve_host("reviews", "shop", &scope("default")), "reviews.shop.svc.cluster.local");
    assert_eq!(mesh.resolve_host("reviews.prod", "default", &scope("default")), "reviews.prod");
}

#[test]
fn a_name_that_a_visible_service_has_as_written_is_that_service() {
    let mut hidden = service("ratings", "other");
    hidden.visibility = Visibility::Namespaces(vec!["other".into()]);
    let mesh = mesh([plain("reviews", "default"), plain(REVIEWS, "default"), add(hidden, vec![])]);
    assert_eq!(mesh.resolve_host("Reviews", "default", &scope("default")), "reviews");
    assert_eq!(mesh.resolve_host("ratings", "default", &scope("default")), "ratings.default.svc.cluster.local");
    assert_eq!(mesh.resolve_host("ratings", "default", &scope("other")), "ratings");
}

#[test]
fn an_alias_is_its_oldest_visible_owner_unless_a_service_has_the_expanded_name() {
    let mut consul = service("reviews.service.consul", "default");
    consul.aliases = vec!["reviews".into()];
    let mut younger = service("other.service.consul", "default");
    (younger.aliases, younger.created) = (vec!["reviews".into()], 5);
    let first = mesh([add(consul, vec![]), add(younger, vec![])]);
    assert_eq!(first.resolve_host("reviews", "default", &scope("default")), "reviews.service.consul");
    let second = apply(&first, [plain(REVIEWS, "default")]).0;
    assert_eq!(second.resolve_host("reviews", "default", &scope("default")), REVIEWS);
}

#[test]
fn of_services_that_share_a_hostname_the_clients_own_comes_first_then_platforms_then_age() {
    let make = |namespace: &str, created: u64, registry: &str| {
        let mut made = service("shared.example.com", namespace);
        (made.created, made.registry) = (created, RegistryId(registry.into()));
        add(made, vec![])
    };
    let mesh = mesh([
        make("a", 1, CONFIG_REGISTRY),
        make("b", 9, "kubernetes"),
        make("c", 5, "kubernetes"),
        make("d", 7, CONFIG_REGISTRY),
    ]);
    let found = |ns: &str| mesh.service_in("shared.example.com", &scope(ns)).unwrap().service.key.namespace.to_string();
    assert_eq!(found("d"), "d");
    assert_eq!(found("z"), "c");
}

// === VirtualServices ===

#[test]
fn the_most_specific_host_wins_and_of_equals_the_oldest() {
    let mesh = mesh([
        plain(REVIEWS, "default"),
        rule("default", "star", 1, json!({"hosts": ["*"], "http": to("x")})),
        rule("default", "suffix", 1, json!({"hosts": ["*.svc.cluster.local"], "http": to("x")})),
        rule("default", "young", 9, json!({"hosts": ["reviews"], "http": to("x")})),
        rule("default", "old", 2, json!({"hosts": [REVIEWS], "http": to("x")})),
    ]);
    let names: Vec<_> = mesh
        .virtual_services_for(REVIEWS, MESH_GATEWAY, &scope("default"))
        .into_iter()
        .map(|r| r.resource.meta.key.name.to_string())
        .collect();
    assert_eq!(names, ["old", "young", "suffix", "star"]);
    assert_eq!(name_of(mesh.virtual_service_for("a.b.svc.cluster.local", &scope("default"))), Some("suffix"));
    assert_eq!(name_of(mesh.virtual_service_for("example.com", &scope("default"))), Some("star"));
}

#[test]
fn a_rule_for_a_short_name_is_for_the_service_that_the_name_means() {
    let rules = rule("default", "vs", 1, json!({"hosts": ["reviews"], "http": to("x")}));
    let both = mesh([plain("reviews", "default"), plain(REVIEWS, "default"), rules]);
    assert_eq!(name_of(both.virtual_service_for("reviews", &scope("default"))), Some("vs"));
    assert_eq!(name_of(both.virtual_service_for(REVIEWS, &scope("default"))), None);
    let one = apply(&both, [Change::Service(ServiceKey::new("reviews", "default"), None)]).0;
    assert_eq!(name_of(one.virtual_service_for(REVIEWS, &scope("default"))), Some("vs"));
}

#[rstest::rstest]
#[case(json!(["*"]), [true, true])]
#[case(json!(["."]), [true, false])]
#[case(json!(["~"]), [false, false])]
#[case(json!(["other"]), [false, true])]
#[case(json!(["~", "*"]), [true, true])]
#[case(json!([]), [true, true])]
fn a_rule_is_seen_where_it_is_exported(#[case] export_to: Value, #[case] expected: [bool; 2]) {
    let mesh = mesh([
        plain(REVIEWS, "default"),
        rule("default", "vs", 1, json!({"hosts": ["reviews"], "http": to("x"), "exportTo": export_to})),
    ]);
    assert_eq!(["default", "other"].map(|ns| mesh.virtual_service_for(REVIEWS, &scope(ns)).is_some()), expected);
}

#[test]
fn the_settings_decide_about_rules_that_say_nothing_of_export() {
    let first =
        mesh([plain(REVIEWS, "default"), rule("default", "vs", 1, json!({"hosts": ["reviews"], "http": to("x")}))]);
    let (second, set) = apply(&first, [settings(json!({"defaultVirtualServiceExportTo": ["."]}))]);
    assert!(set.settings);
    assert!(second.virtual_service_for(REVIEWS, &scope("other")).is_none());
    assert!(second.virtual_service_for(REVIEWS, &scope("default")).is_some());
}

#[rstest::rstest]
#[case("gw", "default/gw")]
#[case("./gw", "default/gw")]
#[case("edge/gw", "edge/gw")]
#[case("gw.edge.svc.cluster.local", "edge/gw")]
#[case("mesh", "mesh")]
fn a_gateway_is_referred_to_in_any_of_istios_forms(#[case] written: &str, #[case] expected: &str) {
    let mesh =
        mesh([rule("default", "vs", 1, json!({"hosts": ["a.example.com"], "gateways": [written], "http": to("x")}))]);
    let rules = mesh.virtual_services_for("a.example.com", expected, &scope("default"));
    assert_eq!(rules.len(), 1);
    assert_eq!(mesh.virtual_services_of_gateway(expected).count(), usize::from(expected != MESH_GATEWAY));
}

#[test]
fn hosts_that_only_rules_have_are_those_without_a_service_in_scope() {
    let mesh = mesh([
        plain(REVIEWS, "default"),
        rule(
            "default",
            "a",
            1,
            json!({"hosts": ["reviews", "only.example.com", "*.wild.example.com"], "http": to("x")}),
        ),
        rule("default", "b", 1, json!({"hosts": ["edge.example.com"], "gateways": ["gw"], "http": to("x")})),
    ]);
    let hosts: Vec<_> = mesh.rule_only_hosts(&scope("default")).iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["*.wild.example.com", "only.example.com"]);
}

// === DestinationRules ===

fn decided(mesh: &Mesh, scope: &Scope) -> Option<String> {
    let service = mesh.service(&ServiceKey::new("reviews.shop.svc.cluster.local", "shop")).unwrap();
    mesh.destination_rule_for(&service.service, scope).map(|r| r.key.name.to_string())
}

#[test]
fn a_destination_rule_is_looked_up_in_the_clients_then_the_services_then_the_root_namespace() {
    let host = "reviews.shop.svc.cluster.local";
    let all = [
        policy("client", "client", 1, json!({"host": host})),
        policy("shop", "service", 1, json!({"host": "reviews"})),
        policy("istio-system", "root", 1, json!({"host": "*.cluster.local"})),
    ];
    let mut current = mesh([plain(host, "shop")].into_iter().chain(all));
    for expected in [Some("client"), Some("service"), Some("root"), None] {
        assert_eq!(decided(&current, &scope("client")).as_deref(), expected);
        if let Some(name) = expected {
            let namespace = if name == "client" {
                "client"
            } else if name == "service" {
                "shop"
            } else {
                "istio-system"
            };
            current = apply(&current, [Change::DestinationRule(key(Kind::DestinationRule, namespace, name), None)]).0;
        }
    }
}

#[test]
fn levels_are_not_merged_and_a_wildcard_of_the_client_beats_an_exact_rule_of_the_service() {
    let mesh = mesh([
        plain("reviews.shop.svc.cluster.local", "shop"),
        policy("client", "wild", 1, json!({"host": "*.cluster.local"})),
        policy("client", "wider", 0, json!({"host": "*"})),
        policy("shop", "exact", 1, json!({"host": "reviews"})),
    ]);
    assert_eq!(decided(&mesh, &scope("client")).as_deref(), Some("wild"));
}

#[test]
fn a_rule_of_the_services_namespace_counts_only_when_exported() {
    let mesh = mesh([
        plain("reviews.shop.svc.cluster.local", "shop"),
        policy("shop", "private", 1, json!({"host": "reviews", "exportTo": ["."]})),
    ]);
    assert_eq!(decided(&mesh, &scope("client")), None);
    assert_eq!(decided(&mesh, &scope("shop")).as_deref(), Some("private"));
}

#[test]
fn rules_for_one_host_are_merged_with_the_oldest_policy_and_all_subsets() {
    let mesh = mesh([
        plain("reviews.shop.svc.cluster.local", "shop"),
        policy(
            "shop",
            "young",
            9,
            json!({"host": "reviews", "subsets": [{"name": "v2"}, {"name": "v1", "labels": {"young": "1"}}], "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}),
        ),
        policy("shop", "old", 1, json!({"host": "reviews.shop.svc.cluster.local", "subsets": [{"name": "v1"}]})),
        policy("shop", "apart", 5, json!({"host": "reviews", "exportTo": ["."], "subsets": [{"name": "v9"}]})),
    ]);
    let service = mesh.service(&ServiceKey::new("reviews.shop.svc.cluster.local", "shop")).unwrap();
    let rule = mesh.destination_rule_for(&service.service, &scope("client")).unwrap();
    assert_eq!(rule.spec.subsets.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["v1", "v2"]);
    assert!(rule.spec.subsets[0].labels.is_empty(), "a second subset of one name is dropped");
    assert!(rule.spec.traffic_policy.is_some());
    assert_eq!(rule.origins.iter().map(|o| o.file.to_string()).collect::<Vec<_>>(), ["old.yaml", "young.yaml"]);
}

#[test]
fn a_rule_for_selected_clients_comes_first_for_them_and_is_never_exported() {
    let mesh = mesh([
        plain("reviews.shop.svc.cluster.local", "shop"),
        policy("client", "all", 1, json!({"host": "reviews.shop.svc.cluster.local"})),
        policy(
            "client",
            "some",
            9,
            json!({"host": "reviews.shop.svc.cluster.local", "workloadSelector": {"matchLabels": {"app": "a"}}}),
        ),
        policy("shop", "selected", 9, json!({"host": "reviews", "workloadSelector": {"matchLabels": {"app": "a"}}})),
    ]);
    assert_eq!(decided(&mesh, &scope_of(&mesh, "client", json!({"app": "a"}))).as_deref(), Some("some"));
    assert_eq!(decided(&mesh, &scope_of(&mesh, "client", json!({"app": "b"}))).as_deref(), Some("all"));
    assert_eq!(decided(&mesh, &scope_of(&mesh, "elsewhere", json!({"app": "a"}))), None);
}

// === Sidecars and Gateways ===

#[test]
fn a_selecting_sidecar_beats_the_namespaces_and_that_beats_the_roots() {
    let egress = json!([{"hosts": ["*/*"]}]);
    let mesh = mesh([
        sidecar("istio-system", "root", 1, json!({"egress": egress})),
        sidecar("default", "plain", 1, json!({"egress": egress})),
        sidecar("default", "young", 9, json!({"workloadSelector": {"labels": {"app": "a"}}, "egress": egress})),
        sidecar("default", "old", 2, json!({"workloadSelector": {"labels": {"app": "a"}}, "egress": egress})),
        sidecar(
            "istio-system",
            "selecting",
            0,
            json!({"workloadSelector": {"labels": {"app": "b"}}, "egress": egress}),
        ),
    ]);
    let found = |namespace: &str, app: &str| {
        mesh.sidecar_for(namespace, &Labels::from([("app".into(), app.into())])).map(|s| s.meta.key.name.to_string())
    };
    assert_eq!(found("default", "a").as_deref(), Some("old"));
    assert_eq!(found("default", "b").as_deref(), Some("plain"));
    assert_eq!(found("other", "b").as_deref(), Some("root"));
}

#[rstest::rstest]
#[case("./*", &["a.default.svc.cluster.local"])]
#[case("*/*", &["a.default.svc.cluster.local", "b.other.svc.cluster.local"])]
#[case("other/b.other.svc.cluster.local", &["b.other.svc.cluster.local"])]
#[case("*/*.default.svc.cluster.local", &["a.default.svc.cluster.local"])]
#[case("~/*", &[])]
fn a_sidecar_imports_the_hosts_that_its_egress_names(#[case] host: &str, #[case] expected: &[&str]) {
    let mesh = mesh([
        plain("a.default.svc.cluster.local", "default"),
        plain("b.other.svc.cluster.local", "other"),
        sidecar("default", "s", 1, json!({"egress": [{"hosts": [host]}]})),
    ]);
    let scope = scope_of(&mesh, "default", json!({}));
    let seen: Vec<_> = mesh.hosts().filter(|h| mesh.service_in(h, &scope).is_some()).map(|h| h.to_string()).collect();
    assert_eq!(seen, expected);
}

#[test]
fn an_excluded_host_is_not_imported() {
    let mesh = mesh([
        plain("a.default.svc.cluster.local", "default"),
        plain("b.default.svc.cluster.local", "default"),
        sidecar("default", "s", 1, json!({"egress": [{"hosts": ["./*", "~default/b.default.svc.cluster.local"]}]})),
    ]);
    let scope = scope_of(&mesh, "default", json!({}));
    assert!(mesh.service_in("a.default.svc.cluster.local", &scope).is_some());
    assert!(mesh.service_in("b.default.svc.cluster.local", &scope).is_none());
}

#[test]
fn the_destination_of_an_imported_rule_is_in_scope_although_not_imported_itself() {
    let mesh = mesh([
        plain("a.default.svc.cluster.local", "default"),
        plain("b.other.svc.cluster.local", "other"),
        plain("c.other.svc.cluster.local", "other"),
        sidecar("default", "s", 1, json!({"egress": [{"hosts": ["./*"]}]})),
        rule("default", "vs", 1, json!({"hosts": ["a"], "http": to("b.other.svc.cluster.local")})),
        rule("other", "vs", 1, json!({"hosts": ["b"], "http": to("c")})),
    ]);
    let scope = scope_of(&mesh, "default", json!({}));
    assert!(mesh.service_in("b.other.svc.cluster.local", &scope).is_some());
    assert!(
        mesh.service_in("c.other.svc.cluster.local", &scope).is_none(),
        "the rule that routes to it is not imported"
    );
}

#[test]
fn a_gateway_selects_by_labels_in_all_namespaces_and_an_empty_selector_selects_all() {
    let mesh = mesh([
        gateway("a", "young", 9, json!({"selector": {"istio": "edge"}})),
        gateway("b", "old", 1, json!({"selector": {}})),
        gateway("c", "no", 0, json!({"selector": {"istio": "inner"}})),
    ]);
    let found: Vec<_> = mesh
        .gateways_for("c", &Labels::from([("istio".into(), "edge".into())]))
        .iter()
        .map(|g| g.meta.key.name.to_string())
        .collect();
    assert_eq!(found, ["old", "young"]);
}

#[test]
fn a_gateway_that_keeps_to_its_namespace_selects_no_proxy_of_another() {
    let (key, resource) = resource::<Gateway>(Kind::Gateway, "a", "mine", 1, json!({"selector": {"istio": "edge"}}));
    let mut narrow = (*resource.unwrap()).clone();
    narrow.meta.annotations.insert("xebec.io/proxies".into(), "own-namespace".into());
    let wide = gateway("a", "mine", 1, json!({"selector": {"istio": "edge"}}));
    let labels = Labels::from([("istio".into(), "edge".into())]);
    let narrowed = Change::Gateway(key.clone(), Some(Arc::new(narrow)));
    let mesh = mesh([narrowed]);
    assert_eq!((mesh.gateways_for("a", &labels).len(), mesh.gateways_for("b", &labels).len()), (1, 0));
    let (mesh, change) = apply(&mesh, [wide]);
    assert!(change.gateways.contains(&key), "an annotation alone is a change: {change:?}");
    assert_eq!(mesh.gateways_for("b", &labels).len(), 1);
}

// === Proxies ===

#[test]
fn a_proxy_serves_endpoints_of_its_address_unless_they_name_another_workload() {
    let mesh = mesh([
        add(service("a", "default"), vec![endpoint("127.0.0.1", Some("w")), endpoint("127.0.0.1", Some("x"))]),
        add(service("b", "default"), vec![endpoint("127.0.0.1", None), endpoint("127.0.0.2", None)]),
        add(service("c", "default"), vec![endpoint("10.0.0.1", Some("w"))]),
    ]);
    let instances = mesh.instances_of(&["127.0.0.1".parse().unwrap()], &"w".into());
    let hosts: Vec<_> = instances.iter().map(|i| (&*i.service.key.hostname, i.endpoint.workload.as_deref())).collect();
    assert_eq!(hosts, [("a", Some("w")), ("b", None)]);
}

#[test]
fn proxies_that_differ_in_what_no_rule_looks_at_have_one_outbound_shape() {
    let first = mesh([rule(
        "default",
        "vs",
        1,
        json!({"hosts": ["a"], "http": [{"match": [{"sourceLabels": {"app": "x"}}], "route": [{"destination": {"host": "a"}}]}]}),
    )]);
    let shape = |mesh: &Mesh, labels: Value| mesh.outbound_shape(&client("default", labels));
    assert_eq!(shape(&first, json!({"app": "x", "pod": "1"})), shape(&first, json!({"app": "x", "pod": "2"})));
    assert_ne!(shape(&first, json!({"app": "x"})), shape(&first, json!({"app": "y"})));
    let (second, set) = apply(&first, [Change::VirtualService(key(Kind::VirtualService, "default", "vs"), None)]);
    assert!(set.selection);
    assert_eq!(shape(&second, json!({"app": "x"})), shape(&second, json!({"app": "y"})));
}

#[test]
fn the_locality_matters_once_some_rule_balances_by_it() {
    let first = mesh([]);
    assert_eq!(first.outbound_shape(&client("default", json!({}))).locality, None);
    let (second, set) =
        apply(&first, [policy("default", "dr", 1, json!({"host": "a", "trafficPolicy": {"outlierDetection": {}}}))]);
    assert!(set.selection);
    assert!(second.outbound_shape(&client("default", json!({}))).locality.is_some());
}

// === Change sets ===

#[test]
fn an_endpoint_change_names_only_its_host() {
    let first = mesh([
        add(service("a", "default"), vec![endpoint("10.0.0.1", None), endpoint("10.0.0.2", None)]),
        plain("b", "default"),
    ]);
    let (_, set) =
        apply(&first, [add(service("a", "default"), vec![endpoint("10.0.0.1", None), endpoint("10.0.0.3", None)])]);
    let expected = ChangeSet {
        endpoints: [ServiceKey::new("a", "default")].into(),
        workloads: [("10.0.0.2".parse().unwrap(), None), ("10.0.0.3".parse().unwrap(), None)].into(),
        ..ChangeSet::default()
    };
    assert_eq!(set, expected);
}

#[test]
fn a_document_that_says_the_same_is_no_change() {
    let spec = json!({"hosts": ["a"], "http": to("b")});
    let first = mesh([rule("default", "vs", 1, spec.clone()), plain("a", "default")]);
    let (key, resource) =
        resource::<xebec_galley::spec::VirtualService>(Kind::VirtualService, "default", "vs", 1, spec);
    let mut moved = (*resource.unwrap()).clone();
    moved.meta.source.line = 99;
    moved.meta.annotations.insert("kubectl".into(), "x".into());
    let (second, set) =
        apply(&first, [Change::VirtualService(key, Some(Arc::new(moved))), plain("a", "default"), settings(json!({}))]);
    assert!(set.is_empty(), "{set:?}");
    let rule = second.virtual_service("default", "vs").unwrap();
    assert_eq!(rule.resource.meta.source.line, 99, "later messages name the new place");
}

#[test]
fn a_changed_rule_names_the_hosts_and_destinations_of_before_and_after() {
    let first = mesh([rule("default", "vs", 1, json!({"hosts": ["a.example.com"], "http": to("x.example.com")}))]);
    let (_, set) = apply(
        &first,
        [rule("default", "vs", 1, json!({"hosts": ["b.example.com"], "gateways": ["gw"], "http": to("y")}))],
    );
    let change = &set.virtual_services[&key(Kind::VirtualService, "default", "vs")];
    let names = |set: &std::collections::BTreeSet<Arc<str>>| set.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&change.hosts), ["a.example.com", "b.example.com"]);
    assert_eq!(names(&change.destinations), ["x.example.com", "y", "y.default.svc.cluster.local"]);
    assert_eq!(names(&change.gateways), ["default/gw", "mesh"]);
}

#[test]
fn a_changed_delegate_names_the_hosts_of_its_roots() {
    let first =
        mesh([rule("default", "root", 1, json!({"hosts": ["a.example.com"], "http": [{"delegate": {"name": "d"}}]}))]);
    let (_, set) = apply(&first, [rule("default", "d", 1, json!({"http": to("x.example.com")}))]);
    let change = &set.virtual_services[&key(Kind::VirtualService, "default", "d")];
    assert!(change.hosts.contains("a.example.com"));
}

#[test]
fn services_that_share_an_address_are_named_when_its_owner_may_change() {
    let with = |host: &str, created: u64, address: &str| {
        let mut made = service(host, "default");
        (made.created, made.addresses) = (created, vec![address.parse().unwrap()]);
        add(made, vec![])
    };
    let first = mesh([with("a", 5, "10.9.9.9/32"), plain("c", "default")]);
    let (second, set) = apply(&first, [with("b", 1, "10.9.9.9/32")]);
    assert_eq!(set.siblings, ["a".into()].into());
    assert_eq!(&**second.owner_of_address("10.9.9.9/32".parse().unwrap(), &scope("default")).unwrap().host(), "b");
}

#[test]
fn snapshots_are_independent() {
    let first = mesh([plain("a", "default")]);
    let (second, _) = apply(&first, [plain("b", "default"), Change::Service(ServiceKey::new("a", "default"), None)]);
    assert_eq!(first.hosts().map(|h| h.to_string()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(second.hosts().map(|h| h.to_string()).collect::<Vec<_>>(), ["b"]);
}
