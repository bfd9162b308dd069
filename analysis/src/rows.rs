//! Findings for machines: rows with the names that Istio's own analysis gives them.

use serde_json::{Value, json};
use xebec_galley::Severity;

use crate::finding::Finding;

/// One object per finding. `origin` is the resource, `reference` its place, and `documentationUrl` a page of this project's documentation,
/// relative to its root.
pub fn rows(findings: &[Finding]) -> Value {
    findings.iter().map(row).collect()
}

fn row(finding: &Finding) -> Value {
    let source = &finding.diagnostic.source;
    json!({
        "code": finding.message.code,
        "name": finding.message.name,
        "level": level(finding.level()),
        "origin": finding.subject.to_string(),
        "reference": format!("{}:{}", source.file, source.line),
        "file": &*source.file,
        "line": source.line,
        "column": source.column,
        "path": finding.diagnostic.path,
        "message": finding.diagnostic.message,
        "help": finding.help(),
        "documentationUrl": finding.message.documentation(),
    })
}

/// A level as Istio writes it.
pub fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "Error",
        Severity::Warning => "Warning",
        Severity::Info => "Info",
    }
}
