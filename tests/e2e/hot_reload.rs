//! Configuration changes under load, and no request notices.

use std::time::Duration;

use rstest::rstest;
use xebec_testkit::{Backend, DataPlane, Load, eventually_ok};

use crate::stage::{Stage, routes, service, services, subsets};

const CHANGES: u32 = 1000;
const PORT: u16 = 9080;

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_changes_under_load_lose_no_request(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let v1 = Backend::start("v1").await;
    let v2 = Backend::start("v2").await;
    let third = Backend::start("v1").await;
    let last = Backend::start("last").await;
    let both = services(&[service("reviews", PORT, "http", &[("v1", &v1), ("v2", &v2)])]);
    let weights = |first: u32, timeout: u32| {
        routes(
            "reviews",
            &format!(
                "
  - timeout: {timeout}s
    route:
    - {{destination: {{host: reviews, subset: v1}}, weight: {first}}}
    - {{destination: {{host: reviews, subset: v2}}, weight: {}}}
",
                100 - first
            ),
        )
    };
    let stage = Stage::start(
        plane,
        "hot-reload",
        &[both.clone(), ("subsets.yaml", subsets("reviews", &["v1", "v2"])), ("reviews.yaml", weights(50, 10))],
    )
    .await;
    stage.until_status("reviews", PORT, "/", 200).await;
    let load = Load::new(200, stage.get("reviews", PORT, "/")).start();
    load.more(20).await;
    for change in 0..CHANGES {
        match change % 5 {
            // A weight and a timeout.
            0 => stage.write("reviews.yaml", &weights(change % 100, 5 + change % 7)),
            // An instance comes, or leaves.
            1 => {
                let instances = [("v1", &v1), ("v2", &v2), ("v1", &third)];
                let (name, text) =
                    services(&[service("reviews", PORT, "http", &instances[..2 + (change / 5 % 2) as usize])]);
                stage.write(name, &text);
            }
            // A service and its route appear; the same file changes and goes again.
            2 => {
                let extra =
                    format!("services:\n{}", service("extra", PORT + 1 + (change % 3) as u16, "http", &[("v1", &v1)]));
                stage.write("extra.yaml", &extra);
            }
            3 => stage.write("extra-route.yaml", &routes("extra", "  - route:\n    - destination: {host: extra}\n")),
            _ => {
                stage.work.remove("config/extra-route.yaml");
                stage.work.remove("config/extra.yaml");
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The last change, seen within a second.
    let (name, text) = services(&[service("reviews", PORT, "http", &[("v1", &last), ("v2", &last)])]);
    stage.write("reviews.yaml", &weights(50, 10));
    stage.write(name, &text);
    let written = std::time::Instant::now();
    eventually_ok(Duration::from_secs(30), "the last change is visible", async || {
        let reply = stage.get("reviews", PORT, "/").send().await.map_err(|e| e.to_string())?;
        if reply.served_by() == "last" { Ok(()) } else { Err(reply.served_by().to_owned()) }
    })
    .await;
    let took = written.elapsed();
    let report = load.stop().await;
    report.assert_flawless(200);
    stage.assert_nothing_refused().await;
    assert!(took < Duration::from_secs(1), "the last change took {took:?} to be visible");
}
