//! Times and durations, as text and as milliseconds.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// Milliseconds since 1970 as RFC 3339, in UTC.
pub fn show(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    // Beyond the year 9999 there is no such text.
    time.map_or_else(|| format!("{ms} ms"), |time| format!("{time:.3}"))
}

/// The present second, in letters that suit a file name.
pub fn now_for_names() -> String {
    Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// A moment: RFC 3339, a date (its beginning in UTC), or a duration before now.
///
/// # Errors
/// What would have been understood.
pub fn parse_moment(text: &str) -> Result<u64, String> {
    let time = if let Ok(time) = text.parse::<Timestamp>() {
        time
    } else if let Some(date) = text.parse::<Date>().ok().filter(|_| text.len() == 10) {
        date.to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?.timestamp()
    } else if let Ok(ago) = parse_signed(text) {
        Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())?
    } else {
        return Err(
            "give a time such as 2026-11-25T14:30:00Z, a date, or a time before now such as 2h"
                .into(),
        );
    };
    u64::try_from(time.as_millisecond()).map_err(|_| "before 1970".into())
}

/// A duration such as `500ms`, `10s`, `2h`, `7d` or `2w`.
///
/// # Errors
/// What would have been understood.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration =
        parse_signed(text).and_then(|duration| Duration::try_from(duration).map_err(drop));
    duration.map_err(|()| "give a duration such as 500ms, 10s, 2h, 7d or 2w".into())
}

/// Milliseconds as a duration that [`parse_duration`] has back, in the largest unit that suits.
pub fn show_duration(ms: u64) -> String {
    let units = [("d", 24 * 60 * 60 * 1000), ("h", 60 * 60 * 1000), ("m", 60 * 1000), ("s", 1000)];
    let unit = units.into_iter().find(|(_, unit)| ms >= *unit && ms % unit == 0);
    unit.map_or_else(|| format!("{ms}ms"), |(name, unit)| format!("{}{name}", ms / unit))
}

fn parse_signed(text: &str) -> Result<SignedDuration, ()> {
    let span: Span = text.parse().map_err(drop)?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(show(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(show(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(show(u64::MAX), "18446744073709551615 ms");
        assert_eq!(parse_moment(&show(1_700_000_000_123)), Ok(1_700_000_000_123));
        assert_eq!(parse_moment("2023-11-14T23:13:20.123+01:00"), Ok(1_700_000_000_123));
        assert_eq!(parse_moment("1970-01-02"), Ok(86_400_000));
    }

    #[test]
    fn moments_before_now_and_durations() {
        let before = parse_moment("1h").unwrap();
        let now = parse_moment("0s").unwrap();
        assert!((3_590_000..=3_610_000).contains(&(now - before)), "{before} {now}");
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2w"), Ok(Duration::from_secs(14 * 24 * 60 * 60)));
        for (ms, shown) in [
            (0, "0ms"),
            (1_500, "1500ms"),
            (90_000, "90s"),
            (60_000, "1m"),
            (5_400_000, "90m"),
            (7_200_000, "2h"),
            (7 * 86_400_000, "7d"),
        ] {
            assert_eq!(show_duration(ms), shown);
            assert_eq!(parse_duration(shown), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "yesterday", "12", "-1h", "1y", "1969-12-31T00:00:00Z"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "yesterday", "12", "1969-12-31", "2026-13-01"] {
            assert!(parse_moment(text).is_err(), "{text}");
        }
    }
}
