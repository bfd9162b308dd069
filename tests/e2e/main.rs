//! End-to-end tests by capability: real processes, real configuration, real traffic. A test of traffic takes the data plane as a
//! parameter and runs on stock Envoy and on the Rust sidecar from one body.
//!
//! Start reading at [`stage`], which sets up what most tests need.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod stage;

mod analyze;
mod bad_input;
mod commands;
mod demo;
mod docs;
mod gateway;
mod hot_reload;
mod inbound;
mod kubernetes;
mod kubernetes_access;
mod kubernetes_config;
mod nomad_jobs;
mod outage;
mod peers;
mod proxyless;
mod resilience;
mod routing;
mod starting;
mod static_config;
mod streams;
mod together;
