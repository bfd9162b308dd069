//! Answers as they leave: protobuf and gRPC framing around shared bytes.
//!
//! A resource's body is encoded once per shape. Here it is only framed: small bodies are copied into chunks of bounded
//! size, made when HTTP/2 asks for them; large ones and whole types are handed over by reference. A stream that does not
//! read holds at most one chunk.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::pack::Pack;
use super::request::Variant;
use super::session::{Answer, Items};
use crate::resources::Encoded;

/// How much is copied together before it is handed over.
const CHUNK: usize = 32 * 1024;

/// A body of this size or more is handed over by reference.
const LARGE: usize = 8 * 1024;

/// An answer on its way out, as gRPC length-prefixed bytes.
#[derive(Debug)]
pub(crate) struct Outgoing {
    variant: Variant,
    type_url: Arc<str>,
    head: Bytes,
    pack: Option<Arc<Pack>>,
    items: Arc<[Arc<Encoded>]>,
    next: usize,
    /// The body whose frame was written last, when it goes by reference.
    body: Option<Bytes>,
    length: usize,
}

/// Keeps a pack alive for as long as HTTP/2 holds bytes of it.
struct Held(Arc<Pack>);

// === impl Outgoing ===

impl Outgoing {
    /// Frames an answer.
    pub(crate) fn new(variant: Variant, answer: &Answer) -> Self {
        let version = format!("{:016x}", answer.version);
        let nonce = format!("{:x}", answer.nonce);
        let (pack, items) = match (&answer.items, answer.kind) {
            (Items::Whole(published, kind), _) => (Some(published.pack(variant, *kind)), Arc::default()),
            (Items::Some(items), _) => (None, Arc::clone(items)),
        };
        let resources: usize = match &pack {
            Some(pack) => pack.bytes.len(),
            None => items.iter().map(|r| framed_length(variant, &answer.type_url, r)).sum(),
        };
        let mut fields = BytesMut::with_capacity(128);
        put_text(&mut fields, 1, &version);
        put_text(&mut fields, 4, &answer.type_url);
        put_text(&mut fields, 5, &nonce);
        if variant == Variant::Delta {
            for name in &answer.removed {
                put_text(&mut fields, 6, name);
            }
        }
        let length = fields.len() + resources;
        let mut head = BytesMut::with_capacity(5 + fields.len());
        head.put_u8(0);
        head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        head.extend_from_slice(&fields);
        Self {
            variant,
            type_url: Arc::clone(&answer.type_url),
            head: head.freeze(),
            pack,
            items,
            next: 0,
            body: None,
            length,
        }
    }

    /// The size of the message, without gRPC's five bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The next bytes to send; `None` at the end.
    pub(crate) fn next_chunk(&mut self) -> Option<Bytes> {
        if self.pack.is_some() && !self.head.is_empty() {
            return Some(std::mem::take(&mut self.head));
        }
        if let Some(pack) = self.pack.take() {
            return (!pack.bytes.is_empty()).then(|| Bytes::from_owner(Held(pack)));
        }
        if let Some(body) = self.body.take() {
            return Some(body);
        }
        let head = std::mem::take(&mut self.head);
        if self.next == self.items.len() {
            return (!head.is_empty()).then_some(head);
        }
        let mut chunk = BytesMut::with_capacity(self.chunk_size(head.len()));
        chunk.extend_from_slice(&head);
        while let Some(resource) = self.items.get(self.next) {
            if !chunk.is_empty() && resource.body.len() < LARGE && chunk.len() + resource.body.len() > CHUNK {
                break;
            }
            put_framed(&mut chunk, self.variant, &self.type_url, resource);
            self.next += 1;
            if resource.body.len() >= LARGE {
                self.body = Some(resource.body.clone());
                break;
            }
            chunk.extend_from_slice(&resource.body);
        }
        Some(chunk.freeze())
    }

