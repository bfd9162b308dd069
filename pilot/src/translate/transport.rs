//! How bytes travel to a destination: plain, with TLS that a DestinationRule asks for, behind the PROXY protocol.
//!
//! Mesh identity (`ISTIO_MUTUAL`) is not issued yet: such clusters are plain text and a note says so. Every other mode is done as
//! written or fails closed: a certificate that is not there makes the proxy refuse the cluster, not skip the check.

use xebec_galley::spec::{ClientTlsMode, ClientTlsSettings, ProxyProtocol, ProxyProtocolVersion};
use xebec_proto::envoy::config::core::v3 as core;
use xebec_proto::envoy::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;
use xebec_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use xebec_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use xebec_proto::envoy::r#type::matcher::v3 as matcher;
use xebec_proto::prost::{Message, Name};

use super::wire::any;

/// Where Linux distributions keep the authorities that they trust.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The destination's name, as far as TLS needs it.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Its host.
    pub host: &'a str,
    /// Requests are HTTP: Envoy can take the server name from each request.
    pub http: bool,
    /// Connections are HTTP/2.
    pub http2: bool,
}

/// Whether the server's name and certificate are taken from each request's host.
pub fn follows_request(settings: Option<&ClientTlsSettings>, peer: Peer<'_>) -> bool {
    settings.is_some_and(|s| is_originated(s) && s.sni.is_empty() && peer.http)
}

fn is_originated(settings: &ClientTlsSettings) -> bool {
    matches!(settings.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual)
}

/// The transport socket of a cluster; `None` is plain text.
pub fn socket(
    settings: Option<&ClientTlsSettings>,
    protocol: Option<&ProxyProtocol>,
    peer: Peer<'_>,
) -> Option<core::TransportSocket> {
    let secured =
        settings.filter(|s| is_originated(s)).map(|s| transport("envoy.transport_sockets.tls", &upstream_tls(s, peer)));
    let Some(protocol) = protocol else { return secured };
    let version = match protocol.version {
        ProxyProtocolVersion::V1 => core::proxy_protocol_config::Version::V1,
        ProxyProtocolVersion::V2 => core::proxy_protocol_config::Version::V2,
    };
    Some(transport(
        "envoy.transport_sockets.upstream_proxy_protocol",
        &proxy_protocol::ProxyProtocolUpstreamTransport {
            config: Some(core::ProxyProtocolConfig { version: version as i32, ..Default::default() }),
            transport_socket: Some(
                secured.unwrap_or_else(|| transport("envoy.transport_sockets.raw_buffer", &RawBuffer {})),
            ),
            ..Default::default()
        },
    ))
}

fn upstream_tls(settings: &ClientTlsSettings, peer: Peer<'_>) -> tls::UpstreamTlsContext {
    let follows = follows_request(Some(settings), peer);
    let sni = match (settings.sni.is_empty(), follows) {
        (false, _) => settings.sni.clone(),
        (true, true) => String::new(),
        (true, false) => peer.host.trim_start_matches("*.").to_owned(),
    };
    let client = (settings.mode == ClientTlsMode::Mutual && !settings.client_certificate.is_empty()).then(|| {
        tls::TlsCertificate {
            certificate_chain: Some(file(&settings.client_certificate)),
            private_key: Some(file(&settings.private_key)),
            ..Default::default()
        }
    });
    let validation = (settings.insecure_skip_verify != Some(true)).then(|| {
        let mut names: Vec<&str> = settings.subject_alt_names.iter().map(String::as_str).collect();
        if names.is_empty() && !follows {
            names.push(&sni);
        }
        tls::CertificateValidationContext {
            trusted_ca: Some(file(if settings.ca_certificates.is_empty() {
                SYSTEM_AUTHORITIES
            } else {
                &settings.ca_certificates
            })),
            crl: (!settings.ca_crl.is_empty()).then(|| file(&settings.ca_crl)),
            match_typed_subject_alt_names: names.into_iter().map(san).collect(),
            ..Default::default()
        }
    });
    tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_certificates: client.into_iter().collect(),
            alpn_protocols: if peer.http2 { vec!["h2".to_owned()] } else { Vec::new() },
            validation_context_type: validation.map(tls::common_tls_context::ValidationContextType::ValidationContext),
            ..Default::default()
        }),
        sni,
        ..Default::default()
    }
}

fn san(name: &str) -> tls::SubjectAltNameMatcher {
    use tls::subject_alt_name_matcher::SanType;
    let kind = if name.contains("://") { SanType::Uri } else { SanType::Dns };
    tls::SubjectAltNameMatcher {
        san_type: kind as i32,
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name.to_owned())),
            ignore_case: false,
        }),
        ..Default::default()
    }
}

fn file(path: &str) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::Filename(path.to_owned())), ..Default::default() }
}

fn transport<M: Message + Name>(name: &str, config: &M) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(config))),
    }
}
