//! Free loopback ports that stay ours while a stack lives.
//!
//! They lie outside the range from which the kernel takes the source ports of outgoing connections:
//! a stopped server must find its port free when it starts again. A lock on a file for each port
//! keeps stacks that start at the same time apart; the kernel releases it when the holder dies.

use std::{
    fs::{File, OpenOptions, Permissions},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::io_error;
use crate::{
    entropy::{Entropy, SystemEntropy},
    error::{Error, Result},
};

/// First port to hand out.
const FIRST: u16 = 10_000;
/// How many there are; the kernel's own range begins at 32768 by default.
const COUNT: u16 = 22_000;
/// Random tries before giving up.
const TRIES: usize = 500;

/// A port on 127.0.0.1 that no other stack takes while this lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Its lock is what holds the port.
    _lock: File,
}

impl Port {
    /// A free port: `preferred` (where a stack was before) if it is still free, else any.
    pub fn claim(preferred: Option<u16>) -> Result<Self> {
        let locks = lock_directory()?;
        if let Some(port) = preferred.and_then(|number| Self::try_claim(&locks, number)) {
            return Ok(port);
        }
        let entropy = SystemEntropy::new();
        (0..TRIES)
            .find_map(|_| {
                let mut bytes = [0; 2];
                entropy.fill(&mut bytes);
                Self::try_claim(&locks, FIRST + u16::from_le_bytes(bytes) % COUNT)
            })
            .ok_or_else(|| {
                Error::unavailable(
                    "dev-no-port",
                    format!("no free port on 127.0.0.1; if {} is not writable, remove it", locks.display()),
                )
            })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn try_claim(locks: &Path, number: u16) -> Option<Self> {
        let file = locks.join(number.to_string());
        // Another user's lock file can be opened only for reading, and not at all with O_CREAT in a
        // sticky directory. Lock files are never removed: that would race with the next holder.
        let lock = File::open(&file)
            .or_else(|_| OpenOptions::new().write(true).create_new(true).open(&file))
            .or_else(|_| File::open(&file))
            .ok()?;
        lock.try_lock().ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _lock: lock })
    }
}

/// The directory of the locks, shared by all users of the machine.
fn lock_directory() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join("nats-authority-ports");
    match std::fs::create_dir(&dir) {
        Ok(()) => std::fs::set_permissions(&dir, Permissions::from_mode(0o1777))
            .map_err(|error| io_error("open to all users", &dir, error))?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io_error("create", &dir, error)),
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_held_until_dropped_and_can_be_had_again() {
        let port = Port::claim(None).unwrap();
        let number = port.number();
        assert!((FIRST..FIRST + COUNT).contains(&number));
        assert_ne!(Port::claim(Some(number)).unwrap().number(), number);
        drop(port);
        assert_eq!(Port::claim(Some(number)).unwrap().number(), number);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_taken() {
        let number = Port::claim(None).unwrap().number();
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        assert_ne!(Port::claim(Some(number)).unwrap().number(), number);
    }
}
