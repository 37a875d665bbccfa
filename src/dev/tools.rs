//! Where the server binaries are: what `scripts/setup` found or installed, then what the machine has.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::error::{Error, Result};

/// The oldest nats-server that serves: 2.10 has what the resolver speaks.
const NATS_MIN: (u32, u32) = (2, 10);
/// The oldest Postgres that serves.
const POSTGRES_MIN: (u32, u32) = (15, 0);

/// The nats-server binary.
pub fn nats_server() -> Result<PathBuf> {
    places()
        .into_iter()
        .map(|dir| dir.join("nats-server"))
        .find(|file| version(file).is_some_and(|version| version >= NATS_MIN))
        .and_then(|file| file.canonicalize().ok())
        .ok_or_else(|| missing("nats-server >= 2.10"))
}

/// The directory that holds `postgres` and `initdb`.
pub fn postgres_bin() -> Result<PathBuf> {
    places()
        .into_iter()
        .filter(|dir| dir.join("initdb").is_file())
        .map(|dir| dir.join("postgres"))
        .find(|file| version(file).is_some_and(|version| version >= POSTGRES_MIN))
        // Postgres finds its libraries and templates from where the file really is.
        .and_then(|file| Some(file.canonicalize().ok()?.parent()?.to_owned()))
        .ok_or_else(|| missing("Postgres >= 15"))
}

fn missing(what: &str) -> Error {
    Error::unavailable(
        "dev-tools-missing",
        format!("no {what} found: run scripts/setup in the project's directory, or put it on PATH"),
    )
}

/// The directories to look in, best first.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    for dir in starts.iter().flatten().flat_map(|start| start.ancestors()) {
        let tools = dir.join(".tools");
        if is_ours(&tools) {
            places.push(tools.join("bin"));
        }
    }
    if let Some(path) = std::env::var_os("PATH") {
        places.extend(std::env::split_paths(&path));
    }
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.flatten().map(|entry| entry.path().join("bin")));
    }
    places
}

/// Whether the directory belongs to us or to root: what others put above our working directory is
/// not to be run.
fn is_ours(dir: &Path) -> bool {
    dir.metadata()
        .is_ok_and(|meta| meta.is_dir() && (meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw()))
}

/// The version a binary tells, as in `nats-server: v2.15.1` or `postgres (PostgreSQL) 15.10 (Debian …)`.
fn version(file: &Path) -> Option<(u32, u32)> {
    if !file.is_file() {
        return None;
    }
    let output = Command::new(file).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let number = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_binaries_print() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(parse_version("postgres (PostgreSQL) 15.10 (Debian 15.10-0+deb12u1)"), Some((15, 10)));
        assert_eq!(parse_version("postgres (PostgreSQL) 19beta1"), Some((19, 0)));
        assert_eq!(parse_version("no such option"), None);
    }
}
