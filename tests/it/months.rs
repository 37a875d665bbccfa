//! Half a year of issuing and revoking in one organization, with real servers looking on.
//!
//! The authority's clock is an argument and begins at the present; the servers' clocks are real and stay there. For
//! them nothing expires, for every end lies in their future, and they do not mind an issue time in the future
//! (nats-server 2.15.1). So whatever they refuse they refuse because it is revoked, and one whose entry was
//! pruned they would let in again: the test sees that as well, and so that its refusals mean something.
//!
//! `CHAOS_FULL=1` does 20,000 credentials; `CHAOS_SEED` repeats a run.

#![expect(clippy::print_stdout, reason = "shows the seed and the figures")]

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use nats_authority::{
    authority::{
        Issued, Settings,
        requests::{NewCredential, Reason, Revoke, Rotate},
    },
    clock::ManualClock,
    jwt,
    model::{EnvType, OrgSlug, view::RevocationsState},
    nkey::{Account, PublicKey},
    policy::Policies,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use sqlx::{PgPool, Row, postgres::PgRow};
use uuid::Uuid;

use crate::support::{
    knobs::{seed, sized},
    stack::Stack,
};

const DAYS: usize = 180;
const LIMIT: usize = 64 << 10;
const ENVIRONMENTS: [&str; 2] = ["prod", "dev"];
const ROLES: [&str; 3] = ["viewer", "publisher", "projector"];
/// For how long an entry outlives its credential.
const SKEW: TimeDelta = TimeDelta::hours(1);

/// What the ledger says of a credential.
struct Life {
    expires_at: DateTime<Utc>,
    revoked: bool,
    /// Neither revoked nor superseded.
    valid: bool,
}

#[derive(Debug, Default)]
struct Figures {
    issued: usize,
    singly: usize,
    by_selector: i64,
    rotated: usize,
    largest: usize,
    most_entries: usize,
    pruned: usize,
    folded: usize,
    selectors: usize,
    replaced: usize,
    checks: usize,
    refused_live: usize,
    accepted_live: usize,
    let_in_again: usize,
    /// Seconds until the server had the account, and all in all for comparisons.
    waited: f64,
    compared: f64,
}

struct Months {
    stack: Stack,
    clock: Arc<ManualClock>,
    pool: PgPool,
    random: StdRng,
    credentials: Vec<Issued>,
    figures: Figures,
    seen: i64,
    entries: usize,
}

fn slug() -> OrgSlug {
    "acme".parse().unwrap()
}

impl Months {
    async fn start(seed: u64, fold_above: usize) -> Self {
        #[expect(clippy::disallowed_methods, reason = "simulated time begins at the present")]
        let clock = Arc::new(ManualClock::at(Utc::now().timestamp()));
        let settings = Settings { fold_above, ..Settings::default() };
        let stack = Stack::with_clock(Policies::builtin().unwrap(), settings, Arc::clone(&clock) as _, |spec, _| {
            spec.nodes = 1;
        })
        .await;
        stack.onboard("acme", &ENVIRONMENTS).await;
        converged(&stack, &clock).await;
        let pool = PgPool::connect(stack.database.url()).await.unwrap();
        let random = StdRng::seed_from_u64(seed);
        Self { stack, clock, pool, random, credentials: Vec::new(), figures: Figures::default(), seen: 0, entries: 0 }
    }

    async fn issue(&mut self, count: usize) {
        for env in ENVIRONMENTS {
            let items: Vec<_> = (0..count / 2)
                .map(|n| NewCredential {
                    name: format!("c{n}"),
                    role: (*ROLES.choose(&mut self.random).unwrap()).to_owned(),
                    ttl: Some(format!("{}d", self.random.random_range(1..=14))),
                    ..NewCredential::default()
                })
                .collect();
            let env: EnvType = env.parse().unwrap();
            let issued = self.stack.authority.issue_batch(&self.stack.actor, &slug(), &env, items).await.unwrap();
            self.figures.issued += issued.len();
            self.credentials.extend(issued);
        }
    }

    /// Some one by one, now and then many by a selector.
    async fn revoke(&mut self, singles: usize) {
        for _ in 0..singles {
            let young = self.credentials.len().saturating_sub(singles * 60);
            let id = self.credentials[self.random.random_range(young..self.credentials.len())].credential.id;
            self.stack.authority.revoke(&self.stack.actor, id, Reason::default()).await.unwrap();
            self.figures.singly += 1;
        }
        let mut request = Revoke::default();
        match self.random.random_range(0..30) {
            0 => request.all = true,
            1 => request.env = Some((*ENVIRONMENTS.choose(&mut self.random).unwrap()).to_owned()),
            2..8 => request.issued_before = Some(format!("{}d", self.random.random_range(5..40))),
            8..20 => {
                request.env = Some((*ENVIRONMENTS.choose(&mut self.random).unwrap()).to_owned());
                request.role = Some((*ROLES.choose(&mut self.random).unwrap()).to_owned());
                request.issued_before = Some(format!("{}h", self.random.random_range(1..240)));
            }
            _ => return,
        }
        let done = self.stack.authority.revoke_selected(&self.stack.actor, &slug(), &request).await.unwrap();
        self.figures.by_selector += done.revoked;
        self.figures.replaced += done.effect.replaced.len();
    }

    /// What the owner does when told that valid credentials hold the fold back.
    async fn reissue(&mut self) {
        let view = self.stack.authority.revocations(&slug()).await.unwrap();
        if view.state == RevocationsState::Ok {
            return;
        }
        for id in view.held_back_by {
            let request = Rotate { grace: Some("1h".to_owned()), ..Rotate::default() };
            let issued = self.stack.authority.rotate(&self.stack.actor, id, request).await.unwrap();
            self.figures.rotated += 1;
            self.credentials.push(issued);
        }
    }

    /// Looks whether the account shrank since the last look: then everything is compared.
    async fn look(&mut self) {
        let account = self.stack.authority.organization(&slug()).await.unwrap().account_id.parse().unwrap();
        let token = self.stack.authority.store().account_jwt(account).await.unwrap().unwrap();
        let claims = jwt::decode::<jwt::Account>(&token).unwrap().claims.nats;
        self.figures.largest = self.figures.largest.max(token.len());
        self.figures.most_entries = self.figures.most_entries.max(claims.revocations.len());
        assert!(token.len() < LIMIT, "{} bytes: {:?}", token.len(), self.figures);
        let events = sqlx::query(
            "SELECT COALESCE(max(seq), 0) AS seq, count(*) FILTER (WHERE action = 'account.prune') AS pruned,
                 count(*) FILTER (WHERE action = 'account.fold') AS folded,
                 count(*) FILTER (WHERE action = 'credentials.revoke') AS selectors
             FROM audit_events WHERE seq > $1",
        );
        let row = events.bind(self.seen).fetch_one(&self.pool).await.unwrap();
        let count = |name: &str| usize::try_from(row.get::<i64, _>(name)).unwrap();
        self.seen = self.seen.max(row.get("seq"));
        self.figures.pruned += count("pruned");
        self.figures.folded += count("folded");
        self.figures.selectors += count("selectors");
        let fewer = claims.revocations.len() < self.entries;
        self.entries = claims.revocations.len();
        if fewer || count("pruned") + count("folded") + count("selectors") > 0 {
            let comparing = Instant::now();
            self.compare().await;
            self.figures.compared += comparing.elapsed().as_secs_f64();
        }
    }

    /// All of them with the account, some of them with the server.
    async fn compare(&mut self) {
        let now = self.stack.authority.now();
        let (account, lives) = self.snapshot(now - SKEW - TimeDelta::days(2)).await;
        let (mut revoked, mut valid, mut over) = (Vec::new(), Vec::new(), Vec::new());
        for (index, issued) in self.credentials.iter().enumerate() {
            let Some(life) = lives.get(&issued.credential.id) else { continue };
            let accepted = accepts(&account, issued);
            if life.revoked && life.expires_at > now - SKEW {
                assert!(!accepted, "{} is revoked and accepted at {now}: {:?}", issued.credential.id, self.figures);
                revoked.push(index);
            } else if life.valid && life.expires_at > now {
                assert!(accepted, "{} is valid and refused at {now}: {:?}", issued.credential.id, self.figures);
                valid.push(index);
            } else if accepted {
                over.push(index);
            }
        }
        let waiting = Instant::now();
        converged(&self.stack, &self.clock).await;
        self.figures.waited += waiting.elapsed().as_secs_f64();
        self.figures.checks += 1;
        // The oldest, the youngest, those that end next, and any.
        let mut sample = vec![revoked.first().copied(), revoked.last().copied()];
        sample.push(revoked.iter().copied().min_by_key(|index| self.credentials[*index].credential.expires_at));
        sample.extend((0..3).map(|_| revoked.choose(&mut self.random).copied()));
        for index in sample.into_iter().flatten() {
            let issued = &self.credentials[index];
            let refused = self.stack.connect(issued, 0).await.is_err();
            assert!(refused, "the server lets {} in, which is revoked", issued.credential.id);
            self.figures.refused_live += 1;
        }
        for index in [valid.first(), valid.last(), valid.choose(&mut self.random)].into_iter().flatten() {
            let connected = self.stack.connect(&self.credentials[*index], 0).await;
            assert!(connected.is_ok(), "{:?}: {connected:?}", self.credentials[*index].credential);
            self.figures.accepted_live += 1;
        }
        if let Some(index) = over.choose(&mut self.random) {
            // Its entry is gone, and for this server its end has not come.
            self.stack.connect(&self.credentials[*index], 0).await.unwrap();
            self.figures.let_in_again += 1;
        }
    }

    /// The account and the credentials at one moment, for tasks go on beside us.
    async fn snapshot(&self, ends_after: DateTime<Utc>) -> (jwt::Account, HashMap<Uuid, Life>) {
        let mut tx = self.pool.begin().await.unwrap();
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *tx).await.unwrap();
        let token: String = sqlx::query_scalar("SELECT jwt FROM accounts JOIN organizations USING (account_key)")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        let rows = sqlx::query(
            "SELECT id, expires_at, revoked_at IS NOT NULL AS revoked, revoked_at IS NULL AND superseded_at IS NULL AS valid
             FROM credentials WHERE expires_at > $1",
        );
        let rows = rows.bind(ends_after).fetch_all(&mut *tx).await.unwrap();
        let life = |row: &PgRow| Life {
            expires_at: row.get("expires_at"),
            revoked: row.get("revoked"),
            valid: row.get("valid"),
        };
        let lives = rows.iter().map(|row| (row.get("id"), life(row))).collect();
        (jwt::decode::<jwt::Account>(&token).unwrap().claims.nats, lives)
    }
}

