//! `resolver`

use std::{io::IsTerminal, time::Duration};

use chrono::{DateTime, Utc};
use clap::Subcommand;
use reqwest::Method;
use tokio::time::Instant;

use super::{Failure, Outcome, client::Client};
use crate::{
    api::resolver::{Reconciliation, ResolverStatus},
    cli::output::{OutputFormat, Progress, fields, note, plain, print, table, time},
    error::{Error, Kind, Result},
    model::{
        size::format_size,
        view::{Convergence, ResolverType},
    },
};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(2);

/// Moves to the top left and clears what was there.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// What can be done about the servers.
#[derive(Debug, Subcommand)]
pub enum ResolverCommand {
    /// Show how far every server is. With `--wait`: until all have converged; exit code 3 if they have not in time.
    Status {
        /// Look again every two seconds, until interrupted; with `--wait` until all have converged.
        #[arg(long)]
        watch: bool,
    },
    /// Have every account compared with every server, and pushed where they differ.
    Reconcile,
    /// Forget a server that is gone for good.
    Forget {
        /// Its name.
        server: String,
    },
}

/// Runs a command.
pub(super) async fn run(command: ResolverCommand, client: &Client) -> Outcome<()> {
    match command {
        ResolverCommand::Status { watch: false } => {
            let progress = client.waits().then(|| Progress::start("waiting for the servers".to_owned()));
            let answer = client.get(&["resolver"], &[]).await?;
            drop(progress);
            client.print(&answer, status)?;
            require_converged(client, &answer.read()?)
        }
        ResolverCommand::Status { watch: true } => watch(client).await,
        ResolverCommand::Forget { server } => forget(&server, client).await,
        ResolverCommand::Reconcile => {
            let answer = client.change(Method::POST, &["resolver", "reconcile"], &[], None::<&()>).await?;
            client.print(&answer, |done: &Reconciliation| format!("{} accounts are looked at again", done.accounts))?;
            Ok(())
        }
    }
}

/// With `--wait` the servers have to have everything.
fn require_converged(client: &Client, seen: &ResolverStatus) -> Outcome<()> {
    let Some(seconds) = client.wait().filter(|_| seen.state != Convergence::Converged) else { return Ok(()) };
    let lacking = seen.servers.iter().filter(|server| server.lacking > 0);
    let lacking: Vec<_> =
        lacking.map(|server| format!("{} lacks {} of {}", server.name, server.lacking, seen.accounts.total)).collect();
    let why = match (seen.state, lacking.is_empty()) {
        (Convergence::Unreachable, _) => "no server can be reached".to_owned(),
        (_, false) => lacking.join(", "),
        (_, true) => format!("{} accounts are still to be pushed", seen.accounts.due),
    };
    Err(Failure::NotConverged(format!("after {seconds} s: {why}; look with `nats-authority resolver status`")))
}

async fn forget(server: &str, client: &Client) -> Outcome<()> {
    client.change(Method::DELETE, &["resolver", "servers", server], &[], None::<&()>).await?;
    note(&format!("forgot {server}"));
    Ok(())
}

