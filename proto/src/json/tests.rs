#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::any::{pack, pack_bytes};
use crate::envoy::config::cluster::v3::{Cluster, cluster};
use crate::envoy::config::core::v3::{Metadata, Node, SocketOption, TypedExtensionConfig, socket_option};
use crate::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use crate::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use crate::envoy::config::route::v3::{Route, RouteConfiguration};
use crate::envoy::extensions::filters::http::router::v3::Router;
use crate::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use crate::{duration, structs, wrappers};
use serde_json::json;
use std::time::Duration;

fn listener() -> Listener {
    let hcm = HttpConnectionManager {
        stat_prefix: "outbound".into(),
        http_filters: vec![
            HttpFilter {
                name: "envoy.filters.http.router".into(),
                config_type: Some(http_filter::ConfigType::TypedConfig(pack(&Router::default()))),
                ..Default::default()
            },
            HttpFilter {
                name: "ours.unknown".into(),
                config_type: Some(http_filter::ConfigType::TypedConfig(pack_bytes(
                    "type.googleapis.com/ours.Unknown",
                    vec![1, 2, 3],
                ))),
                ..Default::default()
            },
        ],
        stream_idle_timeout: Some(duration::to_proto(Duration::from_millis(1500))),
        ..Default::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".into(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&hcm))),
    };
    Listener {
        name: "0.0.0.0_9080".into(),
        filter_chains: vec![FilterChain { filters: vec![filter], ..Default::default() }],
        per_connection_buffer_limit_bytes: Some(wrappers::u32(32768)),
        ..Default::default()
    }
}

fn survives<M: Message + Name + Default + PartialEq + std::fmt::Debug>(message: &M) -> Value {
    let value = encode(message).unwrap();
    let text = serde_json::to_string(&value).unwrap();
    assert_eq!(&decode::<M>(serde_json::from_str(&text).unwrap()).unwrap(), message, "{text}");
    value
}

