//! Answers servers that look for an account (`$SYS.REQ.ACCOUNT.<id>.CLAIMS.LOOKUP`) as a full resolver would.
//!
//! - **Servers only.** A server that looks for an account waits at an inbox below `$SYS._INBOX.` (2.15.1); everybody
//!   else is not answered. So our own question what servers store is not answered by ourselves.
//! - **Nothing is said of accounts that are not there.** An empty answer would count as one server's "no".
//! - **Bounded.** Questions are collected and asked of the ledger together: one query at a time, at most one each
//!   [`PAUSE`], of at most [`BATCH`] accounts. What comes while that many wait is dropped; the server asks again.
//! - **One of the replicas** answers: they share a queue group.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_nats::{Message, Subscriber};
use futures::{FutureExt, StreamExt, future::BoxFuture};

use super::connection::Link;
use crate::{
    error::{Error, Result},
    nkey::{Account, PublicKey},
};

/// How many questions are answered together, and may wait.
const BATCH: usize = 256;
/// Between two queries.
const PAUSE: Duration = Duration::from_millis(5);
/// Where servers wait for answers.
const SERVERS: &str = "$SYS._INBOX.";

/// Knows accounts.
pub trait Accounts: Send + Sync {
    /// The JWTs of those of `accounts` that servers should have.
    fn jwts<'a>(
        &'a self,
        accounts: &'a [PublicKey<Account>],
    ) -> BoxFuture<'a, Result<HashMap<PublicKey<Account>, String>>>;
}

/// Answers over one connection, until it is closed for good. `answered` is told how many questions were answered and
/// how many not.
pub async fn answer(link: &Link, accounts: &dyn Accounts, answered: impl Fn(u64, u64)) -> Result<()> {
    let client = link.client();
    let subject = "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP".to_owned();
    let mut questions = client.queue_subscribe(subject, "nats-authority".to_owned()).await.map_err(|error| {
        Error::unavailable("nats-subscribe", "cannot listen to servers that look for accounts").with_source(error)
    })?;
    while let Some(first) = questions.next().await {
        let mut waiting = HashMap::new();
        let mut ignored = u64::from(!note(&mut waiting, &first));
        ignored += drain(&mut questions, &mut waiting);
        if waiting.is_empty() {
            continue;
        }
        let keys: Vec<_> = waiting.keys().copied().collect();
        let found = match accounts.jwts(&keys).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(cause = error.internal_report(), "a server looks for accounts: {error}");
                HashMap::new()
            }
        };
        let (mut yes, mut no) = (0, ignored);
        for (account, inboxes) in waiting {
            let Some(jwt) = found.get(&account) else {
                no += inboxes.len() as u64;
                continue;
            };
            for inbox in inboxes {
                // Should the connection be gone, the server asks again.
                yes += u64::from(client.publish(inbox, jwt.clone().into()).await.is_ok());
            }
        }
        answered(yes, no);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Takes what has come meanwhile; returns how many questions are left unanswered.
fn drain(questions: &mut Subscriber, waiting: &mut HashMap<PublicKey<Account>, HashSet<String>>) -> u64 {
    let mut ignored = 0;
    while let Some(Some(message)) = questions.next().now_or_never() {
        ignored += u64::from(waiting.len() >= BATCH || !note(waiting, &message));
    }
    ignored
}

/// Notes who asks for what; false for what is not answered.
fn note(waiting: &mut HashMap<PublicKey<Account>, HashSet<String>>, message: &Message) -> bool {
    let account = message.subject.split('.').nth(3).and_then(|token| token.parse().ok());
    let inbox = message.reply.as_deref().filter(|inbox| inbox.starts_with(SERVERS));
    let (Some(account), Some(inbox)) = (account, inbox) else { return false };
    waiting.entry(account).or_default().insert(inbox.to_owned());
    true
}
