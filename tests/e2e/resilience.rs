//! Timeouts, retries and injected faults.

use std::time::{Duration, Instant};

use rstest::rstest;
use xebec_testkit::{Backend, DataPlane, Load};

use crate::stage::{Stage, routes, service, service_at, services};

const PORT: u16 = 9080;

async fn one_backend(plane: DataPlane, test: &str, http: &str) -> Option<(Stage, Backend)> {
    let plane = plane.or_skip()?;
    let backend = Backend::start("ratings").await;
    let stage = Stage::start(
        plane,
        test,
        &[
            services(&[service("ratings", PORT, "http", &[("v1", &backend)])]),
            ("ratings.yaml", routes("ratings", http)),
        ],
    )
    .await;
    stage.until_status("ratings", PORT, "/ready", 200).await;
    Some((stage, backend))
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_answers_504_and_a_late_answer_is_dropped(#[case] plane: DataPlane) {
    let http = "
  - timeout: 300ms
    retries: {attempts: 0}
    route:
    - destination: {host: ratings}
";
    let Some((stage, _backend)) = one_backend(plane, "timeout", http).await else { return };
    let begin = Instant::now();
    let reply = stage.get("ratings", PORT, "/").header("x-echo-delay-ms", "5000").send().await.unwrap();
    assert_eq!(reply.status, 504, "{}", reply.text());
    assert_eq!(reply.text(), "upstream request timeout");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn retries_hide_failures_up_to_their_number(#[case] plane: DataPlane) {
    let http = "
  - retries: {attempts: 2, retryOn: '503', backoff: 10ms}
    route:
    - destination: {host: ratings}
";
    let Some((stage, backend)) = one_backend(plane, "retries", http).await else { return };
    backend.fail_next(2, 503);
    let before = backend.hits();
    let reply = stage.get("ratings", PORT, "/").send().await.unwrap();
    assert_eq!((reply.status, backend.hits() - before), (200, 3), "two failures are hidden by two retries");
    backend.fail_next(3, 503);
    let before = backend.hits();
    let reply = stage.get("ratings", PORT, "/").send().await.unwrap();
    assert_eq!((reply.status, backend.hits() - before), (503, 3), "three failures are not");
    backend.fail_next(1, 500);
    assert_eq!(stage.get("ratings", PORT, "/").send().await.unwrap().status, 500, "500 is not in the list");
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_again_with_a_retry(#[case] plane: DataPlane) {
    let http = "
  - retries: {attempts: 1, retryOn: 5xx, perTryTimeout: 2s}
    route:
    - destination: {host: ratings}
";
    let Some((stage, backend)) = one_backend(plane, "retry-body", http).await else { return };
    backend.fail_next(1, 500);
    let body = "b".repeat(10_000);
    let call = stage.get("ratings", PORT, "/").method("POST".parse().unwrap()).body(body.clone());
    let reply = call.send().await.unwrap();
    assert_eq!(reply.json()["body"], body);
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_takes_too_long_is_given_to_another_instance(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let slow = Backend::start("slow").await;
    let quick = Backend::start("quick").await;
    slow.set_delay(Duration::from_secs(20));
    let http = "
  - retries: {attempts: 4, perTryTimeout: 200ms, retryOn: gateway-error}
    route:
    - destination: {host: ratings}
";
    let stage = Stage::start(
        plane,
        "per-try",
        &[
            services(&[service("ratings", PORT, "http", &[("slow", &slow), ("quick", &quick)])]),
            ("ratings.yaml", routes("ratings", http)),
        ],
    )
    .await;
    stage.until_status("ratings", PORT, "/", 200).await;
    // Chance decides who is asked first: one of two, so that 100 requests never all begin with the quick one.
    for request in 0..100 {
        let reply = stage.get("ratings", PORT, "/").send().await.unwrap();
        assert_eq!((reply.status, reply.served_by()), (200, "quick"));
        if request >= 10 && slow.hits() > 0 {
            return;
        }
    }
    panic!("the slow one was never tried");
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_instance_is_not_noticed_by_callers(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let alive = Backend::start("alive").await;
    let dead = xebec_testkit::port::free().port();
    let stage = Stage::start(
        plane,
        "dead-instance",
        &[services(&[service_at("ratings", PORT, "http", &[("alive", alive.port()), ("dead", dead)])])],
    )
    .await;
    stage.until_status("ratings", PORT, "/", 200).await;
    let load = Load::new(100, stage.get("ratings", PORT, "/")).start();
    load.more(200).await;
    load.stop().await.assert_flawless(200);
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn faults_are_injected_for_those_they_are_meant_for(#[case] plane: DataPlane) {
    let http = "
  - match: [{headers: {end-user: {exact: bruno}}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
    route:
    - destination: {host: ratings}
  - match: [{headers: {end-user: {exact: carla}}}]
    fault: {delay: {percentage: {value: 100}, fixedDelay: 400ms}}
    route:
    - destination: {host: ratings}
  - match: [{headers: {end-user: {exact: dora}}}]
    fault: {abort: {percentage: {value: 50}, httpStatus: 503}}
    retries: {attempts: 0}
    route:
    - destination: {host: ratings}
  - route:
    - destination: {host: ratings}
";
    let Some((stage, backend)) = one_backend(plane, "faults", http).await else { return };
    let before = backend.hits();
    let reply = stage.get("ratings", PORT, "/").header("end-user", "bruno").send().await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (418, "fault filter abort"));
    assert_eq!(backend.hits(), before, "an aborted request does not arrive");

    let begin = Instant::now();
    let reply = stage.get("ratings", PORT, "/").header("end-user", "carla").send().await.unwrap();
    assert_eq!(reply.status, 200);
    assert!(begin.elapsed() >= Duration::from_millis(390), "{:?}", begin.elapsed());

    let call = stage.get("ratings", PORT, "/").header("end-user", "dora");
    let load = Load::new(400, call).expect(|reply| match reply.status {
        200 | 503 => Ok(()),
        other => Err(format!("status {other}")),
    });
    let load = load.start();
    load.more(600).await;
    let report = load.stop().await;
    report.assert_flawless(600);
    #[allow(clippy::cast_precision_loss)]
    let share = report.statuses[&503] as f64 / report.ok as f64;
    // 600 draws at 0.5 have a standard deviation of 0.0204: this is five of them.
    assert!((share - 0.5).abs() < 0.103, "{share}: {report}");

    assert_eq!(stage.get("ratings", PORT, "/").send().await.unwrap().status, 200);
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_instances_answers_503_until_it_has_one(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let backend = Backend::start("ratings").await;
    let empty = services(&[service_at("ratings", PORT, "http", &[])]);
    let stage = Stage::start(plane, "no-instances", &[empty]).await;
    stage.until_status("ratings", PORT, "/", 503).await;
    let reply = stage.get("ratings", PORT, "/").send().await.unwrap();
    assert_eq!(reply.text(), "no healthy upstream");
    let (name, text) = services(&[service("ratings", PORT, "http", &[("v1", &backend)])]);
    stage.write(name, &text);
    stage.until_served_by("ratings", PORT, "/", "ratings").await;
}
