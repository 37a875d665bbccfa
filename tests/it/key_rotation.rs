//! Rotation of account signing keys: what the ledger decides and refuses.

use std::collections::BTreeMap;

use nats_authority::{
    authority::{
        Actor, Issued, Proposal,
        requests::{NewCredential, Reason, Rotate, RotateKeys},
    },
    jwt,
    model::{CallerRole, CredentialState, OrgSlug, RotationState, key_rotation::KeyRotationView},
    store::accounts::AccountServer,
};
use sqlx::Connection as _;
use uuid::Uuid;

use crate::ledger::{Ledger, acme, ledger};

fn slug() -> OrgSlug {
    "acme".parse().unwrap()
}

fn officer() -> Actor {
    Actor::caller("olga", [CallerRole::SecurityOfficer])
}

fn of_viewers() -> RotateKeys {
    RotateKeys { env_type: Some("prod".to_owned()), role: Some("viewer".to_owned()), ..RotateKeys::default() }
}

async fn propose(l: &Ledger, request: RotateKeys) -> KeyRotationView {
    let mut rotations = l.authority.propose_key_rotations(&l.actor, &slug(), &request).await.unwrap();
    assert_eq!(rotations.len(), 1);
    rotations.remove(0)
}

async fn approve(l: &Ledger, id: Uuid) -> KeyRotationView {
    l.authority.approve_key_rotation(&officer(), id).await.unwrap()
}

async fn show(l: &Ledger, id: Uuid) -> KeyRotationView {
    l.authority.key_rotation(id).await.unwrap()
}

async fn step(l: &Ledger) -> usize {
    l.authority.step_key_rotations().await.unwrap()
}

async fn issue(l: &Ledger, name: &str) -> Issued {
    let request = NewCredential { name: name.to_owned(), role: "viewer".to_owned(), ..NewCredential::default() };
    l.authority.issue(&l.actor, &slug(), &"prod".parse().unwrap(), request).await.unwrap()
}

/// The named servers run the account as it is now.
async fn runs(l: &Ledger, servers: &[&str]) {
    let view = l.authority.organization(&slug()).await.unwrap();
    let account = view.account_id.parse().unwrap();
    let has: Vec<_> = servers
        .iter()
        .map(|server| AccountServer {
            account,
            server: (*server).to_owned(),
            server_id: server.to_uppercase(),
            stored: view.resolver.generation,
            effective: Some(view.resolver.generation),
            error: None,
        })
        .collect();
    l.authority.store().report_push(&[], &has, l.authority.now()).await.unwrap();
}

async fn run_everywhere(l: &Ledger) {
    runs(l, &["n1", "n2", "n3"]).await;
}

/// The keys of the account as its JWT has them, and those of the ledger by state.
async fn keys(l: &Ledger) -> (Vec<String>, BTreeMap<String, String>) {
    let account = l.authority.organization(&slug()).await.unwrap().account_id.parse().unwrap();
    let token = l.authority.store().account_jwt(account).await.unwrap().unwrap();
    let claims = jwt::decode::<jwt::Account>(&token).unwrap().claims.nats;
    let ledger = l.authority.organization_keys(&slug()).await.unwrap();
    let states = ledger.into_iter().map(|key| (key.row.public_key, key.row.state)).collect();
    (claims.signing_keys.0.keys().map(ToString::to_string).collect(), states)
}

async fn code<T>(result: impl Future<Output = nats_authority::error::Result<T>>) -> &'static str {
    result.await.err().unwrap().code()
}

async fn sql(l: &Ledger, statement: &'static str) -> Result<(), sqlx::Error> {
    let mut connection = sqlx::PgConnection::connect(l.database.url()).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.map(drop)
}

