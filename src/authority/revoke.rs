//! Revoking as a question to the ledger: which credentials, and what is the smallest change of the account
//! that servers refuse them for. The choice is made in `effect`; whether the clients are gone is for
//! whoever can ask the servers.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    Actor, Authority,
    effect::{Asked, ENTRY_BYTES, Effect, KeyUse, SKEW, Situation, choose},
    environments::no_environment,
    organizations::{check_reason, no_organization},
    requests::{Reason, Revoke},
    work::{Applying, Trial, Work},
};
use crate::{
    error::{Error, Result},
    model::{
        OrgSlug, Organization,
        size::parse_duration,
        view::{RevocationsState, RevocationsView},
    },
    nkey::{Account, PublicKey},
    store::{
        accounts, audit, environments,
        keys::{self, KeyScope, NewAccountKey},
        organizations,
        revocations::{self, Selection},
        valid::{self, Usage},
    },
};

/// What a revocation did, or would do.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// How many credentials it revokes.
    pub revoked: i64,
    /// What it changes of the account.
    pub effect: Effect,
    /// Bytes of the account's token before.
    pub bytes_before: i64,
    /// Bytes of the account's token after.
    pub bytes_after: i64,
    /// The generation after it; in a trial the present one.
    pub generation: i64,
}

/// A question that was parsed and looked up.
struct Question {
    selection: Selection,
    asked: Asked,
}

