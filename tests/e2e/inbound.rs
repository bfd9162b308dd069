//! A proxy beside the application that is called.

use rstest::rstest;
use xebec_testkit::{Backend, DataPlane, ProxySpec, TcpEcho, eventually_ok, tcp};

use crate::stage::{SOON, Stage, services, until_synced};

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_stand_between_caller_and_application(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let app = Backend::start("app").await;
    let raw = TcpEcho::start("raw").await;
    let (http, tcp_port) = (xebec_testkit::port::free().port(), xebec_testkit::port::free().port());
    // An address of its own: the proxy's outbound listeners are there, too.
    let ip = crate::stage::loopback();
    let files = [services(&[format!(
        "- host: shop\n  ports:\n  - {{name: http, number: 7100, protocol: http}}\n  - {{name: tcp, number: 7101, protocol: tcp}}\n  instances:\n  - address: {ip}\n    name: shop-1\n    ports: {{http: {http}, tcp: {tcp_port}}}\n    app: {{http: {}, tcp: {}}}\n    labels: {{app: shop}}\n",
        app.port(),
        raw.port()
    )])];
    let stage = Stage::start(plane, "inbound", &files).await;
    let spec = ProxySpec::sidecar("shop-1").label("app", "shop").ip(ip).server(stage.mesh.xds_addr());
    let server = plane.start(&stage.work, spec).await;
    stage.until_served_by("shop", 7100, "/through/two", "app").await;
    let body = stage.get("shop", 7100, "/x").send().await.unwrap().json();
    assert_eq!((body["path"].as_str(), body["authority"].as_str()), (Some("/x"), Some("shop")));
    eventually_ok(SOON, "TCP is carried by both", async || tcp::say(stage.at(7101), "hello").await).await;
    let dump = server.admin("/config_dump").await.unwrap();
    assert!(
        dump.contains(&format!("inbound|{}||", http)) || dump.contains("inbound|7100||"),
        "the proxy has inbound clusters"
    );
    until_synced(&stage.mesh, 2).await;
    stage.assert_nothing_refused().await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_listener_of_a_sidecar_resource_forwards_where_it_says(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let app = Backend::start("app").await;
    let port = xebec_testkit::port::free();
    let sidecar = format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: own}}\nspec:\n  workloadSelector: {{labels: {{app: own}}}}\n  ingress:\n  - port: {{number: {}, protocol: HTTP, name: http}}\n    bind: 127.0.0.1\n    defaultEndpoint: 127.0.0.1:{}\n",
        port.port(),
        app.port()
    );
    let stage = Stage::start_with(plane, "ingress", &[("sidecar.yaml", sidecar)], |s| s.label("app", "own")).await;
    eventually_ok(SOON, "the ingress listener answers", async || {
        let reply = xebec_testkit::client::get(port, "anything", "/").send().await.map_err(|e| e.to_string())?;
        if reply.served_by() == "app" { Ok(()) } else { Err(format!("{} {}", reply.status, reply.text())) }
    })
    .await;
    stage.assert_nothing_refused().await;
}
