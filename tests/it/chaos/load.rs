//! Many clients that onboard, issue, rotate and revoke, and remember exactly what they were told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{http::Http, stack::eventually};

/// Organizations that exist before the load, with an environment in which credentials are issued.
pub const BASE: usize = 4;

pub fn base(number: usize) -> String {
    format!("base-{number}")
}

/// What a client knows of a credential that it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Works.
    Live,
    /// It was rotated, or may have been: works through its grace time.
    Superseded,
    /// That it was revoked was answered.
    Revoked,
    /// It was asked to be revoked, and no answer came.
    Unsure,
}

#[derive(Clone, Debug)]
pub struct Credential {
    /// The whole answer.
    pub issued: Value,
    pub fate: Fate,
}

/// What clients were told.
#[derive(Debug, Default)]
pub struct Told {
    /// Slug and account id of onboarded organizations.
    pub orgs: BTreeMap<String, String>,
    /// By id.
    pub credentials: BTreeMap<String, Credential>,
    /// How often a request got no answer.
    pub unanswered: usize,
    /// How often the answer was to try again later.
    pub try_again: usize,
    /// How many requests were answered as they should be.
    pub answered: usize,
}

impl Told {
    fn merge(&mut self, other: Self) {
        self.orgs.extend(other.orgs);
        self.credentials.extend(other.credentials);
        self.unanswered += other.unanswered;
        self.try_again += other.try_again;
        self.answered += other.answered;
    }

    pub fn with(&self, fate: Fate) -> Vec<&Credential> {
        self.credentials.values().filter(|credential| credential.fate == fate).collect()
    }
}

/// How many requests were answered so far.
#[derive(Debug, Default)]
struct Answered {
    all: AtomicUsize,
    revocations: AtomicUsize,
}

/// Running clients.
pub struct Load {
    clients: Vec<JoinHandle<Told>>,
    stop: Arc<AtomicBool>,
    answered: Arc<Answered>,
}

/// Makes the organizations in which the clients issue.
pub async fn prepare(http: &Http) {
    for number in 0..BASE {
        http.onboard(&base(number), &["prod"]).await;
    }
}

impl Load {
    /// Starts `clients`, spread over the replicas. Everything that they choose follows from `seed`.
    pub fn start(replicas: &[Arc<Http>], clients: usize, seed: u64) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::<Answered>::default());
        let clients = (0..clients).map(|number| {
            let client = Client {
                number,
                asks: number,
                replicas: replicas.to_vec(),
                rng: StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(number as u64)),
                made: 0,
                full: false,
                total: Arc::clone(&answered),
                told: Told::default(),
            };
            tokio::spawn(client.run(Arc::clone(&stop)))
        });
        Self { clients: clients.collect(), stop, answered }
    }

    /// How many requests were answered so far.
    pub fn answered(&self) -> usize {
        self.answered.all.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests are answered: however slow the machine is, clients got something
    /// that may be lost.
    pub async fn works(&self, more: usize) {
        let enough = self.answered() + more;
        eventually("the clients are at work", || async { self.answered() >= enough }).await;
    }

    /// Waits until something was revoked: before the first fault, so that a revocation may be lost.
    pub async fn revokes(&self) {
        let revoked = || async { self.answered.revocations.load(Ordering::Relaxed) > 0 };
        eventually("something is revoked", revoked).await;
    }

    /// Ends the clients after their present request; what they were told.
    pub async fn stop(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut told = Told::default();
        for client in self.clients {
            told.merge(client.await.unwrap());
        }
        told
    }
}

struct Client {
    number: usize,
    /// Which replica it asks.
    asks: usize,
    replicas: Vec<Arc<Http>>,
    rng: StdRng,
    made: usize,
    /// The cluster has no room for more organizations.
    full: bool,
    total: Arc<Answered>,
    told: Told,
}

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Told {
        while !stop.load(Ordering::Relaxed) {
            let active = self.some(&[Fate::Live]);
            let any = self.some(&[Fate::Live, Fate::Superseded, Fate::Unsure]);
            match (self.rng.random_range(0..20), active, any) {
                (0, _, _) if !self.full => self.onboard(&stop).await,
                (1..5, Some(id), _) => self.rotate(id).await,
                (5..10, _, Some(id)) => self.revoke(id).await,
                _ => self.issue().await,
            }
        }
        self.told
    }

    /// Some credential in one of these states.
    fn some(&mut self, fates: &[Fate]) -> Option<String> {
        let of = self.told.credentials.iter().filter(|(_, credential)| fates.contains(&credential.fate));
        let ids: Vec<_> = of.map(|(id, _)| id).collect();
        ids.choose(&mut self.rng).map(|id| (*id).clone())
    }

    /// The answer when it is one of `expected`; none when there was none, or only that to try again.
    async fn ask(&mut self, path: &str, body: Value, expected: &[u16]) -> Option<(u16, Value)> {
        let replica = Arc::clone(&self.replicas[self.asks % self.replicas.len()]);
        match replica.try_send(Method::POST, path, Some(body)).await {
            Ok((status, answer)) if expected.contains(&status) => {
                self.told.answered += 1;
                self.total.all.fetch_add(1, Ordering::Relaxed);
                Some((status, answer))
            }
            Ok((503, _)) => {
                self.told.try_again += 1;
                None
            }
            Ok((status, answer)) => panic!("{path}: {status}: {answer}"),
            Err(_) => {
                self.told.unanswered += 1;
                // As every client: another replica, if there is one, and not at once.
                self.asks += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
                None
            }
        }
    }

    fn name(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{}-{}", self.number, self.made)
    }

    /// Asks for the same until it is answered: onboarding can be repeated.
    async fn onboard(&mut self, stop: &AtomicBool) {
        let slug = self.name("org-");
        while !stop.load(Ordering::Relaxed) {
            if let Some((status, org)) = self.ask("/api/v1/orgs", json!({"slug": slug}), &[200, 201, 409]).await {
                if status == 409 {
                    assert_eq!(org["code"], "capacity-exceeded");
                    self.full = true;
                    return;
                }
                self.told.orgs.insert(slug, org["accountId"].as_str().unwrap().to_owned());
                return;
            }
        }
    }

    fn keep(&mut self, issued: Value) {
        let id = issued["credential"]["id"].as_str().unwrap().to_owned();
        self.told.credentials.insert(id, Credential { issued, fate: Fate::Live });
    }

    async fn issue(&mut self) {
        let org = base(self.rng.random_range(0..BASE));
        let body = json!({"name": self.name("c"), "role": "publisher"});
        if let Some((_, issued)) = self.ask(&format!("/api/v1/orgs/{org}/envs/prod/credentials"), body, &[201]).await {
            self.keep(issued);
        }
    }

    async fn rotate(&mut self, id: String) {
        self.told.credentials.get_mut(&id).unwrap().fate = Fate::Superseded;
        let answer = self.ask(&format!("/api/v1/credentials/{id}/rotate"), json!({"grace": "1h"}), &[201]).await;
        if let Some((_, issued)) = answer {
            self.keep(issued);
        }
    }

    async fn revoke(&mut self, id: String) {
        let answer = self.ask(&format!("/api/v1/credentials/{id}/revoke"), json!({}), &[200]).await;
        let fate = if answer.is_some() { Fate::Revoked } else { Fate::Unsure };
        self.total.revocations.fetch_add(usize::from(answer.is_some()), Ordering::Relaxed);
        self.told.credentials.get_mut(&id).unwrap().fate = fate;
    }
}
