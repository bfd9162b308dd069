//! `std::time::Duration` to `google.protobuf.Duration` and back.
//!
//! The protobuf type is signed, ours is not: negative durations come back as `None` rather than as something large.

use std::time::Duration;

use crate::google::protobuf::Duration as ProtoDuration;

/// The largest number of seconds that a `google.protobuf.Duration` may hold: about 10,000 years.
pub const MAX_SECONDS: i64 = 315_576_000_000;

/// Converts to protobuf; a duration longer than the protobuf maximum becomes the maximum.
pub fn to_proto(duration: Duration) -> ProtoDuration {
    match i64::try_from(duration.as_secs()) {
        // Nanoseconds of a Duration are below 10^9, so they fit.
        Ok(seconds) if seconds < MAX_SECONDS => ProtoDuration { seconds, nanos: duration.subsec_nanos() as i32 },
        _ => ProtoDuration { seconds: MAX_SECONDS, nanos: 0 },
    }
}

/// Converts from protobuf. `None` when it is negative, or when its nanoseconds are out of range.
pub fn from_proto(duration: &ProtoDuration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_part_survives_both_ways() {
        for duration in
            [Duration::ZERO, Duration::from_millis(1500), Duration::from_nanos(1), Duration::from_secs(86400)]
        {
            assert_eq!(from_proto(&to_proto(duration)), Some(duration));
        }
    }

    #[test]
    fn what_protobuf_cannot_hold_becomes_its_maximum() {
        assert_eq!(to_proto(Duration::MAX), ProtoDuration { seconds: MAX_SECONDS, nanos: 0 });
    }

    #[test]
    fn negative_and_malformed_durations_are_refused() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(from_proto(&ProtoDuration { seconds, nanos }), None, "{seconds}s {nanos}ns");
        }
    }
}
