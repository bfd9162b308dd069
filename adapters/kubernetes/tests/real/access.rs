//! Who reads, with which rights, and what of the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use xebec_adapter_kubernetes::Settings;
use xebec_testkit::{Fault, FaultProxy, Kube, Workdir, eventually_ok};

use crate::heard::{SOON, host, listen, put_service};
fn role(resources: &[(&str, &str)]) -> Value {
    let rules: Vec<Value> = resources
        .iter()
        .map(|(group, name)| json!({"apiGroups": [group], "resources": [name], "verbs": ["get", "list", "watch"]}))
        .collect();
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": rules})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_named_and_nothing_is_lost_when_one_is_taken_away() {
    let work = Workdir::new("kubernetes-rbac");
    let Some(kube) = Kube::start(&work).await else { return };
    let all =
        [("", "pods"), ("", "services"), ("", "namespaces"), ("discovery.k8s.io", "endpointslices"), ("", "nodes")];
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles/reader";
    kube.put_object(roles, &role(&all[..4])).await;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
    });
    kube.put_object("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/reader", &binding).await;
    let listener = listen(kube.token_kubeconfig("alice-token"), Settings::default());
    listener
        .until("the missing permission is named", |heard| {
            heard
                .degraded
                .as_ref()
                .is_some_and(|text| text.contains("not allowed to watch nodes (403)") && !text.contains("watch pods"))
        })
        .await;
    assert!(!listener.heard.lock().synced, "not everything was listed");
    kube.put_object(roles, &role(&all)).await;
    listener.until("it is synced", |heard| heard.synced && heard.degraded.is_none()).await;
    assert!(listener.heard.lock().services.contains_key(&host("kubernetes")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_listing_that_is_refused_is_no_empty_mesh() {
    let work = Workdir::new("kubernetes-refused");
    let Some(kube) = Kube::start(&work).await else { return };
    let listener = listen(kube.token_kubeconfig("alice-token"), Settings::default());
    listener
        .until("each missing permission is named", |heard| {
            let named = |text: &String| {
                ["pods", "services", "endpointslices.discovery.k8s.io", "nodes", "namespaces"]
                    .iter()
                    .all(|resource| text.contains(&format!("not allowed to watch {resource} (403)")))
            };
            heard.degraded.as_ref().is_some_and(named)
        })
        .await;
    let heard = listener.heard.lock();
    assert!(!heard.synced && heard.services.is_empty(), "{:?}", heard.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn chosen_namespaces_are_read_with_rights_in_these_alone() {
    let work = Workdir::new("kubernetes-namespaces");
    let Some(kube) = Kube::start(&work).await else { return };
    kube.put_node("node-a", json!({"topology.kubernetes.io/region": "r1"})).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    for namespace in ["one", "two", "other"] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        kube.put_object(&format!("/api/v1/namespaces/{namespace}"), &object).await;
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}});
        kube.put_object(&format!("/api/v1/namespaces/{namespace}/services/web"), &object).await;
        if namespace == "other" {
            continue;
        }
        let all = [("", "pods"), ("", "services"), ("discovery.k8s.io", "endpointslices")];
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "reader"}, "rules": role(&all)["rules"]});
        kube.put_object(&format!("{rbac}/namespaces/{namespace}/roles/reader"), &role).await;
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}]});
        kube.put_object(&format!("{rbac}/namespaces/{namespace}/rolebindings/reader"), &binding).await;
    }
    eventually_ok(SOON, "each namespace has its service account", async || {
        kube.api().json("GET", "/api/v1/namespaces/two/serviceaccounts/default", None).await
    })
    .await;
    kube.run_pod("two", "web-1", "node-a", "10.244.0.1", json!({"app": "web"}), true).await;
    let settings = Settings {
        namespaces: vec!["one".to_owned(), "two".to_owned()],
        cluster_objects: false,
        ..Settings::default()
    };
    let listener = listen(kube.token_kubeconfig("alice-token"), settings);
    let two = "web.two.svc.cluster.local";
    listener.until("both namespaces are read", |heard| heard.synced && heard.addresses(two).len() == 1).await;
    let heard = listener.heard.lock();
    let services: Vec<&String> = heard.services.keys().collect();
    assert_eq!(services, ["web.one.svc.cluster.local", two]);
    assert_eq!(heard.degraded, None);
    assert_eq!(&*heard.endpoints[two][0].locality.region, "", "nodes are not read");
    assert!(heard.workloads.contains_key("web-1"));
}

