//! The Gateway API and Ingress in terms of Istio's kinds.
//!
//! A [`Converter`] holds the Kubernetes objects as they are watched, and says at any time which Istio resources they amount to, and
//! which statuses the Gateway API wants to see on them. What else matters about the cluster (which Services exist, the labels of
//! namespaces) is asked through [`Facts`]. Nothing here does I/O or knows the time: the caller watches, distributes and writes.
//!
//! Start reading at [`convert`](Converter::convert). The way of an object is `object` (typed, named), `read` (the generated types in
//! our own terms, checked by galley's rules), `listener` and `attach` (who may hang on what), `rule` and `vs` (Istio's routes).
//!
//! Invariants:
//!
//! - ALWAYS: conversion is total. A bad reference or value gives a condition, and an error answer for the requests concerned; the rest
//!   takes effect.
//! - ALWAYS: the output depends on the objects and the facts only, not on the order in which they came.
//! - ALWAYS: generated resources keep galley's rules.
//! - NEVER: a status that claims what the proxies do not do.
//! - NEVER: a reference into another namespace without a ReferenceGrant there.

mod attach;
mod backend;
mod convert;
mod facts;
mod grant;
mod hostname;
mod ingress;
mod listener;
mod model;
mod object;
mod policy;
mod read;
mod rule;
mod status;
mod vs;

#[cfg(test)]
mod tests;

pub use convert::{Converter, Note, Output, Settings};
pub use facts::{Carrier, Facts, ServicePort, ServicePorts};
pub use object::{Error, Object, ObjectKey, ObjectKind};
pub use status::{Condition, ListenerStatus, ObjectStatus, ParentStatus, Status};

/// `spec.controllerName` of the GatewayClasses that are ours.
pub const GATEWAY_CONTROLLER: &str = "xebec.io/gateway-controller";

/// `spec.controller` of the IngressClasses that are ours.
pub const INGRESS_CONTROLLER: &str = "xebec.io/ingress-controller";

/// The label that a gateway proxy carries to serve a Gateway of its namespace: the Gateway's name.
pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// The label that a gateway proxy carries to serve Ingresses, and its value.
pub const INGRESS_SELECTOR: (&str, &str) = ("istio", "ingressgateway");
