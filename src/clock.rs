//! Time as an argument: whoever needs the time takes a [`Clock`], so that tests can live through
//! months in milliseconds. The ambient clocks are banned by `clippy.toml`.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};

/// A source of the present time.
pub trait Clock: Send + Sync {
    /// The present time, UTC.
    fn now(&self) -> DateTime<Utc>;

    /// The present time in whole Unix seconds, as NATS claims carry it.
    fn unix(&self) -> i64 {
        self.now().timestamp()
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
        Utc::now()
    }
}

/// A clock that moves only when told to; for tests.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `unix` seconds.
    pub const fn at(unix: i64) -> Self {
        Self(AtomicI64::new(unix))
    }

    /// Moves the clock by `seconds`; negative values move it back.
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0.load(Ordering::SeqCst), 0).unwrap_or_default()
    }
}
