//! Several sources as one.

use std::collections::{BTreeMap, HashMap};

use rustc_hash::FxBuildHasher;

use super::SourceUpdate;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::resource::{Config, ConfigEvent, ResourceKey};

/// What several sources say, and what is in effect because of it.
///
/// - ALWAYS: of several sources that say one resource, the first in the operator's order is in effect, and the other is told.
/// - ALWAYS: when the first stops saying it, the next one's takes effect.
#[derive(Debug, Default)]
pub struct Join {
    said: HashMap<ResourceKey, BTreeMap<usize, Config>, FxBuildHasher>,
}

impl Join {
    /// Nothing has been said yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an update of the source at this place in the operator's order; what comes back is the update of all together.
    pub fn take(&mut self, source: usize, mut update: SourceUpdate) -> SourceUpdate {
        let mut conflicts = Vec::new();
        update.events =
            update.events.into_iter().filter_map(|event| self.event(source, event, &mut conflicts)).collect();
        update.diagnostics.extend(conflicts);
        update
    }

    fn event(&mut self, source: usize, event: ConfigEvent, conflicts: &mut Vec<Diagnostic>) -> Option<ConfigEvent> {
        match event {
            ConfigEvent::Upsert(config) => {
                let key = config.meta().key.clone();
                let layers = self.said.entry(key.clone()).or_default();
                let others = layers.keys().any(|other| *other != source);
                layers.insert(source, config.clone());
                if others && let Some((winner, first)) = layers.first_key_value() {
                    let (loser, place) = match *winner == source {
                        true => (layers.values().nth(1)?, &first.meta().source),
                        false => (&config, &first.meta().source),
                    };
                    conflicts.push(conflict(&key, loser, &place.to_string()));
                    if *winner != source {
                        return None;
                    }
                }
                Some(ConfigEvent::Upsert(config))
            }
            ConfigEvent::Remove(key) => {
                let layers = self.said.get_mut(&key)?;
                let winner = layers.keys().next().copied();
                layers.remove(&source)?;
                let next = layers.values().next().cloned();
                if layers.is_empty() {
                    self.said.remove(&key);
                }
                (winner == Some(source)).then(|| next.map_or(ConfigEvent::Remove(key), ConfigEvent::Upsert))
            }
        }
    }
}

fn conflict(key: &ResourceKey, loser: &Config, winner: &str) -> Diagnostic {
    let source = &loser.meta().source;
    let message = format!("{key} is written twice; the one at {winner} is in effect");
    let mut diagnostic = Diagnostic::of_file(Severity::Error, Code::Conflict, &source.file, message)
        .with_help("keep one of them; of several sources the first on the command line wins");
    diagnostic.source = source.clone();
    diagnostic.resource = Some(key.to_string());
    diagnostic
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Arc;

    use super::super::Texts;
    use super::*;

    fn text(host: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\nspec: {{host: {host}}}\n"
        )
    }

    /// What a source says when its one text reads so; an empty text is none.
    fn say(texts: &mut Texts, name: &str, host: &str) -> SourceUpdate {
        let name: Arc<str> = name.into();
        if host.is_empty() {
            texts.remove(&name);
        } else {
            texts.put(&name, text(host).as_bytes());
        }
        texts.settle()
    }

    fn hosts(update: &SourceUpdate) -> Vec<String> {
        let host = |event: &ConfigEvent| match event {
            ConfigEvent::Upsert(Config::DestinationRule(rule)) => rule.spec.host.clone(),
            ConfigEvent::Remove(_) => "-".into(),
            other => panic!("{other:?}"),
        };
        update.events.iter().map(host).collect()
    }

    #[test]
    fn the_first_source_wins_and_the_next_takes_over_when_it_is_silent() {
        let (mut files, mut store, mut join) = (Texts::new(), Texts::new(), Join::new());
        assert_eq!(hosts(&join.take(1, say(&mut store, "store:a", "stored"))), ["stored"]);
        let both = join.take(0, say(&mut files, "/a", "filed"));
        assert_eq!(hosts(&both), ["filed"]);
        assert_eq!(both.diagnostics[0].source.file.as_ref(), "store:a");
        let silent = join.take(1, say(&mut store, "store:a", "other"));
        assert!(hosts(&silent).is_empty() && silent.diagnostics[0].message.contains("/a:1:1"));
        assert_eq!(hosts(&join.take(0, say(&mut files, "/a", ""))), ["other"]);
        assert_eq!(hosts(&join.take(1, say(&mut store, "store:a", ""))), ["-"]);
    }

    #[test]
    fn a_source_that_was_not_in_effect_goes_unnoticed() {
        let (mut files, mut store, mut join) = (Texts::new(), Texts::new(), Join::new());
        join.take(0, say(&mut files, "/a", "filed"));
        join.take(1, say(&mut store, "store:a", "stored"));
        assert!(hosts(&join.take(1, say(&mut store, "store:a", ""))).is_empty());
        assert_eq!(hosts(&join.take(0, say(&mut files, "/a", ""))), ["-"]);
    }
}
