//! The kinds that are read from an API server.

use kube::core::{ApiResource, GroupVersionKind};
use xebec_galley::Kind;
use xebec_gateway_api::ObjectKind;

use crate::settings::Settings;

/// What becomes of the objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    /// Galley reads them as they are.
    Istio(Kind),
    /// They are converted to Istio's kinds.
    Gateway(ObjectKind),
    /// Conversion asks which ports there are.
    Service,
    /// Conversion asks for labels.
    Namespace,
    /// A pod that may serve Gateways: conversion asks where its proxy is reached.
    GatewayProxy,
    /// A pod that may serve Ingresses, likewise.
    IngressProxy,
    /// Conversion asks whether there is a certificate in it.
    Certificate,
}

/// A kind on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Watched {
    /// What becomes of its objects.
    pub family: Family,
    /// Its API group.
    pub group: &'static str,
    /// The versions that can be read, best first.
    pub versions: &'static [&'static str],
    /// Its name in documents.
    pub kind: &'static str,
    /// Its name in paths.
    pub plural: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether somebody must install it first.
    pub custom: bool,
    /// Which of its objects are read; empty is all. A label selector.
    pub labels: &'static str,
    /// Which of its objects are read; empty is all. A field selector.
    pub fields: &'static str,
}

const ISTIO: &str = "networking.istio.io";
const ISTIO_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];

// === impl Watched ===

impl Watched {
    /// Every kind that the settings want.
    pub(crate) fn all(settings: &Settings) -> Vec<Self> {
        let mut all: Vec<Self> = Kind::ALL.into_iter().map(Self::istio).collect();
        if settings.gateway_api {
            all.extend(ObjectKind::ALL.into_iter().map(Self::gateway));
            all.extend([SERVICE, NAMESPACE, GATEWAY_PROXY, INGRESS_PROXY]);
            all.extend(settings.certificates.then_some(CERTIFICATE));
        }
        all
    }

    /// One of Istio's kinds.
    pub(crate) fn istio(kind: Kind) -> Self {
        Self {
            family: Family::Istio(kind),
            group: ISTIO,
            versions: ISTIO_VERSIONS,
            kind: kind.as_str(),
            plural: plural(kind),
            namespaced: true,
            custom: true,
            labels: "",
            fields: "",
        }
    }

    /// One of the kinds that are converted.
    pub(crate) fn gateway(kind: ObjectKind) -> Self {
        Self {
            family: Family::Gateway(kind),
            group: kind.group(),
            versions: kind.versions(),
            kind: kind.as_str(),
            plural: kind.plural(),
            namespaced: kind.is_namespaced(),
            custom: kind.group() != "networking.k8s.io",
            labels: "",
            fields: "",
        }
    }

    /// How the client names it in a version.
    pub(crate) fn resource(&self, version: &str) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, version, self.kind), self.plural)
    }

    /// The name of its CustomResourceDefinition.
    pub(crate) fn definition(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

/// A kind's name in paths.
pub(crate) const fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::VirtualService => "virtualservices",
        Kind::DestinationRule => "destinationrules",
        Kind::Gateway => "gateways",
        Kind::ServiceEntry => "serviceentries",
        Kind::WorkloadEntry => "workloadentries",
        Kind::Sidecar => "sidecars",
    }
}

/// What conversion asks about beside the objects themselves.
const SERVICE: Watched = core(Family::Service, "Service", "services");
const NAMESPACE: Watched = Watched { namespaced: false, ..core(Family::Namespace, "Namespace", "namespaces") };
// Selectors must agree with `GATEWAY_NAME_LABEL` and `INGRESS_SELECTOR`; a test sees to that.
const GATEWAY_PROXY: Watched =
    Watched { labels: "gateway.networking.k8s.io/gateway-name", ..core(Family::GatewayProxy, "Pod", "pods") };
const INGRESS_PROXY: Watched = Watched { labels: "istio=ingressgateway", ..core(Family::IngressProxy, "Pod", "pods") };
const CERTIFICATE: Watched =
    Watched { fields: "type=kubernetes.io/tls", ..core(Family::Certificate, "Secret", "secrets") };

const fn core(family: Family, kind: &'static str, plural: &'static str) -> Watched {
    Watched {
        family,
        group: "",
        versions: &["v1"],
        kind,
        plural,
        namespaced: true,
        custom: false,
        labels: "",
        fields: "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_looked_for_by_the_labels_that_generated_gateways_select() {
        assert_eq!(GATEWAY_PROXY.labels, xebec_gateway_api::GATEWAY_NAME_LABEL);
        let (key, value) = xebec_gateway_api::INGRESS_SELECTOR;
        assert_eq!(INGRESS_PROXY.labels, format!("{key}={value}"));
    }
}
