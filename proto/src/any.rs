//! Packing messages into `google.protobuf.Any`, and taking them out again.
//!
//! Packing goes through [`crate::stable`]: equal messages make equal `Any`s. Unpacking ALWAYS checks the type URL, because
//! bytes of one message often parse as another.

use prost::{Message, Name};

pub use crate::google::protobuf::Any;
use crate::{stable, type_url};

/// Why an `Any` could not be taken apart.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AnyError {
    /// It holds another type.
    #[error("expected an Any of {expected}, found {found:?}")]
    WrongType {
        /// The full name of the type that was asked for.
        expected: String,
        /// The URL that the `Any` carries.
        found: String,
    },
    /// Its bytes are not the type that its URL names.
    #[error("the bytes of an Any of {type_name} do not decode: {source}")]
    Malformed {
        /// The full name of the type.
        type_name: String,
        /// What the decoder says.
        source: prost::DecodeError,
    },
}

/// Packs `message` under its own type URL. Equal messages give equal bytes.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: stable::encode(message) }
}

/// Makes an `Any` of bytes that are encoded already.
pub fn pack_bytes(type_url: impl Into<String>, value: impl Into<Vec<u8>>) -> Any {
    Any { type_url: type_url.into(), value: value.into() }
}

/// Takes an `M` out of `any`.
///
/// # Errors
/// [`AnyError::WrongType`] when the URL names another type (the URL's prefix is not compared: only the name after its
/// last `/` counts), [`AnyError::Malformed`] when the bytes do not decode.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, AnyError> {
    let expected = M::full_name();
    if type_url::name_of(&any.type_url) != expected {
        return Err(AnyError::WrongType { expected, found: any.type_url.clone() });
    }
    M::decode(any.value.as_slice()).map_err(|source| AnyError::Malformed { type_name: expected, source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::envoy::config::listener::v3::Listener;

    fn cluster() -> Cluster {
        Cluster { name: "outbound|80||a".into(), ..Default::default() }
    }

    #[test]
    fn what_is_packed_comes_out_equal() {
        let any = pack(&cluster());
        assert_eq!(any.type_url, type_url::CLUSTER);
        assert_eq!(unpack::<Cluster>(&any).unwrap(), cluster());
    }

    #[test]
    fn another_type_is_refused_even_when_its_bytes_would_parse() {
        let any = pack(&cluster());
        assert_eq!(
            unpack::<Listener>(&any),
            Err(AnyError::WrongType {
                expected: "envoy.config.listener.v3.Listener".into(),
                found: type_url::CLUSTER.into(),
            })
        );
    }

    #[test]
    fn any_prefix_of_the_url_is_accepted() {
        let any = pack_bytes("example.org/envoy.config.cluster.v3.Cluster", cluster().encode_to_vec());
        assert_eq!(unpack::<Cluster>(&any).unwrap(), cluster());
    }

    #[test]
    fn broken_bytes_are_an_error_that_names_the_type() {
        let any = pack_bytes(type_url::CLUSTER, vec![0xff]);
        let error = unpack::<Cluster>(&any).unwrap_err().to_string();
        assert!(error.contains("envoy.config.cluster.v3.Cluster"), "{error}");
    }
}
