//! Findings that are known and wanted: left out by annotation, or by who asks.

use std::fmt;
use std::str::FromStr;

use crate::finding::{Finding, Subject};
use crate::input::Input;

/// The annotation that leaves out findings of its resource: codes separated by commas, or `*`.
const ANNOTATION: &str = "galley.istio.io/analyze-suppress";

/// `CODE=RESOURCE`, where both may have `*`, and a resource is `Kind name.namespace`, or `Kind name` without a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    code: String,
    resource: String,
}

/// A text that is no [`Suppression`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSuppression;

// === impl Suppression ===

impl Suppression {
    /// Whether the finding is left out.
    pub fn covers(&self, finding: &Finding) -> bool {
        matches(&self.code, finding.message.code) && matches(&self.resource, &dotted(&finding.subject))
    }
}

impl FromStr for Suppression {
    type Err = NoSuppression;

    fn from_str(text: &str) -> Result<Self, NoSuppression> {
        let (code, resource) = text.split_once('=').ok_or(NoSuppression)?;
        let (code, resource) = (code.trim(), resource.trim());
        let is_code = !code.is_empty() && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'*');
        if !is_code || resource.is_empty() {
            return Err(NoSuppression);
        }
        Ok(Self { code: code.to_ascii_uppercase(), resource: resource.to_owned() })
    }
}

impl fmt::Display for NoSuppression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "write CODE=RESOURCE, such as \"IST0101=VirtualService reviews.default\", \"IST0102=*\" or \"*=Pod a-*.shop\"",
        )
    }
}

impl std::error::Error for NoSuppression {}

/// Leaves out what the resources themselves do not want to hear.
pub(crate) fn by_annotation(input: &Input, findings: &mut Vec<Finding>) {
    let annotated = input.annotated(ANNOTATION);
    findings.retain(|finding| {
        let Subject { kind, namespace, name } = &finding.subject;
        let codes = annotated.get(&(kind.as_str(), namespace.as_str(), name.as_str()));
        !codes.is_some_and(|codes| codes.split(',').map(str::trim).any(|c| c == "*" || c == finding.message.code))
    });
}

fn dotted(subject: &Subject) -> String {
    let Subject { kind, namespace, name } = subject;
    if namespace.is_empty() { format!("{kind} {name}") } else { format!("{kind} {name}.{namespace}") }
}

/// `*` is any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = pattern.contains('*').then(|| pattern.rsplit('*').next().unwrap_or_default()) else {
        return rest.is_empty();
    };
    let middle: Vec<&str> = parts.collect();
    for part in &middle[..middle.len() - 1] {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "Pod a.b", true),
            ("Pod a.b", "Pod a.b", true),
            ("Pod a.b", "Pod a.bc", false),
            ("Pod *.b", "Pod a.b", true),
            ("Pod *.b", "Pod a.c", false),
            ("P*a*b", "Pod a.b", true),
            ("P*b*b", "Pod a.b", false),
            ("*ab", "ab", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_no_suppression_is_refused() {
        for text in ["IST0101", "=Pod a.b", "IST0101=", "IST 1=x"] {
            assert_eq!(text.parse::<Suppression>(), Err(NoSuppression), "{text}");
        }
        assert_eq!("ist0101 = Pod a.b".parse::<Suppression>().unwrap().code, "IST0101");
    }
}
