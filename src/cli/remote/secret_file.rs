//! Files that hold secrets: only their owner may read them, they appear whole or not at all, and
//! nothing is overwritten unasked. A place is taken before the secret exists: what could not be
//! kept is not made.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{
    cli::{files::io_error, output::print},
    error::{Error, Result},
};

/// Where a secret goes.
pub(super) enum Place {
    /// To standard output, because somebody said so.
    Stdout,
    /// To a file.
    File(Reserved),
}

/// A file that is ours, still without its content.
pub(super) struct Reserved {
    path: PathBuf,
    draft: PathBuf,
    file: File,
    /// The empty file that keeps others away from the path.
    holds_path: bool,
    written: bool,
}

impl Place {
    /// Takes `path`, where `-` is standard output. An existing file is refused, with `force` it is
    /// replaced in the end.
    pub(super) fn reserve(path: &Path, force: bool) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        Reserved::new(path, force).map(Self::File)
    }

    /// Writes the secret; the path of the file, if it is one.
    pub(super) fn write(self, secret: &str) -> Result<Option<PathBuf>> {
        match self {
            Self::Stdout => print(secret).map(|()| None),
            Self::File(file) => file.write(secret).map(Some),
        }
    }
}

impl Reserved {
    fn new(path: &Path, force: bool) -> Result<Self> {
        let name =
            path.file_name().ok_or_else(|| Error::invalid("file", format!("{} names no file", path.display())))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let draft = path.with_file_name(hidden);
        if !force {
            create(path).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => Error::invalid(
                    "file-exists",
                    format!("{} is there already; choose another with --out, or --force", path.display()),
                ),
                _ => io_error("write", path, error),
            })?;
        }
        match create(&draft) {
            Ok(file) => Ok(Self { path: path.to_owned(), draft, file, holds_path: !force, written: false }),
            Err(error) => {
                if !force {
                    let _ = fs::remove_file(path);
                }
                Err(io_error("write", &draft, error))
            }
        }
    }

    fn write(mut self, secret: &str) -> Result<PathBuf> {
        let written = self.file.write_all(secret.as_bytes()).and_then(|()| self.file.sync_all());
        written
            .and_then(|()| fs::rename(&self.draft, &self.path))
            .map_err(|error| io_error("write", &self.path, error))?;
        self.written = true;
        Ok(self.path.clone())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.written {
            let _ = fs::remove_file(&self.draft);
            if self.holds_path {
                let _ = fs::remove_file(&self.path);
            }
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.creds");
        drop(Place::reserve(&path, false).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of what was not written");
        Place::reserve(&path, false).unwrap().write("secret").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Place::reserve(&path, false).err().unwrap().code(), "file-exists");
        drop(Place::reserve(&path, true).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        Place::reserve(&path, true).unwrap().write("newer").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
