//! The command line: names, flags and their meanings. Tests hold them; add freely, rename never without an alias.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::logging::LoggingFlags;
use crate::output::Format;
use crate::proxy_flags::{IdentityFlags, ProxyFlags, duration};
use crate::source_spec::{ConfigSpec, RegistrySpec};
use xebec_analysis::Suppression;
use xebec_galley::Severity;

/// A service mesh for any platform: Istio's YAML in, standard Envoy xDS out.
#[derive(Debug, Parser)]
#[command(name = "xebec", version, propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags about logs.
    #[command(flatten)]
    pub logging: LoggingFlags,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a live mesh with real traffic on this machine, in one process.
    Demo(DemoArgs),
    /// Run the control plane.
    Serve(ServeArgs),
    /// Run the Rust data plane beside an application.
    Sidecar(SidecarArgs),
    /// Run the Rust data plane as a gateway.
    Gateway(SidecarArgs),
    /// Join a stock Envoy to the mesh.
    #[command(subcommand)]
    Envoy(EnvoyCommand),
    /// Show, offline, the xDS resources that a proxy would get.
    Translate(TranslateArgs),
    /// Check documents, offline.
    Validate(ValidateArgs),
    /// Find what is wrong across resources, offline.
    Analyze(AnalyzeArgs),
    /// Show what every proxy has been sent, has acknowledged, or has refused.
    #[command(visible_alias = "ps")]
    ProxyStatus(ProxyStatusArgs),
    /// Show the configuration that a proxy has been sent.
    #[command(visible_alias = "pc")]
    ProxyConfig(ProxyConfigArgs),
    /// Show this build's version.
    Version(VersionArgs),
    /// Print a completion script for a shell.
    Completion(CompletionArgs),
    /// Print the JSON Schema of a file format.
    Schema(SchemaArgs),
}

/// Arguments of `xebec demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Which data plane carries the traffic.
    #[arg(long, env = "XEBEC_DATA_PLANE", value_enum, default_value = "sidecar")]
    pub data_plane: DataPlane,
    /// Port of the gateway on 127.0.0.1.
    #[arg(long, env = "XEBEC_PORT", default_value_t = 8080)]
    pub port: u16,
    /// Where the configuration is written; a new directory under the system's temporary one unless given.
    #[arg(long, env = "XEBEC_DIR")]
    pub dir: Option<PathBuf>,
    /// No table: check expectations, print a summary, and exit 0 only when all held.
    #[arg(long, env = "XEBEC_HEADLESS")]
    pub headless: bool,
    /// Stop after this long.
    #[arg(long = "for", env = "XEBEC_FOR", value_name = "TIME", value_parser = duration)]
    pub run_for: Option<Duration>,
    /// Requests per second of the gentle load.
    #[arg(long, env = "XEBEC_RATE", default_value_t = 20)]
    pub rate: u32,
    /// The stock Envoy to run with `--data-plane envoy`; found on PATH unless given.
    #[arg(long, env = "XEBEC_ENVOY", value_name = "PATH")]
    pub envoy: Option<PathBuf>,
}

/// Which data plane carries the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataPlane {
    /// The bundled Rust sidecar.
    Sidecar,
    /// Stock Envoy processes.
    Envoy,
}

/// Where configuration and services come from.
#[derive(Debug, Clone, Args)]
pub struct SourceFlags {
    /// Where configuration documents come from: a directory or file, `kubernetes[:KUBECONFIG[#CONTEXT]]` (custom resources),
    /// `consul:URL[/PREFIX]` (keys), or `nomad:URL[/PATH]` (variables); repeatable, and of one resource the first is in effect.
    #[arg(long, env = "XEBEC_CONFIG", value_name = "SPEC", value_delimiter = ',')]
    pub config: Vec<ConfigSpec>,
    /// A platform that services come from: `file:PATH`, `kubernetes[:KUBECONFIG[#CONTEXT]]`, `consul:URL`, or `nomad:URL`;
    /// repeatable. Services in a --config directory are read in any case. `kubernetes` without a file is this pod's own cluster;
    /// outside of a pod, or with `kubernetes:#CONTEXT`, it is what `kubectl` uses: the files of $KUBECONFIG, else ~/.kube/config.
    #[arg(long, env = "XEBEC_REGISTRY", value_name = "SPEC", value_delimiter = ',')]
    pub registry: Vec<RegistrySpec>,
    /// Details of platforms, such as token files, certificates and filters.
    #[arg(long, env = "XEBEC_SETTINGS", value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Mesh-wide settings: a file with Istio's MeshConfig.
    #[arg(long, env = "XEBEC_MESH_CONFIG", value_name = "FILE")]
    pub mesh_config: Option<PathBuf>,
}

