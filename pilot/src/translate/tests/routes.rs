//! Virtual hosts and routes.

use rstest::rstest;
use serde_json::{Value, json};

use super::{cluster, fqdn};
use crate::model::{Protocol, Resolution};
use crate::resources::ResourceType;
use crate::translate::fixture::{MeshBuilder, json as to_json, mesh, sidecar};

fn shop() -> MeshBuilder {
    mesh()
        .service("reviews", |s| s.http(9080).endpoint("10.0.0.1", "v1"))
        .service("ratings", |s| s.http(9080).endpoint("10.0.0.2", "v1"))
        .destination_rule(
            "reviews",
            json!({"host": "reviews", "subsets": [
                {"name": "v1", "labels": {"version": "v1"}},
                {"name": "v2", "labels": {"version": "v2"}},
            ]}),
        )
}

/// The routes of reviews when this is its VirtualService's `http`.
fn routes(http: Value) -> Vec<Value> {
    let seen = shop().virtual_service("reviews", json!({"hosts": ["reviews"], "http": http})).sidecar();
    let host = seen.host_json("9080", &format!("{}:9080", fqdn("reviews")));
    host["routes"].as_array().cloned().unwrap_or_default()
}

fn route(http: Value) -> Value {
    let mut all = routes(json!([http]));
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn to_reviews() -> Value {
    json!([{"destination": {"host": "reviews", "subset": "v1"}}])
}

fn with(mut http: Value) -> Value {
    http["route"] = to_reviews();
    http
}

#[test]
fn a_service_without_rules_gets_everything_without_a_limit_on_time_and_with_istios_retries() {
    let seen = shop().sidecar();
    insta::assert_json_snapshot!("default_host", seen.host_json("9080", &format!("{}:9080", fqdn("ratings"))));
}

#[test]
fn the_bookinfo_rule_for_jason_becomes_two_routes_in_order() {
    let seen = shop()
        .virtual_service(
            "reviews",
            json!({"hosts": ["reviews"], "http": [
                {"match": [{"headers": {"end-user": {"exact": "jason"}}}], "route": [{"destination": {"host": "reviews", "subset": "v2"}}]},
                {"route": [
                    {"destination": {"host": "reviews", "subset": "v1"}, "weight": 90},
                    {"destination": {"host": "reviews", "subset": "v2"}, "weight": 10},
                    {"destination": {"host": "reviews", "subset": "v3"}, "weight": 0},
                ]},
            ]}),
        )
        .sidecar();
    let name = format!("{}:9080", fqdn("reviews"));
    insta::assert_json_snapshot!("jason", seen.host_json("9080", &name));
    assert_eq!(seen.origins(ResourceType::VirtualHost, &format!("9080/{name}")), ["reviews.yaml"]);
}

#[rstest]
#[case(json!({"uri": {"exact": "/a"}}), json!({"path": "/a"}))]
#[case(json!({"uri": {"prefix": "/a"}}), json!({"prefix": "/a"}))]
#[case(json!({"uri": {"regex": "/a.*"}}), json!({"safeRegex": {"regex": "/a.*"}}))]
#[case(json!({"uri": {"prefix": "/a"}, "ignoreUriCase": true}), json!({"prefix": "/a", "caseSensitive": false}))]
#[case(json!({"method": {"exact": "GET"}}), json!({"prefix": "/", "headers": [{"name": ":method", "stringMatch": {"exact": "GET"}}]}))]
#[case(json!({"authority": {"prefix": "a."}}), json!({"prefix": "/", "headers": [{"name": ":authority", "stringMatch": {"prefix": "a."}}]}))]
#[case(json!({"scheme": {"exact": "https"}}), json!({"prefix": "/", "headers": [{"name": ":scheme", "stringMatch": {"exact": "https"}}]}))]
#[case(json!({"headers": {"x": {"regex": "a+"}}}), json!({"prefix": "/", "headers": [{"name": "x", "stringMatch": {"safeRegex": {"regex": "a+"}}}]}))]
#[case(json!({"headers": {"x": {}}}), json!({"prefix": "/", "headers": [{"name": "x", "presentMatch": true}]}))]
#[case(json!({"headers": {"x": {"regex": "*"}}}), json!({"prefix": "/", "headers": [{"name": "x", "presentMatch": true}]}))]
#[case(
    json!({"withoutHeaders": {"x": {"exact": "a"}}}),
    json!({"prefix": "/", "headers": [{"name": "x", "invertMatch": true, "treatMissingHeaderAsEmpty": true, "stringMatch": {"exact": "a"}}]})
)]
#[case(json!({"withoutHeaders": {"x": {}}}), json!({"prefix": "/", "headers": [{"name": "x", "invertMatch": true, "presentMatch": true}]}))]
#[case(json!({"queryParams": {"q": {"exact": "1"}}}), json!({"prefix": "/", "queryParameters": [{"name": "q", "stringMatch": {"exact": "1"}}]}))]
#[case(json!({"queryParams": {"q": {}}}), json!({"prefix": "/", "queryParameters": [{"name": "q", "presentMatch": true}]}))]
fn each_condition_becomes_envoys(#[case] condition: Value, #[case] expected: Value) {
    assert_eq!(route(with(json!({"match": [condition]})))["match"], expected);
}

