//! Hears every account JWT that anybody pushes, ourselves included: servers store what comes, whoever sends it.
//!
//! Servers listen to three subjects (2.15.1): two name the account, the third carries it in the JWT only. What is
//! heard may have been refused, or have reached some servers and not yet others.

use async_nats::Message;
use futures::{StreamExt, stream::select_all};
use sha2::{Digest, Sha256};

use super::connection::Link;
use crate::{
    error::{Error, Result},
    jwt::envelope::read_unverified,
    nkey::{Account, PublicKey},
};

const SUBJECTS: [&str; 3] =
    ["$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.ACCOUNT.*.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.UPDATE"];

/// Tells `heard` whose JWT was pushed and its hash, until the connection is closed for good. It must not take long:
/// whatever comes meanwhile is kept in memory.
pub async fn follow(link: &Link, heard: impl Fn(PublicKey<Account>, [u8; 32])) -> Result<()> {
    let mut subscribers = Vec::with_capacity(SUBJECTS.len());
    for subject in SUBJECTS {
        subscribers.push(link.client().subscribe(subject).await.map_err(|error| {
            Error::unavailable("nats-subscribe", "cannot listen to pushed account JWTs").with_source(error)
        })?);
    }
    let mut messages = select_all(subscribers);
    while let Some(message) = messages.next().await {
        if let Some(account) = account(&message) {
            heard(account, Sha256::digest(&message.payload).into());
        }
    }
    Ok(())
}

/// Whose JWT it is: as the subject says, else the JWT itself.
fn account(message: &Message) -> Option<PublicKey<Account>> {
    let mut tokens = message.subject.split('.').skip_while(|token| *token != "ACCOUNT").skip(1);
    if let Some(token) = tokens.next() {
        return token.parse().ok();
    }
    let token = read_unverified(std::str::from_utf8(&message.payload).ok()?).ok()?;
    token.claims.get("sub")?.as_str()?.parse().ok()
}
