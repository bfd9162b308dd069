//! Against a real API server: the source, status, the webhook, leadership, and everything under `install/kubernetes`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use xebec_adapter_kubernetes_config::{
    Access, Acknowledged, FailurePolicy, KubernetesConfig, Leader, Proxies, Settings, StatusWriter, Webhook,
    WebhookSettings,
};
use xebec_galley::{Config, ConfigEvent, SourceUpdate};
use xebec_testkit::{Fault, FaultProxy, Kube, Workdir, eventually, eventually_ok, port};

const SOON: Duration = Duration::from_secs(20);
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

/// Everything that a source has said so far.
struct Followed {
    updates: mpsc::Receiver<SourceUpdate>,
    seen: Vec<SourceUpdate>,
    _task: Running,
}

struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Followed {
    fn start(source: KubernetesConfig) -> Self {
        let (sender, updates) = mpsc::channel(64);
        let task = tokio::spawn(async move { source.run(sender, std::future::pending()).await.unwrap() });
        Self { updates, seen: Vec::new(), _task: Running(task.abort_handle()) }
    }

    /// Waits for an update that is so, and returns it.
    async fn until(&mut self, what: &str, so: impl Fn(&SourceUpdate) -> bool) -> SourceUpdate {
        let wait = async {
            loop {
                let update = self.updates.recv().await.expect("the source runs");
                self.seen.push(update.clone());
                if so(&update) {
                    return update;
                }
            }
        };
        match tokio::time::timeout(SOON, wait).await {
            Ok(update) => update,
            Err(_) => panic!("not seen: {what}; seen: {:#?}", self.seen),
        }
    }

    async fn upsert(&mut self, name: &str) -> Config {
        let is = |event: &ConfigEvent| matches!(event, ConfigEvent::Upsert(config) if &*config.meta().key.name == name);
        let update = self.until(&format!("{name} is new or different"), |update| update.events.iter().any(is)).await;
        let found = update.events.into_iter().find(is);
        match found {
            Some(ConfigEvent::Upsert(config)) => config,
            _ => unreachable!("it was found above"),
        }
    }

    async fn removed(&mut self, name: &str) {
        let is = |event: &ConfigEvent| matches!(event, ConfigEvent::Remove(key) if &*key.name == name);
        self.until(&format!("{name} is gone"), |update| update.events.iter().any(is)).await;
    }
}

fn install() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../install/kubernetes")
}

/// Whether our service account may do something: `RESOURCE[/SUBRESOURCE][.GROUP][ NAME]`. Whether the server knows the kind yet makes
/// no difference.
async fn may(kube: &Kube, verb: &str, what: &str, namespace: &str) -> bool {
    let (what, name) = what.split_once(' ').unwrap_or((what, ""));
    let (resource, group) = what.split_once('.').unwrap_or((what, ""));
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": "system:serviceaccount:xebec-system:xebec",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:xebec-system", "system:authenticated"],
        "resourceAttributes": {"verb": verb, "resource": resource, "subresource": subresource, "group": group,
            "name": name, "namespace": namespace}}});
    let answer = kube.api().post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review).await;
    answer["status"]["allowed"] == true
}

async fn install_definitions(kube: &Kube) {
    let path = install().join("crds").display().to_string();
    let output = kube.kubectl(&["apply", "--server-side", "-f", &path]).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    // A path answers 404 for some moments more.
    eventually_ok(SOON, "every kind is served", async || {
        for kind in ["virtualservices", "destinationrules", "gateways", "serviceentries", "workloadentries", "sidecars"]
        {
            kube.api().json("GET", &format!("/apis/networking.istio.io/v1/{kind}"), None).await?;
        }
        Ok::<(), xebec_testkit::api::Refused>(())
    })
    .await;
}

fn settings(kubeconfig: PathBuf) -> Settings {
    Settings { kubeconfig: Some(kubeconfig), namespace: Some("xebec-system".to_owned()), ..Default::default() }
}

fn service(name: &str, host: &str) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name},
        "spec": {"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]}})
}

