//! Many credentials are rotated by one command that is killed on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use nats_authority::{
    authority::{
        proof,
        requests::{NewCredential, Rotate},
    },
    entropy::SystemEntropy,
    model::{CredentialState, Environment, view::CredentialView},
    nkey::{KeyPair, User},
    store::{listing::Filter, page::Page},
};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    remote::{Service, creds_file},
    support::stack::eventually,
};

const MANY: usize = 200;

async fn issue(s: &Service, env: &str, items: Vec<NewCredential>) -> Vec<Uuid> {
    let (org, env) = ("acme".parse().unwrap(), env.parse().unwrap());
    let issued = s.ledger.authority.issue_batch(&s.ledger.actor, &org, &env, items).await.unwrap();
    issued.into_iter().map(|issued| issued.credential.id).collect()
}

fn viewer(name: String) -> NewCredential {
    NewCredential { name, role: "viewer".to_owned(), ..NewCredential::default() }
}

/// One for a key that the authority does not have.
fn own() -> NewCredential {
    let key = KeyPair::<User>::generate(&SystemEntropy::new());
    let environment = Environment::new("acme".parse().unwrap(), "prod".parse().unwrap());
    let proof = Some(proof::prove(&environment, "viewer", &key));
    NewCredential { public_key: Some(key.public().to_string()), proof, ..viewer("own".to_owned()) }
}

async fn all(s: &Service) -> BTreeMap<Uuid, CredentialView> {
    let page = Page { limit: 1000, after: None };
    let (all, more) =
        s.ledger.authority.credentials(&"acme".parse().unwrap(), &Filter::default(), &page).await.unwrap();
    assert!(!more);
    all.into_iter().map(|one| (one.id, one)).collect()
}

fn files(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| Path::new(name).extension().is_some_and(|end| end == "creds")).collect()
}

