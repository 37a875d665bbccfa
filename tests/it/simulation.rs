//! The simulated cluster does what real servers do: the same happens to both, and every server has to
//! end up storing the same.
//!
//! Each account has a script of its own; what happens to the third server is common to all of them.

#![expect(clippy::print_stdout, reason = "says what the servers did")]

#[expect(dead_code, reason = "the schedules on simulated clusters use the rest")]
#[path = "../simulation/cluster.rs"]
mod cluster;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_nats::{Client, ConnectOptions};
use chrono::TimeDelta;
use futures::StreamExt;
use nats_authority::{
    authority::reconcile::respelled,
    dev::nats::{Cluster, ClusterSpec, Stop},
    nkey::Operator,
};
use serde_json::json;

use self::cluster::{Key, Meta, SimulatedCluster, State};
use crate::{
    resolver::{generate, operator_key, sign, system_account, trust, user},
    support::{self, stack::eventually},
};

/// What is done with an account. Tokens are numbers of a script; the number is also the issue time,
/// in tens, so that 101 and 102 have the same one.
#[derive(Clone, Copy, Debug)]
enum Do {
    /// To all servers that run.
    Update(u32),
    /// The same token, spelled otherwise.
    Respelled(u32),
    /// Signed by a stranger.
    Foreign(u32),
    Delete,
    /// Its file on the third server is removed beneath it.
    LoseFile,
}

use Do::{Delete, Foreign, LoseFile, Respelled, Update};

/// What happens to the third server before a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Third {
    Stays,
    Dies,
    ReturnsAsItWas,
    RestartsEmpty,
    RestartsFromBackup,
}

/// One phase after the other; what was done until the end of the first is the backup.
const PHASES: [Third; 6] =
    [Third::Stays, Third::Dies, Third::ReturnsAsItWas, Third::Stays, Third::RestartsEmpty, Third::RestartsFromBackup];

/// What is done in the phases.
type Script = (&'static str, [&'static [Do]; 6]);

const SCRIPTS: [Script; 12] = [
    ("an update overwrites whatever comes", [&[Update(200)], &[], &[], &[Update(100)], &[], &[]]),
    ("sync brings the newer to who was away", [&[Update(100)], &[Update(200)], &[], &[], &[], &[]]),
    ("who was away brings the newer", [&[Update(200)], &[Update(100)], &[], &[], &[], &[]]),
    ("who was away undoes a deletion", [&[Update(100)], &[Delete], &[], &[], &[], &[]]),
    ("deleted everywhere, until a backup comes", [&[Update(100)], &[], &[], &[Delete], &[], &[]]),
    ("a backup is older", [&[Update(100)], &[], &[], &[Update(200)], &[], &[]]),
    ("equal issue time and id: never the same again", [&[Update(101)], &[Update(102)], &[], &[], &[], &[]]),
    ("made while one was away", [&[], &[Update(100)], &[], &[], &[], &[]]),
    ("what a stranger signed spreads as well", [&[Update(100)], &[Foreign(300)], &[], &[], &[], &[]]),
    ("a lost file is not written again", [&[Update(100)], &[], &[], &[LoseFile, Update(100)], &[], &[]]),
    (
        "a lost file is written after another spelling",
        [&[Update(100)], &[], &[], &[LoseFile, Respelled(100), Update(100)], &[], &[]],
    ),
    ("replayed and repaired", [&[Update(100), Update(200)], &[], &[Update(100)], &[Update(200)], &[], &[]]),
];

/// Which token of which account each server stores.
type Stored = Vec<BTreeMap<String, String>>;

struct Both {
    simulated: SimulatedCluster,
    real: Cluster,
    client: Client,
    operator: nats_authority::nkey::KeyPair<Operator>,
    stranger: nats_authority::nkey::KeyPair<Operator>,
    backup: PathBuf,
}

/// Between the rounds of sync of real servers.
const INTERVAL: &str = "100ms";

async fn real(dir: &Path) -> (Cluster, Client) {
    let mut cluster = Cluster::start(ClusterSpec::new(dir, "simulation", trust())).await.unwrap();
    for index in 0..3 {
        let file = cluster.servers()[index].config().with_file_name("operator.conf");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("interval: \"2m\""));
        fs::write(&file, text.replace("interval: \"2m\"", &format!("interval: \"{INTERVAL}\""))).unwrap();
        cluster.stop_server(index, Stop::Graceful).await.unwrap();
        cluster.start_server(index).await.unwrap();
    }
    let user = user(system_account(), TimeDelta::hours(1));
    let key = Arc::new(user.key);
    let options = ConnectOptions::with_jwt(user.jwt, move |nonce| {
        let key = Arc::clone(&key);
        async move { Ok(key.sign(&nonce).to_vec()) }
    });
    let client = options.connect(cluster.servers()[0].url()).await.unwrap();
    (cluster, client)
}

