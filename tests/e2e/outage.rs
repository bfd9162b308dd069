//! The control plane goes away, and comes back.

use std::time::Duration;

use rstest::rstest;
use xebec_testkit::{Backend, DataPlane, Load, ProxySpec, Workdir, eventually_ok};

use crate::stage::{Stage, routes, service, services, until_synced};

const PORT: u16 = 9080;

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn killing_the_control_plane_loses_no_request_and_resends_nothing(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let backend = Backend::start("v1").await;
    let http = "  - timeout: 5s\n    route:\n    - destination: {host: reviews}\n";
    let files =
        [services(&[service("reviews", PORT, "http", &[("v1", &backend)])]), ("r.yaml", routes("reviews", http))];
    let mut stage = Stage::start(plane, "outage", &files).await;
    stage.until_status("reviews", PORT, "/", 200).await;
    until_synced(&stage.mesh, 1).await;
    let before = reloads(&stage).await;
    let load = Load::new(200, stage.get("reviews", PORT, "/")).start();
    load.more(100).await;
    stage.mesh.kill();
    load.more(200).await;
    let Stage { work, mesh, .. } = &mut stage;
    mesh.restart(work).await;
    let back = std::time::Instant::now();
    eventually_ok(Duration::from_secs(20), "the proxy is back in sync", async || {
        let status = stage.mesh.json("/debug/syncz").await?;
        let text = status.to_string();
        if status.as_array().is_some_and(|rows| !rows.is_empty()) && !text.contains("STALE") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    let took = back.elapsed();
    load.more(100).await;
    load.stop().await.assert_flawless(400);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(reloads(&stage).await, before, "what did not change was applied again");
    stage.assert_nothing_refused().await;
}

/// How often the proxy has applied a cluster or listener: adding and changing, per its own counters.
async fn reloads(stage: &Stage) -> Vec<u64> {
    let mut counts = Vec::new();
    for name in [
        "cluster_manager.cluster_added",
        "cluster_manager.cluster_modified",
        "cluster_manager.cluster_removed",
        "listener_manager.listener_added",
        "listener_manager.listener_modified",
        "listener_manager.listener_removed",
    ] {
        counts.push(stage.proxy.stat(name).await.unwrap());
    }
    counts
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_first_waits_for_its_control_plane(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let work = Workdir::new(&format!("proxy-first-{plane:?}"));
    let backend = Backend::start("v1").await;
    let (name, text) = services(&[service("reviews", PORT, "http", &[("v1", &backend)])]);
    work.write(format!("config/{name}"), text);
    let address = xebec_testkit::port::free();
    let ip = crate::stage::loopback();
    let mut proxy = plane.launch(&work, ProxySpec::sidecar("early").server(address).ip(ip)).await;
    eventually_ok(Duration::from_secs(20), "the proxy's admin answers", async || proxy.admin("/stats").await).await;
    assert!(proxy.admin("/ready").await.is_err(), "it has no configuration yet");
    let _mesh = xebec_testkit::ControlPlane::spec(&work).config("config").xds_addr(address).start().await;
    proxy.ready().await;
    eventually_ok(Duration::from_secs(20), "requests are served", async || {
        let reply =
            xebec_testkit::client::get((ip, PORT).into(), "reviews", "/").send().await.map_err(|e| e.to_string())?;
        if reply.status == 200 { Ok(()) } else { Err(reply.status.to_string()) }
    })
    .await;
}