/// As if it had been killed between the answer and the journal: before the file was written, or behind it.
fn forget(dir: &Path, with_file: bool, nth: usize) -> Uuid {
    let journal = dir.join(".nats-authority-rotation.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let job: Value = serde_json::from_str(lines[0]).unwrap();
    let done: Value = serde_json::from_str(lines[nth]).unwrap();
    let id = &done["done"]["id"];
    if with_file {
        let item = job["job"]["items"].as_array().unwrap().iter().find(|item| item["id"] == *id).unwrap();
        fs::remove_file(dir.join(item["file"].as_str().unwrap())).unwrap();
    }
    let rest: Vec<_> =
        lines.iter().enumerate().filter(|(n, _)| *n != nth).map(|(_, line)| format!("{line}\n")).collect();
    fs::write(&journal, rest.concat()).unwrap();
    id.as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_rotated_once_and_its_file_is_there_though_the_command_is_killed() {
    let s = Service::start().await;
    s.done("org create acme --env prod,dev").await;
    // Names are labels: some are there twice.
    let old = issue(&s, "prod", (0..MANY).map(|n| viewer(format!("c{}", n % 180))).collect()).await;
    let owned = issue(&s, "prod", vec![own()]).await[0];
    let elsewhere = issue(&s, "dev", vec![viewer("d".to_owned())]).await[0];
    s.ledger.clock.advance(100);
    let young = issue(&s, "prod", vec![viewer("young".to_owned())]).await[0];
    let dir = s.dir.path().join("out");
    fs::create_dir(&dir).unwrap();

    let line = "cred rotate --org acme --env prod --older-than 1m --grace 1h --rate 1000 --out-dir DIR/out";
    for at in [MANY / 4, MANY / 2] {
        let mut run = s.command(line).kill_on_drop(true).spawn().unwrap();
        eventually("some are rotated", || async { files(&dir).len() >= at }).await;
        run.kill().await.unwrap();
        assert!(files(&dir).len() < MANY, "it was to be killed before its end");
    }
    let (lost, kept) = (forget(&dir, true, 3), forget(&dir, false, 5));
    let before = all(&s).await;
    let replaced_by = |all: &BTreeMap<Uuid, CredentialView>, id: Uuid| -> Vec<Uuid> {
        all.values().filter(|one| one.replaces == Some(id)).map(|one| one.id).collect()
    };
    assert_eq!(s.run(&line.replace("1h", "2h")).await.failed(), (1, "other-job"));
    let ran = s.run(&format!("{line} -o json")).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("going on"), "{}", ran.err);

    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    let count = |part: &str| summary[part].as_array().unwrap().len();
    assert_eq!((count("rotated"), count("skipped"), count("failed")), (MANY, 1, 0), "{summary}");
    assert_eq!(summary["skipped"][0]["id"], owned.to_string());
    let after = all(&s).await;
    let mut users = BTreeSet::new();
    for one in summary["rotated"].as_array().unwrap() {
        let id = |part: &str| -> Uuid { one[part].as_str().unwrap().parse().unwrap() };
        let (claims, _) = creds_file(one["file"].as_str().unwrap());
        let new = &after[&id("new")];
        assert_eq!((new.state, &claims.subject.to_string()), (CredentialState::Active, &new.user_key));
        assert!(users.insert(new.user_key.clone()), "{new:?}");
        // Back to the old one, over whatever was lost on the way: nobody holds that, so it had no grace time.
        let (mut back, mut steps) = (new, 0);
        while back.id != id("old") {
            let before = &after[&back.replaces.unwrap()];
            assert_eq!(replaced_by(&after, before.id), [back.id], "superseded once");
            assert_eq!(before.state, CredentialState::Superseded);
            assert_eq!(before.ends_at == Some(s.ledger.authority.now()), before.id != id("old"), "{before:?}");
            (back, steps) = (before, steps + 1);
        }
        match back.id {
            id if id == lost => assert_eq!(steps, 2, "it was issued again"),
            id if id == kept => assert_eq!(replaced_by(&before, id), [new.id], "its file was there"),
            _ => {}
        }
    }
    assert_eq!(old.iter().filter(|id| after[id].state == CredentialState::Superseded).count(), MANY);
    for id in [owned, elsewhere, young] {
        assert_eq!(after[&id].state, CredentialState::Active);
    }
    // One for each, and for each that was lost one more: the one that we made so, and two kills.
    assert!((MANY + 1..=MANY + 3).contains(&(after.len() - MANY - 3)), "{}", after.len());
    assert_eq!(files(&dir).len(), MANY);
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
    // That job is over; the next one would overwrite.
    let next = "cred rotate --org acme --env prod --out-dir DIR/out";
    assert_eq!(s.run(next).await.failed(), (1, "file-exists"));
}

#[tokio::test]
async fn what_cannot_be_rotated_is_named_and_holds_up_no_other() {
    let s = Service::start().await;
    s.done("org create acme --env prod").await;
    let ids = issue(&s, "prod", ["a", "b", "c"].map(|name| viewer(name.to_owned())).to_vec()).await;
    fs::create_dir(s.path("out")).unwrap();
    // They are rotated in the order of their ids, which is not that of their issue in one and the same moment.
    let last = *ids.iter().max().unwrap();
    let line = "cred rotate --org acme --out-dir DIR/out --rate 1";
    // The job begins with three, then somebody else rotates one.
    let mut run = s.command(line).kill_on_drop(true).spawn().unwrap();
    eventually("the first is rotated", || async { files(Path::new(&s.path("out"))).len() == 1 }).await;
    s.ledger.authority.rotate(&s.ledger.actor, last, Rotate::default()).await.unwrap();
    run.kill().await.unwrap();
    let ran = s.run(line).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains(&last.to_string()) && ran.out.contains("credential-superseded"), "{}", ran.out);
    assert!(ran.err.contains("not-all-rotated"), "{}", ran.err);
    assert_eq!(files(Path::new(&s.path("out"))).len(), 2);
}

#[tokio::test]
async fn a_dry_run_lists_and_rotates_nothing() {
    let s = Service::start().await;
    s.done("org create acme --env prod").await;
    let id = issue(&s, "prod", vec![viewer("a".to_owned()), own()]).await[0];
    fs::create_dir(s.path("out")).unwrap();
    let before = all(&s).await;
    let ran = s.run("cred rotate --org acme --out-dir DIR/out --dry-run").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains(&id.to_string()) && ran.out.contains("acme-prod-a.creds"), "{}", ran.out);
    assert!(ran.err.contains("1 would be, of 1 the owners hold the keys"), "{}", ran.err);
    let ran = s.run("cred rotate --org acme --out-dir DIR/out --dry-run -o json").await;
    let listed: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &serde_json::json!(id)));
    assert_eq!(fs::read_dir(s.path("out")).unwrap().count(), 0, "no journal either");
    let after = all(&s).await;
    let states = |all: &BTreeMap<Uuid, CredentialView>| all.values().map(|one| (one.id, one.state)).collect::<Vec<_>>();
    assert_eq!(states(&before), states(&after));
}
