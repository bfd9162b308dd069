//! Bounds in time: of a route's whole response, and of one attempt.
//!
//! ALWAYS: a route's time counts from the moment at which the whole request had come. A client that is still sending is
//! not timed out, not even while the response is under way already.

use super::body::Upload;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// The time for the whole response.
pub(super) struct Deadline {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
}

pub(super) enum Timed<T> {
    Done(T),
    Route,
    Try,
}

// === impl Deadline ===

impl Deadline {
    pub fn new(limit: Duration) -> Self {
        Self { limit, sleep: Box::pin(tokio::time::sleep(limit)) }
    }

    /// Ready when the time is over. The timer is moved only when it fires, so that an upload costs nothing until then;
    /// without an upload the request was complete from the start.
    pub fn poll_over(&mut self, cx: &mut Context<'_>, upload: Option<&Upload>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let Some(upload) = upload else { return Poll::Ready(()) };
            let end = upload.done_at().unwrap_or(now) + self.limit;
            if end <= now {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(end);
        }
        Poll::Pending
    }
}

/// Runs `future` under the route's and the attempt's time.
pub(super) async fn within<F: Future>(
    future: F,
    deadline: &mut Option<Deadline>,
    per_try: Option<Duration>,
    upload: Option<&Upload>,
) -> Timed<F::Output> {
    let mut future = pin!(future);
    if deadline.is_none() && per_try.is_none() {
        return Timed::Done(future.await);
    }
    let mut per_try = per_try.map(|limit| Box::pin(tokio::time::sleep(limit)));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Timed::Done(output));
        }
        if let Some(deadline) = deadline
            && deadline.poll_over(cx, upload).is_ready()
        {
            return Poll::Ready(Timed::Route);
        }
        if let Some(limit) = &mut per_try
            && limit.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Timed::Try);
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(60);

    /// How long a response is waited for that never comes, under [`LIMIT`].
    async fn cut_after(upload: Option<&Upload>) -> Duration {
        let start = Instant::now();
        let mut deadline = Some(Deadline::new(LIMIT));
        assert!(matches!(within(std::future::pending::<()>(), &mut deadline, None, upload).await, Timed::Route));
        start.elapsed()
    }

    #[tokio::test]
    async fn the_time_counts_from_the_end_of_the_upload() {
        assert!(cut_after(None).await >= LIMIT);
        for pause in [LIMIT * 3 / 4, LIMIT * 3 / 2] {
            let upload = Upload::default();
            let sending = async {
                tokio::time::sleep(pause).await;
                upload.finish();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = sending => {}
                after = cut_after(Some(&upload)) => assert!(after >= pause + LIMIT, "{after:?} with {pause:?} of upload"),
            }
        }
    }
}
