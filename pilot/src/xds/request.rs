//! Discovery requests as they arrive, read in place.
//!
//! A reconnecting proxy lists every resource that it has: thousands of strings. They are borrowed from the received bytes
//! here, not copied. Field numbers are those of `envoy.service.discovery.v3.DiscoveryRequest` and
//! `DeltaDiscoveryRequest`; fields that are not used are skipped, as protobuf asks.

/// Which of the two protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Every answer carries all subscribed resources of its type.
    StateOfTheWorld = 0,
    /// Answers carry what changed, and what was removed.
    Delta = 1,
}

/// One request of either protocol.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// The encoded `envoy.config.core.v3.Node`; sent at least with the first request.
    pub node: Option<&'a [u8]>,
    /// The type that this is about.
    pub type_url: &'a str,
    /// The nonce of the answer that this acknowledges or refuses; empty otherwise.
    pub nonce: &'a str,
    /// State of the world: all names. Delta: names to add.
    pub names: Vec<&'a str>,
    /// Delta: names to drop.
    pub dropped: Vec<&'a str>,
    /// Delta: what the client has from an earlier stream, as (name, version).
    pub initial: Vec<(&'a str, &'a str)>,
    /// Why the answer was refused. `None` accepts it.
    pub error: Option<Fault<'a>>,
}

/// A `google.rpc.Status` in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fault<'a> {
    /// The gRPC status code.
    pub code: i32,
    /// What the client says.
    pub message: &'a str,
}

/// Why bytes are not a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedRequest {
    /// They end within a field.
    #[error("the request ends within a field")]
    Truncated,
    /// A number is longer than protobuf allows.
    #[error("the request holds a malformed number")]
    Number,
    /// A field has another wire type than its definition.
    #[error("field {0} of the request has the wrong type")]
    WireType(u32),
    /// Text is not UTF-8.
    #[error("field {0} of the request is not UTF-8")]
    Utf8(u32),
}

/// A field's value on the wire.
enum Value<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

/// Reads the fields of one message, in order.
struct Fields<'a> {
    rest: &'a [u8],
}

// === impl Variant ===

impl Variant {
    /// How many there are.
    pub const COUNT: usize = 2;
}

// === impl Request ===

impl<'a> Request<'a> {
    /// Reads a request of the given protocol.
    ///
    /// # Errors
    /// [`MalformedRequest`] when the bytes are not such a message.
    pub fn parse(variant: Variant, bytes: &'a [u8]) -> Result<Self, MalformedRequest> {
        match variant {
            Variant::StateOfTheWorld => Self::parse_state_of_the_world(bytes),
            Variant::Delta => Self::parse_delta(bytes),
        }
    }

    fn parse_state_of_the_world(bytes: &'a [u8]) -> Result<Self, MalformedRequest> {
        let mut request = Self::default();
        let mut fields = Fields { rest: bytes };
        while let Some((number, value)) = fields.next()? {
            match number {
                2 => request.node = Some(value.bytes(number)?),
                3 => request.names.push(value.text(number)?),
                4 => request.type_url = value.text(number)?,
                5 => request.nonce = value.text(number)?,
                6 => request.error = Some(Fault::parse(value.bytes(number)?)?),
                _ => {}
            }
        }
        Ok(request)
    }

    fn parse_delta(bytes: &'a [u8]) -> Result<Self, MalformedRequest> {
        let mut request = Self::default();
        let mut fields = Fields { rest: bytes };
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => request.node = Some(value.bytes(number)?),
                2 => request.type_url = value.text(number)?,
                3 => request.names.push(value.text(number)?),
                4 => request.dropped.push(value.text(number)?),
                5 => request.initial.push(parse_entry(value.bytes(number)?)?),
                6 => request.nonce = value.text(number)?,
                7 => request.error = Some(Fault::parse(value.bytes(number)?)?),
                _ => {}
            }
        }
        Ok(request)
    }
}

/// One entry of a `map<string, string>`.
fn parse_entry(bytes: &[u8]) -> Result<(&str, &str), MalformedRequest> {
    let (mut key, mut text) = ("", "");
    let mut fields = Fields { rest: bytes };
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => key = value.text(number)?,
            2 => text = value.text(number)?,
            _ => {}
        }
    }
    Ok((key, text))
}

// === impl Fault ===

impl<'a> Fault<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, MalformedRequest> {
        let mut fault = Self::default();
        let mut fields = Fields { rest: bytes };
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Varint(code)) => fault.code = code as i32,
                (2, value) => fault.message = value.text(number)?,
                _ => {}
            }
        }
        Ok(fault)
    }
}

// === impl Value ===

impl<'a> Value<'a> {
    fn bytes(self, field: u32) -> Result<&'a [u8], MalformedRequest> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed => Err(MalformedRequest::WireType(field)),
        }
    }

    fn text(self, field: u32) -> Result<&'a str, MalformedRequest> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| MalformedRequest::Utf8(field))
    }
}

// === impl Fields ===

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, MalformedRequest> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| MalformedRequest::Number)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| MalformedRequest::Truncated)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(MalformedRequest::WireType(number)),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], MalformedRequest> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(MalformedRequest::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, MalformedRequest> {
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(MalformedRequest::Truncated)?;
            self.rest = rest;
            if shift == 63 && byte > 1 {
                return Err(MalformedRequest::Number);
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(MalformedRequest::Number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    /// A field with a length, for field numbers below 16.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = bytes.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(bytes);
        out
    }

    #[test]
    fn a_delta_request_is_read_field_by_field() {
        let long = "n".repeat(300);
        let status = [vec![0x08, 3], field(2, b"no such filter")].concat();
        let bytes = [
            field(1, b"node"),
            field(2, b"type"),
            field(3, b"a"),
            field(3, long.as_bytes()),
            field(4, b"c"),
            field(5, &[field(1, b"a"), field(2, b"00ff")].concat()),
            field(6, b"7"),
            field(7, &status),
            field(9, b"locators are skipped"),
        ]
        .concat();
        let request = Request::parse(Variant::Delta, &bytes).unwrap();
        assert_eq!(
            request,
            Request {
                node: Some(b"node"),
                type_url: "type",
                nonce: "7",
                names: vec!["a", &long],
                dropped: vec!["c"],
                initial: vec![("a", "00ff")],
                error: Some(Fault { code: 3, message: "no such filter" }),
            }
        );
    }

    #[test]
    fn a_state_of_the_world_request_is_read_field_by_field() {
        let bytes = [field(1, b"v1"), field(2, b"node"), field(3, b"80"), field(4, b"type"), field(5, b"2")].concat();
        let request = Request::parse(Variant::StateOfTheWorld, &bytes).unwrap();
        assert_eq!((request.type_url, request.nonce, request.names), ("type", "2", vec!["80"]));
    }

    #[test]
    fn broken_bytes_are_named_and_never_panic() {
        let cut = &field(2, b"type")[..3];
        assert_eq!(Request::parse(Variant::Delta, cut), Err(MalformedRequest::Truncated));
        assert_eq!(Request::parse(Variant::Delta, &[0x10, 1]), Err(MalformedRequest::WireType(2)));
        assert_eq!(Request::parse(Variant::Delta, &field(2, &[0xff])), Err(MalformedRequest::Utf8(2)));
        assert_eq!(Request::parse(Variant::Delta, &[0xff; 12]), Err(MalformedRequest::Number));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(Variant::Delta, &bytes);
            let _ = Request::parse(Variant::StateOfTheWorld, &bytes);
        }
    }
}
