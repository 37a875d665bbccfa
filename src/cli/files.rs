//! Files that commands write: secrets with mode 0600, nothing overwritten unasked.

use std::{
    fs::{self, OpenOptions},
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

/// Replaces a file by one that only its owner may read: whoever reads it finds the old or the new one, whole,
/// also after a crash. Where the path is a symbolic link, what it points to is replaced.
pub(super) fn replace_secret(path: &Path, text: &str) -> Result<()> {
    replace(path, text).map_err(|error| io_error("replace", path, error))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let mut draft = std::ffi::OsString::from(".");
    draft.push(path.file_name().unwrap_or_default());
    draft.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(draft);
    // Left by a process of the same number that was killed.
    let _ = fs::remove_file(&draft);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes a file that only its owner may read, whole or not at all, in the place of whatever is there. What a
/// process left that was killed meanwhile is taken away by the next one that writes the same file.
pub(super) fn put_secret(path: &Path, text: &str) -> Result<()> {
    put(path, text).map_err(|error| io_error("write", path, error))
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    let mut draft = std::ffi::OsString::from(".");
    draft.push(path.file_name().unwrap_or_default());
    draft.push(".draft");
    let draft = path.with_file_name(draft);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// The error for a file that cannot be had.
#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(super) fn io_error(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::invalid("file", format!("cannot {doing} {}: {error}", path.display()))
}
