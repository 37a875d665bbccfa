//! The journal of a bulk rotation: what was to be rotated when the job began, and what became of each. It lies
//! beside the creds files, for its owner alone, so that whoever is killed goes on where he was.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    cli::files::{io_error, put_secret},
    error::{Error, Result},
};

/// Its name.
const FILE: &str = ".nats-authority-rotation.jsonl";

/// What a job rotates, and how: two runs with the same are one job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Selector {
    pub(super) org: String,
    pub(super) env: Option<String>,
    pub(super) role: Option<String>,
    pub(super) older_than: Option<String>,
    pub(super) signing_key: Option<String>,
    pub(super) grace: Option<String>,
}

/// One credential of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    /// The old one.
    pub(super) id: Uuid,
    pub(super) env_type: String,
    pub(super) name: String,
    pub(super) role: String,
    /// Name of the creds file; none: its owner holds the key, and it is left alone.
    pub(super) file: Option<String>,
}

/// A job as it began.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Job {
    /// Makes its idempotency keys.
    pub(super) id: Uuid,
    pub(super) selector: Selector,
    pub(super) items: Vec<Item>,
}

/// What became of a credential.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Done {
    /// The new one, in its file.
    Rotated(Uuid),
    /// Why not.
    Failed(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Job(Job),
    Done { id: Uuid, done: Done },
    End,
}

/// See the module's documentation. Nobody else works on the job as long as the value lives.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    _lock: File,
    pub(super) job: Job,
    pub(super) done: BTreeMap<Uuid, Done>,
}

/// What a folder holds.
pub(super) enum Found {
    /// A job that is not over.
    Unfinished(Box<Journal>),
    /// None, and nobody else may begin one meanwhile.
    Free(File),
}

impl Journal {
    /// Looks for a job that is not over. Refused when somebody is at work in the folder.
    pub(super) fn find(dir: &Path) -> Result<Found> {
        let lock_path = dir.join(".nats-authority-rotation.lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|error| io_error("write", &lock_path, error))?;
        lock.try_lock().map_err(|_| {
            Error::conflict("job-running", format!("another rotation is at work in {}; wait for it", dir.display()))
        })?;
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Free(lock)),
            Err(error) => return Err(io_error("read", &path, error)),
        };
        let (job, done, over) = read(&text).ok_or_else(|| {
            Error::invalid(
                "journal",
                format!("{} is no journal; move it away, or choose another folder", path.display()),
            )
        })?;
        if over {
            return Ok(Found::Free(lock));
        }
        let file = append(&path)?;
        Ok(Found::Unfinished(Box::new(Self { path, file, _lock: lock, job, done })))
    }

    /// Writes down what is to be done, before anything is.
    pub(super) fn begin(dir: &Path, lock: File, job: Job) -> Result<Self> {
        let path = dir.join(FILE);
        put_secret(&path, &line(&Line::Job(job.clone()))?)?;
        let file = append(&path)?;
        Ok(Self { path, file, _lock: lock, job, done: BTreeMap::new() })
    }

    /// Writes down what became of one. The creds file has been written before.
    pub(super) fn record(&mut self, id: Uuid, done: Done) -> Result<()> {
        self.write(&Line::Done { id, done: done.clone() })?;
        self.done.insert(id, done);
        Ok(())
    }

    /// The job is over.
    pub(super) fn end(&mut self) -> Result<()> {
        self.write(&Line::End)
    }

    fn write(&mut self, what: &Line) -> Result<()> {
        let text = line(what)?;
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|error| io_error("write", &self.path, error))
    }
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).open(path).map_err(|error| io_error("write", path, error))
}

/// Each line begins anew: whoever was killed may have left half of one.
fn line(what: &Line) -> Result<String> {
    let text = serde_json::to_string(what).map_err(|error| Error::internal("journal").with_source(error))?;
    Ok(format!("\n{text}\n"))
}

/// None: the job itself cannot be read. Half a line at the end of a run that was killed says nothing.
fn read(text: &str) -> Option<(Job, BTreeMap<Uuid, Done>, bool)> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let Ok(Line::Job(job)) = serde_json::from_str(lines.next()?) else { return None };
    let (mut all, mut over) = (BTreeMap::new(), false);
    for line in lines {
        match serde_json::from_str(line) {
            Ok(Line::Done { id, done }) => _ = all.insert(id, done),
            Ok(Line::End) => over = true,
            _ => {}
        }
    }
    Some((job, all, over))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_says_nothing_and_spoils_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<_> = (1..=3).map(Uuid::from_u128).collect();
        let none = || None::<String>;
        let selector = Selector {
            org: "acme".to_owned(),
            env: none(),
            role: none(),
            older_than: none(),
            signing_key: none(),
            grace: none(),
        };
        let job = Job { id: ids[0], selector, items: Vec::new() };
        let Found::Free(lock) = Journal::find(dir.path()).unwrap() else { panic!("an empty folder") };
        let mut journal = Journal::begin(dir.path(), lock, job).unwrap();
        journal.record(ids[0], Done::Rotated(ids[1])).unwrap();
        assert_eq!(Journal::find(dir.path()).err().unwrap().code(), "job-running");
        journal.file.write_all(b"\n{\"done\":{\"id\":\"0000").unwrap();
        drop(journal);
        let Found::Unfinished(mut journal) = Journal::find(dir.path()).unwrap() else { panic!("it is not over") };
        assert!(matches!(journal.done[&ids[0]], Done::Rotated(new) if new == ids[1]));
        journal.record(ids[2], Done::Failed("x".to_owned())).unwrap();
        drop(journal);
        let Found::Unfinished(mut journal) = Journal::find(dir.path()).unwrap() else { panic!("it is not over") };
        assert_eq!(journal.done.len(), 2);
        journal.end().unwrap();
        drop(journal);
        assert!(matches!(Journal::find(dir.path()).unwrap(), Found::Free(_)));
    }
}
