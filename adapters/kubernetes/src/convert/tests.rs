#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use serde_json::{Value, json};

use super::*;
use crate::object::{Kind, Names, Object, Readable, decode};

pub(crate) struct Json(pub Value);

impl Readable for Json {
    type Error = serde_json::Error;
    fn read<T: serde::de::DeserializeOwned>(self) -> Result<T, Self::Error> {
        serde_json::from_value(self.0)
    }
}

fn object(kind: Kind, value: Value) -> Object {
    decode(kind, Json(value), &mut Names::default()).unwrap().1
}

fn cluster() -> Cluster {
    Cluster {
        registry: RegistryId("kubernetes".into()),
        domain: "cluster.local".into(),
        id: "".into(),
        network: "".into(),
        pods_expected: false,
    }
}

fn raw(spec: Value) -> RawService {
    let value = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec});
    let Object::Service(raw) = object(Kind::Service, value) else { panic!() };
    *raw
}

fn slice(value: Value) -> EndpointSlice {
    let mut value = value;
    value["metadata"] = json!({"name": "a-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "a"}});
    let Object::EndpointSlice(slice) = object(Kind::EndpointSlice, value) else { panic!() };
    slice
}

fn ends(raw: &RawService, slices: &[EndpointSlice]) -> Arc<[Endpoint]> {
    endpoints(raw, slices.iter(), |_| None, |_| None, &cluster(), &mut Skipped::default())
}

#[test]
fn a_ports_protocol_is_selected_as_istio_does() {
    for (name, number, transport, app, wanted) in [
        ("http", 80, None, None, Protocol::Http),
        ("http-web", 80, Some("TCP"), None, Protocol::Http),
        ("HTTP2-x", 80, None, None, Protocol::Http2),
        ("grpc-web-x", 80, None, None, Protocol::GrpcWeb),
        ("grpc-x", 80, None, None, Protocol::Grpc),
        ("web", 80, None, None, Protocol::Auto),
        ("", 80, None, None, Protocol::Auto),
        ("", 3306, None, None, Protocol::Tcp),
        ("db", 27017, None, None, Protocol::Tcp),
        ("http", 53, Some("UDP"), None, Protocol::Udp),
        ("tcp", 80, None, Some("kubernetes.io/h2c"), Protocol::Http2),
        ("tcp", 80, None, Some("kubernetes.io/ws"), Protocol::Http),
        ("tcp", 80, None, Some("kubernetes.io/wss"), Protocol::Https),
        ("tcp", 80, None, Some("http2"), Protocol::Http2),
        ("http", 80, None, Some("example.com/mine"), Protocol::Auto),
        ("ünïcode-x", 80, None, None, Protocol::Auto),
    ] {
        assert_eq!(protocol(name, number, transport, app), wanted, "{name} {number} {transport:?} {app:?}");
    }
}

#[test]
fn conditions_become_health() {
    for (conditions, wanted) in [
        (json!({}), Health::Healthy),
        (json!({"ready": true}), Health::Healthy),
        (json!({"ready": false}), Health::Unhealthy),
        (json!({"ready": false, "serving": true, "terminating": true}), Health::Draining),
        (json!({"ready": false, "serving": false, "terminating": true}), Health::Unhealthy),
    ] {
        let slice = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": conditions}], "ports": null}));
        assert_eq!(ends(&raw(json!({})), &[slice])[0].health, wanted, "{conditions}");
    }
    let slice = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}]}));
    assert_eq!(ends(&raw(json!({"publishNotReadyAddresses": true})), &[slice])[0].health, Health::Healthy);
}

#[test]
fn an_endpoint_has_its_slices_port_and_zero_for_a_port_that_the_slice_lacks() {
    let raw = raw(
        json!({"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}, {"name": "any", "port": 82}]}),
    );
    let ports = json!([{"name": "http", "port": 8080}, {"name": "any"}]);
    let found = ends(&raw, &[slice(json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": ports}))]);
    let ports: Vec<_> = found[0].ports.iter().map(|(name, number)| format!("{name} {number}")).collect();
    assert_eq!(ports, ["admin 0", "http 8080"]);
    // Another slice may know the rest.
    let rest = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "admin", "port": 9}]}));
    let first = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "http", "port": 8080}]}));
    let found = ends(&raw, &[first, rest]);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].ports["admin"], found[0].ports["http"]), (9, 8080));
}

