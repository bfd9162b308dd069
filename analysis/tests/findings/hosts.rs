//! References: what is found, what is missing, and what may be elsewhere.

use xebec_analysis::analyze;
use xebec_analysis::read::{Options, Place, read};

use crate::files::files;

const ROUTE: &str = "IST0101 VirtualService default/v spec.http[0].route[0].destination.host: ";

#[test]
fn a_misspelt_host_is_missing_and_the_right_one_is_proposed() {
    let lines = files().service("reviews", &["http:80"]).route("v", "reviews", "{host: reviewz}").lines();
    assert_eq!(lines, [format!("{ROUTE}there is no host `reviewz` (did you mean `reviews`?)")]);
}

#[test]
fn half_of_a_name_is_not_a_name() {
    let lines = files().service("reviews", &["http:80"]).route("v", "reviews", "{host: reviews.default}").lines();
    let help = "write `reviews.default.svc.cluster.local`: only names without a dot are completed";
    assert_eq!(lines, [format!("{ROUTE}there is no host `reviews.default` ({help})")]);
}

#[test]
fn a_host_that_may_be_elsewhere_is_missing_only_from_a_complete_mesh() {
    let alone = files().route("v", "reviews", "{host: reviews}");
    assert_eq!(alone.lines(), [] as [&str; 0]);
    assert_eq!(alone.complete().codes(), ["IST0101"]);
    let other = files().service("shop", &["http:80"]).route("v", "reviews", "{host: reviews.web.svc.cluster.local}");
    assert_eq!(other.codes(), [] as [&str; 0], "nothing is known of the namespace `web`");
}

#[test]
fn a_service_that_is_not_exported_is_not_there() {
    let hidden = |export: &str| {
        files()
            .service("shop", &["http:80"])
            .istio(
                "ServiceEntry",
                "e",
                &format!(
                    "{{hosts: [a.com], exportTo: [{export}], resolution: DNS, ports: [{{number: 80, name: http}}]}}"
                ),
            )
            .route("v", "shop", "{host: a.com}")
    };
    assert_eq!(
        hidden("web").lines(),
        [format!("{ROUTE}there is no host `a.com` (default/a.com is not exported to the namespace `default`)")]
    );
    assert_eq!(hidden("'.'").codes(), [] as [&str; 0]);
}

#[test]
fn a_wildcard_entry_covers_the_names_below_it() {
    let spec = "{hosts: ['*.a.com'], resolution: NONE, ports: [{number: 80, name: http}]}";
    let route = |host: &str| files().istio("ServiceEntry", "e", spec).route("v", "x.a.com", host).complete();
    assert_eq!(route("{host: x.a.com}").codes(), [] as [&str; 0]);
    assert_eq!(route("{host: x.b.com}").codes(), ["IST0101"]);
}

#[test]
fn a_port_that_the_host_has_not_is_missing() {
    let lines = files().service("shop", &["http:80"]).route("v", "shop", "{host: shop, port: {number: 81}}").lines();
    let place = "IST0101 VirtualService default/v spec.http[0].route[0].destination.port";
    assert_eq!(lines, [format!("{place}: there is no port `shop:81` (the host has `80`)")]);
}

#[test]
fn mirrors_and_routes_of_tls_and_tcp_are_looked_at_too() {
    let spec = "{hosts: [shop], http: [{route: [{destination: {host: shop}}], mirror: {host: m1}}], tls: [{match: [{sniHosts: [shop], port: 443}], route: [{destination: {host: t1}}]}], tcp: [{route: [{destination: {host: c1}}]}]}";
    let paths: Vec<String> = files()
        .service("shop", &["http:80"])
        .istio("VirtualService", "v", spec)
        .findings()
        .iter()
        .map(|finding| finding.diagnostic.path.clone())
        .collect();
    assert_eq!(
        paths,
        ["spec.http[0].mirror.host", "spec.tls[0].route[0].destination.host", "spec.tcp[0].route[0].destination.host"]
    );
}

#[test]
fn a_subset_needs_a_rule_of_its_host() {
    let route = || files().route("v", "shop", "{host: shop, subset: v2}");
    let place = "IST0101 VirtualService default/v spec.http[0].route[0].destination.subset";
    assert_eq!(route().codes(), [] as [&str; 0], "the rule may be elsewhere");
    assert_eq!(route().versions("shop", &["v1", "v2"]).codes(), [] as [&str; 0]);
    let typo = route().versions("shop", &["v1", "v3"]).lines();
    assert_eq!(typo, [format!("{place}: there is no subset `shop/v2` (did you mean `v1`?)")]);
    let none = route().versions("web", &["v2"]).lines();
    assert_eq!(
        none,
        [format!("{place}: there is no subset `shop/v2` (add a DestinationRule for `shop` with this subset)")]
    );
    let whole = route().istio("DestinationRule", "all", "{host: '*.default.svc.cluster.local', subsets: [{name: v2}]}");
    assert_eq!(whole.codes(), [] as [&str; 0], "a rule for a wildcard has subsets too");
}