impl Authority {
    /// Revokes what is selected. What holds already is no change.
    pub async fn revoke_selected(&self, actor: &Actor, slug: &OrgSlug, request: &Revoke) -> Result<Revocation> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let (done, _) = self.revoke_selected_in(change.work(), actor, slug, request).await?;
        change.commit().await?;
        self.wake();
        Ok(done)
    }

    /// The same as a trial: nothing is signed, recorded or pushed.
    pub async fn try_revoke_selected(&self, actor: &Actor, slug: &OrgSlug, request: &Revoke) -> Result<Revocation> {
        let mut trial = Trial::begin(&self.store, actor).await?;
        let (mut tried, _) = self.revoke_selected_in(trial.work(), actor, slug, request).await?;
        if let Some(decided) = trial.end().await?.pop() {
            tried.bytes_after =
                decided.bytes_after.map_or(tried.bytes_before, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        Ok(tried)
    }

    pub(super) async fn revoke_selected_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        request: &Revoke,
    ) -> Result<(Revocation, Organization)> {
        check_reason(&Reason { reason: request.reason.clone() })?;
        let now = self.now();
        let org = organizations::lock(work.rows(), slug).await?.ok_or_else(|| no_organization(slug))?;
        work.require_generation(org.account).await?;
        let question = self.question(work, &org, request).await?;
        let before = revocations::size(work.rows(), org.account).await?;
        let effect = self.effect_of(work, &org, &question, &before).await?;
        let (revoked, ids) =
            revocations::revoke(work.rows(), &question.selection, now, request.reason.as_deref()).await?;
        let moved = effect.cutoff != revocations::cutoff(work.rows(), org.id).await?;
        let mut generation = accounts::lock(work.rows(), org.account).await?.generation;
        let mut bytes_after = before.bytes;
        if revoked > 0 || moved && effect.cutoff.is_some() || !effect.replaced.is_empty() {
            self.apply(work, actor, &org, &effect).await?;
            let detail = json!({
                "selector": request, "revoked": revoked, "credentials": ids, "cutoff": effect.cutoff,
                "replacedKeys": effect.replaced, "entries": effect.entries,
            });
            let event = self.event(actor, "credentials.revoke", Some(slug), slug, detail);
            audit::record(work.rows(), &event).await?;
            generation = self.mint(work, &org, event.id).await?;
            bytes_after = revocations::size(work.rows(), org.account).await?.bytes;
        }
        Ok((Revocation { revoked, effect, bytes_before: before.bytes, bytes_after, generation }, org))
    }

    /// Revokes all of an environment that is going. Its scoped keys leave the account with it; what the plain key
    /// signed has to be refused by the account. What was done, for the audit log; the caller mints.
    pub(super) async fn revoke_environment(
        &self,
        work: &mut Work,
        actor: &Actor,
        org: &Organization,
        environment: Uuid,
    ) -> Result<serde_json::Value> {
        let now = self.now();
        let selection = Selection {
            org: org.id,
            environment: Some(environment),
            role: None,
            issued_until: None,
            signing_key: None,
            ends_after: now - SKEW,
        };
        let question = Question { selection, asked: Asked::Selected };
        let before = revocations::size(work.rows(), org.account).await?;
        let effect = self.effect_of(work, org, &question, &before).await?;
        let reason = Some("environment deleted");
        let (revoked, ids) = revocations::revoke(work.rows(), &question.selection, now, reason).await?;
        if revoked > 0 {
            self.apply(work, actor, org, &effect).await?;
        }
        Ok(json!({
            "revoked": revoked, "credentials": ids, "cutoff": effect.cutoff, "replacedKeys": effect.replaced,
        }))
    }

    /// Writes what was chosen, beside the entries, which follow from the credentials.
    async fn apply(&self, work: &mut Work, actor: &Actor, org: &Organization, effect: &Effect) -> Result<()> {
        if let Some(cutoff) = effect.cutoff {
            revocations::set_cutoff(work.rows(), org.id, cutoff).await?;
        }
        self.replace_keys(work, actor, org, &effect.replaced).await
    }

    /// Of these users, those that the ledger knows and no valid credential is left for.
    pub async fn refused_users(&self, slug: &OrgSlug, users: &[String]) -> Result<HashSet<String>> {
        let org = self.require_organization(slug).await?;
        Ok(self.store.refused_users(org.id, users, self.now()).await?.into_iter().collect())
    }

    /// How large an organization's account is because of revocations, and what keeps it from becoming smaller.
    pub async fn revocations(&self, slug: &OrgSlug) -> Result<RevocationsView> {
        const HELD_BACK_BY: i64 = 100;
        let org = self.require_organization(slug).await?;
        let now = self.now();
        let (size, cutoff) = {
            let mut tx = self.store.begin().await?;
            (revocations::size(&mut tx, org.account).await?, revocations::cutoff(&mut tx, org.id).await?)
        };
        let (valid, oldest) = self.store.valid_and_oldest(org.id, now, HELD_BACK_BY).await?;
        let limit = i64::try_from(self.standing().max_payload()).unwrap_or(i64::MAX);
        let fold_above = i64::try_from(self.settings.fold_above).unwrap_or(i64::MAX);
        let needs_reissue = size.bytes > fold_above && size.entries > 0;
        let entry = i64::try_from(ENTRY_BYTES).unwrap_or(i64::MAX);
        Ok(RevocationsView {
            org: slug.to_string(),
            state: if needs_reissue { RevocationsState::NeedsReissue } else { RevocationsState::Ok },
            bytes: size.bytes,
            entries: size.entries,
            cutoff: cutoff.and_then(|at| DateTime::from_timestamp(at, 0)),
            fold_above,
            limit,
            prune_at: size.prune_at,
            valid,
            forecast_bytes: size.bytes.saturating_add(valid.saturating_mul(entry)),
            held_back_by: if needs_reissue { oldest } else { Vec::new() },
        })
    }

    /// Mints the accounts whose prunable entries are worth a push; tells how many. One that cannot be
    /// minted holds up no other.
    pub async fn prune(&self) -> Result<usize> {
        let (mut pruned, mut seen, mut first_error) = (0, Vec::new(), None);
        loop {
            let mut change = Applying::begin(&self.store, &Actor::task("prune")).await?;
            let Some(slug) = revocations::due_for_pruning(change.work().rows(), self.now(), &seen).await? else {
                break;
            };
            let Some(org) = organizations::lock(change.work().rows(), &slug).await? else { break };
            seen.push(org.id);
            match self.prune_in(change, &org).await {
                Ok(()) => pruned += 1,
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        if pruned > 0 {
            self.wake();
        }
        first_error.map_or(Ok(pruned), Err)
    }

    async fn prune_in(&self, mut change: Applying, org: &Organization) -> Result<()> {
        let work = change.work();
        let before = revocations::size(work.rows(), org.account).await?;
        let detail = json!({"entries": before.entries, "bytes": before.bytes});
        let event = self.event(&Actor::task("prune"), "account.prune", Some(&org.slug), org.account, detail);
        audit::record(work.rows(), &event).await?;
        self.mint(work, org, event.id).await?;
        change.commit().await
    }

    /// Reads the request and looks up what it names.
    async fn question(&self, work: &mut Work, org: &Organization, request: &Revoke) -> Result<Question> {
        let now = self.now();
        let narrowed = request.env.is_some() || request.role.is_some() || request.signing_key.is_some();
        if !(narrowed || request.issued_before.is_some() || request.all) {
            return Err(Error::invalid(
                "empty-selector",
                "name env, role, issuedBefore or signingKey, or say all: true for everything of the organization",
            ));
        }
        if request.all && (narrowed || request.issued_before.is_some()) {
            return Err(Error::field("all-and-selector", "/all", "all goes with no other part of the selector"));
        }
        let environment = match &request.env {
            None => None,
            Some(text) => {
                let env_type =
                    text.parse().map_err(|error: Error| Error::field(error.code(), "/env", error.to_string()))?;
                let row = environments::of(work.rows(), org.id).await?.into_iter().find(|row| row.env_type == env_type);
                Some(row.ok_or_else(|| no_environment(&org.slug, &env_type))?.id)
            }
        };
        if let Some(role) = &request.role {
            self.policies().role(role)?;
        }
        let key = match &request.signing_key {
            None => None,
            Some(text) => {
                let of_account = keys::in_account(work.rows(), org.account).await?;
                let key = text.parse().ok().filter(|key| of_account.iter().any(|(other, _)| other == key));
                let unknown = "this is no signing key in the organization's account; see `keys` of the organization";
                Some(key.ok_or_else(|| Error::field("unknown-signing-key", "/signingKey", unknown))?)
            }
        };
        let before = request.issued_before.as_deref().map(|text| parse_past(text, now)).transpose()?;
        // Servers compare whole seconds, and with the cutoff's second they refuse that second too.
        let issued_until = before.map(|before| ceil(before) - 1);
        let cutoff = revocations::cutoff(work.rows(), org.id).await?;
        let asked = match issued_until {
            Some(until) if !narrowed => Asked::Everything(cutoff.map_or(until, |at| at.max(until))),
            None if request.all => {
                // A credential may be younger than now: after a cutoff, they are issued in the next second.
                let latest = valid::latest(work.rows(), org.id, now).await?.unwrap_or_default();
                Asked::Everything(now.timestamp().max(latest).max(cutoff.unwrap_or_default()))
            }
            _ => Asked::Selected,
        };
        let selection = Selection {
            org: org.id,
            environment,
            role: request.role.clone(),
            issued_until,
            signing_key: key,
            ends_after: now - SKEW,
        };
        Ok(Question { selection, asked })
    }

    async fn effect_of(
        &self,
        work: &mut Work,
        org: &Organization,
        question: &Question,
        before: &revocations::AccountSize,
    ) -> Result<Effect> {
        let Question { selection, asked } = question;
        let now = self.now();
        let entries = usize::try_from(before.entries).unwrap_or_default();
        let bare = usize::try_from(before.bytes).unwrap_or_default().saturating_sub(entries * ENTRY_BYTES);
        let room = self.settings.fold_above.saturating_sub(bare) / ENTRY_BYTES;
        let cutoff = revocations::cutoff(work.rows(), org.id).await?;
        if *asked == Asked::Selected {
            // Most revocations are few, and then nothing else has to be counted.
            let selected = valid::count(work.rows(), selection).await?;
            if entries + selected <= room {
                return Ok(Effect { cutoff, replaced: Vec::new(), entries: entries + selected, over: false });
            }
        }
        let earliest = valid::earliest_other(work.rows(), selection, now).await?;
        let latest = now.timestamp() - super::effect::FOLD_AGE;
        let free = match asked {
            Asked::Everything(until) => Some(*until),
            // Nothing that is not selected may be hit, also what is just being recorded.
            Asked::Selected => Some(earliest.map_or(i64::MAX, |at| at - 1).min(latest)),
        };
        let free_until = free.filter(|free| cutoff.is_none_or(|cutoff| *free > cutoff));
        let usage = valid::usage(work.rows(), selection, now, cutoff, free_until).await?;
        let of_account = keys::in_account(work.rows(), org.account).await?;
        let replaceable = keys::replaceable(work.rows(), org.account).await?;
        let usage = usage.into_iter().filter(|usage| of_account.iter().any(|(key, _)| *key == usage.key));
        let may_go = |usage: &Usage| replaceable.iter().any(|(key, _)| *key == usage.key);
        let keys = usage.map(|usage| KeyUse { replaceable: may_go(&usage), ..key_use(&usage) });
        let situation = Situation { asked: *asked, keys: keys.collect(), free_until, room };
        let chosen = choose(&situation);
        Ok(Effect { cutoff: chosen.cutoff.or(cutoff), ..chosen })
    }

    /// Takes signing keys out of the account and puts a new one in the place of each. Nobody may ask for it: that is a
    /// rotation, which a second person approves. It is the means of a revocation that ends every valid credential
    /// of the key anyway, so whoever may revoke these decides nothing more by it.
    async fn replace_keys(
        &self,
        work: &mut Work,
        actor: &Actor,
        org: &Organization,
        replaced: &[PublicKey<Account>],
    ) -> Result<()> {
        let mut new = Vec::with_capacity(replaced.len());
        for key in replaced {
            let Some(scope) = keys::scope(work.rows(), org.account, *key).await? else { continue };
            keys::retire(work.rows(), *key).await?;
            let gone = matches!(&scope, KeyScope::Role { role, .. } if !self.policies().roles.contains_key(role));
            let successor = if gone { None } else { Some(self.signer.generate()?) };
            let detail = json!({
                "oldKey": key, "newKey": successor.as_ref().map(|key| key.public),
                "because": "all that it signed is revoked, in more entries than the account has room for",
            });
            audit::record(work.rows(), &self.event(actor, "key.replace", Some(&org.slug), *key, detail)).await?;
            new.extend(successor.map(|key| NewAccountKey { account: org.account, scope, key }));
        }
        keys::insert(work.rows(), &new, self.now()).await
    }
}

fn key_use(usage: &Usage) -> KeyUse {
    let count = |n: i64| usize::try_from(n).unwrap_or_default();
    KeyUse {
        key: usage.key,
        selected: count(usage.selected),
        others: usage.others,
        standing: count(usage.standing),
        late: count(usage.late),
        replaceable: true,
    }
}

/// The first whole second that is not before `time`.
fn ceil(time: DateTime<Utc>) -> i64 {
    time.timestamp() + i64::from(time.timestamp_subsec_nanos() > 0)
}

/// A time that is over: RFC 3339, or a duration that is counted back from now.
fn parse_past(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    const POINTER: &str = "/issuedBefore";
    let refused = |why: &str| Error::field("invalid-time", POINTER, format!("'{text}' {why}"));
    let time = if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        time.to_utc()
    } else {
        let none = "is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 30d, counted back from now";
        let seconds = parse_duration(POINTER, text).map_err(|_| refused(none))?;
        TimeDelta::try_seconds(seconds).and_then(|by| now.checked_sub_signed(by)).ok_or_else(|| refused(none))?
    };
    if time > now {
        return Err(refused("lies in the future: what is not issued yet cannot be revoked"));
    }
    Ok(time)
}
