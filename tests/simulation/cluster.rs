//! Servers that behave as real full resolvers do, in memory and without time.
//!
//! What they do is what was seen of nats-server 2.15: an update overwrites whatever is there and checks
//! nothing; a server that believes to have a text does not write it; sync takes what is not older; a
//! deletion leaves no trace, and does nothing where the file is missing; the hash is that of what a server
//! was told, not of what is on its disk; an account that was loaded without what it imports stays so until another
//! text of it comes; what is being loaded runs in the end, whatever was stored meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::BuildHasherDefault,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{FutureExt, future::BoxFuture, stream::BoxStream};
use nats_authority::{
    error::{Error, Result},
    nkey::{Account, PublicKey},
    resolver::{
        Connections, DeleteOutcome, Effective, EffectiveAnswer, Known, Listing, Pack, PushJob, PushOutcome, Resolver,
        ResolverKind, ServerAnswer, ServerInfo, ServerRef, StoreResult, Streams, xor_hash,
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};

pub type Key = PublicKey<Account>;
pub type Hash = [u8; 32];
/// By account, in an order that is the same in every run.
pub type Map<V> = HashMap<Key, V, BuildHasherDefault<DefaultHasher>>;

/// What a token says, for servers that read it.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    pub iat: i64,
    pub jti: u64,
    /// Servers believe its issuer.
    pub trusted: bool,
    /// Which generation of ours it is; 0: none.
    pub generation: i64,
}

#[derive(Debug, Default)]
pub struct Node {
    pub name: String,
    pub boot: u32,
    pub up: bool,
    /// Neither we nor other servers reach it.
    pub cut: bool,
    pub files: Map<Arc<str>>,
    pub index: Map<Hash>,
    pub runs: Map<Arc<str>>,
    /// What it runs without all that it imports.
    pub incomplete: BTreeSet<Key>,
    /// What it has read and is about to run, and after how many events it does.
    pub loading: Vec<(u8, Key, Arc<str>)>,
    /// The hash of the index, while it is known.
    all: Option<Hash>,
    pub backup: Map<Arc<str>>,
}

impl Node {
    pub fn reachable(&self) -> bool {
        self.up && !self.cut
    }

    fn id(&self) -> String {
        format!("{}.{}", self.name, self.boot)
    }
}

/// Which server answers PACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPack {
    /// Any.
    Random,
    /// Any, and then the same.
    Next,
    Fixed(usize),
}

#[derive(Debug)]
pub struct State {
    pub nodes: Vec<Node>,
    pub rng: StdRng,
    /// By the token without its last character, so that both spellings are one.
    meta: BTreeMap<Arc<str>, Meta>,
    /// Every server loads it from its configuration.
    pub system: Option<(Key, Arc<str>)>,
    /// Requests and answers get lost, one in so many.
    pub lossy: Option<u32>,
    /// How many updates were sent.
    pub updates: usize,
    /// What the first server said to PACK counts for all, in this comparison.
    pub first_pack: FirstPack,
    /// Something happened that must not.
    pub violation: Option<String>,
    /// What was ever sent or deleted.
    pub touched: Vec<Key>,
    /// Nodes from this number on are in another cluster, behind a gateway: sync and questions to one server stay on
    /// their side.
    pub far_from: usize,
}

pub struct SimulatedCluster(Mutex<State>);

pub fn hash(token: &str) -> Hash {
    Sha256::digest(token).into()
}

fn stem(token: &str) -> &str {
    &token[..token.len() - 1]
}

impl State {
    pub fn learn(&mut self, token: &Arc<str>, meta: Meta) {
        self.meta.insert(stem(token).into(), meta);
    }

    fn meta(&self, token: &str) -> Meta {
        self.meta[stem(token)]
    }

    pub fn store(&mut self, node: usize, key: Key, token: &Arc<str>) {
        let trusted = self.meta(token).trusted;
        let node = &mut self.nodes[node];
        let hash = hash(token);
        if node.index.get(&key) == Some(&hash) {
            return;
        }
        node.files.insert(key, token.clone());
        node.index.insert(key, hash);
        node.all = None;
        if let Some(runs) = node.runs.get_mut(&key).filter(|_| trusted) {
            *runs = token.clone();
            node.incomplete.remove(&key);
        }
    }

    fn save_if_newer(&mut self, node: usize, key: Key, token: &Arc<str>) {
        if let Some(there) = self.nodes[node].files.get(&key) {
            let (old, new) = (self.meta(there), self.meta(token));
            if old.jti == new.jti || old.iat > new.iat {
                return;
            }
            if new.generation > 0 && new.generation < old.generation {
                self.violation = Some(format!("sync went back from {} to {}", old.generation, new.generation));
            }
        }
        self.store(node, key, token);
    }

