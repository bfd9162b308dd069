//! A mesh as files, of which one part after the other is told.

use std::fmt::Write as _;
use std::sync::Arc;

use xebec_analysis::read::{Options, Place, read};
use xebec_analysis::{Finding, Input, analyze};
use xebec_galley::read_mesh_config;

/// Documents, and how they are looked at.
#[derive(Debug, Clone, Default)]
pub struct Files {
    text: String,
    mesh: String,
    complete: bool,
}

/// No documents.
pub fn files() -> Files {
    Files::default()
}

impl Files {
    /// Any document.
    pub fn yaml(mut self, text: &str) -> Self {
        write!(self.text, "---\n{}\n", text.trim_end()).unwrap();
        self
    }

    /// A resource of `networking.istio.io`, with its `spec` in flow style.
    pub fn istio(self, kind: &str, name: &str, spec: &str) -> Self {
        self.yaml(&format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}"
        ))
    }

    /// A VirtualService for `host` whose only route is to `destination`.
    pub fn route(self, name: &str, host: &str, destination: &str) -> Self {
        let spec = format!("{{hosts: [{host}], http: [{{route: [{{destination: {destination}}}]}}]}}");
        self.istio("VirtualService", name, &spec)
    }

    /// A DestinationRule for `host` with one subset for each version.
    pub fn versions(self, host: &str, versions: &[&str]) -> Self {
        let subsets: Vec<String> =
            versions.iter().map(|version| format!("{{name: {version}, labels: {{version: {version}}}}}")).collect();
        self.istio("DestinationRule", host, &format!("{{host: {host}, subsets: [{}]}}", subsets.join(", ")))
    }

    /// A Gateway for pods with the label `istio: edge`, with these servers.
    pub fn gateway(self, name: &str, servers: &str) -> Self {
        self.istio("Gateway", name, &format!("{{selector: {{istio: edge}}, servers: [{servers}]}}"))
    }

    /// A Service of Kubernetes for pods with the label `app: NAME`. Ports are `name:number`.
    pub fn service(self, name: &str, ports: &[&str]) -> Self {
        let ports: Vec<String> = ports
            .iter()
            .map(|port| {
                let (name, number) = port.split_once(':').unwrap();
                format!("{{name: {name}, port: {number}}}")
            })
            .collect();
        self.object(
            "v1",
            "Service",
            name,
            &format!("spec: {{selector: {{app: {name}}}, ports: [{}]}}", ports.join(", ")),
        )
    }

    /// A Deployment of pods with these labels, in flow style.
    pub fn deployment(self, name: &str, labels: &str) -> Self {
        let template = format!("{{metadata: {{labels: {labels}}}, spec: {{containers: [{{name: app, image: app}}]}}}}");
        self.object("apps/v1", "Deployment", name, &format!("spec: {{template: {template}}}"))
    }

    /// An object with whatever follows its name.
    pub fn object(self, version: &str, kind: &str, name: &str, rest: &str) -> Self {
        self.yaml(&format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\n{rest}"))
    }

    /// A namespace with these labels, in flow style.
    pub fn namespace(self, name: &str, labels: &str) -> Self {
        self.yaml(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}"))
    }

    /// What is not here does not exist.
    pub fn complete(mut self) -> Self {
        self.complete = true;
        self
    }

    /// The mesh's settings.
    pub fn mesh(mut self, text: &str) -> Self {
        self.mesh = text.to_owned();
        self
    }

    /// The input that these files are.
    pub fn input(&self) -> Input {
        let settings = read_mesh_config("mesh.yaml", self.mesh.as_bytes()).value.unwrap().with_defaults();
        let options = Options { settings: Arc::new(settings), recursive: true, complete: self.complete };
        read(&[Place::Bytes { name: "mesh.yaml".into(), bytes: self.text.clone().into_bytes() }], &options)
    }

    /// Everything that is found.
    pub fn findings(&self) -> Vec<Finding> {
        analyze(&self.input())
    }

    /// The codes of everything that is found, in order.
    pub fn codes(&self) -> Vec<&'static str> {
        self.findings().iter().map(|finding| finding.message.code).collect()
    }

    /// `CODE Kind namespace/name path: message (help)` of everything that is found.
    pub fn lines(&self) -> Vec<String> {
        let line = |finding: &Finding| {
            let diagnostic = &finding.diagnostic;
            let help = diagnostic.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{} {} {}: {}{help}", finding.message.code, finding.subject, diagnostic.path, diagnostic.message)
        };
        self.findings().iter().map(line).collect()
    }
}
