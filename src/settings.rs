//! `--settings FILE`: what does not fit into a SPEC: tokens, certificates, filters.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use xebec_galley::yaml;
use xebec_pilot::engine::EngineOptions;

use crate::cli::SourceFlags;
use crate::exit::Failure;
use crate::output;
use crate::source_spec::{Cluster, ConfigSpec, RegistrySpec};

/// The settings file. Each element of a list belongs to the SPEC that names the same address.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Consul agents.
    pub(crate) consul: Vec<xebec_adapter_consul::Settings>,
    /// Nomad agents.
    pub(crate) nomad: Vec<xebec_adapter_nomad::Settings>,
    /// Kubernetes API servers as platforms.
    pub(crate) kubernetes: Vec<xebec_adapter_kubernetes::Settings>,
    /// Kubernetes API servers as sources of configuration.
    pub(crate) kubernetes_config: Vec<xebec_adapter_kubernetes_config::Settings>,
}

// === impl Settings ===

impl Settings {
    /// Reads the file; without one, everything is at its default.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::default()) };
        let name = path.display().to_string();
        let bytes = std::fs::read(path)
            .map_err(|error| Failure::not_found(format!("cannot read the settings {name}: {error}")))?;
        Self::parse(&name, &bytes)
    }

    /// Refuses settings that no SPEC belongs to: a mistyped address would otherwise go without its token.
    pub(crate) fn check(&self, sources: &SourceFlags) -> Result<(), Failure> {
        let mut named = BTreeSet::new();
        for spec in &sources.registry {
            match spec {
                RegistrySpec::File(_) => {}
                RegistrySpec::Kubernetes(_) | RegistrySpec::Consul(_) | RegistrySpec::Nomad(_) => {
                    named.insert(spec.to_string());
                }
            }
        }
        for spec in &sources.config {
            match spec {
                ConfigSpec::Path(_) => {}
                ConfigSpec::Kubernetes(cluster) => drop(named.insert(cluster.to_string())),
                ConfigSpec::Consul { address, .. } => drop(named.insert(format!("consul:{address}"))),
                ConfigSpec::Nomad { address, .. } => drop(named.insert(format!("nomad:{address}"))),
            }
        }
        let written = self.consul.iter().map(|settings| format!("consul:{}", settings.address));
        let written = written.chain(self.nomad.iter().map(|settings| format!("nomad:{}", settings.address)));
        let clusters = self.kubernetes.iter().map(|s| (&s.kubeconfig, &s.context));
        let clusters = clusters.chain(self.kubernetes_config.iter().map(|s| (&s.kubeconfig, &s.context)));
        let written = written.chain(clusters.map(|(kubeconfig, context)| {
            Cluster { kubeconfig: kubeconfig.clone(), context: context.clone() }.to_string()
        }));
        let unused: Vec<String> = written.filter(|spec| !named.contains(spec)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "the settings are about {}, which no --registry or --config names",
            unused.join(", ")
        ))
        .help("write the address as in the SPEC, or remove it from the settings"))
    }

    /// The DNS domain with which short names of services are completed.
    ///
    /// # Errors
    /// When the clusters that the flags name do not agree: one mesh has one such domain.
    pub(crate) fn domain(&self, sources: &SourceFlags) -> Result<Arc<str>, Failure> {
        let registries = sources.registry.iter().filter_map(|spec| match spec {
            RegistrySpec::Kubernetes(cluster) => Some((cluster, self.kubernetes(cluster).domain)),
            _ => None,
        });
        let stores = sources.config.iter().filter_map(|spec| match spec {
            ConfigSpec::Kubernetes(cluster) => Some((cluster, self.kubernetes_config(cluster).domain)),
            _ => None,
        });
        let mut agreed: Option<(&Cluster, String)> = None;
        for (cluster, domain) in registries.chain(stores) {
            match &agreed {
                Some((other, known)) if *known != domain => {
                    return Err(Failure::usage(format!(
                        "{other} has the domain {known}, and {cluster} has {domain}: short names could mean either"
                    ))
                    .help("give all clusters of one control plane the same `domain` in the settings"));
                }
                _ => agreed = Some((cluster, domain)),
            }
        }
        Ok(agreed.map_or_else(|| EngineOptions::default().domain, |(_, domain)| domain.into()))
    }

    fn parse(name: &str, bytes: &[u8]) -> Result<Self, Failure> {
        let mut documents = yaml::parse_documents::<Self>(name, bytes);
        for diagnostic in documents.iter().flat_map(|read| &read.diagnostics) {
            output::note(&diagnostic.render(false));
        }
        match documents.len() {
            0 => Ok(Self::default()),
            1 => {
                let mut settings = documents
                    .remove(0)
                    .value
                    .ok_or_else(|| Failure::finding(format!("the settings {name} are not valid")))?;
                // As the SPEC's address is read.
                let consul =
                    settings.consul.iter_mut().map(|one: &mut xebec_adapter_consul::Settings| &mut one.address);
                let nomad = settings.nomad.iter_mut().map(|one: &mut xebec_adapter_nomad::Settings| &mut one.address);
                for address in consul.chain(nomad) {
                    address.truncate(address.trim_end_matches('/').len());
                }
                Ok(settings)
            }
            _ => Err(Failure::finding(format!("the settings {name} are several documents; write one"))),
        }
    }

    /// The settings of the Consul agent at this address; without any, those of the environment.
    pub(crate) fn consul(&self, address: &str) -> xebec_adapter_consul::Settings {
        let written = self.consul.iter().find(|settings| settings.address == address);
        written.cloned().unwrap_or_else(|| xebec_adapter_consul::Settings::from_environment(address))
    }

    /// The settings of the Nomad agent at this address; without any, those of the environment.
    pub(crate) fn nomad(&self, address: &str) -> xebec_adapter_nomad::Settings {
        let written = self.nomad.iter().find(|settings| settings.address == address);
        written.cloned().unwrap_or_else(|| xebec_adapter_nomad::Settings::from_environment(address))
    }

    /// The settings of this API server as a platform.
    pub(crate) fn kubernetes(&self, cluster: &Cluster) -> xebec_adapter_kubernetes::Settings {
        let written =
            self.kubernetes.iter().find(|s| s.kubeconfig == cluster.kubeconfig && s.context == cluster.context);
        written.cloned().unwrap_or_else(|| xebec_adapter_kubernetes::Settings {
            kubeconfig: cluster.kubeconfig.clone(),
            context: cluster.context.clone(),
            ..Default::default()
        })
    }

    /// The settings of this API server as a source of configuration.
    pub(crate) fn kubernetes_config(&self, cluster: &Cluster) -> xebec_adapter_kubernetes_config::Settings {
        let mut all = self.kubernetes_config.iter();
        let written = all.find(|s| s.kubeconfig == cluster.kubeconfig && s.context == cluster.context);
        written.cloned().unwrap_or_else(|| xebec_adapter_kubernetes_config::Settings {
            kubeconfig: cluster.kubeconfig.clone(),
            context: cluster.context.clone(),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_settings_that_are_installed_are_valid_and_belong_to_what_is_started() {
        let map: serde_json::Value =
            serde_saphyr::from_str(include_str!("../install/kubernetes/settings.yaml")).unwrap();
        let text = map["data"]["settings.yaml"].as_str().unwrap();
        let settings = Settings::parse("settings.yaml", text.as_bytes()).unwrap();
        let config = vec!["kubernetes".parse().unwrap()];
        settings.check(&SourceFlags { config, registry: Vec::new(), settings: None, mesh_config: None }).unwrap();
        assert!(settings.kubernetes_config(&Cluster::default()).webhook.is_some());
    }

    #[test]
    fn a_slash_at_the_end_of_an_address_makes_no_difference() {
        let settings =
            Settings::parse("settings.yaml", b"consul: [{address: 'http://127.0.0.1:1/', concurrency: 7}]").unwrap();
        let registry = vec!["consul:http://127.0.0.1:1/".parse().unwrap()];
        let flags = SourceFlags { config: Vec::new(), registry, settings: None, mesh_config: None };
        settings.check(&flags).unwrap();
        let RegistrySpec::Consul(address) = &flags.registry[0] else { panic!("{:?}", flags.registry) };
        assert_eq!(settings.consul(address).concurrency, 7);
    }

    #[test]
    fn one_mesh_has_one_domain() {
        let flags = |registry: &str, config: &str| SourceFlags {
            config: vec![config.parse().unwrap()],
            registry: vec![registry.parse().unwrap()],
            settings: None,
            mesh_config: None,
        };
        let text = b"kubernetes: [{kubeconfig: a, domain: corp.local}]\nkubernetesConfig: [{kubeconfig: a, domain: corp.local}]";
        let settings = Settings::parse("settings.yaml", text).unwrap();
        let domain = settings.domain(&flags("kubernetes:a", "kubernetes:a")).unwrap();
        assert_eq!(&*domain, "corp.local");
        let domain = settings.domain(&flags("consul:http://127.0.0.1:1", "rules")).unwrap();
        assert_eq!(&*domain, "cluster.local");
        let refused = format!("{:?}", settings.domain(&flags("kubernetes:a", "kubernetes:b")).unwrap_err());
        assert!(refused.contains("corp.local") && refused.contains("cluster.local"), "{refused}");
    }
}
