//! What a client refused, and which configuration that came from.

use std::sync::Arc;

use xebec_galley::SourceRef;

use super::channel::Items;
use crate::resources::{Encoded, ResourceType};
use crate::xds::request::Fault;

/// How many resources one refusal lists at most.
const MAX_LISTED: usize = 100;

/// How much of a client's text is kept.
const MAX_TEXT: usize = 16 * 1024;

/// One refused answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The type.
    pub kind: ResourceType,
    /// The nonce of the refused answer.
    pub nonce: u64,
    /// The gRPC status code that the client gave.
    pub code: i32,
    /// The client's own words, shortened when they are very long.
    pub message: String,
    /// The resources that the text names; when it names none, all of the answer.
    pub resources: Vec<RefusedResource>,
}

/// One resource of a refused answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedResource {
    /// Its name.
    pub name: Arc<str>,
    /// The version that was refused.
    pub version: u64,
    /// The documents that it was made from.
    pub origins: Arc<[SourceRef]>,
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(kind: ResourceType, nonce: u64, fault: Fault<'_>, items: &Items) -> Self {
        let message = shortened(fault.message);
        let resources = blamed(message, items).into_iter().take(MAX_LISTED).map(RefusedResource::from).collect();
        Self { kind, nonce, code: fault.code, message: message.to_owned(), resources }
    }
}

impl From<&Encoded> for RefusedResource {
    fn from(resource: &Encoded) -> Self {
        Self { name: Arc::clone(&resource.name), version: resource.version, origins: Arc::clone(&resource.origins) }
    }
}

/// The first part of `text`, cut between characters.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The resources that `message` names, or all when it names none.
fn blamed<'a>(message: &str, items: &'a Items) -> Vec<&'a Encoded> {
    let named: Vec<&Encoded> = items.iter().map(|item| &**item).filter(|item| mentions(message, &item.name)).collect();
    if named.is_empty() { items.iter().map(|item| &**item).collect() } else { named }
}

/// Whether `name` stands in `message` by itself, and not as a part of a longer name.
fn mentions(message: &str, name: &str) -> bool {
    let part_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '|' | '/');
    !name.is_empty()
        && message.match_indices(name).any(|(start, found)| {
            let (before, after) = (&message[..start], &message[start + found.len()..]);
            let mut rest = after.chars();
            let next = rest.next();
            // A full stop ends a sentence, unless a name goes on after it.
            let goes_on = match next {
                Some('.') => rest.next().is_some_and(part_of_name),
                Some(c) => part_of_name(c),
                None => false,
            };
            let begun = before.ends_with(|c: char| part_of_name(c) || c == '.');
            !goes_on && !begun
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::xds::fixture::resource;

    fn names(message: &str, resources: &[&str]) -> Vec<String> {
        let items = Items::Some(resources.iter().map(|name| resource(name, 1)).collect());
        let fault = Fault { code: 13, message };
        let refusal = Refusal::new(ResourceType::Cluster, 1, fault, &items);
        refusal.resources.iter().map(|r| r.name.to_string()).collect()
    }

    #[test]
    fn a_named_resource_is_blamed_alone() {
        let text = "Error adding/updating cluster(s) outbound|80||b.ns: bad value, outbound|80||c.ns: worse";
        let all = ["outbound|80||a.ns", "outbound|80||b.ns", "outbound|80||c.ns"];
        assert_eq!(names(text, &all), ["outbound|80||b.ns", "outbound|80||c.ns"]);
    }

    #[test]
    fn a_name_within_a_longer_name_is_not_blamed() {
        assert_eq!(names("no such thing: a.ns.svc", &["a.ns", "a.ns.svc"]), ["a.ns.svc"]);
        assert_eq!(names("v1.a.ns is wrong.", &["a.ns", "v1.a.ns"]), ["v1.a.ns"]);
    }

    #[test]
    fn without_a_name_all_are_blamed() {
        assert_eq!(names("Proto constraint validation failed", &["a", "b"]).len(), 2);
    }

    #[test]
    fn endless_text_is_cut_between_characters() {
        assert!(shortened(&"ä".repeat(MAX_TEXT)).len() <= MAX_TEXT);
    }
}
