//! `install/kubernetes` as an operator applies it, and a control plane that is started as its Deployment says: with the service
//! account's own files and no other rights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use xebec_testkit::{Kube, Process, Workdir, client, eventually, eventually_ok, netns, peer};

const OURS: &str = "xebec-system";
const PATIENCE: Duration = Duration::from_secs(60);
/// The address of the pod that the test plays.
const POD: [u8; 4] = [10, 244, 9, 9];
/// Where a pod finds its account: over a file system of the process's own, so that the machine's stays as it is.
const MOUNT: &str = "run=$(readlink -f /var/run) && mount -t tmpfs none \"$run\" && \
mkdir -p \"$run/secrets/kubernetes.io/serviceaccount\" && mount --bind \"$1\" \"$run/secrets/kubernetes.io/serviceaccount\" && \
shift && exec \"$@\"";

/// Runs kubectl on everything that is installed.
async fn kubectl(kube: &Kube, arguments: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("install/kubernetes").display().to_string();
    let output = kube.kubectl(&[arguments, &["-k", &folder]].concat()).await;
    assert_eq!(output.code, Some(0), "{arguments:?}: {}{}", output.stdout, output.stderr);
    output.stdout
}

/// Of every installed object, what changes when its content does.
async fn versions(kube: &Kube) -> BTreeMap<String, Value> {
    let list: Value = serde_json::from_str(&kubectl(kube, &["get", "-o", "json"]).await).unwrap();
    let version = |object: &Value| {
        let meta = &object["metadata"];
        let name = format!("{}/{}", object["kind"].as_str().unwrap(), meta["name"].as_str().unwrap());
        // A status changes without anybody's apply.
        let version = if meta["generation"].is_null() { &meta["resourceVersion"] } else { &meta["generation"] };
        (name, version.clone())
    };
    list["items"].as_array().unwrap().iter().map(version).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_installed_is_accepted_as_a_whole_and_again_without_a_change() {
    let work = Workdir::new("install");
    let Some(kube) = Kube::start(&work).await else { return };
    let said = kubectl(&kube, &["apply", "--server-side"]).await;
    assert!(said.lines().all(|line| line.ends_with("serverside-applied")), "{said}");
    let first = versions(&kube).await;
    assert_eq!(first.len(), said.lines().count(), "{first:?}\n{said}");
    kubectl(&kube, &["apply", "--server-side"]).await;
    assert_eq!(versions(&kube).await, first);
    // The namespace is restricted, and admission looks at the pods and not at their template.
    let pods = format!("/api/v1/namespaces/{OURS}/pods");
    eventually_ok(PATIENCE, "its pods are admitted", async || {
        let pods = kube.get(&pods).await;
        if pods["items"].as_array().is_some_and(|pods| pods.len() == 2) {
            return Ok(());
        }
        Err(kube.get(&format!("/apis/apps/v1/namespaces/{OURS}/replicasets")).await["items"][0]["status"].to_string())
    })
    .await;
}

/// A pod of the installed Deployment.
struct Pod {
    process: Process,
    account: PathBuf,
}

// === impl Pod ===

impl Pod {
    async fn start(work: &Workdir, kube: &Kube) -> Self {
        let account = work.create_dir("account");
        let certificates = std::fs::read(kube.ca_file()).unwrap();
        for (file, content) in [("ca.crt", &*certificates), ("namespace", OURS.as_bytes())] {
            std::fs::write(account.join(file), content).unwrap();
        }
        renew_token(&account, kube).await;

        let map = kube.get(&format!("/api/v1/namespaces/{OURS}/configmaps/xebec")).await;
        let settings = work.write("settings.yaml", map["data"]["settings.yaml"].as_str().unwrap());
        let deployment = kube.get(&format!("/apis/apps/v1/namespaces/{OURS}/deployments/xebec")).await;
        let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        let arguments = arguments.iter().map(|argument| {
            argument.as_str().unwrap().replace("/etc/xebec/settings.yaml", &settings.display().to_string())
        });
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", MOUNT, "sh"]).arg(&account).arg(peer::xebec()).args(arguments);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("XEBEC_")) {
            command.env_remove(name);
        }
        let address = kube.api_addr();
        let (host, port) = address.trim_start_matches("https://").rsplit_once(':').unwrap();
        command.env_remove("KUBECONFIG").env("HOME", work.create_dir("home")).env("NO_COLOR", "1");
        command.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
        command.env("POD_NAME", "xebec-1").env("POD_NAMESPACE", OURS).current_dir(work.path());
        Self { process: Process::start(work, "serve", command), account }
    }

    async fn page(&self, path: &str) -> Result<String, String> {
        client::page((POD, 15014).into(), path).await
    }

    async fn json(&self, path: &str) -> Value {
        self.page(path).await.ok().and_then(|page| serde_json::from_str(&page).ok()).unwrap_or_default()
    }

    /// Waits until the cluster's line in `/debug/clusterz` is as wanted.
    async fn until(&self, what: &str, so: impl Fn(&Value) -> bool) {
        eventually_ok(PATIENCE, what, async || {
            let lines = self.json("/debug/clusterz").await;
            let line = lines.as_array().and_then(|lines| lines.iter().find(|line| line["id"] == "kubernetes"));
            match line {
                Some(line) if so(line) => Ok(()),
                other => Err(format!("{other:?}; {}", self.process.stderr())),
            }
        })
        .await;
    }

    async fn knows(&self, host: &str) -> bool {
        let services = self.json("/debug/endpointz").await;
        services.as_array().is_some_and(|all| all.iter().any(|service| service["svc"] == host))
    }

    /// Lines of its log that say that something was not allowed.
    fn refusals(&self) -> Vec<String> {
        let said = self.process.stderr() + &self.process.stdout();
        let about = |line: &&str| ["(403", "403:", "forbidden", "not allowed"].iter().any(|word| line.contains(word));
        said.lines().filter(about).map(str::to_owned).collect()
    }
}