impl Both {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.simulated.state()
    }

    /// A token that servers can read, known to the simulation. 101 and 102 have one id, 401 and 402 have two.
    fn token(&self, key: Key, number: u32, foreign: bool) -> Arc<str> {
        let (iat, issuer) =
            (1_700_000_000 + i64::from(number / 10), if foreign { &self.stranger } else { &self.operator });
        let id = if number > 400 { number } else { number / 10 };
        let nats = json!({"limits": {"subs": -1, "data": -1, "payload": -1, "conn": -1, "wildcards": true},
            "default_permissions": {"pub": {}, "sub": {}}, "authorization": {}, "type": "account", "version": 2});
        let claims =
            json!({"jti": format!("{id}"), "iat": iat, "name": format!("t{number}"), "sub": key, "nats": nats});
        let token: Arc<str> = sign(issuer, claims).into();
        let jti = u64::from(id);
        self.state().learn(&token, Meta { iat, jti, trusted: !foreign, generation: 0 });
        token
    }

    /// Asks the servers and waits for the answer of each that runs.
    async fn ask(&self, subject: &'static str, payload: String) {
        let running = self.real.servers().iter().filter(|server| server.pid().is_some()).count();
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.unwrap();
        self.client.publish_with_reply(subject, inbox, payload.into()).await.unwrap();
        for _ in 0..running {
            let answer = tokio::time::timeout(Duration::from_secs(10), answers.next()).await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&answer.payload).into_owned();
            assert!(text.contains("\"code\":200"), "{text}");
        }
    }

    /// Waits until a request reaches the third server: the first hears of what it listens to only after their route
    /// has formed.
    async fn reaches_third(&self) {
        let heard = || async {
            let inbox = self.client.new_inbox();
            let answers = self.client.subscribe(inbox.clone()).await.unwrap();
            self.client.publish_with_reply("$SYS.REQ.CLAIMS.LIST", inbox, "".into()).await.unwrap();
            let all = answers.take(3).collect::<Vec<_>>();
            tokio::time::timeout(Duration::from_millis(500), all).await.is_ok()
        };
        eventually("all three answer", heard).await;
    }

    async fn carry_out(&self, key: Key, what: Do) {
        let token = match what {
            Update(number) => self.token(key, number, false),
            Respelled(number) => respelled(&self.token(key, number, false)).unwrap().into(),
            Foreign(number) => self.token(key, number, true),
            Delete => {
                let operator = self.operator.public();
                let nats = json!({"accounts": [key], "type": "generic", "version": 2});
                let request =
                    sign(&self.operator, json!({"jti": "d", "iat": 1_700_000_000, "sub": operator, "nats": nats}));
                self.ask("$SYS.REQ.CLAIMS.DELETE", request).await;
                let mut state = self.state();
                let up: Vec<_> = (0..3).filter(|node| state.nodes[*node].up).collect();
                for node in up {
                    state.remove(node, key);
                }
                return;
            }
            LoseFile => {
                fs::remove_file(self.real.servers()[2].resolver_dir().join(format!("{key}.jwt"))).unwrap();
                self.state().nodes[2].files.remove(&key);
                return;
            }
        };
        self.ask("$SYS.REQ.CLAIMS.UPDATE", token.to_string()).await;
        let mut state = self.state();
        let up: Vec<_> = (0..3).filter(|node| state.nodes[*node].up).collect();
        for node in up {
            state.store(node, key, &token);
        }
    }

    /// Does again what a round of sync overtook: simulated servers hear of a change all at once, of real ones the
    /// last to hear of it may send what it stores to one that has carried it out. Then an account is again what it
    /// was before, on some server, and only then.
    async fn again(&self, phase: usize, keys: &[Key], before: &Stored, predicted: &Stored) {
        let seen = self.seen();
        for (key, (name, script)) in keys.iter().zip(SCRIPTS) {
            let Some(last @ (Update(_) | Delete)) = script[phase].last() else { continue };
            let key_text = key.to_string();
            let of = |stored: &Stored| stored.iter().map(|server| server.get(&key_text).cloned()).collect::<Vec<_>>();
            let pairs = of(&seen).into_iter().zip(of(predicted));
            let others: Vec<_> = pairs.filter(|(real, simulated)| real != simulated).map(|(real, _)| real).collect();
            let before = of(before);
            if !others.is_empty() && others.iter().all(|real| real.is_some() && before.contains(real)) {
                println!("phase {phase}, {name}: overtaken by sync, {last:?} again");
                self.carry_out(*key, *last).await;
            }
        }
    }

    async fn third(&mut self, what: Third) {
        let dir = self.real.servers()[2].resolver_dir();
        if !matches!(what, Third::Stays | Third::ReturnsAsItWas) {
            self.real.stop_server(2, Stop::Kill).await.unwrap();
            self.state().nodes[2].up = false;
        }
        match what {
            Third::Stays | Third::Dies => return,
            Third::ReturnsAsItWas => {}
            Third::RestartsEmpty => {
                fs::remove_dir_all(&dir).unwrap();
                self.state().nodes[2].files.clear();
            }
            Third::RestartsFromBackup => {
                fs::remove_dir_all(&dir).unwrap();
                copy(&self.backup, &dir);
                let node = &mut self.state().nodes[2];
                node.files.clone_from(&node.backup);
            }
        }
        self.state().start(2);
        self.real.start_server(2).await.unwrap();
        self.reaches_third().await;
    }

    /// What the simulated servers store once they have synchronized for long enough.
    fn predicted(&self) -> Stored {
        let mut state = self.state();
        for _ in 0..4 {
            for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)] {
                state.sync(from, to);
            }
        }
        let files = state
            .nodes
            .iter()
            .map(|node| node.files.iter().map(|(key, token)| (key.to_string(), token.to_string())).collect());
        files.collect()
    }

    fn seen(&self) -> Stored {
        self.real.servers().iter().map(|server| files(&server.resolver_dir())).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (key, token) in files(from) {
        fs::write(to.join(format!("{key}.jwt")), token).unwrap();
    }
}

