//! Rules for accounts, but for what they share with others (`shares`).

use std::collections::BTreeMap;

use super::{
    NOT_A_SUBJECT, Problems, Rules,
    access::{Templates, check_permissions, check_template},
    check_info, escape, shares,
};
use crate::{
    jwt::{
        Account, Claims,
        account::{ExternalAuthorization, MessageTrace, WeightedMapping},
        limits::{AccountLimits, JetStreamLimits},
        subject,
    },
    nkey::{self, PublicKey, Role},
};

/// In a list of revocations or accounts: everybody.
const EVERYBODY: &str = "*";

impl Rules for Account {
    fn examine(claims: &Claims<Self>, problems: &mut Problems) {
        let account = &claims.nats;
        check_limits(&account.limits, problems);
        shares::check_imports(&account.imports, claims.subject, problems);
        shares::check_exports(&account.exports, problems);
        check_counts(account, problems);
        for (index, scope) in account.signing_keys.0.values().enumerate() {
            if let Some(scope) = scope {
                check_template(&scope.template, &format!("/nats/signing_keys/{index}/template"), problems);
            }
        }
        check_revocations::<nkey::User>(&account.revocations, "/nats/revocations", problems);
        let at = "/nats/default_permissions";
        check_permissions(&account.default_permissions, Templates::Literal, at, problems);
        check_mappings(&account.mappings, problems);
        check_authorization(&account.authorization, problems);
        if let Some(trace) = &account.trace {
            check_trace(trace, problems);
        }
        if account.cluster_traffic.as_deref().is_some_and(|traffic| !["", "system", "owner"].contains(&traffic)) {
            problems.add("/nats/cluster_traffic", "must be system or owner");
        }
        check_info(account.description.as_deref(), account.info_url.as_deref(), "/nats", problems);
    }
}

fn check_limits(limits: &AccountLimits, problems: &mut Problems) {
    if !limits.tiered_limits.is_empty() && limits.jetstream != JetStreamLimits::default() {
        problems.add("/nats/limits/tiered_limits", "JetStream limits are either flat or tiered, not both");
    }
    for tier in limits.tiered_limits.keys() {
        if !["R1", "R2", "R3", "R4", "R5"].contains(&tier.as_str()) {
            let detail = "a tier is named after its replicas, R1 to R5";
            problems.add(format!("/nats/limits/tiered_limits/{}", escape(tier)), detail);
        }
    }
}

fn check_counts(account: &Account, problems: &mut Problems) {
    let limits = &account.limits;
    let exceeds = |count: usize, limit: i64| limit != -1 && i64::try_from(count).is_ok_and(|count| count > limit);
    if exceeds(account.imports.len(), limits.imports) {
        problems.add("/nats/imports", "more imports than the account's limits allow");
    }
    if exceeds(account.exports.len(), limits.exports) {
        problems.add("/nats/exports", "more exports than the account's limits allow");
    }
    if limits.exports != -1 && !limits.wildcards {
        for (index, export) in account.exports.iter().enumerate() {
            let literal = !shares::has_wildcards(&export.subject);
            let at = format!("/nats/exports/{index}/subject");
            problems.add_unless(literal, &at, "the account's limits allow no wildcards in exports");
        }
    }
}

/// Keys of kind `R` or everybody.
pub(super) fn check_revocations<R: Role>(revocations: &BTreeMap<String, i64>, at: &str, problems: &mut Problems) {
    for (key, time) in revocations {
        if key != EVERYBODY && key.parse::<PublicKey<R>>().is_err() {
            problems.add(format!("{at}/{}", escape(key)), format!("must be a key of kind {} or '*'", R::KIND));
        }
        if *time < 0 {
            problems.add(format!("{at}/{}", escape(key)), "must be Unix seconds");
        }
    }
}

fn check_mappings(mappings: &BTreeMap<String, Vec<WeightedMapping>>, problems: &mut Problems) {
    for (source, targets) in mappings {
        let at = format!("/nats/mappings/{}", escape(source));
        problems.add_unless(subject::is_valid(source), &at, NOT_A_SUBJECT);
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (index, target) in targets.iter().enumerate() {
            problems.add_unless(subject::is_valid(&target.subject), &format!("{at}/{index}/subject"), NOT_A_SUBJECT);
            let weight = target.weight.filter(|weight| *weight != 0).unwrap_or(100);
            *sums.entry(target.cluster.as_deref().unwrap_or_default()).or_default() += u64::from(weight);
        }
        if sums.values().any(|sum| *sum > 100) {
            problems.add(at, "the weights of one cluster exceed 100; an absent weight is 100");
        }
    }
}

fn check_authorization(authorization: &ExternalAuthorization, problems: &mut Problems) {
    let accounts = &authorization.allowed_accounts;
    let at = "/nats/authorization/allowed_accounts";
    problems.add_unless(accounts.is_empty() || !authorization.auth_users.is_empty(), at, "needs auth_users");
    for (index, account) in accounts.iter().enumerate() {
        let at = format!("{at}/{index}");
        if account == EVERYBODY {
            problems.add_unless(accounts.len() == 1, &at, "'*' stands alone");
        } else {
            let known = account.parse::<PublicKey<nkey::Account>>().is_ok();
            problems.add_unless(known, &at, "must be an account key or '*'");
        }
    }
}

fn check_trace(trace: &MessageTrace, problems: &mut Problems) {
    let literal = subject::is_literal(&trace.dest);
    problems.add_unless(literal, "/nats/trace/dest", "must be a subject without wildcards");
    let holds = trace.sampling.is_none_or(|percent| percent <= 100);
    problems.add_unless(holds, "/nats/trace/sampling", "must be a percentage, 1 to 100");
}
