//! Istio's networking resources as plain Rust values: every field of `v1`, `v1beta1` and `v1alpha3`, which share one schema.
//!
//! Types are strict: an unknown field or a wrong type is refused when a document is read. They say nothing about whether the
//! values make sense together; [`validate`](crate::validate) does that. Fields that are absent have the value of
//! `Default`, so a value is built tersely: `Destination { host: "reviews".into(), ..Default::default() }`.
//! Serialised, a value has Istio's own form again, without the fields that are at their default.

/// Declares a message: camelCase names, unknown fields refused, absent fields at their default and not written back.
macro_rules! message {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(skip_serializing_if = "crate::spec::is_default")] pub $field: $type,)*
        }
    };
}

/// Declares an enum whose values are written in capitals, the first being the default.
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident { $(#[$first_meta:meta])* $first:ident, $($(#[$value_meta:meta])* $value:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        pub enum $name {
            $(#[$first_meta])* #[default] $first,
            $($(#[$value_meta])* $value,)*
        }
    };
}

mod destination_rule;
mod gateway;
mod mesh_config;
mod scalar;
mod service_entry;
mod sidecar;
mod virtual_service;
mod workload_entry;

pub use destination_rule::*;
pub use gateway::*;
pub use mesh_config::*;
pub use scalar::*;
pub use service_entry::*;
pub use sidecar::*;
pub use virtual_service::*;
pub use workload_entry::*;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The names of gRPC's status codes; a name's place is its number.
pub const GRPC_STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
