//! Rotation of the operator's signing key: what the ledger decides and refuses.

use nats_authority::{
    authority::{Actor, Authority, Standing, operator_jwt, requests::Reason},
    error::Result,
    jwt,
    model::{CallerRole, OrgSlug, RotationState, operator_rotation::OperatorRotationView},
    nkey::{Operator, PublicKey},
    store::accounts::AccountServer,
};
use sqlx::Connection as _;
use uuid::Uuid;

use crate::ledger::{Ledger, acme, ledger};

fn officer() -> Actor {
    Actor::caller("olga", [CallerRole::SecurityOfficer])
}

async fn code<T>(result: impl Future<Output = Result<T>>) -> &'static str {
    result.await.err().unwrap().code()
}

async fn sql(l: &Ledger, statement: &'static str) -> std::result::Result<(), sqlx::Error> {
    let mut connection = sqlx::PgConnection::connect(l.database.url()).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.map(drop)
}

/// The three servers trust these keys.
fn trust(authority: &Authority, keys: [&[&str]; 3]) {
    let mut standing = Standing::clone(&authority.standing());
    let present = authority.operator_signing_key().to_string();
    for (server, keys) in standing.servers.iter_mut().zip(keys) {
        server.told.operator_keys = keys.iter().map(ToString::to_string).collect();
        server.trusts_us = Some(keys.contains(&present.as_str()));
    }
    authority.set_standing(standing);
}

/// What `operator sign` does with what is proposed.
async fn sign(l: &Ledger) -> String {
    let proposal = l.authority.operator_jwt_proposal().await.unwrap();
    operator_jwt::sign(&proposal, &l.identity_seed, l.authority.now().timestamp()).unwrap().token
}

/// All servers run every account as it is now.
async fn run_everywhere(l: &Ledger) {
    let due = l.authority.store().claim_due_accounts(1000, 60, l.authority.now()).await.unwrap();
    let has = |due: &nats_authority::store::pushes::DueAccount| {
        let (account, generation) = (due.account, due.generation);
        ["n1", "n2", "n3"].map(|server| AccountServer {
            account,
            server: server.to_owned(),
            server_id: server.to_uppercase(),
            stored: generation,
            effective: Some(generation),
            error: None,
        })
    };
    let has: Vec<_> = due.iter().flat_map(has).collect();
    l.authority.store().report_push(&[], &has, l.authority.now()).await.unwrap();
}

/// Who signed what every account says now.
async fn signers(l: &Ledger) -> Vec<PublicKey<Operator>> {
    let mut connection = sqlx::PgConnection::connect(l.database.url()).await.unwrap();
    let tokens: Vec<String> = sqlx::query_scalar("SELECT jwt FROM accounts WHERE state <> 'deleted'")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let signer = |token: &String| jwt::decode::<jwt::Account>(token).unwrap().claims.issuer.typed().unwrap();
    let mut signers: Vec<_> = tokens.iter().map(signer).collect();
    signers.sort();
    signers.dedup();
    signers
}

async fn show(l: &Ledger, id: Uuid) -> OperatorRotationView {
    l.authority.operator_rotation(id).await.unwrap()
}

async fn step(l: &Ledger) -> bool {
    l.authority.step_operator_rotation().await.unwrap()
}

