//! What several resources say about one thing.

use xebec_galley::spec::MeshConfig;

use crate::files::{Files, files};

fn has(files: Files, code: &str) -> bool {
    files.codes().contains(&code)
}

#[test]
fn virtual_services_of_one_host_are_rivals_only_where_the_same_sidecars_see_them() {
    let pair = |a: &str, b: &str| {
        let one =
            |rest: &str| format!("{{hosts: [a.com], {rest}http: [{{route: [{{destination: {{host: a.com}}}}]}}]}}");
        files().istio("VirtualService", "a", &one(a)).istio("VirtualService", "b", &one(b))
    };
    assert_eq!(pair("", "").codes(), ["IST0109", "IST0109"]);
    assert_eq!(pair("", "gateways: [mesh, edge], ").codes(), ["IST0109", "IST0109"]);
    assert!(!has(pair("", "gateways: [edge], "), "IST0109"));
    assert!(!has(pair("exportTo: [web], ", "exportTo: [shop], "), "IST0109"));
    assert!(has(pair("exportTo: [web], ", "exportTo: [web, shop], "), "IST0109"));
    assert!(!has(pair("exportTo: ['~'], ", ""), "IST0109"));
}

#[test]
fn the_settings_of_the_mesh_say_who_sees_what_does_not_say_itself() {
    let one = "{hosts: [a.com], http: [{route: [{destination: {host: a.com}}]}]}";
    let both = files().istio("VirtualService", "a", one).istio("VirtualService", "b", one);
    assert!(has(both.clone(), "IST0109"));
    assert!(!has(both.mesh("defaultVirtualServiceExportTo: ['~']"), "IST0109"));
    assert_eq!(files().input().settings.root_namespace, MeshConfig::default().with_defaults().root_namespace);
}

#[test]
fn addresses_of_their_own_make_tcp_entries_distinguishable() {
    let entry = "{hosts: [a.com], resolution: DNS, ports: [{number: 9, name: db, protocol: TCP}]}";
    let metadata =
        "defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'true', ISTIO_META_DNS_AUTO_ALLOCATE: 'true'}}";
    assert!(has(files().istio("ServiceEntry", "e", entry), "IST0134"));
    assert!(!has(files().istio("ServiceEntry", "e", entry).mesh(metadata), "IST0134"));
    let http = "{hosts: [a.com], resolution: DNS, ports: [{number: 80, name: http-web}]}";
    assert!(!has(files().istio("ServiceEntry", "e", http), "IST0134"), "the name says the protocol");
}

#[test]
fn entries_of_different_audiences_may_differ() {
    let entry = |export: &str, protocol: &str| {
        format!(
            "{{hosts: [a.com], exportTo: [{export}], resolution: DNS, ports: [{{number: 80, name: p, protocol: {protocol}}}]}}"
        )
    };
    let pair = |a: &str, b: &str| {
        files().istio("ServiceEntry", "a", &entry(a, "HTTP")).istio("ServiceEntry", "b", &entry(b, "GRPC"))
    };
    assert!(has(pair("web", "'*'"), "IST0177"));
    assert!(!has(pair("web", "shop"), "IST0177"));
}

#[test]
fn one_service_may_have_one_port_for_both_transports() {
    let dns = "spec: {selector: {app: dns}, ports: [{name: dns, port: 53, protocol: UDP}, {name: tcp-dns, port: 53}]}";
    assert_eq!(files().deployment("dns", "{app: dns}").object("v1", "Service", "dns", dns).codes(), [] as [&str; 0]);
}

#[test]
fn workloads_without_a_sidecar_may_share_ports() {
    let shared = |label: &str| {
        let service = |port: u16| {
            format!("spec: {{selector: {{app: w}}, ports: [{{name: http, port: {port}, targetPort: 8080}}]}}")
        };
        files()
            .namespace("default", &format!("{{istio-injection: {label}}}"))
            .deployment("w", "{app: w}")
            .object("v1", "Service", "a", &service(80))
            .object("v1", "Service", "b", &service(81))
    };
    assert!(has(shared("enabled"), "IST0137"));
    assert!(!has(shared("disabled"), "IST0137"));
}

#[test]
fn a_pod_in_a_manifest_has_no_sidecar_yet() {
    let pod = "spec: {containers: [{name: a}]}";
    let all = files().namespace("default", "{istio-injection: enabled}").object("v1", "Pod", "p", pod);
    assert_eq!(all.codes(), [] as [&str; 0]);
}

#[test]
fn an_annotation_of_a_template_is_one_of_its_pods() {
    let template = "spec: {template: {metadata: {annotations: {sidecar.istio.io/injekt: 'true'}}}}";
    let lines = files().object("apps/v1", "Deployment", "d", template).lines();
    let place = "IST0108 Deployment default/d spec.template.metadata.annotations[\"sidecar.istio.io/injekt\"]";
    assert_eq!(
        lines,
        [format!(
            "{place}: Istio has no annotation `sidecar.istio.io/injekt` (did you mean `sidecar.istio.io/inject`?)"
        )]
    );
}

#[test]
fn a_rule_for_a_place_is_not_judged_by_labels() {
    let subset = |label: &str| {
        files().service("shop", &["http:80"]).deployment("shop", "{app: shop}").istio(
            "DestinationRule",
            "r",
            &format!("{{host: shop, subsets: [{{name: a, labels: {{{label}: x}}}}]}}"),
        )
    };
    assert!(has(subset("zone"), "IST0173"));
    assert!(!has(subset("topology.kubernetes.io/zone"), "IST0173"));
}

#[test]
fn a_server_of_a_gateway_is_reached_by_the_port_of_its_service_or_of_its_pods() {
    let edge = |port: &str| {
        files()
            .deployment("edge", "{istio: edge, app: edge}")
            .object("v1", "Service", "edge", &format!("spec: {{selector: {{app: edge}}, ports: [{port}]}}"))
            .gateway("g", "{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}")
    };
    assert!(!has(edge("{name: http, port: 80, targetPort: 8080}"), "IST0162"));
    assert!(!has(edge("{name: http, port: 8080, targetPort: 80}"), "IST0162"));
    assert!(has(edge("{name: http, port: 80}"), "IST0162"));
}

#[test]
fn the_same_port_of_a_gateway_is_shared_by_different_hosts() {
    let server = |host: &str| format!("{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['{host}']}}");
    let pair = |a: &str, b: &str| files().gateway("a", &server(a)).gateway("b", &server(b));
    assert!(!has(pair("*", "a.com"), "IST0145"), "the more specific host wins");
    assert!(!has(pair("web/a.com", "shop/a.com"), "IST0145"), "each namespace has its own");
    assert!(has(pair("./a.com", "a.com"), "IST0145"));
}