#[test]
fn servers_that_share_an_address_are_endpoints_of_their_own() {
    let raw = raw(json!({"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]}));
    let of = |ports: Value| slice(json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": ports}));
    let http = |port: u16| json!([{"name": "http", "port": port}]);
    let found =
        ends(&raw, &[of(http(8080)), of(http(8081)), of(http(8080)), of(json!([{"name": "admin", "port": 9}]))]);
    let mut ports: Vec<_> = found.iter().map(|endpoint| (endpoint.ports["http"], endpoint.ports["admin"])).collect();
    ports.sort_unstable();
    assert_eq!(ports, [(8080, 9), (8081, 0)]);
}

#[test]
fn an_annotation_of_nonsense_is_skipped_in_few_words() {
    let mut raw = raw(json!({}));
    raw.metadata.annotations.insert(ANNOTATIONS[0].to_owned(), "A,".repeat(65_000));
    let mut skipped = Skipped::default();
    service(&raw, &Namespace::default(), &cluster(), &mut skipped);
    let told = skipped.told();
    assert_eq!((told.len(), &*told[32].detail), (33, "and 64968 more"));
}

#[test]
fn what_makes_no_sense_is_skipped_with_a_reason_and_the_rest_stays() {
    let mut skipped = Skipped::default();
    let raw = raw(json!({"clusterIPs": ["10.96.0.1", "fd00::1", "nonsense"], "ports": [
        {"name": "zero", "port": 0}, {"name": "large", "port": 70000}, {"name": "ok", "port": 80},
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}, {"name": "again", "port": 80}],
        "trafficDistribution": "Sideways"}));
    let service = service(&raw, &Namespace::default(), &cluster(), &mut skipped);
    assert_eq!(service.addresses.len(), 2);
    let ports: Vec<_> = service.ports.iter().map(|port| format!("{} {}", port.name, port.number)).collect();
    assert_eq!(ports, ["ok 80", "dns-tcp 53"]);
    let reasons: Vec<_> = skipped.told().iter().map(|skip| skip.reason).collect();
    assert_eq!(reasons, ["invalid_address", "invalid_port", "invalid_port", "duplicate_port", "invalid_annotation"]);
    let mut skipped = Skipped::default();
    let written = json!({"endpoints": [{"addresses": ["fe80::1%eth0"]}, {"addresses": []}, {"addresses": ["10.0.0.1"]}],
        "ports": [{"name": "ok", "port": -1}]});
    let found = endpoints(&raw, [slice(written)].iter(), |_| None, |_| None, &cluster(), &mut skipped);
    assert_eq!(found.len(), 1);
    assert_eq!(skipped.told().len(), 3, "{skipped:?}");
}

#[test]
fn export_to_is_closed_when_nothing_in_it_is_valid() {
    let visible = |text: &str| {
        let mut raw = raw(json!({}));
        raw.metadata.annotations.insert(ANNOTATIONS[0].to_owned(), text.to_owned());
        visibility(&raw, &mut Skipped::default())
    };
    assert_eq!(visible(""), Visibility::Public);
    assert_eq!(visible("a,*"), Visibility::Public);
    assert_eq!(visible("."), Visibility::Namespaces(vec!["n".into()]));
    assert_eq!(visible("~"), Visibility::Namespaces(vec![]));
    assert_eq!(visible("Not Valid"), Visibility::Namespaces(vec![]));
}

#[test]
fn a_pods_labels_say_its_locality_with_dots() {
    let pod = |labels: Value| {
        let value = json!({"metadata": {"name": "p", "labels": labels}, "status": {"podIP": "10.0.0.1"}});
        let Object::Pod(pod) = object(Kind::Pod, value) else { panic!() };
        pod
    };
    let node = Node { region: "r".into(), zone: "z".into(), subzone: "s".into() };
    let at = |labels| locality(Some(&pod(labels)), Some(&node), None);
    assert_eq!(at(json!({})), Locality::parse("r/z/s"));
    assert_eq!(at(json!({"istio-locality": "a.b.c"})), Locality::parse("a/b/c"));
    assert_eq!(at(json!({"topology.istio.io/subzone": "rack"})), Locality::parse("r/z/rack"));
}

#[test]
fn a_dual_stack_pod_is_one_endpoint_of_the_primary_family() {
    let raw = raw(json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIPs": ["fd00::1", "10.96.0.1"]}));
    let of = |address: &str| {
        slice(json!({"endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": "p"}}]}))
    };
    let value = json!({"metadata": {"name": "p"}, "status": {"podIP": "10.0.0.1"}});
    let Object::Pod(pod) = object(Kind::Pod, value) else { panic!() };
    let slices = [of("10.0.0.1"), of("fd00::5")];
    let found = endpoints(&raw, slices.iter(), |_| Some(&pod), |_| None, &cluster(), &mut Skipped::default());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].address, Address::Ip("fd00::5".parse().unwrap()));
}
