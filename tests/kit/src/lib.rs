//! What end-to-end tests are made of.
//!
//! A test makes a [`Workdir`], starts [`Backend`]s in its own process, a [`ControlPlane`] and proxies of either
//! [`DataPlane`] as child processes, sends requests with [`client`] or a [`load`], and waits with [`eventually`]:
//!
//! ```no_run
//! # async fn test() {
//! use std::time::Duration;
//! use xebec_testkit::{Backend, ControlPlane, DataPlane, ProxySpec, Workdir, client, eventually, port};
//!
//! let work = Workdir::new("one_request_reaches_the_backend");
//! let backend = Backend::start("reviews-v1").await;
//! work.write("registry/reviews.yaml", "...");
//! let mesh = ControlPlane::spec(&work).registry("registry").start().await;
//! let outbound = port::free();
//! let proxy = DataPlane::Sidecar.start(&work, ProxySpec::sidecar("shop").server(mesh.xds_addr())).await;
//! eventually(Duration::from_secs(5), "the route works", async || {
//!     client::get(outbound, "reviews:9080", "/").send().await.is_ok_and(|reply| reply.served_by() == "reviews-v1")
//! })
//! .await;
//! # drop((backend, proxy)); }
//! ```
//!
//! Promises:
//!
//! - ALWAYS: what a test started is gone when its value is dropped, also when the test fails.
//! - ALWAYS: what children wrote is in the test's own folder, and is printed when the test fails.
//! - NEVER: a wait for a duration where a condition can be named.
//!
//! Mistakes of the set-up (a program that does not start, a port that stays busy) panic with what the children said:
//! a test cannot go on from there. What a test is about (replies, failures, exit codes) is returned as values.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

pub mod api;
pub mod authority;
pub mod backend;
pub mod client;
pub mod consul;
pub mod control_plane;
pub mod data_plane;
pub mod doc;
pub mod doc_session;
pub mod fault;
pub mod kube;
pub mod kubelet;
pub mod load;
pub mod netns;
pub mod nomad;
pub mod peer;
pub mod port;
pub mod process;
pub mod signal;
pub mod tcp;
pub mod wait;
pub mod workdir;

pub use api::Api;
pub use authority::Authority;
pub use backend::Backend;
pub use client::{Failure, Reply};
pub use consul::{Consul, ConsulMode};
pub use control_plane::ControlPlane;
pub use data_plane::{DataPlane, Proxy, ProxySpec};
pub use fault::{Fault, FaultProxy};
pub use kube::Kube;
pub use kubelet::Kubelet;
pub use load::Load;
pub use nomad::{Nomad, NomadMode};
pub use peer::Peer;
pub use process::Process;
pub use tcp::TcpEcho;
pub use wait::{eventually, eventually_ok};
pub use workdir::Workdir;
