//! HTTPRoute and GRPCRoute: attaching, matching, order, filters.

use serde_json::{Value, json};

use super::kit::*;

/// An HTTPRoute `shop/NAME` at the edge.
fn route(name: &str, hostnames: &str, rules: &str) -> String {
    format!(
        "\n---\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: shop }}\nspec:\n  parentRefs: [{{ name: edge }}]\n  hostnames: {hostnames}\n  rules: {rules}"
    )
}

/// A rule that sends to `web`, with these other fields.
fn to_web(fields: &str) -> String {
    format!("[{{ {fields}{} backendRefs: [{{ name: web, port: 80 }}] }}]", if fields.is_empty() { "" } else { "," })
}

fn uris(routes: &[Value]) -> Vec<String> {
    routes
        .iter()
        .flat_map(|route| route["match"].as_array().cloned().unwrap_or_default())
        .map(|on| {
            let uri = on["uri"].as_object().unwrap().iter().next().unwrap();
            format!("{} {}", uri.0, uri.1.as_str().unwrap())
        })
        .collect()
}

fn parent(reference: &str, listeners: &str, hostnames: &str) -> String {
    let class = EDGE.split("\n---").next().unwrap();
    let gateway = format!(
        "kind: Gateway\nmetadata: {{ name: edge, namespace: shop }}\nspec: {{ gatewayClassName: xebec, listeners: [{listeners}] }}"
    );
    let route = format!(
        "kind: HTTPRoute\nmetadata: {{ name: r, namespace: team }}\nspec: {{ parentRefs: [{reference}], hostnames: {hostnames}, rules: [{{}}] }}"
    );
    conditions(&converted(&[class, &gateway, &route], &Cluster::default()), "HTTPRoute/team/r")[0].clone()
}

#[test]
fn a_route_attaches_only_where_name_port_namespace_and_hostname_fit() {
    let open = "allowedRoutes: { namespaces: { from: All } }";
    let http = format!("{{ name: http, port: 80, protocol: HTTP, hostname: '*.example.com', {open} }}");
    let to = "{ name: edge, namespace: shop }";
    assert_eq!(parent(to, &http, "[a.example.com]"), "Accepted=True Accepted");
    assert_eq!(parent(to, &http, "[example.org]"), "Accepted=False NoMatchingListenerHostname");
    assert_eq!(
        parent("{ name: edge, namespace: shop, sectionName: nope }", &http, "[]"),
        "Accepted=False NoMatchingParent"
    );
    assert_eq!(parent("{ name: edge, namespace: shop, port: 81 }", &http, "[]"), "Accepted=False NoMatchingParent");
    assert_eq!(
        parent("{ name: edge, namespace: shop, port: 80, sectionName: http }", &http, "[]"),
        "Accepted=True Accepted"
    );
    let same = "{ name: http, port: 80, protocol: HTTP }";
    assert_eq!(parent(to, same, "[]"), "Accepted=False NotAllowedByListeners");
    let gold = "{ name: http, port: 80, protocol: HTTP, allowedRoutes: { namespaces: { from: Selector, selector: { matchExpressions: [{ key: tier, operator: In, values: [gold] }] } } } }";
    assert_eq!(parent(to, gold, "[]"), "Accepted=True Accepted");
    let iron = gold.replace("gold", "iron");
    assert_eq!(parent(to, &iron, "[]"), "Accepted=False NotAllowedByListeners");
    let tcp = format!("{{ name: tcp, port: 80, protocol: TCP, {open} }}");
    assert_eq!(parent(to, &tcp, "[]"), "Accepted=False NotAllowedByListeners");
}

#[test]
fn a_parent_that_is_nobody_of_ours_gets_no_status() {
    let output = at_edge(
        "kind: HTTPRoute\nmetadata: { name: r, namespace: shop }\nspec: { parentRefs: [{ name: unknown }, { group: x, kind: Yy, name: z }] }",
    );
    assert_eq!(*status(&output, "HTTPRoute/shop/r"), crate::Status::Route(Vec::new()));
}