#[test]
fn a_listener_with_any_within_any_and_an_unknown_any_survives_both_ways() {
    let value = survives(&listener());
    let hcm = &value["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(hcm["@type"], type_url::HTTP_CONNECTION_MANAGER);
    assert_eq!(hcm.as_object().unwrap().keys().next().unwrap(), "@type");
    assert_eq!(hcm["http_filters"][0]["typed_config"], json!({"@type": type_url::ROUTER}));
    assert_eq!(
        hcm["http_filters"][1]["typed_config"],
        json!({"@type": "type.googleapis.com/ours.Unknown", "value": "AQID"})
    );
    assert_eq!(hcm["stream_idle_timeout"], "1.500s");
    assert_eq!(value["per_connection_buffer_limit_bytes"], 32768);
}

#[test]
fn a_cluster_survives_with_enums_durations_maps_and_64_bit_integers() {
    let structure =
        structs::from_json_object(json!({"b": 1, "a": [true, null, {"@type": "not an any"}]}).as_object().unwrap());
    let cluster = Cluster {
        name: "outbound|9080||reviews".into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
        connect_timeout: Some(duration::to_proto(Duration::from_secs(10))),
        lb_policy: cluster::LbPolicy::LeastRequest.into(),
        metadata: Some(Metadata {
            filter_metadata: [("istio".to_owned(), structure.clone()), ("a".to_owned(), structure)].into(),
            typed_filter_metadata: [("x".to_owned(), pack(&wrappers::string("y")))].into(),
        }),
        upstream_bind_config: Some(crate::envoy::config::core::v3::BindConfig {
            socket_options: vec![SocketOption {
                level: -5_000_000_000,
                name: 2,
                value: Some(socket_option::Value::BufValue(vec![0xff, 0])),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let value = survives(&cluster);
    assert_eq!(value["type"], "EDS");
    assert_eq!(value["lb_policy"], "LEAST_REQUEST");
    assert_eq!(value["connect_timeout"], "10s");
    assert_eq!(value["metadata"]["filter_metadata"].as_object().unwrap().keys().collect::<Vec<_>>(), ["a", "istio"]);
    assert_eq!(value["metadata"]["typed_filter_metadata"]["x"]["value"], "y");
    let option = &value["upstream_bind_config"]["socket_options"][0];
    assert_eq!((&option["level"], &option["buf_value"]), (&json!("-5000000000"), &json!("/wA=")));
}

#[test]
fn both_spellings_of_a_field_are_read() {
    for json in [json!({"connect_timeout": "0.25s"}), json!({"connectTimeout": "0.250s"})] {
        let cluster: Cluster = decode(json).unwrap();
        assert_eq!(duration::from_proto(&cluster.connect_timeout.unwrap()), Some(Duration::from_millis(250)));
    }
}

#[test]
fn durations_have_the_forms_that_proto3_json_prescribes() {
    let text = |d: Duration| encode(&duration::to_proto(d)).unwrap();
    assert_eq!(text(Duration::ZERO), "0s");
    assert_eq!(text(Duration::from_millis(15_250)), "15.250s");
    assert_eq!(text(Duration::from_micros(1)), "0.000001s");
    assert_eq!(text(Duration::from_nanos(1)), "0.000000001s");
    for wrong in [json!("1m"), json!(5), json!("5")] {
        let error = decode::<Cluster>(json!({"connect_timeout": wrong})).unwrap_err().to_string();
        assert!(error.starts_with("connect_timeout: "), "{error}");
    }
}

#[test]
fn errors_say_where() {
    let hcm = json!({"@type": type_url::HTTP_CONNECTION_MANAGER, "http_filters": [{"name": 5}]});
    let json = json!({"name": "x", "filter_chains": [{}, {"filters": [{"typed_config": hcm}]}]});
    let error = decode::<Listener>(json).unwrap_err().to_string();
    assert!(error.starts_with("filter_chains[1].filters[0].typed_config.http_filters[0].name: "), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    for (json, expected) in [
        (json!({"nmae": "x"}), "has no field \"nmae\""),
        (json!({"type": "EDS", "cluster_type": {}}), "only one of"),
        (json!({"name": "a", "alt_stat_name": "b", "altStatName": "c"}), "given twice"),
        (json!([]), "expected an object"),
        (json!({"lb_policy": "NO_SUCH_POLICY"}), "lb_policy: "),
        (json!({"typed_extension_protocol_options": {"a": {"value": "AA=="}}}), "needs \"@type\""),
        (json!({"typed_extension_protocol_options": {"a": {"@type": "x/ours.Unknown", "field": 1}}}), "unknown here"),
        (
            json!({"typed_extension_protocol_options": {"a": {"@type": type_url::STRUCT, "field": 1}}}),
            "goes into \"value\"",
        ),
    ] {
        let error = decode::<Cluster>(json.clone()).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn null_is_absence_except_where_it_is_a_value() {
    let cluster: Cluster = decode(json!({"name": null, "metadata": {"filter_metadata": {"a": {"b": null}}}})).unwrap();
    assert_eq!(cluster.name, "");
    let fields = &cluster.metadata.unwrap().filter_metadata["a"].fields;
    assert_eq!(structs::to_json(&fields["b"]), Value::Null);
}

#[test]
fn an_any_whose_bytes_are_broken_does_not_fail_the_dump() {
    let config =
        TypedExtensionConfig { name: "x".into(), typed_config: Some(pack_bytes(type_url::CLUSTER, vec![0xff])) };
    assert_eq!(encode(&config).unwrap()["typed_config"], json!({"@type": type_url::CLUSTER, "value": "/w=="}));
}

#[test]
fn an_any_nested_without_end_is_survived() {
    let mut any = pack(&wrappers::bool(true));
    for _ in 0..5000 {
        any = pack(&any);
    }
    assert_eq!(encode_any(&any).unwrap()["@type"], "type.googleapis.com/google.protobuf.Any");
    let mut json = json!({"@type": type_url::EMPTY, "value": {}});
    for _ in 0..200 {
        json = json!({"@type": "type.googleapis.com/google.protobuf.Any", "value": json});
    }
    assert!(decode_any(json).is_err());
}

#[test]
fn an_any_of_a_well_known_type_keeps_it_in_value_and_an_empty_one_is_empty() {
    for (any, expected) in [
        (pack(&wrappers::bool(true)), json!({"@type": "type.googleapis.com/google.protobuf.BoolValue", "value": true})),
        (pack(&crate::google::protobuf::Empty {}), json!({"@type": type_url::EMPTY, "value": {}})),
        (pack(&Router::default()), json!({"@type": type_url::ROUTER})),
        (Any::default(), json!({})),
    ] {
        let json = encode_any(&any).unwrap();
        assert_eq!(json, expected);
        assert_eq!(decode_any(json).unwrap(), any);
    }
}

#[test]
fn numbers_are_written_as_short_as_they_read_back() {
    use crate::envoy::config::core::v3::RuntimeDouble;
    for (number, expected) in
        [(1.0, json!(1)), (0.1, json!(0.1)), (-2.5, json!(-2.5)), (f64::INFINITY, json!("Infinity"))]
    {
        let value = survives(&RuntimeDouble { default_value: number, runtime_key: "k".into() });
        assert_eq!(value["default_value"], expected);
    }
    assert_eq!(encode(&wrappers::f32(0.1)).unwrap(), json!(0.1));
    assert_eq!(encode(&wrappers::u64(u64::MAX)).unwrap(), json!("18446744073709551615"));
}

#[test]
fn every_generated_type_that_a_proxy_may_get_encodes_when_empty() {
    for url in type_url::ALL {
        let value = encode_bytes(url, &[]).unwrap_or_else(|e| panic!("{url}: {e}"));
        decode_bytes(url, value).unwrap_or_else(|e| panic!("{url}: {e}"));
    }
    survives(&Node::default());
    survives(&RouteConfiguration { virtual_hosts: vec![Default::default()], ..Default::default() });
    survives(&Route::default());
    survives(&ClusterLoadAssignment { cluster_name: "c".into(), ..Default::default() });
    survives(&LbEndpoint::default());
}

#[test]
fn an_unknown_type_is_named_in_the_error() {
    let error = encode_bytes("type.googleapis.com/no.such.Type", &[]).unwrap_err();
    assert_eq!(error, JsonError::UnknownType { name: "no.such.Type".into() });
}

proptest::proptest! {
    #[test]
    fn bytes_that_are_no_message_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
        let _ = encode_bytes(type_url::LISTENER, &bytes);
        let _ = encode_any(&pack_bytes(type_url::LISTENER, bytes));
    }
}

#[test]
fn a_typed_struct_is_known_under_both_of_its_names() {
    for name in ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"] {
        let json = json!({"@type": type_url::of_name(name), "type_url": "x/ours.Filter", "value": {"a": [1, "b"]}});
        let any = decode_any(json.clone()).unwrap();
        assert_eq!(encode_any(&any).unwrap(), json);
        let typed = crate::typed_struct::TypedStruct::decode(any.value.as_slice()).unwrap();
        assert_eq!(structs::to_json_object(&typed.value.unwrap())["a"][1], "b");
    }
}
