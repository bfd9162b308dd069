//! Values in, values out: objects as an operator writes them, resources and conditions as proxies and operators see them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backends;
mod gateways;
mod kit;
mod others;
mod routes;
mod whole;
