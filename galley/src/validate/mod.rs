//! Rules that a resource must keep beyond its types, as Istio has them.
//!
//! Every rule is a plain function of values; it says what is wrong as a [`Finding`] with the way to the field. Places and lines are
//! added by whoever has the text.

mod destination_rule;
mod gateway;
mod mesh_config;
mod names;
mod rules;
mod service_entry;
mod sidecar;
mod virtual_service;

pub use names::{is_dns_name, is_label, is_wildcard_name};

use crate::diagnostic::{Code, Severity};
use crate::spec::{DestinationRule, Gateway, MeshConfig, ServiceEntry, Sidecar, VirtualService, WorkloadEntry};
use crate::yaml::{At, Path};

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of problem it is.
    pub code: Code,
    /// The field.
    pub path: Path,
    /// One sentence: what is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// What is wrong with one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings(pub Vec<Finding>);

/// A kind with rules.
pub trait Validate {
    /// Checks every rule; `at` is the way to this value.
    fn validate(&self, at: &At<'_>, findings: &mut Findings);
}

macro_rules! validate {
    ($($kind:ident => $rules:path;)*) => {
        $(impl Validate for $kind {
            fn validate(&self, at: &At<'_>, findings: &mut Findings) {
                $rules(self, at, findings);
            }
        })*
    };
}

validate! {
    VirtualService => virtual_service::check;
    DestinationRule => destination_rule::check;
    Gateway => gateway::check;
    ServiceEntry => service_entry::check;
    WorkloadEntry => service_entry::check_workload;
    Sidecar => sidecar::check;
    MeshConfig => mesh_config::check;
}

// === impl Findings ===

impl Findings {
    /// Checks one resource's spec.
    pub fn of(spec: &impl Validate) -> Self {
        let mut findings = Self::default();
        spec.validate(&At::root("spec"), &mut findings);
        findings
    }

    fn add(&mut self, severity: Severity, code: Code, at: &At<'_>, message: impl Into<String>, help: &str) {
        let help = (!help.is_empty()).then(|| help.to_owned());
        self.0.push(Finding { severity, code, path: at.path(), message: message.into(), help });
    }

    pub(crate) fn invalid(&mut self, at: &At<'_>, message: impl Into<String>, help: &str) {
        self.add(Severity::Error, Code::InvalidValue, at, message, help);
    }

    pub(crate) fn missing(&mut self, at: &At<'_>, message: impl Into<String>, help: &str) {
        self.add(Severity::Error, Code::Missing, at, message, help);
    }

    fn contradiction(&mut self, at: &At<'_>, message: impl Into<String>, help: &str) {
        self.add(Severity::Error, Code::Contradiction, at, message, help);
    }

    fn suspicious(&mut self, at: &At<'_>, message: impl Into<String>, help: &str) {
        self.add(Severity::Warning, Code::Suspicious, at, message, help);
    }

    fn deprecated(&mut self, at: &At<'_>, message: impl Into<String>, help: &str) {
        self.add(Severity::Warning, Code::Deprecated, at, message, help);
    }
}

#[cfg(test)]
mod tests;