/// Looks again and again. A terminal is redrawn; elsewhere only what has changed is written, times aside. With `--wait` it
/// ends when all have converged.
async fn watch(client: &Client) -> Outcome<()> {
    let on_terminal = std::io::stdout().is_terminal() && client.format == OutputFormat::Table;
    let asking = client.not_waiting();
    let end = client.wait().map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (mut last, mut unreachable) = (None, false);
    loop {
        let answer = match asking.get(&["resolver"], &[]).await {
            Ok(answer) => answer,
            // The service may be restarting; what was seen stays on the screen.
            Err(Failure::Here(error)) if last.is_some() && error.kind() == Kind::Unavailable => {
                if !std::mem::replace(&mut unreachable, true) {
                    note(&format!("error[{}]: {error}; trying again", error.code()));
                }
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        unreachable = false;
        let seen: ResolverStatus = answer.read()?;
        let now = timeless(&seen)?;
        if on_terminal {
            print(&format!("{CLEAR}{}", status(&seen)))?;
        } else if last.as_ref() != Some(&now) {
            client.print(&answer, status)?;
        }
        last = Some(now);
        if let Some(end) = end {
            if seen.state == Convergence::Converged {
                return Ok(());
            }
            if Instant::now() >= end {
                return require_converged(client, &seen);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What is worth a new line: everything but times that pass by themselves.
fn timeless(seen: &ResolverStatus) -> Result<String> {
    let mut seen = seen.clone();
    (seen.counted_at, seen.converged_at, seen.agreed_at) = (DateTime::default(), None, None);
    for server in &mut seen.servers {
        server.seen_at = DateTime::default();
    }
    serde_json::to_string(&seen).map_err(|error| Error::internal("a status that cannot be written").with_source(error))
}

/// Since when, and how long that is when the service counted.
fn since(at: DateTime<Utc>, seen: &ResolverStatus) -> String {
    let seconds = (seen.counted_at - at).num_seconds().max(0);
    let long = match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    };
    format!("{} ({long})", time(at))
}

fn state(seen: &ResolverStatus) -> String {
    let name = match seen.state {
        Convergence::Converged => "converged",
        Convergence::Pending => "pending",
        Convergence::Partial => "PARTIAL",
        Convergence::Unreachable => "UNREACHABLE",
    };
    let lacking =
        if seen.missing.is_empty() { String::new() } else { format!(", lacking: {}", seen.missing.join(", ")) };
    let when = match (seen.converged_since, seen.converged_at) {
        (Some(at), _) => format!(" since {}", since(at, seen)),
        (None, Some(at)) => format!(", last converged {}", since(at, seen)),
        (None, None) => String::new(),
    };
    format!("{name}{lacking}{when}")
}

fn status(status: &ResolverStatus) -> String {
    let connection = match &status.error {
        None => "up".to_owned(),
        Some(why) => format!("down: {why}"),
    };
    let accounts = format!("{}, {} still to be pushed", status.accounts.total, status.accounts.due);
    let rows = status.servers.iter().map(|server| {
        [
            server.name.clone(),
            if server.live { "live" } else { "GONE" }.to_owned(),
            if server.lacking > 0 { server.lacking.to_string() } else { "-".to_owned() },
            match server.trusts_operator {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "unknown",
            }
            .to_owned(),
            match server.resolver {
                Some(ResolverType::Full) => "full",
                Some(ResolverType::Cache) => "cache",
                Some(ResolverType::Url) => "url",
                None => "unknown",
            }
            .to_owned(),
            server.version.clone(),
            server.cluster.clone().unwrap_or_default(),
            format_size(server.max_disk),
            server.id.clone(),
        ]
    });
    let servers =
        table(["SERVER", "STATE", "LACKS", "TRUSTS US", "RESOLVER", "VERSION", "CLUSTER", "DISK", "ID"], rows);
    let agreed = status.agreed_at.map_or_else(|| "not since the service started".to_owned(), time);
    let unknown = match status.unknown_accounts.len() {
        0 => String::new(),
        count => format!("{count}: {}", status.unknown_accounts.join(", ")),
    };
    let pairs = [
        ("state", state(status)),
        ("connection", connection),
        ("accounts", accounts),
        ("last compared", agreed),
        ("unknown accounts", unknown),
    ];
    let refused = status.servers.iter().filter_map(|server| {
        let refusal = server.refusal.as_ref()?;
        let whose = refusal.org.as_ref().unwrap_or(&refusal.account_id);
        let (name, count) = (&server.name, server.refused);
        Some(format!("\n{name}: {count} not taken, such as {whose}: {}", plain(&refusal.error)))
    });
    let refused: Vec<_> = refused.collect();
    let warnings = status.servers.iter().flat_map(|server| server.warnings.iter().map(move |text| (server, text)));
    let warnings: Vec<_> = warnings.map(|(server, text)| format!("\n{}: {}", server.name, plain(text))).collect();
    format!("{}\n{servers}{}{}", fields(&pairs), refused.concat(), warnings.concat())
}
