//! Configuration from a Kubernetes API server, with the rights that `install/kubernetes` gives: what is applied there reaches proxies,
//! mistakes are refused or kept from them, and what became of it stands in the status.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use xebec_testkit::{
    ControlPlane, DataPlane, Kube, Peer, Proxy, ProxySpec, Workdir, client, eventually, eventually_ok, port,
};

use crate::stage::{SOON, loopback};

/// A Lease lasts 15 s, and is looked at every 2 s.
const TAKEOVER: Duration = Duration::from_secs(40);
/// `kubectl` is slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const OURS: &str = "xebec-system";
const LEADING: &str = "1 of 1 proxies that are connected to the leading replica";

/// A cluster with the manifests of `install/kubernetes`, and the service account's own kubeconfig.
struct Cluster {
    kube: Kube,
    kubeconfig: PathBuf,
}

// === impl Cluster ===

impl Cluster {
    async fn start(work: &Workdir) -> Option<Self> {
        let kube = Kube::start(work).await?;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("install/kubernetes");
        let files = ["namespace.yaml", "crds", "service-account.yaml", "rbac.yaml", "webhook.yaml"];
        for file in files.map(|file| folder.join(file).display().to_string()) {
            let output = kube.kubectl(&["apply", "--server-side", "-n", OURS, "-f", &file]).await;
            assert_eq!(output.code, Some(0), "{file}: {}{}", output.stdout, output.stderr);
        }
        let token = kube.kubectl(&["create", "token", "xebec", "-n", OURS]).await;
        assert_eq!(token.code, Some(0), "{}", token.stderr);
        let kubeconfig = kube.token_kubeconfig(token.stdout.trim());
        Some(Self { kube, kubeconfig })
    }

    /// A control plane on this cluster; `more` completes the settings of its configuration.
    async fn serve(&self, work: &Workdir, more: Value) -> ControlPlane {
        let mut config = json!({"kubeconfig": self.kubeconfig, "namespace": OURS});
        merge(&mut config, more);
        let registry = json!({"kubeconfig": self.kubeconfig, "systemNamespace": OURS});
        let settings =
            work.write("settings.yaml", json!({"kubernetes": [registry], "kubernetesConfig": [config]}).to_string());
        let spec = format!("kubernetes:{}", self.kubeconfig.display());
        ControlPlane::spec(work)
            .argument("--registry")
            .argument(&spec)
            .argument("--config")
            .argument(&spec)
            .argument("--settings")
            .argument(settings.display().to_string())
            .variable("POD_NAMESPACE", OURS)
            .start()
            .await
    }

    /// Applies one object of a group and version, such as `networking.istio.io/v1`.
    async fn put(&self, version: &str, plural: &str, namespace: &str, object: Value) {
        self.kube.put_object(&path(version, plural, namespace, &object), &object).await;
    }

    /// Waits until an object is as wanted; what it is instead is part of a failure.
    async fn until(&self, what: &str, path: &str, patience: Duration, so: impl Fn(&Value) -> bool) -> Value {
        eventually_ok(patience, what, async || {
            let object = self.kube.get(path).await;
            if so(&object) { Ok(object) } else { Err(object["status"].to_string()) }
        })
        .await
    }
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// Where an object is: `version` is a group and its version, or `v1`.
fn path(version: &str, plural: &str, namespace: &str, object: &Value) -> String {
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let scope = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    format!("{root}{scope}/{plural}/{}", object["metadata"]["name"].as_str().unwrap_or_default())
}

/// `STATUS REASON` of a condition, and its message; empty when it is not there.
fn condition(conditions: &Value, of: &str) -> (String, String) {
    let found = conditions.as_array().into_iter().flatten().find(|condition| condition["type"] == of);
    let text = |field: &str| found.and_then(|c| c[field].as_str()).unwrap_or_default().to_owned();
    (format!("{} {}", text("status"), text("reason")), text("message"))
}

/// Whether all of these are there, as `STATUS REASON`.
fn are(conditions: &Value, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(of, what)| condition(conditions, of).0 == *what)
}

/// Whether a condition is about the object as it is now.
fn current(object: &Value, of: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == of);
    found.is_some_and(|condition| condition["observedGeneration"] == object["metadata"]["generation"])
}

const NETWORKING: &str = "networking.istio.io/v1";
const SHOP: &str = "/apis/networking.istio.io/v1/namespaces/default/virtualservices/shop";

