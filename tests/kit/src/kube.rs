//! A real Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager. There is no kubelet and no scheduler: a
//! test makes Nodes and Pods and writes what a kubelet would write ([`Kube::run_pod`]).

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{Api, Refused};
use crate::process::{self, Output};
use crate::signal::Signal;
use crate::{Peer, Process, Workdir, authority, client, peer, port, wait};

const READY: Duration = Duration::from_secs(90);
const ADMIN_TOKEN: &str = "admin-token";
/// How long a server that was asked to end may take.
const GRACE: Duration = Duration::from_secs(8);
const CONTROLLERS: &str = "endpointslice-controller,endpointslice-mirroring-controller,endpoints-controller,\
namespace-controller,serviceaccount-controller,serviceaccount-token-controller,\
root-ca-certificate-publisher-controller,garbage-collector-controller,deployment-controller,replicaset-controller,\
job-controller";
/// Who fields belong to that [`Kube::apply`] sets.
const FIELD_MANAGER: &str = "test";

/// A running control plane. Dropping it ends its parts, etcd last.
#[derive(Debug)]
pub struct Kube {
    work: PathBuf,
    folder: PathBuf,
    program: PathBuf,
    ports: Ports,
    // In the order in which they end.
    controllers: Process,
    server: Process,
    etcd: Process,
    api: Api,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    etcd: u16,
    etcd_peers: u16,
    server: u16,
    controllers: u16,
}

// === impl Kube ===

