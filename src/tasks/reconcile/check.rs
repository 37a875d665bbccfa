//! One comparison of the servers with the ledger, over any [`Resolver`] and any [`Ledger`]: the tests
//! drive it through a simulated cluster.
//!
//! 1. **The constant-cost check.** One of the servers compares the hash of all that should be stored with
//!    its own. Which one is random and not told, so the question is put several times.
//! 2. Where one disagrees it sends all that it stores, and **only the accounts that differ** are looked
//!    up on every server and judged.
//!    Questions to one server do not cross gateways: of a server in another cluster that is new or came back,
//!    all accounts are looked up.
//! 3. Servers hash what they were told, not what is on their disks. So **a sample** of accounts, another
//!    one each time, is looked up and asked after anyway; a copy that is missing there makes all accounts
//!    be looked up.
//!
//! Servers with a caching or no resolver answer neither PACK nor LOOKUP. What they run is in the sample; when one is new
//! or came back, all that it has loaded or keeps is judged.
//!
//! Nothing is pushed here: what is wrong is marked in the ledger, and the push task pushes exactly that.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::{StreamExt, stream};

use super::ledger::{Hash, Key, Ledger};
use super::suspect::{Runs, Seen, Suspect, seen};
pub use super::terms::{Findings, Memory, Thoroughness};
use crate::{
    authority::reconcile::{Action, Copy, Desired, Reason, Repair, asks, decide, decide_all, decide_running},
    error::Result,
    resolver::{Effective, Known, Pack, Resolver, ServerRef, xor_hash},
    store::reconcile::Present,
};

/// After so many looks, some seconds, a live server that does not answer like a full resolver is taken for another kind.
const UNSURE: u32 = 5;
/// At most so many accounts that differ are looked up; with more, what one server sent has to do.
const LOOKUPS: usize = 256;
/// Lookups under way at a time.
const IN_FLIGHT: usize = 16;
/// Accounts in one page, when all are looked up.
const PAGE: usize = 1024;

struct Check<'a> {
    ledger: &'a dyn Ledger,
    resolver: &'a dyn Resolver,
    live: Vec<ServerRef>,
    /// The live servers.
    servers: Vec<Known>,
    memory: &'a mut Memory,
    findings: Findings,
    /// Accounts that were not looked at when all were: they are being pushed.
    moving: Vec<Key>,
}

/// Compares. Fails when database or servers cannot be asked; then nothing is known.
pub async fn check(
    ledger: &dyn Ledger,
    resolver: &dyn Resolver,
    thoroughness: Thoroughness,
    memory: &mut Memory,
) -> Result<Findings> {
    let servers: Vec<_> = resolver.known().into_iter().filter(|server| server.live).collect();
    // One that left and came back, or reloaded, may have missed something.
    memory.confirmed.retain(|name, stamp| servers.iter().any(|s| s.name == *name && s.stamp() == *stamp));
    let mut check = Check::new(ledger, resolver, servers, memory);
    if !check.live.is_empty() {
        check.run(thoroughness).await?;
    }
    Ok(check.findings)
}

/// The same for these accounts only, as the ledger has them; none: it was deleted. A copy that is missing is no matter
/// here: nothing that is pushed removes one, and a server that has only just started says so of all.
pub async fn check_some(
    ledger: &dyn Ledger,
    resolver: &dyn Resolver,
    accounts: Vec<(Key, Option<Present>)>,
    memory: &mut Memory,
) -> Result<Findings> {
    let servers: Vec<_> = resolver.known().into_iter().filter(|server| server.live).collect();
    let mut check = Check::new(ledger, resolver, servers, memory);
    let (mut suspects, _) = check.look_up(accounts, 0).await;
    for suspect in suspects.values_mut() {
        suspect.stored.retain(|seen| !matches!(seen, Seen::Absent));
    }
    if !suspects.is_empty() {
        check.judge(suspects, |_| false).await?;
    }
    Ok(check.findings)
}