#[test]
fn a_gateway_is_looked_for_in_the_namespace_that_is_named() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";
    let route = |gateway: &str| {
        let spec =
            format!("{{hosts: [a.com], gateways: [{gateway}], http: [{{route: [{{destination: {{host: shop}}}}]}}]}}");
        files().gateway("edge", server).istio("VirtualService", "v", &spec)
    };
    let place = "IST0101 VirtualService default/v spec.gateways[0]";
    assert_eq!(route("edge").codes(), [] as [&str; 0]);
    assert_eq!(route("default/edge").codes(), [] as [&str; 0]);
    assert_eq!(route("mesh").codes(), [] as [&str; 0]);
    assert_eq!(route("istio-system/edge").codes(), [] as [&str; 0], "nothing is known of that namespace");
    assert_eq!(route("edgy").lines(), [format!("{place}: there is no gateway `default/edgy` (did you mean `edge`?)")]);
    assert_eq!(route("istio-system/edge").complete().codes().iter().filter(|c| **c == "IST0101").count(), 3);
}

#[test]
fn a_delegate_is_a_virtual_service_without_hosts() {
    let root = "{hosts: [a.com], http: [{delegate: {name: d}}]}";
    let delegate = "{http: [{route: [{destination: {host: shop}}]}]}";
    let with = |name: &str, spec: &str| files().istio("VirtualService", "v", root).istio("VirtualService", name, spec);
    let found = |files: crate::files::Files| files.codes().contains(&"IST0101");
    assert!(!found(with("d", delegate)));
    assert!(found(with("e", delegate)));
    assert!(found(with("d", "{hosts: [b.com], http: [{route: [{destination: {host: shop}}]}]}")));
}

#[test]
fn workloads_of_a_gateway_are_judged_only_where_gateways_are_known() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";
    let gateway = || files().gateway("edge", server).deployment("shop", "{app: shop}");
    assert_eq!(gateway().codes(), [] as [&str; 0]);
    let lines = gateway().deployment("edge", "{istio: egde}").lines();
    let place = "IST0101 Gateway default/edge spec.selector";
    assert_eq!(
        lines,
        [format!(
            "{place}: there is no workload `istio=edge` (the selector's labels must be on the pods of a gateway)"
        )]
    );
    assert_eq!(gateway().deployment("edge", "{istio: edge}").codes(), [] as [&str; 0]);
}

#[test]
fn a_secret_belongs_into_the_namespace_of_the_gateways_workloads() {
    let server =
        "{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: web}}";
    let gateway = |secret: &str| {
        files().deployment("edge", "{istio: edge}").gateway("edge", server).object(
            "v1",
            "Secret",
            secret,
            "data: {cert: YQ==, key: YQ==}",
        )
    };
    let missing = |files: crate::files::Files| files.codes().contains(&"IST0101");
    assert!(!missing(gateway("web")));
    assert!(missing(gateway("wbe")));
}

#[test]
fn services_of_the_static_registry_are_hosts_and_their_instances_are_workloads() {
    let registry = "services: [{host: shop, ports: [{name: http, number: 80, protocol: http}], instances: [{address: 10.0.0.1, labels: {version: v1}}]}]";
    let with = |version: &str| files().yaml(registry).route("v", "shop", "{host: shop}").versions("shop", &[version]);
    assert_eq!(with("v1").codes(), [] as [&str; 0]);
    assert_eq!(with("v2").codes(), ["IST0173"]);
    assert_eq!(files().yaml(registry).route("v", "shop", "{host: shp}").codes(), ["IST0101"]);
}

#[test]
fn documents_of_others_are_passed_by_in_a_directory_and_refused_when_they_are_named() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("compose.yaml");
    std::fs::write(&file, "version: '2'\nservices: {web: {image: web}}\n").unwrap();
    std::fs::write(home.path().join("keys.json"), "{\"keys\": []}").unwrap();
    let options = Options { settings: files().input().settings, recursive: true, complete: false };
    let codes = |path: &std::path::Path| -> Vec<&str> {
        analyze(&read(&[Place::Path(path.to_owned())], &options)).iter().map(|finding| finding.message.code).collect()
    };
    assert_eq!(codes(home.path()), [] as [&str; 0]);
    assert!(codes(&file).contains(&"IST0106"));
    std::fs::write(&file, "broken: [").unwrap();
    assert_eq!(codes(home.path()), ["IST0106"], "what cannot be read may be ours");
}

#[test]
fn of_two_documents_for_one_resource_the_second_is_said_to_have_no_effect() {
    let service = files().service("shop", &["http:80"]);
    let lines = service.route("v", "shop", "{host: shop}").route("v", "shop", "{host: shpo}").lines();
    let text = "VirtualService/default/v is written twice; first at mesh.yaml:7:1";
    let help = "keep one of them; only the first is looked at, as it is served";
    assert_eq!(lines, [format!("IST0106 VirtualService default/v : {text} ({help})")]);
}
