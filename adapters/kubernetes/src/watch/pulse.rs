//! Whether the API server answers at all: asked when nothing is heard of it, and often while it does not.
//!
//! A server that has stopped is only silent on the watches that it has, and so is one on a connection that something in between has
//! forgotten. Silence of a watch may be long; a question is answered at once.
//!
//! - ALWAYS: whoever waits for the server goes on as soon as it answers again.
//! - NEVER: a server that says anything, be it an error, is taken for one that is gone.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::{Timing, Trouble, wire};
use crate::connect::Connector;

/// What is asked: the cheapest answer that every API server has for everybody. A refusal is an answer, too.
const QUESTION: &str = "/livez";
/// How much of the answer is read.
const LONGEST_ANSWER: usize = 64 * 1024;

/// What is known of a server's life, shared by all who read it.
#[derive(Debug)]
pub(crate) struct Pulse {
    heard: Mutex<Instant>,
    /// Why the server counts as gone; `None` while it does not.
    gone: watch::Sender<Option<Trouble>>,
    suspected: Notify,
}

// === impl Pulse ===

impl Pulse {
    /// Of a server that nothing bad is known of.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { heard: Mutex::new(Instant::now()), gone: watch::Sender::new(None), suspected: Notify::new() })
    }

    /// Something came from the server.
    pub(crate) fn heard(&self) {
        *self.heard.lock() = Instant::now();
        if self.gone.borrow().is_some() {
            self.gone.send_replace(None);
        }
    }

    /// A connection was lost, or none can be made: it is worth asking now.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Says when the server is gone, and when it is back.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Trouble>> {
        self.gone.subscribe()
    }

    /// Asks for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>, connector: Arc<Connector>, timing: Timing) {
        loop {
            let quiet = self.heard.lock().elapsed();
            if quiet < timing.quiet {
                // Whoever suspects has heard something before, and may be right nevertheless.
                if timeout(timing.quiet - quiet, self.suspected.notified()).await.is_err() {
                    continue;
                }
            }
            let mut pause = timing.first_pause;
            while let Some(trouble) = question(&connector, timing).await {
                self.gone.send_if_modified(|gone| {
                    let changed = gone.is_none();
                    *gone = Some(trouble);
                    changed
                });
                let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                sleep(jittered).await;
                pause = (pause * 2).min(timing.longest_absence);
            }
            self.heard();
        }
    }
}

/// Asks once. `None`: the server has answered, or nobody can ask, which others say better.
async fn question(connector: &Connector, timing: Timing) -> Option<Trouble> {
    let client = connector.client().await.ok()?;
    match wire::send(&client, QUESTION, timing.sign_of_life).await {
        Ok(answer) => {
            // A connection whose answer was read to its end is used again.
            let _ = timeout(timing.sign_of_life, Limited::new(answer.into_body(), LONGEST_ANSWER).collect()).await;
            None
        }
        Err(trouble) => Some(trouble),
    }
}
