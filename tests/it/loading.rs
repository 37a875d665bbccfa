//! A server that loads an account while its next JWT arrives may run the one before, and goes on to do so: nobody is
//! left there for long.

#![expect(clippy::print_stdout, reason = "says how often it was seen")]

use std::time::Duration;

use futures::future::join_all;
use nats_authority::{
    authority::requests::ChangeOrganization,
    nkey::{Account, PublicKey},
    resolver::{Effective, Resolver},
};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::{
    incomplete::connect,
    support::stack::{Stack, eventually},
};

/// How many organizations are changed while their account is being loaded. About every twentieth goes wrong.
const TRIES: u32 = 100;

/// The first client comes at another moment each time: so many of them.
const MOMENTS: u32 = 30;

/// From one of these moments to the next.
const STEP: Duration = Duration::from_micros(250);

/// Whether the server runs the present JWT.
async fn is_current(stack: &Stack, account: PublicKey<Account>) -> bool {
    let answers = stack.resolver.effective(account).await.unwrap();
    let [answer] = answers.as_slice() else { panic!("{answers:?}") };
    let Effective::Running { jwt, .. } = &answer.effective else { return false };
    let mut ledger = PgConnection::connect(stack.database.url()).await.unwrap();
    let present = sqlx::query_scalar::<_, String>("SELECT jwt FROM accounts WHERE account_key = $1");
    present.bind(account.to_string()).fetch_one(&mut ledger).await.unwrap() == *jwt
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_loaded_as_it_was_before_is_loaded_anew() {
    let stack = Stack::seldom_compared().await;
    let (stack, url) = (&stack, &stack.cluster.servers()[0].url());
    let slugs: Vec<_> = (0..TRIES).map(|n| format!("org-{n}")).collect();
    join_all(slugs.iter().map(|slug| stack.onboard(slug, &[]))).await;
    let mut changed = Vec::new();
    let mut behind = 0;
    for (n, slug) in (0..TRIES).zip(&slugs) {
        let account: PublicKey<Account> = stack.account_converged(slug).await.account_id.parse().unwrap();
        // Whoever names an account has it loaded, also with a JWT that the account did not sign.
        let first_client = async {
            tokio::time::sleep(STEP * (n % MOMENTS)).await;
            connect(url, account).await
        };
        let change = async {
            let request = ChangeOrganization { limits: Some(json!({"conn": 7})), ..ChangeOrganization::default() };
            stack.authority.change(&stack.actor, &slug.parse().unwrap(), request).await.unwrap();
            stack.account_converged(slug).await
        };
        let (client, _) = tokio::join!(first_client, change);
        assert!(client.is_err());
        behind += u32::from(!is_current(stack, account).await);
        changed.push(account);
    }
    println!("{behind} of {TRIES} accounts ran what was before, a moment after all had the next one");
    for account in changed {
        eventually("the server runs what it stores", || is_current(stack, account)).await;
    }
}
