#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn decode_text(text: &str) -> Vec<Decoded> {
    yaml::parse("mesh.yaml", text.as_bytes()).documents.iter().flat_map(decode).collect()
}

fn lines(text: &str) -> Vec<String> {
    decode_text(text)
        .iter()
        .flat_map(|decoded| &decoded.diagnostics)
        .map(|problem| format!("{problem} @{}", problem.path))
        .collect()
}

const REVIEWS: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: shop
  labels: {team: a}
  creationTimestamp: \"2026-01-31T12:00:00Z\"
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v1}
      weight: 90
    - destination: {host: reviews, subset: v2}
      weight: 10
";

#[test]
fn a_resource_is_accepted_with_its_identity_and_place() {
    let decoded = decode_text(&format!("# first\n---\n{REVIEWS}")).remove(0);
    assert_eq!(decoded.diagnostics, []);
    let Outcome::Accepted(Config::VirtualService(service)) = decoded.outcome else { panic!("{:?}", decoded.outcome) };
    assert_eq!(service.meta.key.to_string(), "VirtualService/shop/reviews");
    assert_eq!(service.meta.source.to_string(), "mesh.yaml:3:1");
    assert_eq!(service.meta.created, 1_769_860_800);
    assert_eq!(&*service.meta.labels["team"], "a");
    assert_eq!(service.spec.http[0].route[1].weight, 10);
}

#[test]
fn every_version_of_the_group_is_read_and_no_other() {
    for version in VERSIONS {
        let text = REVIEWS.replacen("/v1", &format!("/{version}"), 1);
        assert!(matches!(decode_text(&text)[0].outcome, Outcome::Accepted(_)), "{version}");
    }
    assert_eq!(
        lines(&REVIEWS.replacen("/v1", "/v2", 1)),
        ["mesh.yaml:1:13: error[unknown-kind]: `networking.istio.io` has no version `v2` @apiVersion"]
    );
    assert_eq!(
        lines(&REVIEWS.replacen("istio", "istoi", 1)),
        [
            "mesh.yaml:1:13: error[unknown-kind]: there is no API group `networking.istoi.io` with a VirtualService @apiVersion"
        ]
    );
    let misspelt = decode_text(&REVIEWS.replacen("VirtualService", "VirtualServise", 1)).remove(0);
    assert_eq!(misspelt.diagnostics[0].help.as_deref(), Some("did you mean `VirtualService`?"));
}

#[test]
fn all_errors_of_a_resource_are_reported_with_their_places_and_without_echoes() {
    let text = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  host: [a]
  http:
  - rout:
    - destination: {host: a}
  - timeout: 5
    route:
    - destination: {host: 'http://a'}
      weight: ten
  - redirect: {redirectCode: 200}
";
    assert_eq!(
        lines(text),
        [
            "mesh.yaml:5:3: error[unknown-field]: there is no field `host` here @spec.host",
            "mesh.yaml:7:5: error[unknown-field]: there is no field `rout` here @spec.http[0].rout",
            "mesh.yaml:9:14: error[wrong-type]: expected a duration with a unit, such as `5s` or `250ms`, found the number 5 @spec.http[1].timeout",
            "mesh.yaml:11:27: error[invalid-value]: `http://a` is not a host @spec.http[1].route[0].destination.host",
            "mesh.yaml:12:15: error[wrong-type]: expected a whole number from -2147483648 to 2147483647, found the text `ten` @spec.http[1].route[0].weight",
            "mesh.yaml:13:5: warning[suspicious]: this route is never reached: `spec.http[0]` takes every request @spec.http[2]",
            "mesh.yaml:13:30: error[invalid-value]: 200 is not a redirect that can be sent @spec.http[2].redirect.redirectCode",
        ]
    );
}

#[test]
fn a_refused_resource_is_known_by_name() {
    let decoded = decode_text(&REVIEWS.replacen("weight: 90", "weight: -90", 1)).remove(0);
    let Outcome::Refused(Some(key)) = decoded.outcome else { panic!("{:?}", decoded.outcome) };
    assert_eq!(key.to_string(), "VirtualService/shop/reviews");
    assert_eq!(decoded.diagnostics[0].resource.as_deref(), Some("VirtualService/shop/reviews"));
    assert_eq!(decoded.diagnostics[0].source.line, 13);
}

#[test]
fn the_items_of_a_list_are_resources_of_their_own_with_their_own_lines() {
    let text = "apiVersion: v1
kind: List
items:
- apiVersion: networking.istio.io/v1
  kind: Gateway
  metadata: {name: g}
  spec: {servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]}
