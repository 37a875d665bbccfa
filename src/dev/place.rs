//! Where Postgres keeps its data and as whom it runs: it refuses to run as root, and another user
//! must then be able to reach the directory.

use std::{
    fs,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{io_error, random_hex, write_private};
use crate::error::{Error, Result};

/// Remembers, in the stack's directory, that the data is elsewhere.
const ELSEWHERE: &str = "data-location";

/// A user other than us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The place of one Postgres.
#[derive(Clone, Debug)]
pub struct Place {
    base: PathBuf,
    user: Option<User>,
}

/// Decides for the Postgres of `dir`, whose binaries are in `bin`.
pub fn choose(dir: &Path, bin: &Path) -> Result<Place> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Place { base: dir.to_owned(), user: None });
    }
    let remembered = dir.join(ELSEWHERE);
    let mut base = match fs::read_to_string(&remembered) {
        Ok(path) => PathBuf::from(path),
        Err(_) => dir.to_owned(),
    };
    // Whoever has the data keeps it.
    let user = match base.join("data").metadata() {
        Ok(data) if data.uid() != 0 => User { uid: data.uid(), gid: data.gid() },
        _ => unprivileged(),
    };
    if !can(user, "test -x \"$1\" && test -x \"$2\"", &[&bin.join("postgres"), &bin.join("initdb")]) {
        return Err(Error::unavailable(
            "dev-postgres-unreachable",
            format!(
                "Postgres does not run as root, and user {} cannot execute the one in {}: run scripts/setup as root, \
                 or work as another user",
                user.uid,
                bin.display()
            ),
        ));
    }
    if base != dir && !base.exists() {
        return Err(Error::unavailable(
            "dev-data-gone",
            format!(
                "the data of {} was in {}, which is gone: remove {} to start anew",
                dir.display(),
                base.display(),
                dir.display()
            ),
        ));
    }
    if base == dir && !can(user, "cd \"$1\"", &[dir]) {
        base = std::env::temp_dir().join(format!("nats-authority-{}", random_hex::<8>()));
        // Others may pass through; the data itself is closed to them.
        let made = fs::DirBuilder::new().mode(0o711).create(&base);
        made.map_err(|error| io_error("create", &base, error))?;
        write_private(&remembered, &base.to_string_lossy())?;
    }
    Ok(Place { base, user: Some(user) })
}

/// Where the data of the Postgres of `dir` is, if not in `dir`.
pub fn elsewhere(dir: &Path) -> Option<PathBuf> {
    fs::read_to_string(dir.join(ELSEWHERE)).ok().map(PathBuf::from)
}

impl Place {
    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.base.join("data")
    }

    /// As whom Postgres runs, if not as us.
    pub fn user(&self) -> Option<User> {
        self.user
    }

    /// An empty directory `name` beside the data that only the one who runs Postgres may enter.
    pub fn make_private_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.base.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(|error| io_error("remove", &dir, error))?;
        }
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| io_error("create", &dir, error))?;
        self.give(&dir)?;
        Ok(dir)
    }

    /// Makes the one who runs Postgres the owner of `path`.
    pub fn give(&self, path: &Path) -> Result<()> {
        let Some(user) = self.user else { return Ok(()) };
        chown(path, Some(user.uid), Some(user.gid)).map_err(|error| io_error("change the owner of", path, error))
    }
}

/// Whether a check of the shell succeeds for `user`.
fn can(user: User, check: &str, paths: &[&Path]) -> bool {
    Command::new("sh")
        .args(["-c", check, "sh"])
        .args(paths)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .uid(user.uid)
        .gid(user.gid)
        .status()
        .is_ok_and(|status| status.success())
}

/// The user `postgres`, else `nobody`, else the id that `nobody` has everywhere.
fn unprivileged() -> User {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = |name| user_named(&users, name).filter(|user| user.uid != 0);
    named("postgres").or_else(|| named("nobody")).unwrap_or(User { uid: 65534, gid: 65534 })
}

fn user_named(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some(User { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_from_the_list_of_the_system() {
        let users = "root:x:0:0:root:/root:/bin/sh\n# odd\nnobody:x:65534:65533:nobody:/:/bin/false\n";
        assert_eq!(user_named(users, "nobody"), Some(User { uid: 65534, gid: 65533 }));
        assert_eq!(user_named(users, "postgres"), None);
    }
}
