//! MeshConfig: settings of the whole mesh, from `--mesh-config FILE`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    ClientTlsSettings, Duration, H2UpgradePolicy, HttpRetry, LocalityLbSetting, TcpKeepalive, ZoneAwareLbSetting,
};

message! {
    /// Istio's MeshConfig. [`MeshConfig::with_defaults`] fills in what Istio assumes for absent fields.
    pub struct MeshConfig {
        /// Port of outbound capture; absent is 15001.
        pub proxy_listen_port: Option<u16>,
        /// Port of inbound capture; absent is 15006.
        pub proxy_inbound_listen_port: Option<u16>,
        /// Port of an HTTP proxy for applications; absent or zero is none.
        pub proxy_http_port: Option<u16>,
        /// Limit for connecting; absent is 10s.
        pub connect_timeout: Option<Duration>,
        /// Idle time of tunnels.
        pub hbone_idle_timeout: Option<Duration>,
        /// How long a connection's first bytes are waited for where the protocol is not declared; absent is for ever.
        pub protocol_detection_timeout: Option<Duration>,
        /// TCP keep-alive of connections to destinations.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// Class of Kubernetes Ingress resources to read; absent is `istio`.
        pub ingress_class: Option<String>,
        /// Service of the ingress gateway.
        pub ingress_service: String,
        /// Which Kubernetes Ingress resources are read.
        pub ingress_controller_mode: IngressControllerMode,
        /// Label of the ingress gateway.
        pub ingress_selector: String,
        /// Whether proxies send traces.
        pub enable_tracing: bool,
        /// File of the access log, such as `/dev/stdout`; empty is no log.
        pub access_log_file: String,
        /// Format of the access log; empty is Envoy's.
        pub access_log_format: String,
        /// Encoding of the access log.
        pub access_log_encoding: AccessLogEncoding,
        /// Whether access is logged to a gRPC service.
        pub enable_envoy_access_log_service: bool,
        /// Whether connections that reach no filter chain stay unlogged.
        pub disable_envoy_listener_log: bool,
        /// Settings that proxies start with.
        pub default_config: Option<ProxyConfig>,
        /// What happens to calls to unknown hosts.
        pub outbound_traffic_policy: Option<MeshOutboundTrafficPolicy>,
        /// Which address inbound calls are forwarded to.
        pub inbound_traffic_policy: Option<MeshInboundTrafficPolicy>,
        /// Where configuration comes from.
        pub config_sources: Vec<Value>,
        /// Whether mesh identity is used wherever both sides have one; absent is yes.
        pub enable_auto_mtls: Option<bool>,
        /// The trust domain; absent is `cluster.local`.
        pub trust_domain: Option<String>,
        /// Further trust domains that are this one.
        pub trust_domain_aliases: Vec<String>,
        /// Further authorities.
        pub ca_certificates: Vec<Value>,
        /// Who sees services that do not say; absent is everybody.
        pub default_service_export_to: Vec<String>,
        /// Who sees VirtualServices that do not say; absent is everybody.
        pub default_virtual_service_export_to: Vec<String>,
        /// Who sees DestinationRules that do not say; absent is everybody.
        pub default_destination_rule_export_to: Vec<String>,
        /// Namespace whose resources apply to the whole mesh; absent is `istio-system`.
        pub root_namespace: Option<String>,
        /// Prefers near instances.
        pub locality_lb_setting: Option<LocalityLbSetting>,
        /// Keeps traffic within a zone.
        pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
        /// How often names are resolved; absent is 60s.
        pub dns_refresh_rate: Option<Duration>,
        /// Whether HTTP/1.1 becomes HTTP/2 between proxies.
        pub h2_upgrade_policy: H2UpgradePolicy,
        /// Form of inbound clusters' statistics.
        pub inbound_cluster_stat_name: String,
        /// Form of outbound clusters' statistics.
        pub outbound_cluster_stat_name: String,
        /// Certificates that the control plane makes for others. Deprecated.
        pub certificates: Vec<Value>,
        /// Settings of some services.
        pub service_settings: Vec<Value>,
        /// Which services are local to a cluster.
        pub service_scope_configs: Vec<Value>,
        /// Whether the application's metrics are merged with the proxy's; absent is yes.
        pub enable_prometheus_merge: Option<bool>,
        /// Whether servers without `caCertificates` are verified; absent is yes.
        pub verify_certificate_at_client: Option<bool>,
        /// An external authority.
        pub ca: Option<Value>,
        /// Services that extend policies and telemetry.
        pub extension_providers: Vec<Value>,
        /// Providers that are used where a resource names none.
        pub default_providers: Option<DefaultProviders>,
        /// Namespaces that are read.
        pub discovery_selectors: Vec<Value>,
        /// How paths are made canonical.
        pub path_normalization: Option<PathNormalization>,
        /// Retries where a route says nothing.
        pub default_http_retry_policy: Option<HttpRetry>,
        /// TLS between proxies.
        #[serde(rename = "meshMTLS")]
        pub mesh_mtls: Option<MeshTlsConfig>,
        /// TLS with everybody else.
        pub tls_defaults: Option<MeshTlsConfig>,
        /// Policy where no DestinationRule says anything.
        pub default_traffic_policy: Option<Value>,
        /// Which ServiceEntries are seen.
        pub service_entry_visibility: Option<Value>,
    }
}

