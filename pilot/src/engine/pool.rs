//! Resources of equal content exist once, whatever the number of parts that have them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use rustc_hash::FxBuildHasher;

use crate::resources::{Encoded, ResourceType};

/// Shares resources of equal content between parts.
#[derive(Debug, Default)]
pub struct Pool {
    known: HashMap<(ResourceType, u64), Weak<Encoded>, FxBuildHasher>,
    sweep_at: usize,
}

// === impl Pool ===

impl Pool {
    /// The resource of this content that some part has already, or this one.
    pub fn share(&mut self, kind: ResourceType, resource: Encoded) -> Arc<Encoded> {
        let slot = self.known.entry((kind, resource.version)).or_default();
        if let Some(known) = slot.upgrade().filter(|k| **k == resource) {
            return known;
        }
        let resource = Arc::new(resource);
        *slot = Arc::downgrade(&resource);
        if self.known.len() > self.sweep_at {
            self.known.retain(|_, weak| weak.strong_count() > 0);
            self.sweep_at = self.known.len() * 2 + 1024;
        }
        resource
    }
}
