//! `key`

use clap::{Args, Subcommand};
use reqwest::Method;

use super::{Failure, Outcome, client::Client, preview::Try};
use crate::{
    api::{
        keys::{KeyView, ProposedRotations},
        page::List,
    },
    authority::requests::{Reason, RotateKeys},
    cli::output::{fields, note, table, time},
    model::{RotationState, key_rotation::KeyRotationView},
};

/// What can be done with signing keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List the signing keys of an organization's account, and what becomes of them.
    List {
        /// Organization.
        org: String,
        /// Also those that are out of the account.
        #[arg(long)]
        all: bool,
    },
    /// Ask for new signing keys; a security officer who is somebody else has to approve.
    Rotate(RotateArgs),
    /// List rotations of signing keys, the newest first.
    Rotations {
        /// Only those of this organization.
        #[arg(long)]
        org: Option<String>,
        /// Only those in this state.
        #[arg(long, value_parser = ["proposed", "pending", "retiring", "removing", "done", "cancelled"])]
        state: Option<String>,
        /// How many at most.
        #[arg(long)]
        limit: Option<u32>,
        /// Go on behind this one.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show a rotation and what it waits for.
    Show {
        /// Id of the rotation.
        rotation: String,
    },
    /// Approve rotations that somebody else asked for.
    Approve {
        /// Ids of the rotations.
        #[arg(required = true)]
        rotations: Vec<String>,
        #[command(flatten)]
        trial: Try,
    },
    /// Give a rotation up, as long as its new key signs nothing.
    Cancel {
        /// Id of the rotation.
        rotation: String,
        /// Why, for the audit log.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take the old key of a rotation out at once; whoever still uses it is closed.
    Hasten {
        /// Id of the rotation.
        rotation: String,
        /// Why, for the audit log.
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        trial: Try,
    },
}

/// Which keys to rotate, and how.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Organization. Without --env, --role and --key all its keys are rotated.
    org: String,
    /// Only the keys of this environment type.
    #[arg(long)]
    env: Option<String>,
    /// Only the keys of this role.
    #[arg(long)]
    role: Option<String>,
    /// Only this key.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["env", "role"])]
    key: Option<String>,
    /// How long the old key stays at least once the new one signs. [default: 24h]
    #[arg(long, value_name = "DURATION")]
    grace: Option<String>,
    /// Do not wait for credentials that were not rotated: after the grace time their users are closed.
    #[arg(long)]
    force: bool,
    /// The key is in the wrong hands: with the approval it leaves at once, and its users are closed.
    #[arg(long, conflicts_with_all = ["grace", "force"])]
    immediately: bool,
    /// Why, for the audit log.
    #[arg(long)]
    reason: Option<String>,
}

/// Runs a command.
pub(super) async fn run(command: KeyCommand, client: &Client) -> Outcome<()> {
    match command {
        KeyCommand::List { org, all } => {
            let answer = client.get(&["orgs", &org, "keys"], &[]).await?;
            client.print(&answer, |list: &List<KeyView>| standing(list, all))?;
        }
        KeyCommand::Rotate(args) => {
            let body = RotateKeys {
                env_type: args.env,
                role: args.role,
                public_key: args.key,
                grace: args.grace,
                force: args.force,
                immediately: args.immediately,
                reason: args.reason,
            };
            let answer = client.post(&["orgs", &args.org, "keys", "rotate"], &body).await?;
            client.print(&answer, |proposed: &ProposedRotations| rotations(&proposed.items))?;
            let proposed: ProposedRotations = answer.read()?;
            let ids: Vec<_> = proposed.items.iter().map(|rotation| rotation.id.to_string()).collect();
            note(&format!(
                "nothing has changed yet; a security officer runs `nats-authority key approve {}`",
                ids.join(" ")
            ));
        }
        KeyCommand::Rotations { org, state, limit, cursor } => {
            let query = [("org", org), ("state", state), ("limit", limit.map(|n| n.to_string())), ("cursor", cursor)];
            let answer = client.get(&["key-rotations"], &query).await?;
            client.print(&answer, |list: &List<KeyRotationView>| {
                super::client::note_more(list.next_cursor.as_deref());
                rotations(&list.items)
            })?;
        }
        KeyCommand::Show { rotation } => {
            let answer = client.get(&["key-rotations", &rotation], &[]).await?;
            client.print(&answer, details)?;
        }
        KeyCommand::Approve { rotations, trial } => approve(&rotations, trial, client).await?,
        KeyCommand::Cancel { rotation, reason } => {
            change(&rotation, "cancel", reason, Try::default(), client).await?;
        }
        KeyCommand::Hasten { rotation, reason, trial } => change(&rotation, "hasten", reason, trial, client).await?,
    }
    Ok(())
}

