//! What an operator can choose.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which API server is read, and what is written back to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// The kubeconfig file. Absent: in a pod its own service account, elsewhere or with a context the files of `KUBECONFIG`, else
    /// `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; absent is the one that is current when it is first read.
    pub context: Option<String>,
    /// The namespaces whose resources are read; empty is all.
    pub namespaces: Vec<String>,
    /// Whether the Gateway API and Ingress are read.
    pub gateway_api: bool,
    /// The namespace of the proxies that serve Ingresses, and of what is made of Ingresses.
    pub ingress_namespace: String,
    /// The cluster's domain, in which Services have their full names.
    pub domain: String,
    /// Whether Secrets of type `kubernetes.io/tls` are listed, to say of certificates whether they are there. Nothing but their names is
    /// asked for; the permission that this needs is for all of them, and all that is in them.
    pub certificates: bool,
    /// Whether conditions are written to the status of resources.
    pub status: bool,
    /// The namespace of the Lease and the webhook's Secret. Absent: `POD_NAMESPACE`, else the pod's own, else `xebec-system`.
    pub namespace: Option<String>,
    /// The name of the Lease by which replicas elect their leader.
    pub lease: String,
    /// The validating webhook; absent is off.
    pub webhook: Option<WebhookSettings>,
}

/// The validating webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WebhookSettings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The Service in front of it; the certificate is for its names.
    pub service: String,
    /// A URL under which the API server reaches it, instead of the Service; for control planes outside the cluster.
    pub url: Option<String>,
    /// The ValidatingWebhookConfiguration that is kept up to date.
    pub configuration: String,
    /// The Secret with the certificate.
    pub secret: String,
    /// What the API server does when nobody answers.
    pub failure_policy: FailurePolicy,
}

/// What the API server does with a change when the webhook does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum FailurePolicy {
    /// The change is refused: fails closed.
    Fail,
    /// The change is let through, to be refused by galley when it is read: fails open.
    #[default]
    Ignore,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            namespaces: Vec::new(),
            gateway_api: true,
            ingress_namespace: "istio-system".to_owned(),
            domain: "cluster.local".to_owned(),
            certificates: false,
            status: true,
            namespace: None,
            lease: "xebec-leader".to_owned(),
            webhook: None,
        }
    }
}

/// Where a pod finds the name of its own namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

impl Settings {
    /// The namespace in which the control plane keeps its own objects.
    pub fn own_namespace(&self) -> String {
        let given = self.namespace.clone().filter(|name| !name.is_empty());
        let from_environment = || std::env::var("POD_NAMESPACE").ok().filter(|name| !name.is_empty());
        let from_pod = || std::fs::read_to_string(OWN_NAMESPACE).ok().map(|text| text.trim().to_owned());
        given.or_else(from_environment).or_else(from_pod).unwrap_or_else(|| "xebec-system".to_owned())
    }
}

// === impl WebhookSettings ===

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 15017)),
            service: "xebec".to_owned(),
            url: None,
            configuration: "xebec-validation".to_owned(),
            secret: "xebec-webhook-tls".to_owned(),
            failure_policy: FailurePolicy::default(),
        }
    }
}

// === impl FailurePolicy ===

impl FailurePolicy {
    /// As `failurePolicy` of a webhook configuration has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "Fail",
            Self::Ignore => "Ignore",
        }
    }
}
