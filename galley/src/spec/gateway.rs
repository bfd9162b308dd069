//! Gateway: ports and hosts at the edge of the mesh.

use super::{LabelMap, Port};

message! {
    /// Servers of gateway proxies. Envoy: listeners.
    pub struct Gateway {
        /// All of these labels must be on the proxy's workload, in any namespace. Empty is every gateway.
        pub selector: LabelMap,
        /// What is listened on.
        pub servers: Vec<Server>,
    }
}

message! {
    /// A port with the hosts behind it.
    pub struct Server {
        /// Where it listens.
        pub port: Port,
        /// Address or `unix://` socket to listen on; empty is all addresses.
        pub bind: String,
        /// Hosts that are served, `[namespace/]name` with `*` as namespace or first label; VirtualServices must match one.
        pub hosts: Vec<String>,
        /// TLS of this port.
        pub tls: Option<ServerTlsSettings>,
        /// Istio reads it and does nothing with it.
        pub default_endpoint: String,
        /// A label of the server, unique among the gateway's.
        pub name: String,
    }
}

message! {
    /// TLS of a listening port. Envoy: `DownstreamTlsContext`.
    pub struct ServerTlsSettings {
        /// Whether plain-text requests are redirected to HTTPS. Envoy: `virtual_host.require_tls`.
        pub https_redirect: bool,
        /// What is done.
        pub mode: ServerTlsMode,
        /// Path of the server's certificate chain.
        pub server_certificate: String,
        /// Path of the server's private key.
        pub private_key: String,
        /// Path of the authorities that vouch for clients.
        pub ca_certificates: String,
        /// Path of a revocation list.
        pub ca_crl: String,
        /// Name of a secret that holds certificate and key.
        pub credential_name: String,
        /// Names of up to two secrets, for RSA and ECDSA.
        pub credential_names: Vec<String>,
        /// Name of a secret that holds the authorities that vouch for clients.
        pub ca_cert_credential_name: String,
        /// Up to two certificates from files, for RSA and ECDSA.
        pub tls_certificates: Vec<TlsCertificate>,
        /// Names that a client's certificate must have one of.
        pub subject_alt_names: Vec<String>,
        /// Hashes of acceptable client keys, SHA-256 in base64.
        pub verify_certificate_spki: Vec<String>,
        /// Hashes of acceptable client certificates, SHA-256 in hexadecimal.
        pub verify_certificate_hash: Vec<String>,
        /// Lowest version offered.
        pub min_protocol_version: TlsProtocol,
        /// Highest version offered.
        pub max_protocol_version: TlsProtocol,
        /// Ciphers of TLS 1.2 and older, by OpenSSL's names; empty is the built-in list.
        pub cipher_suites: Vec<String>,
        /// Whether client certificates are accepted unseen.
        pub insecure_skip_verify: Option<bool>,
    }
}

message! {
    /// A certificate from files.
    pub struct TlsCertificate {
        /// Path of the chain.
        pub server_certificate: String,
        /// Path of the private key.
        pub private_key: String,
        /// Path of the authorities that vouch for clients.
        pub ca_certificates: String,
    }
}

choice! {
    /// What is done about TLS on a listening port.
    pub enum ServerTlsMode {
        /// Not terminated; routed by server name as VirtualServices say.
        Passthrough,
        /// Terminated.
        Simple,
        /// Terminated; clients need a certificate.
        Mutual,
        /// Not terminated; the server name itself names the destination.
        AutoPassthrough,
        /// Terminated with the mesh's identity; clients need one too.
        IstioMutual,
        /// Terminated; a client's certificate is verified if it sends one.
        OptionalMutual,
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
pub enum TlsProtocol {
    /// The built-in choice.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// TLS 1.0
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// TLS 1.1
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// TLS 1.2
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// TLS 1.3
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
