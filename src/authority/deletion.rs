//! The end of an organization: the signed request that deletes its account from the servers, and the
//! last entry in the ledger.

use serde_json::json;

use super::{Actor, Authority};
use crate::{
    error::Result,
    jwt::{Claims, Generic},
    model::OrgSlug,
    nkey::{Account, PublicKey},
    signer::lint,
};

impl Authority {
    /// The generic JWT that `$SYS.REQ.CLAIMS.DELETE` takes: subject and issuer are the same operator key
    /// that the servers trust. Its record is an audit event.
    pub async fn deletion_request(&self, slug: &OrgSlug, account: PublicKey<Account>) -> Result<String> {
        self.delete_request("push", "account.delete-request", Some(slug), &[account]).await
    }

    /// The same for accounts that were deleted and came back.
    pub async fn delete_again_request(&self, accounts: &[PublicKey<Account>]) -> Result<String> {
        self.delete_request("reconcile", "account.delete-again", None, accounts).await
    }

    async fn delete_request(
        &self,
        task: &str,
        action: &'static str,
        slug: Option<&OrgSlug>,
        accounts: &[PublicKey<Account>],
    ) -> Result<String> {
        let sealed = self.operator_key();
        let key = sealed.public;
        let linted = lint(Claims {
            audience: None,
            expires: None,
            id: None,
            issued_at: Some(self.clock.unix()),
            issuer: key.into(),
            name: None,
            not_before: None,
            subject: key.into(),
            nats: Generic::delete_accounts(accounts),
        })?;
        let signed = self.signer.sign_as_operator(&sealed, linted)?;
        let event = self.event(
            &Actor::task(task),
            action,
            slug,
            accounts.first().map(ToString::to_string).unwrap_or_default(),
            json!({
                "accounts": accounts,
                "jwtSha256": data_encoding::HEXLOWER.encode(&signed.sha256()),
            }),
        );
        Ok(self.store.record_own(&event, signed).await?.token().to_owned())
    }

    /// Every known server confirmed: the organization is gone and its slug free.
    pub async fn finish_deletion(&self, slug: &OrgSlug, account: PublicKey<Account>) -> Result<()> {
        let event =
            self.event(&Actor::task("push"), "organization.deleted", Some(slug), slug, json!({"account": account}));
        self.store.finish_deletion(account, &event).await
    }
}
