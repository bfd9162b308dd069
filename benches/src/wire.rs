//! As much of the discovery protocol as a client needs that does not look into what it is sent.

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use xebec_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use xebec_proto::type_url;

/// The types, in the order in which a client asks for them.
pub const TYPES: [&str; 5] = [
    type_url::CLUSTER,
    type_url::CLUSTER_LOAD_ASSIGNMENT,
    type_url::LISTENER,
    type_url::ROUTE_CONFIGURATION,
    type_url::VIRTUAL_HOST,
];

/// An answer, read in place.
#[derive(Debug, Default)]
pub struct Answer<'a> {
    /// Which of [`TYPES`].
    pub kind: usize,
    /// To be acknowledged.
    pub nonce: &'a str,
    /// What is new.
    pub resources: Vec<Resource<'a>>,
    /// What is gone.
    pub removed: Vec<&'a str>,
}

/// One resource of an answer.
#[derive(Debug, Default, Clone, Copy)]
pub struct Resource<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The encoded message.
    pub body: &'a [u8],
}

/// Frames a request for gRPC.
pub fn framed(request: &DeltaDiscoveryRequest) -> Bytes {
    framed_parts(&[&request.encode_to_vec()])
}

/// Frames a request that is encoded in parts.
pub fn framed_parts(parts: &[&[u8]]) -> Bytes {
    let length = parts.iter().map(|p| p.len()).sum::<usize>();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    parts.iter().for_each(|p| bytes.extend_from_slice(p));
    bytes.freeze()
}

/// Reads a `DeltaDiscoveryResponse`.
pub fn answer(bytes: &[u8]) -> Result<Answer<'_>> {
    let mut answer = Answer::default();
    let mut rest = bytes;
    while let Some((number, value)) = field(&mut rest)? {
        match number {
            2 => answer.resources.push(resource(value)?),
            4 => {
                let url = std::str::from_utf8(value)?;
                answer.kind = TYPES.iter().position(|t| *t == url).with_context(|| format!("the type {url}"))?;
            }
            5 => answer.nonce = std::str::from_utf8(value)?,
            6 => answer.removed.push(std::str::from_utf8(value)?),
            _ => {}
        }
    }
    Ok(answer)
}

fn resource(bytes: &[u8]) -> Result<Resource<'_>> {
    let mut resource = Resource::default();
    let mut rest = bytes;
    while let Some((number, value)) = field(&mut rest)? {
        match number {
            1 => resource.version = std::str::from_utf8(value)?,
            2 => {
                let mut any = value;
                while let Some((number, value)) = field(&mut any)? {
                    if number == 2 {
                        resource.body = value;
                    }
                }
            }
            3 => resource.name = std::str::from_utf8(value)?,
            _ => {}
        }
    }
    Ok(resource)
}

/// The next field that has a length. Our messages have no others that matter.
fn field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u64, &'a [u8])>> {
    while !rest.is_empty() {
        let key = varint(rest)?;
        match key & 7 {
            0 => drop(varint(rest)?),
            2 => {
                let length = usize::try_from(varint(rest)?)?;
                let (value, after) = rest.split_at_checked(length).context("an answer that is cut off")?;
                *rest = after;
                return Ok(Some((key >> 3, value)));
            }
            other => bail!("wire type {other}"),
        }
    }
    Ok(None)
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().context("an answer that is cut off")?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("a number without an end")
}
