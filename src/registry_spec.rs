//! `--registry SPEC`: which platform, and where it is.

use std::path::PathBuf;
use std::str::FromStr;

/// A registry as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrySpec {
    /// `file:PATH`: services and instances from YAML files.
    File(PathBuf),
}

impl FromStr for RegistrySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match scheme {
            "file" if rest.is_empty() => Err("file: needs a path, as in file:/etc/xebec/services".into()),
            "file" => Ok(Self::File(rest.into())),
            "kubernetes" | "consul" | "nomad" => {
                Err(format!("{scheme} is not supported by this version; use file:PATH"))
            }
            _ => Err(format!("{text:?} names no platform; use file:PATH")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_registry_needs_a_path() {
        assert_eq!("file:/a".parse(), Ok(RegistrySpec::File("/a".into())));
        assert!("file:".parse::<RegistrySpec>().is_err());
        assert!("zookeeper:x".parse::<RegistrySpec>().is_err());
    }
}