#[test]
fn hostnames_of_route_and_listener_are_intersected() {
    let edge = EDGE.replace("protocol: HTTP,", "protocol: HTTP, hostname: '*.example.com',");
    let hosts = |names: &str| {
        let output = converted(&[&edge, &route("r", names, &to_web(""))], &Cluster::default());
        let all = documents(&output, "VirtualService");
        all.iter().map(|d| d["spec"]["hosts"][0].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(hosts("[A.example.com, other.org]"), ["a.example.com"]);
    assert_eq!(hosts("[]"), ["*.example.com"]);
    assert_eq!(hosts("['*.com']"), ["*.example.com"]);
    assert_eq!(hosts("['*.a.example.com']"), ["*.a.example.com"]);
}

#[test]
fn path_prefixes_match_whole_elements() {
    let output = at_edge(&route(
        "r",
        "[]",
        &to_web("matches: [{ path: { value: /foo/ } }, { path: { type: Exact, value: /x/ } }]"),
    ));
    assert_eq!(uris(&http(&output, "*")), ["exact /x/", "exact /foo", "prefix /foo/"]);
}

#[test]
fn a_rule_without_matches_takes_every_path() {
    assert_eq!(uris(&http(&at_edge(&route("r", "[]", &to_web(""))), "*")), ["prefix /"]);
}

#[test]
fn the_more_specific_match_comes_first_across_routes() {
    let first = route(
        "a",
        "[]",
        &to_web(
            "matches: [{ path: { value: / } }, { path: { value: /long } }, { path: { value: /long }, headers: [{ name: X-A, value: '1' }, { name: x-a, value: '2' }] }]",
        ),
    );
    let second = route(
        "b",
        "[]",
        &to_web(
            "matches: [{ path: { type: Exact, value: /e } }, { path: { value: /longer } }, { path: { type: RegularExpression, value: '/r.*' } }, { path: { value: /long }, method: GET }, { path: { value: /long }, queryParams: [{ name: q, value: v }] }]",
        ),
    );
    let output = at_edge(&(first + &second));
    let routes = http(&output, "*");
    let order: Vec<String> = routes
        .iter()
        .map(|r| {
            let on = &r["match"][0];
            let extra =
                ["method", "headers", "queryParams"].iter().find(|k| on[**k] != Value::Null).copied().unwrap_or("");
            format!("{} {extra}", uris(std::slice::from_ref(r))[0]).trim_end().to_owned()
        })
        .collect();
    assert_eq!(
        order,
        [
            "exact /e",
            "exact /longer",
            "exact /long method",
            "exact /long headers",
            "exact /long queryParams",
            "exact /long",
            "regex /r.*",
            "prefix /"
        ]
    );
    // Of two conditions on one header, the first counts.
    assert_eq!(routes[3]["match"][0]["headers"], json!({ "x-a": { "exact": "1" } }));
}

#[test]
fn among_equals_the_older_route_comes_first_and_then_the_name() {
    let aged = |name: &str, created: &str| {
        route(name, "[]", &to_web(""))
            .replace("namespace: shop }", &format!("namespace: shop, creationTimestamp: '{created}' }}"))
    };
    let text =
        aged("a", "2026-03-01T00:00:00Z") + &aged("z", "2026-01-01T00:00:00Z") + &aged("b", "2026-03-01T00:00:00Z");
    let names: Vec<_> = http(&at_edge(&text), "*").iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["shop.z.0", "shop.a.0", "shop.b.0"]);
}

#[test]
fn a_request_belongs_to_the_most_specific_listener() {
    let listeners = "
  - { name: any, port: 80, protocol: HTTP }
  - { name: wild, port: 80, protocol: HTTP, hostname: '*.example.com' }
  - { name: one, port: 80, protocol: HTTP, hostname: a.example.com }";
    let class = EDGE.split("\n---").next().unwrap();
    let gateway = format!(
        "kind: Gateway\nmetadata: {{ name: edge, namespace: shop }}\nspec:\n  gatewayClassName: xebec\n  listeners:{listeners}"
    );
    let text = "kind: HTTPRoute\nmetadata: { name: r, namespace: shop }\nspec: { parentRefs: [{ name: edge, sectionName: any }], hostnames: [a.example.com, b.example.com, c.org], rules: [{ backendRefs: [{ name: web, port: 80 }] }] }";
    let output = converted(&[class, &gateway, text], &Cluster::default());
    assert!(http(&output, "b.example.com").is_empty());
    assert_eq!(http(&output, "c.org").len(), 1);
    // What nobody routes there is not taken over by the wider listeners either.
    for host in ["*.example.com", "a.example.com"] {
        assert_eq!(http(&output, host)[0]["directResponse"]["status"], 404, "{host}");
    }
}

#[test]
fn header_filters_become_header_operations_and_percent_signs_stay_percent_signs() {
    let output = at_edge(&route(
        "r",
        "[]",
        &to_web(
            "filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: X-S, value: 100% }], add: [{ name: a, value: b }], remove: [c] } }, { type: ResponseHeaderModifier, responseHeaderModifier: { remove: [d] } }]",
        ),
    ));
    assert_eq!(
        http(&output, "*")[0]["headers"],
        json!({ "request": { "set": { "x-s": "100%%" }, "add": { "a": "b" }, "remove": ["c"] }, "response": { "remove": ["d"] } })
    );
}

#[test]
fn a_redirect_keeps_to_the_ports_that_the_scheme_implies() {
    let redirect = |fields: &str| {
        let rules = format!("[{{ filters: [{{ type: RequestRedirect, requestRedirect: {{ {fields} }} }}] }}]");
        http(&at_edge(&route("r", "[]", &rules)), "*")[0]["redirect"].clone()
    };
    assert_eq!(redirect("scheme: https"), json!({ "scheme": "https", "redirectCode": 302 }));
    assert_eq!(
        redirect("scheme: https, port: 443, statusCode: 301"),
        json!({ "scheme": "https", "redirectCode": 301 })
    );
    assert_eq!(redirect("scheme: https, port: 8443"), json!({ "scheme": "https", "port": 8443, "redirectCode": 302 }));
    assert_eq!(
        redirect("hostname: a.org"),
        json!({ "authority": "a.org", "derivePort": "FROM_REQUEST_PORT", "redirectCode": 302 })
    );
    assert_eq!(redirect("path: { type: ReplaceFullPath, replaceFullPath: /new }")["uri"], "/new");
}

#[test]
fn a_prefix_is_replaced_without_doubling_or_losing_slashes() {
    let rewritten = |from: &str, to: &str| {
        let rules = to_web(&format!(
            "matches: [{{ path: {{ value: {from} }} }}], filters: [{{ type: URLRewrite, urlRewrite: {{ path: {{ type: ReplacePrefixMatch, replacePrefixMatch: {to} }} }} }}]"
        ));
        let routes = http(&at_edge(&route("r", "[]", &rules)), "*");
        let of =
            |r: &Value| format!("{} -> {}", uris(std::slice::from_ref(r))[0], r["rewrite"]["uri"].as_str().unwrap());
        routes.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(rewritten("/foo", "/xyz"), ["exact /foo -> /xyz", "prefix /foo/ -> /xyz/"]);
    assert_eq!(rewritten("/foo/", "/xyz/"), ["exact /foo -> /xyz", "prefix /foo/ -> /xyz/"]);
    assert_eq!(rewritten("/foo", "/"), ["exact /foo -> /", "prefix /foo/ -> /"]);
    assert_eq!(rewritten("/", "/xyz"), ["prefix / -> /xyz/"]);
}

#[test]
fn a_full_path_replaces_all_of_the_path() {
    let rules = to_web(
        "matches: [{ path: { value: /foo } }], filters: [{ type: URLRewrite, urlRewrite: { hostname: in.example, path: { type: ReplaceFullPath, replaceFullPath: /one } } }]",
    );
    let output = at_edge(&route("r", "[]", &rules));
    assert_eq!(
        http(&output, "*")[0]["rewrite"],
        json!({ "authority": "in.example", "uriRegexRewrite": { "match": "^/.*$", "rewrite": "/one" } })
    );
}

#[test]
fn timeouts_and_retries_are_the_routes_own() {
    let rules =
        to_web("timeouts: { request: 10s, backendRequest: 2s }, retry: { attempts: 3, backoff: 100ms, codes: [503] }");
    let made = http(&at_edge(&route("r", "[]", &rules)), "*")[0].clone();
    assert_eq!(made["timeout"], "10s");
    assert_eq!(
        made["retries"],
        json!({ "attempts": 3, "perTryTimeout": "2s", "backoff": "0.1s", "retryOn": "connect-failure,refused-stream,unavailable,cancelled,503" })
    );
    let unlimited = http(&at_edge(&route("r", "[]", &to_web("timeouts: { request: 0s }"))), "*")[0].clone();
    assert_eq!(unlimited["timeout"], Value::Null);
}

#[test]
fn cross_origin_rules_take_wildcards() {
    let rules = to_web(
        "filters: [{ type: CORS, cors: { allowOrigins: ['https://*.example.com', 'https://a.org'], allowMethods: [GET], allowCredentials: true, maxAge: 60 } }]",
    );
    let cors = http(&at_edge(&route("r", "[]", &rules)), "*")[0]["corsPolicy"].clone();
    assert_eq!(
        cors["allowOrigins"],
        json!([{ "regex": "https://[^/]+\\.example\\.com" }, { "exact": "https://a.org" }])
    );
    assert_eq!((&cors["maxAge"], &cors["allowCredentials"]), (&json!("60s"), &json!(true)));
}

#[test]
fn a_rule_that_cannot_be_done_answers_with_an_error_and_the_others_work() {
    let rules = "[{ matches: [{ path: { value: /bad } }], filters: [{ type: ExternalAuth, externalAuth: { protocol: HTTP, backendRef: { name: web, port: 80 } } }], backendRefs: [{ name: web, port: 80 }] }, { backendRefs: [{ name: web, port: 80 }] }]";
    let output = at_edge(&route("r", "[]", rules));
    let routes = http(&output, "*");
    assert_eq!(routes[0]["directResponse"]["status"], 500);
    assert_eq!(routes[1]["route"][0]["destination"]["host"], "web.shop.svc.cluster.local");
    assert_eq!(
        conditions(&output, "HTTPRoute/shop/r"),
        ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs", "PartiallyInvalid=True UnsupportedValue"]
    );
}

#[test]
fn a_route_of_which_no_rule_can_be_done_is_not_accepted() {
    for (fields, reason) in [
        ("matches: [{ path: { type: RegularExpression, value: '(' } }]", "UnsupportedValue"),
        ("matches: [{ headers: [{ name: 'a b', value: x }] }]", "UnsupportedValue"),
        ("timeouts: { request: soon }", "UnsupportedValue"),
        (
            "matches: [{ path: { type: Exact, value: /a } }], filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /b } } }]",
            "UnsupportedValue",
        ),
        (
            "filters: [{ type: RequestRedirect, requestRedirect: {} }, { type: URLRewrite, urlRewrite: { hostname: a.b } }]",
            "IncompatibleFilters",
        ),
    ] {
        let output = at_edge(&route("r", "[]", &to_web(fields)));
        assert_eq!(conditions(&output, "HTTPRoute/shop/r")[0], format!("Accepted=False {reason}"), "{fields}");
        assert!(http(&output, "*").is_empty());
        assert_eq!(listener(&output, "Gateway/shop/edge", "http").attached_routes, 0);
    }
}

#[test]
fn a_filter_of_an_unknown_kind_is_never_skipped() {
    let output = at_edge(&route(
        "r",
        "[]",
        &to_web("filters: [{ type: ExtensionRef, extensionRef: { group: x, kind: Yy, name: z } }]"),
    ));
    assert_eq!(http(&output, "*")[0]["directResponse"]["status"], 500);
    assert_eq!(conditions(&output, "HTTPRoute/shop/r"), ["Accepted=True Accepted", "ResolvedRefs=False InvalidKind"]);
}

#[test]
fn what_has_no_effect_is_named_in_the_condition() {
    let output = at_edge(&route("r", "[]", &to_web("sessionPersistence: { sessionName: s }")));
    let crate::Status::Route(parents) = status(&output, "HTTPRoute/shop/r") else { panic!() };
    assert_eq!(parents[0].conditions[0].message, "the route is in effect, except for rules[0].sessionPersistence");
}

const GRPC: &str = "
---
kind: GRPCRoute
metadata: { name: g, namespace: shop, creationTimestamp: '2026-02-01T00:00:00Z' }
spec:
  parentRefs: [{ name: edge }]
  hostnames: [rpc.example.com]
  rules:
  - matches: [{ method: { service: s.S } }, { method: { service: s.S, method: M } }, { method: { method: Next } }, { headers: [{ name: h, value: v }] }]
    backendRefs: [{ name: grpc, port: 9000 }]";

#[test]
fn services_and_methods_of_grpc_are_paths() {
    let output = at_edge(GRPC);
    assert_eq!(
        uris(&http(&output, "rpc.example.com")),
        ["exact /s.S/M", "exact /s.S", "prefix /s.S/", "regex /[^/]+/Next", "prefix /"]
    );
}

#[test]
fn a_hostname_is_either_for_http_or_for_grpc_and_the_older_route_has_it() {
    let young = route("h", "['*.example.com']", &to_web(""))
        .replace("namespace: shop }", "namespace: shop, creationTimestamp: '2026-03-01T00:00:00Z' }");
    let output = at_edge(&(GRPC.to_owned() + &young));
    assert_eq!(conditions(&output, "GRPCRoute/shop/g")[0], "Accepted=True Accepted");
    assert_eq!(conditions(&output, "HTTPRoute/shop/h")[0], "Accepted=False HostnameConflict");
    let other = young.replace("*.example.com", "a.example.com");
    let output = at_edge(&(GRPC.to_owned() + &other));
    assert_eq!(conditions(&output, "HTTPRoute/shop/h")[0], "Accepted=True Accepted");
}

#[test]
fn attached_routes_are_counted_once_per_listener() {
    let two = route("r", "[a.org, b.org]", &to_web("")) + &route("s", "[]", &to_web(""));
    assert_eq!(listener(&at_edge(&two), "Gateway/shop/edge", "http").attached_routes, 2);
}
