//! Conditions on claims of tokens, which nobody checks yet.

use rstest::rstest;
use serde_json::{Value, json};

use super::fqdn;
use crate::translate::fixture::{grpc_client, mesh, sidecar};
use crate::translate::notes;

fn rule(condition: Value) -> Value {
    json!({"hosts": ["a"], "http": [{"match": [condition], "route": [{"destination": {"host": "b"}}]}]})
}

#[rstest]
#[case::wanted(json!({"headers": {"@request.auth.claims.group": {"exact": "admin"}}}))]
#[case::unwanted(json!({"withoutHeaders": {"@request.auth.claims[group]": {"exact": "guest"}}}))]
#[case::unwanted_at_all(json!({"withoutHeaders": {"@request.auth.claims.sub": {}}}))]
#[case::beside_a_path(json!({"uri": {"prefix": "/"}, "withoutHeaders": {"@request.auth.claims.sub": {}}}))]
fn a_condition_on_a_claim_never_holds_and_opens_nothing(#[case] condition: Value) {
    let build = || {
        mesh().service("a", |s| s.http(80)).service("b", |s| s.http(80)).virtual_service("v", rule(condition.clone()))
    };
    let host = build().sidecar().host_json("80", &format!("{}:80", fqdn("a")));
    let routes = host["routes"].as_array().unwrap();
    // Without any route the service would be open to everybody.
    assert_eq!(routes.len(), 1);
    let headers = routes[0]["match"]["headers"].as_array().unwrap();
    assert_eq!(headers.len(), 2);
    assert_eq!(headers[0]["name"], headers[1]["name"]);
    assert_eq!((&headers[0]["presentMatch"], &headers[1]["presentMatch"]), (&json!(true), &json!(true)));
    assert_eq!((&headers[0]["invertMatch"], &headers[1]["invertMatch"]), (&Value::Null, &json!(true)));
    assert!(notes(&build().build()).iter().any(|n| n.text.contains("never hold")));
}

#[test]
fn the_routes_behind_a_condition_on_a_claim_are_still_reached() {
    let seen = mesh()
        .service("a", |s| s.http(80))
        .virtual_service(
            "v",
            json!({"hosts": ["a"], "http": [
                {"match": [{"withoutHeaders": {"@request.auth.claims.sub": {}}}, {"uri": {"prefix": "/open"}}], "route": [{"destination": {"host": "a"}}]},
                {"directResponse": {"status": 401}},
            ]}),
        )
        .seen_by(&sidecar());
    let host = seen.host_json("80", &format!("{}:80", fqdn("a")));
    let shown: Vec<(bool, bool)> = host["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["match"]["headers"].is_array(), r["directResponse"].is_object()))
        .collect();
    assert_eq!(shown, [(true, false), (false, false), (false, true)]);
}

#[test]
fn a_program_of_grpc_is_not_let_through_either() {
    let seen = mesh()
        .service("a", |s| s.http(80))
        .virtual_service("v", rule(json!({"withoutHeaders": {"@request.auth.claims.sub": {}}})))
        .seen_by(&grpc_client());
    let shown: Vec<String> = seen
        .drafts
        .keys()
        .filter(|(kind, _)| *kind == crate::resources::ResourceType::Route)
        .map(|(_, name)| serde_json::to_string(&crate::translate::fixture::json(&seen.table(name))).unwrap())
        .filter(|text| text.contains(&fqdn("a")))
        .collect();
    assert!(!shown.is_empty() && shown.iter().all(|text| text.contains("invertMatch")), "{shown:?}");
}
