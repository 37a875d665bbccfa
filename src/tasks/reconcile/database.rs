//! The database as [`Ledger`].

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::{FutureExt, future::BoxFuture};

use super::ledger::{Key, Ledger};
use crate::{
    authority::{Authority, reconcile::Repair},
    error::Result,
    resolver::ServerRef,
    store::reconcile::Present,
};

pub(super) struct Database {
    authority: Arc<Authority>,
}

impl Database {
    pub(super) fn new(authority: Arc<Authority>) -> Self {
        Self { authority }
    }
}

impl Ledger for Database {
    fn hash(&self) -> BoxFuture<'_, Result<[u8; 32]>> {
        self.authority.store().desired_hash().boxed()
    }

    fn present(&self, after: Option<Key>, limit: Option<i64>) -> BoxFuture<'_, Result<Vec<(Key, Present)>>> {
        self.authority.store().present(after, limit).boxed()
    }

    fn deleted<'a>(&'a self, accounts: &'a [Key]) -> BoxFuture<'a, Result<Vec<Key>>> {
        self.authority.store().deleted_among(accounts).boxed()
    }

    fn generations<'a>(&'a self, texts: &'a [(Key, [u8; 32])]) -> BoxFuture<'a, Result<HashMap<(Key, [u8; 32]), i64>>> {
        self.authority.store().generations_of(texts).boxed()
    }

    fn acknowledged<'a>(&'a self, accounts: &'a [Key], live: &'a [ServerRef]) -> BoxFuture<'a, Result<HashSet<Key>>> {
        async move {
            let rows = self.authority.store().account_servers(accounts).await?;
            let mut by: HashMap<Key, usize> = HashMap::new();
            for (account, generation, server) in rows {
                let is_live = |name: &str, id: &str| live.iter().any(|server| server.name == name && server.id == id);
                if server.is_some_and(|has| has.stored >= generation && is_live(&has.server, &has.server_id)) {
                    *by.entry(account).or_default() += 1;
                }
            }
            Ok(by.into_iter().filter(|(_, count)| *count >= live.len()).map(|(account, _)| account).collect())
        }
        .boxed()
    }

    fn is_ours(&self, issuer: &str) -> bool {
        self.authority.is_operator_key(issuer)
    }

    fn system_account(&self) -> Key {
        self.authority.operator().system_account
    }

    fn repair<'a>(&'a self, repairs: &'a [Repair]) -> BoxFuture<'a, Result<HashSet<Key>>> {
        self.authority.repair(repairs).boxed()
    }

    fn delete_again<'a>(&'a self, accounts: &'a [Key]) -> BoxFuture<'a, Result<String>> {
        self.authority.delete_again_request(accounts).boxed()
    }

    fn confirm<'a>(&'a self, server: &'a ServerRef, except: &'a [Key]) -> BoxFuture<'a, Result<()>> {
        async move {
            let now = self.authority.now();
            let rows = self.authority.store().confirm_server(&server.name, &server.id, except, now).await?;
            tracing::info!(server = server.name, accounts = rows, "the server stores what it should");
            Ok(())
        }
        .boxed()
    }

    fn push_unacknowledged<'a>(&'a self, server: &'a ServerRef) -> BoxFuture<'a, Result<()>> {
        async move {
            let (now, wanted) = (self.authority.now(), &self.authority.push_wanted);
            let due =
                self.authority.store().due_for_server(&server.name, &server.id, now, || wanted.notify_one()).await?;
            tracing::info!(
                server = server.name,
                accounts = due,
                "a server that cannot be compared appeared or came back"
            );
            Ok(())
        }
        .boxed()
    }
}
