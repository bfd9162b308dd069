//! The flags that say which proxy it is: one set for every command that takes them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use xebec_envoy_compat::node::{Interception, Locality, NodeConfig, NodeKind};

use crate::exit::Failure;

/// `--type`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindFlag {
    /// Beside an application.
    Sidecar,
    /// A gateway at the edge of the mesh.
    Router,
}

/// `--interception`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InterceptionFlag {
    /// Nothing is captured: the proxy listens on explicit addresses and ports.
    None,
    /// Connections are redirected to the proxy by iptables REDIRECT.
    Redirect,
    /// Connections are redirected to the proxy by iptables TPROXY.
    Tproxy,
}

/// Which proxy it is, of which kind, and where its control plane is.
#[derive(Debug, Clone, Args)]
pub struct ProxyFlags {
    /// All but the kind.
    #[command(flatten)]
    pub identity: IdentityFlags,
    /// Beside an application, or at the edge.
    #[arg(long = "type", env = "XEBEC_TYPE", value_enum, help_heading = "Proxy")]
    pub kind: Option<KindFlag>,
}

/// Which proxy it is, and where its control plane is.
#[derive(Debug, Clone, Args)]
pub struct IdentityFlags {
    /// Address of the control plane's xDS server.
    #[arg(long, env = "XEBEC_SERVER", value_name = "ADDR", default_value = "127.0.0.1:15010", help_heading = "Proxy")]
    pub server: String,
    /// The workload's name.
    #[arg(long, env = "XEBEC_NAME", default_value = "proxy", help_heading = "Proxy")]
    pub name: String,
    /// The workload's namespace.
    #[arg(long, env = "XEBEC_NAMESPACE", value_name = "NS", default_value = "default", help_heading = "Proxy")]
    pub namespace: String,
    /// The workload's addresses; the first is the principal one.
    #[arg(long = "ip", env = "XEBEC_IP", value_delimiter = ',', default_value = "127.0.0.1", help_heading = "Proxy")]
    pub ips: Vec<IpAddr>,
    /// The workload's service account.
    #[arg(long, env = "XEBEC_SERVICE_ACCOUNT", value_name = "SA", help_heading = "Proxy")]
    pub service_account: Option<String>,
    /// A label of the workload; repeatable.
    #[arg(long = "label", env = "XEBEC_LABEL", value_name = "K=V", value_delimiter = ',', value_parser = pair, help_heading = "Proxy")]
    pub labels: Vec<(String, String)>,
    /// A field of the node's metadata, such as `HTTP_PROXY_PORT=3128`; repeatable.
    #[arg(long = "meta", env = "XEBEC_META", value_name = "K=V", value_delimiter = ',', value_parser = pair, help_heading = "Proxy")]
    pub meta: Vec<(String, String)>,
    /// Where the workload runs.
    #[arg(long, env = "XEBEC_LOCALITY", value_name = "REGION/ZONE/SUBZONE", value_parser = locality, help_heading = "Proxy")]
    pub locality: Option<Locality>,
    /// The network that the workload is on; the default network unless given.
    #[arg(
        long,
        env = "XEBEC_NETWORK",
        value_name = "N",
        default_value = "",
        hide_default_value = true,
        help_heading = "Proxy"
    )]
    pub network: String,
    /// The cluster that the workload is in.
    #[arg(
        long,
        env = "XEBEC_CLUSTER_ID",
        value_name = "ID",
        default_value = "",
        hide_default_value = true,
        help_heading = "Proxy"
    )]
    pub cluster_id: String,
    /// The suffix of the platform's DNS names: the node says NS.svc.DOMAIN.
    #[arg(long, env = "XEBEC_DOMAIN", default_value = "cluster.local", help_heading = "Proxy")]
    pub domain: String,
    /// How connections reach the proxy.
    #[arg(long, env = "XEBEC_INTERCEPTION", value_enum, default_value = "none", help_heading = "Proxy")]
    pub interception: InterceptionFlag,
    /// Address of the proxy's admin interface; port 0 picks one and prints it.
    #[arg(long, env = "XEBEC_ADMIN_ADDR", value_name = "ADDR", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000), help_heading = "Proxy")]
    pub admin_addr: SocketAddr,
    /// Worker threads; as many as there are cores unless given.
    #[arg(long, env = "XEBEC_CONCURRENCY", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Proxy")]
    pub concurrency: Option<u16>,
    /// How long open connections may finish when the proxy stops or a listener goes away.
    #[arg(long, env = "XEBEC_DRAIN_TIME", value_name = "TIME", default_value = "45s", value_parser = duration, help_heading = "Proxy")]
    pub drain_time: Duration,
}

// === impl ProxyFlags ===

impl ProxyFlags {
    /// The identity that these flags describe; `default` is the kind when `--type` does not say.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn node(&self, default: NodeKind) -> Result<NodeConfig, Failure> {
        self.identity.node(self.kind.map_or(default, NodeKind::from))
    }
}

impl From<KindFlag> for NodeKind {
    fn from(flag: KindFlag) -> Self {
        match flag {
            KindFlag::Sidecar => Self::Sidecar,
            KindFlag::Router => Self::Router,
        }
    }
}

// === impl IdentityFlags ===

impl IdentityFlags {
    /// The identity that these flags describe.
    ///
    /// # Errors
    /// When they contradict each other.
    pub fn node(&self, kind: NodeKind) -> Result<NodeConfig, Failure> {
        let node = NodeConfig {
            ips: self.ips.clone(),
            service_account: self.service_account.clone(),
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            meta: self.meta.iter().cloned().collect::<BTreeMap<_, _>>(),
            locality: self.locality.clone().unwrap_or_default(),
            network: self.network.clone(),
            cluster_id: self.cluster_id.clone(),
            domain: self.domain.clone(),
            interception: match self.interception {
                InterceptionFlag::None => Interception::None,
                InterceptionFlag::Redirect => Interception::Redirect,
                InterceptionFlag::Tproxy => Interception::Tproxy,
            },
            ..NodeConfig::new(kind, &self.name, &self.namespace)
        };
        node.validate().map_err(Failure::usage)?;
        Ok(node)
    }

    /// How many worker threads to run.
    pub fn workers(&self) -> usize {
        self.concurrency.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }
}

fn locality(text: &str) -> Result<Locality, std::convert::Infallible> {
    Ok(Locality::parse(text))
}

/// Parses `K=V`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

/// Parses a duration such as `500ms`, `45s`, `5m` or `1h`.
///
/// # Errors
/// When the text is no such duration.
pub fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<xebec_galley::spec::Duration>()
        .map(|d| d.0)
        .map_err(|_| format!("{text:?} is not a duration; write for example 500ms, 45s, 5m or 1h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_needs_a_key() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("=b").is_err());
        assert!(pair("ab").is_err());
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(duration("fortnight").is_err());
    }
}
