//! Taking accounts away: from the resolvers, and what `JetStream` stored for them.
//!
//! Deletions leave no trace in the servers: one that was down brings the account back to all others
//! when it returns. So the record of what is to be deleted is kept above, and deleted again.

use tokio::time::timeout;

use super::{
    answers::{self, ServerAnswer},
    gather::Asker,
    push::per_server,
};
use crate::{
    error::{Error, Result},
    nkey::{Account, PublicKey},
};

/// What became of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// What was to be deleted.
    pub accounts: Vec<PublicKey<Account>>,
    /// Every known server, live or not, by name. `Stored` means that it carried the deletion out; a
    /// server that never had an account says the same.
    pub per_server: Vec<ServerAnswer>,
}

impl DeleteOutcome {
    /// Every known server has deleted them; not so when none is known.
    pub fn is_complete(&self) -> bool {
        !self.per_server.is_empty() && self.per_server.iter().all(ServerAnswer::is_done)
    }
}

/// Deletes accounts everywhere. The servers want `allow_delete` in their configuration, and a request
/// whose subject and issuer are the same trusted operator key. Servers that store no accounts are not asked.
pub(super) async fn delete(asker: &Asker<'_>, accounts: Vec<PublicKey<Account>>, request: String) -> DeleteOutcome {
    let gathered = asker.storing().all("$SYS.REQ.CLAIMS.DELETE", request.into(), answers::store_answer).await;
    DeleteOutcome { accounts, per_server: per_server(gathered, asker) }
}

/// Has `JetStream` delete all that it stores for an account; works as long as the account is known. The
/// leader answers when it has begun.
pub(super) async fn purge(asker: &Asker<'_>, account: PublicKey<Account>) -> Result<()> {
    let mut listener = asker.link.mux().listen();
    let subject = format!("$JS.API.ACCOUNT.PURGE.{account}");
    listener.publish(asker.link.client(), &subject, "".into()).await?;
    let refused =
        |words: &str| Error::unavailable("nats-purge", "the account's data could not be deleted").with_internal(words);
    match timeout(asker.timing.answer, listener.next()).await {
        Ok(Some(message)) if message.status.is_none() => match answers::purged(&message.payload) {
            Ok(()) => Ok(()),
            Err(words) => Err(refused(&words)),
        },
        Ok(Some(_)) => Err(refused("no server has JetStream")),
        Ok(None) | Err(_) => Err(refused("no answer: JetStream may have no leader")),
    }
}
