//! Drives the real comparison and the real judgement of pushes through one schedule, and says what
//! went wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use futures::executor::block_on;
use nats_authority::{
    authority::reconcile::respelled,
    entropy::SeededEntropy,
    jwt::envelope::HEADER,
    nkey::KeyPair,
    resolver::{PushJob, Resolver, ServerRef, StoreResult},
    store::pushes::DueAccount,
    tasks::{
        reconcile::check::{Memory, Thoroughness, check},
        settle::{is_settled, is_taken_in_vain, judge},
    },
};

use super::{
    cluster::{FirstPack, Key, Map, Meta, SimulatedCluster, hash},
    ledger::{Entry, Fate, Model, text},
    schedule::{ACCOUNTS, Disk, Event},
};

/// Mistakes that the simulation has to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Deleted accounts are forgotten.
    NoTombstones,
    /// Two generations may have the same issue time.
    IatNotIncreasing,
    /// The first server that answers a push answers for all.
    TrustFirstReply,
    /// The first server that answers PACK answers for all.
    PackForAll,
    /// Everything is pushed instead of compared.
    RepushWithoutComparison,
}

const OURS: &str = "OURS";

/// The system account, ours, and a stranger's.
fn keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let entropy = SeededEntropy::new(7);
        (0..ACCOUNTS + 2).map(|_| KeyPair::generate(&entropy).public()).collect()
    })
}

struct Driver {
    cluster: SimulatedCluster,
    model: Model,
    memory: Memory,
    bug: Option<Bug>,
    /// What was ever minted, whatever the ledger remembers.
    history: Map<Vec<Arc<str>>>,
    deleted: BTreeSet<Key>,
    clock: i64,
    tokens: u64,
}

type Outcome = Result<(), String>;

/// Runs a schedule and the quiet after it.
pub fn run(seed: u64, nodes: usize, events: &[Event], bug: Option<Bug>) -> Outcome {
    let model =
        Model { accounts: Mutex::default(), system: keys()[0], ours: OURS.to_owned(), confirmed: Mutex::default() };
    let mut driver = Driver {
        cluster: SimulatedCluster::new(nodes, seed),
        model,
        memory: Memory::default(),
        bug,
        history: Map::default(),
        deleted: BTreeSet::new(),
        clock: 100,
        tokens: 0,
    };
    if seed.is_multiple_of(3) && nodes > 1 {
        driver.cluster.state().far_from = 1 + usize::try_from(seed / 3).unwrap() % (nodes - 1);
    }
    driver.mint(keys()[0], Fate::Live);
    let system = driver.history[&keys()[0]][0].clone();
    driver.cluster.state().system = Some((keys()[0], system));
    for node in 0..nodes {
        driver.cluster.state().start(node);
    }
    for event in events {
        driver.happen(event).map_err(|words| format!("{event:?}: {words}"))?;
    }
    driver.quiet()
}

