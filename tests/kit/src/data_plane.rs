//! Proxies of both data planes, joined to a control plane with one set of flags.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Process};
use crate::{Peer, Workdir, client, port};

const READY: Duration = Duration::from_secs(20);

/// The two programs that carry traffic. Every test of traffic runs on both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataPlane {
    /// Stock Envoy, with the bootstrap that `xebec envoy bootstrap` prints.
    Envoy,
    /// `xebec sidecar` or `xebec gateway`.
    Sidecar,
}

/// Who a proxy is: the PROXY FLAGS of the command line.
#[derive(Debug, Clone)]
pub struct ProxySpec {
    name: String,
    router: bool,
    server: String,
    namespace: String,
    ips: Vec<IpAddr>,
    admin: SocketAddr,
    more: Vec<String>,
}

/// A running proxy. Dropping it kills it.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    spec: ProxySpec,
    plane: DataPlane,
}

// === impl DataPlane ===

impl DataPlane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Envoy, Self::Sidecar];

    /// This data plane, when it can be run here; otherwise the test is reported as skipped, and should return:
    /// `let Some(plane) = plane.or_skip() else { return };`
    pub fn or_skip(self) -> Option<Self> {
        match self {
            Self::Envoy => Peer::Envoy.or_skip().map(|_| self),
            Self::Sidecar => Some(self),
        }
    }

    /// Starts a proxy and waits until its admin endpoint says that it is ready: it has a configuration.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(self, work: &Workdir, spec: ProxySpec) -> Proxy {
        let mut proxy = self.launch(work, spec).await;
        proxy.ready().await;
        proxy
    }

    /// Starts a proxy and does not wait: for tests in which it has no control plane yet.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn launch(self, work: &Workdir, spec: ProxySpec) -> Proxy {
        let command = match self {
            Self::Sidecar => {
                process::xebec(std::iter::once(spec.role().to_owned()).chain(spec.flags()).collect::<Vec<_>>())
            }
            Self::Envoy => self.envoy(work, &spec).await,
        };
        let name = format!("{}-{}", if self == Self::Envoy { "envoy" } else { spec.role() }, spec.name);
        Proxy { process: Process::start(work, &name, command), spec, plane: self }
    }

    async fn envoy(self, work: &Workdir, spec: &ProxySpec) -> Command {
        let envoy = Peer::Envoy.path().expect("call or_skip first");
        let mut arguments = vec!["envoy".to_owned(), "bootstrap".to_owned()];
        arguments.extend(spec.flags());
        let output = process::run(process::xebec(&arguments)).await;
        assert_eq!(output.code, Some(0), "no bootstrap for {}: {}", spec.name, output.stderr);
        let bootstrap = work.write(format!("bootstrap-{}.json", spec.name), &output.stdout);
        let mut command = Command::new(envoy);
        command.arg("-c").arg(bootstrap);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--drain-time-s", "5", "-l", "warning"]);
        command
    }
}

// === impl ProxySpec ===

impl ProxySpec {
    /// A proxy beside a workload, in namespace `default`, on 127.0.0.1, without interception.
    pub fn sidecar(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            router: false,
            server: "127.0.0.1:15010".to_owned(),
            namespace: "default".to_owned(),
            ips: Vec::new(),
            admin: port::free(),
            more: Vec::new(),
        }
    }

    /// A gateway, in namespace `default`, on 127.0.0.1.
    pub fn gateway(name: &str) -> Self {
        Self { router: true, ..Self::sidecar(name) }
    }

    /// The control plane's xDS address.
    #[must_use]
    pub fn server(mut self, address: SocketAddr) -> Self {
        self.server = address.to_string();
        self
    }

    /// The workload's namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// One of its addresses; without any it is 127.0.0.1.
    #[must_use]
    pub fn ip(mut self, ip: impl Into<IpAddr>) -> Self {
        self.ips.push(ip.into());
        self
    }

    /// One of its labels.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.flag("--label", &format!("{key}={value}"))
    }

    /// Where it is: `REGION/ZONE/SUBZONE`.
    #[must_use]
    pub fn locality(self, locality: &str) -> Self {
        self.flag("--locality", locality)
    }

    /// Its service account.
    #[must_use]
    pub fn service_account(self, account: &str) -> Self {
        self.flag("--service-account", account)
    }

    /// Any other of the proxy's flags.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.more.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// The flags on the command line.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut add = |flag: &str, value: &str| flags.extend([flag.to_owned(), value.to_owned()]);
        add("--server", &self.server);
        add("--name", &self.name);
        add("--namespace", &self.namespace);
        if self.ips.is_empty() {
            add("--ip", &Ipv4Addr::LOCALHOST.to_string());
        }
        for ip in &self.ips {
            add("--ip", &ip.to_string());
        }
        add("--type", if self.router { "router" } else { "sidecar" });
        add("--admin-addr", &self.admin.to_string());
        for (flag, value) in [("--interception", "none"), ("--concurrency", "1")] {
            if !self.more.iter().any(|given| given == flag) {
                add(flag, value);
            }
        }
        flags.extend(self.more.iter().cloned());
        flags
    }

    fn role(&self) -> &'static str {
        if self.router { "gateway" } else { "sidecar" }
    }
}

// === impl Proxy ===

impl Proxy {
    /// Which data plane it is.
    pub fn plane(&self) -> DataPlane {
        self.plane
    }

    /// Its name as `proxy-status` shows it: `NAME.NAMESPACE`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.spec.name, self.spec.namespace)
    }

    /// Its admin endpoint.
    pub fn admin_addr(&self) -> SocketAddr {
        self.spec.admin
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The body of a GET of its admin endpoint; an error when the status is not 200.
    ///
    /// # Errors
    /// Says what went wrong, for `eventually_ok`.
    pub async fn admin(&self, path: &str) -> Result<String, String> {
        client::page(self.spec.admin, path).await
    }

    /// One of its counters or gauges, from `/stats`; 0 when it has none of that name.
    ///
    /// # Errors
    /// When the admin endpoint does not answer.
    pub async fn stat(&self, name: &str) -> Result<u64, String> {
        let page = self.admin("/stats").await?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.and_then(|v| v.trim().parse().ok()).unwrap_or(0))
    }

    /// Waits until its admin endpoint says that it is ready.
    ///
    /// # Panics
    /// When it ends, or does not get ready.
    pub async fn ready(&mut self) {
        let admin = self.spec.admin;
        self.process.until(READY, "it is ready", async || client::page(admin, "/ready").await.is_ok()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_the_contracts_and_the_callers_win_over_defaults() {
        let spec = ProxySpec::sidecar("shop").label("app", "shop").flag("--concurrency", "2");
        let flags = spec.flags().join(" ");
        assert!(flags.contains("--name shop --namespace default --ip 127.0.0.1 --type sidecar"), "{flags}");
        assert!(flags.contains("--label app=shop") && flags.contains("--interception none"), "{flags}");
        assert_eq!(flags.matches("--concurrency").count(), 1, "{flags}");
    }
}
