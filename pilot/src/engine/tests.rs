#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod handle;
mod model;
mod random;
mod scale;
