//! What galley says of single documents, under Istio's codes.

use xebec_galley::{Code, Diagnostic, Severity};

use crate::codes;
use crate::finding::{Finding, Report, Subject};
use crate::view::View;

pub(crate) fn analyze(view: &View<'_>, report: &mut Report<'_>) {
    for problem in &view.input.problems {
        let message = match (problem.severity, problem.code) {
            (Severity::Error, _) => &codes::INVALID,
            (_, Code::Deprecated) => &codes::DEPRECATED,
            (_, Code::NotHonoured) => &codes::NOT_HONOURED,
            (Severity::Warning, _) => &codes::SUSPICIOUS,
            (Severity::Info, _) => continue,
        };
        let mut diagnostic = problem.clone();
        diagnostic.code = Code::Analysis(message.code);
        diagnostic.severity = message.level;
        report.push(Finding { message, subject: subject(problem), diagnostic });
    }
}

/// Galley names resources `Kind/namespace/name`; what is no resource is known by its file.
fn subject(problem: &Diagnostic) -> Subject {
    let mut parts = problem.resource.as_deref().unwrap_or_default().splitn(3, '/').map(str::to_owned);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(kind), Some(namespace), Some(name)) => Subject { kind, namespace, name },
        _ => Subject { kind: String::new(), namespace: String::new(), name: problem.source.file.to_string() },
    }
}

/// Leaves out warnings of galley's that an analyzer has said with a code of its own, about the same field.
pub(crate) fn without_echoes(mut findings: Vec<Finding>) -> Vec<Finding> {
    let said: Vec<(Subject, String)> = findings
        .iter()
        .filter(|finding| finding.message.code == codes::UNREACHABLE_RULE.code)
        .map(|finding| (finding.subject.clone(), finding.diagnostic.path.clone()))
        .collect();
    findings.retain(|finding| {
        finding.message.code != codes::SUSPICIOUS.code
            || !said.iter().any(|(subject, path)| *subject == finding.subject && *path == finding.diagnostic.path)
    });
    findings
}
