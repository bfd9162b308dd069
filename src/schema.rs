//! `xebec schema`.

use crate::cli::{SchemaArgs, SchemaOf};
use crate::exit::Failure;
use crate::output;

/// Prints a JSON Schema.
pub(crate) fn run(args: &SchemaArgs) -> Result<(), Failure> {
    match args.of {
        SchemaOf::FileRegistry => output::json(&xebec_adapter_file::schema()),
    }
}
