//! The jobs in `install/nomad`, on a real Nomad with access control: what an operator submits, submitted.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use xebec_testkit::{Nomad, NomadMode, Peer, Workdir, client, eventually_ok, peer, port};

use crate::stage::{loopback, refusals};

/// How long a job may take until it serves: Nomad starts several processes for each, one after the other.
const STARTED: Duration = Duration::from_secs(60);
/// The port that clients dial: the tag `mesh-port` of both services.
const MESH_PORT: u16 = 9080;

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("install/nomad").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

async fn submit(nomad: &Nomad, file: &str, variables: &[(&str, &str)]) {
    let job = nomad.parse_job(&shipped(file), variables).await;
    nomad.run_job(job).await;
}

/// Waits until an answer has this status and text.
async fn until_answered(at: SocketAddr, host: &str, status: u16, text: &str) {
    eventually_ok(STARTED, &format!("{host} answers {status} {text:?} through {at}"), async || {
        let reply = client::get(at, host, "/").send().await.map_err(|failure| failure.to_string())?;
        let fine = reply.status == status && reply.text().contains(text);
        if fine { Ok(()) } else { Err(format!("{} {}", reply.status, reply.text())) }
    })
    .await;
}

/// Waits until the only deployment of a job has succeeded: its checks pass.
async fn until_deployed(nomad: &Nomad, job: &str) {
    eventually_ok(STARTED, &format!("{job} is deployed"), async || {
        let deployment = nomad.get(&format!("/v1/job/{job}/deployment")).await;
        if deployment["Status"] == "successful" { Ok(()) } else { Err(deployment) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_that_are_shipped_carry_traffic_on_both_data_planes() {
    let Some(envoy) = Peer::Envoy.or_skip() else { return };
    let work = Workdir::new("nomad-jobs");
    let Some(nomad) = Nomad::start(&work, NomadMode::Acl).await else { return };
    let rights = json!({
        "Name": "xebec",
        "Rules": shipped("xebec-policy.hcl"),
        "JobACL": {"Namespace": "default", "JobID": "xebec"},
    });
    nomad.put("/v1/acl/policy/xebec", rights).await;
    let xebec = peer::xebec().display().to_string();
    let envoy = envoy.display().to_string();
    let (xds, http) = (port::free_number().to_string(), port::free());
    let server = format!("127.0.0.1:{xds}");
    let [beside_sidecar, beside_envoy] = [loopback(), loopback()];
    // The proxies come first, and wait for their control plane.
    for (file, beside) in [("web-sidecar.nomad.hcl", beside_sidecar), ("web-envoy.nomad.hcl", beside_envoy)] {
        let beside = beside.to_string();
        let mut variables = vec![("xebec", xebec.as_str()), ("server", server.as_str()), ("loopback", beside.as_str())];
        variables.extend((file == "web-envoy.nomad.hcl").then_some(("envoy", envoy.as_str())));
        submit(&nomad, file, &variables).await;
    }
    let (address, http_port) = (nomad.address(), http.port().to_string());
    let variables = [("xebec", xebec.as_str()), ("nomad", &address), ("xds_port", &xds), ("http_port", &http_port)];
    submit(&nomad, "xebec.nomad.hcl", &variables).await;

    // From beside each application, through its proxy and the callee's, to the other one.
    let hosts = ["web-sidecar", "web-envoy"].map(|name| (name, format!("{name}.default.service.nomad")));
    for (from, (name, host)) in [(beside_envoy, &hosts[0]), (beside_sidecar, &hosts[1])] {
        until_answered((from, MESH_PORT).into(), host, 200, &format!("hello from {name}")).await;
    }
    for job in ["xebec", "web-sidecar", "web-envoy"] {
        until_deployed(&nomad, job).await;
    }
    // Nobody but the callee's proxy listens where the service is registered.
    for (name, host) in &hosts {
        let rows = nomad.get(&format!("/v1/service/{name}")).await;
        let registered = format!("{}:{}", rows[0]["Address"].as_str().unwrap(), rows[0]["Port"]);
        let reply = client::get(registered.parse().unwrap(), host, "/").send().await.unwrap();
        assert_eq!((reply.status, reply.text().trim()), (200, format!("hello from {name}").as_str()));
        assert!(reply.header("server").is_some_and(|server| !server.contains("SimpleHTTP")), "{reply:?}");
    }

    // A variable is configuration.
    let rule = |(name, host): &(&str, String)| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{host}]\n  http:\n  - directResponse: {{status: 418, body: {{string: closed}}}}\n"
        );
        ((*name).to_owned(), Value::String(text))
    };
    let rules: serde_json::Map<String, Value> = hosts.iter().map(rule).collect();
    nomad.put("/v1/var/xebec/rules", json!({"Path": "xebec/rules", "Items": rules})).await;
    for (from, (_, host)) in [(beside_envoy, &hosts[0]), (beside_sidecar, &hosts[1])] {
        until_answered((from, MESH_PORT).into(), host, 418, "closed").await;
    }
    nomad.delete("/v1/var/xebec/rules").await;
    for (from, (name, host)) in [(beside_envoy, &hosts[0]), (beside_sidecar, &hosts[1])] {
        until_answered((from, MESH_PORT).into(), host, 200, &format!("hello from {name}")).await;
    }
    let page = client::page(http, "/debug/syncz").await.unwrap();
    let status: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(status.as_array().map(Vec::len), Some(2), "{status}");
    assert_eq!(refusals(&status), Vec::<String>::new());
}
