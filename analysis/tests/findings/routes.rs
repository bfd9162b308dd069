//! Rules that are never reached.

use crate::files::files;

fn http(rules: &[&str]) -> Vec<String> {
    let rules: Vec<String> =
        rules.iter().map(|rule| format!("{{{rule}route: [{{destination: {{host: a.com}}}}]}}")).collect();
    let spec = format!("{{hosts: [a.com], http: [{}]}}", rules.join(", "));
    let findings = files().istio("VirtualService", "v", &spec).findings();
    findings.iter().map(|f| format!("{} {}", f.message.code, f.diagnostic.path)).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_rule_after_one_without_matches_is_unreachable_and_said_once() {
    assert_eq!(http(&["", "match: [{uri: {prefix: /a}}], "]), ["IST0130 spec.http[1]"]);
    assert_eq!(http(&["match: [{uri: {prefix: /a}}], ", ""]), NOTHING);
}

#[test]
fn a_prefix_takes_what_begins_with_it() {
    let rule = |condition: &str| format!("match: [{{uri: {{{condition}}}}}], ");
    let pair = |first: &str, second: &str| http(&[&rule(first), &rule(second)]);
    assert_eq!(pair("prefix: /a", "prefix: /a/b"), ["IST0130 spec.http[1]"]);
    assert_eq!(pair("prefix: /", "regex: /a.*"), ["IST0130 spec.http[1]"]);
    assert_eq!(pair("prefix: /a/b", "prefix: /a"), NOTHING);
    assert_eq!(pair("prefix: /a", "exact: /A"), NOTHING);
    assert_eq!(pair("regex: /a.*", "prefix: /a/b"), NOTHING, "expressions are not compared");
}

#[test]
fn a_rule_that_ignores_case_takes_more_and_is_taken_by_less() {
    let blind = "match: [{uri: {prefix: /A}, ignoreUriCase: true}], ";
    let exact = "match: [{uri: {exact: /a}}], ";
    assert_eq!(http(&[blind, exact]), ["IST0130 spec.http[1]"]);
    assert_eq!(
        http(&["match: [{uri: {prefix: /a}}], ", "match: [{uri: {prefix: /a}, ignoreUriCase: true}], "]),
        NOTHING
    );
}

#[test]
fn a_rule_with_further_conditions_takes_less() {
    for condition in [
        "headers: {x: {exact: y}}",
        "queryParams: {x: {exact: y}}",
        "withoutHeaders: {x: {exact: y}}",
        "method: {exact: GET}",
        "port: 80",
        "sourceLabels: {app: x}",
        "sourceNamespace: web",
        "gateways: [edge]",
    ] {
        let narrow = format!("match: [{{uri: {{prefix: /a}}, {condition}}}], ");
        assert_eq!(http(&[&narrow, "match: [{uri: {prefix: /a}}], "]), NOTHING, "{condition}");
        if !condition.starts_with("gateways") {
            assert_eq!(http(&["match: [{uri: {prefix: /a}}], ", &narrow]), ["IST0130 spec.http[1]"], "{condition}");
        }
    }
}

#[test]
fn a_match_that_another_rule_has_is_said_and_the_rest_of_the_rule_lives() {
    let found = http(&["match: [{uri: {prefix: /a}}], ", "match: [{uri: {prefix: /b}}, {uri: {prefix: /a}}], "]);
    assert_eq!(found, ["IST0131 spec.http[1].match[1]"]);
    let twice = http(&["match: [{uri: {prefix: /a}}, {uri: {prefix: /a/b}}], "]);
    assert_eq!(twice, ["IST0131 spec.http[0].match[1]"]);
}

#[test]
fn a_rule_that_delegates_may_leave_requests_to_the_next() {
    let spec = "{hosts: [a.com], http: [{match: [{uri: {prefix: /a}}], delegate: {name: d}}, {match: [{uri: {prefix: /a}}], route: [{destination: {host: a.com}}]}]}";
    let delegate = "{http: [{route: [{destination: {host: a.com}}]}]}";
    let codes = files().istio("VirtualService", "v", spec).istio("VirtualService", "d", delegate).codes();
    assert!(!codes.contains(&"IST0130"), "{codes:?}");
}

#[test]
fn rules_of_tls_and_tcp_are_compared_by_name_network_and_port() {
    let spec = |part: &str, first: &str, second: &str| {
        let route = "route: [{destination: {host: a.com}}]";
        let spec =
            format!("{{hosts: ['*.a.com'], {part}: [{{match: [{first}], {route}}}, {{match: [{second}], {route}}}]}}");
        files().istio("VirtualService", "v", &spec).codes()
    };
    assert_eq!(spec("tls", "{sniHosts: ['*.a.com']}", "{sniHosts: [x.a.com]}"), ["IST0130"]);
    assert_eq!(spec("tls", "{sniHosts: [x.a.com]}", "{sniHosts: ['*.a.com']}"), NOTHING);
    assert_eq!(spec("tcp", "{port: 80}", "{port: 80, destinationSubnets: [10.0.0.0/8]}"), ["IST0130"]);
    assert_eq!(spec("tcp", "{port: 80}", "{port: 81}"), NOTHING);
}
