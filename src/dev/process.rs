//! Child processes that never outlive us.
//!
//! Each runs in a process group of its own, so that Ctrl-C at the terminal reaches us alone and we
//! decide in which order things stop. Dropping a [`Process`] kills it. If we are killed ourselves, a
//! tiny shell, the guard, sees the pipe from us close and ends whatever is still registered.

use std::{
    fs::OpenOptions,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use super::{Deadline, io_error};
use crate::error::{Error, Result};

/// What the guard runs. It reads `+ SIGNAL PID` and `- PID` and waits for the end of its input: then
/// it wakes, signals and in the end kills what is left. Read-only when nothing is registered.
const GUARD: &str = r#"
held=
while read -r op a b; do
  case $op in
    +) held="$held $a:$b" ;;
    -) kept=
       for entry in $held; do [ "${entry#*:}" = "$a" ] || kept="$kept $entry"; done
       held=$kept ;;
  esac
done
for entry in $held; do
  kill -s "${entry%%:*}" "${entry#*:}"
  kill -s CONT "${entry#*:}"
done
tries=50
while [ "$tries" -gt 0 ]; do
  alive=
  for entry in $held; do kill -s 0 "${entry#*:}" && alive=1; done
  [ "$alive" ] || exit 0
  sleep 0.1
  tries=$((tries - 1))
done
for entry in $held; do kill -s KILL "${entry#*:}"; done
"#;

/// The guard of this process. It is global because the process is what it guards.
static OUR_GUARD: Mutex<Option<Guard>> = Mutex::new(None);

/// How a process is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The way it is meant to be stopped.
    Graceful,
    /// `kill -9`.
    Kill,
}

/// A running child process; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    last_resort: Signal,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, with its output appended to `log`. `last_resort` is what ends it, without
    /// leaving anything behind, when nobody can wait for a graceful stop.
    pub fn spawn(name: &str, mut command: Command, log: &Path, last_resort: Signal) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|error| io_error("write the log", log, error))?;
        let errors = output.try_clone().map_err(|error| io_error("write the log", log, error))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| io_error("start", Path::new(command.get_program()), error))?;
        let process = Self { name: name.to_owned(), child, log: log.to_owned(), last_resort, status: None };
        with_guard(|guard| guard.hold(process.pid(), last_resort))?;
        Ok(process)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends `signal`; nothing happens when the process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Only while the child is not reaped does its id surely belong to it.
        if self.exited()?.is_none() {
            send(self.pid(), signal)?;
        }
        Ok(())
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .map_err(|error| Error::internal(format!("cannot wait for {}", self.name)).with_source(error))?;
            if self.status.is_some() {
                with_guard(|guard| guard.release(self.child.id()))?;
            }
        }
        Ok(self.status)
    }

    /// Fails, with the end of the log, when the process has ended.
    pub fn expect_running(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => Err(Error::unavailable(
                "dev-process-ended",
                format!("{} ended ({status}); the end of {}:\n{}", self.name, self.log.display(), tail(&self.log)),
            )),
        }
    }

    /// Sends `signal` and waits for the end; kills when that takes longer than `within`.
    pub async fn stop(&mut self, signal: Signal, within: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.signal(Signal::CONT)?;
        if let Ok(status) = self.end(within).await {
            return Ok(status);
        }
        self.signal(Signal::KILL)?;
        self.end(Duration::from_secs(10)).await
    }

    /// Waits until it has ended.
    async fn end(&mut self, within: Duration) -> Result<ExitStatus> {
        let deadline = Deadline::new(within);
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            deadline.pause(&format!("the end of {}", self.name)).await?;
        }
    }
}

impl Drop for Process {
    /// Ends the process and waits for its end, a few seconds at most.
    fn drop(&mut self) {
        for signal in [self.last_resort, Signal::KILL] {
            let sent = self.signal(signal).and_then(|()| self.signal(Signal::CONT));
            for _ in 0..1000 {
                if sent.is_err() || self.exited().is_ok_and(|status| status.is_some()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Sends `signal` to the process `pid`.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let target = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::internal(format!("{pid} is no process id")))?;
    match kill_process(target, signal) {
        // Ended in between: as good as signalled.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(Error::internal(format!("cannot signal process {pid}")).with_source(error)),
    }
}

/// Whether a process with this id exists.
pub fn is_running(pid: u32) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// The last lines of a log, for an error message.
pub fn tail(log: &Path) -> String {
    let read = || {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).trim_end().to_owned()
}

fn with_guard(action: impl FnOnce(&mut Guard) -> Result<()>) -> Result<()> {
    let mut guard = OUR_GUARD.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *guard {
        Some(guard) => action(guard),
        None => action(guard.insert(Guard::spawn()?)),
    }
}

/// The shell that holds the other end of our pipe.
#[derive(Debug)]
struct Guard {
    pipe: ChildStdin,
}

impl Guard {
    fn spawn() -> Result<Self> {
        let failed =
            || Error::unavailable("dev-no-shell", "cannot start sh, which ends our servers when we are killed");
        let mut child = Command::new("sh")
            .args(["-c", GUARD])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map_err(|error| failed().with_source(error))?;
        Ok(Self { pipe: child.stdin.take().ok_or_else(failed)? })
    }

    fn hold(&mut self, pid: u32, last_resort: Signal) -> Result<()> {
        let name = match last_resort {
            Signal::TERM => "TERM",
            Signal::QUIT => "QUIT",
            _ => "KILL",
        };
        self.tell(&format!("+ {name} {pid}\n"))
    }

    fn release(&mut self, pid: u32) -> Result<()> {
        self.tell(&format!("- {pid}\n"))
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        self.pipe
            .write_all(line.as_bytes())
            .map_err(|error| Error::internal("the guard of our servers is gone").with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::spawn("sleeper", command, log, Signal::TERM).unwrap()
    }

    #[tokio::test]
    async fn a_process_ends_with_its_owner_or_when_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut stopped = sleeper(&dir.path().join("log"));
        let pids = [stopped.pid(), sleeper(&dir.path().join("log")).pid()];
        stopped.stop(Signal::TERM, Duration::from_secs(5)).await.unwrap();
        assert!(stopped.expect_running().is_err());
        assert!(pids.iter().all(|pid| !is_running(*pid)));
    }

    #[tokio::test]
    async fn what_the_guard_holds_ends_when_its_pipe_closes() {
        let mut guard = Guard::spawn().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut held = command.spawn().unwrap();
        let mut released = command.spawn().unwrap();
        for child in [&held, &released] {
            guard.hold(child.id(), Signal::TERM).unwrap();
            // A stopped process must die as well.
            send(child.id(), Signal::STOP).unwrap();
        }
        guard.release(released.id()).unwrap();
        drop(guard);
        assert!(!held.wait().unwrap().success());
        assert!(released.try_wait().unwrap().is_none());
        released.kill().unwrap();
        released.wait().unwrap();
    }
}