/// Does what a kubelet does with a token that is about to end.
async fn renew_token(account: &Path, kube: &Kube) {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600}});
    let path = format!("/api/v1/namespaces/{OURS}/serviceaccounts/xebec/token");
    let answer = kube.api().post(&path, request).await;
    let new = account.join("token.new");
    std::fs::write(&new, answer["status"]["token"].as_str().unwrap()).unwrap();
    std::fs::rename(new, account.join("token")).unwrap();
}

async fn put_service(kube: &Kube, name: &str) {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}});
    kube.put_object(&format!("/api/v1/namespaces/default/services/{name}"), &object).await;
}

#[test]
fn a_pod_of_the_deployment_reads_all_with_its_own_account_and_names_a_right_that_is_taken_away() {
    netns::inside(async || {
        let work = Workdir::new("install-pod");
        let Some(mut kube) = Kube::start(&work).await else { return };
        kubectl(&kube, &["apply", "--server-side"]).await;
        put_service(&kube, "web").await;
        let route = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "web"},
            "spec": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}]}]}});
        let routes = "/apis/networking.istio.io/v1/namespaces/default/virtualservices/web";
        kube.put_object(routes, &route).await;

        let pod = Pod::start(&work, &kube).await;
        pod.until("the cluster is synced", |line| line["syncStatus"] == "synced").await;
        eventually(PATIENCE, "the pod is ready at its own address", async || pod.page("/ready").await.is_ok()).await;
        assert!(pod.knows("web.default.svc.cluster.local").await);
        eventually_ok(PATIENCE, "it leads and writes the status of what it reads", async || {
            let status = kube.get(routes).await["status"].clone();
            if status["conditions"].is_array() { Ok(()) } else { Err(format!("{status}; {}", pod.process.stderr())) }
        })
        .await;
        eventually_ok(PATIENCE, "it keeps the webhook's configuration", async || {
            let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/xebec-validation";
            let bundle = kube.get(path).await["webhooks"][0]["clientConfig"]["caBundle"].clone();
            if bundle.is_string() { Ok(()) } else { Err(pod.process.stderr()) }
        })
        .await;
        assert_eq!(pod.refusals(), [""; 0]);

        // A right that is gone counts from the next connection on.
        let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/xebec";
        let good = kube.get(role).await["rules"].clone();
        let mut less = good.clone();
        for rule in less.as_array_mut().unwrap() {
            if rule["resources"].as_array().unwrap().contains(&json!("endpointslices")) {
                rule["verbs"] = json!(["get", "list"]);
            }
        }
        kube.merge(role, &json!({"rules": less})).await;
        // A token is another one by then, too.
        renew_token(&pod.account, &kube).await;
        kube.restart_api().await;
        pod.until("the missing right is named", |line| {
            let reason = line["reason"].as_str().unwrap_or_default();
            line["syncStatus"] == "degraded"
                && reason.contains("not allowed to watch endpointslices.discovery.k8s.io (403)")
        })
        .await;
        assert!(pod.knows("web.default.svc.cluster.local").await, "nothing is lost");
        kube.merge(role, &json!({"rules": good})).await;
        pod.until("all is well again", |line| line["syncStatus"] == "synced").await;
        put_service(&kube, "late").await;
        eventually(PATIENCE, "and read on", async || pod.knows("late.default.svc.cluster.local").await).await;
    });
}
