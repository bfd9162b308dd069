//! `TypedStruct`: a message given as free-form fields, for extensions whose type is not compiled in.
//!
//! Envoy accepts it wherever it accepts the message itself. The generated package leaves it out, so it is written here; its
//! descriptor is added by `build.rs` under the present name (`xds.type.v3`) and the old one (`udpa.type.v1`).

use prost::{Message, Name};

use crate::google::protobuf::Struct;

/// The fields of a message together with its type.
#[derive(Clone, PartialEq, Message)]
pub struct TypedStruct {
    /// The URL of the type that the fields are of.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The fields, as the JSON of that type.
    #[prost(message, optional, tag = "2")]
    pub value: Option<Struct>,
}

impl Name for TypedStruct {
    const NAME: &'static str = "TypedStruct";
    const PACKAGE: &'static str = "xds.type.v3";

    fn full_name() -> String {
        "xds.type.v3.TypedStruct".into()
    }

    fn type_url() -> String {
        crate::type_url::TYPED_STRUCT.into()
    }
}