impl<'a> Check<'a> {
    fn new(ledger: &'a dyn Ledger, resolver: &'a dyn Resolver, servers: Vec<Known>, memory: &'a mut Memory) -> Self {
        let live = servers.iter().map(reference).collect();
        Self { ledger, resolver, live, servers, memory, findings: Findings::default(), moving: Vec::new() }
    }

    async fn run(&mut self, thoroughness: Thoroughness) -> Result<()> {
        let new = |server: &&Known| !self.memory.confirmed.contains_key(&server.name);
        let (new, others): (Vec<Known>, Vec<Known>) =
            self.servers.iter().filter(new).cloned().partition(Known::may_be_full);
        let full = match self.resolver.lookup(self.ledger.system_account()).await {
            Ok(answers) => answers.len(),
            // No full resolver at all: nothing but pushing can be done.
            Err(_) => 0,
        };
        // An answer may have been lost: not fewer than there are servers.
        let near = self.servers.iter().filter(|server| server.may_be_full() && server.near).count();
        let servers = if full == 0 { 0 } else { near };
        let settled = !new.iter().any(|server| server.near);
        let count = if settled { servers * thoroughness.asks } else { asks(servers, thoroughness.nines) };
        let desired = self.ledger.hash().await?;
        let mut odd = 0;
        for _ in 0..count {
            self.findings.asked += 1;
            let expected = xor_hash([desired].into_iter().chain(self.memory.unknown.values().copied()));
            if let Pack::Differs(stored) = self.resolver.pack(expected).await? {
                if !self.files_are_right(stored).await? {
                    return Ok(());
                }
                odd += 1;
                if odd > thoroughness.odd {
                    return Ok(());
                }
            }
        }
        self.findings.unknown = self.memory.unknown.keys().copied().collect();
        let far = self.servers.iter().any(|server| server.may_be_full() && !server.near);
        let size = if far { thoroughness.far_sample } else { thoroughness.sample };
        let all = new.iter().any(|server| !server.near);
        if self.sample(size, all, full).await? || self.came_back(&new).await? {
            return Ok(());
        }
        self.memory.repaired.clear();
        let met = self.meet(others).await?;
        self.findings.agreed = met && (full > 0 || self.full() == 0);
        self.confirm(new, full).await
    }

    /// How many live servers store every account, or may do so.
    fn full(&self) -> usize {
        self.servers.iter().filter(|server| server.may_be_full()).count()
    }

    /// Servers without a full resolver that are new or came back: judges what they have loaded and what they keep.
    /// True when all of it is right.
    async fn meet(&mut self, servers: Vec<Known>) -> Result<bool> {
        let mut right = true;
        for server in servers {
            let Ok(held) = self.resolver.held(reference(&server)).await else {
                (right, self.findings.again) = (false, true);
                continue;
            };
            let present: HashMap<Key, Present> = self.ledger.present(None, None).await?.into_iter().collect();
            let resolver = self.resolver;
            let looks = held.into_iter().map(|key| async move { (key, resolver.effective(key).await) });
            let looks: Vec<_> = stream::iter(looks).buffer_unordered(IN_FLIGHT).collect().await;
            let mut suspects = BTreeMap::new();
            for (key, answers) in looks {
                let its = answers?.into_iter().find(|answer| answer.server == reference(&server));
                let Some(Effective::Running { jwt, complete, .. }) = its.map(|answer| answer.effective) else {
                    continue;
                };
                let present = present.get(&key).copied();
                let mut suspect = Suspect { present, ..Suspect::default() };
                match present {
                    Some(_) => {
                        let complete = complete || !server.may_store();
                        suspect.runs.push(Runs { seen: Seen::of(&jwt, present.as_ref()), complete });
                    }
                    // Deleted, perhaps, and still in its directory.
                    None if server.may_store() => suspect.stored.push(Seen::of(&jwt, None)),
                    None => {}
                }
                suspects.insert(key, suspect);
            }
            if self.judge(suspects, |_| false).await? {
                (right, self.findings.again) = (false, true);
            } else {
                self.ledger.confirm(&reference(&server), &[]).await?;
                self.memory.confirmed.insert(server.name.clone(), server.stamp());
            }
        }
        Ok(right)
    }

