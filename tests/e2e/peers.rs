//! Programs of others on both sides of a proxy: nginx as the application, wrk as the load.

use std::process::Command;

use rstest::rstest;
use xebec_testkit::{Backend, DataPlane, Peer, Process, client, eventually, port, process};

use crate::stage::{SOON, Stage, service, service_at, services};

#[rstest]
#[case::envoy(DataPlane::Envoy)]
#[case::sidecar(DataPlane::Sidecar)]
#[tokio::test(flavor = "multi_thread")]
async fn wrk_gets_what_nginx_serves_without_an_error(#[case] plane: DataPlane) {
    let (Some(plane), Some(nginx), Some(wrk)) = (plane.or_skip(), Peer::Nginx.or_skip(), Peer::Wrk.or_skip()) else {
        return;
    };
    let address = port::free();
    let stage =
        Stage::start(plane, "nginx", &[services(&[service_at("web", 7200, "http", &[("v1", address.port())])])]).await;
    let large: String = (0..300_000).map(|n| format!("{n}\n")).collect();
    stage.work.write("site/large.txt", &large);
    stage.work.write("site/small.txt", "small\n");
    let root = stage.work.path().display();
    let config = format!(
        "daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/logs/nginx.err; worker_rlimit_nofile 4096;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
  uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5; keepalive_requests 100;
  server {{ listen {address}; root {root}/site; }}
}}
"
    );
    let config = stage.work.write("nginx.conf", config);
    let mut command = Command::new(nginx);
    command.arg("-c").arg(config);
    let _nginx = Process::start(&stage.work, "nginx", command);
    stage.until_status("web", 7200, "/small.txt", 200).await;
    let reply = stage.get("web", 7200, "/large.txt").send().await.unwrap();
    assert!(reply.text() == large, "{} of {} bytes arrived", reply.body.len(), large.len());

    let mut command = Command::new(wrk);
    let url = format!("http://{}/small.txt", stage.at(7200));
    command.args(["-t1", "-c32", "-d3s", "-H", "Host: web", &url]);
    let output = process::run(command).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stdout.contains("requests in"), "{}", output.stdout);
    for problem in ["Socket errors", "Non-2xx"] {
        assert!(!output.stdout.contains(problem), "{}", output.stdout);
    }
    stage.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_run_becomes_an_envoy_that_joins_the_mesh() {
    let Some(envoy) = Peer::Envoy.or_skip() else { return };
    let backend = Backend::start("v1").await;
    let files = [services(&[service("reviews", 9080, "http", &[("v1", &backend)])])];
    let stage = Stage::start(DataPlane::Sidecar, "envoy-run", &files).await;
    let (ip, admin) = (crate::stage::loopback(), port::free());
    let (server, ip_text, admin_text) = (stage.mesh.xds_addr().to_string(), ip.to_string(), admin.to_string());
    let mut command = process::xebec(["envoy", "run", "--name", "runner", "--server", &server, "--ip", &ip_text]);
    command
        .args(["--admin-addr", &admin_text, "--concurrency", "1", "--envoy"])
        .arg(&envoy)
        .args(["--", "-l", "warning"]);
    let mut running = Process::start(&stage.work, "envoy-run", command);
    running.until(SOON, "it is ready", async || client::page(admin, "/ready").await.is_ok()).await;
    let info = client::page(admin, "/server_info").await.unwrap();
    assert!(info.contains("runner.default") && info.contains("1.40"), "it is Envoy, and knows who it is: {info}");
    eventually(SOON, "it carries traffic", async || {
        client::get((ip, 9080).into(), "reviews", "/").send().await.is_ok_and(|r| r.served_by() == "v1")
    })
    .await;
}
