//! The registry against a real API server, its controllers and etcd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod access;
mod follow;
mod heard;
mod remote;
mod trouble;
