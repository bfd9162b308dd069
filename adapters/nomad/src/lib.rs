//! Nomad: its native services as a registry, its Variables as a source of configuration.
//!
//! Start reading at [`Settings`], which is what an operator writes; `run` is the registry's life; `mapping` makes services of
//! Nomad's words; `mirror` decides what changed, `doubt` which list can be believed; `feed`, `listing` and `checks` ask Nomad.
//!
//! Promises:
//!
//! - ALWAYS: changes come from the event stream. Where it breaks off, it goes on where it was, or everything is listed and compared.
//! - ALWAYS: the state is said to be complete only after a complete reading.
//! - NEVER: a refusal, an error, half an answer or silence removes anything. NEVER, after an interruption, is a list believed at
//!   first sight that lacks most of what was there.
//! - NEVER: what a tenant writes into a job panics, or costs others more than the one thing that is wrong.

mod checks;
mod doubt;
mod feed;
mod heard;
mod listing;
mod mapping;
mod mirror;
mod run;
mod settings;
mod variables;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use xebec_adapter_client::ClientError;
use xebec_pilot::model::RegistryId;
use xebec_pilot::registry::{Meters, Registry, RegistrySink};

pub use settings::{CheckSettings, LocalityMeta, ServiceFilter, Settings, TlsSettings};
pub use variables::{Variables, VariablesSource, Written};

use crate::listing::Reader;
use crate::mapping::Rules;
use crate::mirror::Mirror;
use crate::run::Run;

/// Nomad's native services as a registry.
#[derive(Debug)]
pub struct NomadRegistry {
    id: RegistryId,
    reader: Reader,
}

// === impl NomadRegistry ===

impl NomadRegistry {
    /// A registry of that id. Nothing is connected before it runs.
    ///
    /// # Errors
    /// [`ClientError::Settings`] for an address or certificates that cannot be used.
    pub fn new(id: RegistryId, settings: Settings) -> Result<Self, ClientError> {
        let client = settings.client()?;
        Ok(Self { id, reader: Reader { client, settings: Arc::new(settings) } })
    }
}

#[async_trait]
impl Registry for NomadRegistry {
    fn id(&self) -> RegistryId {
        self.id.clone()
    }

    async fn run(self: Box<Self>, sink: RegistrySink, stop: CancellationToken) {
        let Self { id, reader } = *self;
        let region = reader.settings.region.clone().unwrap_or_default();
        let rules = Rules { settings: Arc::clone(&reader.settings), registry: id.clone(), region: region.into() };
        let run = Run::new(reader, Mirror::new(rules), Meters::new(&id), sink);
        // Either way there is nobody left to report to.
        let _ = stop.run_until_cancelled(run.forever()).await;
    }
}