    /// `from` answers the question of `to` whether they have the same.
    pub fn sync(&mut self, from: usize, to: usize) {
        let joined = (from < self.far_from) == (to < self.far_from);
        let both = self.nodes[from].reachable() && self.nodes[to].reachable();
        if !joined || !both || self.index_hash(from) == self.index_hash(to) {
            return;
        }
        let a = &self.nodes[from];
        let files: Vec<_> = a.files.iter().filter(|(key, _)| a.index.contains_key(key)).collect();
        for (key, token) in files.into_iter().map(|(key, token)| (*key, token.clone())).collect::<Vec<_>>() {
            self.save_if_newer(to, key, &token);
        }
    }

    /// A client of the account connects, perhaps while the server loads what the account imports.
    pub fn load(&mut self, node: usize, key: Key, complete: bool) {
        if !self.nodes[node].up || self.nodes[node].runs.contains_key(&key) {
            return;
        }
        if !self.nodes[node].files.contains_key(&key) {
            let mut peers = self.nodes.iter().filter(|peer| peer.reachable());
            let found = peers.find_map(|peer| peer.files.get(&key).cloned());
            if let Some(token) = found.filter(|_| self.nodes[node].reachable()) {
                self.store(node, key, &token);
            }
        }
        let token = self.nodes[node].files.get(&key).cloned();
        if let Some(token) = token.filter(|token| self.meta(token).trusted) {
            self.nodes[node].runs.insert(key, token);
            if !complete {
                self.nodes[node].incomplete.insert(key);
            }
        }
    }

    /// The same, slowly: what it runs in the end is what it has stored now.
    pub fn load_slowly(&mut self, node: usize, key: Key, events: u8) {
        let it = &self.nodes[node];
        let token = it.files.get(&key).filter(|token| it.up && self.meta(token).trusted).cloned();
        if let Some(token) = token.filter(|_| !it.runs.contains_key(&key)) {
            self.nodes[node].loading.push((events, key, token));
        }
    }

    /// Something happened, or all that was being loaded is so.
    pub fn go_on_loading(&mut self, all: bool) {
        for node in &mut self.nodes {
            for (events, key, token) in std::mem::take(&mut node.loading) {
                if events > 0 && !all {
                    node.loading.push((events - 1, key, token));
                } else {
                    // Also over what another client had it load meanwhile.
                    node.runs.insert(key, token);
                }
            }
        }
    }

    pub fn remove(&mut self, node: usize, key: Key) {
        let node = &mut self.nodes[node];
        if node.files.remove(&key).is_some() {
            node.index.remove(&key);
            node.all = None;
            node.runs.remove(&key);
            node.incomplete.remove(&key);
        }
    }

    pub fn start(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        (it.up, it.boot) = (true, it.boot + 1);
        it.runs.clear();
        it.loading.clear();
        it.incomplete.clear();
        it.all = None;
        it.index = it.files.iter().map(|(key, token)| (*key, hash(token))).collect();
        if let Some((key, token)) = self.system.clone() {
            self.store(node, key, &token);
        }
    }

    fn index_hash(&mut self, node: usize) -> Hash {
        let node = &mut self.nodes[node];
        *node.all.get_or_insert_with(|| xor_hash(node.index.values().copied()))
    }

    fn lost(&mut self) -> bool {
        self.lossy.is_some_and(|one_in| self.rng.random_ratio(1, one_in))
    }

    fn reachable(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].reachable()).collect()
    }

    /// Has every server do something, with requests and answers that get lost or come twice.
    fn all(&mut self, mut act: impl FnMut(&mut Self, usize)) -> Vec<ServerAnswer> {
        (0..self.nodes.len())
            .map(|node| {
                let (reachable, request, answer) = (self.nodes[node].reachable(), self.lost(), self.lost());
                if reachable && !request {
                    act(self, node);
                    if self.lost() {
                        act(self, node);
                    }
                }
                let heard = reachable && !request && !answer;
                let result = if heard { StoreResult::Stored } else { StoreResult::NoAnswer };
                ServerAnswer { name: self.nodes[node].name.clone(), id: self.nodes[node].id(), result }
            })
            .collect()
    }
}

fn no_answer() -> Error {
    Error::unavailable("nats-no-answer", "no answer")
}

