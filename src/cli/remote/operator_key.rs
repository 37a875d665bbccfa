//! `operator rotate`, `operator sign` and what belongs to them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use reqwest::Method;
use zeroize::Zeroizing;

use super::{Outcome, client::Client};
use crate::{
    api::{keys::KeyView, operator::OperatorView, operator_keys::NewOperatorJwt, page::List},
    authority::{operator_jwt, requests::Reason},
    cli::{
        files::{io_error, write_new_public},
        output::{fields, note, print, table, time},
    },
    clock::{Clock, SystemClock},
    error::{Error, Result},
    model::{OperatorJwtProposal, operator_rotation::OperatorRotationView},
};

/// What can be done with the operator JWT.
#[derive(Debug, Subcommand)]
pub enum JwtCommand {
    /// Print the present one.
    Show,
    /// Print what the next one is to say, for `operator sign`.
    Proposal,
    /// Hand in one that was signed; servers are then to be restarted with the new `operator server-config`.
    Set {
        /// The file that `operator sign` wrote, `-` for standard input.
        file: PathBuf,
    },
}

/// What to sign, and with what.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// What `operator jwt proposal` printed; `-` for standard input.
    #[arg(value_name = "PROPOSAL")]
    proposal: PathBuf,
    /// File that holds the operator's identity seed.
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Where the signed JWT goes; `-` is standard output.
    #[arg(long, value_name = "FILE", default_value = "operator.jwt")]
    out: PathBuf,
}

/// `operator sign`: says what changes, signs, and writes the JWT. Talks to nobody.
pub(super) fn sign(args: &SignArgs) -> Result<()> {
    let text = read(&args.proposal)?;
    let proposal: OperatorJwtProposal = serde_json::from_str(&text).map_err(|error| {
        let detail = format!("{} is not what `operator jwt proposal` prints: {error}", args.proposal.display());
        Error::invalid("invalid-proposal", detail)
    })?;
    let seed = Zeroizing::new(read(&args.identity)?);
    let signed = operator_jwt::sign(&proposal, &seed, SystemClock.unix())?;
    note(&format!("operator '{}', {}", signed.name, signed.identity));
    let words =
        |verb: &str, keys: &[String]| keys.iter().for_each(|key| note(&format!("  {verb} the signing key {key}")));
    words("adds   ", &proposal.add);
    words("removes", &proposal.remove);
    let stay: Vec<_> = proposal.signing_keys.iter().filter(|key| !proposal.add.contains(key)).cloned().collect();
    words("keeps  ", &stay);
    note("  and changes nothing else");
    if args.out == Path::new("-") {
        return print(&signed.token);
    }
    write_new_public(&args.out, &format!("{}\n", signed.token))?;
    note(&format!("wrote {0}; hand it in with `nats-authority operator jwt set {0}`", args.out.display()));
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).map_err(|error| io_error("read", path, error));
    }
    std::fs::read_to_string(path).map_err(|error| io_error("read", path, error))
}

/// `operator jwt`
pub(super) async fn jwt(command: JwtCommand, client: &Client) -> Outcome<()> {
    match command {
        JwtCommand::Show => {
            let answer = client.get(&["operator"], &[]).await?;
            client.print(&answer, |operator: &OperatorView| operator.jwt.clone())?;
        }
        JwtCommand::Proposal => {
            let answer = client.get(&["operator", "jwt", "proposal"], &[]).await?;
            let proposal: OperatorJwtProposal = answer.read()?;
            if proposal.is_empty() {
                note("the present operator JWT lists the right keys; there is nothing to sign");
            } else {
                note("take it to the operator's identity: `nats-authority operator sign PROPOSAL --identity FILE`");
            }
            // A file for another machine, whatever the format.
            print(answer.text())?;
        }
        JwtCommand::Set { file } => {
            let jwt = read(&file)?.trim().to_owned();
            let path = ["operator", "jwt"];
            let answer = client.change(Method::PUT, &path, &[], Some(&NewOperatorJwt { jwt })).await?;
            client.print(&answer, |operator: &OperatorView| {
                fields(&[("operator", operator.public_key.clone()), ("signing key", operator.signing_key.clone())])
            })?;
            note(
                "taken; give every server the present `nats-authority operator server-config` and restart one after the other",
            );
        }
    }
    Ok(())
}

/// `operator rotate`
pub(super) async fn rotate(reason: Option<String>, client: &Client) -> Outcome<()> {
    let answer = client.post(&["operator", "keys", "rotate"], &Reason { reason }).await?;
    client.print(&answer, details)?;
    let rotation: OperatorRotationView = answer.read()?;
    note(&format!(
        "nothing has changed yet; a security officer runs `nats-authority operator approve {}`",
        rotation.id
    ));
    Ok(())
}

/// `operator rotations`
pub(super) async fn list(client: &Client) -> Outcome<()> {
    let answer = client.get(&["operator", "rotations"], &[]).await?;
    client.print(&answer, |list: &List<OperatorRotationView>| {
        super::client::note_more(list.next_cursor.as_deref());
        let rows = list.items.iter().map(|rotation| {
            [
                rotation.id.to_string(),
                rotation.state.name().to_owned(),
                time(rotation.requested_at),
                rotation.waits_for.clone().unwrap_or_default(),
            ]
        });
        table(["ID", "STATE", "ASKED FOR", "WAITS FOR"], rows)
    })?;
    Ok(())
}

/// `operator rotation`
pub(super) async fn show(id: &str, client: &Client) -> Outcome<()> {
    let answer = client.get(&["operator", "rotations", id], &[]).await?;
    client.print(&answer, details)?;
    Ok(())
}

/// `operator approve` and `operator cancel`
pub(super) async fn change(id: &str, what: &str, reason: Option<String>, client: &Client) -> Outcome<()> {
    let path = ["operator", "rotations", id, what];
    let body = (what == "cancel").then_some(Reason { reason });
    let answer = client.change(Method::POST, &path, &[], body.as_ref()).await?;
    client.print(&answer, details)?;
    Ok(())
}

/// The operator's keys, a line each.
pub(super) fn keys(list: &List<KeyView>) -> String {
    let rows = list.items.iter().map(|key| {
        [
            key.public_key.clone(),
            key.state.clone(),
            time(key.created_at),
            key.rotate_by.map(time).unwrap_or_default(),
            key.waits_for.clone().unwrap_or_default(),
        ]
    });
    table(["KEY", "STATE", "CREATED", "ROTATE BY", "WAITS FOR"], rows)
}

fn details(rotation: &OperatorRotationView) -> String {
    fields(&[
        ("id", rotation.id.to_string()),
        ("state", rotation.state.name().to_owned()),
        ("waits for", rotation.waits_for.clone().unwrap_or_default()),
        ("servers", rotation.servers.join(", ")),
        ("old key", rotation.old_key.clone()),
        ("new key", rotation.new_key.clone().unwrap_or_default()),
        ("accounts to sign", rotation.accounts_to_sign.map(|count| count.to_string()).unwrap_or_default()),
        ("reason", rotation.reason.clone().unwrap_or_default()),
        ("asked for by", rotation.requested_by.clone()),
        ("asked for", time(rotation.requested_at)),
        ("approved by", rotation.approved_by.clone().unwrap_or_default()),
        ("approved", rotation.approved_at.map(time).unwrap_or_default()),
        ("new key signs since", rotation.activated_at.map(time).unwrap_or_default()),
        ("old key out of the JWT since", rotation.removed_at.map(time).unwrap_or_default()),
        ("over", rotation.ended_at.map(time).unwrap_or_default()),
        ("because", rotation.ended_because.clone().unwrap_or_default()),
    ])
}
