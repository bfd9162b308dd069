//! The shop behind `xebec demo`: services of ours, the mesh configuration that they need, load, expectations and the live
//! table.
//!
//! This crate knows no mesh. It starts ordinary programs that call each other through an HTTP proxy on loopback, writes
//! ordinary YAML, sends requests to a port and looks at the answers. Who starts the control plane and the proxies between
//! is the caller's business; [`Plan`] says where each of them must listen.
//!
//! Start reading at [`plan`], then [`shop`]. The order of a demo is [`Plan::pick`], [`write_config`], [`Shop::start`], (the
//! mesh), then [`run_headless`], or [`ready()`], [`Load::start`] and [`run_view`].

mod client;
pub mod config;
pub mod expect;
pub mod histogram;
pub mod load;
pub mod plan;
pub mod ready;
pub mod shop;
pub mod stats;
pub mod view;

pub use config::{ConfigError, Layout, Written, write_config};
pub use expect::{Expectation, HeadlessOptions, Summary, run_headless};
pub use load::{Load, LoadOptions, Outcome};
pub use plan::{InstancePlan, Plan};
pub use ready::{Readiness, Until, ready};
pub use shop::Shop;
pub use stats::Stats;
pub use view::{Log, draws, run_view};