fn path(kind: &str, name: &str) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/default/{kind}/{name}")
}

struct Half;

impl Acknowledged for Half {
    fn proxies(&self, _: &Config) -> Option<Proxies> {
        Some(Proxies { acknowledged: 1, connected: 2 })
    }
}

fn condition<'v>(object: &'v Value, of: &str) -> Option<&'v Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == of)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_of_a_cluster_is_followed_judged_and_told_its_status_over_an_outage() {
    let work = Workdir::new("config");
    let Some(mut kube) = Kube::start(&work).await else { return };
    kube.kubectl(&["create", "namespace", "xebec-system"]).await;
    let access = Access::new(&settings(kube.kubeconfig()));
    let source = KubernetesConfig::with_access(access.clone());
    let leader = Leader::new(access.clone());
    let writer = StatusWriter::new(access, source.statuses(), leader.watch(), Arc::new(Half));
    let mut followed = Followed::start(source);
    let _tasks = [
        Running(tokio::spawn(leader.run(std::future::pending())).abort_handle()),
        Running(tokio::spawn(writer.run(std::future::pending())).abort_handle()),
    ];

    // Nothing is installed: that is no fault.
    let first = followed.until("synced without definitions", |update| update.synced).await;
    assert_eq!((first.events.len(), first.diagnostics.len()), (0, 0), "{first:?}");

    // Installed while it runs.
    install_definitions(&kube).await;
    kube.put_object(&path("virtualservices", "reviews"), &service("reviews", "reviews")).await;
    let config = followed.upsert("reviews").await;
    assert!(config.meta().created > 1_700_000_000, "the creation time decides which of two is older");
    assert_eq!(&*config.meta().source.file, "kubernetes:VirtualService/default/reviews");
    kube.put_object(&path("virtualservices", "reviews"), &service("reviews", "ratings")).await;
    let Config::VirtualService(changed) = followed.upsert("reviews").await else { panic!("another kind") };
    assert_eq!(changed.spec.hosts, ["ratings"]);

    // The schema cannot see this mistake. What was last good stays.
    let mut bad = service("reviews", "details");
    bad["spec"]["http"][0]["retries"] = json!({"attempts": 2, "retryOn": "sometimes"});
    kube.put_object(&path("virtualservices", "reviews"), &bad).await;
    let told = followed.until("the mistake", |update| update.diagnostics.iter().any(|d| d.is_error())).await;
    assert!(told.events.is_empty(), "{told:?}");
    eventually_ok(SOON, "the status says why", async || {
        let object = kube.get(&path("virtualservices", "reviews")).await;
        let accepted = condition(&object, "xebec.io/Accepted").cloned().unwrap_or_default();
        let current = accepted["observedGeneration"] == object["metadata"]["generation"];
        let said = accepted["message"].as_str().unwrap_or_default();
        let wanted = accepted["status"] == "False" && current && said.contains("sometimes");
        if wanted { Ok(()) } else { Err(object["status"].clone()) }
    })
    .await;
    kube.put_object(&path("virtualservices", "reviews"), &service("reviews", "details")).await;
    followed.upsert("reviews").await;
    eventually_ok(SOON, "the status says that all is well", async || {
        let object = kube.get(&path("virtualservices", "reviews")).await;
        let ok = condition(&object, "xebec.io/Accepted").is_some_and(|c| c["status"] == "True")
            && condition(&object, "xebec.io/Acknowledged")
                .is_some_and(|c| c["message"] == "1 of 2 proxies that are connected to the leading replica");
        if ok { Ok(()) } else { Err(object["status"].clone()) }
    })
    .await;
    let settled = kube.get(&path("virtualservices", "reviews")).await["metadata"]["resourceVersion"].clone();

    // The server is killed, changed behind our back as far as watches are concerned, and comes back.
    kube.kill_api();
    followed.until("the outage", |update| update.diagnostics.iter().any(|d| d.is_error())).await;
    kube.restart_api().await;
    kube.put_object(&path("virtualservices", "later"), &service("later", "later")).await;
    followed.upsert("later").await;
    kube.delete(&path("virtualservices", "later")).await;
    followed.removed("later").await;
    let events = followed.seen.iter().flat_map(|update| &update.events);
    let removed: Vec<_> = events.filter(|event| matches!(event, ConfigEvent::Remove(_))).collect();
    assert_eq!(removed.len(), 1, "an outage removes nothing: {removed:?}");
    let after = kube.get(&path("virtualservices", "reviews")).await["metadata"]["resourceVersion"].clone();
    assert_eq!(settled, after, "a status that says all is not written again");

    // Ours are gone only when the server says so.
    kube.delete(&path("virtualservices", "reviews")).await;
    followed.removed("reviews").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_becomes_routes_and_a_forbidden_kind_is_said_and_removes_nothing() {
    let work = Workdir::new("ingress");
    let Some(kube) = Kube::start(&work).await else { return };
    install_definitions(&kube).await;
    let rights = |resources: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "alice"},
            "rules": [
                {"apiGroups": ["networking.istio.io"], "resources": resources, "verbs": ["get", "list", "watch"]},
                {"apiGroups": ["", "networking.k8s.io", "gateway.networking.k8s.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]})
    };
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/alice";
    kube.put_object(role, &rights(json!(["*"]))).await;
    kube.apply("{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: alice}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: alice}, subjects: [{kind: User, name: alice, apiGroup: rbac.authorization.k8s.io}]}").await;
    kube.put_object(&path("virtualservices", "reviews"), &service("reviews", "reviews")).await;
    kube.apply("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}").await;
    kube.apply("{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: xebec}, spec: {controller: xebec.io/ingress-controller}}").await;
    kube.apply("{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: shop}, spec: {ingressClassName: xebec, rules: [{host: shop.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}").await;
    let mut followed = Followed::start(KubernetesConfig::new(&settings(kube.token_kubeconfig("alice-token"))));
    let update = followed.until("routes of the Ingress", |update| {
        update.events.iter().any(|event| matches!(event, ConfigEvent::Upsert(Config::VirtualService(service)) if service.spec.hosts == ["shop.example.com"]))
    }).await;
    assert!(update.synced);

    // Rights are taken away, and the watch is cut by a change of the definition's versions on the server.
    kube.put_object(role, &rights(json!(["gateways"]))).await;
    let mut cut = Followed::start(KubernetesConfig::new(&settings(kube.token_kubeconfig("alice-token"))));
    let told = cut.until("403", |update| update.diagnostics.iter().any(|d| d.message.contains("403"))).await;
    assert!(told.diagnostics[0].help.as_deref().is_some_and(|help| help.contains("list and watch")), "{told:?}");
    assert!(!told.synced, "an incomplete list is not the whole");
    kube.put_object(role, &rights(json!(["*"]))).await;
    cut.upsert("reviews").await;
    // Often that was the last kind that was missing.
    if !cut.seen.iter().any(|update| update.synced) {
        cut.until("all was read", |update| update.synced).await;
    }
    assert!(!GATEWAY_API.is_empty());
}

fn hook(listen: u16, failure_policy: FailurePolicy) -> WebhookSettings {
    WebhookSettings {
        listen: ([127, 0, 0, 1], listen).into(),
        url: Some(format!("https://127.0.0.1:{listen}/validate")),
        failure_policy,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_install_manifests_apply_with_the_least_rights_and_their_webhook_refuses_what_galley_refuses() {
    let work = Workdir::new("install");
    let Some(kube) = Kube::start(&work).await else { return };
    let folder = install().display().to_string();
    // A namespace and its content in one go: the first attempt may be too early for the content.
    eventually_ok(Duration::from_secs(60), "the manifests are applied", async || {
        let output = kube.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &folder]).await;
        if output.code == Some(0) { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    let output = kube.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);

    // Rights.
    for (allowed, verb, what, namespace) in [
        (true, "watch", "services", "default"),
        (true, "watch", "pods", "default"),
        (true, "list", "endpointslices.discovery.k8s.io", "default"),
        (true, "watch", "virtualservices.networking.istio.io", "default"),
        (true, "patch", "virtualservices/status.networking.istio.io", "default"),
        (true, "list", "httproutes.gateway.networking.k8s.io", "default"),
        (true, "patch", "gateways/status.gateway.networking.k8s.io", "default"),
        (true, "create", "leases.coordination.k8s.io", "xebec-system"),
        (true, "update", "leases.coordination.k8s.io xebec-leader", "xebec-system"),
        (true, "update", "secrets xebec-webhook-tls", "xebec-system"),
        (true, "update", "validatingwebhookconfigurations.admissionregistration.k8s.io xebec-validation", ""),
        (false, "list", "secrets", "default"),
        (false, "update", "secrets other", "xebec-system"),
        (false, "delete", "virtualservices.networking.istio.io", "default"),
        (false, "patch", "virtualservices.networking.istio.io", "default"),
        (false, "patch", "gateways.gateway.networking.k8s.io", "default"),
        (false, "update", "validatingwebhookconfigurations.admissionregistration.k8s.io other", ""),
        (false, "create", "pods", "xebec-system"),
        (false, "update", "leases.coordination.k8s.io other", "xebec-system"),
    ] {
        assert_eq!(may(&kube, verb, what, namespace).await, allowed, "{verb} {what} in {namespace:?}");
    }

    // Examples, which live in a namespace of their own.
    kube.kubectl(&["create", "namespace", "shop"]).await;
    let examples = install().join("../../examples");
    let mut applied = 0;
    for folder in std::fs::read_dir(&examples).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
            let text = std::fs::read_to_string(file.path()).unwrap();
            if text.contains("networking.istio.io/") {
                let output = kube.try_apply(&text).await;
                assert_eq!(output.code, Some(0), "{}: {}", file.path().display(), output.stderr);
                applied += 1;
            }
        }
    }
    assert!(applied >= 8, "{applied}");

    // The webhook, with the service account's own rights.
    let token = kube.kubectl(&["create", "token", "xebec", "-n", "xebec-system"]).await;
    let access = Access::new(&settings(kube.token_kubeconfig(token.stdout.trim())));
    let leader = Leader::new(access.clone());
    let leads = leader.watch();
    let closed =
        Webhook::bind(access.clone(), hook(port::free_number(), FailurePolicy::Fail), leads.clone()).await.unwrap();
    let leading = Running(tokio::spawn(leader.run(std::future::pending())).abort_handle());
    let serving = Running(tokio::spawn(closed.run(std::future::pending())).abort_handle());
    let configuration = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/xebec-validation";
    let hook_is = async |policy: &str| {
        eventually_ok(SOON, "the configuration is kept", async || {
            let object = kube.get(configuration).await;
            let webhook = &object["webhooks"][0];
            let kept = webhook["failurePolicy"] == policy && webhook["clientConfig"]["url"].is_string();
            if kept { Ok(()) } else { Err(object) }
        })
        .await;
    };
    hook_is("Fail").await;
    let bad = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: hooked}, spec: {host: 'http://a'}}";
    eventually_ok(SOON, "what galley refuses is refused with its text", async || {
        let output = kube.try_apply(bad).await;
        let said = output.code != Some(0)
            && output.stderr.contains("`http://a` is not a host")
            && output.stderr.contains("without scheme, port or path");
        if said { Ok(()) } else { Err(output.stdout + &output.stderr) }
    })
    .await;
    let good = bad.replace("http://a", "a");
    kube.apply(&good).await;
    let warned = kube
        .try_apply(&good.replace("{host: 'a'}", "{host: a, trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}}"))
        .await;
    assert!(warned.code == Some(0) && warned.stderr.contains("deprecated name of"), "{warned:?}");

    // Nobody answers: closed, then open.
    drop(serving);
    let output = kube.try_apply(&good.replace("hooked", "unseen")).await;
    assert!(output.code != Some(0) && output.stderr.contains("failed calling webhook"), "{}", output.stderr);
    let open = Webhook::bind(access, hook(port::free_number(), FailurePolicy::Ignore), leads).await.unwrap();
    let serving = Running(tokio::spawn(open.run(std::future::pending())).abort_handle());
    hook_is("Ignore").await;
    eventually_ok(SOON, "the new one refuses", async || {
        let output = kube.try_apply(&bad.replace("hooked", "again")).await;
        if output.code == Some(0) { Err(output.stdout) } else { Ok(()) }
    })
    .await;
    drop(serving);
    eventually_ok(SOON, "without an answer it is let through", async || {
        let output = kube.try_apply(&bad.replace("hooked", "open")).await;
        if output.code == Some(0) { Ok(()) } else { Err(output.stderr) }
    })
    .await;
    drop(leading);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_leads_and_the_other_takes_over_when_it_is_killed_or_stops() {
    let work = Workdir::new("leader");
    let Some(mut kube) = Kube::start(&work).await else { return };
    kube.kubectl(&["create", "namespace", "xebec-system"]).await;
    let candidate = || Leader::new(Access::new(&settings(kube.kubeconfig())));
    let (first, second, third) = (candidate(), candidate(), candidate());
    let (mut one, mut two, mut three) = (first.watch(), second.watch(), third.watch());
    let killed = tokio::spawn(first.run(std::future::pending()));
    tokio::time::timeout(SOON, one.wait_for(|leads| *leads)).await.expect("one leads").unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopping = tokio::spawn(second.run(async move { drop(stopped.await) }));
    let start = tokio::time::Instant::now();
    killed.abort();
    tokio::time::timeout(2 * SOON, two.wait_for(|leads| *leads)).await.expect("the other takes over").unwrap();
    assert!(start.elapsed() > Duration::from_secs(8), "a Lease that may be valid is not taken: {:?}", start.elapsed());
    let _third = Running(tokio::spawn(third.run(std::future::pending())).abort_handle());
    eventually(SOON, "a third one has looked", async || !*three.borrow()).await;
    let start = tokio::time::Instant::now();
    stop.send(()).unwrap();
    stopping.await.unwrap();
    assert!(!*two.borrow());
    tokio::time::timeout(SOON, three.wait_for(|leads| *leads)).await.expect("it was given back").unwrap();
    assert!(start.elapsed() < Duration::from_secs(8), "giving back is faster than waiting: {:?}", start.elapsed());
    // Who cannot renew leads no longer.
    kube.kill_api();
    let start = tokio::time::Instant::now();
    tokio::time::timeout(SOON, three.wait_for(|leads| !*leads)).await.expect("it stops leading").unwrap();
    assert!(start.elapsed() < Duration::from_secs(13), "{:?}", start.elapsed());
}

