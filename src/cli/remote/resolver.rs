//! `resolver`

use std::{io::IsTerminal, time::Duration};

use clap::Subcommand;
use reqwest::Method;

use super::{Outcome, client::Client};
use crate::{
    api::resolver::{Reconciliation, ResolverStatus},
    cli::output::{OutputFormat, fields, note, plain, print, table, time},
    model::{size::format_size, view::ResolverType},
};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(2);

/// Moves to the top left and clears what was there.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// What can be done about the servers.
#[derive(Debug, Subcommand)]
pub enum ResolverCommand {
    /// Show every server and how many accounts are still to be pushed.
    Status {
        /// Look again every two seconds, until interrupted.
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
            let answer = client.get(&["resolver"], &[]).await?;
            client.print(&answer, status)?;
            Ok(())
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

async fn forget(server: &str, client: &Client) -> Outcome<()> {
    client.change(Method::DELETE, &["resolver", "servers", server], &[], None::<&()>).await?;
    note(&format!("forgot {server}"));
    Ok(())
}

async fn watch(client: &Client) -> Outcome<()> {
    let on_terminal = std::io::stdout().is_terminal() && client.format == OutputFormat::Table;
    let mut last = String::new();
    loop {
        let answer = client.get(&["resolver"], &[]).await?;
        let text = match client.format {
            OutputFormat::Json => answer.text().to_owned(),
            OutputFormat::Table => status(&answer.read()?),
        };
        if on_terminal {
            print(&format!("{CLEAR}{text}"))?;
        } else if text != last {
            print(&text)?;
        }
        last = text;
        tokio::time::sleep(LOOK).await;
    }
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
            if server.live { "live" } else { "gone" }.to_owned(),
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
    let servers = table(["SERVER", "STATE", "TRUSTS US", "RESOLVER", "VERSION", "CLUSTER", "DISK", "ID"], rows);
    let agreed = status.agreed_at.map_or_else(|| "not since the service started".to_owned(), time);
    let unknown = match status.unknown_accounts.len() {
        0 => String::new(),
        count => format!("{count}: {}", status.unknown_accounts.join(", ")),
    };
    let pairs =
        [("connection", connection), ("accounts", accounts), ("all agreed", agreed), ("unknown accounts", unknown)];
    let warnings = status.servers.iter().flat_map(|server| server.warnings.iter().map(move |text| (server, text)));
    let warnings: Vec<_> = warnings.map(|(server, text)| format!("\n{}: {}", server.name, plain(text))).collect();
    format!("{}\n{servers}{}", fields(&pairs), warnings.concat())
}
