//! `audit`

use clap::Subcommand;

use super::{
    Outcome,
    client::{Client, note_more},
};
use crate::{api::page::List, cli::output::table, model::view::AuditEventView};

/// What can be done with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List events, the newest first.
    List {
        /// Only on this organization.
        #[arg(long)]
        org: Option<String>,
        /// Only by this actor.
        #[arg(long)]
        actor: Option<String>,
        /// Only this action, such as `credential.issue`.
        #[arg(long)]
        action: Option<String>,
        /// Only from this time on, or within this duration before now: `24h`.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// How many at most.
        #[arg(long)]
        limit: Option<u32>,
        /// Go on behind this one.
        #[arg(long)]
        cursor: Option<String>,
    },
}

/// Runs a command.
pub(super) async fn run(command: AuditCommand, client: &Client) -> Outcome<()> {
    let AuditCommand::List { org, actor, action, since, limit, cursor } = command;
    let query = [
        ("org", org),
        ("actor", actor),
        ("action", action),
        ("since", since),
        ("limit", limit.map(|n| n.to_string())),
        ("cursor", cursor),
    ];
    let answer = client.get(&["audit"], &query).await?;
    client.print(&answer, rows)?;
    Ok(())
}

fn rows(list: &List<AuditEventView>) -> String {
    note_more(list.next_cursor.as_deref());
    let rows = list.items.iter().map(|event| {
        [
            event.at.to_rfc3339(),
            event.actor.clone(),
            event.action.clone(),
            event.org.clone().unwrap_or_default(),
            event.target.clone(),
            event.request_id.clone().unwrap_or_default(),
        ]
    });
    table(["AT", "ACTOR", "ACTION", "ORGANIZATION", "TARGET", "REQUEST"], rows)
}
