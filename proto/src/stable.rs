//! Encoding in which equal messages have equal bytes.
//!
//! Generated map fields are hash maps with random seeds: encoding one message twice may give two different byte strings. A
//! resource's version is the hash of its content, so that would look like a change. This module encodes as usual and
//! then sorts the entries of each map where they lie; sorting moves bytes but never changes a length, so it happens in place.
//! Messages that can hold no map, which are most, cost one table lookup.
//!
//! `Any` is opaque to it: what is inside must have been encoded stably, as [`crate::any::pack`] does.

use prost::{Message, Name};

/// A message type from which a map can be reached.
struct Node {
    name: &'static str,
    /// Sorted by number.
    fields: &'static [Field],
}

/// A field that is a map or leads to one.
struct Field {
    number: u32,
    is_map: bool,
    /// Index of the message that it holds, if that one has maps itself.
    next: Option<usize>,
}

include!(concat!(env!("OUT_DIR"), "/maps.rs"));

/// Nesting beyond which bytes are left as they are: the decoder refuses such messages anyway.
const MAX_DEPTH: usize = 100;

/// Encodes `message` with the entries of every map in ascending order.
pub fn encode<M: Message + Name>(message: &M) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    sort_maps(&M::full_name(), &mut bytes);
    bytes
}

/// Sorts map entries within the encoded message `bytes` of type `full_name` (`envoy.config.core.v3.Metadata`). Leaves
/// bytes that are not such a message in some valid order of records, or as they are.
pub fn sort_maps(full_name: &str, bytes: &mut [u8]) {
    if let Ok(index) = NODES.binary_search_by(|node| node.name.cmp(full_name)) {
        sort_node(index, bytes, MAX_DEPTH);
    }
}

fn sort_node(index: usize, bytes: &mut [u8], depth: usize) {
    let Some(node) = NODES.get(index).filter(|_| depth > 0) else { return };
    let mut at = 0;
    // The run of map entries that is being read: its field, its start, and where its entries end.
    let mut run: Option<(u32, usize, Vec<usize>)> = None;
    while at < bytes.len() {
        let Some(record) = Record::read(bytes, at) else { break };
        let field = node.fields.iter().find(|field| field.number == record.number).filter(|_| record.is_nested);
        if run.as_ref().is_some_and(|(number, ..)| *number != record.number)
            && let Some((_, start, ends)) = run.take()
        {
            sort_run(bytes, start, &ends);
        }
        if let Some(field) = field {
            if let Some(next) = field.next {
                let body = &mut bytes[record.body..record.end];
                if field.is_map { sort_entry_value(next, body, depth - 1) } else { sort_node(next, body, depth - 1) }
            }
            if field.is_map {
                run.get_or_insert_with(|| (record.number, at, Vec::new())).2.push(record.end);
            }
        }
        at = record.end;
    }
    if let Some((_, start, ends)) = run {
        sort_run(bytes, start, &ends);
    }
}

/// A map's entry is a message of key (1) and value (2): sorts within the value.
fn sort_entry_value(next: usize, entry: &mut [u8], depth: usize) {
    let mut at = 0;
    while let Some(record) = Record::read(entry, at) {
        if record.number == 2 && record.is_nested {
            sort_node(next, &mut entry[record.body..record.end], depth);
        }
        at = record.end;
    }
}

/// Sorts adjacent records, each of which ends at one of `ends`.
fn sort_run(bytes: &mut [u8], start: usize, ends: &[usize]) {
    let Some(&last) = ends.last().filter(|_| ends.len() > 1) else { return };
    let copy = bytes[start..last].to_vec();
    let mut from = 0;
    let mut entries: Vec<&[u8]> = ends
        .iter()
        .map(|end| {
            let entry = &copy[from..end - start];
            from = end - start;
            entry
        })
        .collect();
    entries.sort_unstable();
    bytes[start..last].copy_from_slice(&entries.concat());
}

/// One record of the wire format.
struct Record {
    number: u32,
    /// Whether it is length-delimited.
    is_nested: bool,
    /// Where its content starts.
    body: usize,
    /// Where the next record starts.
    end: usize,
}

// === impl Record ===

impl Record {
    /// Reads the record that starts at `at`. `None` at the end, and for what is not a record.
    fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let (tag, body) = varint(bytes, at)?;
        let number = u32::try_from(tag >> 3).ok()?;
        let (is_nested, body, end) = match tag & 7 {
            0 => (false, body, varint(bytes, body)?.1),
            1 => (false, body, body.checked_add(8)?),
            2 => {
                let (length, body) = varint(bytes, body)?;
                (true, body, body.checked_add(usize::try_from(length).ok()?)?)
            }
            5 => (false, body, body.checked_add(4)?),
            _ => return None,
        };
        (end <= bytes.len()).then_some(Self { number, is_nested, body, end })
    }
}

/// Reads a variable-length integer; returns it and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, byte) in bytes.get(at..)?.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, at + index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::envoy::config::core::v3::Metadata;
    use crate::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
    use crate::{any, structs, wrappers};
    use proptest::prelude::*;
    use serde_json::json;

    fn metadata() -> Metadata {
        let values = json!({"a": 1, "b": {"x": [{"k": 1, "l": 2, "m": 3}], "y": 2, "z": 3}, "c": "text", "d": null});
        let structure = structs::from_json_object(values.as_object().unwrap());
        Metadata {
            filter_metadata: ["istio", "envoy.lb", "other", "more"].map(|k| (k.to_owned(), structure.clone())).into(),
            typed_filter_metadata: ["p", "q", "r"].map(|k| (k.to_owned(), any::pack(&wrappers::string(k)))).into(),
        }
    }

    fn routes() -> RouteConfiguration {
        let per_filter = |n: u32| (0..n).map(|i| (format!("filter-{i}"), any::pack(&wrappers::u32(i)))).collect();
        let route = Route { metadata: Some(metadata()), typed_per_filter_config: per_filter(7), ..Default::default() };
        let host = VirtualHost {
            name: "a".into(),
            routes: vec![route; 3],
            typed_per_filter_config: per_filter(5),
            ..Default::default()
        };
        RouteConfiguration { name: "9080".into(), virtual_hosts: vec![host; 2], ..Default::default() }
    }

    #[test]
    fn equal_messages_encode_equally_although_their_maps_iterate_differently() {
        let first = encode(&routes());
        // Each call builds its maps anew, with new random seeds.
        for _ in 0..50 {
            assert_eq!(encode(&routes()), first);
        }
        assert!(
            (0..50).any(|_| routes().encode_to_vec() != first),
            "plain encoding is stable: this module is not needed"
        );
    }

    #[test]
    fn sorting_keeps_the_message() {
        assert_eq!(RouteConfiguration::decode(encode(&routes()).as_slice()).unwrap(), routes());
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_message_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let before = bytes.len();
            sort_maps("envoy.config.route.v3.RouteConfiguration", &mut bytes);
            prop_assert_eq!(bytes.len(), before);
        }
    }
}
