//! The event stream, as lines that are read at once and taken when there is time.
//!
//! A server drops a reader that is slow, so reading never waits for the mesh. Whether anything was missed between two streams is
//! found out by asking for the last event again: a server that still has it says it, word for word, first of all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;
use xebec_adapter_client::ClientError;
use xxhash_rust::xxh3::xxh3_64;

use crate::listing::Reader;
use crate::wire::{Batch, escape};

/// How long a stream may be silent. Nomad says `{}` every 30 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// How many lines may wait to be taken. A reader that is this late starts over with a listing.
pub(crate) const WAITING: usize = 50_000;
/// How many bytes of lines may wait, over all streams.
pub(crate) const ROOM: usize = 64 << 20;

/// The last event of a stream: its index and a hash of its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) index: u64,
    pub(crate) hash: u64,
}

/// What a stream says.
#[derive(Debug)]
pub(crate) enum Said {
    /// Events of one index.
    Events {
        /// Which of the streams.
        scope: usize,
        /// What happened.
        batch: Arc<Batch>,
        /// The room that it takes while it waits: as many permits as its line has bytes.
        room: OwnedSemaphorePermit,
        /// Where the stream is with it.
        position: Position,
        /// When it arrived.
        at: Instant,
    },
    /// A sign of life.
    Heartbeat,
    /// There is no more.
    Ended(FeedError),
}

/// Why a stream ended, or could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    /// The request or the stream failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server ended it.
    #[error("the server ended the event stream")]
    Ended,
    /// A line cannot be read.
    #[error("the event stream says something that cannot be understood: {0}")]
    Line(String),
    /// The mesh is far behind.
    #[error("more than {WAITING} events or {} MiB wait to be taken", ROOM >> 20)]
    Behind,
    /// Nomad's own mistake in some versions.
    #[error(
        "the agent answers its event stream with an HTTP version that does not exist, as Nomad 1.10.8 and 1.11.2 do; upgrade it. \
         Blocking queries are used instead, which is slower"
    )]
    NoSuchVersion,
}

/// Opens one scope's stream at `index`, and reads it until the handle is dropped or the receiver is gone.
pub(crate) async fn open(
    reader: &Reader,
    scope: (usize, &str),
    index: u64,
    nodes: bool,
    to: mpsc::Sender<Said>,
    room: Arc<Semaphore>,
) -> Result<AbortOnDropHandle<()>, FeedError> {
    let (number, namespace) = scope;
    let path = format!(
        "/v1/event/stream?topic=Service&topic=Allocation{}&namespace={}&index={index}{}",
        if nodes { "&topic=Node" } else { "" },
        escape(namespace),
        reader.settings.region_query()
    );
    let mut lines = reader.client.lines(&path, SILENCE).await.map_err(named)?;
    let task = tokio::spawn(async move {
        let reason = loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => break FeedError::Ended,
                Err(error) => break error.into(),
            };
            if line.is_empty() {
                continue;
            }
            let batch: Batch = match serde_json::from_slice(&line) {
                Ok(batch) => batch,
                // The line is not repeated: events of nodes hold secrets.
                Err(error) => break FeedError::Line(error.to_string()),
            };
            let position = Position { index: batch.index, hash: xxh3_64(&line) };
            let said = if batch.events.is_empty() {
                Said::Heartbeat
            } else {
                let bytes = u32::try_from(line.len()).unwrap_or(u32::MAX);
                let Ok(room) = Arc::clone(&room).try_acquire_many_owned(bytes) else { break FeedError::Behind };
                Said::Events { scope: number, batch: Arc::new(batch), room, position, at: Instant::now() }
            };
            match to.try_send(said) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => break FeedError::Behind,
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        };
        let _ = to.send(Said::Ended(reason)).await;
    });
    Ok(AbortOnDropHandle::new(task))
}

/// hyper refuses a status line such as `HTTP/0.0 200 OK`.
fn named(error: ClientError) -> FeedError {
    match &error {
        ClientError::Protocol { problem, .. } if problem.to_ascii_lowercase().contains("http version") => {
            FeedError::NoSuchVersion
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::settings::Settings;

    #[tokio::test]
    async fn a_stream_of_which_too_many_bytes_wait_to_be_taken_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings =
            Settings { address: format!("http://{}", listener.local_addr().unwrap()), ..Settings::default() };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
            let line = format!(r#"{{"Index":1,"Events":[{{"Topic":"{}"}}]}}"#, "x".repeat(1 << 20)) + "\n";
            for _ in 0..70 {
                let _ = stream.write_all(line.as_bytes()).await;
            }
        };
        let reader = Reader { client: settings.client().unwrap(), settings: Arc::new(settings) };
        let (to, mut said) = mpsc::channel(WAITING);
        let reading = async {
            let room = Arc::new(Semaphore::new(ROOM));
            open(&reader, (0, "default"), 1, false, to, room).await.unwrap().await.unwrap();
        };
        tokio::join!(server, reading);
        let mut lines = 0;
        let why = loop {
            match said.recv().await.unwrap() {
                Said::Ended(why) => break why,
                _ => lines += 1,
            }
        };
        assert!(matches!(why, FeedError::Behind) && lines == 63, "{why} after {lines}");
    }
}
