//! Where configuration comes from. Every source publishes the same [`SourceUpdate`]s.

mod directory;
mod join;
mod ledger;
mod log;
mod texts;

use std::sync::Arc;

pub use directory::DirectorySource;
pub use directory::read_limited;
pub use join::Join;
pub use log::LogWindow;
pub use texts::Texts;

use crate::diagnostic::Diagnostic;
use crate::resource::ConfigEvent;

/// One change of a source. Its events become visible together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SourceUpdate {
    /// What is new, different or gone.
    pub events: Vec<ConfigEvent>,
    /// The files whose problems are said anew: whatever was said about them before is over.
    pub files: Vec<Arc<str>>,
    /// Everything to say about those files.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether everything that the source has was read once. True in every update but those before the first complete one.
    pub synced: bool,
}

#[cfg(test)]
mod tests;