/// A server writes while we read: what is not there any more is not there.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(dir).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let key = path.file_name()?.to_str()?.strip_suffix(".jwt")?.to_owned();
        Some((key, fs::read_to_string(path).ok()?))
    });
    files.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn real_servers_end_up_storing_what_the_simulated_ones_do() {
    let dir = support::temp_dir();
    let (cluster, client) = real(&dir.path().join("nats")).await;
    let mut both = Both {
        simulated: SimulatedCluster::new(3, 1),
        real: cluster,
        client,
        operator: operator_key(),
        stranger: generate(),
        backup: dir.path().join("backup"),
    };
    let system: Arc<str> = trust().system_account_jwt.into();
    {
        let mut state = both.state();
        state.learn(&system, Meta { iat: 1_700_000_000, jti: u64::MAX, trusted: true, generation: 0 });
        state.system = Some((system_account(), system));
        (0..3).for_each(|node| state.start(node));
    }
    let keys: Vec<Key> = SCRIPTS.iter().map(|_| generate().public()).collect();
    for (phase, third) in PHASES.into_iter().enumerate() {
        both.third(third).await;
        let before = both.seen();
        for (key, (_, script)) in keys.iter().zip(SCRIPTS) {
            for what in script[phase] {
                both.carry_out(*key, *what).await;
            }
        }
        let predicted = both.predicted();
        let same = || both.seen() == predicted;
        let mut waited = tokio::time::Instant::now();
        let mut looked = waited;
        let end = waited + Duration::from_secs(20);
        // And it stays so for some rounds of sync.
        while waited.elapsed() < Duration::from_secs(2) {
            if !same() {
                waited = tokio::time::Instant::now();
                if waited > end {
                    report(phase, third, &keys, &both.seen(), &predicted);
                }
                if looked.elapsed() > Duration::from_secs(1) {
                    both.again(phase, &keys, &before, &predicted).await;
                    looked = tokio::time::Instant::now();
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("phase {phase}, {third:?}: {} accounts on 3 servers as simulated", predicted[0].len());
        if phase == 0 {
            copy(&both.real.servers()[2].resolver_dir(), &both.backup);
            let mut state = both.state();
            let node = &mut state.nodes[2];
            node.backup.clone_from(&node.files);
        }
    }
    equal_issue_times_meet(&mut both).await;
}

/// Of two JWTs with one issue time and two ids either wins, but the same one on all servers.
async fn equal_issue_times_meet(both: &mut Both) {
    let key: Key = generate().public();
    both.carry_out(key, Update(401)).await;
    both.third(Third::Dies).await;
    both.carry_out(key, Update(402)).await;
    both.third(Third::ReturnsAsItWas).await;
    let either = [401, 402].map(|number| both.token(key, number, false).to_string());
    let one = |stored: &Stored| {
        let tokens: Vec<_> = stored.iter().map(|server| server.get(&key.to_string())).collect();
        tokens.iter().all(|token| *token == tokens[0]) && tokens[0].is_some_and(|token| either.contains(token))
    };
    assert!(one(&both.predicted()), "simulated");
    eventually("all store the same", || async { one(&both.seen()) }).await;
}

fn report(phase: usize, third: Third, keys: &[Key], seen: &Stored, predicted: &Stored) {
    for (key, (name, _)) in keys.iter().zip(SCRIPTS) {
        let key = key.to_string();
        for server in 0..3 {
            let (real, simulated) = (seen[server].get(&key), predicted[server].get(&key));
            assert!(
                real == simulated,
                "phase {phase}, {third:?}, n{}, {name}: real {real:?}, simulated {simulated:?}",
                server + 1
            );
        }
    }
    panic!("phase {phase}, {third:?}: other accounts differ");
}