impl Kube {
    /// Starts one and waits until its controllers work. `None`: it is not here, and the test is skipped.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(work: &Workdir) -> Option<Self> {
        let program = Peer::Kube.or_skip()?;
        for _ in 0..4 {
            if let Some(kube) = Self::attempt(work, &program).await {
                return Some(kube);
            }
        }
        panic!("Kubernetes found its ports taken five times: {}", work.logs());
    }

    /// `None` when somebody else took one of its ports in the meantime.
    async fn attempt(work: &Workdir, program: &Path) -> Option<Self> {
        let ports = Ports {
            etcd: port::free_number(),
            etcd_peers: port::free_number(),
            server: port::free_number(),
            controllers: port::free_number(),
        };
        let folder = work.create_dir(format!("kube-{}", ports.server));
        authority::signing_key(&folder, "sa");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        };
        write(
            "tokens.csv",
            &format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\nalice-token,alice,alice,\"dev\"\n"),
        );
        write("kubeconfig", &kubeconfig(&folder, ports.server, ADMIN_TOKEN));
        let launcher = Launcher { work: work.path(), folder: &folder, program, ports };
        let mut etcd = launcher.etcd();
        let at = (std::net::Ipv4Addr::LOCALHOST, ports.etcd).into();
        if !peer::ready(&mut etcd, READY, async || client::page(at, "/health").await.is_ok()).await {
            return None;
        }
        let mut server = launcher.server();
        let api = api_ready(&mut server, &folder, ports.server).await?;
        let mut controllers = launcher.controllers();
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        let ready = async || api.json("GET", account, None).await.is_ok();
        if !peer::ready(&mut controllers, READY, ready).await {
            stop(&mut server);
            return None;
        }
        Some(Self {
            work: work.path().to_owned(),
            program: program.to_owned(),
            folder,
            ports,
            controllers,
            server,
            etcd,
            api,
        })
    }

    /// The program whose first argument is one of its parts, or `kubectl`.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A kubeconfig with all rights.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// A kubeconfig with another token. `alice-token` is known and has no rights but those that a test gives to `alice`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn token_kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.folder.join(format!("kubeconfig-{}", file_name_for(token)));
        std::fs::write(&path, kubeconfig(&self.folder, self.ports.server, token))
            .unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }

    /// Where the API server is: `https://127.0.0.1:PORT`.
    pub fn api_addr(&self) -> String {
        self.api.base().to_owned()
    }

    /// The certificates that clients of the API server trust.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("pki/apiserver.crt")
    }

    /// The administrator's bearer token.
    pub fn token(&self) -> &'static str {
        ADMIN_TOKEN
    }

    /// Its API, with all rights.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// GET, with all rights.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn get(&self, path: &str) -> Value {
        self.api.get(path).await
    }

    /// DELETE, at once and with all rights. Nothing happens when it is not there.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn delete(&self, path: &str) {
        let separator = if path.contains('?') { '&' } else { '?' };
        match self.api.json("DELETE", &format!("{path}{separator}gracePeriodSeconds=0"), None).await {
            Ok(_) | Err(Refused { status: Some(404), .. }) => {}
            Err(refused) => panic!("{refused}"),
        }
    }

    /// Applies objects (YAML documents or JSON) on the server's side, through kubectl.
    ///
    /// # Panics
    /// When one is refused.
    pub async fn apply(&self, objects: &str) {
        let output = self.try_apply(objects).await;
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    }

    /// The same, of which a refusal may be what the test is about.
    pub async fn try_apply(&self, objects: &str) -> Output {
        let file = tempfile::NamedTempFile::new_in(&self.folder).expect("a temporary file");
        std::fs::write(file.path(), objects).expect("a written file");
        let path = file.path().display().to_string();
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "--field-manager", FIELD_MANAGER, "-f", &path])
            .await
    }

    /// Runs kubectl of the same version, with all rights.
    pub async fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.arg("kubectl").arg("--kubeconfig").arg(self.kubeconfig()).args(arguments).env("HOME", &self.folder);
        process::run(command).await
    }

    /// Applies one object directly, which is a hundred times faster than a kubectl: `path` is the object's own, such as
    /// `/api/v1/namespaces/default/services/reviews`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn put_object(&self, path: &str, object: &Value) -> Value {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&force=true");
        let body = Some(("application/apply-patch+yaml", object.to_string().into_bytes()));
        self.api.send("PATCH", &path, body).await.unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Merges a patch into an object or one of its subresources, such as `.../pods/NAME/status`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn merge(&self, path: &str, patch: &Value) -> Value {
        let body = Some(("application/merge-patch+json", patch.to_string().into_bytes()));
        self.api.send("PATCH", path, body).await.unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// Makes a Node; its labels say the zone.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn put_node(&self, name: &str, labels: Value) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        self.put_object(&format!("/api/v1/nodes/{name}"), &node).await;
    }

    /// Makes a Pod that runs: on this node (made before), with this address and these labels, ready or not.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn run_pod(&self, namespace: &str, name: &str, node: &str, address: &str, labels: Value, ready: bool) {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "app", "image": "app"}]},
        });
        self.put_object(&format!("/api/v1/namespaces/{namespace}/pods/{name}"), &pod).await;
        self.set_pod(namespace, name, address, ready).await;
    }

    /// Says what a kubelet would say of a pod that runs.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn set_pod(&self, namespace: &str, name: &str, address: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": ready}],
        }});
        self.merge(&format!("/api/v1/namespaces/{namespace}/pods/{name}/status"), &status).await;
    }

    /// Installs the CustomResourceDefinitions of Istio and of the Gateway API's standard channel, and waits until they are
    /// served. False: they are not here, and the test is skipped.
    ///
    /// # Panics
    /// When they are refused.
    pub async fn install_crds(&self) -> bool {
        self.install_crds_of(GatewayChannel::Standard).await
    }

    /// The same with a channel of choice.
    ///
    /// # Panics
    /// When they are refused.
    pub async fn install_crds_of(&self, channel: GatewayChannel) -> bool {
        let Some(crds) = Peer::Crds.or_skip() else { return false };
        for folder in ["istio", channel.folder()] {
            let path = crds.join(folder).display().to_string();
            let arguments = ["apply", "--server-side", "--force-conflicts", "--recursive", "-f", &path];
            let output = self.kubectl(&arguments).await;
            assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
        }
        wait::eventually_ok(READY, "every CRD is served", async || {
            let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let list = self.api.json("GET", path, None).await.map_err(|refused| refused.text)?;
            let waiting = list["items"].as_array().into_iter().flatten().find(|crd| {
                let conditions = crd["status"]["conditions"].as_array().into_iter().flatten();
                !conditions.clone().any(|c| c["type"] == "Established" && c["status"] == "True")
            });
            waiting.map_or(Ok(()), |crd| Err(crd["metadata"]["name"].to_string()))
        })
        .await;
        true
    }

    /// Kills the API server, as a power cut would; etcd and the controllers stay.
    pub fn kill_api(&mut self) {
        self.server.kill();
    }

    /// Freezes the API server: connections stay, answers do not come.
    pub fn freeze_api(&mut self) {
        self.server.signal(Signal::Stop);
    }

    /// Lets it go on.
    pub fn thaw_api(&mut self) {
        self.server.signal(Signal::Continue);
    }

    /// Starts the API server again, on the same port, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn restart_api(&mut self) {
        self.kill_api();
        let (work, folder, program) = (self.work.clone(), self.folder.clone(), self.program.clone());
        let launcher = Launcher { work: &work, folder: &folder, program: &program, ports: self.ports };
        wait::eventually(READY, "the API server is back on its port", async || {
            self.server = launcher.server();
            api_ready(&mut self.server, &folder, self.ports.server).await.is_some()
        })
        .await;
    }
    /// Starts the controllers again, and waits until they work: a controller that lost its API server looks for it ever more rarely.
    ///
    /// # Panics
    /// When they do not.
    pub async fn restart_controllers(&mut self) {
        self.controllers.kill();
        let (work, folder, program) = (self.work.clone(), self.folder.clone(), self.program.clone());
        let launcher = Launcher { work: &work, folder: &folder, program: &program, ports: self.ports };
        let (at, account) = ("/api/v1/namespaces", "/api/v1/namespaces/restart/serviceaccounts/default");
        wait::eventually(READY, "the controllers are back", async || {
            self.controllers = launcher.controllers();
            // They work when they do something new.
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "restart"}});
            self.put_object(&format!("{at}/restart"), &namespace).await;
            let api = self.api.clone();
            peer::ready(&mut self.controllers, READY, async || api.json("DELETE", account, None).await.is_ok()).await
        })
        .await;
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        stop(&mut self.controllers);
        stop(&mut self.server);
        stop(&mut self.etcd);
    }
}

