//! Where the programs are that tests run: the `xebec` under test, and real peers that `cargo xtask peers` brings.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::Process;

/// A real program that tests run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Stock Envoy.
    Envoy,
    /// A Python that can `import grpc`, for proxyless gRPC.
    Python,
    /// nginx, as a backend that is not ours.
    Nginx,
    /// wrk, as a load generator that is not ours.
    Wrk,
    /// A Consul agent.
    Consul,
    /// A Nomad agent.
    Nomad,
    /// etcd, kube-apiserver, kube-controller-manager and kubectl in one program.
    Kube,
    /// A folder with the CustomResourceDefinitions of Istio and of the Gateway API.
    Crds,
}

impl Peer {
    /// The variable in which `cargo xtask test` says where it is.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Envoy => "XEBEC_PEER_ENVOY",
            Self::Python => "XEBEC_PEER_PYTHON",
            Self::Nginx => "XEBEC_PEER_NGINX",
            Self::Wrk => "XEBEC_PEER_WRK",
            Self::Consul => "XEBEC_PEER_CONSUL",
            Self::Nomad => "XEBEC_PEER_NOMAD",
            Self::Kube => "XEBEC_PEER_KUBE",
            Self::Crds => "XEBEC_PEER_CRDS",
        }
    }

    /// Where it is, or `None` when it is not here.
    pub fn path(self) -> Option<PathBuf> {
        std::env::var_os(self.variable()).filter(|v| !v.is_empty()).map(PathBuf::from).filter(|p| p.exists())
    }

    /// Where it is. When it is not here, the test is reported as skipped, and should return:
    /// `let Some(envoy) = Peer::Envoy.or_skip() else { return };`
    ///
    /// # Panics
    /// When it is not here although `CI=true`: nothing is skipped there.
    pub fn or_skip(self) -> Option<PathBuf> {
        let path = self.path();
        if path.is_none() {
            skip(&format!("{self:?} is not here ({} is not set): `cargo xtask peers` brings it", self.variable()));
        }
        path
    }
}

/// Reports the running test as skipped: loudly, and into the file that `cargo xtask test` counts from.
///
/// # Panics
/// When `CI=true`.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} would be skipped: {reason}");
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os("XEBEC_SKIPS") {
        use std::io::Write as _;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(format!("{test}: {reason}\n").as_bytes()));
    }
}

/// The `xebec` program under test: `XEBEC_BIN`, else the one that Cargo built next to this test.
///
/// # Panics
/// When there is none.
pub fn xebec() -> PathBuf {
    if let Some(path) = std::env::var_os("XEBEC_BIN").filter(|v| !v.is_empty()) {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/debug/deps/e2e-0123456789abcdef -> target/debug/xebec
    let folder = test.parent().map(|deps| if deps.ends_with("deps") { deps.parent().unwrap_or(deps) } else { deps });
    let path = folder.expect("a program is in a folder").join("xebec");
    assert!(path.exists(), "{} is missing: `cargo build --bin xebec` makes it", path.display());
    path
}

/// Waits until a peer that has just been started is ready. False when it ended because another program took one of its
/// ports in the meantime: it can be started again, on others.
///
/// # Panics
/// When it ended for another reason, or is not ready within `timeout`.
pub(crate) async fn ready(process: &mut Process, timeout: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        let ended = process.status();
        if condition().await {
            return true;
        }
        if let Some(status) = ended {
            let said = process.stdout() + &process.stderr();
            if said.contains("address already in use") {
                return false;
            }
            panic!("{} ended ({status}) before it was ready:\n{said}", process.name());
        }
        assert!(
            start.elapsed() < timeout,
            "{} is not ready after {timeout:?}:\n{}{}",
            process.name(),
            process.stdout(),
            process.stderr()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
