//! Exit codes and output of the commands: promises to scripts.

use serde_json::Value;
use xebec_testkit::{DataPlane, Workdir, process};

use crate::stage::{Stage, service_at, services};

async fn xebec(arguments: &[&str]) -> process::Output {
    process::run(process::xebec(arguments)).await
}

#[tokio::test]
async fn wrong_usage_is_2_and_help_and_version_are_0() {
    assert_eq!(xebec(&["serve", "--nonsense"]).await.code, Some(2));
    assert_eq!(xebec(&[]).await.code, Some(2));
    assert_eq!(xebec(&["--help"]).await.code, Some(0));
    let version = xebec(&["version", "-o", "json"]).await;
    assert_eq!(version.code, Some(0));
    assert!(serde_json::from_str::<Value>(&version.stdout).unwrap()["version"].is_string());
    let registry = xebec(&["serve", "--registry", "zookeeper:there"]).await;
    assert_eq!(registry.code, Some(2), "{}", registry.stderr);
}

#[tokio::test]
async fn an_unreachable_server_is_3_and_says_what_to_do() {
    let address = xebec_testkit::port::free().to_string();
    for command in [vec!["proxy-status", "-s", &address], vec!["pc", "cluster", "someone", "-s", &address]] {
        let output = xebec(&command).await;
        assert_eq!(output.code, Some(3), "{}", output.stderr);
        assert!(output.stderr.contains("help:") && output.stdout.is_empty(), "{}", output.stderr);
    }
}

#[tokio::test]
async fn a_busy_port_is_5_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let work = Workdir::new("busy");
    let config = work.create_dir("config");
    let output =
        xebec(&["serve", "--config", config.to_str().unwrap(), "--xds-addr", &address, "--http-addr", "127.0.0.1:0"])
            .await;
    assert_eq!(output.code, Some(5), "{}", output.stderr);
    assert!(output.stderr.contains(&address) && output.stderr.contains("help:"), "{}", output.stderr);
}

#[tokio::test]
async fn a_missing_configuration_directory_is_named() {
    let output =
        xebec(&["serve", "--config", "/nowhere/at/all", "--xds-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
            .await;
    assert_eq!(output.code, Some(4), "{}", output.stderr);
    assert!(output.stderr.contains("/nowhere/at/all"), "{}", output.stderr);
    let output = xebec(&["validate", "-f", "/nowhere/at/all"]).await;
    assert_eq!(output.code, Some(4), "{}", output.stderr);
}

#[tokio::test]
async fn every_example_is_valid() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let output = xebec(&["validate", root]).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
}

#[tokio::test]
async fn findings_have_a_stable_json_form_and_github_and_sarif_forms() {
    let work = Workdir::new("formats");
    let file = work.write(
        "r.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec:\n  hosts: [a]\n  htpt: []\n",
    );
    let path = file.to_str().unwrap();
    let json = xebec(&["validate", "-f", path, "-o", "json"]).await;
    assert_eq!(json.code, Some(1));
    let findings: Value = serde_json::from_str(&json.stdout).unwrap();
    let first = &findings["findings"][0];
    assert_eq!((first["line"].as_u64(), first["column"].as_u64()), (Some(6), Some(3)), "{findings}");
    assert_eq!(first["severity"], "error");
    let github = xebec(&["validate", "-f", path, "-o", "github"]).await;
    assert!(github.stdout.starts_with("::error file="), "{}", github.stdout);
    let sarif: Value = serde_json::from_str(&xebec(&["validate", "-f", path, "-o", "sarif"]).await.stdout).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    assert_eq!(sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"], 6);
}

#[tokio::test]
async fn a_field_that_is_not_honoured_is_named_with_its_place() {
    let work = Workdir::new("not-honoured");
    let file = work.write(
        "g.yaml",
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  servers:\n  - port: {number: 443, name: https, protocol: HTTPS}\n    hosts: ['*']\n    tls: {mode: SIMPLE, credentialName: c}\n",
    );
    let output = xebec(&["validate", "-f", file.to_str().unwrap()]).await;
    let all = output.stdout + &output.stderr;
    assert_eq!(output.code, Some(0), "a warning is not a failure: {all}");
    assert!(all.contains("g.yaml:8:") && all.contains("not yet honoured"), "{all}");
}

#[tokio::test]
async fn translate_shows_what_a_proxy_would_get() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/canary");
    let output = xebec(&["translate", "--config", root, "--name", "c", "--namespace", "shop", "--type", "cds"]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stdout.contains("outbound|9080|v1|reviews"), "{}", output.stdout);
    let all: Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(all.to_string().contains("type.googleapis.com/envoy.config.cluster.v3.Cluster"));
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_status_and_proxy_config_show_a_connected_proxy() {
    let files = [services(&[service_at("reviews", 9080, "http", &[("v1", 1)])])];
    let mut stage = Stage::start(DataPlane::Sidecar, "status", &files).await;
    stage.until_status("reviews", 9080, "/", 503).await;
    crate::stage::until_synced(&stage.mesh, 1).await;
    let address = stage.mesh.http_addr().to_string();
    let status = stage.mesh.xebec(&["ps", "-s", &address]).await;
    assert_eq!(status.code, Some(0), "{}", status.stderr);
    assert!(status.stdout.contains("client.default") && status.stdout.contains("SYNCED"), "{}", status.stdout);
    for (part, expected) in
        [("cluster", "reviews"), ("listener", "9080"), ("route", "reviews"), ("endpoint", "127.0.0.1:1")]
    {
        let output = stage.mesh.xebec(&["pc", part, "client", "-s", &address]).await;
        assert_eq!(output.code, Some(0), "{part}: {}", output.stderr);
        assert!(output.stdout.contains(expected), "{part}: {}", output.stdout);
    }
    let missing = stage.mesh.xebec(&["pc", "cluster", "nobody", "-s", &address]).await;
    assert_eq!(missing.code, Some(4), "{}", missing.stderr);
    let dump = stage.work.write("dump.json", stage.proxy.admin("/config_dump").await.unwrap());
    let output = stage.mesh.xebec(&["pc", "cluster", "-f", dump.to_str().unwrap()]).await;
    assert!(
        output.stdout.contains("reviews"),
        "a proxy's own dump is read as well: {}{}",
        output.stdout,
        output.stderr
    );
    assert!(stage.mesh.process().is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_pages_and_metrics_have_istiods_names() {
    let files = [
        services(&[service_at("reviews", 9080, "http", &[("v1", 1)])]),
        ("r.yaml", crate::stage::routes("reviews", "  - route:\n    - destination: {host: reviews}\n")),
    ];
    let stage = Stage::start(DataPlane::Sidecar, "debug-pages", &files).await;
    crate::stage::until_synced(&stage.mesh, 1).await;
    for (page, expected) in [
        ("/debug/registryz", "reviews"),
        ("/debug/endpointz", "127.0.0.1"),
        ("/debug/configz", "VirtualService"),
        ("/debug/adsz", "client.default"),
        ("/debug/syncz", "client.default"),
    ] {
        let text = stage.mesh.json(page).await.unwrap().to_string();
        assert!(text.contains(expected), "{page}: {text}");
    }
    let metrics = stage.mesh.page("/metrics").await.unwrap();
    for name in ["pilot_xds{", "pilot_xds_pushes{", "pilot_services ", "pilot_virt_services "] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} is missing:\n{metrics}");
    }
    let page = xebec_testkit::client::page(stage.proxy.admin_addr(), "/stats/prometheus").await.unwrap();
    assert!(page.contains("envoy_cluster_upstream_rq"), "{page}");
}