/// Arguments of `xebec serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where configuration and services come from.
    #[command(flatten)]
    pub sources: SourceFlags,
    /// Address of the plain-text xDS server; port 0 picks one and prints it.
    #[arg(long, env = "XEBEC_XDS_ADDR", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15010))]
    pub xds_addr: SocketAddr,
    /// Address of the HTTP server with metrics, debug pages and readiness; port 0 picks one and prints it.
    #[arg(long, env = "XEBEC_HTTP_ADDR", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15014))]
    pub http_addr: SocketAddr,
    /// How long proxies wait at start for a platform or store that cannot be read. After that they are served what the others
    /// have; it is tried again all the time. `0` waits for as long as it takes.
    #[arg(long, env = "XEBEC_PATIENCE", value_name = "TIME", value_parser = duration, default_value = "15s")]
    pub patience: Duration,
}

/// Arguments of `xebec sidecar` and `xebec gateway`.
#[derive(Debug, Args)]
pub struct SidecarArgs {
    /// Which proxy it is.
    #[command(flatten)]
    pub proxy: ProxyFlags,
}

/// `xebec envoy …`
#[derive(Debug, Subcommand)]
pub enum EnvoyCommand {
    /// Print a bootstrap for stock Envoy.
    Bootstrap(EnvoyBootstrapArgs),
    /// Find Envoy, check its version, write a bootstrap, and become it.
    Run(EnvoyRunArgs),
}

/// Arguments of `xebec envoy bootstrap`.
#[derive(Debug, Args)]
pub struct EnvoyBootstrapArgs {
    /// Which proxy it is.
    #[command(flatten)]
    pub proxy: ProxyFlags,
}

/// Arguments of `xebec envoy run`.
#[derive(Debug, Args)]
pub struct EnvoyRunArgs {
    /// Which proxy it is.
    #[command(flatten)]
    pub proxy: ProxyFlags,
    /// The `envoy` to run; found on PATH unless given.
    #[arg(long, env = "XEBEC_ENVOY", value_name = "PATH")]
    pub envoy: Option<PathBuf>,
    /// Arguments for Envoy itself.
    #[arg(last = true, value_name = "ENVOY ARGS")]
    pub envoy_args: Vec<String>,
}

/// What `xebec translate --type` takes: a type of resource to show, or the kind of proxy to show it for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TranslateType {
    /// Show clusters.
    Cds,
    /// Show listeners.
    Lds,
    /// Show route configurations.
    Rds,
    /// Show endpoints.
    Eds,
    /// Show all resources.
    All,
    /// Translate for a proxy beside an application.
    Sidecar,
    /// Translate for a gateway.
    Router,
}

/// Arguments of `xebec translate`.
#[derive(Debug, Args)]
pub struct TranslateArgs {
    /// Where configuration and services come from.
    #[command(flatten)]
    pub sources: SourceFlags,
    /// Which proxy it is for.
    #[command(flatten)]
    pub proxy: IdentityFlags,
    /// Which resources to show, and for which kind of proxy; repeatable. All of a sidecar's unless given.
    #[arg(long = "type", env = "XEBEC_TYPE", value_enum, value_delimiter = ',')]
    pub types: Vec<TranslateType>,
    /// Print one complete Envoy configuration with everything inlined.
    #[arg(long = "static")]
    pub inline: bool,
}

/// Formats of `xebec validate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ValidateFormat {
    /// Messages with the source and a caret.
    Text,
    /// One JSON document.
    Json,
    /// Annotations for GitHub workflows.
    Github,
    /// SARIF 2.1.0.
    Sarif,
}

/// Arguments of `xebec validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// A file, a directory, or `-` for stdin; repeatable.
    #[arg(short, long = "filename", value_name = "PATH")]
    pub filename: Vec<PathBuf>,
    /// The same, without a flag.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// How findings are written.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: ValidateFormat,
}

/// How bad a finding is, as a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Threshold {
    /// Everything.
    Info,
    /// Warnings and errors.
    Warning,
    /// Errors.
    Error,
}

