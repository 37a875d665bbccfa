//! A report in plain sentences.

use std::{fmt::Write, time::Duration};

use chrono::DateTime;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Report, printable};
use crate::jwt::{
    Account, Activation, Claims, Generic, Operator, Payload, User,
    account::{Export, Import, UserScope},
    limits::{AccountLimits, JetStreamLimits, UserLimits},
    permissions::{Permission, Permissions},
};

/// How many entries of a long list are named.
const NAMED: usize = 10;

/// What the token of `report` allows, a sentence each. Says what the token *says*: whether it may
/// be believed is in the report's problems.
pub fn words(report: &Report) -> Vec<String> {
    let claims = &report.claims;
    let kind = claims["nats"]["type"].as_str();
    let sentences = if kind == Operator::TYPE {
        say(claims, operator)
    } else if kind == Account::TYPE {
        say(claims, account)
    } else if kind == User::TYPE {
        say(claims, user)
    } else if kind == Activation::TYPE {
        say(claims, activation)
    } else {
        say(claims, generic)
    };
    sentences.iter().map(|sentence| printable(sentence)).collect()
}

fn say<T: DeserializeOwned>(claims: &Value, about: fn(&Claims<T>, &mut Vec<String>)) -> Vec<String> {
    // Claims that cannot be read are a problem of the report; there is nothing to say about them.
    let Ok(claims) = serde_json::from_value::<Claims<T>>(claims.clone()) else { return Vec::new() };
    let named = claims.name.as_deref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
    let mut out = vec![
        format!("For the {}{named} {}.", claims.subject.kind(), claims.subject),
        if claims.issuer == claims.subject {
            "Signed by that key itself.".to_owned()
        } else {
            format!("Signed by the {} key {}.", claims.issuer.kind(), claims.issuer)
        },
        validity(&claims),
    ];
    about(&claims, &mut out);
    out
}

fn validity<T>(claims: &Claims<T>) -> String {
    let mut sentence =
        claims.issued_at.map_or("Issued at an unknown time".to_owned(), |time| format!("Issued on {}", moment(time)));
    if let Some(begins) = claims.not_before.filter(|time| *time != 0) {
        let _ = write!(sentence, ", valid from {}", moment(begins));
    }
    match claims.expires.filter(|time| *time != 0) {
        Some(expires) => {
            let _ = write!(sentence, ", valid until {}.", moment(expires));
        }
        None => sentence.push_str(", valid without end."),
    }
    sentence
}