    /// A good guess at how long the next chunk will be, to allocate it once.
    fn chunk_size(&self, head: usize) -> usize {
        let mut size = head;
        for resource in &self.items[self.next..] {
            let body = if resource.body.len() >= LARGE { 0 } else { resource.body.len() };
            size += framed_length(self.variant, &self.type_url, resource) - resource.body.len() + body;
            if size > CHUNK || resource.body.len() >= LARGE {
                break;
            }
        }
        size
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

// === protobuf ===

/// How long a resource is within an answer, with its tag.
pub(crate) fn framed_length(variant: Variant, type_url: &str, resource: &Encoded) -> usize {
    let any = any_length(type_url, resource);
    let inner = match variant {
        Variant::StateOfTheWorld => any,
        Variant::Delta => resource_length(any, resource),
    };
    1 + varint_length(inner) + inner
}

/// Writes everything of a framed resource that comes before its body. The body is last.
pub(crate) fn put_framed(out: &mut BytesMut, variant: Variant, type_url: &str, resource: &Encoded) {
    let any = any_length(type_url, resource);
    put_tag(out, 2);
    match variant {
        Variant::StateOfTheWorld => put_varint(out, any),
        Variant::Delta => {
            // `Resource { version = 1, resource = 2, name = 3 }`; the envelope goes last, so that the body does.
            put_varint(out, resource_length(any, resource));
            put_tag(out, 1);
            put_varint(out, 16);
            put_hex(out, resource.version);
            put_text(out, 3, &resource.name);
            put_tag(out, 2);
            put_varint(out, any);
        }
    }
    // `Any { type_url = 1, value = 2 }`
    put_text(out, 1, type_url);
    put_tag(out, 2);
    put_varint(out, resource.body.len());
}

fn any_length(type_url: &str, resource: &Encoded) -> usize {
    text_length(type_url.len()) + text_length(resource.body.len())
}

fn resource_length(any: usize, resource: &Encoded) -> usize {
    text_length(16) + text_length(resource.name.len()) + text_length(any)
}

/// The length of a field with a length, for field numbers below 16.
fn text_length(length: usize) -> usize {
    1 + varint_length(length) + length
}

fn varint_length(number: usize) -> usize {
    let bits = (usize::BITS - number.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

fn put_tag(out: &mut BytesMut, field: u8) {
    out.put_u8(field << 3 | 2);
}

fn put_varint(out: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn put_text(out: &mut BytesMut, field: u8, text: &str) {
    put_tag(out, field);
    put_varint(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Sixteen lower-case digits: what `{:016x}` writes, without its machinery.
fn put_hex(out: &mut BytesMut, number: u64) {
    let digits: [u8; 16] = std::array::from_fn(|i| b"0123456789abcdef"[(number >> (60 - 4 * i)) as usize & 15]);
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use prost::Message;
    use xebec_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};

    use super::*;
    use crate::resources::ResourceType;
    use crate::xds::fixture::snapshot;
    use crate::xds::shape::Shape;

    fn answer(items: Items, removed: &[&str]) -> Answer {
        Answer {
            kind: Some(ResourceType::Cluster),
            type_url: ResourceType::Cluster.type_url().into(),
            version: 0xabc,
            nonce: 0x1f,
            items,
            removed: removed.iter().map(|n| Arc::from(*n)).collect(),
        }
    }

    fn sent(variant: Variant, answer: &Answer) -> (Vec<Bytes>, Vec<u8>) {
        let mut outgoing = Outgoing::new(variant, answer);
        let chunks: Vec<Bytes> = std::iter::from_fn(|| outgoing.next_chunk()).collect();
        let bytes = chunks.concat();
        assert_eq!(bytes[0], 0);
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        assert_eq!(length, bytes.len() - 5, "the prefix says how long the message is");
        assert_eq!(outgoing.length(), length);
        (chunks, bytes[5..].to_vec())
    }

    fn encoded(name: &str, size: usize) -> Arc<Encoded> {
        Arc::new(Encoded::new(name.into(), Bytes::from(vec![7; size]), Arc::default()))
    }

    #[test]
    fn a_delta_answer_is_what_prost_reads() {
        let items: Arc<[_]> = vec![encoded("a", 0), encoded("b", 200), encoded("c", 100_000), encoded("d", 5)].into();
        let (_, bytes) = sent(Variant::Delta, &answer(Items::Some(Arc::clone(&items)), &["x", "y"]));
        let read = DeltaDiscoveryResponse::decode(&*bytes).unwrap();
        assert_eq!(read.system_version_info, "0000000000000abc");
        assert_eq!(read.nonce, "1f");
        assert_eq!(read.type_url, ResourceType::Cluster.type_url());
        assert_eq!(read.removed_resources, ["x", "y"]);
        assert_eq!(read.resources.len(), 4);
        for (got, want) in read.resources.iter().zip(items.iter()) {
            assert_eq!((got.name.as_str(), got.version.as_str()), (&*want.name, want.version_text().as_str()));
            let any = got.resource.as_ref().unwrap();
            assert_eq!((any.type_url.as_str(), &any.value[..]), (read.type_url.as_str(), &want.body[..]));
        }
    }

    #[test]
    fn a_state_of_the_world_answer_is_what_prost_reads() {
        let items: Arc<[_]> = vec![encoded("a", 3), encoded("b", 20_000)].into();
        let (_, bytes) = sent(Variant::StateOfTheWorld, &answer(Items::Some(items), &[]));
        let read = DiscoveryResponse::decode(&*bytes).unwrap();
        assert_eq!((read.version_info.as_str(), read.nonce.as_str()), ("0000000000000abc", "1f"));
        assert_eq!(read.resources.iter().map(|r| r.value.len()).collect::<Vec<_>>(), [3, 20_000]);
    }

    #[test]
    fn a_whole_type_is_sent_from_shared_memory_and_freed_afterwards() {
        let published = Shape::new(snapshot(&[("c/a", 1), ("c/b", 1)])).published();
        let whole = answer(Items::Whole(Arc::clone(&published), ResourceType::Cluster), &[]);
        let (first, bytes) = sent(Variant::Delta, &whole);
        let (second, _) = sent(Variant::Delta, &whole);
        assert_eq!(first[1].as_ptr(), second[1].as_ptr(), "both streams send the same memory");
        let read = DeltaDiscoveryResponse::decode(&*bytes).unwrap();
        assert_eq!(read.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        drop((first, second));
        assert!(published.packs.iter().all(|p| p.lock().upgrade().is_none()));
    }

    #[test]
    fn chunks_are_bounded_and_large_bodies_are_not_copied() {
        let large = encoded("large", 100_000);
        let mut items: Vec<_> = (0..200).map(|i| encoded(&format!("s{i:03}"), 1_000)).collect();
        items.push(Arc::clone(&large));
        let (chunks, _) = sent(Variant::Delta, &answer(Items::Some(items.into()), &[]));
        assert!(chunks.iter().filter(|c| c.len() != 100_000).all(|c| c.len() <= CHUNK + LARGE));
        assert!(chunks.iter().any(|c| c.as_ptr() == large.body.as_ptr()));
    }

    #[test]
    fn an_empty_answer_has_a_head_only() {
        let (chunks, bytes) = sent(Variant::Delta, &answer(Items::default(), &[]));
        assert_eq!(chunks.len(), 1);
        assert!(DeltaDiscoveryResponse::decode(&*bytes).unwrap().resources.is_empty());
    }
}
