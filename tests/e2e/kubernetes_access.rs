//! Which cluster a control plane reads and writes: of services and of configuration, the same.

use std::time::Duration;

use serde_json::{Value, json};
use xebec_testkit::{ControlPlane, Kube, Workdir, eventually_ok};

const PATIENCE: Duration = Duration::from_secs(60);
const SHOP: &str = "/apis/networking.istio.io/v1/namespaces/default/virtualservices/shop";

#[tokio::test(flavor = "multi_thread")]
async fn services_configuration_and_status_are_of_the_cluster_that_kubectl_has_under_the_named_context() {
    let work = Workdir::new("kubernetes-context");
    let Some(kube) = Kube::start(&work).await else { return };
    let definitions = concat!(env!("CARGO_MANIFEST_DIR"), "/install/kubernetes/crds");
    for arguments in [&["create", "namespace", "xebec-system"][..], &["apply", "--server-side", "-f", definitions]] {
        let output = kube.kubectl(arguments).await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
    }
    let services = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
        "spec": {"ports": [{"name": "http", "port": 80}]}});
    kube.put_object("/api/v1/namespaces/default/services/shop", &services).await;

    // Two files, as kubectl merges them: the current context, of the first, leads nowhere.
    let nowhere = json!({"apiVersion": "v1", "kind": "Config", "current-context": "nowhere",
        "clusters": [{"name": "nowhere", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "nowhere", "context": {"cluster": "nowhere"}}]});
    let current = work.write("current", nowhere.to_string());
    let list = format!("{}:{}", current.display(), kube.kubeconfig().display());

    let mut plane = ControlPlane::spec(&work)
        .argument("--registry")
        .argument("kubernetes:#test")
        .argument("--config")
        .argument("kubernetes:#test")
        .variable("KUBECONFIG", &list)
        .start()
        .await;
    let said = format!("{list}#test leads to the API server {}", kube.api_addr());
    plane.process().line_with(&said, PATIENCE).await;
    plane.process().line_with("this replica leads", PATIENCE).await;
    eventually_ok(PATIENCE, "the services are read", async || {
        let page = plane.page("/debug/registryz").await?;
        if page.contains("shop.default.svc.cluster.local") { Ok(()) } else { Err(page) }
    })
    .await;
    let service = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "shop"},
        "spec": {"hosts": ["shop"], "http": [{"route": [{"destination": {"host": "shop"}}]}]}});
    kube.put_object(SHOP, &service).await;
    eventually_ok(PATIENCE, "its status is written", async || {
        let object: Value = kube.get(SHOP).await;
        if object["status"]["conditions"].is_array() { Ok(()) } else { Err(object["status"].to_string()) }
    })
    .await;
    // A group that is not installed is said once, and not as a fault.
    let log = plane.process().stderr();
    assert_eq!(log.matches("the API server does not know").count(), 1, "{log}");
    assert!(!log.contains("404 page not found"), "{log}");
}
