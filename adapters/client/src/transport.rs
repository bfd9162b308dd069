//! The connections themselves: a pool over HTTP/2, or HTTP/1.1 where the server has no TLS.
//!
//! `reqwest` keeps one HTTP/2 connection per client and host, and a server grants a limited number of streams on each (Consul: 250);
//! requests beyond it wait without a word. A [`Transport`] therefore holds several clients, fills one after the other, and counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::client::{Options, TlsFiles};
use crate::error::{ClientError, reasons};
use crate::files::TlsContents;

/// How many requests share one HTTP/2 connection.
const STREAMS: usize = 200;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Connections made with the same certificates.
pub(crate) struct Transport {
    slots: Vec<Slot>,
    tls: TlsContents,
}

#[derive(Default)]
struct Slot {
    client: OnceLock<reqwest::Client>,
    busy: AtomicUsize,
}

/// A request under way on one of the slots.
pub(crate) struct Busy {
    transport: Arc<Transport>,
    slot: usize,
}

/// Resolves every name to one host's addresses.
struct ConnectTo(String);

/// How connections are made.
pub(crate) struct Builder<'a> {
    pub(crate) secure: bool,
    pub(crate) connect_to: Option<&'a str>,
    pub(crate) options: &'a Options,
}

// === impl Transport ===

impl Transport {
    pub(crate) fn new(tls: TlsContents, builder: &Builder<'_>, files: &TlsFiles) -> Result<Self, ClientError> {
        let many = builder.secure && !builder.options.http1_only;
        let count = if many { builder.options.pool.max(1) } else { 1 };
        let slots: Vec<Slot> = (0..count).map(|_| Slot::default()).collect();
        let first = builder.client(&tls).map_err(|problem| {
            let named: Vec<String> =
                [&files.ca, &files.cert, &files.key].into_iter().flatten().map(|p| p.display().to_string()).collect();
            ClientError::Settings { problem: format!("{} cannot be used for TLS: {problem}", named.join(", ")) }
        })?;
        if let Some(slot) = slots.first() {
            let _ = slot.client.set(first);
        }
        Ok(Self { slots, tls })
    }

    /// The first connection with room, or the one with the most.
    pub(crate) fn take(self: &Arc<Self>, builder: &Builder<'_>) -> Result<(reqwest::Client, Busy), ClientError> {
        let load = |slot: &Slot| slot.busy.load(Ordering::Relaxed);
        let index = match self.slots.iter().position(|slot| load(slot) < STREAMS) {
            Some(index) => index,
            None => self.slots.iter().enumerate().min_by_key(|(_, slot)| load(slot)).map_or(0, |(index, _)| index),
        };
        let Some(slot) = self.slots.get(index) else {
            return Err(ClientError::Settings { problem: "the client has no connections".to_owned() });
        };
        slot.busy.fetch_add(1, Ordering::Relaxed);
        let busy = Busy { transport: Arc::clone(self), slot: index };
        if let Some(client) = slot.client.get() {
            return Ok((client.clone(), busy));
        }
        let client = builder.client(&self.tls).map_err(|problem| ClientError::Settings { problem })?;
        Ok((slot.client.get_or_init(|| client).clone(), busy))
    }
}

// === impl Builder ===

impl Builder<'_> {
    fn client(&self, tls: &TlsContents) -> Result<reqwest::Client, String> {
        // Idle connections are closed early: a server's limit counts them too.
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(self.options.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            .tcp_keepalive(KEEP_ALIVE)
            .user_agent(concat!("xebec/", env!("CARGO_PKG_VERSION")));
        if self.secure {
            builder = builder.tls_backend_rustls().https_only(true);
            if self.options.http1_only {
                builder = builder.http1_only();
            } else {
                // A connection that is dead without a word fails its requests, which otherwise would wait for minutes.
                builder = builder
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .http2_keep_alive_timeout(self.options.patience)
                    .http2_initial_stream_window_size(1 << 20)
                    .http2_initial_connection_window_size(16 << 20);
            }
            if let Some(pem) = &tls.ca {
                let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| reasons(&error))?;
                if authorities.is_empty() {
                    return Err("the authorities' file holds no certificate".to_owned());
                }
                builder = builder.tls_certs_only(authorities);
            }
            if let Some(pem) = &tls.identity {
                builder = builder.identity(reqwest::Identity::from_pem(pem).map_err(|error| reasons(&error))?);
            }
            if let Some(host) = self.connect_to {
                builder = builder.dns_resolver(ConnectTo(host.to_owned()));
            }
        } else {
            builder = builder.http1_only();
        }
        builder.build().map_err(|error| reasons(&error))
    }
}

impl reqwest::dns::Resolve for ConnectTo {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

// === impl Busy ===

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(slot) = self.transport.slots.get(self.slot) {
            slot.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
