//! Waiting for conditions.

use std::fmt::Display;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again and again until the condition holds.
///
/// # Panics
/// When it does not hold within `timeout`; the text says `what` was waited for.
pub async fn eventually(timeout: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < timeout, "waited {timeout:?} in vain until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tries again and again until there is a value, and returns it.
///
/// # Panics
/// When there is none within `timeout`; the text says `what` was waited for, and the last error.
pub async fn eventually_ok<T, E: Display>(
    timeout: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if start.elapsed() >= timeout => {
                panic!("waited {timeout:?} in vain until {what}; last: {error}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
