//! API tokens of callers: made, listed, revoked. Who may do that stands in `policies/api.cedar`; how a
//! token is looked up in a request stands in `api::caller`.

use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Actor, Authority,
    bundle::{new_token, token_hash},
    requests::NewApiToken,
};
use crate::{
    error::{Error, Result},
    model::{CallerRole, ItemName, OrgSlug, size::parse_duration, view::TokenView},
    store::{
        audit,
        tokens::{self, NewToken},
    },
};

/// How long a token lives when nobody says.
const DEFAULT_LIFE: TimeDelta = TimeDelta::days(90);

/// How long a token may live.
const MAX_LIFE: TimeDelta = TimeDelta::days(365);

/// In how many organizations one token may hold.
const MAX_ORGANIZATIONS: usize = 100;

impl Authority {
    /// Makes a token. Its text is in the answer and nowhere else.
    pub async fn create_token(&self, actor: &Actor, request: NewApiToken) -> Result<(TokenView, Zeroizing<String>)> {
        let name: ItemName =
            request.name.parse().map_err(|error: Error| Error::field(error.code(), "/name", error.to_string()))?;
        let role: CallerRole = request.role.parse()?;
        let life = life(request.ttl.as_deref())?;
        let organizations = self.scope(role, &request.organizations).await?;
        let text = new_token(self.entropy.as_ref());
        let now = self.now();
        let token = NewToken {
            id: self.id(),
            name: name.to_string(),
            sha256: token_hash(&text),
            role,
            organizations: organizations.iter().map(|(_, id)| *id).collect(),
            expires_at: Some(now + life),
            created_by: Some(actor.identity()),
        };
        let slugs: Vec<_> = organizations.iter().map(|(slug, _)| slug).collect();
        let detail = json!({"name": token.name, "role": role, "organizations": slugs, "expiresAt": token.expires_at});
        let mut tx = self.store.begin().await?;
        tokens::insert(&mut tx, &token, now).await?;
        audit::record(&mut tx, &self.event(actor, "token.create", None, token.id, detail)).await?;
        tx.commit().await?;
        let view = self.store.token(token.id).await?.ok_or_else(|| Error::internal("a new token is not there"))?;
        Ok((view, text))
    }

    /// Revokes a token; one that is revoked stays so.
    pub async fn revoke_token(&self, actor: &Actor, id: Uuid) -> Result<TokenView> {
        let mut tx = self.store.begin().await?;
        let revoked = tokens::revoke(&mut tx, id, self.now()).await?.ok_or_else(no_token)?;
        if revoked.now {
            let event = self.event(actor, "token.revoke", None, id, json!({"name": revoked.name}));
            audit::record(&mut tx, &event).await?;
        }
        tx.commit().await?;
        self.store.token(id).await?.ok_or_else(no_token)
    }

    /// The organizations in which a token of `role` is to hold.
    async fn scope(&self, role: CallerRole, slugs: &[String]) -> Result<Vec<(String, Uuid)>> {
        let refuse = |detail: String| Err(Error::field("invalid-token-scope", "/organizations", detail));
        if !role.holds_in_organizations() {
            if slugs.is_empty() {
                return Ok(Vec::new());
            }
            return refuse(format!("the role '{role}' holds in the whole deployment; leave organizations out"));
        }
        if !(1..=MAX_ORGANIZATIONS).contains(&slugs.len()) {
            return refuse(format!("the role '{role}' holds in 1 to {MAX_ORGANIZATIONS} organizations; name them"));
        }
        let mut parsed = Vec::with_capacity(slugs.len());
        for (index, slug) in slugs.iter().enumerate() {
            let pointer = format!("/organizations/{index}");
            let slug: OrgSlug =
                slug.parse().map_err(|error: Error| Error::field(error.code(), pointer.clone(), error.to_string()))?;
            if parsed.contains(&slug) {
                return Err(Error::field("invalid-token-scope", pointer, format!("'{slug}' stands twice")));
            }
            parsed.push(slug);
        }
        let found = self.store.organization_ids(&parsed).await?;
        let missing = parsed.iter().position(|slug| !found.iter().any(|(found, _)| found == slug.as_str()));
        if let Some(index) = missing {
            let detail = format!("there is no organization '{}'", parsed[index]);
            return Err(Error::field("no-organization", format!("/organizations/{index}"), detail));
        }
        Ok(found)
    }
}

fn life(text: Option<&str>) -> Result<TimeDelta> {
    let Some(text) = text else { return Ok(DEFAULT_LIFE) };
    let seconds = parse_duration("/ttl", text)?;
    TimeDelta::try_seconds(seconds).filter(|life| (TimeDelta::minutes(1)..=MAX_LIFE).contains(life)).ok_or_else(|| {
        Error::field("invalid-ttl", "/ttl", format!("a token lives from 1m to {}d", MAX_LIFE.num_days()))
    })
}

fn no_token() -> Error {
    Error::not_found("no-token", "there is no such token")
}