#[test]
fn conditions_are_alternatives_and_their_parts_are_not() {
    let all = routes(json!([with(json!({"match": [
        {"uri": {"prefix": "/a"}, "headers": {"b": {"exact": "1"}, "a": {"exact": "2"}}},
        {"uri": {"exact": "/c"}},
    ]}))]));
    assert_eq!(all.len(), 2);
    let names: Vec<_> = all[0]["match"]["headers"].as_array().unwrap().iter().map(|h| h["name"].clone()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(all[1]["match"], json!({"path": "/c"}));
}

#[test]
fn nothing_follows_a_route_that_matches_everything() {
    assert_eq!(routes(json!([with(json!({})), with(json!({"match": [{"uri": {"prefix": "/never"}}]}))])).len(), 1);
    assert_eq!(
        routes(json!([with(json!({"match": [{"uri": {"prefix": "/"}}, {"uri": {"prefix": "/never"}}]}))])).len(),
        1
    );
    assert_eq!(routes(json!([with(json!({"match": [{"uri": {"regex": ".*"}}]})), with(json!({}))])).len(), 1);
    // A condition on a header does not match everything.
    assert_eq!(
        routes(json!([
            with(json!({"match": [{"uri": {"prefix": "/"}, "method": {"exact": "GET"}}]})),
            with(json!({}))
        ]))
        .len(),
        2
    );
}

#[test]
fn what_only_the_control_plane_knows_is_decided_there() {
    let build = || {
        shop().virtual_service(
            "reviews",
            json!({"hosts": ["reviews"], "http": [
                with(json!({"name": "app", "match": [{"sourceLabels": {"app": "web"}}]})),
                with(json!({"name": "ns", "match": [{"sourceNamespace": "other"}]})),
                with(json!({"name": "port", "match": [{"port": 9080, "uri": {"prefix": "/p"}}]})),
                with(json!({"name": "elsewhere", "match": [{"port": 9081}]})),
                with(json!({"name": "edge", "match": [{"gateways": ["edge"]}]})),
                with(json!({"name": "mesh", "match": [{"gateways": ["mesh"], "sourceLabels": {"app": "nobody"}}]})),
            ]}),
        )
    };
    let names = |seen: crate::translate::fixture::Seen| -> Vec<Value> {
        let host = seen.host_json("9080", &format!("{}:9080", fqdn("reviews")));
        host["routes"].as_array().unwrap().iter().map(|r| r["name"].clone()).collect()
    };
    assert_eq!(names(build().sidecar()), ["port", "mesh"]);
    assert_eq!(names(build().seen_by(&sidecar().label("app", "web"))), ["app"]);
    assert_eq!(names(build().seen_by(&sidecar().namespace("other"))), ["ns"]);
}

#[test]
fn a_rule_without_a_route_for_this_client_leaves_the_service_as_it_is() {
    let all = routes(json!([with(json!({"match": [{"sourceLabels": {"app": "nobody"}}]}))]));
    assert_eq!(all[0]["name"], "default");
}

#[test]
fn of_two_rules_for_one_host_the_older_decides() {
    let rule = |name: &str| json!({"hosts": ["reviews"], "http": [with(json!({"name": name}))]});
    let seen = shop().virtual_service("z", rule("older")).virtual_service("a", rule("younger")).sidecar();
    let host = seen.host_json("9080", &format!("{}:9080", fqdn("reviews")));
    assert_eq!(host["routes"].as_array().unwrap().len(), 1);
    assert_eq!(host["routes"][0]["name"], "older");
}

#[test]
fn redirects_are_answered_by_the_proxy() {
    let to = |redirect: Value| route(json!({"redirect": redirect}))["redirect"].clone();
    assert_eq!(to(json!({"uri": "/new", "authority": "a.b"})), json!({"pathRedirect": "/new", "hostRedirect": "a.b"}));
    assert_eq!(
        to(json!({"scheme": "https", "redirectCode": 308})),
        json!({"schemeRedirect": "https", "responseCode": "PERMANENT_REDIRECT"})
    );
    assert_eq!(to(json!({"port": 8443, "redirectCode": 302})), json!({"portRedirect": 8443, "responseCode": "FOUND"}));
    assert_eq!(
        to(json!({"prefixRewrite": "/x", "derivePort": "FROM_REQUEST_PORT"})),
        json!({"prefixRewrite": "/x", "portRedirect": 9080})
    );
}

#[test]
fn direct_responses_are_answered_by_the_proxy() {
    let made = route(json!({"directResponse": {"status": 503, "body": {"string": "closed"}}}));
    assert_eq!(made["directResponse"], json!({"status": 503, "body": {"inlineString": "closed"}}));
    let made = route(json!({"directResponse": {"status": 200, "body": {"bytes": "AAE="}}}));
    assert_eq!(made["directResponse"]["body"], json!({"inlineBytes": "AAE="}));
}

#[test]
fn paths_and_hosts_are_rewritten() {
    let to = |rewrite: Value| {
        route(with(json!({"match": [{"uri": {"prefix": "/a"}}], "rewrite": rewrite})))["route"].clone()
    };
    let made = to(json!({"uri": "/b", "authority": "x.y"}));
    assert_eq!((&made["prefixRewrite"], &made["hostRewriteLiteral"]), (&json!("/b"), &json!("x.y")));
    let made = to(json!({"uriRegexRewrite": {"match": "/a/(.*)", "rewrite": "/\\1"}}));
    assert_eq!(made["regexRewrite"], json!({"pattern": {"regex": "/a/(.*)"}, "substitution": "/\\1"}));
}

#[test]
fn headers_are_set_added_and_removed_and_the_host_is_rewritten_instead() {
    let made = route(with(json!({"headers": {
        "request": {"set": {"x-b": "1", "host": "h.i", ":path": "/no"}, "add": {"x-a": "2"}, "remove": ["x-c", ":method"]},
        "response": {"set": {"x-d": "3"}, "remove": ["x-e"]},
    }})));
    assert_eq!(
        made["requestHeadersToAdd"],
        json!([
            {"header": {"key": "x-b", "value": "1"}, "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD"},
            {"header": {"key": "x-a", "value": "2"}},
        ])
    );
    assert_eq!(made["requestHeadersToRemove"], json!(["x-c"]));
    assert_eq!(made["responseHeadersToAdd"][0]["header"], json!({"key": "x-d", "value": "3"}));
    assert_eq!(made["responseHeadersToRemove"], json!(["x-e"]));
    assert_eq!(made["route"]["hostRewriteLiteral"], "h.i");
}

#[test]
fn headers_of_a_destination_are_its_own() {
    let all = routes(json!([{"route": [
        {"destination": {"host": "reviews", "subset": "v1"}, "weight": 1, "headers": {"request": {"set": {"a": "1", "host": "one"}}}},
        {"destination": {"host": "reviews", "subset": "v2"}, "weight": 2},
    ]}]));
    let clusters = &all[0]["route"]["weightedClusters"]["clusters"];
    assert_eq!(clusters[0]["requestHeadersToAdd"][0]["header"]["key"], "a");
    assert_eq!(clusters[0]["hostRewriteLiteral"], "one");
    assert!(clusters[1]["requestHeadersToAdd"].is_null());
    assert_eq!(clusters[1]["weight"], 2);
}

#[test]
fn time_is_limited_only_where_it_is_written() {
    assert_eq!(route(with(json!({})))["route"]["timeout"], "0s");
    let made = route(with(json!({"timeout": "1.5s"})))["route"].clone();
    assert_eq!(made["timeout"], "1.500s");
    assert!(made["maxStreamDuration"].is_null(), "its presence makes Envoy ignore the timeout");
}

#[test]
fn retries_are_istios_by_default_and_as_written_otherwise() {
    let of = |http: Value| route(with(http))["route"]["retryPolicy"].clone();
    let by_default = of(json!({}));
    assert_eq!(by_default["retryOn"], "connect-failure,refused-stream,unavailable,cancelled");
    assert_eq!((&by_default["numRetries"], &by_default["hostSelectionRetryMaxAttempts"]), (&json!(2), &json!("5")));
    assert_eq!(by_default["retryHostPredicate"][0]["name"], "envoy.retry_host_predicates.previous_hosts");
    assert!(by_default["retriableStatusCodes"].is_null());

    assert!(of(json!({"retries": {"attempts": 0}})).is_null());

    let written = of(
        json!({"retries": {"attempts": 4, "perTryTimeout": "2s", "retryOn": "503, gateway-error,429", "backoff": "10ms", "retryRemoteLocalities": true}}),
    );
    assert_eq!(written["retryOn"], "gateway-error,retriable-status-codes");
    assert_eq!(written["retriableStatusCodes"], json!([503, 429]));
    assert_eq!((&written["numRetries"], &written["perTryTimeout"]), (&json!(4), &json!("2s")));
    assert_eq!(written["retryBackOff"], json!({"baseInterval": "0.010s"}));
    assert_eq!(written["retryPriority"]["typedConfig"]["updateFrequency"], 2);

    assert!(of(json!({"retries": {"attempts": 1, "retryIgnorePreviousHosts": false}}))["retryHostPredicate"].is_null());
}

#[test]
fn the_mesh_may_have_its_own_default_of_retries() {
    let seen = shop().settings(json!({"defaultHttpRetryPolicy": {"attempts": 7, "retryOn": "5xx"}})).sidecar();
    let host = seen.host_json("9080", &format!("{}:9080", fqdn("ratings")));
    assert_eq!(host["routes"][0]["route"]["retryPolicy"]["numRetries"], 7);
}

#[test]
fn faults_are_injected_with_their_percentage() {
    let of = |fault: Value| route(with(json!({"fault": fault})))["typedPerFilterConfig"].clone();
    let made = of(
        json!({"delay": {"fixedDelay": "7s", "percentage": {"value": 0.1}}, "abort": {"httpStatus": 500, "percentage": {"value": 50}}}),
    );
    let fault = &made["envoy.filters.http.fault"];
    assert_eq!(
        fault["delay"],
        json!({"fixedDelay": "7s", "percentage": {"numerator": 1000, "denominator": "MILLION"}})
    );
    assert_eq!(
        fault["abort"],
        json!({"httpStatus": 500, "percentage": {"numerator": 500_000, "denominator": "MILLION"}})
    );
    let grpc = of(json!({"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 100}}}));
    assert_eq!(grpc["envoy.filters.http.fault"]["abort"]["grpcStatus"], 14);
    assert!(of(json!({"abort": {"httpStatus": 500}})).is_null(), "no percentage is nothing");
}

#[test]
fn copies_of_requests_go_to_mirrors() {
    let of = |http: Value| route(with(http))["route"]["requestMirrorPolicies"].clone();
    let to = json!({"host": "ratings"});
    let one = of(json!({"mirror": to}));
    assert_eq!(one[0]["cluster"], cluster(9080, "", "ratings"));
    assert_eq!(one[0]["runtimeFraction"]["defaultValue"]["numerator"], 1_000_000);
    assert_eq!((&one[0]["traceSampled"], &one[0]["disableShadowHostSuffixAppend"]), (&json!(false), &json!(true)));
    assert_eq!(
        of(json!({"mirror": to, "mirrorPercentage": {"value": 25}}))[0]["runtimeFraction"]["defaultValue"]["numerator"],
        250_000
    );
    assert!(of(json!({"mirror": to, "mirrorPercentage": {"value": 0}})).is_null());
    assert_eq!(
        of(json!({"mirrors": [{"destination": to}, {"destination": to, "percentage": {"value": 1}}]}))
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn cross_origin_rules_become_the_filters() {
    let made = route(with(json!({"corsPolicy": {
        "allowOrigins": [{"exact": "https://a.b"}], "allowMethods": ["GET", "PUT"], "allowHeaders": ["x"], "maxAge": "24h", "allowCredentials": false,
        "unmatchedPreflights": "IGNORE",
    }})));
    let mut cors = made["typedPerFilterConfig"]["envoy.filters.http.cors"].clone();
    cors.as_object_mut().unwrap().remove("@type");
    assert_eq!(
        cors,
        json!({
            "allowOriginStringMatch": [{"exact": "https://a.b"}], "allowMethods": "GET,PUT", "allowHeaders": "x", "maxAge": "86400",
            "allowCredentials": false, "forwardNotMatchingPreflights": false,
            "filterEnabled": {"defaultValue": {"numerator": 1_000_000, "denominator": "MILLION"}},
        })
    );
}

#[test]
fn a_route_with_fault_and_cors_has_the_same_bytes_every_time() {
    let build = || {
        let both = with(
            json!({"fault": {"abort": {"httpStatus": 500, "percentage": {"value": 1}}}, "corsPolicy": {"allowMethods": ["GET"]}}),
        );
        let seen = shop().virtual_service("r", json!({"hosts": ["reviews"], "http": [both]})).sidecar();
        seen.drafts.values().map(|d| d.body.clone()).collect::<Vec<_>>()
    };
    let first = build();
    for _ in 0..20 {
        assert_eq!(build(), first);
    }
}

#[test]
fn hash_keys_of_a_rule_are_on_the_route_and_retries_then_do_not_avoid_hosts() {
    let seen = shop()
        .destination_rule("ratings", json!({"host": "ratings", "trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}}}))
        .sidecar();
    let host = seen.host_json("9080", &format!("{}:9080", fqdn("ratings")));
    let action = &host["routes"][0]["route"];
    assert_eq!(action["hashPolicy"], json!([{"header": {"headerName": "x-user"}}]));
    assert!(action["retryPolicy"]["retryHostPredicate"].is_null());
}

#[test]
fn a_destinations_port_is_written_or_the_only_one_or_the_listeners() {
    let build = |destination: Value| {
        let seen = shop()
            .service("two", |s| s.port("a", 1, Protocol::Http).port("b", 2, Protocol::Http))
            .virtual_service("r", json!({"hosts": ["reviews"], "http": [{"route": [{"destination": destination}]}]}))
            .sidecar();
        let host = seen.host_json("9080", &format!("{}:9080", fqdn("reviews")));
        host["routes"][0]["route"]["cluster"].clone()
    };
    assert_eq!(build(json!({"host": "two", "port": {"number": 2}})), cluster(2, "", "two"));
    assert_eq!(build(json!({"host": "two"})), cluster(9080, "", "two"));
    assert_eq!(build(json!({"host": "ratings"})), cluster(9080, "", "ratings"));
    assert_eq!(build(json!({"host": "nobody.example.com", "subset": "x"})), "outbound|9080|x|nobody.example.com");
}

#[test]
fn a_host_is_asked_for_under_its_kubernetes_names_its_aliases_and_its_addresses() {
    let build = || {
        mesh()
            .service("reviews", |s| s.http(9080).address("10.1.0.1").address("10.2.0.0/16").alias("reviews.local"))
            .seen_by(&sidecar())
    };
    let host = build().host("9080", &format!("{}:9080", fqdn("reviews")));
    assert_eq!(
        host.domains,
        [
            "reviews.default.svc.cluster.local",
            "reviews",
            "reviews.default",
            "reviews.default.svc",
            "reviews.default.svc.cluster.local.",
            "reviews.local",
            "10.1.0.1",
        ]
    );
    let seen = mesh().service("reviews", |s| s.http(9080)).seen_by(&sidecar().namespace("other"));
    assert!(!seen.host("9080", &format!("{}:9080", fqdn("reviews"))).domains.contains(&"reviews".to_owned()));
}

#[test]
fn no_two_hosts_of_a_table_claim_one_domain() {
    let seen = mesh()
        .service("reviews", |s| s.http(80).address("10.1.0.1").alias("shared"))
        .service("reviews.default", |s| s.http(80).address("10.1.0.1"))
        .service("other.example.com", |s| s.http(80).alias("shared").alias("reviews"))
        .virtual_service("r", json!({"hosts": ["reviews.default.svc"], "http": [{"directResponse": {"status": 200}}]}))
        .seen_by(&sidecar().state_of_the_world());
    let mut domains: Vec<String> = seen.table("80").virtual_hosts.into_iter().flat_map(|h| h.domains).collect();
    let all = domains.len();
    domains.sort();
    domains.dedup();
    assert_eq!(domains.len(), all, "{domains:?}");
    assert!(domains.contains(&"reviews".to_owned()) && domains.contains(&"reviews.default.svc".to_owned()));
}

#[test]
fn a_host_that_only_a_rule_has_exists_on_port_80_and_in_the_http_proxy() {
    let build = || {
        mesh()
            .service("a", |s| s.http(80).port("more", 8080, Protocol::Http))
            .virtual_service("r", json!({"hosts": ["only.example.com", "*.wild.com"], "http": [{"route": [{"destination": {"host": "a", "port": {"number": 80}}}]}]}))
    };
    let seen = build().sidecar();
    assert_eq!(seen.host("80", "only.example.com:80").domains, ["only.example.com", "only.example.com."]);
    assert_eq!(seen.host("80", "*.wild.com:80").domains, ["*.wild.com"]);
    assert!(!seen.has(ResourceType::VirtualHost, "8080/only.example.com:80"));
    let seen = build().seen_by(&sidecar().explicit("127.0.0.7", Some(15080)));
    assert!(seen.host("http_proxy", "only.example.com:80").domains.contains(&"only.example.com:80".to_owned()));
}

#[test]
fn a_rule_for_every_host_takes_the_place_of_the_catch_all() {
    let seen = mesh()
        .service("a", |s| s.http(80))
        .virtual_service("r", json!({"hosts": ["*"], "http": [{"directResponse": {"status": 418}}]}))
        .sidecar();
    let table = to_json(&seen.table("80"));
    assert_eq!(table["virtualHosts"].as_array().unwrap().len(), 1);
    assert_eq!(table["virtualHosts"][0]["routes"][0]["directResponse"]["status"], 418);
}

#[test]
fn unknown_hosts_pass_or_are_refused_as_the_mesh_says() {
    let last = |seen: crate::translate::fixture::Seen| to_json(&seen.table("9080"))["virtualHosts"][0].clone();
    let passed = last(shop().sidecar());
    assert_eq!(
        (&passed["name"], &passed["routes"][0]["route"]["cluster"]),
        (&json!("allow_any"), &json!("PassthroughCluster"))
    );
    assert_eq!(passed["routes"][0]["route"]["timeout"], "0s");
    let refused = last(shop().settings(json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}})).sidecar());
    assert_eq!(
        (&refused["name"], &refused["routes"][0]["directResponse"]["status"]),
        (&json!("block_all"), &json!(502))
    );
}

#[test]
fn incremental_clients_get_their_table_without_its_hosts_and_others_get_them_inside() {
    let frame = to_json(&shop().sidecar().table("9080"));
    insta::assert_json_snapshot!("frame", frame);
    let whole = to_json(&shop().seen_by(&sidecar().state_of_the_world()).table("9080"));
    let names: Vec<_> = whole["virtualHosts"].as_array().unwrap().iter().map(|h| h["name"].clone()).collect();
    assert_eq!(
        names,
        [json!("allow_any"), format!("{}:9080", fqdn("ratings")).into(), format!("{}:9080", fqdn("reviews")).into()]
    );
    assert!(whole["vhds"].is_null());
}

#[test]
fn the_http_proxy_knows_every_host_by_its_port() {
    let seen = mesh()
        .service("reviews", |s| s.http(9080).port("web", 80, Protocol::Http).port("tcp", 7, Protocol::Tcp))
        .seen_by(&sidecar().explicit("127.0.0.7", Some(15080)));
    let on_9080 = seen.host("http_proxy", &format!("{}:9080", fqdn("reviews"))).domains;
    assert!(on_9080.contains(&"reviews:9080".to_owned()) && !on_9080.contains(&"reviews".to_owned()));
    let on_80 = seen.host("http_proxy", &format!("{}:80", fqdn("reviews"))).domains;
    assert!(on_80.contains(&"reviews:80".to_owned()) && on_80.contains(&"reviews".to_owned()));
    assert!(!seen.has(ResourceType::VirtualHost, &format!("http_proxy/{}:7", fqdn("reviews"))));
    assert!(!seen.table("http_proxy").ignore_port_in_host_matching);
}

#[test]
fn a_sidecar_resource_hides_hosts_it_does_not_import() {
    let seen = shop()
        .service("api.example.com", |s| s.http(9080).resolution(Resolution::Dns))
        .sidecar_resource("s", json!({"egress": [{"hosts": ["./ratings.default.svc.cluster.local"]}]}))
        .sidecar();
    assert_eq!(seen.names(ResourceType::VirtualHost), [format!("9080/{}:9080", fqdn("ratings"))]);
    assert!(!seen.has(ResourceType::Cluster, &cluster(9080, "", "reviews")));
}
