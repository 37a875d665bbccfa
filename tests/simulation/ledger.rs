//! The ledger's part in memory: what the database does for the comparison and the push task.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{FutureExt, future::BoxFuture};
use nats_authority::{
    authority::reconcile::Repair,
    error::Result,
    resolver::{ServerRef, xor_hash},
    store::reconcile::Present,
    tasks::reconcile::ledger::Ledger,
};

use super::cluster::{Hash, Key, Map, hash};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Live,
    Tombstone,
    Deleted,
}

#[derive(Debug)]
pub struct Entry {
    pub fate: Fate,
    /// All generations, the present one last.
    pub texts: Vec<(Arc<str>, Hash)>,
    pub iat: i64,
    pub due: bool,
    pub rewrite: bool,
    pub attempts: i32,
    /// Generation acknowledged by each server under an id.
    pub acknowledged: BTreeMap<String, (String, i64)>,
}

impl Entry {
    pub fn generation(&self) -> i64 {
        i64::try_from(self.texts.len()).unwrap()
    }

    pub fn text(&self) -> (Arc<str>, Hash) {
        self.texts.last().unwrap().clone()
    }
}

pub type Accounts = Map<Entry>;

pub struct Model {
    pub accounts: Mutex<Accounts>,
    pub system: Key,
    pub ours: String,
    /// What the comparison found right; cleared by whoever looks at it.
    pub confirmed: Mutex<Vec<ServerRef>>,
}

impl Model {
    pub fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap()
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T>> {
    async move { Ok(value) }.boxed()
}

impl Ledger for Model {
    fn hash(&self) -> BoxFuture<'_, Result<Hash>> {
        let accounts = self.accounts();
        ready(xor_hash(accounts.values().filter(|entry| entry.fate != Fate::Deleted).map(|entry| entry.text().1)))
    }

    fn present(&self, after: Option<Key>, limit: Option<i64>) -> BoxFuture<'_, Result<Vec<(Key, Present)>>> {
        let accounts = self.accounts();
        let live = accounts
            .iter()
            .filter(|(key, entry)| entry.fate != Fate::Deleted && after.is_none_or(|after| **key > after));
        let mut rows: Vec<_> = live
            .map(|(key, entry)| {
                (*key, Present { generation: entry.generation(), sha256: entry.text().1, moving: entry.due })
            })
            .collect();
        rows.sort_by_cached_key(|(key, _)| key.to_string());
        rows.truncate(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap()));
        ready(rows)
    }

    fn deleted<'a>(&'a self, keys: &'a [Key]) -> BoxFuture<'a, Result<Vec<Key>>> {
        let accounts = self.accounts();
        let deleted = |key: &&Key| accounts.get(key).is_some_and(|entry| entry.fate == Fate::Deleted);
        ready(keys.iter().filter(deleted).copied().collect())
    }

    fn generations<'a>(&'a self, texts: &'a [(Key, Hash)]) -> BoxFuture<'a, Result<HashMap<(Key, Hash), i64>>> {
        let accounts = self.accounts();
        let find = |(key, hash): &(Key, Hash)| {
            let position = accounts.get(key)?.texts.iter().position(|(_, other)| other == hash)?;
            Some(((*key, *hash), i64::try_from(position).ok()? + 1))
        };
        ready(texts.iter().filter_map(find).collect())
    }

    fn acknowledged<'a>(&'a self, keys: &'a [Key], live: &'a [ServerRef]) -> BoxFuture<'a, Result<HashSet<Key>>> {
        let accounts = self.accounts();
        let all = |key: &&Key| {
            accounts.get(key).is_some_and(|entry| {
                live.iter().all(|server| {
                    entry.acknowledged.get(&server.name) == Some(&(server.id.clone(), entry.generation()))
                })
            })
        };
        ready(keys.iter().filter(all).copied().collect())
    }

    fn is_ours(&self, issuer: &str) -> bool {
        issuer == self.ours
    }

    fn system_account(&self) -> Key {
        self.system
    }

    fn repair<'a>(&'a self, repairs: &'a [Repair]) -> BoxFuture<'a, Result<HashSet<Key>>> {
        let mut accounts = self.accounts();
        let mut marked = HashSet::new();
        for repair in repairs {
            if let Some(entry) = accounts.get_mut(&repair.account).filter(|e| !e.due && e.fate != Fate::Deleted) {
                (entry.due, entry.rewrite, entry.attempts) = (true, repair.rewrite, 0);
                marked.insert(repair.account);
            }
        }
        ready(marked)
    }

    fn delete_again<'a>(&'a self, _: &'a [Key]) -> BoxFuture<'a, Result<String>> {
        ready(String::new())
    }

    fn confirm<'a>(&'a self, server: &'a ServerRef, except: &'a [Key]) -> BoxFuture<'a, Result<()>> {
        self.confirmed.lock().unwrap().push(server.clone());
        for (key, entry) in self.accounts().iter_mut() {
            if entry.due || entry.fate == Fate::Deleted || except.contains(key) {
                continue;
            }
            let generation = entry.generation();
            entry.acknowledged.insert(server.name.clone(), (server.id.clone(), generation));
        }
        ready(())
    }

    fn push_unacknowledged<'a>(&'a self, server: &'a ServerRef) -> BoxFuture<'a, Result<()>> {
        for entry in self.accounts().values_mut().filter(|entry| entry.fate != Fate::Deleted) {
            if entry.acknowledged.get(&server.name) != Some(&(server.id.clone(), entry.generation())) {
                entry.due = true;
            }
        }
        ready(())
    }
}

/// The hash of a text, with the text.
pub fn text(token: &Arc<str>) -> (Arc<str>, Hash) {
    (token.clone(), hash(token))
}
