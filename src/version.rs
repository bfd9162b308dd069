//! `xebec version`.

use serde::Serialize;

use crate::cli::VersionArgs;
use crate::exit::Failure;
use crate::output::{self, Format};

#[derive(Serialize)]
struct Version {
    version: &'static str,
    envoy: &'static str,
}

/// Prints this build's version.
pub(crate) fn run(args: &VersionArgs) -> Result<(), Failure> {
    let version = Version { version: env!("CARGO_PKG_VERSION"), envoy: "1.40" };
    match args.output {
        Format::Json | Format::Jsonl => output::json(&version),
        Format::Yaml => output::yaml(&version),
        Format::Name => output::line(version.version),
        Format::Table | Format::Wide => {
            output::line(&format!("xebec {} (tested with Envoy {})", version.version, version.envoy))
        }
    }
}
