//! GatewayClass, ReferenceGrant, BackendTLSPolicy, Ingress, IngressClass.

use gateway_api::backendtlspolicies as policies;
use gateway_api::experimental::{gatewayclasses, referencegrants};
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{exact, prefix};
use crate::grant::{Grant, KindName};
use crate::model::{GatewayClass, Identity, Ingress, IngressBackend, IngressClass, IngressPort, PathMatch, TlsPolicy};

/// The annotation of an IngressClass that serves Ingresses without a class.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// The annotation that named an Ingress's class before the field did.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Reads a GatewayClass.
pub fn gateway_class(id: Identity, from: gatewayclasses::GatewayClassSpec) -> GatewayClass {
    let gatewayclasses::GatewayClassSpec { controller_name, description: _, parameters_ref } = from;
    GatewayClass { id, controller: controller_name, has_parameters: parameters_ref.is_some() }
}

/// Reads a ReferenceGrant.
pub fn reference_grant(from: referencegrants::ReferenceGrantSpec) -> Grant {
    let referencegrants::ReferenceGrantSpec { from, to } = from;
    Grant {
        from: from.into_iter().map(|f| (KindName { group: f.group, kind: f.kind }, f.namespace)).collect(),
        to: to
            .into_iter()
            .map(|t| (KindName { group: t.group, kind: t.kind }, t.name.filter(|name| !name.is_empty())))
            .collect(),
    }
}

/// Reads a BackendTLSPolicy.
pub fn tls_policy(id: Identity, from: policies::BackendTlsPolicySpec) -> TlsPolicy {
    let policies::BackendTlsPolicySpec { options, target_refs, validation } = from;
    let policies::BackendTlsPolicyValidation {
        ca_certificate_refs,
        hostname,
        subject_alt_names,
        well_known_ca_certificates,
    } = validation;
    TlsPolicy {
        id,
        targets: target_refs.into_iter().map(|t| (t.group, t.kind, t.name, t.section_name)).collect(),
        hostname,
        alt_names: subject_alt_names.into_iter().flatten().filter_map(|name| name.hostname.or(name.uri)).collect(),
        authorities: ca_certificate_refs.into_iter().flatten().map(|r| (r.group, r.kind, r.name)).collect(),
        well_known: well_known_ca_certificates.filter(|name| !name.is_empty()),
        has_options: options.is_some_and(|options| !options.is_empty()),
    }
}

/// Reads an IngressClass.
pub fn ingress_class(id: Identity, metadata: &ObjectMeta, from: Option<networking::IngressClassSpec>) -> IngressClass {
    let is_default =
        metadata.annotations.as_ref().and_then(|list| list.get(DEFAULT_CLASS)).is_some_and(|value| value == "true");
    IngressClass { id, controller: from.and_then(|spec| spec.controller).unwrap_or_default(), is_default }
}

/// Reads an Ingress. Paths that are no paths are left out and named.
pub fn ingress(id: Identity, metadata: &ObjectMeta, from: Option<networking::IngressSpec>) -> (Ingress, Vec<String>) {
    let networking::IngressSpec { default_backend, ingress_class_name, rules, tls } = from.unwrap_or_default();
    let annotated = metadata.annotations.as_ref().and_then(|list| list.get(CLASS_ANNOTATION)).cloned();
    let mut left_out = Vec::new();
    let rules = rules
        .into_iter()
        .flatten()
        .map(|rule| {
            let host = rule.host.filter(|host| !host.is_empty()).map(|host| host.to_ascii_lowercase());
            let mut paths = Vec::new();
            for from in rule.http.into_iter().flat_map(|http| http.paths) {
                match path(&from.path_type, from.path.as_deref()) {
                    Ok(path) => paths.push((path, backend(from.backend))),
                    Err(problem) => left_out.push(problem),
                }
            }
            (host, paths)
        })
        .collect();
    let read = Ingress {
        id,
        class: ingress_class_name.or(annotated),
        default: default_backend.map(backend),
        rules,
        tls: tls
            .into_iter()
            .flatten()
            .map(|tls| {
                let hosts = tls.hosts.into_iter().flatten().map(|host| host.to_ascii_lowercase()).collect();
                (hosts, tls.secret_name.filter(|name| !name.is_empty()))
            })
            .collect(),
    };
    (read, left_out)
}

/// `ImplementationSpecific` is a prefix here, as `Prefix` is.
fn path(path_type: &str, path: Option<&str>) -> Result<PathMatch, String> {
    let path = path.filter(|path| !path.is_empty()).unwrap_or("/");
    match path_type {
        "Exact" => exact(path),
        "Prefix" | "ImplementationSpecific" => prefix(path),
        other => Err(format!("the path type `{other}` is not known")),
    }
}

fn backend(from: networking::IngressBackend) -> IngressBackend {
    let service = from.service.and_then(|service| {
        let port = service.port?;
        let port = match (port.number, port.name) {
            (Some(number), _) => IngressPort::Number(number),
            (None, name) => IngressPort::Name(name?),
        };
        Some((service.name, port))
    });
    IngressBackend { service }
}