#[tokio::test]
async fn from_the_proposal_to_the_end() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let old = issue(&l, "v1").await;
    let generation = async || l.authority.organization(&slug()).await.unwrap().resolver.generation;
    let before = generation().await;
    let proposed = propose(&l, of_viewers()).await;
    assert_eq!((proposed.state, &proposed.old_key), (RotationState::Proposed, &old.credential.issuer_key));
    assert!(proposed.waits_for.unwrap().contains("security-officer"));
    assert_eq!((step(&l).await, generation().await), (0, before), "a proposal changes nothing");
    // Nobody approves alone, and only with the role.
    assert_eq!(code(l.authority.approve_key_rotation(&l.actor, proposed.id)).await, "approval-needs-security-officer");
    let same = Actor::caller("test", [CallerRole::SecurityOfficer]);
    assert_eq!(code(l.authority.approve_key_rotation(&same, proposed.id)).await, "approval-needs-second-person");
    assert_eq!(
        code(l.authority.propose_key_rotations(
            &l.actor,
            &slug(),
            &RotateKeys { public_key: Some(proposed.old_key.clone()), ..RotateKeys::default() }
        ))
        .await,
        "key-rotation-open"
    );

    let pending = approve(&l, proposed.id).await;
    let new_key = pending.new_key.clone().unwrap();
    assert_eq!(generation().await, before + 1);
    let (account, states) = keys(&l).await;
    assert!(account.contains(&new_key) && account.contains(&pending.old_key));
    assert_eq!((&*states[&new_key], &*states[&pending.old_key]), ("pending", "active"));
    assert_eq!(issue(&l, "v2").await.credential.issuer_key, pending.old_key, "a pending key signs nothing");
    runs(&l, &["n1", "n3"]).await;
    assert_eq!(step(&l).await, 0);
    let waiting = show(&l, proposed.id).await;
    assert_eq!(waiting.servers, ["n2"]);
    assert!(waiting.waits_for.unwrap().ends_with(": n2"));

    runs(&l, &["n2"]).await;
    assert_eq!(step(&l).await, 1);
    let retiring = show(&l, proposed.id).await;
    assert_eq!((retiring.state, retiring.credentials), (RotationState::Retiring, 2));
    assert_eq!(retiring.retire_after, Some(l.authority.now() + chrono::TimeDelta::hours(24)));
    assert_eq!(generation().await, before + 1, "both keys are in the account already");
    let new = issue(&l, "v3").await;
    assert_eq!(new.credential.issuer_key, new_key);
    assert_eq!(
        code(l.authority.cancel_key_rotation(&l.actor, proposed.id, &Reason::default())).await,
        "key-rotation-state"
    );

    // After the grace time it waits for what was not rotated, and says for how many.
    l.clock.advance(24 * 3600);
    assert_eq!(step(&l).await, 0);
    let words = show(&l, proposed.id).await.waits_for.unwrap();
    assert!(words.starts_with("2 credentials under the old key, the last of which ends at "), "{words}");
    let listed = l.authority.organization_keys(&slug()).await.unwrap();
    let of_old = listed.into_iter().find(|key| key.row.public_key == retiring.old_key).unwrap();
    assert_eq!((of_old.under.count, of_old.rotation.unwrap().id), (2, proposed.id));
    let rotated =
        l.authority.rotate(&l.actor, old.credential.id, Rotate { grace: Some("1h".to_owned()), ..Rotate::default() });
    assert_eq!(rotated.await.unwrap().credential.issuer_key, new_key);
    let page = nats_authority::store::page::Page { limit: 10, after: None };
    let (all, _) =
        l.authority.credentials(&slug(), &nats_authority::store::listing::Filter::default(), &page).await.unwrap();
    let second = all.iter().find(|credential| credential.name == "v2").unwrap();
    l.authority.revoke(&l.actor, second.id, Reason::default()).await.unwrap();
    assert_eq!(
        (step(&l).await, show(&l, proposed.id).await.credentials),
        (0, 1),
        "the superseded one lives for an hour"
    );
    l.clock.advance(3600);
    l.authority.end_superseded(l.authority.now()).await.unwrap();
    assert_eq!(step(&l).await, 1);
    let removing = show(&l, proposed.id).await;
    assert_eq!((removing.state, removing.servers.len()), (RotationState::Removing, 3));
    let (account, states) = keys(&l).await;
    assert!(account.contains(&new_key) && !account.contains(&removing.old_key));
    assert_eq!((&*states[&new_key], &*states[&removing.old_key]), ("active", "retired"));
    run_everywhere(&l).await;
    assert_eq!(step(&l).await, 1);
    let done = show(&l, proposed.id).await;
    assert_eq!((done.state, done.waits_for), (RotationState::Done, None));
    assert_eq!(step(&l).await, 0);
    assert_eq!(l.authority.credential(new.credential.id).await.unwrap().state, CredentialState::Active);
}