    /// All full resolvers agree. If those are all that should be, the new ones are right.
    async fn confirm(&mut self, new: Vec<Known>, full: usize) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let all_full = full >= self.full();
        self.memory.unsure = if all_full { 0 } else { self.memory.unsure + 1 };
        if !all_full && self.memory.unsure < UNSURE {
            // Perhaps it has only just started.
            self.findings.again = true;
            return Ok(());
        }
        for server in new {
            if all_full {
                self.ledger.confirm(&reference(&server), &self.moving).await?;
            }
            // Of what was being pushed, the push may have been over before the server was back.
            if !all_full || !self.moving.is_empty() {
                self.ledger.push_unacknowledged(&reference(&server)).await?;
            }
            self.memory.confirmed.insert(server.name.clone(), server.stamp());
        }
        self.memory.unsure = 0;
        Ok(())
    }

    /// One server says that it stores something else than it should: all of it is here. True when all that
    /// is ours is right. It then has other accounts that nobody here knows than the one before; or its files
    /// were removed beneath it, and until it restarts it still counts accounts that were deleted since.
    async fn files_are_right(&mut self, stored: Vec<(Key, String)>) -> Result<bool> {
        let mut missing: HashMap<Key, Present> = self.ledger.present(None, None).await?.into_iter().collect();
        let mut suspects: BTreeMap<Key, Suspect> = BTreeMap::new();
        let before = std::mem::take(&mut self.memory.unknown);
        let mut moving = false;
        for (account, token) in stored {
            let present = missing.remove(&account);
            let seen = Seen::of(&token, present.as_ref());
            match seen {
                Seen::Present(_) => {}
                // Still the one that nobody here knows.
                Seen::Other { hash, .. } if present.is_none() && before.get(&account) == Some(&hash) => {
                    self.memory.unknown.insert(account, hash);
                }
                _ if present.is_some_and(|present| present.moving) => moving = true,
                seen => {
                    suspects.insert(account, Suspect { present, stored: vec![seen], runs: Vec::new() });
                }
            }
        }
        for (account, present) in missing {
            if present.moving {
                moving = true;
                continue;
            }
            suspects.insert(account, Suspect { present: Some(present), stored: vec![Seen::Absent], runs: Vec::new() });
        }
        if suspects.len() <= LOOKUPS {
            // What it sent may be old by now, and it is only one of them.
            let (resolver, full) = (self.resolver, self.full());
            let keys: Vec<Key> = suspects.keys().copied().collect();
            let mut lookups = stream::iter(keys)
                .map(|key| async move { (key, resolver.lookup(key).await) })
                .buffer_unordered(IN_FLIGHT);
            while let Some((key, answers)) = lookups.next().await {
                if let (Ok(answers), Some(suspect)) = (answers, suspects.get_mut(&key))
                    && answers.len() >= full
                {
                    let present = suspect.present.as_ref();
                    suspect.stored = answers.iter().map(|answer| seen(answer.as_deref(), present)).collect();
                }
            }
        }
        let again = self.memory.repaired.clone();
        let wrong = self.judge(suspects, |account| again.contains(account)).await? || moving;
        self.findings.unknown = self.memory.unknown.keys().copied().collect();
        self.findings.again |= wrong;
        Ok(!wrong)
    }

    /// Looks a few accounts up, or all. True: something is wrong, and is being repaired; or all are wanted, and not all of
    /// the `full` servers that store every account said what they have.
    async fn sample(&mut self, size: usize, all: bool, full: usize) -> Result<bool> {
        let mut page = self.ledger.present(self.memory.cursor, i64::try_from(size).ok()).await?;
        self.memory.cursor = if page.len() < size { None } else { page.last().map(|(account, _)| *account) };
        let mut whole = false;
        let mut unheard = false;
        let mut cursor = None;
        loop {
            if whole {
                self.moving.extend(page.iter().filter(|(_, present)| present.moving).map(|(account, _)| *account));
            }
            let looked = page.into_iter().map(|(account, present)| (account, Some(present)));
            let (suspects, heard) = self.look_up(looked.collect(), full).await;
            unheard |= whole && !heard;
            let missing = suspects.values().any(|suspect| suspect.stored.iter().any(|s| matches!(s, Seen::Absent)));
            if !suspects.is_empty() {
                self.judge(suspects, |_| true).await?;
            }
            if whole {
                if cursor.is_none() {
                    break;
                }
            } else if missing || all {
                whole = true;
            } else {
                break;
            }
            page = self.ledger.present(cursor, i64::try_from(PAGE).ok()).await?;
            cursor = if page.len() < PAGE { None } else { page.last().map(|(account, _)| *account) };
        }
        let unclear = !self.findings.repairs.is_empty() || all && unheard;
        self.findings.again |= unclear;
        Ok(unclear)
    }

    /// Deleted accounts that a server in another cluster, which is new or came back, still has: LIST crosses gateways.
    /// True: there are some, and they are deleted again; or it did not say.
    async fn came_back(&mut self, new: &[Known]) -> Result<bool> {
        let far: Vec<_> = new.iter().filter(|server| !server.near).map(reference).collect();
        if far.is_empty() {
            return Ok(false);
        }
        let mut listings = self.resolver.list().await?;
        let mut listed = HashSet::new();
        for server in far {
            let its = listings.iter_mut().find(|listing| listing.server == server);
            let Some(Ok(accounts)) = its.map(|listing| &mut listing.accounts) else {
                self.findings.again = true;
                return Ok(true);
            };
            listed.extend(accounts.drain(..));
        }
        let deleted = self.ledger.deleted(&listed.into_iter().collect::<Vec<_>>()).await?;
        let (suspects, _) = self.look_up(deleted.into_iter().map(|account| (account, None)).collect(), 0).await;
        let wrong = self.judge(suspects, |_| false).await?;
        self.findings.again |= wrong;
        Ok(wrong)
    }

    /// What the servers store and run of these accounts; only those with something unexpected. The flag: of each at least
    /// `full` servers said what they store, and every live one what it runs.
    async fn look_up(&self, page: Vec<(Key, Option<Present>)>, full: usize) -> (BTreeMap<Key, Suspect>, bool) {
        let resolver = self.resolver;
        let told = |its: &ServerRef| self.servers.iter().any(|server| server.name == its.name && server.may_store());
        let told = &told;
        let still = page.into_iter().filter(|(_, present)| present.is_none_or(|present| !present.moving));
        let looks = still.map(|(account, present)| async move {
            let stored = resolver.lookup(account).await.unwrap_or_default();
            let stored: Vec<_> = stored.iter().map(|answer| seen(answer.as_deref(), present.as_ref())).collect();
            let runs = resolver.effective(account).await;
            let all_ran = runs.as_ref().is_ok_and(|runs| runs.iter().all(|a| a.effective != Effective::NoAnswer));
            let heard = stored.len() >= full && all_ran;
            let runs = runs.unwrap_or_default();
            let runs = runs.iter().filter_map(|answer| match &answer.effective {
                Effective::Running { jwt, complete, .. } => {
                    Some(Runs { seen: Seen::of(jwt, present.as_ref()), complete: *complete || !told(&answer.server) })
                }
                _ => None,
            });
            (account, Suspect { present, stored, runs: runs.collect() }, heard)
        });
        let looked: Vec<_> = stream::iter(looks).buffer_unordered(IN_FLIGHT).collect().await;
        let heard = looked.iter().all(|(_, _, heard)| *heard);
        let looked = looked.into_iter().map(|(account, suspect, _)| (account, suspect));
        (looked.filter(|(_, suspect)| suspect.is_unexpected()).collect(), heard)
    }

    /// Decides about each suspect and carries it out. True: something that is ours is wrong.
    async fn judge(&mut self, suspects: BTreeMap<Key, Suspect>, rewrite: impl Fn(&Key) -> bool) -> Result<bool> {
        let keys: Vec<Key> = suspects.keys().copied().collect();
        let unknown: Vec<Key> = suspects.iter().filter(|(_, s)| s.present.is_none()).map(|(key, _)| *key).collect();
        let texts: Vec<(Key, Hash)> = suspects
            .iter()
            .flat_map(|(key, suspect)| suspect.seen().map(move |seen| (*key, seen)))
            .filter_map(|(key, seen)| match seen {
                Seen::Other { hash, .. } => Some((key, *hash)),
                Seen::Absent | Seen::Present(_) => None,
            })
            .collect();
        let generations = self.ledger.generations(&texts).await?;
        let deleted: HashSet<Key> = self.ledger.deleted(&unknown).await?.into_iter().collect();
        let acknowledged = self.ledger.acknowledged(&keys, &self.live).await?;
        let copy = |account: Key, seen: &Seen| match seen {
            Seen::Absent => Copy::Absent,
            Seen::Present(generation) => Copy::Ours(*generation),
            Seen::Other { hash, issuer } => {
                let other = || {
                    let ours = issuer.as_deref().is_some_and(|issuer| self.ledger.is_ours(issuer));
                    Copy::Other { issuer: issuer.clone(), ours }
                };
                generations.get(&(account, *hash)).map_or_else(other, |generation| Copy::Ours(*generation))
            }
        };
        let (mut repairs, mut back, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (account, suspect) in &suspects {
            let desired = match suspect.present {
                Some(Present { generation, moving, .. }) => {
                    let acknowledged = acknowledged.contains(account);
                    Some(Desired::Stored { generation, moving, acknowledged })
                }
                None => deleted.contains(account).then_some(Desired::Deleted),
            };
            let copy = |seen: &Seen| copy(*account, seen);
            let stored: Vec<Copy> = suspect.stored.iter().map(copy).collect();
            let decide_running = |runs: &Runs| decide_running(desired.as_ref(), &copy(&runs.seen), runs.complete);
            let running = suspect.runs.iter().map(decide_running).max().unwrap_or(Action::Nothing);
            let action = decide_all(desired.as_ref(), &stored).max(running);
            match action {
                Action::Nothing => {}
                Action::ReportUnknown => others.push(*account),
                Action::DeleteAgain => back.push(*account),
                Action::Push(reason) => {
                    let wrong = stored.iter().filter(|copy| decide(desired.as_ref(), copy) != Action::Nothing).count();
                    let rewrite = rewrite(account) || matches!(reason, Reason::NotRunning | Reason::Incomplete);
                    repairs.push(Repair { account: *account, reason, rewrite, wrong, seen: stored.len() });
                }
            }
        }
        for account in others {
            if let Some(Seen::Other { hash, .. }) =
                suspects.get(&account).and_then(|s| s.stored.iter().find(|seen| matches!(seen, Seen::Other { .. })))
            {
                self.memory.unknown.insert(account, *hash);
            }
        }
        let wrong = !repairs.is_empty() || !back.is_empty();
        self.carry_out(repairs, back).await?;
        Ok(wrong)
    }

    async fn carry_out(&mut self, repairs: Vec<Repair>, back: Vec<Key>) -> Result<()> {
        if !repairs.is_empty() {
            let marked = self.ledger.repair(&repairs).await?;
            let marked: Vec<_> = repairs.into_iter().filter(|repair| marked.contains(&repair.account)).collect();
            self.memory.repaired = marked.iter().map(|repair| repair.account).collect();
            self.findings.repairs.extend(marked);
        }
        if !back.is_empty() {
            let request = self.ledger.delete_again(&back).await?;
            self.resolver.delete(back.clone(), request).await;
            self.findings.deleted.extend(back);
        }
        Ok(())
    }
}

fn reference(server: &Known) -> ServerRef {
    ServerRef { name: server.name.clone(), id: server.id.clone() }
}
