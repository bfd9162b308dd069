//! Documents from a store that is not a directory: an API server, a key-value store.

use std::sync::Arc;

use super::SourceUpdate;
use super::ledger::{Changes, Ledger};
use crate::diagnostic::Diagnostic;

/// The named texts of a store, and what is in effect because of them.
///
/// Whoever watches the store says what it holds now, with [`Texts::put`] and [`Texts::remove`], and takes what that changed
/// with [`Texts::settle`]. The promises are those of files: a text with a mistake keeps its last good version live, and
/// of several texts that say one resource, the first by name is in effect.
#[derive(Debug, Default)]
pub struct Texts {
    ledger: Ledger,
    changes: Changes,
    synced: bool,
}

impl Texts {
    /// A store of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text of that name reads so now. The name stands for the file in diagnostics: a URI such as
    /// `consul:http://127.0.0.1:8500/xebec/reviews`.
    pub fn put(&mut self, name: &Arc<str>, text: &[u8]) {
        self.ledger.put(name, text, &mut self.changes);
    }

    /// The text of that name is there and cannot be read; what it last said stays in effect.
    pub fn fault(&mut self, name: &Arc<str>, diagnostic: Diagnostic) {
        self.ledger.fault(name, diagnostic, &mut self.changes);
    }

    /// The store says that the text of that name is gone.
    pub fn remove(&mut self, name: &Arc<str>) {
        self.ledger.remove(name, &mut self.changes);
    }

    /// The names of all texts, in order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ledger.names()
    }

    /// The first listing is complete.
    pub fn synced(&mut self) {
        self.synced = true;
    }

    /// Everything that changed since this was last asked.
    pub fn settle(&mut self) -> SourceUpdate {
        let (events, files, diagnostics) = self.ledger.settle(std::mem::take(&mut self.changes));
        SourceUpdate { events, files, diagnostics, synced: self.synced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::ConfigEvent;

    const RULE: &str =
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a}\n";

    #[test]
    fn a_text_with_a_mistake_keeps_its_last_good_version_and_is_reported() {
        let mut texts = Texts::new();
        let name: Arc<str> = "store:/a".into();
        texts.put(&name, RULE.as_bytes());
        texts.synced();
        let update = texts.settle();
        assert!(matches!(update.events.as_slice(), [ConfigEvent::Upsert(_)]) && update.synced);
        texts.put(&name, RULE.replace("host: a", "hots: a").as_bytes());
        let update = texts.settle();
        assert!(update.events.is_empty());
        assert!(update.diagnostics.iter().any(Diagnostic::is_error));
        texts.remove(&name);
        assert!(matches!(texts.settle().events.as_slice(), [ConfigEvent::Remove(_)]));
    }
}
