//! The xDS server: streams of proxies, and what each was sent, has accepted or has refused.
//!
//! The way of a change: the engine publishes into a [`shape::Shape`]; [`seats`] wakes exactly the streams that subscribed
//! to something in it; each stream's [`session`], a pure state machine, compares what the stream has with what there is
//! and says what to send next; `response` frames it around shared bytes; `stream` is the body that HTTP/2 pulls it from.
//!
//! Start reading at [`shape`] for the boundary with the engine, then [`session`] for the protocol's rules.
//!
//! - ALWAYS: push at once when the client is idle; coalesce only while it is busy with the previous answer.
//! - ALWAYS: a stream that does not read costs one chunk and some pointers.
//! - NEVER: a resource is encoded here; bodies are shared by all streams.

pub mod debug;
#[cfg(test)]
pub(crate) mod fixture;
mod frames;
mod grpc;
#[cfg(test)]
mod loopback;
mod meters;
mod pack;
pub mod request;
mod response;
pub mod seats;
pub mod server;
pub mod session;
pub mod shape;
pub mod status;
mod stream;

pub use debug::debug_router;
pub use server::{Discovery, Options, XdsServer};
pub use shape::{AttachError, Published, Shape, ShapeLease, ShapeMover, Shapes};
pub use status::Streams;