impl SimulatedCluster {
    pub fn new(nodes: usize, seed: u64) -> Self {
        let node = |number| Node { name: format!("n{number}"), up: true, ..Node::default() };
        Self(Mutex::new(State {
            nodes: (1..=nodes).map(node).collect(),
            rng: StdRng::seed_from_u64(seed),
            meta: BTreeMap::new(),
            system: None,
            lossy: None,
            updates: 0,
            first_pack: FirstPack::Random,
            violation: None,
            touched: Vec::new(),
            far_from: usize::MAX,
        }))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn pack_now(&self, expected: Hash) -> Result<Pack> {
        let mut state = self.state();
        let mut reachable = state.reachable();
        reachable.retain(|node| *node < state.far_from);
        // Seldom, or a comparison, which asks often, would hardly ever come to its end.
        if reachable.is_empty() || state.lost() && state.lost() {
            return Err(no_answer());
        }
        let mut node = reachable[state.rng.random_range(0..reachable.len())];
        match state.first_pack {
            FirstPack::Random => {}
            FirstPack::Next => state.first_pack = FirstPack::Fixed(node),
            FirstPack::Fixed(first) => node = first,
        }
        if state.index_hash(node) == expected {
            return Ok(Pack::Agrees);
        }
        let node = &state.nodes[node];
        let files = node.files.iter().filter(|(key, _)| node.index.contains_key(key));
        let files: Vec<_> = files.map(|(key, token)| (*key, token.to_string())).collect();
        // Only an empty message comes from a server that has nothing to send.
        Ok(if files.is_empty() { Pack::Agrees } else { Pack::Differs(files) })
    }
}

impl Resolver for SimulatedCluster {
    fn discover(&self) -> BoxFuture<'_, Result<Vec<ServerInfo>>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn known(&self) -> Vec<Known> {
        let state = self.state();
        let known = |(number, node): (usize, &Node)| Known {
            name: node.name.clone(),
            id: node.id(),
            live: node.reachable(),
            last_seen: chrono::DateTime::default(),
            info: None,
            resolver: Some(ResolverKind::Full),
            near: number < state.far_from,
        };
        state.nodes.iter().enumerate().map(known).collect()
    }

    fn push_many<'a>(&'a self, _: BoxStream<'a, PushJob>, _: usize) -> BoxStream<'a, PushOutcome> {
        Box::pin(futures::stream::empty())
    }

    fn push(&self, job: PushJob) -> BoxFuture<'_, PushOutcome> {
        let token: Arc<str> = std::str::from_utf8(&job.jwt).unwrap().into();
        let mut state = self.state();
        state.updates += 1;
        state.touched.push(job.account);
        let per_server = state.all(|state, node| state.store(node, job.account, &token));
        async move { PushOutcome { account: job.account, per_server } }.boxed()
    }

    fn lookup(&self, account: Key) -> BoxFuture<'_, Result<Vec<Option<String>>>> {
        let mut state = self.state();
        let mut answers = Vec::new();
        for node in state.reachable() {
            if !state.lost() {
                answers.push(state.nodes[node].files.get(&account).map(ToString::to_string));
            }
        }
        async move { if answers.is_empty() { Err(no_answer()) } else { Ok(answers) } }.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Listing>>> {
        let mut state = self.state();
        let mut listings = Vec::new();
        for node in state.reachable() {
            if !state.lost() {
                let node = &state.nodes[node];
                let server = ServerRef { name: node.name.clone(), id: node.id() };
                listings.push(Listing { server, accounts: Ok(node.files.keys().copied().collect()) });
            }
        }
        async move { Ok(listings) }.boxed()
    }

    fn pack(&self, hash: Hash) -> BoxFuture<'_, Result<Pack>> {
        let pack = self.pack_now(hash);
        async move { pack }.boxed()
    }

    fn effective(&self, account: Key) -> BoxFuture<'_, Result<Vec<EffectiveAnswer>>> {
        let mut state = self.state();
        let answers = (0..state.nodes.len()).map(|node| {
            let lost = state.lost();
            let node = &state.nodes[node];
            let effective = match node.runs.get(&account) {
                _ if lost || !node.reachable() => Effective::NoAnswer,
                Some(token) => {
                    let complete = !node.incomplete.contains(&account);
                    Effective::Running { jwt: token.to_string(), complete, expired: false }
                }
                None => Effective::NotLoaded,
            };
            EffectiveAnswer { server: ServerRef { name: node.name.clone(), id: node.id() }, effective }
        });
        let answers: Vec<_> = answers.collect();
        async move { Ok(answers) }.boxed()
    }

    fn held(&self, _: ServerRef) -> BoxFuture<'_, Result<Vec<Key>>> {
        // All of them have full resolvers.
        async { Err(no_answer()) }.boxed()
    }

    fn connections(&self, _: Key) -> BoxFuture<'_, Result<Vec<Connections>>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn kick(&self, _: ServerRef, _: u64) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn streams(&self, _: Key) -> BoxFuture<'_, Result<Vec<Streams>>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn delete(&self, accounts: Vec<Key>, _: String) -> BoxFuture<'_, DeleteOutcome> {
        let mut state = self.state();
        state.touched.extend(&accounts);
        let per_server = state.all(|state, node| accounts.iter().for_each(|key| state.remove(node, *key)));
        async move { DeleteOutcome { accounts, per_server } }.boxed()
    }

    fn purge(&self, _: Key) -> BoxFuture<'_, Result<()>> {
        async { Ok(()) }.boxed()
    }
}
