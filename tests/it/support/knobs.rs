//! What the environment says about how much a test does: little in `make test`, all of it in `make chaos`.

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "a test's knobs, no configuration")]
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// `short` in `make test`, `full` in `make chaos`.
pub fn sized(short: usize, full: usize) -> usize {
    if number("CHAOS_FULL", 0) == 0 { short } else { full }
}

/// Where random choices begin: `CHAOS_SEED`, else the time; to be printed.
pub fn seed() -> u64 {
    number("CHAOS_SEED", std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs()))
}
