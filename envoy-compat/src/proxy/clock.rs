//! Times of access logs as text, in UTC, without a calendar library.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Year, month, day, hour, minute, second, nanosecond in UTC.
fn civil(time: SystemTime) -> (i64, u32, u32, u32, u32, u32, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (days, rest) = ((seconds / 86_400) as i64, (seconds % 86_400) as u32);
    // Days are counted from 0000-03-01, so that leap days come last in a year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day, rest / 3600, rest / 60 % 60, rest % 60, since.subsec_nanos())
}

/// `2024-02-29T12:34:56.789Z`.
pub(super) fn write_time(time: SystemTime, out: &mut Vec<u8>) {
    let (year, month, day, hour, minute, second, nanos) = civil(time);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |at: usize, width: usize, mut number: u32| {
        for place in (at..at + width).rev() {
            text[place] = b'0' + (number % 10) as u8;
            number /= 10;
        }
    };
    put(0, 4, year as u32);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, hour);
    put(14, 2, minute);
    put(17, 2, second);
    put(20, 3, nanos / 1_000_000);
    out.extend_from_slice(&text);
}

/// The part of strftime that log formats use, with Envoy's `%f` and `%Nf` for fractions.
pub(super) fn write_strftime(time: SystemTime, format: &str, out: &mut Vec<u8>) {
    let (year, month, day, hour, minute, second, nanos) = civil(time);
    let mut chars = format.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            let mut bytes = [0; 4];
            out.extend_from_slice(char.encode_utf8(&mut bytes).as_bytes());
            continue;
        }
        let _ = match chars.next() {
            Some('Y') => write!(out, "{year:04}"),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('H') => write!(out, "{hour:02}"),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{second:02}"),
            Some('F') => write!(out, "{year:04}-{month:02}-{day:02}"),
            Some('T') => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => write!(out, "UTC"),
            Some('z') => write!(out, "+0000"),
            Some('f') => write!(out, "{nanos:09}"),
            Some('s') => write!(out, "{}", time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
            Some(digit) if digit.is_ascii_digit() && chars.peek() == Some(&'f') => {
                chars.next();
                let width = digit.to_digit(10).unwrap_or(9).clamp(1, 9);
                write!(out, "{:0width$}", nanos / 10u32.pow(9 - width), width = width as usize)
            }
            Some(other) => write!(out, "{other}"),
            None => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn leap_days_and_turns_of_the_year_are_right() {
        for (seconds, wanted) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_704_067_199, "2023-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut out = Vec::new();
            write_time(UNIX_EPOCH + Duration::from_secs(seconds), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), wanted);
        }
    }
}