/// Unix seconds for people.
pub(super) fn moment(unix: i64) -> String {
    DateTime::from_timestamp(unix, 0)
        .map_or_else(|| format!("second {unix}"), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn operator(claims: &Claims<Operator>, out: &mut Vec<String>) {
    let operator = &claims.nats;
    if operator.signing_keys.is_empty() {
        out.push("Only its own key may sign accounts.".to_owned());
    } else {
        let own = if operator.strict_signing_key_usage { "; its own key may not" } else { ", and so may its own key" };
        out.push(format!("Accounts may be signed by {}{own}.", list(&operator.signing_keys)));
    }
    match &operator.system_account {
        Some(account) => out.push(format!("The system account is {account}.")),
        None => out.push("It names no system account.".to_owned()),
    }
    if let Some(version) = &operator.assert_server_version {
        out.push(format!("Servers must be version {version} or later."));
    }
    if let Some(url) = &operator.account_server_url {
        out.push(format!("Tools find accounts at {url}."));
    }
    if !operator.operator_service_urls.is_empty() {
        out.push(format!("Servers are at {}.", list(&operator.operator_service_urls)));
    }
}

fn account(claims: &Claims<Account>, out: &mut Vec<String>) {
    let account = &claims.nats;
    out.push(account_limits(&account.limits));
    jetstream(&account.limits, out);
    if account.limits.disallow_bearer {
        out.push("Bearer tokens are refused.".to_owned());
    }
    if account.signing_keys.is_empty() {
        out.push("Only its own key may sign users.".to_owned());
    }
    for (key, scope) in &account.signing_keys.0 {
        match scope {
            None => out.push(format!("{key} may sign users with any permissions.")),
            Some(scope) => signing_scope(&key.to_string(), scope, out),
        }
    }
    revocations(account, out);
    if account.default_permissions != Permissions::default() {
        out.push("Users that carry no permissions have these:".to_owned());
        permissions(&account.default_permissions, out);
    }
    out.extend(account.exports.iter().map(export));
    out.extend(account.imports.iter().map(import));
    for (source, targets) in &account.mappings {
        let targets: Vec<_> = targets.iter().map(|target| &target.subject).collect();
        out.push(format!("What is published to {source} goes to {}.", list(&targets)));
    }
    if !account.authorization.auth_users.is_empty() {
        let users = list(&account.authorization.auth_users);
        out.push(format!("Others are asked who may connect (auth callout); exempt is {users}."));
    }
    if let Some(trace) = &account.trace {
        let percent = trace.sampling.filter(|percent| *percent != 0).unwrap_or(100);
        out.push(format!("{percent} percent of the traced messages are reported to {}.", trace.dest));
    }
}

fn account_limits(limits: &AccountLimits) -> String {
    format!(
        "At most: {} client connections, {} leaf nodes, {} subscriptions a connection, {} bytes a message, {} \
         imports, {} exports{}.",
        number(limits.conn),
        number(limits.leaf),
        number(limits.subs),
        number(limits.payload),
        number(limits.imports),
        number(limits.exports),
        if limits.wildcards { "" } else { " without wildcards" },
    )
}

fn jetstream(limits: &AccountLimits, out: &mut Vec<String>) {
    let sentence = |tier: &str, limits: &JetStreamLimits| {
        // For these two, 0 is no limit.
        let counted = |value: i64| if value == 0 { number(-1) } else { number(value) };
        format!(
            "JetStream{tier}: {} bytes on disk, {} bytes in memory, {} streams, {} consumers.",
            number(limits.disk_storage),
            number(limits.mem_storage),
            counted(limits.streams),
            counted(limits.consumer),
        )
    };
    let off = |limits: &JetStreamLimits| limits.disk_storage == 0 && limits.mem_storage == 0;
    if limits.tiered_limits.is_empty() && off(&limits.jetstream) {
        out.push("No JetStream.".to_owned());
    } else if limits.tiered_limits.is_empty() {
        out.push(sentence("", &limits.jetstream));
    }
    out.extend(limits.tiered_limits.iter().map(|(tier, limits)| sentence(&format!(" {tier}"), limits)));
}

fn signing_scope(key: &str, scope: &UserScope, out: &mut Vec<String>) {
    let role = if scope.role.is_empty() { "an unnamed role" } else { &scope.role };
    out.push(format!("{key} may sign users of the role \"{role}\" only; each of them:"));
    permissions(&scope.template.permissions, out);
    user_limits(&scope.template.limits, out);
}

fn revocations(account: &Account, out: &mut Vec<String>) {
    if let Some(time) = account.revocations.get("*") {
        out.push(format!("Every user issued until {} is revoked.", moment(*time)));
    }
    let users = account.revocations.iter().filter(|(key, _)| *key != "*");
    for (key, time) in users.clone().take(NAMED) {
        out.push(format!("{key} is revoked if issued until {}.", moment(*time)));
    }
    let more = users.count().saturating_sub(NAMED);
    if more > 0 {
        out.push(format!("{more} more users are revoked."));
    }
}

fn export(export: &Export) -> String {
    let to = if export.token_req { "accounts with an activation" } else { "every account" };
    format!("Offers the {} {} to {to}.", export.kind, export.subject)
}

fn import(import: &Import) -> String {
    let from = import.account.map_or("an account that is not named".to_owned(), |key| key.to_string());
    let local = import.local_subject.as_deref().or(import.to.as_deref()).filter(|local| !local.is_empty());
    let local = local.map(|local| format!(" as {local}")).unwrap_or_default();
    format!("Takes the {} {} from {from}{local}.", import.kind, import.subject)
}

fn user(claims: &Claims<User>, out: &mut Vec<String>) {
    let user = &claims.nats;
    match user.issuer_account {
        Some(account) => out.push(format!("Belongs to the account {account}.")),
        None => out.push(format!("Belongs to the account {}.", claims.issuer)),
    }
    if user.is_bare() && user.issuer_account.is_some() {
        out.push("What it may do is said by the scope of the signing key, in the account's token.".to_owned());
    } else {
        permissions(&user.permissions, out);
        user_limits(&user.limits, out);
    }
}

fn permissions(permissions: &Permissions, out: &mut Vec<String>) {
    out.push(match &permissions.response {
        Some(_) if permissions.publish.allow.is_empty() => "Publishes nothing but answers.".to_owned(),
        _ => side("Publishes", &permissions.publish),
    });
    out.push(side("Subscribes", &permissions.subscribe));
    if let Some(response) = permissions.response {
        let times = match response.max {
            0 => "once".to_owned(),
            ..0 => "any number of times".to_owned(),
            max => format!("up to {max} times"),
        };
        let within = match u64::try_from(response.ttl) {
            Ok(0) => " within 2 minutes".to_owned(),
            Ok(ttl) => format!(" within {}", humantime::format_duration(Duration::from_nanos(ttl))),
            Err(_) => String::new(),
        };
        out.push(format!("Answers each request {times}{within}."));
    }
}

fn side(verb: &str, permission: &Permission) -> String {
    let allowed = if permission.allow.is_empty() { "everything".to_owned() } else { permission.allow.join(", ") };
    let denied =
        if permission.deny.is_empty() { String::new() } else { format!(", but never {}", permission.deny.join(", ")) };
    format!("{verb} {allowed}{denied}.")
}

fn user_limits(limits: &UserLimits, out: &mut Vec<String>) {
    let limited = [(limits.subs, "subscriptions"), (limits.data, "bytes in all"), (limits.payload, "bytes a message")]
        .into_iter()
        .filter_map(|(limit, of)| limit.filter(|limit| *limit != -1).map(|limit| format!("{} {of}", number(limit))));
    let limited: Vec<String> = limited.collect();
    if !limited.is_empty() {
        out.push(format!("At most {}.", limited.join(", ")));
    }
    if !limits.src.is_empty() {
        out.push(format!("Connects only from {}.", limits.src.join(", ")));
    }
    if !limits.times.is_empty() {
        let ranges: Vec<_> = limits.times.iter().map(|range| format!("{} to {}", range.start, range.end)).collect();
        let zone = limits.times_location.as_deref().unwrap_or("the server's time zone");
        out.push(format!("Connects only from {} ({zone}).", ranges.join(" and ")));
    }
    if !limits.allowed_connection_types.is_empty() {
        out.push(format!("Connects only as {}.", limits.allowed_connection_types.join(", ")));
    }
    if limits.bearer_token {
        out.push("A bearer token: whoever holds it may connect, without any key.".to_owned());
    }
    if limits.proxy_required {
        out.push("Connects only through a trusted proxy.".to_owned());
    }
}

fn activation(claims: &Claims<Activation>, out: &mut Vec<String>) {
    let activation = &claims.nats;
    let exporter = activation.issuer_account.map_or_else(|| claims.issuer.to_string(), |key| key.to_string());
    let kind = activation.kind.as_deref().unwrap_or("share");
    out.push(format!("Lets it import the {kind} {} of the account {exporter}.", activation.subject));
}

fn generic(claims: &Claims<Generic>, out: &mut Vec<String>) {
    let data = &claims.nats.data;
    if let Some(accounts) = data.get("accounts").and_then(Value::as_array) {
        let accounts: Vec<_> = accounts.iter().filter_map(Value::as_str).collect();
        out.push(format!("Asks resolvers to delete the accounts {}.", list(&accounts)));
    } else {
        let names: Vec<_> = data.keys().collect();
        out.push(format!("Generic claims with {} fields: {}.", names.len(), list(&names)));
    }
}

/// The first entries and how many more there are.
fn list<T: ToString>(entries: &[T]) -> String {
    let mut text = entries.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if entries.len() > NAMED {
        let _ = write!(text, " and {} more", entries.len() - NAMED);
    }
    text
}

/// A limit where 0 is none and below 0 no limit.
fn number(limit: i64) -> String {
    match limit {
        0 => "no".to_owned(),
        ..0 => "unlimited".to_owned(),
        limit => limit.to_string(),
    }
}