/// A kubeconfig whose user is described by `user`, and whose server is in front of the real one.
fn kubeconfig(work: &Workdir, name: &str, server: &str, user: &Value) -> PathBuf {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    });
    work.write(name, config.to_string())
}

/// A token that is valid for as long as a secret exists.
async fn token_bound_to(kube: &Kube, secret: &str) -> String {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}});
    let made = kube.put_object(&format!("/api/v1/namespaces/default/secrets/{secret}"), &object).await;
    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": secret, "uid": made["metadata"]["uid"]});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600, "boundObjectRef": bound}});
    let answer = kube.api().post("/api/v1/namespaces/default/serviceaccounts/default/token", request).await;
    answer["status"]["token"].as_str().unwrap().to_owned()
}

async fn let_everybody_read(kube: &Kube) {
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "readers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "default"}],
    });
    kube.put_object("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/readers", &binding).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_replaced_in_its_file_is_used_and_a_refused_one_takes_nothing_away() {
    let work = Workdir::new("kubernetes-token");
    let Some(kube) = Kube::start(&work).await else { return };
    let_everybody_read(&kube).await;
    put_service(&kube, "web", json!({"ports": [{"name": "http", "port": 80}]})).await;
    let proxy = FaultProxy::start(&kube.api_addr(), Some(&kube.ca_file())).await;
    let token = work.write("token", "not-a-token");
    let path = kubeconfig(&work, "kubeconfig", &proxy.url(), &json!({"tokenFile": token}));
    let listener = listen(path, Settings::default());
    listener
        .until("a refused token is said", |heard| heard.degraded.as_ref().is_some_and(|text| text.contains("(401)")))
        .await;
    write(&token, &token_bound_to(&kube, "first").await);
    listener.until("the first token is used", |heard| heard.synced && heard.degraded.is_none()).await;

    // Rotated while the old one is valid: the next connection has the new one.
    write(&token, &token_bound_to(&kube, "second").await);
    kube.delete("/api/v1/namespaces/default/secrets/first").await;
    cut(&proxy).await;
    put_service(&kube, "late", json!({"ports": [{"name": "http", "port": 80}]})).await;
    listener.until("it reads on", |heard| heard.services.contains_key(&host("late"))).await;

    // Rotated after the old one has ended.
    kube.delete("/api/v1/namespaces/default/secrets/second").await;
    // The server believes in a token for some seconds after its end.
    eventually_ok(SOON, "the second token is refused", async || {
        cut(&proxy).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let degraded = listener.heard.lock().degraded.clone();
        if degraded.as_ref().is_some_and(|text| text.contains("(401)")) { Ok(()) } else { Err(format!("{degraded:?}")) }
    })
    .await;
    assert!(listener.heard.lock().services.contains_key(&host("web")));
    write(&token, &token_bound_to(&kube, "third").await);
    listener.until("the third token is used", |heard| heard.degraded.is_none()).await;
    let heard = listener.heard.lock();
    assert!(!heard.log.iter().any(|(_, text)| text.starts_with('-')), "{:?}", heard.log);
}

/// Puts another file into the place of this one, as a kubelet does.
fn write(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Ends every connection.
async fn cut(proxy: &FaultProxy) {
    proxy.set(Fault::Refuse);
    tokio::task::yield_now().await;
    proxy.set(Fault::None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_own_kubeconfig_may_run_its_credential_plugin_and_one_that_fails_is_said() {
    let work = Workdir::new("kubernetes-exec");
    let Some(kube) = Kube::start(&work).await else { return };
    let proxy = FaultProxy::start(&kube.api_addr(), Some(&kube.ca_file())).await;
    let said = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": kube.token()}});
    let exec = |command: &str| {
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", command],
            "interactiveMode": "Never"}})
    };
    let path = kubeconfig(&work, "kubeconfig", &proxy.url(), &exec("echo no credentials today >&2; exit 3"));
    let listener = listen(path.clone(), Settings::default());
    listener
        .until("the failing plugin is said", |heard| {
            heard.degraded.as_ref().is_some_and(|text| text.contains("kubeconfig") && text.contains("3"))
        })
        .await;
    kubeconfig(&work, "kubeconfig", &proxy.url(), &exec(&format!("echo '{said}'")));
    listener.until("its token is used", |heard| heard.synced && heard.degraded.is_none()).await;
}
