//! Galley: configuration. Every document goes through one door: parse with `file:line:column`, validate, publish.
//!
//! Start reading at [`resource`], the shape of everything that is published. The way of a document is [`yaml`] (text to tree, tree to
//! types), [`decode`] (which kind, and is it sound: [`validate`]), and [`source`] (which files, and what changed). [`check`] goes the same
//! way offline. Whatever is wrong is a [`Diagnostic`].
//!
//! Invariants:
//!
//! - ALWAYS: a bad document is refused with a precise error, and the last good version of it stays live.
//! - ALWAYS: other documents, in the same file too, take effect whatever is wrong with one.
//! - NEVER: panic on input.

pub mod check;
pub mod decode;
pub mod diagnostic;
pub mod honoured;
pub mod mesh_config;
pub mod resource;
pub mod source;
pub mod spec;
pub mod validate;
pub mod watch;
pub mod yaml;

pub use diagnostic::{Code, Diagnostic, Severity};
pub use mesh_config::read_mesh_config;
pub use resource::{Config, ConfigEvent, Kind, Meta, Resource, ResourceKey, SourceRef};
pub use source::{DirectorySource, SourceUpdate};
