//! `key`

use clap::Subcommand;

use super::{Outcome, client::Client};
use crate::{
    api::{keys::KeyView, page::List},
    cli::output::table,
};

/// What can be done with signing keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the signing keys of an organization's account.
    List {
        /// Organization.
        org: String,
    },
}

/// Runs a command.
pub(super) async fn run(command: KeyCommand, client: &Client) -> Outcome<()> {
    let KeyCommand::List { org } = command;
    let answer = client.get(&["orgs", &org, "keys"], &[]).await?;
    client.print(&answer, rows)?;
    Ok(())
}

/// Keys, a line each.
pub(super) fn rows(list: &List<KeyView>) -> String {
    let rows = list.items.iter().map(|key| {
        [
            key.public_key.clone(),
            key.kind.clone(),
            key.env_type.clone().unwrap_or_default(),
            key.role.clone().unwrap_or_default(),
            key.state.clone(),
            key.created_at.to_rfc3339(),
        ]
    });
    table(["KEY", "KIND", "ENVIRONMENT", "ROLE", "STATE", "CREATED"], rows)
}
