//! Findings in small meshes. Start reading at [`files`], the builder of what is analysed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod codes;
mod files;
mod formats;
mod hosts;
mod policies;
mod routes;
mod suppression;
