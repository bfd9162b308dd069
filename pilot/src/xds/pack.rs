//! All resources of a type, framed once and shared by every stream that is sent them all.
//!
//! When a thousand proxies connect at once, each is sent the same megabytes: they are laid out once, and HTTP/2 writes them
//! from the same memory. A pack lives as long as some stream is sending it.

use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};

use super::request::Variant;
use super::response::{framed_length, put_framed};
use super::shape::Published;
use crate::resources::ResourceType;

/// The framed resources of one type of one publication.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) bytes: Bytes,
}

impl Published {
    /// All resources of `kind`, as they stand in an answer of `variant`.
    pub(crate) fn pack(&self, variant: Variant, kind: ResourceType) -> Arc<Pack> {
        let mut place = self.packs[variant as usize * ResourceType::ALL.len() + kind as usize].lock();
        if let Some(pack) = place.upgrade() {
            return pack;
        }
        let set = self.snapshot.set(kind);
        let length = set.values().map(|r| framed_length(variant, kind.type_url(), r)).sum();
        let mut bytes = BytesMut::with_capacity(length);
        for resource in set.values() {
            put_framed(&mut bytes, variant, kind.type_url(), resource);
            bytes.extend_from_slice(&resource.body);
        }
        let pack = Arc::new(Pack { bytes: bytes.freeze() });
        *place = Weak::clone(&Arc::downgrade(&pack));
        pack
    }
}