#[tokio::test]
async fn from_the_proposal_to_the_end() {
    let l = ledger().await;
    let other = l.reopen().await;
    let (a, slug) = (&l.authority, "acme".parse::<OrgSlug>().unwrap());
    a.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let old = a.operator_signing_key();
    assert!(a.operator_jwt_proposal().await.unwrap().is_empty());
    let proposed = a.propose_operator_rotation(&l.actor, &Reason::default()).await.unwrap();
    let id = proposed.id;
    assert_eq!((proposed.state, proposed.old_key), (RotationState::Proposed, old.to_string()));
    assert_eq!(code(a.propose_operator_rotation(&l.actor, &Reason::default())).await, "key-rotation-open");
    assert_eq!(code(a.approve_operator_rotation(&l.actor, id)).await, "approval-needs-security-officer");
    let same = Actor::caller("test", [CallerRole::SecurityOfficer]);
    assert_eq!(code(a.approve_operator_rotation(&same, id)).await, "approval-needs-second-person");
    let pending = a.approve_operator_rotation(&officer(), id).await.unwrap();
    let new: PublicKey<Operator> = pending.new_key.clone().unwrap().parse().unwrap();
    assert!(pending.needs_operator_jwt && pending.waits_for.unwrap().contains("lists both keys"));
    let (old_text, new_text) = (old.to_string(), new.to_string());
    let (old_only, both, new_only) = ([&*old_text], [&*old_text, &*new_text], [&*new_text]);
    trust(a, [&old_only; 3]);
    assert!(!step(&l).await);

    // The operator JWT: exactly what is proposed. One server is restarted after the other.
    let present = a.operator().jwt.clone();
    assert_eq!(code(a.set_operator_jwt(&l.actor, "x")).await, "invalid-operator-jwt");
    let jwt = sign(&l).await;
    a.set_operator_jwt(&l.actor, &jwt).await.unwrap();
    a.set_operator_jwt(&l.actor, &jwt).await.unwrap();
    assert_eq!(code(a.set_operator_jwt(&l.actor, &present)).await, "invalid-operator-jwt");
    other.refresh_operator().await.unwrap();
    assert_eq!(other.operator().jwt, jwt, "another replica takes it up");
    trust(a, [&both, &old_only, &both]);
    assert!(!step(&l).await);
    let waiting = show(&l, id).await;
    assert_eq!((waiting.state, waiting.servers), (RotationState::Pending, vec!["n2".to_owned()]));
    assert!(waiting.waits_for.unwrap().ends_with(": n2"));
    let before = a.organization(&slug).await.unwrap().resolver.generation;
    trust(a, [&both; 3]);

    // The new key signs; what is minted now is signed with it, also by who has not heard of it.
    assert!(step(&l).await);
    assert_eq!((a.operator_signing_key(), other.operator_signing_key()), (new, old));
    assert_eq!(show(&l, id).await.accounts_to_sign, Some(3));
    trust(&other, [&both; 3]);
    other
        .onboard(
            &l.actor,
            nats_authority::authority::requests::NewOrganization { slug: "globex".to_owned(), ..acme(&["prod"]) },
        )
        .await
        .unwrap();
    assert_eq!(signers(&l).await.len(), 2);
    assert_eq!(code(a.cancel_operator_rotation(&l.actor, id, &Reason::default())).await, "key-rotation-state");
    assert!(a.operator_jwt_proposal().await.unwrap().is_empty(), "the old key stays listed");
    assert!(step(&l).await);
    assert_eq!((signers(&l).await, show(&l, id).await.accounts_to_sign), (vec![new], Some(0)));
    assert_eq!(a.organization(&slug).await.unwrap().resolver.generation, before + 1, "the same content, signed again");
    // Nothing differs any more.
    a.suspend(&l.actor, &slug, Reason::default()).await.unwrap();
    a.resume(&l.actor, &slug, Reason::default()).await.unwrap();
    assert!(!step(&l).await);
    assert_eq!(show(&l, id).await.servers, ["n1", "n2", "n3"], "they have not taken it yet");
    assert!(a.operator_jwt_proposal().await.unwrap().is_empty());
    run_everywhere(&l).await;
    let ready = show(&l, id).await;
    assert!(ready.needs_operator_jwt && ready.waits_for.unwrap().contains("without the old key"));
    // Newborn accounts, which the old key never signed, hold nothing up.
    a.onboard(
        &l.actor,
        nats_authority::authority::requests::NewOrganization { slug: "initech".to_owned(), ..acme(&["prod"]) },
    )
    .await
    .unwrap();
    assert!(show(&l, id).await.needs_operator_jwt);

    let jwt = sign(&l).await;
    a.set_operator_jwt(&l.actor, &jwt).await.unwrap();
    trust(a, [&new_only, &both, &new_only]);
    assert!(!step(&l).await);
    let removing = show(&l, id).await;
    assert_eq!((removing.state, removing.servers), (RotationState::Removing, vec!["n2".to_owned()]));
    trust(a, [&new_only; 3]);
    assert!(step(&l).await);
    assert_eq!(show(&l, id).await.state, RotationState::Done);
    let states: Vec<_> =
        a.operator_keys().await.unwrap().into_iter().map(|(key, _)| (key.public_key, key.state)).collect();
    assert!(
        states.contains(&(old_text.clone(), "retired".to_owned()))
            && states.contains(&(new_text.clone(), "active".to_owned()))
    );
    assert!(!step(&l).await && a.operator_jwt_proposal().await.unwrap().is_empty());
}

