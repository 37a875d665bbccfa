//! Sizes and durations as people write them: `10GiB`, `90d`.

use crate::error::{Error, Result};

/// Parses `90d`, `24h`, `15m`, `30s` (and sums such as `1h 30m`) into whole seconds, at least one.
pub fn parse_duration(pointer: &str, text: &str) -> Result<i64> {
    match parse_grace(pointer, text)? {
        0 => Err(no_duration(pointer, text, "is shorter than a second")),
        seconds => Ok(seconds),
    }
}

/// The same where no time at all is an answer: `0s`.
pub fn parse_grace(pointer: &str, text: &str) -> Result<i64> {
    let seconds = humantime::parse_duration(text).map_err(|_| no_duration(pointer, text, "is no duration"))?.as_secs();
    i64::try_from(seconds).map_err(|_| no_duration(pointer, text, "is too long"))
}

fn no_duration(pointer: &str, text: &str, why: &str) -> Error {
    Error::field("invalid-duration", pointer, format!("'{text}' {why}; write 90d, 24h or 15m"))
}

/// Writes whole seconds in the largest unit that divides them: `90d`, `36h`, `61s`.
pub fn format_duration(seconds: i64) -> String {
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if seconds != 0 && seconds % length == 0 {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}

const UNITS: [(&str, i64); 6] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];

/// Parses `10GiB`, `512MiB` or plain bytes; `-1` and `unlimited` mean unlimited (-1).
pub fn parse_size(text: &str) -> Option<i64> {
    if text == "unlimited" || text == "-1" {
        return Some(-1);
    }
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<i64>().ok()?.checked_mul(*factor)
}

/// Writes a size in the largest binary unit that divides it; -1 as `unlimited`.
pub fn format_size(bytes: i64) -> String {
    if bytes < 0 {
        return "unlimited".to_owned();
    }
    for (unit, length) in UNITS {
        if bytes != 0 && bytes % length == 0 {
            return format!("{}{unit}", bytes / length);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("/ttl", "90d").unwrap(), 90 * 86_400);
        assert_eq!(parse_duration("/ttl", "1h 30m").unwrap(), 5_400);
        for bad in ["", "0s", "-1h", "1", "soon", "500ms", "99999999999999999999d"] {
            assert_eq!(parse_duration("/ttl", bad).unwrap_err().fields()[0].pointer, "/ttl", "{bad}");
        }
        assert_eq!(format_duration(7_776_000), "90d");
        assert_eq!(format_duration(61), "61s");
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10GiB"), Some(10 << 30));
        assert_eq!(parse_size("1048576"), Some(1 << 20));
        assert_eq!(parse_size("unlimited"), Some(-1));
        for bad in ["", "GiB", "1GB", "-2", "9999999TiB9", "99999999999TiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        assert_eq!(format_size(10 << 30), "10GiB");
        assert_eq!(format_size(-1), "unlimited");
    }
}
