//! Addresses of DNS clusters, looked up on a thread of their own so that a slow resolver never holds a worker.

use super::upstream::Resolved;
use super::workers::Core;
use crate::model::{DNS_REFRESH, EndpointAddress, Snapshot};
use rustc_hash::FxHashSet;
use std::io;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

type Names = FxHashSet<(Arc<str>, u16)>;

/// Handle to the thread; it ends when this is dropped.
pub(super) struct Resolver {
    names: Sender<Names>,
}

impl Resolver {
    pub fn start(core: Weak<Core>) -> io::Result<Self> {
        let (names, changes) = channel::<Names>();
        std::thread::Builder::new().name("xebec-dns".into()).spawn(move || {
            let mut wanted = Names::default();
            let mut known = Resolved::default();
            loop {
                let next = if wanted.is_empty() {
                    changes.recv().map_err(|_| RecvTimeoutError::Disconnected)
                } else {
                    changes.recv_timeout(DNS_REFRESH)
                };
                match next {
                    Ok(names) if names == wanted => continue,
                    Ok(names) => wanted = names,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                let found = look_up(&wanted, &known);
                if found != known {
                    known = found;
                    let Some(core) = core.upgrade() else { return };
                    core.resolved(known.clone());
                }
            }
        })?;
        Ok(Self { names })
    }

    /// Looks up the names of `snapshot` from now on.
    pub fn watch(&self, snapshot: &Snapshot) {
        let mut names = Names::default();
        for entry in snapshot.clusters.values() {
            for (_, endpoint) in entry.endpoints.iter() {
                if let EndpointAddress::Name { host, port } = &endpoint.address {
                    names.insert((host.clone(), *port));
                }
            }
        }
        // The thread only ends with the process's data path.
        let _ = self.names.send(names);
    }
}

/// A name that cannot be resolved now keeps the addresses it had.
fn look_up(names: &Names, known: &Resolved) -> Resolved {
    let mut found = Resolved::default();
    for name in names {
        let mut addresses: Vec<_> = match (&*name.0, name.1).to_socket_addrs() {
            Ok(addresses) => addresses.collect(),
            Err(error) => {
                tracing::warn!(host = %name.0, %error, "a cluster's name cannot be resolved");
                known.get(name).cloned().unwrap_or_default()
            }
        };
        addresses.sort_unstable();
        addresses.dedup();
        found.insert(name.clone(), addresses);
    }
    found
}