/// Arguments of `xebec analyze`.
#[derive(Debug, Args)]
pub struct AnalyzeArgs {
    /// A file, a directory, a pattern, or `-` for stdin; repeatable. All of them are looked at together.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The same, with a flag.
    #[arg(short, long = "filename", value_name = "PATH")]
    pub filename: Vec<PathBuf>,
    /// How findings are written.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: ValidateFormat,
    /// From which level on a finding makes the command fail.
    #[arg(long, env = "XEBEC_FAILURE_THRESHOLD", value_enum, default_value = "error")]
    pub failure_threshold: Threshold,
    /// From which level on a finding is shown.
    #[arg(long, env = "XEBEC_OUTPUT_THRESHOLD", value_enum, default_value = "info")]
    pub output_threshold: Threshold,
    /// Leave out findings with this code about this resource, `Kind name.namespace`; both may have `*`. Repeatable.
    #[arg(short = 'S', long, value_name = "CODE=RESOURCE")]
    pub suppress: Vec<Suppression>,
    /// Only findings about this namespace. Everything is looked at in any case.
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Mesh-wide settings: a file with Istio's MeshConfig.
    #[arg(long, env = "XEBEC_MESH_CONFIG", value_name = "FILE")]
    pub mesh_config: Option<PathBuf>,
    /// Whether directories are read with all that is below them.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub recursive: bool,
    /// What is not in the files does not exist. Else a host, gateway or secret is only missing where the files have others of its
    /// namespace.
    #[arg(long)]
    pub complete: bool,
    /// List the codes that this build knows, and stop.
    #[arg(short = 'L', long)]
    pub list: bool,
}

/// Where the control plane's HTTP server is.
#[derive(Debug, Clone, Args)]
pub struct ServerFlags {
    /// Address of the control plane's HTTP server.
    #[arg(short, long, env = "XEBEC_HTTP_SERVER", value_name = "ADDR", default_value = "127.0.0.1:15014")]
    pub server: String,
    /// How long to wait for an answer.
    #[arg(long, env = "XEBEC_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}

/// Arguments of `xebec proxy-status`.
#[derive(Debug, Args)]
pub struct ProxyStatusArgs {
    /// One proxy only: its id, its NAME.NAMESPACE, or its name.
    pub proxy: Option<String>,
    /// Where to ask.
    #[command(flatten)]
    pub server: ServerFlags,
    /// How it is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
    /// Show it again whenever it changes.
    #[arg(short, long)]
    pub watch: bool,
}

/// What `xebec proxy-config` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProxyConfigPart {
    /// Clusters.
    #[value(alias = "clusters")]
    Cluster,
    /// Listeners.
    #[value(alias = "listeners")]
    Listener,
    /// Routes.
    #[value(alias = "routes")]
    Route,
    /// Endpoints.
    #[value(alias = "endpoints")]
    Endpoint,
    /// Secrets.
    #[value(alias = "secrets")]
    Secret,
    /// The bootstrap, in a dump only.
    Bootstrap,
    /// Everything.
    All,
}

/// Arguments of `xebec proxy-config`.
#[derive(Debug, Args)]
pub struct ProxyConfigArgs {
    /// What to show.
    #[arg(value_enum)]
    pub part: ProxyConfigPart,
    /// The proxy: its id, its NAME.NAMESPACE, or its name.
    #[arg(required_unless_present = "filename")]
    pub proxy: Option<String>,
    /// Read a config dump (`/config_dump` of a proxy, or of this server) instead of asking; `-` is stdin.
    #[arg(short, long, value_name = "FILE")]
    pub filename: Option<PathBuf>,
    /// Where to ask.
    #[command(flatten)]
    pub server: ServerFlags,
    /// How it is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// Arguments of `xebec version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// How it is written.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// Arguments of `xebec completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Which format `xebec schema` describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// The static registry's files: `services:`.
    FileRegistry,
}

/// Arguments of `xebec schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Which format.
    #[arg(value_enum)]
    pub of: SchemaOf,
}

impl Threshold {
    /// The lowest level that reaches it.
    pub fn severity(self) -> Severity {
        match self {
            Self::Info => Severity::Info,
            Self::Warning => Severity::Warning,
            Self::Error => Severity::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_of_a_server_has_a_variable() {
        let mut root = Cli::command();
        root.build();
        for name in ["demo", "serve", "sidecar", "gateway"] {
            let command = root.find_subcommand(name).unwrap();
            let own = |id: &str| !matches!(id, "help" | "version" | "verbose" | "quiet");
            for argument in command.get_arguments().filter(|a| own(a.get_id().as_str())) {
                assert!(argument.get_env().is_some(), "{name} --{} has no variable", argument.get_id());
            }
        }
    }
}
