//! Short names for protobuf's boxed scalars, which Envoy uses where "not set" differs from zero.

use crate::google::protobuf::{BoolValue, BytesValue, DoubleValue, FloatValue, Int32Value, Int64Value, StringValue};
use crate::google::protobuf::{UInt32Value, UInt64Value};

/// A boxed `bool`.
pub fn bool(value: bool) -> BoolValue {
    BoolValue { value }
}

/// A boxed `u32`.
pub fn u32(value: u32) -> UInt32Value {
    UInt32Value { value }
}

/// A boxed `u64`.
pub fn u64(value: u64) -> UInt64Value {
    UInt64Value { value }
}

/// A boxed `i32`.
pub fn i32(value: i32) -> Int32Value {
    Int32Value { value }
}

/// A boxed `i64`.
pub fn i64(value: i64) -> Int64Value {
    Int64Value { value }
}

/// A boxed `f32`.
pub fn f32(value: f32) -> FloatValue {
    FloatValue { value }
}

/// A boxed `f64`.
pub fn f64(value: f64) -> DoubleValue {
    DoubleValue { value }
}

/// A boxed string.
pub fn string(value: impl Into<String>) -> StringValue {
    StringValue { value: value.into() }
}

/// Boxed bytes.
pub fn bytes(value: impl Into<Vec<u8>>) -> BytesValue {
    BytesValue { value: value.into() }
}
