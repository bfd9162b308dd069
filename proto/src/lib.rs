//! Every wire type: Envoy's protobufs, their type URLs, and proto3 JSON.
//!
//! All other crates reach Envoy's API through this one, so that the package that generates it is named in one place only.
//! Nothing here does I/O, and nothing here knows what a mesh is.
//!
//! - [`envoy`], [`xds`], [`google`] and their siblings are the generated messages; [`prost`] comes along for its traits.
//! - [`type_url`] names the types that travel inside `google.protobuf.Any`.
//! - [`any`] packs and unpacks them, checked against the URL.
//! - [`stable`] encodes so that equal messages have equal bytes. Versions are hashes of content, and generated map fields
//!   iterate in random order: ALWAYS encode what is hashed through [`stable::encode`] or [`any::pack`].
//! - [`json`] converts every type to proto3 JSON and back, `Any` included.
//! - [`duration`], [`wrappers`] and [`structs`] convert the small types that appear everywhere.
//!
//! Start reading at [`any`]; `build.rs` says where the descriptors behind [`json`] and [`stable`] come from.

pub mod any;
pub mod duration;
pub mod json;
pub mod stable;
pub mod structs;
pub mod type_url;
pub mod typed_struct;
pub mod wrappers;

pub use envoy_types::pb;
pub use envoy_types::pb::{cel, envoy, google, io, opentelemetry, ratelimit, udpa, validate, xds};
pub use prost;
