//! Reads the settings of the whole mesh, `--mesh-config FILE`: Istio's MeshConfig, alone in its file.

use crate::diagnostic::{Code, Severity};
use crate::spec::MeshConfig;
use crate::validate::Findings;
use crate::yaml::{self, Path, Read, Segment};

/// The fields that have an effect. Every other one is accepted, and said to have none yet.
pub const HONOURED: [&str; 15] = [
    "accessLogEncoding",
    "accessLogFile",
    "accessLogFormat",
    "connectTimeout",
    "defaultDestinationRuleExportTo",
    "defaultHttpRetryPolicy",
    "defaultServiceExportTo",
    "defaultVirtualServiceExportTo",
    "outboundTrafficPolicy",
    "protocolDetectionTimeout",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "rootNamespace",
    "trustDomain",
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
