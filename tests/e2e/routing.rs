//! Where a request goes, by what it says; and what happens to it on the way.

use rstest::rstest;
use xebec_testkit::{Backend, DataPlane, Load, client};

use crate::stage::{Stage, routes, service, services, subsets};

const PORT: u16 = 9080;

async fn two_versions(plane: DataPlane, test: &str, http: &str) -> Option<(Stage, Backend, Backend)> {
    let plane = plane.or_skip()?;
    let v1 = Backend::start("v1").await;
    let v2 = Backend::start("v2").await;
    let stage = Stage::start(
        plane,
        test,
        &[
            services(&[service("reviews", PORT, "http", &[("v1", &v1), ("v2", &v2)])]),
            ("subsets.yaml", subsets("reviews", &["v1", "v2"])),
            ("reviews.yaml", routes("reviews", http)),
        ],
    )
    .await;
    Some((stage, v1, v2))
}

const MATCHES: &str = "
  - match:
    - headers: {end-user: {exact: amelia}}
    - uri: {prefix: /v2/}
    - uri: {regex: '/item/[0-9]+'}
    - queryParams: {beta: {exact: 'yes'}}
    - method: {exact: DELETE}
    - headers: {x-tier: {prefix: gold}}
      withoutHeaders: {x-opt-out: {}}
    - uri: {exact: /Case}
      ignoreUriCase: true
    route:
    - destination: {host: reviews, subset: v2}
  - route:
    - destination: {host: reviews, subset: v1}
