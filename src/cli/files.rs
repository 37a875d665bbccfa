//! Files that commands write: secrets with mode 0600, nothing overwritten unasked.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::error::{Error, Result};

/// Writes a new file that only its owner may read; refuses to overwrite.
pub(super) fn write_new_secret(path: &Path, text: &str) -> Result<()> {
    write_new(path, text, 0o600)
}

/// Writes a new file that everyone may read; refuses to overwrite.
pub(super) fn write_new_public(path: &Path, text: &str) -> Result<()> {
    write_new(path, text, 0o644)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|error| io_error("write", path, error))
}

/// The error for a file that cannot be had.
#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(super) fn io_error(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::invalid("file", format!("cannot {doing} {}: {error}", path.display()))
}