choice! {
    /// Which Kubernetes Ingress resources are read.
    pub enum IngressControllerMode {
        /// As `STRICT`.
        Unspecified,
        /// None.
        Off,
        /// All but those of other classes.
        Default,
        /// Those of our class.
        Strict,
    }
}

choice! {
    /// Encoding of the access log.
    pub enum AccessLogEncoding {
        /// One line of text.
        Text,
        /// One JSON object.
        Json,
    }
}

message! {
    /// What happens to calls to unknown hosts. Absent as a whole is `ALLOW_ANY`.
    pub struct MeshOutboundTrafficPolicy {
        /// What happens.
        pub mode: MeshOutboundTrafficPolicyMode,
        /// TLS for calls to hosts that are resolved on the fly.
        pub tls: Option<ClientTlsSettings>,
    }
}

choice! {
    /// What happens to calls to unknown hosts.
    pub enum MeshOutboundTrafficPolicyMode {
        /// They are refused.
        RegistryOnly,
        /// They go where the client dialled.
        AllowAny,
        /// HTTP goes to whatever the host asked for resolves to.
        AllowAnyDynamicDns,
    }
}

message! {
    /// Which address inbound calls are forwarded to.
    pub struct MeshInboundTrafficPolicy {
        /// Which.
        pub mode: MeshInboundTrafficPolicyMode,
    }
}

choice! {
    /// Which address inbound calls are forwarded to.
    pub enum MeshInboundTrafficPolicyMode {
        /// The one that was dialled.
        Passthrough,
        /// 127.0.0.1.
        Localhost,
    }
}

message! {
    /// Providers that are used where a resource names none.
    pub struct DefaultProviders {
        /// For traces.
        pub tracing: Vec<String>,
        /// For metrics.
        pub metrics: Vec<String>,
        /// For access logs.
        pub access_logging: Vec<String>,
    }
}

message! {
    /// How paths are made canonical.
    pub struct PathNormalization {
        /// How far.
        pub normalization: PathNormalizationType,
    }
}

choice! {
    /// How far paths are made canonical.
    pub enum PathNormalizationType {
        /// As `BASE`.
        Default,
        /// Not at all.
        None,
        /// RFC 3986: dot segments are resolved, case of escapes.
        Base,
        /// And runs of slashes become one.
        MergeSlashes,
        /// And escaped slashes become slashes.
        DecodeAndMergeSlashes,
    }
}

message! {
    /// TLS settings of the mesh.
    pub struct MeshTlsConfig {
        /// Lowest version.
        pub min_protocol_version: super::TlsProtocol,
        /// Curves.
        pub ecdh_curves: Vec<String>,
        /// Ciphers of TLS 1.2 and older.
        pub cipher_suites: Vec<String>,
    }
}