";

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_match_chooses_its_destination(#[case] plane: DataPlane) {
    let Some((stage, _v1, _v2)) = two_versions(plane, "matches", MATCHES).await else { return };
    stage.until_served_by("reviews", PORT, "/", "v1").await;
    let cases = [
        (stage.get("reviews", PORT, "/").header("end-user", "amelia"), "v2"),
        (stage.get("reviews", PORT, "/").header("end-user", "amelia2"), "v1"),
        (stage.get("reviews", PORT, "/v2/x"), "v2"),
        (stage.get("reviews", PORT, "/v2"), "v1"),
        (stage.get("reviews", PORT, "/item/42"), "v2"),
        (stage.get("reviews", PORT, "/item/42/more"), "v1"),
        (stage.get("reviews", PORT, "/?beta=yes"), "v2"),
        (stage.get("reviews", PORT, "/?a=b&beta=yes"), "v2"),
        (stage.get("reviews", PORT, "/?beta=no"), "v1"),
        (stage.get("reviews", PORT, "/").method("DELETE".parse().unwrap()), "v2"),
        (stage.get("reviews", PORT, "/").header("x-tier", "golden"), "v2"),
        (stage.get("reviews", PORT, "/").header("x-tier", "golden").header("x-opt-out", "1"), "v1"),
        (stage.get("reviews", PORT, "/cASE"), "v2"),
        (stage.get("reviews", PORT, "/cASEs"), "v1"),
    ];
    for (call, expected) in cases {
        let shown = format!("{call:?}");
        let reply = call.send().await.expect(&shown);
        assert_eq!(reply.served_by(), expected, "{shown}");
    }
    stage.assert_nothing_refused().await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_condition_on_a_claim_lets_nobody_pass(#[case] plane: DataPlane) {
    let http = "
  - match:
    - withoutHeaders: {'@request.auth.claims.group': {exact: guest}}
    - withoutHeaders: {'@request.auth.claims[sub]': {}}
    - headers: {'@request.auth.claims.group': {exact: admin}}
    route:
    - destination: {host: reviews, subset: v2}
  - route:
    - destination: {host: reviews, subset: v1}
";
    let Some((stage, _v1, _v2)) = two_versions(plane, "claims", http).await else { return };
    stage.until_served_by("reviews", PORT, "/", "v1").await;
    for header in ["x-other", "x-never", "request.auth.claims.group"] {
        for value in ["", "admin"] {
            let call = stage.get("reviews", PORT, "/").header(header, value);
            assert_eq!(call.send().await.unwrap().served_by(), "v1", "{header}: {value}");
        }
    }
    stage.assert_nothing_refused().await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn weights_share_requests_within_statistical_bounds(#[case] plane: DataPlane) {
    let http = "
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 80}
    - {destination: {host: reviews, subset: v2}, weight: 20}
";
    let Some((stage, _v1, _v2)) = two_versions(plane, "weights", http).await else { return };
    stage.until_status("reviews", PORT, "/", 200).await;
    let load = Load::new(400, stage.get("reviews", PORT, "/")).start();
    load.more(1000).await;
    let report = load.stop().await;
    report.assert_flawless(1000);
    // 1,000 draws at 0.2 have a standard deviation of 0.0126: this is five of them.
    let share = report.share_of("v2");
    assert!((share - 0.2).abs() < 0.064, "v2 had {share}: {report}");
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn requests_and_answers_are_changed_on_the_way(#[case] plane: DataPlane) {
    let http = r#"
  - match: [{uri: {prefix: /old/}}]
    rewrite: {uri: /new/, authority: other.example}
    route:
    - destination: {host: reviews, subset: v1}
  - match: [{uri: {prefix: /users/}}]
    rewrite:
      uriRegexRewrite: {match: '^/users/([^/]+)/(.*)$', rewrite: '/\2?user=\1'}
    route:
    - destination: {host: reviews, subset: v1}
  - match: [{uri: {exact: /moved}}]
    redirect: {uri: /here, authority: www.example, redirectCode: 308}
  - match: [{uri: {exact: /teapot}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - headers:
      request: {set: {x-mesh: xebec}, add: {x-hop: '1'}, remove: [x-secret]}
      response: {set: {x-done: 'yes'}, remove: [content-type]}
    route:
    - destination: {host: reviews, subset: v1}
"#;
    let Some((stage, _v1, _v2)) = two_versions(plane, "rewriting", http).await else { return };
    stage.until_served_by("reviews", PORT, "/", "v1").await;

    let body = stage.get("reviews", PORT, "/old/a?b=c").send().await.unwrap().json();
    assert_eq!((body["path"].as_str(), body["authority"].as_str()), (Some("/new/a?b=c"), Some("other.example")));

    let body = stage.get("reviews", PORT, "/users/ann/cart").send().await.unwrap().json();
    assert_eq!(body["path"], "/cart?user=ann");

    let reply = stage.get("reviews", PORT, "/moved").send().await.unwrap();
    assert_eq!((reply.status, reply.header("location")), (308, Some("http://www.example/here")));

    let reply = stage.get("reviews", PORT, "/teapot").send().await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (418, "short and stout"));

    let reply = stage.get("reviews", PORT, "/").header("x-secret", "s").header("x-hop", "0").send().await.unwrap();
    let headers = &reply.json()["headers"];
    assert_eq!((headers["x-mesh"].as_str(), headers["x-hop"].as_str()), (Some("xebec"), Some("0,1")));
    assert!(headers["x-secret"].is_null(), "{headers}");
    assert_eq!((reply.header("x-done"), reply.header("content-type")), (Some("yes"), None));
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn source_labels_choose_for_whom_a_route_is(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let v1 = Backend::start("v1").await;
    let v2 = Backend::start("v2").await;
    let http = "
  - match: [{sourceLabels: {tier: tester}}]
    route:
    - destination: {host: reviews, subset: v2}
  - route:
    - destination: {host: reviews, subset: v1}
";
    let files = [
        services(&[service("reviews", PORT, "http", &[("v1", &v1), ("v2", &v2)])]),
        ("subsets.yaml", subsets("reviews", &["v1", "v2"])),
        ("reviews.yaml", routes("reviews", http)),
    ];
    let tester = Stage::start_with(plane, "source-labels-tester", &files, |s| s.label("tier", "tester")).await;
    tester.until_served_by("reviews", PORT, "/", "v2").await;
    let other = Stage::start_with(plane, "source-labels-other", &files, |s| s.label("tier", "x")).await;
    other.until_served_by("reviews", PORT, "/", "v1").await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn an_http_proxy_port_reaches_every_service_by_its_name(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let one = Backend::start("one").await;
    let two = Backend::start("two").await;
    let files =
        [services(&[service("first", 9001, "http", &[("v1", &one)]), service("second", 80, "http", &[("v1", &two)])])];
    let stage = Stage::start_with(plane, "http-proxy", &files, |s| s.flag("--meta", "HTTP_PROXY_PORT=3128")).await;
    let port = stage.at(3128);
    xebec_testkit::eventually(crate::stage::SOON, "both services answer", async || {
        let first = client::get(port, "first:9001", "http://first:9001/a").send().await;
        let second = client::get(port, "second", "http://second/b").send().await;
        first.is_ok_and(|r| r.served_by() == "one") && second.is_ok_and(|r| r.served_by() == "two")
    })
    .await;
    stage.assert_nothing_refused().await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn an_http_proxy_of_a_sidecar_resource_reaches_what_it_imports(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let scope = |hosts: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: default}}\nspec:\n  egress:\n  - port: {{number: 3129, protocol: HTTP_PROXY, name: proxy}}\n    hosts: [{hosts}]\n"
        )
    };
    let files = [
        services(&[service("first", 9001, "http", &[("v1", &one)]), service("second", 80, "http", &[("v1", &two)])]),
        ("scope.yaml", scope("./first")),
    ];
    let stage = Stage::start(plane, "declared-proxy", &files).await;
    let port = stage.at(3129);
    let answers = async |authority: &str, backend: &str| {
        xebec_testkit::eventually_ok(
            crate::stage::SOON,
            &format!("{authority} is answered by {backend:?}"),
            async || {
                let reply = client::get(port, authority, &format!("http://{authority}/a")).send().await;
                let reply = reply.map_err(|e| e.to_string())?;
                let right = reply.served_by() == backend && (backend.is_empty() == (reply.status == 502));
                if right { Ok(()) } else { Err(format!("{} by {:?}", reply.status, reply.served_by())) }
            },
        )
        .await;
    };
    answers("first:9001", "one").await;
    answers("second", "").await;
    assert!(client::get(stage.at(9001), "first", "/").send().await.is_err(), "only the proxy imports anything");
    stage.write("scope.yaml", &scope("./first, ./second"));
    answers("second", "two").await;
    answers("first:9001", "one").await;
    stage.assert_nothing_refused().await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_resource_hides_what_it_does_not_list(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let seen = Backend::start("seen").await;
    let hidden = Backend::start("hidden").await;
    let scope = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress:
  - hosts: ['./seen']
";
    let stage = Stage::start(
        plane,
        "scope",
        &[
            services(&[
                service("seen", PORT, "http", &[("v1", &seen)]),
                service("hidden", PORT, "http", &[("v1", &hidden)]),
            ]),
            ("scope.yaml", scope.to_owned()),
        ],
    )
    .await;
    stage.until_served_by("seen", PORT, "/", "seen").await;
    assert_eq!(stage.get("hidden", PORT, "/").send().await.unwrap().status, 502);
    stage.write("scope.yaml", &scope.replace("./seen", "*/*"));
    stage.until_served_by("hidden", PORT, "/", "hidden").await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_gets_copies_and_its_failure_touches_nobody(#[case] plane: DataPlane) {
    let http = "
  - mirror: {host: reviews, subset: v2}
    route:
    - destination: {host: reviews, subset: v1}
";
    let Some((stage, _v1, v2)) = two_versions(plane, "mirror", http).await else { return };
    v2.set_status(500);
    stage.until_served_by("reviews", PORT, "/", "v1").await;
    let load = Load::new(100, stage.get("reviews", PORT, "/copied")).start();
    load.more(50).await;
    let report = load.stop().await;
    report.assert_flawless(50);
    assert!((report.share_of("v1") - 1.0).abs() < f64::EPSILON, "{report}");
    let copied = async || v2.hits() >= report.ok;
    xebec_testkit::eventually(crate::stage::SOON, "the mirror has every copy", copied).await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_request_is_answered_by_the_proxy(#[case] plane: DataPlane) {
    let http = "
  - corsPolicy:
      allowOrigins: [{exact: 'https://shop.example'}]
      allowMethods: [GET, POST]
      allowHeaders: [x-token]
      maxAge: 1h
    route:
    - destination: {host: reviews, subset: v1}
";
    let Some((stage, v1, _v2)) = two_versions(plane, "cors", http).await else { return };
    stage.until_served_by("reviews", PORT, "/", "v1").await;
    let before = v1.hits();
    let preflight = stage.get("reviews", PORT, "/").method("OPTIONS".parse().unwrap());
    let preflight = preflight.header("origin", "https://shop.example").header("access-control-request-method", "GET");
    let reply = preflight.send().await.unwrap();
    assert_eq!((reply.status, v1.hits()), (200, before), "it does not reach the service");
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://shop.example"));
    assert_eq!(reply.header("access-control-max-age"), Some("3600"));
    let reply = stage.get("reviews", PORT, "/").header("origin", "https://shop.example").send().await.unwrap();
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://shop.example"));
    let reply = stage.get("reviews", PORT, "/").header("origin", "https://evil.example").send().await.unwrap();
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_hashed_header_keeps_a_caller_on_one_instance(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {consistentHash: {httpHeaderName: x-user}}
";
    let files =
        [services(&[service("reviews", PORT, "http", &[("v1", &one), ("v1", &two)])]), ("rule.yaml", rule.to_owned())];
    let stage = Stage::start(plane, "hash", &files).await;
    stage.until_status("reviews", PORT, "/", 200).await;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..40 {
        let call = stage.get("reviews", PORT, "/").header("x-user", &format!("user-{user}"));
        let first = call.clone().send().await.unwrap().served_by().to_owned();
        for _ in 0..3 {
            assert_eq!(call.clone().send().await.unwrap().served_by(), first, "user {user}");
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "users are spread");
}
