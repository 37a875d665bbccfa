//! A private Postgres and NATS cluster on free loopback ports, for `dev`, the demo, tests and
//! benches.
//!
//! What lives here starts, watches and stops processes and writes their configuration. It knows
//! nothing of organizations or keys: it is given a [`crate::authority::server_config::Trust`] and serves
//! it. Nothing here runs in production.
//!
//! Everything that is started dies with the process that started it, however that ends: see
//! [`process`].

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use crate::{
    entropy::{Entropy, SystemEntropy},
    error::{Error, Result},
};

pub mod nats;
pub mod place;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod tools;

/// Bounds a loop that waits for a process: there is nothing to subscribe to while one starts or ends,
/// so such loops ask again after a short pause.
struct Deadline {
    end: tokio::time::Instant,
    within: Duration,
}

impl Deadline {
    fn new(within: Duration) -> Self {
        Self { end: tokio::time::Instant::now() + within, within }
    }

    /// Waits a moment; fails when the time is over. `what` was waited for.
    async fn pause(&self, what: &str) -> Result<()> {
        if tokio::time::Instant::now() >= self.end {
            return Err(Error::unavailable("dev-timeout", format!("{what}: not within {} s", self.within.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    }
}

/// The error for a file or directory that cannot be had.
fn io_error(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::unavailable("dev-io", format!("cannot {doing} {}: {error}", path.display())).with_source(error)
}

/// Writes a file that only we may read, for passwords and what holds them.
fn write_private(path: &Path, text: &str) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| io_error("write", path, error))
}

/// `N` random bytes in hexadecimal.
fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    SystemEntropy::new().fill(&mut bytes);
    data_encoding::HEXLOWER.encode(&bytes)
}