#[tokio::test]
async fn with_force_the_grace_time_ends_whoever_is_left() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let old = issue(&l, "v1").await;
    let id = propose(&l, RotateKeys { force: true, grace: Some("2h".to_owned()), ..of_viewers() }).await.id;
    approve(&l, id).await;
    run_everywhere(&l).await;
    assert_eq!(step(&l).await, 1);
    l.clock.advance(2 * 3600 - 1);
    assert_eq!(step(&l).await, 0);
    l.clock.advance(1);
    // Two replicas look at the same time: one makes the step.
    let counts = futures::future::join_all((0..4).map(|_| l.authority.step_key_rotations())).await;
    assert_eq!(counts.into_iter().map(Result::unwrap).sum::<usize>(), 1);
    let ended = l.authority.credential(old.credential.id).await.unwrap();
    assert_eq!(ended.state, CredentialState::Revoked);
    assert_eq!(ended.revocation_reason.unwrap(), format!("signing key removed by rotation {id}"));
    // The key has left, so no entry is needed, and none could hit a successor.
    let account = l.authority.organization(&slug()).await.unwrap().account_id.parse().unwrap();
    let token = l.authority.store().account_jwt(account).await.unwrap().unwrap();
    assert!(jwt::decode::<jwt::Account>(&token).unwrap().claims.nats.revocations.is_empty());
}

#[tokio::test]
async fn a_compromised_key_leaves_at_once_and_nothing_is_signed_until_the_new_one_is_known() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let old = issue(&l, "v1").await;
    let immediately = RotateKeys { immediately: true, ..of_viewers() };
    let graced = RotateKeys { grace: Some("1h".to_owned()), ..immediately.clone() };
    assert_eq!(code(l.authority.propose_key_rotations(&l.actor, &slug(), &graced)).await, "invalid-selector");
    let id = propose(&l, immediately).await.id;
    // The preview is the change itself, undone.
    let preview = l.authority.preview(&officer(), Proposal::ApproveKeyRotation(id)).await.unwrap();
    assert_eq!(preview.next_generation, preview.generation + 1);
    assert!(!preview.after.signing_keys.0.keys().any(|key| key.to_string() == old.credential.issuer_key));
    assert_eq!(show(&l, id).await.state, RotationState::Proposed);

    let pending = approve(&l, id).await;
    let (account, states) = keys(&l).await;
    assert!(!account.contains(&pending.old_key), "out with the approval");
    assert_eq!(&*states[&pending.old_key], "retired");
    assert_eq!(l.authority.credential(old.credential.id).await.unwrap().state, CredentialState::Revoked);
    let request = NewCredential { name: "v2".to_owned(), role: "viewer".to_owned(), ..NewCredential::default() };
    let (slug, prod) = (slug(), "prod".parse().unwrap());
    assert_eq!(code(l.authority.issue(&l.actor, &slug, &prod, request)).await, "signing-key-pending");
    assert_eq!(code(l.authority.cancel_key_rotation(&l.actor, id, &Reason::default())).await, "key-rotation-state");
    run_everywhere(&l).await;
    assert_eq!(step(&l).await, 1);
    assert_eq!(issue(&l, "v3").await.credential.issuer_key, pending.new_key.unwrap());
    assert_eq!(step(&l).await, 1);
    assert_eq!(show(&l, id).await.state, RotationState::Done);
}

