//! Gateways: the door of the mesh.

use rstest::rstest;
use xebec_testkit::{Backend, ControlPlane, DataPlane, ProxySpec, TcpEcho, Workdir, client, eventually_ok, port, tcp};

use crate::stage::{SOON, assert_nothing_refused, service, service_at, services};

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_paths_choose_the_service_behind_the_gateway(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let front = Backend::start("front").await;
    let admin = Backend::start("admin").await;
    let broker = TcpEcho::start("broker").await;
    let (http, raw) = (port::free(), port::free());
    let work = Workdir::new(&format!("gateway-{plane:?}"));
    let (name, text) = services(&[
        service("front", 8000, "http", &[("v1", &front)]),
        service("admin", 8001, "http", &[("v1", &admin)]),
        service_at("broker", 1883, "tcp", &[("v1", broker.port())]),
    ]);
    work.write(format!("config/{name}"), text);
    work.write(
        "config/gateway.yaml",
        format!(
            "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{app: gateway}}
  servers:
  - port: {{number: {}, name: http, protocol: HTTP}}
    hosts: [shop.example, '*.shop.example']
  - port: {{number: {}, name: tcp, protocol: TCP}}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: front}}
spec:
  hosts: [shop.example]
  gateways: [edge]
  http:
  - match: [{{uri: {{prefix: /admin}}}}]
    route:
    - destination: {{host: admin, port: {{number: 8001}}}}
  - route:
    - destination: {{host: front, port: {{number: 8000}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: broker}}
spec:
  hosts: ['*']
  gateways: [edge]
  tcp:
  - route:
    - destination: {{host: broker, port: {{number: 1883}}}}
",
            http.port(),
            raw.port()
        ),
    );
    let mesh = ControlPlane::spec(&work).config("config").start().await;
    let spec = ProxySpec::gateway("edge").label("app", "gateway").server(mesh.xds_addr());
    let _gateway = plane.start(&work, spec).await;
    let by = async |host: &str, path: &str| match client::get(http, host, path).send().await {
        Ok(reply) => format!("{} {}", reply.status, reply.served_by()),
        Err(failure) => failure.to_string(),
    };
    eventually_ok(SOON, "the front page is served", async || {
        let answer = by("shop.example", "/").await;
        if answer == "200 front" { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(by("shop.example", "/admin/x").await, "200 admin");
    assert_eq!(by(&format!("shop.example:{}", http.port()), "/").await, "200 front", "a port in the host is ignored");
    assert_eq!(by("SHOP.example", "/").await, "200 front", "hosts compare without case");
    assert_eq!(by("other.example", "/").await, "404 ");
    assert_eq!(by("www.shop.example", "/").await, "404 ", "the server admits it, but no VirtualService does");
    eventually_ok(SOON, "TCP is carried", async || tcp::say(raw, "x").await).await;
    assert_nothing_refused(&mesh).await;
}