/// Whether a server that has the account lets the credential in, ends left aside.
fn accepts(account: &jwt::Account, issued: &Issued) -> bool {
    let signed_by: PublicKey<Account> = issued.credential.issuer_key.parse().unwrap();
    let at = issued.credential.issued_at.timestamp();
    let revoked = |name: &str| account.revocations.get(name).is_some_and(|until| *until >= at);
    account.signing_keys.0.contains_key(&signed_by) && !revoked("*") && !revoked(&issued.credential.user_key)
}

/// A push that a busy server did not answer is made again when its pause is over: while that is waited for, the
/// authority's clock has to go on.
async fn converged(stack: &Stack, clock: &ManualClock) {
    let on = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            clock.advance(1);
        }
    };
    tokio::select! {
        _ = stack.converged("acme") => {}
        () = on => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn months_of_revocations_fit_into_the_account_and_stay_revoked() {
    let (seed, total) = (seed(), sized(1_800, 20_000));
    println!("months: CHAOS_SEED={seed}, {total} credentials");
    let started = Instant::now();
    // It folds earlier than by default, so that it does; without entries the account has 12.5 KiB.
    let mut months = Months::start(seed, sized(14 << 10, 24 << 10)).await;
    let a_day = total.div_ceil(DAYS).next_multiple_of(2);
    for day in 0..DAYS {
        months.issue(a_day).await;
        for _ in 0..2 {
            months.clock.advance(12 * 3600);
            months.stack.authority.end_superseded(months.stack.authority.now()).await.unwrap();
            months.stack.authority.prune().await.unwrap();
            months.look().await;
        }
        // Every second fortnight nobody revokes anything: what is pruned then is pruned by the task.
        if day % 30 < 15 {
            months.revoke(sized(a_day.div_ceil(5), a_day / 2)).await;
            months.look().await;
            months.reissue().await;
        }
    }
    let figures = &months.figures;
    println!("months: CHAOS_SEED={seed}: {:.1} s: {figures:?}", started.elapsed().as_secs_f64());
    assert!(figures.pruned > 0 && figures.folded > 0 && figures.selectors > 0, "{figures:?}");
    assert!(figures.let_in_again > 0, "nothing shows that the server would let them in: {figures:?}");
}
