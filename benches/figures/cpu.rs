//! The processor time of the processes that are measured: it tells where the time goes, and says more than the
//! time itself on a machine that others use as well.

use std::fs;

use anyhow::{Context, Result};

use crate::deployment::Deployment;

/// Processor time so far, in ticks of 10 ms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    service: u64,
    postgres: u64,
    nats: u64,
}

impl Cpu {
    /// Of the service (and the bench itself, in the same process), of Postgres with all its sessions, and of the servers.
    pub fn now(deployment: &Deployment) -> Result<Self> {
        let postmaster = deployment.postgres.pid().context("Postgres does not run")?;
        let mut postgres = 0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // It may have ended meanwhile; then its parent counts it.
            let Ok(stat) = stat(pid) else { continue };
            if pid == postmaster {
                postgres += stat.own + stat.children;
            } else if stat.parent == postmaster {
                postgres += stat.own;
            }
        }
        let servers = deployment.cluster.servers().iter().filter_map(nats_authority::dev::nats::Server::pid);
        let nats = servers.map(|pid| stat(pid).map(|stat| stat.own)).sum::<Result<u64>>()?;
        Ok(Self { service: stat(std::process::id())?.own, postgres, nats })
    }

    /// What was spent since `before`, on top of `self`.
    pub fn add(&mut self, before: Self, after: Self) {
        self.service += after.service - before.service;
        self.postgres += after.postgres.saturating_sub(before.postgres);
        self.nats += after.nats - before.nats;
    }

    /// Microseconds for each of `count`.
    pub fn each(&self, count: usize) -> String {
        let each = |ticks: u64| ticks * 10_000 / u64::try_from(count.max(1)).unwrap_or(u64::MAX);
        format!("{} service, {} Postgres, {} servers", each(self.service), each(self.postgres), each(self.nats))
    }
}

struct Stat {
    parent: u32,
    own: u64,
    children: u64,
}

/// Source: proc(5). The name, in parentheses, may hold anything.
fn stat(pid: u32) -> Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |number: usize| -> Result<u64> { Ok(fields.get(number - 3).context("a short line")?.parse()?) };
    Ok(Stat { parent: u32::try_from(field(4)?)?, own: field(14)? + field(15)?, children: field(16)? + field(17)? })
}
