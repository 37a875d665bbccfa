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
        let key = self.operator_key.public;
        let linted = lint(Claims {
            audience: None,
            expires: None,
            id: None,
            issued_at: Some(self.clock.unix()),
            issuer: key.into(),
            name: None,
            not_before: None,
            subject: key.into(),
            nats: Generic::delete_accounts(&[account]),
        })?;
        let signed = self.signer.sign_as_operator(&self.operator_key, linted)?;
        let event = self.event(
            &Actor::task("push"),
            "account.delete-request",
            Some(slug),
            account,
            json!({
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