message! {
    /// Settings that a proxy starts with. Parts that have no meaning here are kept as they were written.
    pub struct ProxyConfig {
        /// Directory of generated files.
        pub config_path: String,
        /// Envoy's path.
        pub binary_path: String,
        /// Name of the service that the proxy belongs to.
        pub service_cluster: String,
        /// How the traced service's name is found, instead of `serviceCluster`.
        pub tracing_service_name: String,
        /// How long connections are drained.
        pub drain_duration: Option<Duration>,
        /// Address of the control plane.
        pub discovery_address: String,
        /// Deprecated and without effect.
        pub discovery_refresh_delay: Option<Duration>,
        /// Deprecated: `tracing.zipkin.address` replaces it.
        pub zipkin_address: String,
        /// Address of a statsd server.
        pub statsd_udp_address: String,
        /// Deprecated: `envoyMetricsService.address` replaces it.
        pub envoy_metrics_service_address: String,
        /// Port of the admin interface; absent is 15000.
        pub proxy_admin_port: Option<u16>,
        /// Deprecated: localities replace it.
        pub availability_zone: String,
        /// Deprecated and without effect.
        pub control_plane_auth_policy: String,
        /// Path of a bootstrap that replaces the generated one.
        pub custom_config_file: String,
        /// Longest name of statistics; absent is 189.
        pub stat_name_length: Option<u32>,
        /// Worker threads; absent is chosen by CPU limits, zero is one per core.
        pub concurrency: Option<u32>,
        /// Path of a template of the bootstrap.
        pub proxy_bootstrap_template_path: String,
        /// How connections are captured: `REDIRECT`, `TPROXY` or `NONE`.
        pub interception_mode: String,
        /// Traces.
        pub tracing: Option<Value>,
        /// Deprecated and without effect.
        pub sds: Option<Value>,
        /// A gRPC service for access logs.
        pub envoy_access_log_service: Option<Value>,
        /// A gRPC service for metrics.
        pub envoy_metrics_service: Option<Value>,
        /// Environment of the proxy.
        pub proxy_metadata: BTreeMap<String, String>,
        /// Envoy's runtime.
        pub runtime_values: BTreeMap<String, String>,
        /// Port of health; absent is 15020.
        pub status_port: Option<u16>,
        /// Further tags of statistics.
        pub extra_stat_tags: Vec<String>,
        /// What is in front of gateways.
        pub gateway_topology: Option<Value>,
        /// How long the proxy waits before it stops; absent is 5s.
        pub termination_drain_duration: Option<Duration>,
        /// The mesh's name.
        pub mesh_id: String,
        /// Checks of a workload outside of Kubernetes.
        pub readiness_probe: Option<Value>,
        /// Which statistics exist.
        pub proxy_stats_matcher: Option<Value>,
        /// Whether the application starts after the proxy.
        pub hold_application_until_proxy_starts: Option<bool>,
        /// Further authorities.
        pub ca_certificates_pem: Vec<String>,
        /// Which image of the proxy.
        pub image: Option<Value>,
        /// Hardware for private keys.
        pub private_key_provider: Option<Value>,
        /// Which headers proxies add.
        pub proxy_headers: Option<Value>,
        /// How often files are flushed.
        pub file_flush_interval: Option<Duration>,
        /// How much is buffered for files, in KB.
        pub file_flush_min_size_kb: Option<u32>,
        /// Whether statistics are compressed.
        pub stats_compression: Option<bool>,
        /// Limits of connections.
        pub connection_settings: Option<Value>,
    }
}

// === impl MeshConfig ===

impl MeshConfig {
    /// Istio's defaults, said aloud: the same mesh as an empty MeshConfig.
    pub fn with_defaults(mut self) -> Self {
        self.proxy_listen_port.get_or_insert(15001);
        self.proxy_inbound_listen_port.get_or_insert(15006);
        self.connect_timeout.get_or_insert(Duration::from_secs(10));
        self.protocol_detection_timeout.get_or_insert_default();
        self.trust_domain.get_or_insert_with(|| "cluster.local".to_owned());
        self.root_namespace.get_or_insert_with(|| "istio-system".to_owned());
        self.dns_refresh_rate.get_or_insert(Duration::from_secs(60));
        self.enable_auto_mtls.get_or_insert(true);
        self.outbound_traffic_policy
            .get_or_insert(MeshOutboundTrafficPolicy { mode: MeshOutboundTrafficPolicyMode::AllowAny, tls: None });
        for list in [
            &mut self.default_service_export_to,
            &mut self.default_virtual_service_export_to,
            &mut self.default_destination_rule_export_to,
        ] {
            if list.is_empty() {
                list.push("*".to_owned());
            }
        }
        self
    }
}