/// Each is approved for itself: one that is refused holds up no other.
async fn approve(rotations: &[String], trial: Try, client: &Client) -> Outcome<()> {
    let mut failed = None;
    for id in rotations {
        match trial.change(client, Method::POST, &["key-rotations", id, "approve"], &[], None::<&()>).await {
            Ok(Some(answer)) => client.print(&answer, details)?,
            Ok(None) => {}
            Err(Failure::Refused(problem)) if rotations.len() > 1 => {
                note(&format!("{id}: {}", super::line(&problem)));
                failed.get_or_insert(Failure::Refused(problem));
            }
            Err(failure) => return Err(failure),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn change(id: &str, what: &str, reason: Option<String>, trial: Try, client: &Client) -> Outcome<()> {
    let (path, body) = (["key-rotations", id, what], Reason { reason });
    if let Some(answer) = trial.change(client, Method::POST, &path, &[], Some(&body)).await? {
        client.print(&answer, details)?;
    }
    Ok(())
}

/// Keys of an account with what becomes of them.
fn standing(list: &List<KeyView>, all: bool) -> String {
    let rows = list.items.iter().filter(|key| all || key.state != "retired").map(|key| {
        [
            key.public_key.clone(),
            key.env_type.clone().unwrap_or_else(|| "-".to_owned()),
            key.role.clone().unwrap_or_else(|| "(plain)".to_owned()),
            key.state.clone(),
            key.credentials.unwrap_or_default().to_string(),
            key.rotate_by.map(time).unwrap_or_default(),
            key.waits_for.clone().unwrap_or_default(),
        ]
    });
    table(["KEY", "ENVIRONMENT", "ROLE", "STATE", "CREDENTIALS", "ROTATE BY", "WAITS FOR"], rows)
}

fn rotations(items: &[KeyRotationView]) -> String {
    let rows = items.iter().map(|rotation| {
        [
            rotation.id.to_string(),
            rotation.org.clone(),
            rotation.env_type.clone().unwrap_or_else(|| "-".to_owned()),
            rotation.role.clone().unwrap_or_else(|| "(plain)".to_owned()),
            rotation.state.name().to_owned(),
            rotation.credentials.to_string(),
            rotation.waits_for.clone().unwrap_or_default(),
        ]
    });
    table(["ID", "ORGANIZATION", "ENVIRONMENT", "ROLE", "STATE", "CREDENTIALS", "WAITS FOR"], rows)
}

fn details(rotation: &KeyRotationView) -> String {
    let flag = |set: bool, words: &str| if set { words.to_owned() } else { String::new() };
    let end = rotation.credentials_end.map(|end| format!(", the last of which ends {}", time(end)));
    let under = match rotation.state {
        RotationState::Done | RotationState::Cancelled => String::new(),
        _ => format!("{}{}", rotation.credentials, end.unwrap_or_default()),
    };
    fields(&[
        ("id", rotation.id.to_string()),
        ("organization", rotation.org.clone()),
        ("environment", rotation.env_type.clone().unwrap_or_default()),
        ("role", rotation.role.clone().unwrap_or_else(|| "(plain key)".to_owned())),
        ("state", rotation.state.name().to_owned()),
        ("waits for", rotation.waits_for.clone().unwrap_or_default()),
        ("servers", rotation.servers.join(", ")),
        ("old key", rotation.old_key.clone()),
        ("new key", rotation.new_key.clone().unwrap_or_default()),
        ("credentials under the old key", under),
        ("immediately", flag(rotation.immediately, "yes: the old key leaves before the new one signs")),
        ("force", flag(rotation.force, "yes: after the grace time its users are closed")),
        ("grace time", rotation.grace.clone()),
        ("reason", rotation.reason.clone().unwrap_or_default()),
        ("asked for by", rotation.requested_by.clone()),
        ("asked for", time(rotation.requested_at)),
        ("approved by", rotation.approved_by.clone().unwrap_or_default()),
        ("approved", rotation.approved_at.map(time).unwrap_or_default()),
        ("new key signs since", rotation.activated_at.map(time).unwrap_or_default()),
        ("grace time ends", rotation.retire_after.map(time).unwrap_or_default()),
        ("old key out since", rotation.removed_at.map(time).unwrap_or_default()),
        ("over", rotation.ended_at.map(time).unwrap_or_default()),
        ("because", rotation.ended_because.clone().unwrap_or_default()),
    ])
}