- apiVersion: networking.istio.io/v1
  kind: Sidecar
  metadata: {name: s, name: t}
  spec: {egress: [{hosts: ['*/*']}]}
- apiVersion: networking.istio.io/v1
  kind: Sidecar
  metadata: {name: s}
  spec: {egres: []}
";
    let decoded = decode_text(text);
    assert_eq!(decoded.len(), 3);
    assert!(matches!(decoded[0].outcome, Outcome::Accepted(_)));
    assert_eq!(decoded[1].source.line, 8);
    assert_eq!(
        lines(text),
        [
            "mesh.yaml:10:23: error[duplicate-key]: `name` is written twice in one mapping; first on line 10 @",
            "mesh.yaml:15:10: error[unknown-field]: there is no field `egres` here @spec.egres",
        ]
    );
}

#[test]
fn json_is_read_as_well() {
    let text = r#"{"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": {"name": "w"}, "spec": {"address": "10.0.0.1"}}"#;
    assert!(matches!(decode_text(text)[0].outcome, Outcome::Accepted(Config::WorkloadEntry(_))));
}

#[test]
fn other_kinds_are_ignored_and_said() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: e}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\n";
    let decoded = decode_text(text);
    assert!(decoded.iter().all(|d| d.outcome == Outcome::Ignored && d.diagnostics[0].severity == Severity::Info));
    assert_eq!(decoded[0].diagnostics[0].message, "ignored: kind not read yet: Service of v1");
}

#[test]
fn a_policy_that_nobody_enforces_is_a_warning() {
    let text =
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\nspec: {action: DENY}\n";
    let decoded = decode_text(text);
    assert_eq!(decoded[0].outcome, Outcome::Ignored);
    assert_eq!(
        lines(text),
        [
            "mesh.yaml:2:1: warning[not-honoured]: accepted, not yet honoured: AuthorizationPolicy has no effect, and nobody is refused because of it @"
        ]
    );
}

#[test]
fn the_file_registrys_documents_are_left_to_it() {
    assert_eq!(decode_text("services:\n- name: a\n")[0].outcome, Outcome::Foreign);
    assert_eq!(lines("services:\n- name: a\n"), [] as [&str; 0]);
}

#[test]
fn a_document_without_kind_is_told_what_it_lacks() {
    assert_eq!(
        lines("apiversion: networking.istio.io/v1\nkind: Gateway\n"),
        ["mesh.yaml:1:1: error[missing]: the document has no `apiVersion` @"]
    );
    assert_eq!(lines("keys: []\n"), ["mesh.yaml:1:1: error[unknown-kind]: this is not a resource @"]);
    assert_eq!(lines("- a\n"), ["mesh.yaml:1:1: error[unknown-kind]: this is not a resource @"]);
}

#[test]
fn accepted_fields_without_effect_are_said_by_name_and_place() {
    let text = REVIEWS.replacen("  - route:", "  - fault: {abort: {http2Error: x}}\n    route:", 1);
    let decoded = decode_text(&text).remove(0);
    assert!(matches!(decoded.outcome, Outcome::Accepted(_)));
    assert_eq!(decoded.diagnostics[0].severity, Severity::Warning);
    assert_eq!(decoded.diagnostics[0].path, "spec.http[0].fault.abort.http2Error");
    assert_eq!(decoded.diagnostics[0].source.line, 11);
    assert!(decoded.diagnostics[0].message.starts_with("accepted, not yet honoured"));
}

#[rstest::rstest]
#[case("1970-01-01T00:00:00Z", Some(0))]
#[case("2000-02-29T23:59:59Z", Some(951_868_799))]
#[case("2026-01-31T12:00:00.123+02:00", Some(1_769_853_600))]
#[case("2026-13-01T00:00:00Z", None)]
#[case("2026-01-31", None)]
#[case("yesterday", None)]
#[case("1969-12-31T23:59:59Z", None)]
fn creation_times_are_read_as_the_rfc_writes_them(#[case] text: &str, #[case] seconds: Option<u64>) {
    assert_eq!(unix_seconds(text), seconds);
}

proptest! {
    #[test]
    fn mutated_resources_never_panic(position in 0..REVIEWS.len(), removed in 0usize..12, inserted in "[a-z0-9:{}\\[\\]\\-'\" \n\t&*#|>é]{0,6}") {
        let end = (position + removed).min(REVIEWS.len());
        let text = format!("{}{inserted}{}", &REVIEWS[..position], &REVIEWS[end..]);
        for problem in decode_text(&text).iter().flat_map(|decoded| &decoded.diagnostics) {
            prop_assert!(problem.source.line as usize <= text.lines().count() + 1, "{problem}");
            problem.render(false);
        }
    }
}