/// Which CustomResourceDefinitions of the Gateway API are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayChannel {
    /// What is stable or nearly so.
    Standard,
    /// Everything.
    Experimental,
}

// === impl GatewayChannel ===

impl GatewayChannel {
    fn folder(self) -> &'static str {
        match self {
            Self::Standard => "gateway-api/standard",
            Self::Experimental => "gateway-api/experimental",
        }
    }
}

/// What the three programs are started with.
struct Launcher<'a> {
    work: &'a Path,
    folder: &'a Path,
    program: &'a Path,
    ports: Ports,
}

// === impl Launcher ===

impl Launcher<'_> {
    fn etcd(&self) -> Process {
        let at = self.folder.display();
        let (clients, peers) = (self.ports.etcd, self.ports.etcd_peers);
        self.launch(
            "etcd",
            &[
                "--name=t".to_owned(),
                format!("--data-dir={at}/etcd"),
                format!("--listen-client-urls=http://127.0.0.1:{clients}"),
                format!("--advertise-client-urls=http://127.0.0.1:{clients}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peers}"),
                format!("--initial-cluster=t=http://127.0.0.1:{peers}"),
                "--unsafe-no-fsync".to_owned(),
                "--log-level=warn".to_owned(),
            ],
        )
    }

    fn server(&self) -> Process {
        let at = self.folder.display();
        self.launch(
            "kube-apiserver",
            &[
                format!("--etcd-servers=http://127.0.0.1:{}", self.ports.etcd),
                format!("--cert-dir={at}/pki"),
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", self.ports.server),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={at}/sa.pub"),
                format!("--service-account-signing-key-file={at}/sa.key"),
                "--authorization-mode=RBAC".to_owned(),
                format!("--token-auth-file={at}/tokens.csv"),
                "--allow-privileged=true".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                "--enable-priority-and-fairness=false".to_owned(),
            ],
        )
    }

    fn controllers(&self) -> Process {
        let at = self.folder.display();
        self.launch(
            "kube-controller-manager",
            &[
                format!("--kubeconfig={at}/kubeconfig"),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", self.ports.controllers),
                format!("--cert-dir={at}/pki-controllers"),
                format!("--service-account-private-key-file={at}/sa.key"),
                format!("--root-ca-file={at}/pki/apiserver.crt"),
                format!("--controllers={CONTROLLERS}"),
                "--concurrent-gc-syncs=2".to_owned(),
                // Its own limit would be what a test of a burst measures.
                "--kube-api-qps=1000".to_owned(),
                "--kube-api-burst=2000".to_owned(),
            ],
        )
    }

    fn launch(&self, component: &str, arguments: &[String]) -> Process {
        let mut command = Command::new(self.program);
        command.arg(component).args(arguments).current_dir(self.folder).env_remove("KUBECONFIG");
        // The API server would ask a proxy outside for webhooks in the cluster.
        for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(variable);
        }
        Process::start_in(self.work, &format!("{component}-{}", self.ports.server), command)
    }
}

