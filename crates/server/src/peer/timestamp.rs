//! Points in time as Go writes and reads them in JSON (RFC 3339), for what members tell each other of their clocks.
//!
//! A point is the time since 1970 began, in UTC; what lies before has none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_OF_DAY: u64 = 86_400;
/// From 0000-03-01 to 1970-01-01, in days.
const DAYS_BEFORE_1970: u64 = 719_468;
/// Days of 400 years.
const DAYS_OF_ERA: u64 = 146_097;

/// The time by this machine's clock.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// In UTC, without zeros at the end of the fraction.
pub(crate) fn write(at: Duration) -> String {
    let (days, seconds) = (at.as_secs() / SECONDS_OF_DAY, at.as_secs() % SECONDS_OF_DAY);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = format!("{:09}", at.subsec_nanos());
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{point}{fraction}Z")
}

/// In any time zone: a member writes its own. Digits behind nanoseconds are cut off.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone_at = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at_checked(zone_at)?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let is_valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (hour < 24 && minute < 60 && second < 60)
        && !fraction.is_empty()
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    is_valid.then_some(())?;
    let nanos = format!("{:0<9}", fraction.get(..fraction.len().min(9))?).parse().ok()?;
    let seconds = days(year, month, day)? * SECONDS_OF_DAY + hour * 3600 + minute * 60 + second;
    let seconds = match zone.split_at_checked(1)? {
        ("Z", "") => seconds,
        ("+", ahead) => seconds.checked_sub(offset(ahead)?)?,
        ("-", behind) => seconds + offset(behind)?,
        _ => return None,
    };
    Some(Duration::new(seconds, nanos))
}

/// A zone's distance from UTC in seconds.
fn offset(text: &str) -> Option<u64> {
    let [hours, minutes] = numbers(text, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)
}

/// Numbers of so many digits, and what stands between them.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(between);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        let is_number = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = is_number.then(|| part.parse().ok()).flatten()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March, so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let day_of_all = days + DAYS_BEFORE_1970;
    let (era, day) = (day_of_all / DAYS_OF_ERA, day_of_all % DAYS_OF_ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day_of_month)
}

/// The inverse of [`civil`]; `None` before 1970.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let (era, year) = (year / 400, year % 400);
    let day_of_era = 365 * year + year / 4 - year / 100 + day_of_year;
    (era * DAYS_OF_ERA + day_of_era).checked_sub(DAYS_BEFORE_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them_and_read_again() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_795_361_526, 315_252_410, "2026-11-22T15:32:06.31525241Z"),
            (4_107_542_399, 1, "2100-02-28T23:59:59.000000001Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
        ] {
            let at = Duration::new(seconds, nanos);
            assert_eq!(write(at), text);
            assert_eq!(parse(text), Some(at), "{text}");
        }
    }

    #[test]
    fn every_day_is_the_one_after_the_last() {
        let mut last = civil(0);
        for day in 1..200_000 {
            let (year, month, day_of_month) = civil(day);
            assert!((year, month, day_of_month) > last, "{day}");
            assert_eq!(days(year, month, day_of_month), Some(day));
            last = (year, month, day_of_month);
        }
    }

    #[test]
    fn times_of_other_zones_are_the_same_points() {
        let at = Duration::new(1_795_361_526, 500_000_000);
        for text in [
            "2026-11-22T15:32:06.5Z",
            "2026-11-22T16:32:06.5+01:00",
            "2026-11-22T10:02:06.5-05:30",
            "2026-11-23T00:32:06.5000000009+09:00",
        ] {
            assert_eq!(parse(text), Some(at), "{text}");
        }
        for bad in [
            "",
            "T",
            "2026-11-22",
            "2026-11-22T15:32:06",
            "2026-11-22T15:32:06.Z",
            "2026-11-22T15:32:06Zx",
            "2026-11-22T15:32:06+1",
            "2026-13-22T15:32:06Z",
            "2026-11-22T24:32:06Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "-026-11-22T15:32:06Z",
            "2026-11-22T15:32:0\u{e9}Z",
            "2026-11-22T15:32:06.+Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
