//! `--registry SPEC` and `--config SPEC`: which platform or store, and where it is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a Consul agent listens unless told otherwise.
const CONSUL: &str = "http://127.0.0.1:8500";
/// Where a Nomad agent listens unless told otherwise.
const NOMAD: &str = "http://127.0.0.1:4646";
/// Below which key or path configuration is kept unless told otherwise.
const PREFIX: &str = "xebec";

/// A Kubernetes API server as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Cluster {
    /// The file that says how it is reached; without one, the cluster that this process runs in, or what `kubectl` uses.
    pub kubeconfig: Option<PathBuf>,
    /// The context within the file, or within what `kubectl` uses; without one, the current context.
    pub context: Option<String>,
}

/// A registry as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrySpec {
    /// `file:PATH`: services and instances from YAML files.
    File(PathBuf),
    /// `kubernetes[:KUBECONFIG[#CONTEXT]]`
    Kubernetes(Cluster),
    /// `consul[:URL]`
    Consul(String),
    /// `nomad[:URL]`
    Nomad(String),
}

/// A source of configuration as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSpec {
    /// A directory or file.
    Path(PathBuf),
    /// `kubernetes[:KUBECONFIG[#CONTEXT]]`: custom resources.
    Kubernetes(Cluster),
    /// `consul:URL[/PREFIX]`: the keys below a prefix.
    Consul {
        /// The agent.
        address: String,
        /// The keys' prefix.
        prefix: String,
    },
    /// `nomad:URL[/PREFIX]`: the variables below a path.
    Nomad {
        /// The agent.
        address: String,
        /// The variables' path.
        prefix: String,
    },
}

// === impl Cluster ===

impl Cluster {
    fn parse(rest: &str) -> Self {
        let (file, context) = rest.split_once('#').unwrap_or((rest, ""));
        Self {
            kubeconfig: (!file.is_empty()).then(|| file.into()),
            context: (!context.is_empty()).then(|| context.to_owned()),
        }
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kubernetes")?;
        if self.kubeconfig.is_some() || self.context.is_some() {
            f.write_str(":")?;
        }
        if let Some(file) = &self.kubeconfig {
            write!(f, "{}", file.display())?;
        }
        self.context.as_ref().map_or(Ok(()), |context| write!(f, "#{context}"))
    }
}

// === impl RegistrySpec ===

impl FromStr for RegistrySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (platform, rest) = text.split_once(':').unwrap_or((text, ""));
        match platform {
            "file" if rest.is_empty() => Err("file: needs a path, as in file:/etc/xebec/services".into()),
            "file" => Ok(Self::File(rest.into())),
            "kubernetes" => Ok(Self::Kubernetes(Cluster::parse(rest))),
            "consul" => Ok(Self::Consul(whole_url(rest, CONSUL, "consul")?)),
            "nomad" => Ok(Self::Nomad(whole_url(rest, NOMAD, "nomad")?)),
            _ => Err(format!(
                "{text:?} names no platform; use file:PATH, kubernetes[:KUBECONFIG[#CONTEXT]], consul:URL or nomad:URL"
            )),
        }
    }
}

impl fmt::Display for RegistrySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Kubernetes(cluster) => cluster.fmt(f),
            Self::Consul(address) => write!(f, "consul:{address}"),
            Self::Nomad(address) => write!(f, "nomad:{address}"),
        }
    }
}

// === impl ConfigSpec ===

impl FromStr for ConfigSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let store = |rest: &str, default: &str, platform: &str| {
            let (address, path) = url(rest, default, platform)?;
            Ok::<_, String>((address, if path.is_empty() { PREFIX.to_owned() } else { path }))
        };
        match text.split_once(':').unwrap_or((text, "")) {
            ("kubernetes", rest) => Ok(Self::Kubernetes(Cluster::parse(rest))),
            ("consul", rest) => store(rest, CONSUL, "consul").map(|(address, prefix)| Self::Consul { address, prefix }),
            ("nomad", rest) => store(rest, NOMAD, "nomad").map(|(address, prefix)| Self::Nomad { address, prefix }),
            _ if text.is_empty() => Err("a path is empty".into()),
            _ => Ok(Self::Path(text.into())),
        }
    }
}

impl fmt::Display for ConfigSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Kubernetes(cluster) => cluster.fmt(f),
            Self::Consul { address, prefix } => write!(f, "consul:{address}/{prefix}"),
            Self::Nomad { address, prefix } => write!(f, "nomad:{address}/{prefix}"),
        }
    }
}

fn whole_url(text: &str, default: &str, platform: &str) -> Result<String, String> {
    match url(text, default, platform)? {
        (address, path) if path.is_empty() => Ok(address),
        (address, path) => Err(format!("{platform}:{address} is the agent's address; leave /{path} out")),
    }
}

/// The address and what follows it, without slashes at either end.
fn url(text: &str, default: &str, platform: &str) -> Result<(String, String), String> {
    if text.is_empty() {
        return Ok((default.to_owned(), String::new()));
    }
    let wrong = |why: &str| format!("{platform}:{text}: {why}; write it as {platform}:{default}");
    let uri: http::Uri = text.parse().map_err(|_| wrong("this is not a URL"))?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong("the URL begins with http:// or https://"));
    };
    if authority.as_str().contains('@') {
        return Err(format!("{platform}: an address holds no user and password; put a token into a file"));
    }
    if uri.query().is_some() {
        return Err(wrong("the address has a query; details belong into the settings file"));
    }
    Ok((format!("{scheme}://{authority}"), uri.path().trim_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn registry(text: &str) -> Result<RegistrySpec, String> {
        text.parse()
    }

    #[test]
    fn every_platform_has_a_spec_that_reads_back_as_written() {
        for text in [
            "file:/a",
            "kubernetes",
            "kubernetes:/home/a/config",
            "kubernetes:/home/a/config#prod",
            "kubernetes:#prod",
            "consul:http://127.0.0.1:8500",
            "nomad:https://nomad.example:4646",
        ] {
            assert_eq!(registry(text).unwrap().to_string(), text);
        }
        assert_eq!(registry("consul").unwrap(), RegistrySpec::Consul(CONSUL.into()));
        assert_eq!(registry("nomad:http://n:1/").unwrap(), RegistrySpec::Nomad("http://n:1".into()));
    }

    #[test]
    fn a_wrong_spec_says_what_to_write() {
        assert!(registry("file:").unwrap_err().contains("needs a path"));
        assert!(registry("zookeeper:x").unwrap_err().contains("consul:URL"));
        assert!(registry("consul:127.0.0.1:8500").unwrap_err().contains("consul:http://127.0.0.1:8500"));
        assert!(registry("consul:http://a:1/kv").unwrap_err().contains("leave /kv out"));
        let error = registry("nomad:http://me:secret@a:1").unwrap_err();
        assert!(error.contains("token") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn configuration_is_a_path_unless_it_names_a_store() {
        let config = |text: &str| text.parse::<ConfigSpec>();
        assert_eq!(config("./kubernetes").unwrap(), ConfigSpec::Path("./kubernetes".into()));
        assert_eq!(config("C:rules").unwrap(), ConfigSpec::Path("C:rules".into()));
        assert_eq!(config("kubernetes:/k#c").unwrap().to_string(), "kubernetes:/k#c");
        assert_eq!(config("consul:http://a:1").unwrap().to_string(), "consul:http://a:1/xebec");
        assert_eq!(config("nomad:http://a:1/mesh/rules/").unwrap().to_string(), "nomad:http://a:1/mesh/rules");
        assert!(config("").is_err());
    }
}
