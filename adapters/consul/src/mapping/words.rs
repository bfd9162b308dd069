//! The instances of a service repeat the same few words: their region, their zone, their labels. One copy of each is kept.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use xebec_pilot::model::Endpoint;

/// The words of one answer.
#[derive(Debug, Default)]
pub(super) struct Words(FxHashSet<Arc<str>>);

// === impl Words ===

impl Words {
    /// Makes the endpoint share what others have said before it.
    pub(super) fn share(&mut self, endpoint: &mut Endpoint) {
        let Endpoint { locality, network, labels, .. } = endpoint;
        for word in [&mut locality.region, &mut locality.zone, &mut locality.subzone, network] {
            *word = self.one(word);
        }
        *labels = labels.iter().map(|(key, value)| (self.one(key), self.one(value))).collect();
    }

    fn one(&mut self, word: &Arc<str>) -> Arc<str> {
        match self.0.get(word) {
            Some(known) => Arc::clone(known),
            None => {
                self.0.insert(Arc::clone(word));
                Arc::clone(word)
            }
        }
    }
}
