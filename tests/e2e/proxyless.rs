//! gRPC programs that are their own proxies: grpcio as an xDS client.

use std::process::Command;

use xebec_testkit::{Backend, ControlPlane, Peer, Workdir, eventually_ok, process};

use crate::stage::{SOON, assert_nothing_refused, routes, service, services, subsets};

const CLIENT: &str = r#"
import sys, grpc
identity = lambda b: b
with grpc.insecure_channel(sys.argv[1]) as channel:
    call = channel.unary_unary("/bank.Ledger/Post", request_serializer=identity, response_deserializer=identity)
    for _ in range(int(sys.argv[2])):
        answer, state = call.with_call(b"\x08\x01", timeout=10, wait_for_ready=True)
        assert answer == b"\x08\x01", answer
        print("answered", dict(state.initial_metadata()).get("x-served-by"))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn grpcio_finds_its_service_by_xds_and_follows_weights() {
    let Some(python) = Peer::Python.or_skip() else { return };
    let work = Workdir::new("proxyless");
    let v1 = Backend::start("v1").await;
    let v2 = Backend::start("v2").await;
    let (name, text) = services(&[service("ledger", 7000, "grpc", &[("v1", &v1), ("v2", &v2)])]);
    work.write(format!("config/{name}"), text);
    work.write("config/subsets.yaml", subsets("ledger", &["v1", "v2"]));
    let weights = |first: u32| {
        let second = 100 - first;
        routes(
            "ledger",
            &format!(
                "  - route:\n    - {{destination: {{host: ledger, subset: v1}}, weight: {first}}}\n    - {{destination: {{host: ledger, subset: v2}}, weight: {second}}}\n"
            ),
        )
    };
    work.write("config/weights.yaml", weights(100));
    let mesh = ControlPlane::spec(&work).config("config").start().await;
    let bootstrap = serde_json::json!({
        "xds_servers": [{"server_uri": mesh.xds_addr().to_string(), "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
        "node": {
            "id": "sidecar~127.0.0.1~caller.default~default.svc.cluster.local",
            "metadata": {"GENERATOR": "grpc", "NAMESPACE": "default"},
        },
    });
    let bootstrap = work.write("bootstrap.json", bootstrap.to_string());
    let script = work.write("client.py", CLIENT);
    let run = async |calls: &str| {
        let mut command = Command::new(&python);
        command.arg(&script).args(["xds:///ledger:7000", calls]).env("GRPC_XDS_BOOTSTRAP", &bootstrap);
        process::run(command).await
    };
    let output = run("20").await;
    assert_eq!(output.code, Some(0), "{}{}\n{}", output.stdout, output.stderr, work.logs());
    assert_eq!(output.stdout.matches("answered v1").count(), 20, "{}", output.stdout);
    work.write("config/weights.yaml", weights(0));
    eventually_ok(SOON, "all calls go to v2", async || {
        let output = run("5").await;
        if output.stdout.matches("answered v2").count() == 5 { Ok(()) } else { Err(output.stdout + &output.stderr) }
    })
    .await;
    assert_nothing_refused(&mesh).await;
}
