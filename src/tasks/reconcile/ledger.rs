//! What a comparison needs of the ledger. The database is one ([`super::database`]), the model of the
//! simulation another.

use std::collections::{HashMap, HashSet};

use futures::future::BoxFuture;

use crate::{
    authority::reconcile::Repair,
    error::Result,
    nkey::{Account, PublicKey},
    resolver::ServerRef,
    store::reconcile::Present,
};

pub(super) type Key = PublicKey<Account>;
pub(super) type Hash = [u8; 32];

/// The ledger's part: the database, or a model of it.
pub trait Ledger: Send + Sync {
    /// The XOR of the hashes of all JWTs that servers have to store.
    fn hash(&self) -> BoxFuture<'_, Result<Hash>>;
    /// All accounts that are not deleted; with `after`, at most `limit` that follow it.
    fn present(&self, after: Option<Key>, limit: Option<i64>) -> BoxFuture<'_, Result<Vec<(Key, Present)>>>;
    /// Those of `accounts` that were deleted.
    fn deleted<'a>(&'a self, accounts: &'a [Key]) -> BoxFuture<'a, Result<Vec<Key>>>;
    /// The generations that these texts are.
    fn generations<'a>(&'a self, texts: &'a [(Key, Hash)]) -> BoxFuture<'a, Result<HashMap<(Key, Hash), i64>>>;
    /// Those of `accounts` whose present generation all of `live` acknowledged since their last start.
    fn acknowledged<'a>(&'a self, accounts: &'a [Key], live: &'a [ServerRef]) -> BoxFuture<'a, Result<HashSet<Key>>>;
    /// A key of the operator, with which accounts are signed.
    fn is_ours(&self, issuer: &str) -> bool;
    /// The system account: every full resolver stores it from its start on.
    fn system_account(&self) -> Key;
    /// Has accounts pushed; returns those that were not to be pushed already.
    fn repair<'a>(&'a self, repairs: &'a [Repair]) -> BoxFuture<'a, Result<HashSet<Key>>>;
    /// The request that deletes `accounts` from servers once more.
    fn delete_again<'a>(&'a self, accounts: &'a [Key]) -> BoxFuture<'a, Result<String>>;
    /// `server` stores exactly what it should, but for what is to be pushed; of `except` nothing is known.
    fn confirm<'a>(&'a self, server: &'a ServerRef, except: &'a [Key]) -> BoxFuture<'a, Result<()>>;
    /// Nothing can be said of what `server` stores: has every account pushed that it did not acknowledge.
    fn push_unacknowledged<'a>(&'a self, server: &'a ServerRef) -> BoxFuture<'a, Result<()>>;
}