/// A kubeconfig with contexts of these names, servers and tokens; the first is its current one.
fn kubeconfig(contexts: &[(&str, &str, &str)]) -> String {
    let all = |entry: fn(&(&str, &str, &str)) -> Value| contexts.iter().map(entry).collect::<Vec<_>>();
    json!({"apiVersion": "v1", "kind": "Config", "current-context": contexts[0].0,
        "clusters": all(|(name, server, _)| json!({"name": name, "cluster": {"server": server}})),
        "users": all(|(name, _, token)| json!({"name": name, "user": {"token": token}})),
        "contexts": all(|(name, _, _)| json!({"name": name, "context": {"cluster": name, "user": name}}))})
    .to_string()
}

/// An administrator's token that is valid for as long as a secret of this name exists.
async fn token_bound_to(kube: &Kube, secret: &str) -> String {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret}});
    let made = kube.put_object(&format!("/api/v1/namespaces/default/secrets/{secret}"), &object).await;
    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": secret, "uid": made["metadata"]["uid"]});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600, "boundObjectRef": bound}});
    let answer = kube.api().post("/api/v1/namespaces/default/serviceaccounts/default/token", request).await;
    answer["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_credentials_are_used_by_everybody_and_refused_ones_take_nothing_away() {
    let work = Workdir::new("renewed");
    let Some(kube) = Kube::start(&work).await else { return };
    install_definitions(&kube).await;
    kube.kubectl(&["create", "namespace", "xebec-system"]).await;
    kube.kubectl(&[
        "create",
        "clusterrolebinding",
        "all",
        "--clusterrole=cluster-admin",
        "--serviceaccount=default:default",
    ])
    .await;
    let proxy = FaultProxy::start(&kube.api_addr(), Some(&kube.ca_file())).await;
    let cut = async || {
        proxy.set(Fault::Refuse);
        tokio::task::yield_now().await;
        proxy.set(Fault::None);
    };
    let written = |token: &str| kubeconfig(&[("c", &proxy.url(), token)]);
    let file = work.write("kubeconfig", written(&token_bound_to(&kube, "first").await));
    let access = Access::new(&settings(file.clone()));
    let source = KubernetesConfig::with_access(access.clone());
    let leader = Leader::new(access.clone());
    let mut leads = leader.watch();
    let writer = StatusWriter::new(access, source.statuses(), leader.watch(), Arc::new(Half));
    let mut followed = Followed::start(source);
    let _tasks = [
        Running(tokio::spawn(leader.run(std::future::pending())).abort_handle()),
        Running(tokio::spawn(writer.run(std::future::pending())).abort_handle()),
    ];
    kube.put_object(&path("virtualservices", "one"), &service("one", "one")).await;
    followed.upsert("one").await;
    tokio::time::timeout(SOON, leads.wait_for(|leads| *leads)).await.unwrap().unwrap();

    // The token ends before anybody has renewed it.
    kube.delete("/api/v1/namespaces/default/secrets/first").await;
    eventually_ok(SOON, "the token is refused", async || {
        cut().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        while let Ok(update) = followed.updates.try_recv() {
            followed.seen.push(update);
        }
        let told = followed.seen.iter().flat_map(|update| &update.diagnostics).any(|d| d.message.contains("401"));
        if told { Ok(()) } else { Err(format!("{:?}", followed.seen)) }
    })
    .await;
    tokio::time::timeout(SOON, leads.wait_for(|leads| !*leads)).await.unwrap().unwrap();

    // It is renewed: configuration, Lease and status go on.
    work.write("kubeconfig", written(&token_bound_to(&kube, "second").await));
    kube.put_object(&path("virtualservices", "two"), &service("two", "two")).await;
    followed.upsert("two").await;
    tokio::time::timeout(SOON, leads.wait_for(|leads| *leads)).await.unwrap().unwrap();
    eventually_ok(SOON, "the status is written", async || {
        let object = kube.get(&path("virtualservices", "two")).await;
        if condition(&object, "xebec.io/Accepted").is_some() { Ok(()) } else { Err(object) }
    })
    .await;
    let removed = followed.seen.iter().flat_map(|update| &update.events);
    assert_eq!(removed.filter(|event| matches!(event, ConfigEvent::Remove(_))).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_context_that_was_named_is_read_and_not_the_current_one() {
    let work = Workdir::new("context");
    let Some(kube) = Kube::start(&work).await else { return };
    install_definitions(&kube).await;
    kube.put_object(&path("virtualservices", "one"), &service("one", "one")).await;
    let proxy = FaultProxy::start(&kube.api_addr(), Some(&kube.ca_file())).await;
    let nobody = format!("http://{}", port::free());
    let file = work.write("kubeconfig", kubeconfig(&[("none", &nobody, "t"), ("prod", &proxy.url(), kube.token())]));
    let of = |context: &str| Settings { context: Some(context.to_owned()), ..settings(file.clone()) };
    Followed::start(KubernetesConfig::new(&of("prod"))).upsert("one").await;
    let error = Access::new(&of("staging")).try_client().await.err().unwrap().to_string();
    assert!(error.contains("staging"), "{error}");
}
