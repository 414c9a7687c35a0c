//! RFC 3339 times in UTC, as OCI states and logs write them.
//!
//! Invariant: years before 1970 do not occur; such a time is written as 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-01-31T12:34:56Z`.
pub fn rfc3339_seconds(time: SystemTime) -> String {
    let (date, _) = date_and_nanos(time);
    format!("{date}Z")
}

/// `2026-01-31T12:34:56.123456789Z`.
pub fn rfc3339_nanos(time: SystemTime) -> String {
    let (date, nanos) = date_and_nanos(time);
    format!("{date}.{nanos:09}Z")
}

fn date_and_nanos(time: SystemTime) -> (String, u32) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second_of_day) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    (format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"), since.subsec_nanos())
}

/// Gregorian date of a day since 1970-01-01, by Howard Hinnant's algorithm
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn leap_days_and_year_ends_are_right() {
        let at = |seconds| rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn nanoseconds_are_padded() {
        assert_eq!(rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(5)), "1970-01-01T00:00:00.000000005Z");
    }
}