/// A Service without pods: its VirtualService answers itself.
fn shop() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"},
        "spec": {"ports": [{"name": "http", "port": 7400}]}})
}

fn answering(text: &str) -> Value {
    json!({"apiVersion": NETWORKING, "kind": "VirtualService", "metadata": {"name": "shop"}, "spec": {"hosts": ["shop"],
        "http": [{"directResponse": {"status": 218, "body": {"string": text}}}]}})
}

/// A mistake that no schema sees.
fn mistaken(text: &str) -> Value {
    let mut object = answering(text);
    object["spec"]["http"][0]["retries"] = json!({"attempts": 2, "retryOn": "sometimes"});
    object
}

async fn sidecar(work: &Workdir, plane: &ControlPlane, name: &str) -> (Proxy, SocketAddr) {
    let ip: IpAddr = loopback();
    let spec = ProxySpec::sidecar(name).server(plane.xds_addr()).ip(ip);
    (DataPlane::Sidecar.start(work, spec).await, (ip, 7400).into())
}

async fn said(address: SocketAddr) -> Result<String, String> {
    client::get(address, "shop", "/").send().await.map(|reply| reply.text()).map_err(|failure| failure.to_string())
}

async fn until_said(address: SocketAddr, text: &str) {
    eventually_ok(SOON, &format!("the proxy answers {text:?}"), async || {
        let said = said(address).await;
        if said.as_deref() == Ok(text) { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
}

/// What stands between the API server and the webhook: connections pass while it is open.
struct Door {
    address: SocketAddr,
    open: Arc<AtomicBool>,
}

// === impl Door ===

impl Door {
    async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(port::free()).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let open = Arc::new(AtomicBool::new(true));
        let is_open = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let is_open = Arc::clone(&is_open);
                tokio::spawn(async move {
                    let Ok(mut to) = TcpStream::connect(server).await else { return };
                    let closed = async {
                        while is_open.load(Ordering::Relaxed) {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    };
                    tokio::select! {
                        () = closed => {}
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                    }
                });
            }
        });
        Self { address, open }
    }

    fn set(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_reaches_a_proxy_and_what_is_wrong_is_refused_at_the_door_or_kept_from_it() {
    let work = Workdir::new("kubernetes-config");
    let Some(cluster) = Cluster::start(&work).await else { return };
    let kube = &cluster.kube;
    cluster.put("v1", "services", "default", shop()).await;
    let listen = port::free();
    let door = Door::before(listen).await;
    let webhook = |policy: &str| {
        let url = format!("https://{}/validate", door.address);
        json!({"webhook": {"listen": listen, "url": url, "failurePolicy": policy}})
    };
    let mut plane = cluster.serve(&work, webhook("Fail")).await;
    plane.process().line_with("changes of configuration are refused", PATIENCE).await;
    let (_proxy, address) = sidecar(&work, &plane, "client").await;

    cluster.put(NETWORKING, "virtualservices", "default", answering("one")).await;
    until_said(address, "one").await;
    let acknowledged = |object: &Value| {
        are(
            &object["status"]["conditions"],
            &[("xebec.io/Accepted", "True Accepted"), ("xebec.io/Acknowledged", "True Acknowledged")],
        ) && current(object, "xebec.io/Acknowledged")
    };
    let object = cluster.until("the proxy's acknowledgement is told", SHOP, SOON, acknowledged).await;
    assert_eq!(condition(&object["status"]["conditions"], "xebec.io/Acknowledged").1, LEADING);

    // At the door, with the words of the command line.
    let file = work.write("mistake.json", mistaken("two").to_string());
    let offline = plane.xebec(&["validate", "-f", &file.display().to_string(), "-o", "json"]).await;
    let offline: Value = serde_json::from_str(&offline.stdout).unwrap();
    let sentence = offline["findings"][0]["message"].as_str().unwrap_or_else(|| panic!("{offline}"));
    let refused = kube.try_apply(&mistaken("two").to_string()).await;
    assert_ne!(refused.code, Some(0), "{}", refused.stdout);
    assert!(refused.stderr.contains("denied the request") && sentence.contains("sometimes"), "{}", refused.stderr);
    assert!(refused.stderr.contains(sentence), "not {sentence:?}: {}", refused.stderr);

    // Nobody answers at the door. Closed:
    door.set(false);
    let refused = kube.try_apply(&answering("two").to_string()).await;
    assert!(refused.code != Some(0) && refused.stderr.contains("failed calling webhook"), "{}", refused.stderr);
    until_said(address, "one").await;

    // Open: the next control plane is told so, and says so.
    door.set(true);
    plane.process().terminate(PATIENCE).await;
    let mut plane = cluster.serve(&work, webhook("Ignore")).await;
    plane.process().line_with("changes are let through unseen", PATIENCE).await;
    let (_proxy, address) = sidecar(&work, &plane, "second").await;
    until_said(address, "one").await;
    door.set(false);
    eventually_ok(PATIENCE, "a mistake gets in", async || {
        let output = kube.try_apply(&mistaken("three").to_string()).await;
        if output.code == Some(0) { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    let refused = |object: &Value| {
        let wanted = [("xebec.io/Accepted", "False Refused"), ("xebec.io/Acknowledged", "False Refused")];
        are(&object["status"]["conditions"], &wanted) && current(object, "xebec.io/Acknowledged")
    };
    let object = cluster.until("the mistake is told", SHOP, SOON, refused).await;
    let (_, message) = condition(&object["status"]["conditions"], "xebec.io/Accepted");
    assert!(message.contains("spec.http[0].retries") && message.contains("sometimes"), "{message}");
    assert_eq!(said(address).await.as_deref(), Ok("one"), "the last good version stays");

    // The mistake is corrected, and nothing else had to be done.
    cluster.put(NETWORKING, "virtualservices", "default", answering("four")).await;
    until_said(address, "four").await;
    cluster.until("all is well again", SHOP, SOON, acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_control_planes_the_leader_writes_the_status_and_when_it_is_killed_the_other_does() {
    let (work, other) = (Workdir::new("kubernetes-leader"), Workdir::new("kubernetes-follower"));
    let Some(cluster) = Cluster::start(&work).await else { return };
    cluster.put("v1", "services", "default", shop()).await;
    let mut leader = cluster.serve(&work, json!({})).await;
    leader.process().line_with("this replica leads", PATIENCE).await;
    let mut follower = cluster.serve(&other, json!({})).await;
    let (_one, _) = sidecar(&work, &leader, "one").await;
    let (_two, address) = sidecar(&other, &follower, "two").await;
    let (_three, _) = sidecar(&other, &follower, "three").await;

    // How many proxies there are tells who wrote it.
    cluster.put(NETWORKING, "virtualservices", "default", answering("one")).await;
    let told = |object: &Value, text: &str| {
        condition(&object["status"]["conditions"], "xebec.io/Acknowledged")
            == ("True Acknowledged".to_owned(), text.to_owned())
            && current(object, "xebec.io/Acknowledged")
    };
    cluster.until("the leader tells", SHOP, SOON, |object| told(object, LEADING)).await;
    until_said(address, "one").await;
    let writes = async |plane: &ControlPlane| {
        let page = plane.page("/metrics").await.expect("metrics");
        page.lines().any(|line| line.starts_with("xebec_kubernetes_status_writes_total"))
    };
    assert!(writes(&leader).await && !writes(&follower).await, "only the leader writes");

    leader.kill();
    cluster.put(NETWORKING, "virtualservices", "default", answering("two")).await;
    until_said(address, "two").await;
    assert!(!follower.process().stderr().contains("this replica leads"), "a Lease that is valid is not taken");
    follower.process().line_with("this replica leads", TAKEOVER).await;
    let all = LEADING.replace("1 of 1", "2 of 2");
    cluster.until("the other one tells", SHOP, SOON, |object| told(object, &all)).await;
    assert!(writes(&follower).await);
}

const GATEWAYS: &str = "gateway.networking.k8s.io/v1";
const INGRESSES: &str = "networking.k8s.io/v1";
const EDGE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/team/gateways/edge";
const NAMED: &str = "gateway.networking.k8s.io/gateway-name";

/// The Gateway API's definitions beside ours. False: they are not here.
async fn install_gateway_api(kube: &Kube) -> bool {
    let Some(folder) = Peer::Crds.or_skip() else { return false };
    let folder = folder.join("gateway-api/standard").display().to_string();
    let output = kube.kubectl(&["apply", "--server-side", "--recursive", "-f", &folder]).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let output = kube.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=50s"]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    true
}

fn balanced(name: &str, selector: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "LoadBalancer", "selector": selector, "ports": [{"name": "http", "port": 80}]}})
}

/// What a cloud would say of a Service.
async fn give_address(kube: &Kube, namespace: &str, service: &str, address: &str) {
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
    kube.merge(&format!("/api/v1/namespaces/{namespace}/services/{service}/status"), &status).await;
}

/// A route that sends requests for a path elsewhere, and others to a Service of a namespace.
fn route(name: &str, host: &str, namespace: &str) -> Value {
    json!({"apiVersion": GATEWAYS, "kind": "HTTPRoute", "metadata": {"name": name}, "spec": {
        "parentRefs": [{"name": "edge"}], "hostnames": [host],
        "rules": [
            {"matches": [{"path": {"type": "Exact", "value": "/old"}}],
             "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "new.example", "statusCode": 302}}]},
            {"backendRefs": [{"name": "shop", "namespace": namespace, "port": 7400}]}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_the_gateway_api_is_served_by_its_own_namespaces_proxies_and_says_how_it_stands() {
    let work = Workdir::new("kubernetes-gateways");
    let Some(cluster) = Cluster::start(&work).await else { return };
    let kube = &cluster.kube;
    if !install_gateway_api(kube).await {
        return;
    }
    for namespace in ["team", "stranger", "istio-system"] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        cluster.put("v1", "namespaces", "", object).await;
    }
    kube.put_node("node-1", json!({})).await;
    cluster.put("v1", "services", "default", shop()).await;
    cluster.put("v1", "services", "team", shop()).await;
    let plane = cluster.serve(&work, json!({})).await;
    let listen = port::free();
    cluster
        .put(
            GATEWAYS,
            "gatewayclasses",
            "",
            json!({"apiVersion": GATEWAYS, "kind": "GatewayClass",
        "metadata": {"name": "xebec"}, "spec": {"controllerName": "xebec.io/gateway-controller"}}),
        )
        .await;
    cluster
        .put(
            GATEWAYS,
            "gateways",
            "team",
            json!({"apiVersion": GATEWAYS, "kind": "Gateway",
        "metadata": {"name": "edge"}, "spec": {"gatewayClassName": "xebec", "listeners": [
            {"name": "http", "port": listen.port(), "protocol": "HTTP"}]}}),
        )
        .await;
    cluster.put(GATEWAYS, "httproutes", "team", route("near", "near.example", "team")).await;
    cluster.put(GATEWAYS, "httproutes", "team", route("far", "far.example", "default")).await;

    // The class, with the version of what is installed.
    let class = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/xebec";
    let object = cluster
        .until("the class is accepted", class, SOON, |object| {
            let conditions = &object["status"]["conditions"];
            are(conditions, &[("Accepted", "True Accepted")]) && !condition(conditions, "SupportedVersion").1.is_empty()
        })
        .await;
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gatewayclasses.gateway.networking.k8s.io";
    let definition = kube.get(definition).await;
    let version = definition["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"].as_str().unwrap();
    assert!(condition(&object["status"]["conditions"], "SupportedVersion").1.contains(version), "{object}");

    // Routes, before any proxy is there.
    let route_path = |name: &str| format!("/apis/{GATEWAYS}/namespaces/team/httproutes/{name}");
    let resolved = |object: &Value| {
        let conditions = &object["status"]["parents"][0]["conditions"];
        are(conditions, &[("Accepted", "True Accepted"), ("ResolvedRefs", "True ResolvedRefs")])
    };
    cluster.until("the route is accepted", &route_path("near"), SOON, resolved).await;
    let object = cluster
        .until("a reference into another namespace is not permitted", &route_path("far"), SOON, |object| {
            let conditions = &object["status"]["parents"][0]["conditions"];
            are(conditions, &[("Accepted", "True Accepted"), ("ResolvedRefs", "False RefNotPermitted")])
        })
        .await;
    assert_eq!(object["status"]["parents"][0]["controllerName"], "xebec.io/gateway-controller");
    cluster
        .put(
            "gateway.networking.k8s.io/v1beta1",
            "referencegrants",
            "default",
            json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant", "metadata": {"name": "team"},
        "spec": {"from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "team"}],
            "to": [{"group": "", "kind": "Service"}]}}),
        )
        .await;
    cluster.until("it is now", &route_path("far"), SOON, resolved).await;
    let unserved = |object: &Value| {
        let wanted = [("Accepted", "True Accepted"), ("Programmed", "False AddressNotAssigned")];
        are(&object["status"]["conditions"], &wanted) && object["status"]["listeners"][0]["attachedRoutes"] == 2
    };
    cluster.until("nobody serves the Gateway", EDGE, SOON, unserved).await;

    // Two proxies with the label: one where the Gateway is, and one of somebody else.
    cluster.put("v1", "services", "team", balanced("edge", json!({"app": "edge"}))).await;
    give_address(kube, "team", "edge", "192.0.2.10").await;
    kube.run_pod("team", "edge-1", "node-1", "10.244.0.5", json!({NAMED: "edge", "app": "edge"}), true).await;
    cluster
        .until("it is programmed, with the Service's address", EDGE, SOON, |object| {
            let programmed = are(&object["status"]["conditions"], &[("Programmed", "True Programmed")]);
            programmed && object["status"]["addresses"] == json!([{"type": "IPAddress", "value": "192.0.2.10"}])
        })
        .await;
    let proxy = |namespace: &str| {
        ProxySpec::gateway(namespace).namespace(namespace).label(NAMED, "edge").server(plane.xds_addr())
    };
    let _own = DataPlane::Sidecar.start(&work, proxy("team")).await;
    let _stranger = DataPlane::Sidecar.start(&work, proxy("stranger")).await;
    eventually_ok(SOON, "requests are redirected", async || {
        let reply = client::get(listen, "near.example", "/old").send().await.map_err(|failure| failure.to_string())?;
        let elsewhere = reply.header("location").is_some_and(|location| location.contains("new.example"));
        if (reply.status, elsewhere) == (302, true) { Ok(()) } else { Err(format!("{reply:?}")) }
    })
    .await;
    // What the control plane serves each: what a proxy does with a port that is taken is its own affair.
    let http = plane.http_addr().to_string();
    let served = async |proxy: &str| {
        let output = plane.xebec(&["pc", "listener", proxy, "-s", &http, "-o", "json"]).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        output.stdout.contains(&listen.port().to_string())
    };
    assert!(served("team.team").await);
    assert!(!served("stranger.stranger").await, "a proxy of another namespace is given the listener");

    // The proxy goes away.
    kube.delete("/api/v1/namespaces/team/pods/edge-1").await;
    cluster.until("nobody serves it any more", EDGE, SOON, unserved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_has_the_addresses_of_the_proxies_for_ingresses_as_long_as_there_are_any() {
    let work = Workdir::new("kubernetes-ingress");
    let Some(cluster) = Cluster::start(&work).await else { return };
    let kube = &cluster.kube;
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}});
    cluster.put("v1", "namespaces", "", object).await;
    kube.put_node("node-1", json!({})).await;
    cluster.put("v1", "services", "default", shop()).await;
    let _plane = cluster.serve(&work, json!({})).await;
    let class = json!({"apiVersion": INGRESSES, "kind": "IngressClass", "metadata": {"name": "xebec"},
        "spec": {"controller": "xebec.io/ingress-controller"}});
    cluster.put(INGRESSES, "ingressclasses", "", class).await;
    let backend = json!({"service": {"name": "shop", "port": {"number": 7400}}});
    let ingress = json!({"apiVersion": INGRESSES, "kind": "Ingress", "metadata": {"name": "shop"}, "spec": {
        "ingressClassName": "xebec", "rules": [{"host": "shop.example", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": backend}]}}]}});
    cluster.put(INGRESSES, "ingresses", "default", ingress).await;
    let labels = json!({"istio": "ingressgateway"});
    cluster.put("v1", "services", "istio-system", balanced("front", labels.clone())).await;
    give_address(kube, "istio-system", "front", "192.0.2.20").await;
    kube.run_pod("istio-system", "front-1", "node-1", "10.244.0.6", labels, true).await;
    let at = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/shop";
    cluster
        .until("the address is told", at, SOON, |object| {
            object["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.20"
        })
        .await;
    kube.delete("/api/v1/namespaces/istio-system/pods/front-1").await;
    cluster
        .until("it is taken back", at, SOON, |object| object["status"]["loadBalancer"].get("ingress").is_none())
        .await;
    let settled = kube.get(at).await["metadata"]["resourceVersion"].clone();
    give_address(kube, "istio-system", "front", "192.0.2.21").await;
    kube.run_pod("istio-system", "front-2", "node-1", "10.244.0.7", json!({"istio": "ingressgateway"}), true).await;
    eventually(SOON, "another one is told", async || kube.get(at).await["metadata"]["resourceVersion"] != settled)
        .await;
}
