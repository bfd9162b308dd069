//! gRPC's length-prefixed messages, taken out of the bytes that HTTP/2 delivers.

use bytes::{Buf, Bytes, BytesMut};

use super::grpc::Status;

/// Bytes that have arrived and are not a whole message yet.
#[derive(Debug)]
pub(crate) struct Frames {
    rest: BytesMut,
    limit: usize,
}

// === impl Frames ===

impl Frames {
    /// Accepts messages of up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { rest: BytesMut::new(), limit }
    }

    /// Adds what arrived.
    pub(crate) fn push(&mut self, bytes: &Bytes) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// A status that ends the stream: a message that is too long or compressed.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((prefix, _)) = self.rest.split_first_chunk::<5>() else { return Ok(None) };
        if prefix[0] != 0 {
            return Err(Status::unimplemented("compressed requests are not supported; send identity encoding"));
        }
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > self.limit {
            let text = format!("a request of {length} bytes exceeds the limit of {} bytes", self.limit);
            return Err(Status::exhausted(text));
        }
        if self.rest.len() < 5 + length {
            return Ok(None);
        }
        self.rest.advance(5);
        let message = self.rest.split_to(length).freeze();
        if self.rest.is_empty() {
            // An idle stream holds no buffer.
            self.rest = BytesMut::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn message(body: &[u8]) -> Vec<u8> {
        [&[0], &(body.len() as u32).to_be_bytes()[..], body].concat()
    }

    #[test]
    fn messages_are_found_wherever_the_pieces_end() {
        let all = [message(b"one"), message(b""), message(b"three")].concat();
        for cut in 0..all.len() {
            let mut frames = Frames::new(100);
            let mut found = Vec::new();
            for piece in [&all[..cut], &all[cut..]] {
                frames.push(&Bytes::copy_from_slice(piece));
                while let Some(message) = frames.next().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, [&b"one"[..], b"", b"three"]);
        }
    }

    #[test]
    fn a_long_or_compressed_message_ends_the_stream() {
        let mut frames = Frames::new(3);
        frames.push(&message(b"four").into());
        assert_eq!(frames.next().unwrap_err().code, 8);
        let mut frames = Frames::new(3);
        frames.push(&Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(frames.next().unwrap_err().code, 12);
    }
}
