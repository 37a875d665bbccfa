//! `operator`

use std::path::PathBuf;

use clap::Subcommand;

use super::{Outcome, client::Client, cred::say_where, key::rows, secret_file::Place};
use crate::{
    api::operator::{OperatorView, SystemCredential},
    authority::requests::NewSystemCredential,
    cli::output::{OutputFormat, fields, print, time},
    model::ItemName,
};

/// What can be done with the operator.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Show the operator.
    Show,
    /// List its signing keys.
    Keys,
    /// Print the part of nats-server.conf that makes servers trust it.
    ServerConfig,
    /// Issue a user of the system account for tools such as `nats server`, for at most an hour.
    SystemCredential {
        /// Name of the credential.
        name: String,
        /// How long it lives.
        #[arg(long, default_value = "15m")]
        ttl: String,
        /// Where the creds file goes; `-` is standard output. [default: system-<name>.creds]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Replace the file if it is there.
        #[arg(long)]
        force: bool,
    },
}

/// Runs a command.
pub(super) async fn run(command: OperatorCommand, client: &Client) -> Outcome<()> {
    match command {
        OperatorCommand::Show => {
            let answer = client.get(&["operator"], &[]).await?;
            client.print(&answer, details)?;
        }
        OperatorCommand::Keys => {
            let answer = client.get(&["operator", "keys"], &[]).await?;
            client.print(&answer, rows)?;
        }
        // Text is what the API answers here, whatever the format.
        OperatorCommand::ServerConfig => print(client.get(&["operator", "server-config"], &[]).await?.text())?,
        OperatorCommand::SystemCredential { name, ttl, out, force } => {
            name.parse::<ItemName>()?;
            let default = || PathBuf::from(format!("system-{name}.creds"));
            let place = Place::reserve(&out.unwrap_or_else(default), force)?;
            let answer = client.post(&["operator", "system-credentials"], &NewSystemCredential { name, ttl }).await?;
            let issued: SystemCredential = answer.read()?;
            match (place, client.format) {
                (Place::Stdout, OutputFormat::Json) => print(answer.text())?,
                (place, _) => say_where(place.write(&issued.creds)?.as_deref()),
            }
        }
    }
    Ok(())
}

fn details(operator: &OperatorView) -> String {
    fields(&[
        ("name", operator.name.clone()),
        ("operator", operator.public_key.clone()),
        ("signing key", operator.signing_key.clone()),
        ("system account", operator.system_account.clone()),
        ("platform account", operator.platform_account.clone()),
        ("adopted", time(operator.adopted_at)),
    ])
}
