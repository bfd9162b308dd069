//! Reads the settings of the whole mesh, `--mesh-config FILE`: Istio's MeshConfig, alone in its file.

use crate::diagnostic::{Code, Severity};
use crate::honoured;
use crate::spec::MeshConfig;
use crate::validate::Findings;
use crate::yaml::{self, Path, Read, Segment};

/// The fields that have an effect. Every other one is accepted, and said to have none yet.
pub const HONOURED: [&str; 20] = [
    "accessLogEncoding",
    "accessLogFile",
    "accessLogFormat",
    "connectTimeout",
    "defaultDestinationRuleExportTo",
    "defaultHttpRetryPolicy",
    "defaultServiceExportTo",
    "defaultVirtualServiceExportTo",
    "dnsRefreshRate",
    "h2UpgradePolicy",
    "inboundTrafficPolicy",
    "localityLbSetting",
    "outboundTrafficPolicy",
    "pathNormalization",
    "protocolDetectionTimeout",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "rootNamespace",
    "tcpKeepalive",
];

/// Parts of honoured fields that have no effect yet, and why; written as in [`NOT_YET`](crate::honoured::NOT_YET).
const NOT_YET: [(&str, &str); 2] = [
    (
        "outboundTrafficPolicy.mode=ALLOW_ANY_DYNAMIC_DNS",
        "calls to unknown hosts go where the client dialled, as with `ALLOW_ANY`",
    ),
    ("outboundTrafficPolicy.tls", "TLS is not started for calls to unknown hosts"),
];

/// Reads MeshConfig. Absent fields stay absent; see [`MeshConfig::with_defaults`]. An empty file is an empty MeshConfig.
pub fn read_mesh_config(name: &str, bytes: &[u8]) -> Read<MeshConfig> {
    let mut stream = yaml::parse(name, bytes);
    if let Some(problem) = stream.problem {
        return Read { value: None, source: problem.source.clone(), diagnostics: vec![problem] };
    }
    let mut documents = stream.documents.drain(..);
    let Some(document) = documents.next() else {
        let source = crate::SourceRef { file: name.into(), line: 1, column: 1 };
        return Read { value: Some(MeshConfig::default()), source, diagnostics: Vec::new() };
    };
    let mut read: Read<MeshConfig> = document.read();
    if let Some(config) = &read.value {
        for finding in Findings::of(config).0 {
            let mut diagnostic = document.diagnostic(finding.severity, finding.code, &finding.path, finding.message);
            diagnostic.help = finding.help;
            read.diagnostics.push(diagnostic);
        }
        for entry in document.root.iter().flat_map(|root| root.entries()) {
            let field = entry.key.as_str();
            if !HONOURED.contains(&field) && !entry.node.is_null() {
                let path = Path(vec![Segment::Key(field.to_owned())]);
                let message = format!("accepted, not yet honoured: {field}");
                read.diagnostics.push(document.diagnostic(Severity::Warning, Code::NotHonoured, &path, message));
            }
        }
        for (root, (pattern, reason)) in document.root.iter().flat_map(|root| NOT_YET.map(|line| (root, line))) {
            let message = format!("accepted, not yet honoured: {reason}");
            let said = |path| document.diagnostic(Severity::Warning, Code::NotHonoured, &path, message.clone());
            read.diagnostics.extend(honoured::find(root, pattern).into_iter().map(said));
        }
    }
    for further in documents {
        let problem = further.diagnostic(
            Severity::Error,
            Code::UnknownKind,
            &Path::default(),
            "a second document in the mesh's settings",
        );
        read.diagnostics.push(problem.with_help("keep one document"));
    }
    if read.diagnostics.iter().any(crate::diagnostic::Diagnostic::is_error) {
        read.value = None;
    }
    read
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::spec::{Duration, MeshOutboundTrafficPolicyMode};

    fn lines(text: &str) -> Vec<String> {
        read_mesh_config("mesh.yaml", text.as_bytes()).diagnostics.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn settings_are_read_and_the_rest_is_istios_default() {
        let text = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\nconnectTimeout: 3s\nmeshMTLS: {minProtocolVersion: TLSV1_3}\n";
        let read = read_mesh_config("mesh.yaml", text.as_bytes());
        let config = read.value.unwrap().with_defaults();
        assert_eq!(config.outbound_traffic_policy.unwrap().mode, MeshOutboundTrafficPolicyMode::RegistryOnly);
        assert_eq!(config.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(config.root_namespace.as_deref(), Some("istio-system"));
        assert_eq!(config.default_service_export_to, ["*"]);
    }

    #[test]
    fn an_empty_file_is_the_default_mesh() {
        assert_eq!(read_mesh_config("mesh.yaml", b"# nothing\n").value, Some(MeshConfig::default()));
    }

    #[test]
    fn unknown_settings_are_refused_and_those_without_effect_are_said() {
        let read = read_mesh_config("mesh.yaml", b"outboundTrafficPolcy: {mode: ALLOW_ANY}\n");
        assert_eq!(read.diagnostics[0].help.as_deref(), Some("did you mean `outboundTrafficPolicy`?"));
        assert_eq!(read.value, None);
        assert_eq!(
            lines("enableTracing: true\n"),
            ["mesh.yaml:1:16: warning[not-honoured]: accepted, not yet honoured: enableTracing"]
        );
    }

    #[test]
    fn settings_with_an_effect_are_not_said_to_have_none() {
        let text = "h2UpgradePolicy: UPGRADE\ntcpKeepalive: {time: 7s}\npathNormalization: {normalization: NONE}\ninboundTrafficPolicy: {mode: LOCALHOST}\nlocalityLbSetting: {failover: [{from: a, to: b}]}\ndnsRefreshRate: 9s\n";
        assert_eq!(lines(text), [] as [&str; 0]);
        assert_eq!(
            lines(
                "trustDomain: example.org\noutboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS, tls: {mode: SIMPLE}}\n"
            ),
            [
                "mesh.yaml:1:14: warning[not-honoured]: accepted, not yet honoured: trustDomain",
                "mesh.yaml:2:31: warning[not-honoured]: accepted, not yet honoured: calls to unknown hosts go where the client dialled, as with `ALLOW_ANY`",
                "mesh.yaml:2:54: warning[not-honoured]: accepted, not yet honoured: TLS is not started for calls to unknown hosts",
            ]
        );
    }

    #[test]
    fn a_share_of_localities_that_makes_no_sense_is_refused() {
        let said = lines("localityLbSetting: {distribute: [{from: a, to: {b: 90}}]}\n");
        assert!(said.len() == 1 && said[0].contains("error"), "{said:?}");
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        assert_eq!(
            lines("connectTimeout: 0s\nrootNamespace: A B\n---\ntrustDomain: x\n"),
            [
                "mesh.yaml:1:17: error[invalid-value]: the duration is shorter than 1ms",
                "mesh.yaml:2:16: error[invalid-value]: `A B` is not a namespace",
                "mesh.yaml:4:1: error[unknown-kind]: a second document in the mesh's settings",
            ]
        );
    }
}
