//! `operator`

use std::path::PathBuf;

use clap::Subcommand;

use super::{
    Outcome,
    client::Client,
    cred::say_where,
    operator_key::{self, JwtCommand, SignArgs},
    secret_file::Place,
};
use crate::{
    api::operator::{OperatorView, SystemCredential},
    authority::requests::{NewSystemCredential, Reseal},
    cli::output::{OutputFormat, fields, note, plain, print, table, time},
    error::{Error, Result},
    model::{ItemName, sealing::SealingView},
};

/// What can be done with the operator.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Show the operator.
    Show,
    /// List its signing keys, and what a rotation of them waits for.
    Keys,
    /// Ask for a new signing key; a security officer who is somebody else has to approve.
    Rotate {
        /// Why, for the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// List rotations of the signing key, the newest first.
    Rotations,
    /// Show a rotation and what it waits for.
    Rotation {
        /// Its id.
        rotation: String,
    },
    /// Approve a rotation that somebody else asked for.
    Approve {
        /// Its id.
        rotation: String,
    },
    /// Give a rotation up, as long as its new key signs nothing.
    Cancel {
        /// Its id.
        rotation: String,
        /// Why, for the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Sign the next operator JWT with the operator's identity. Works offline.
    Sign(SignArgs),
    /// The operator JWT that servers are to trust.
    #[command(subcommand)]
    Jwt(JwtCommand),
    /// Print the part of nats-server.conf that makes servers trust it.
    ServerConfig,
    /// Show what the signing keys in the database are sealed with.
    SealingKeys,
    /// Seal every signing key with the first sealing key; may be repeated at any time.
    Reseal {
        /// The sealing key that has to be the first one. [default: the one that is]
        #[arg(long, value_name = "ID")]
        to: Option<String>,
    },
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

impl OperatorCommand {
    /// What needs no service.
    pub(super) fn local(&self) -> Option<Result<u8>> {
        match self {
            Self::Sign(args) => Some(operator_key::sign(args).map(|()| 0)),
            _ => None,
        }
    }
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
            client.print(&answer, operator_key::keys)?;
        }
        OperatorCommand::Rotate { reason } => operator_key::rotate(reason, client).await?,
        OperatorCommand::Rotations => operator_key::list(client).await?,
        OperatorCommand::Rotation { rotation } => operator_key::show(&rotation, client).await?,
        OperatorCommand::Approve { rotation } => operator_key::change(&rotation, "approve", None, client).await?,
        OperatorCommand::Cancel { rotation, reason } => {
            operator_key::change(&rotation, "cancel", reason, client).await?;
        }
        OperatorCommand::Sign(args) => operator_key::sign(&args)?,
        OperatorCommand::Jwt(command) => operator_key::jwt(command, client).await?,
        // Text is what the API answers here, whatever the format.
        OperatorCommand::ServerConfig => print(client.get(&["operator", "server-config"], &[]).await?.text())?,
        OperatorCommand::SealingKeys => {
            let answer = client.get(&["operator", "sealing-keys"], &[]).await?;
            client.print(&answer, sealing)?;
        }
        OperatorCommand::Reseal { to } => reseal(to, client).await?,
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

/// Each request does a part; all of them go to the same key, whichever replica answers.
async fn reseal(to: Option<String>, client: &Client) -> Outcome<()> {
    let first = |view: &SealingView| view.keys.iter().find(|key| key.first).map(|key| key.id.clone());
    let to = match to {
        Some(to) => Some(to),
        None => first(&client.get(&["operator", "sealing-keys"], &[]).await?.read()?),
    };
    let body = Reseal { to };
    let mut resealed = 0;
    loop {
        let answer = client.post(&["operator", "sealing-keys", "reseal"], &body).await?;
        let view: SealingView = answer.read()?;
        let now = view.resealed.unwrap_or_default();
        resealed += now;
        if view.left > 0 && now > 0 {
            note(&format!("{resealed} sealed again, {} left", view.left));
            continue;
        }
        client.print(&answer, sealing)?;
        view.problems.iter().for_each(|problem| note(&plain(problem)));
        if view.left == 0 {
            note(&format!("{resealed} sealed again; no row is left under another key"));
            return Ok(());
        }
        let why = format!(
            "{} rows are still sealed with another key; a replica that has another one first makes new ones, and a key that is not configured opens none",
            view.left
        );
        return Err(Error::conflict("rows-left", why).into());
    }
}

fn sealing(view: &SealingView) -> String {
    let rows = view.keys.iter().map(|key| {
        let what = match (key.first, key.configured, key.rows) {
            (true, ..) => "seals",
            (_, false, _) => "not configured: its rows cannot be opened",
            (.., 0) => "opens; nothing needs it",
            _ => "opens",
        };
        [key.id.clone(), key.rows.to_string(), what.to_owned()]
    });
    table(["SEALING KEY", "ROWS", ""], rows)
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