#[tokio::test]
async fn cancelled_before_the_new_key_signs_and_proposed_again() {
    let l = ledger().await;
    let a = &l.authority;
    let id = a.propose_operator_rotation(&l.actor, &Reason::default()).await.unwrap().id;
    let pending = a.approve_operator_rotation(&officer(), id).await.unwrap();
    let jwt = sign(&l).await;
    a.set_operator_jwt(&l.actor, &jwt).await.unwrap();
    let cancelled = a.cancel_operator_rotation(&l.actor, id, &Reason::default()).await.unwrap();
    assert_eq!((cancelled.state, cancelled.ended_because.as_deref()), (RotationState::Cancelled, Some("test")));
    assert_eq!(code(a.approve_operator_rotation(&officer(), id)).await, "key-rotation-state");
    // The JWT still lists the key that came to nothing: it is proposed to take it out.
    let proposal = a.operator_jwt_proposal().await.unwrap();
    assert_eq!((proposal.remove, proposal.rotation), (vec![pending.new_key.unwrap()], None));
    let jwt = sign(&l).await;
    a.set_operator_jwt(&l.actor, &jwt).await.unwrap();
    assert!(a.operator_jwt_proposal().await.unwrap().is_empty());
    let again = a.propose_operator_rotation(&l.actor, &Reason::default()).await.unwrap();
    a.approve_operator_rotation(&officer(), again.id).await.unwrap();
    assert_eq!(code(a.operator_rotation(Uuid::nil())).await, "no-key-rotation");
}

#[tokio::test]
async fn the_database_skips_no_step_and_signs_with_no_other_key() {
    let l = ledger().await;
    let a = &l.authority;
    a.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let id = a.propose_operator_rotation(&l.actor, &Reason::default()).await.unwrap().id;
    a.approve_operator_rotation(&officer(), id).await.unwrap();
    let jump = "UPDATE key_rotations SET state = 'retiring', activated_at = now(), retire_after = now()";
    for skipped in [
        // No operator JWT lists the new key.
        jump,
        "UPDATE key_rotations SET state = 'done', ended_at = now(), activated_at = now(), removed_at = now()",
        "UPDATE signing_keys SET state = 'retiring' WHERE kind = 'operator' AND state = 'active'",
        "UPDATE signing_keys SET state = 'retired' WHERE kind = 'operator' AND state = 'pending'",
        "UPDATE operators SET jwt = (SELECT jwt FROM accounts WHERE kind = 'system')",
        "UPDATE operators SET public_key = system_account",
        "INSERT INTO account_generations SELECT account_key, generation + 1, iat + 1, jwt, jwt_sha256,
             (SELECT public_key FROM signing_keys WHERE kind = 'operator' AND state = 'pending'), audit_event, minted_at
         FROM account_generations",
    ] {
        let error = sql(&l, skipped).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        assert_eq!(code.as_deref(), Some("23514"), "{skipped}: {error}");
    }
    let jwt = sign(&l).await;
    a.set_operator_jwt(&l.actor, &jwt).await.unwrap();
    sql(&l, jump).await.unwrap();
    let removed = "UPDATE key_rotations SET state = 'removing', removed_at = now()";
    assert!(sql(&l, removed).await.is_err(), "accounts are signed with the old key, and servers trust it");
    assert!(sql(&l, "UPDATE key_rotations SET state = 'cancelled', ended_at = now()").await.is_err());
}

#[tokio::test]
async fn an_account_that_cannot_be_signed_holds_up_no_other_and_fills_no_log() {
    let l = ledger().await;
    let a = &l.authority;
    a.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let id = a.propose_operator_rotation(&l.actor, &Reason::default()).await.unwrap().id;
    let pending = a.approve_operator_rotation(&officer(), id).await.unwrap();
    let jwt = sign(&l).await;
    a.set_operator_jwt(&l.actor, &jwt).await.unwrap();
    let (old, new) = (pending.old_key, pending.new_key.unwrap());
    trust(a, [&[&*old, &*new]; 3]);
    assert!(step(&l).await, "the new key signs");
    let acme = "SELECT account_key FROM organizations";
    let mut connection = sqlx::PgConnection::connect(l.database.url()).await.unwrap();
    let account: String = sqlx::query_scalar(acme).fetch_one(&mut connection).await.unwrap();
    sql(&l, "UPDATE accounts SET jwt = 'unreadable', generation = 2, iat = iat + 1 WHERE account_key IN (SELECT account_key FROM organizations)")
        .await
        .unwrap();
    assert!(step(&l).await, "the others are signed");
    for _ in 0..3 {
        assert!(!step(&l).await);
        assert_eq!(show(&l, id).await.accounts_to_sign, Some(1));
    }
    let events = "SELECT detail FROM audit_events WHERE action = 'operator-key.resign'";
    let events: Vec<serde_json::Value> = sqlx::query_scalar(events).fetch_all(&mut connection).await.unwrap();
    assert_eq!(events.len(), 1);
    let told = events[0]["accounts"].as_array().unwrap();
    assert!(told.len() == 2 && !told.contains(&serde_json::json!(account)), "{told:?}");
}