/// Waits until the API server is ready, and returns how to ask it; `None` when its port is taken.
async fn api_ready(server: &mut Process, folder: &Path, port: u16) -> Option<Api> {
    let certificates = folder.join("pki/apiserver.crt");
    let mut api: Option<Api> = None;
    let ready = peer::ready(server, READY, async || {
        if api.is_none() {
            let Ok(trusted) = std::fs::read(&certificates) else { return false };
            if trusted.is_empty() {
                return false;
            }
            let header = Some(("authorization", format!("Bearer {ADMIN_TOKEN}")));
            api = Some(Api::tls(&format!("https://127.0.0.1:{port}"), header, &trusted));
        }
        match &api {
            Some(api) => api.json("GET", "/readyz", None).await.is_ok(),
            None => false,
        }
    })
    .await;
    api.filter(|_| ready)
}

fn kubeconfig(folder: &Path, port: u16, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": folder.join("pki/apiserver.crt"),
        }}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    })
    .to_string()
}

/// A file name that a token has for itself: the token is not to be read in a folder's listing.
fn file_name_for(token: &str) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    token.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Asks a server to end, and kills it when it has not.
fn stop(process: &mut Process) -> Option<ExitStatus> {
    process.signal(Signal::Continue);
    process.signal(Signal::Terminate);
    let start = Instant::now();
    while process.is_running() && start.elapsed() < GRACE {
        std::thread::park_timeout(Duration::from_millis(10));
    }
    process.kill();
    process.status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_starts_makes_slices_of_pods_and_keeps_them_over_a_kill() {
        let work = Workdir::new("kube");
        let start = Instant::now();
        let Some(mut kube) = Kube::start(&work).await else { return };
        eprintln!("ready after {:?}", start.elapsed());
        kube.apply(
            "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}",
        )
        .await;
        kube.put_node("n1", json!({"topology.kubernetes.io/zone": "z1"})).await;
        kube.run_pod("default", "web-1", "n1", "10.244.0.1", json!({"app": "web"}), true).await;
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        wait::eventually_ok(Duration::from_secs(20), "the pod is in a slice", async || {
            let list = kube.get(slices).await;
            let endpoint = &list["items"][0]["endpoints"][0];
            if endpoint["addresses"][0] == "10.244.0.1" && endpoint["zone"] == "z1" { Ok(()) } else { Err(list) }
        })
        .await;
        let stranger = kube.api().header(Some(("authorization", "Bearer alice-token".to_owned())));
        assert_eq!(stranger.json("GET", slices, None).await.unwrap_err().status, Some(403));
        let start = Instant::now();
        kube.kill_api();
        assert!(kube.api().json("GET", slices, None).await.is_err());
        kube.restart_api().await;
        eprintln!("back after {:?}", start.elapsed());
        let list = kube.get(slices).await;
        assert_eq!(list["items"][0]["endpoints"][0]["addresses"][0], "10.244.0.1", "{list}");
        let pids = [kube.controllers.pid(), kube.server.pid(), kube.etcd.pid()];
        let start = Instant::now();
        drop(kube);
        eprintln!("ended after {:?}", start.elapsed());
        assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "{pids:?}");
    }

    #[tokio::test]
    async fn definitions_of_istio_and_of_the_gateway_api_are_served_and_refuse_what_is_wrong() {
        let work = Workdir::new("crds");
        let Some(kube) = Kube::start(&work).await else { return };
        if !kube.install_crds().await {
            return;
        }
        kube.apply(
            "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: {hosts: [a]}}",
        )
        .await;
        kube.apply("{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: a}, spec: {controllerName: a.b/c}}")
            .await;
        let wrong = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: b}, spec: {hosts: 7}}";
        let refused = kube.try_apply(wrong).await;
        assert!(refused.code != Some(0) && refused.stderr.contains("hosts"), "{refused:?}");
    }
}