impl Driver {
    fn token(&mut self, issuer: &str, key: Key, iat: i64, generation: i64) -> Arc<str> {
        self.tokens += 1;
        let claims = format!(r#"{{"jti":"{}","iat":{iat},"iss":"{issuer}","sub":"{key}"}}"#, self.tokens);
        let token: Arc<str> = format!("{}.{}.{}", B64.encode(HEADER), B64.encode(claims), "A".repeat(86)).into();
        let meta = Meta { iat, jti: self.tokens, trusted: issuer == OURS, generation };
        self.cluster.state().learn(&token, meta);
        token
    }

    fn mint(&mut self, key: Key, fate: Fate) {
        self.clock += 1;
        let (last, generation) =
            self.model.accounts().get(&key).map_or((0, 0), |entry| (entry.iat, entry.generation()));
        let increasing = self.clock.max(last + 1);
        let iat = if self.bug == Some(Bug::IatNotIncreasing) && last > 0 { last } else { increasing };
        let token = self.token(OURS, key, iat, generation + 1);
        self.history.entry(key).or_default().push(token.clone());
        let mut accounts = self.model.accounts();
        let entry = accounts.entry(key).or_insert_with(|| Entry {
            fate,
            texts: Vec::new(),
            iat,
            due: true,
            rewrite: false,
            attempts: 0,
            acknowledged: BTreeMap::new(),
        });
        entry.texts.push(text(&token));
        (entry.fate, entry.iat, entry.due, entry.attempts) = (fate, iat, true, 0);
    }

    fn happen(&mut self, event: &Event) -> Outcome {
        self.cluster.state().go_on_loading(false);
        let account = |number: usize| keys()[number + 1];
        let fate = |key: Key| self.model.accounts().get(&key).map(|entry| entry.fate);
        match *event {
            Event::Change(number) => {
                let key = account(number);
                if !self.deleted.contains(&key) && matches!(fate(key), None | Some(Fate::Live)) {
                    self.mint(key, Fate::Live);
                }
            }
            Event::Delete(number) => {
                if fate(account(number)) == Some(Fate::Live) {
                    self.mint(account(number), Fate::Tombstone);
                }
            }
            Event::Push => self.push()?,
            Event::Check => {
                self.check()?;
            }
            Event::Replay(number, back, bits) => {
                let key = account(number);
                let texts = self.history.get(&key).map(Vec::as_slice).unwrap_or_default();
                let old = texts.len().checked_sub(back + 1).and_then(|index| texts.get(index)).cloned();
                if let Some(old) = old.or_else(|| texts.first().cloned()) {
                    self.put(key, &old, bits);
                }
            }
            Event::Foreign(number, bits) => {
                let token = self.token("OSTRANGER", account(number), self.clock + 5, 0);
                self.put(account(number), &token, bits);
            }
            Event::Stranger(bits) => {
                let key = keys()[ACCOUNTS + 1];
                let token = self.token("OSTRANGER", key, self.clock, 0);
                self.put(key, &token, bits);
            }
            Event::RestartService => self.memory = Memory::default(),
            Event::Lossy(lossy) => self.cluster.state().lossy = lossy.then_some(5),
            // We reach the other cluster through ours.
            Event::Crash(0) | Event::Cut(0) if self.cluster.state().far_from < usize::MAX => {}
            Event::Crash(node) => {
                self.cluster.state().nodes[node].up = false;
            }
            Event::Start(node, disk) => {
                let mut state = self.cluster.state();
                if !state.nodes[node].up {
                    match disk {
                        Disk::Intact => {}
                        Disk::Empty => state.nodes[node].files.clear(),
                        Disk::Backup => {
                            let it = &mut state.nodes[node];
                            it.files.clone_from(&it.backup);
                        }
                    }
                    state.start(node);
                }
            }
            Event::Cut(node) => self.cluster.state().nodes[node].cut = true,
            Event::Heal(node) => self.cluster.state().nodes[node].cut = false,
            Event::Sync(from, to) => self.cluster.state().sync(from, to),
            Event::Load(node, number) => self.cluster.state().load(node, account(number), true),
            Event::LoadInRace(node, number) => self.cluster.state().load(node, account(number), false),
            Event::LoadSlowly(node, number, events) => {
                self.cluster.state().load_slowly(node, account(number), events);
            }
            Event::Wipe(node) => self.cluster.state().nodes[node].files.clear(),
            Event::Backup(node) => {
                let mut state = self.cluster.state();
                let it = &mut state.nodes[node];
                it.backup.clone_from(&it.files);
            }
        }
        self.cluster.state().violation.take().map_or(Ok(()), Err)
    }

    /// Somebody else stores a token on those of the nodes that can be reached. (That of a deleted account in the other
    /// cluster is heard as it is pushed, which is not of these schedules.)
    fn put(&self, key: Key, token: &Arc<str>, bits: u8) {
        let present = self.model.accounts().get(&key).is_some_and(|entry| entry.fate != Fate::Deleted);
        let mut state = self.cluster.state();
        for node in (0..state.nodes.len()).filter(|node| bits & (1 << node) != 0) {
            if state.nodes[node].reachable() && (present || node < state.far_from) {
                state.store(node, key, token);
            }
        }
    }

    /// One round of the push task.
    fn push(&mut self) -> Outcome {
        let due: Vec<Key> = self.model.accounts().iter().filter(|(_, e)| e.due).map(|(key, _)| *key).collect();
        due.into_iter().try_for_each(|key| self.push_one(key))
    }

    fn push_one(&mut self, account: Key) -> Outcome {
        let due = {
            let mut accounts = self.model.accounts();
            let entry = accounts.get_mut(&account).unwrap();
            entry.attempts += 1;
            DueAccount {
                account,
                generation: entry.generation(),
                jwt: entry.text().0.to_string(),
                tombstone: entry.fate == Fate::Tombstone,
                attempts: entry.attempts,
                rewrite: entry.rewrite,
                lease: chrono::DateTime::default(),
            }
        };
        let known = self.cluster.known();
        let live: Vec<_> = known.iter().filter(|server| server.live).map(|server| server.name.clone()).collect();
        if live.is_empty() {
            return Ok(());
        }
        if let Some(other) = respelled(&due.jwt).filter(|_| due.rewrite) {
            block_on(self.cluster.push(PushJob::new(account, other)));
        }
        let mut outcome = block_on(self.cluster.push(PushJob::new(account, due.jwt.clone())));
        if self.bug == Some(Bug::TrustFirstReply)
            && let Some(first) = outcome.per_server.iter().find(|answer| answer.result != StoreResult::NoAnswer)
        {
            let first = first.result.clone();
            outcome.per_server.iter_mut().for_each(|answer| answer.result = first.clone());
        }
        let effective = block_on(self.cluster.effective(account)).unwrap();
        let mut servers = judge(&due, &outcome, &effective);
        let in_vain = is_taken_in_vain(&servers);
        if self.bug == Some(Bug::TrustFirstReply) {
            for server in &mut servers {
                server.error = None;
            }
        }
        let mut settled = is_settled(&servers, &live);
        if settled {
            self.honest(account, &live)?;
        }
        if due.tombstone {
            settled &=
                live.len() == known.len() && block_on(self.cluster.delete(vec![account], String::new())).is_complete();
        }
        let mut accounts = self.model.accounts();
        let entry = accounts.get_mut(&account).unwrap();
        for server in servers {
            entry.acknowledged.insert(server.server, (server.server_id, server.stored));
        }
        entry.due = !settled;
        entry.rewrite = !settled && (entry.rewrite || in_vain);
        if settled && due.tombstone {
            entry.fate = Fate::Deleted;
            self.deleted.insert(account);
            if self.bug == Some(Bug::NoTombstones) {
                accounts.remove(&account);
            }
        }
        Ok(())
    }

    /// What is said to be settled is so: every live server was told the present generation.
    fn honest(&self, account: Key, live: &[String]) -> Outcome {
        let hash = self.model.accounts()[&account].text().1;
        let state = self.cluster.state();
        let liar = state.nodes.iter().find(|node| live.contains(&node.name) && node.index.get(&account) != Some(&hash));
        liar.map_or(Ok(()), |node| Err(format!("settled, but {} does not have {account}", node.name)))
    }

    /// One comparison; true: all agreed.
    fn check(&mut self) -> Result<bool, String> {
        match self.bug {
            Some(Bug::RepushWithoutComparison) => {
                self.model.accounts().values_mut().for_each(|entry| entry.due = entry.fate != Fate::Deleted);
                return Ok(true);
            }
            Some(Bug::PackForAll) => self.cluster.state().first_pack = FirstPack::Next,
            _ => {}
        }
        // Certain enough that chance does not fail one of a hundred thousand schedules.
        let thoroughness = Thoroughness { asks: 14, nines: 8, sample: 1, far_sample: 2, odd: usize::MAX };
        let before = self.cluster.state().updates;
        let checked = block_on(check(&self.model, &self.cluster, thoroughness, &mut self.memory));
        if self.cluster.state().updates != before {
            return Err("a comparison pushed".to_owned());
        }
        let confirmed = std::mem::take(&mut *self.model.confirmed.lock().unwrap());
        for server in confirmed {
            self.confirmed_rightly(&server)?;
        }
        let Ok(findings) = checked else { return Ok(false) };
        if findings.agreed {
            let accounts = self.model.accounts();
            let state = self.cluster.state();
            // Those in the other cluster are looked at in samples.
            let near = state.nodes.iter().take(state.far_from);
            for node in near.filter(|node| node.reachable() && !node.files.is_empty()) {
                for (key, entry) in accounts.iter().filter(|(_, entry)| entry.fate != Fate::Deleted) {
                    let (token, hash) = entry.text();
                    if node.index.get(key) != Some(&hash) && node.files.get(key) != Some(&token) {
                        return Err(format!("agreed, but {} does not have {key}", node.name));
                    }
                }
            }
        }
        Ok(findings.agreed)
    }

    /// What is written of a server that was found right is so. (One without any files says to PACK what one that agrees says;
    /// the sample finds it.)
    fn confirmed_rightly(&self, server: &ServerRef) -> Outcome {
        let accounts = self.model.accounts();
        let state = self.cluster.state();
        let node = state.nodes.iter().find(|node| node.name == server.name).unwrap();
        for (key, entry) in accounts.iter().filter(|(_, entry)| !entry.due && entry.fate != Fate::Deleted) {
            let (token, hash) = entry.text();
            let has_it = node.index.get(key) == Some(&hash) || node.files.get(key) == Some(&token);
            let said = entry.acknowledged.get(&server.name) == Some(&(server.id.clone(), entry.generation()));
            if said && !has_it && !node.files.is_empty() {
                return Err(format!("confirmed, but {} does not have {key}", node.name));
            }
        }
        Ok(())
    }

    fn due(&self) -> bool {
        self.model.accounts().values().any(|entry| entry.due)
    }

    /// Nothing goes wrong any more: everything has to become right.
    fn quiet(mut self) -> Outcome {
        {
            let mut state = self.cluster.state();
            state.lossy = None;
            state.go_on_loading(true);
            for node in 0..state.nodes.len() {
                state.nodes[node].cut = false;
                if !state.nodes[node].up {
                    state.start(node);
                }
            }
        }
        let nodes = self.cluster.state().nodes.len();
        let (mut calm, mut rounds) = (0, 0);
        while calm < 8 {
            rounds += 1;
            if rounds > 80 {
                return Err("never quiet".to_owned());
            }
            self.push()?;
            self.happen(&Event::Sync(rounds % nodes, (rounds / nodes + 1) % nodes))?;
            let agreed = self.check()?;
            // What this bug marks is pushed at once, so that it too ends.
            if self.bug == Some(Bug::RepushWithoutComparison) {
                self.push()?;
            }
            calm = if agreed && !self.due() { calm + 1 } else { 0 };
        }
        let before = self.cluster.state().updates;
        self.check()?;
        self.push()?;
        if self.cluster.state().updates != before {
            return Err("sent though nothing differed".to_owned());
        }
        self.converged()
    }

    fn converged(&self) -> Outcome {
        let (accounts, state) = (self.model.accounts(), self.cluster.state());
        for node in &state.nodes {
            for (key, entry) in accounts.iter().filter(|(_, entry)| entry.fate != Fate::Deleted) {
                let token = entry.text().0;
                if node.files.get(key) != Some(&token) || node.index.get(key) != Some(&hash(&token)) {
                    return Err(format!("{} does not store {key}", node.name));
                }
                if node.runs.get(key).is_some_and(|runs| *runs != token) {
                    return Err(format!("{} does not run {key}", node.name));
                }
                if node.incomplete.contains(key) {
                    return Err(format!("{} runs {key} without what it imports", node.name));
                }
            }
            if let Some(key) = self.deleted.iter().find(|key| node.files.contains_key(key)) {
                return Err(format!("{} still has {key}, which was deleted", node.name));
            }
        }
        if state.touched.contains(&keys()[ACCOUNTS + 1]) {
            return Err("an account of somebody else was touched".to_owned());
        }
        Ok(())
    }
}
