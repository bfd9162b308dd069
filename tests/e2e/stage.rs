//! What most tests need: a control plane on a folder of YAML, backends, and one proxy whose outbound traffic is looked at.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use xebec_testkit::client::{self, Call};
use xebec_testkit::{Backend, ControlPlane, DataPlane, Proxy, ProxySpec, Workdir, eventually, eventually_ok};

/// How long a change may take to be visible. Generous: machines that run tests are busy.
pub const SOON: Duration = Duration::from_secs(10);

/// A control plane and one client proxy. `work` holds `config/`, which the control plane watches.
pub struct Stage {
    pub work: Workdir,
    pub mesh: ControlPlane,
    pub proxy: Proxy,
    ip: IpAddr,
    /// A refusal is what the test is about.
    pub refusal_expected: bool,
}

/// A proxy that refused anything fails the test, whatever the test is about.
impl Drop for Stage {
    fn drop(&mut self) {
        let log = std::fs::read_to_string(self.work.join("logs/serve.err")).unwrap_or_default();
        let refused: Vec<&str> = log.lines().filter(|line| line.contains("refused:")).collect();
        if !std::thread::panicking() && refused.is_empty() == self.refusal_expected {
            panic!("a refusal was {}expected: {refused:?}", if self.refusal_expected { "" } else { "not " });
        }
    }
}

impl Stage {
    /// Starts a control plane on these files (name and content, below `config/`) and a client proxy in namespace `default`.
    pub async fn start(plane: DataPlane, test: &str, files: &[(&str, String)]) -> Self {
        Self::start_with(plane, test, files, |spec| spec).await
    }

    /// As [`Stage::start`]; `more` completes the client proxy's flags.
    pub async fn start_with(
        plane: DataPlane,
        test: &str,
        files: &[(&str, String)],
        more: impl FnOnce(ProxySpec) -> ProxySpec,
    ) -> Self {
        let work = Workdir::new(&format!("{test}-{plane:?}"));
        for (name, text) in files {
            work.write(format!("config/{name}"), text);
        }
        let mesh = ControlPlane::spec(&work).config("config").start().await;
        let ip = loopback();
        let spec = ProxySpec::sidecar("client").server(mesh.xds_addr()).ip(ip);
        let proxy = plane.start(&work, more(spec)).await;
        Self { work, mesh, proxy, ip, refusal_expected: false }
    }

    /// Where the client proxy listens for a service's port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// A GET through the client proxy.
    pub fn get(&self, host: &str, port: u16, path: &str) -> Call {
        client::get(self.at(port), host, path)
    }

    /// Writes a configuration file.
    pub fn write(&self, name: &str, text: &str) {
        self.work.write(format!("config/{name}"), text);
    }

    /// Waits until the proxy answers a GET with this status; what it said last is part of a failure.
    pub async fn until_status(&self, host: &str, port: u16, path: &str, status: u16) {
        eventually_ok(SOON, &format!("{host}{path} answers {status}"), async || {
            match self.get(host, port, path).send().await {
                Ok(reply) if reply.status == status => Ok(()),
                Ok(reply) => Err(format!("{} {}", reply.status, reply.text())),
                Err(failure) => Err(failure.to_string()),
            }
        })
        .await;
    }

    /// Waits until a GET is answered by this backend.
    pub async fn until_served_by(&self, host: &str, port: u16, path: &str, backend: &str) {
        eventually_ok(SOON, &format!("{host}{path} is served by {backend}"), async || {
            match self.get(host, port, path).send().await {
                Ok(reply) if reply.served_by() == backend => Ok(()),
                Ok(reply) => Err(format!("{} by {:?}", reply.status, reply.served_by())),
                Err(failure) => Err(failure.to_string()),
            }
        })
        .await;
    }

    /// Nobody refused anything: a NACK in any test fails it.
    pub async fn assert_nothing_refused(&self) {
        assert_nothing_refused(&self.mesh).await;
    }
}

/// Nobody refused anything.
pub async fn assert_nothing_refused(mesh: &ControlPlane) {
    let status = mesh.json("/debug/syncz").await.expect("syncz");
    let refused: Vec<String> = refusals(&status);
    assert!(refused.is_empty(), "a proxy refused configuration: {refused:?}");
}

/// Every NACK text in a syncz answer.
pub fn refusals(status: &Value) -> Vec<String> {
    fn walk(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match (key.as_str(), value) {
                        ("nack" | "error" | "rejected", value)
                            if !value.is_null() && value != &Value::Array(vec![]) =>
                        {
                            found.push(value.to_string());
                        }
                        _ => walk(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|v| walk(v, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(status, &mut found);
    found
}

/// Waits until every connected proxy has acknowledged what it was sent, and at least `proxies` are connected.
pub async fn until_synced(mesh: &ControlPlane, proxies: usize) {
    eventually(SOON, "every proxy is in sync", async || {
        let Ok(Value::Array(rows)) = mesh.json("/debug/syncz").await else { return false };
        rows.len() >= proxies && rows.iter().all(|row| !row.to_string().contains("STALE"))
    })
    .await;
}

/// An address of the loopback network that no other test uses.
pub fn loopback() -> IpAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = number.to_be_bytes();
    let process = (std::process::id() % 200) as u8 + 10;
    Ipv4Addr::new(127, process, high, low.wrapping_add(2)).into()
}

/// One service of the file registry in namespace `default`; instances are (version, backend).
pub fn service(host: &str, port: u16, protocol: &str, instances: &[(&str, &Backend)]) -> String {
    let addresses: Vec<_> = instances.iter().map(|(version, backend)| (*version, backend.port())).collect();
    service_at(host, port, protocol, &addresses)
}

/// The same, by the instances' ports on 127.0.0.1.
pub fn service_at(host: &str, port: u16, protocol: &str, instances: &[(&str, u16)]) -> String {
    let mut text = format!("- host: {host}\n  ports:\n  - {{name: main, number: {port}, protocol: {protocol}}}\n");
    text.push_str(if instances.is_empty() { "  instances: []\n" } else { "  instances:\n" });
    for (version, instance) in instances {
        text.push_str(&format!(
            "  - {{address: 127.0.0.1, name: {host}-{version}-{instance}, ports: {{main: {instance}}}, labels: {{app: {host}, version: {version}}}}}\n"
        ));
    }
    text
}

/// A `services.yaml` of these.
pub fn services(list: &[String]) -> (&'static str, String) {
    ("services.yaml", format!("services:\n{}", list.concat()))
}

/// A DestinationRule with one subset per version.
pub fn subsets(host: &str, versions: &[&str]) -> String {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\nspec:\n  host: {host}\n  subsets:\n"
    );
    for version in versions {
        text.push_str(&format!("  - {{name: {version}, labels: {{version: {version}}}}}\n"));
    }
    text
}

/// A VirtualService with this `http:` list, indented by two spaces.
pub fn routes(host: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {host}}}\nspec:\n  hosts: [{host}]\n  http:\n{http}"
    )
}