#[tokio::test]
async fn hastened_cancelled_and_abandoned() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let old = issue(&l, "v1").await;
    let id = propose(&l, of_viewers()).await.id;
    assert_eq!(code(l.authority.hasten_key_rotation(&officer(), id, &Reason::default())).await, "key-rotation-state");
    approve(&l, id).await;
    let cancelled = l.authority.cancel_key_rotation(&l.actor, id, &Reason::default()).await.unwrap();
    assert_eq!((cancelled.state, cancelled.ended_because.as_deref()), (RotationState::Cancelled, Some("test")));
    let (account, states) = keys(&l).await;
    assert!(!account.contains(&cancelled.new_key.clone().unwrap()) && account.contains(&cancelled.old_key));
    assert_eq!(&*states[&cancelled.old_key], "active");
    assert_eq!(code(l.authority.approve_key_rotation(&officer(), id)).await, "key-rotation-state");

    // A key may be asked for again; hastened while it retires, it goes at once.
    let id = propose(&l, of_viewers()).await.id;
    approve(&l, id).await;
    run_everywhere(&l).await;
    assert_eq!(step(&l).await, 1);
    assert_eq!(
        code(l.authority.hasten_key_rotation(&l.actor, id, &Reason::default())).await,
        "approval-needs-security-officer"
    );
    let hastened = l.authority.hasten_key_rotation(&officer(), id, &Reason::default()).await.unwrap();
    assert_eq!((hastened.state, hastened.credentials), (RotationState::Removing, 0));
    assert_eq!(l.authority.credential(old.credential.id).await.unwrap().state, CredentialState::Revoked);
    run_everywhere(&l).await;
    assert_eq!(step(&l).await, 1);

    // Hastened before the new key signs: as if it had been asked for immediately.
    let id = propose(&l, of_viewers()).await.id;
    approve(&l, id).await;
    let hastened = l.authority.hasten_key_rotation(&officer(), id, &Reason::default()).await.unwrap();
    assert_eq!((hastened.state, hastened.immediately), (RotationState::Pending, true));
    run_everywhere(&l).await;
    assert_eq!((step(&l).await, step(&l).await), (1, 1));

    // All keys at once, those that are rotated already left alone; their environment goes.
    let first = propose(&l, of_viewers()).await;
    let all = l.authority.propose_key_rotations(&l.actor, &slug(), &RotateKeys::default()).await.unwrap();
    let (_, states) = keys(&l).await;
    assert_eq!(all.len(), states.values().filter(|state| *state == "active").count() - 1);
    assert_eq!(
        code(l.authority.propose_key_rotations(&l.actor, &slug(), &RotateKeys::default())).await,
        "key-rotation-open"
    );
    approve(&l, first.id).await;
    l.authority.delete_environment(&l.actor, &slug(), &"prod".parse().unwrap()).await.unwrap();
    let in_prod = all.iter().filter(|rotation| rotation.env_type.as_deref() == Some("prod")).count();
    assert_eq!(step(&l).await, in_prod + 1);
    assert_eq!(show(&l, first.id).await.state, RotationState::Cancelled);
    assert_eq!(keys(&l).await.1[&first.new_key.unwrap_or(first.old_key)], "retired");
}

#[tokio::test]
async fn the_database_skips_no_step() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let id = propose(&l, of_viewers()).await.id;
    for skipped in [
        "UPDATE key_rotations SET state = 'pending'",
        "UPDATE key_rotations SET state = 'retiring', approved_by = 'x', approved_at = now(), activated_at = now(), retire_after = now(), new_key = old_key",
        "UPDATE key_rotations SET state = 'done', ended_at = now()",
        "UPDATE key_rotations SET approved_by = requested_by, approved_at = now()",
        "UPDATE signing_keys SET state = 'retiring' WHERE public_key = (SELECT old_key FROM key_rotations)",
        "UPDATE signing_keys SET state = 'retired' WHERE public_key = (SELECT old_key FROM key_rotations)",
        "UPDATE signing_keys SET role = 'publisher' WHERE public_key = (SELECT old_key FROM key_rotations)",
    ] {
        assert!(sql(&l, skipped).await.is_err(), "{skipped}");
    }
    approve(&l, id).await;
    for skipped in [
        "UPDATE signing_keys SET state = 'active' WHERE state = 'pending'",
        "UPDATE key_rotations SET state = 'removing', activated_at = now(), removed_at = now()",
        "UPDATE key_rotations SET state = 'proposed'",
        "UPDATE key_rotations SET approved_by = 'somebody'",
    ] {
        assert!(sql(&l, skipped).await.is_err(), "{skipped}");
    }
    run_everywhere(&l).await;
    step(&l).await;
    for skipped in [
        "UPDATE signing_keys SET state = 'active' WHERE state = 'retiring'",
        "UPDATE signing_keys SET state = 'retired' WHERE state = 'retiring'",
        "UPDATE key_rotations SET state = 'done', ended_at = now(), removed_at = now()",
        "UPDATE key_rotations SET state = 'pending'",
    ] {
        assert!(sql(&l, skipped).await.is_err(), "{skipped}");
    }
}
