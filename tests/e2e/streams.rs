//! What is carried besides plain requests: HTTP/2, gRPC, upgraded connections, TCP, and TLS that is passed through.

use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use xebec_testkit::{Backend, DataPlane, TcpEcho, client, eventually_ok, tcp};

use crate::stage::{SOON, Stage, service, service_at, services};

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn http2_goes_in_and_out_and_grpc_keeps_its_trailers(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let backend = Backend::start("ledger").await;
    let files = [services(&[
        service("ledger", 7000, "grpc", &[("v1", &backend)]),
        service("plain", 7001, "http", &[("v1", &backend)]),
    ])];
    let stage = Stage::start(plane, "grpc", &files).await;
    eventually_ok(SOON, "HTTP/2 is routed", async || {
        let reply = stage.get("ledger", 7000, "/").http2().send().await.map_err(|e| e.to_string())?;
        if reply.status == 200 { Ok(()) } else { Err(reply.status.to_string()) }
    })
    .await;
    backend.take_seen();
    let call = stage.get("ledger", 7000, "/bank.Ledger/Post").method("POST".parse().unwrap()).http2();
    let call = call.header("content-type", "application/grpc").header("te", "trailers");
    let reply = call.clone().body(vec![0, 0, 0, 0, 2, 8, 1]).send().await.unwrap();
    assert_eq!((reply.status, &reply.body[..]), (200, &[0, 0, 0, 0, 2, 8, 1][..]));
    assert_eq!(reply.trailers.get("grpc-status").map(|v| v.as_bytes()), Some(&b"0"[..]));
    let reply = call.header("x-echo-grpc-status", "7").send().await.unwrap();
    assert_eq!(reply.trailers.get("grpc-status").map(|v| v.as_bytes()), Some(&b"7"[..]));
    assert!(
        backend.take_seen().iter().all(|s| s.version == http::Version::HTTP_2),
        "a gRPC port speaks HTTP/2 upstream"
    );

    let reply = stage.get("plain", 7001, "/").http2().send().await.unwrap();
    assert_eq!((reply.status, reply.version), (200, http::Version::HTTP_2));
    assert_eq!(reply.json()["version"], "HTTP/1.1", "an HTTP port speaks HTTP/1.1 upstream");
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_carries_bytes_both_ways(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let backend = Backend::start("chat").await;
    let stage =
        Stage::start(plane, "upgrade", &[services(&[service("chat", 7002, "http", &[("v1", &backend)])])]).await;
    stage.until_status("chat", 7002, "/", 200).await;
    let (reply, mut stream) = stage.get("chat", 7002, "/socket").upgrade("websocket").await.unwrap();
    assert_eq!(reply.status, 101);
    for text in ["first", "second"] {
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; text.len()];
        tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.expect("an echo").unwrap();
        assert_eq!(answer, text.as_bytes());
    }
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn tcp_connections_are_shared_by_weight(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let one = TcpEcho::start("one").await;
    let two = TcpEcho::start("two").await;
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: database}
spec:
  hosts: [database]
  tcp:
  - match: [{port: 5432}]
    route:
    - {destination: {host: database, subset: v1}, weight: 75}
    - {destination: {host: database, subset: v2}, weight: 25}
";
    let files = [
        services(&[service_at("database", 5432, "tcp", &[("v1", one.port()), ("v2", two.port())])]),
        ("subsets.yaml", crate::stage::subsets("database", &["v1", "v2"])),
        ("database.yaml", rules.to_owned()),
    ];
    let stage = Stage::start(plane, "tcp", &files).await;
    eventually_ok(SOON, "a connection is carried", async || tcp::say(stage.at(5432), "hello").await).await;
    let mut seconds = 0;
    for _ in 0..200 {
        if tcp::say(stage.at(5432), "hello").await.unwrap() == "two" {
            seconds += 1;
        }
    }
    // 200 draws at 0.25 have a standard deviation of 6.1: this is five of them.
    assert!((20..=81).contains(&seconds), "{seconds} of 200 connections went to the second");
    stage.assert_nothing_refused().await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn an_undeclared_port_carries_http_and_tcp(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let backend = Backend::start("web").await;
    let text = format!(
        "services:\n- host: guess\n  ports:\n  - {{name: main, number: 7003}}\n  instances:\n  - {{address: 127.0.0.1, ports: {{main: {}}}}}\n",
        backend.port()
    );
    let stage = Stage::start(plane, "sniffing", &[("services.yaml", text)]).await;
    stage.until_served_by("guess", 7003, "/", "web").await;
    let reply = client::get(stage.at(7003), "nobody-knows.example", "/").send().await.unwrap();
    assert!(reply.served_by().is_empty(), "HTTP is routed by its host, so it was seen to be HTTP: {}", reply.status);
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_passed_through_by_its_server_name(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let (vault, safe) = (TcpEcho::start("vault").await, TcpEcho::start("safe").await);
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vault}
spec:
  hosts: [vault, safe.example]
  tls:
  - match: [{port: 8200, sniHosts: [safe.example]}]
    route:
    - destination: {host: vault, subset: v2}
  - match: [{port: 8200, sniHosts: [vault]}]
    route:
    - destination: {host: vault, subset: v1}
";
    let files = [
        services(&[service_at("vault", 8200, "tls", &[("v1", vault.port()), ("v2", safe.port())])]),
        ("subsets.yaml", crate::stage::subsets("vault", &["v1", "v2"])),
        ("vault.yaml", rules.to_owned()),
    ];
    let stage = Stage::start(plane, "sni", &files).await;
    for (name, expected) in [("vault", "vault"), ("safe.example", "safe")] {
        eventually_ok(SOON, &format!("{name} reaches {expected}"), async || {
            match greeting(stage.at(8200), &client_hello(name)).await {
                Ok(server) if server == expected => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    let unknown = greeting(stage.at(8200), &client_hello("nobody.example")).await;
    assert!(unknown.is_err(), "an unknown name reaches nobody: {unknown:?}");
    stage.assert_nothing_refused().await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn of_two_services_without_addresses_on_one_port_the_older_gets_the_bytes(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let (ant, zebra) = (TcpEcho::start("ant").await, TcpEcho::start("zebra").await);
    let entry = |name: &str, day: u8, port: u16| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, creationTimestamp: '2026-01-0{day}T00:00:00Z'}}\nspec:\n  hosts: [{name}.example]\n  ports: [{{number: 7004, name: tcp, protocol: TCP}}]\n  resolution: STATIC\n  endpoints: [{{address: 127.0.0.1, ports: {{tcp: {port}}}}}]\n"
        )
    };
    // Age decides, and not the name.
    let files = [("ant.yaml", entry("ant", 2, ant.port())), ("zebra.yaml", entry("zebra", 1, zebra.port()))];
    let stage = Stage::start(plane, "shared-port", &files).await;
    let reaches = async |expected: &str| {
        eventually_ok(SOON, &format!("{expected} gets the bytes"), async || {
            match tcp::say(stage.at(7004), "hello").await {
                Ok(name) if name == expected => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    };
    reaches("zebra").await;
    for _ in 0..20 {
        assert_eq!(tcp::say(stage.at(7004), "hello").await.as_deref(), Ok("zebra"));
    }
    eventually_ok(SOON, "both documents are named", async || {
        let log = std::fs::read_to_string(stage.work.join("logs/serve.err")).map_err(|e| e.to_string())?;
        let said = log.lines().any(|line| line.contains("ant.yaml:1") && line.contains("zebra.yaml:1"));
        if said { Ok(()) } else { Err(log) }
    })
    .await;
    std::fs::remove_file(stage.work.join("config/zebra.yaml")).unwrap();
    reaches("ant").await;
    stage.assert_nothing_refused().await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn each_port_of_a_service_follows_the_routes_of_its_own_kind(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let (one, two) = (TcpEcho::start("one").await, TcpEcho::start("two").await);
    let services = format!(
        "services:\n- host: vault\n  ports:\n  - {{name: tls, number: 8210, protocol: tls}}\n  - {{name: raw, number: 8211, protocol: tcp}}\n  instances:\n  - {{address: 127.0.0.1, name: one, ports: {{tls: {0}, raw: {0}}}, labels: {{version: v1}}}}\n  - {{address: 127.0.0.1, name: two, ports: {{tls: {1}, raw: {1}}}, labels: {{version: v2}}}}\n",
        one.port(),
        two.port()
    );
    let rules = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vault}
spec:
  hosts: [vault]
  tcp:
  - route:
    - destination: {host: vault, subset: v1}
  tls:
  - match: [{sniHosts: [vault]}]
    route:
    - destination: {host: vault, subset: v2}
";
    let files = [
        ("services.yaml", services),
        ("subsets.yaml", crate::stage::subsets("vault", &["v1", "v2"])),
        ("vault.yaml", rules.to_owned()),
    ];
    let stage = Stage::start(plane, "kinds-of-routes", &files).await;
    // The same bytes, TLS by their looks, are routed by name on one port and are only bytes on the other.
    for (port, expected) in [(8210, "two"), (8211, "one")] {
        eventually_ok(SOON, &format!("port {port} reaches {expected}"), async || {
            match greeting(stage.at(port), &client_hello("vault")).await {
                Ok(server) if server == expected => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    let plain = greeting(stage.at(8211), b"no hello at all").await;
    assert_eq!(plain.as_deref(), Ok("one"));
    stage.assert_nothing_refused().await;
}

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_are_names_are_resolved_by_the_proxy(#[case] plane: DataPlane) {
    let Some(plane) = plane.or_skip() else { return };
    let backend = Backend::start("named").await;
    let entry = |name: &str, number: u16, resolution: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{name}.example]\n  ports: [{{number: {number}, name: http, protocol: HTTP}}]\n  resolution: {resolution}\n  endpoints: [{{address: localhost, ports: {{http: {}}}}}]\n",
            backend.port()
        )
    };
    let files = [("all.yaml", entry("all", 7005, "DNS")), ("one.yaml", entry("one", 7006, "DNS_ROUND_ROBIN"))];
    let stage = Stage::start(plane, "names", &files).await;
    stage.until_served_by("all.example", 7005, "/", "named").await;
    stage.until_served_by("one.example", 7006, "/", "named").await;
    stage.assert_nothing_refused().await;
}

/// Sends `bytes` and reads the server's name, then the bytes again: whatever stands between changed nothing.
async fn greeting(address: std::net::SocketAddr, bytes: &[u8]) -> Result<String, String> {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        stream.write_all(bytes).await.map_err(|e| e.to_string())?;
        let mut name = Vec::new();
        loop {
            match stream.read_u8().await.map_err(|e| e.to_string())? {
                b'\n' => break,
                byte => name.push(byte),
            }
        }
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).await.map_err(|e| e.to_string())?;
        if back == bytes { Ok(String::from_utf8_lossy(&name).into_owned()) } else { Err("the bytes differ".to_owned()) }
    };
    tokio::time::timeout(std::time::Duration::from_secs(3), exchange).await.unwrap_or_else(|_| Err("no answer".into()))
}

/// The smallest ClientHello of TLS 1.2 (RFC 5246, 7.4.1.2) that asks for a server name (RFC 6066, 3).
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |size: usize, bytes: &[u8]| [&(bytes.len() as u64).to_be_bytes()[8 - size..], bytes].concat();
    let entry = [&[0][..], &sized(2, name.as_bytes())].concat();
    let server_name = [&[0, 0][..], &sized(2, &sized(2, &entry))].concat();
    // secp256r1 and ecdsa_secp256r1_sha256: parsers want some.
    let groups = [&[0, 10][..], &sized(2, &sized(2, &[0, 23]))].concat();
    let signatures = [&[0, 13][..], &sized(2, &sized(2, &[4, 3]))].concat();
    let extensions = sized(2, &[server_name, groups, signatures].concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(2, &[0xc0, 0x2b]), &[1, 0], &extensions].concat();
    let handshake = [&[1][..], &sized(3, &body)].concat();
    [&[22, 3, 1][..], &sized(2, &handshake)].concat()
}
