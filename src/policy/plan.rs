//! Plans: named sets of account limits, written in people's terms and turned into the limits of an
//! account JWT. What a single organization gets beyond its plan lives in `limits_override`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::source::{Amount, Source, ZERO_IS_UNLIMITED, ZERO_LOCKS_OUT, Zero, check_name};
use crate::{
    error::Result,
    jwt::limits::{AccountLimits, JetStreamLimits},
    model::size::format_size,
};

/// How many environments every plan has to have room for.
pub const ENVIRONMENTS: i64 = 5;
/// What the authority makes in each environment: the event stream and the KV bucket.
pub const STREAMS_PER_ENVIRONMENT: i64 = 2;
/// How often the authority has them stored.
pub const REPLICAS: i64 = 3;

/// Names that would be mistaken for something else in an answer or a filter.
const RESERVED: [&str; 6] = ["system", "platform", "custom", "default", "none", "all"];

/// A named set of account limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name, also its file's.
    pub name: String,
    /// For people.
    pub description: String,
    /// Credentials of roles that reach the whole organization may be issued.
    pub organization_reach: bool,
    /// What an account on this plan carries.
    pub limits: AccountLimits,
    /// How large the authority makes the streams of an environment.
    pub environment: EnvironmentSettings,
}

/// How large the authority makes the streams of an environment, bytes a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvironmentSettings {
    /// `max_bytes` of the event stream.
    pub event_stream_max_bytes: i64,
    /// `max_bytes` of the KV bucket.
    pub kv_bucket_max_bytes: i64,
}

/// Bytes that limits reserve in the cluster, all replicas together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promise {
    /// Bytes of memory storage.
    pub memory: i64,
    /// Bytes of file storage.
    pub disk: i64,
}

impl Plan {
    /// What the plan reserves in the cluster; see [`promise_of`].
    pub fn promise(&self) -> Promise {
        promise_of(&self.limits)
    }

    /// Reads a plan; `stem` is the file's name without `.toml`.
    pub(super) fn parse(file: &str, stem: &str, text: &str) -> Result<Self> {
        let source = Source::new(file, text);
        let raw: RawPlan = source.parse()?;
        check_name(&source, &raw.name, stem, &RESERVED)?;
        let mut limits = raw.limits.resolve(&source)?;
        match (raw.jetstream, raw.tiers) {
            (Some(flat), None) => limits.jetstream = flat.resolve(&source)?,
            (None, Some(tiers)) => {
                if !tiers.keys().any(|tier| tier.get_ref() == "R3") {
                    let reason = "lacks R3, in which the authority stores environments; write [tiers.R3]";
                    return Err(source.error_in("tiers", reason));
                }
                for (tier, raw) in tiers {
                    if replicas(tier.get_ref()).is_none() {
                        return Err(source.error(&tier.span(), "is no tier; write R1, R2, R3, R4 or R5"));
                    }
                    limits.tiered_limits.insert(tier.into_inner(), raw.resolve(&source)?);
                }
            }
            (Some(_), Some(_)) => {
                return Err(source.error_in("tiers", "flat and tiered JetStream limits exclude each other; keep one"));
            }
            (None, None) => return Err(source.error_in("jetstream", "is missing; write [jetstream] or [tiers.R3]")),
        }
        let environment = EnvironmentSettings {
            event_stream_max_bytes: source.amount(&raw.environment.event_stream_max_bytes, ZERO_IS_UNLIMITED)?,
            kv_bucket_max_bytes: source.amount(&raw.environment.kv_bucket_max_bytes, ZERO_IS_UNLIMITED)?,
        };
        if let Err(lack) = room(&limits, environment, ENVIRONMENTS) {
            return Err(source.error_in(&lack.field(&limits), &lack.reason));
        }
        Ok(Self {
            name: raw.name.into_inner(),
            description: raw.description,
            organization_reach: raw.organization_reach,
            limits,
            environment,
        })
    }
}

/// What `limits` reserve in the cluster. Flat limits already count replicas times bytes; a tier
/// counts bytes, so R3 reserves three times its size. Unlimited storage (-1) reserves nothing: who
/// gives it away decides that the cluster has it.
pub fn promise_of(limits: &AccountLimits) -> Promise {
    let mut promise = Promise::default();
    let flat = (&limits.jetstream, 1);
    let tiers = limits.tiered_limits.iter().map(|(tier, limits)| (limits, replicas(tier).unwrap_or(1)));
    for (limits, replicas) in std::iter::once(flat).chain(tiers) {
        let reserved = |bytes: i64| bytes.max(0).saturating_mul(replicas);
        promise.memory = promise.memory.saturating_add(reserved(limits.mem_storage));
        promise.disk = promise.disk.saturating_add(reserved(limits.disk_storage));
    }
    promise
}

/// The replicas of a tier: 3 of `R3`.
pub(super) fn replicas(tier: &str) -> Option<i64> {
    match tier {
        "R1" => Some(1),
        "R2" => Some(2),
        "R3" => Some(3),
        "R4" => Some(4),
        "R5" => Some(5),
        _ => None,
    }
}

/// Which limit has no room for the environments, and why.
pub(super) struct Lack {
    /// The limit as an override names it.
    pub pointer: &'static str,
    key: &'static str,
    pub reason: String,
}

impl Lack {
    fn field(&self, limits: &AccountLimits) -> String {
        let table = if limits.tiered_limits.is_empty() { "jetstream" } else { "tiers.R3" };
        format!("{table}.{}", self.key)
    }
}

/// Refuses limits under which the authority could not make the streams of `environments`.
pub(super) fn room(limits: &AccountLimits, settings: EnvironmentSettings, environments: i64) -> Result<(), Lack> {
    let lack = |pointer, key, reason| Err(Lack { pointer, key, reason });
    let none = JetStreamLimits::default();
    let (jetstream, factor) = if limits.tiered_limits.is_empty() {
        (&limits.jetstream, REPLICAS)
    } else {
        (limits.tiered_limits.get("R3").unwrap_or(&none), 1)
    };
    let each = settings.event_stream_max_bytes.max(0).saturating_add(settings.kv_bucket_max_bytes.max(0));
    let needed = each.saturating_mul(factor).saturating_mul(environments);
    if jetstream.disk_storage >= 0 && jetstream.disk_storage < needed {
        let reason = format!(
            "{} is too little for the streams of {environments} environment(s) with {REPLICAS} replicas, {}",
            format_size(jetstream.disk_storage),
            format_size(needed)
        );
        return lack("diskStorage", "disk", reason);
    }
    let streams = environments.saturating_mul(STREAMS_PER_ENVIRONMENT);
    if jetstream.streams > 0 && jetstream.streams < streams {
        let reason = format!("{environments} environment(s) need {streams} streams");
        return lack("streams", "streams", reason);
    }
    let largest = settings.event_stream_max_bytes.max(settings.kv_bucket_max_bytes);
    if jetstream.disk_max_stream_bytes > 0 && jetstream.disk_max_stream_bytes < largest {
        let reason = format!("a stream of an environment needs {}", format_size(largest));
        return lack("diskMaxStreamBytes", "max_disk_stream_bytes", reason);
    }
    Ok(())
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    name: Spanned<String>,
    description: String,
    #[serde(default = "yes")]
    organization_reach: bool,
    limits: RawLimits,
    jetstream: Option<RawJetStream>,
    tiers: Option<BTreeMap<Spanned<String>, RawJetStream>>,
    environment: RawEnvironment,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    connections: Spanned<Amount>,
    leaf_connections: Spanned<Amount>,
    subscriptions: Spanned<Amount>,
    payload: Spanned<Amount>,
    imports: Spanned<Amount>,
    exports: Spanned<Amount>,
    #[serde(default)]
    wildcard_exports: bool,
    #[serde(default)]
    disallow_bearer: bool,
}

impl RawLimits {
    fn resolve(&self, source: &Source<'_>) -> Result<AccountLimits> {
        Ok(AccountLimits {
            conn: source.amount(&self.connections, ZERO_LOCKS_OUT)?,
            leaf: source.amount(&self.leaf_connections, Zero::Nothing)?,
            subs: source.amount(&self.subscriptions, ZERO_LOCKS_OUT)?,
            // Servers do not enforce it; a number here would be a promise that nobody keeps.
            data: -1,
            payload: source.amount(&self.payload, ZERO_LOCKS_OUT)?,
            imports: source.amount(&self.imports, Zero::Nothing)?,
            exports: source.amount(&self.exports, Zero::Nothing)?,
            wildcards: self.wildcard_exports,
            disallow_bearer: self.disallow_bearer,
            ..AccountLimits::default()
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJetStream {
    memory: Spanned<Amount>,
    disk: Spanned<Amount>,
    streams: Spanned<Amount>,
    consumers: Spanned<Amount>,
    max_ack_pending: Option<Spanned<Amount>>,
    max_memory_stream_bytes: Option<Spanned<Amount>>,
    max_disk_stream_bytes: Option<Spanned<Amount>>,
    #[serde(default)]
    max_bytes_required: bool,
}

impl RawJetStream {
    fn resolve(&self, source: &Source<'_>) -> Result<JetStreamLimits> {
        let optional = |amount: &Option<Spanned<Amount>>| source.amount_or(amount.as_ref(), ZERO_IS_UNLIMITED, -1);
        Ok(JetStreamLimits {
            mem_storage: source.amount(&self.memory, Zero::Nothing)?,
            disk_storage: source.amount(&self.disk, Zero::Nothing)?,
            streams: source.amount(&self.streams, ZERO_IS_UNLIMITED)?,
            consumer: source.amount(&self.consumers, ZERO_IS_UNLIMITED)?,
            max_ack_pending: optional(&self.max_ack_pending)?,
            // These two know no -1: absent (0) is unlimited.
            mem_max_stream_bytes: optional(&self.max_memory_stream_bytes)?.max(0),
            disk_max_stream_bytes: optional(&self.max_disk_stream_bytes)?.max(0),
            max_bytes_required: self.max_bytes_required,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEnvironment {
    event_stream_max_bytes: Spanned<Amount>,
    kv_bucket_max_bytes: Spanned<Amount>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: &str = r#"name = "x"
description = "test"

[limits]
connections = 10
leaf_connections = 0
subscriptions = 100
payload = "64KiB"
imports = 1
exports = 0

[jetstream]
memory = 0
disk = "300MiB"
streams = 20
consumers = "unlimited"
max_bytes_required = true

[environment]
event_stream_max_bytes = "14MiB"
kv_bucket_max_bytes = "4MiB"
"#;

    fn parse(text: &str) -> Result<Plan> {
        Plan::parse("plans/x.toml", "x", text)
    }

    #[test]
    fn flat_limits_promise_what_they_say() {
        let plan = parse(FLAT).unwrap();
        assert_eq!(plan.limits.payload, 65_536);
        assert_eq!(plan.limits.jetstream.consumer, -1);
        assert_eq!(plan.promise(), Promise { memory: 0, disk: 300 << 20 });
    }

    #[test]
    fn tiers_promise_their_replicas_and_unlimited_promises_nothing() {
        let mut limits = AccountLimits::default();
        let tier = |disk_storage| JetStreamLimits { disk_storage, mem_storage: 10, ..JetStreamLimits::default() };
        limits.tiered_limits = [("R1".to_owned(), tier(100)), ("R3".to_owned(), tier(100))].into();
        assert_eq!(promise_of(&limits), Promise { memory: 40, disk: 400 });
        limits.tiered_limits.insert("R5".to_owned(), tier(-1));
        assert_eq!(promise_of(&limits), Promise { memory: 90, disk: 400 });
        limits.tiered_limits.insert("R3".to_owned(), tier(i64::MAX));
        assert_eq!(promise_of(&limits).disk, i64::MAX);
    }

    #[test]
    fn bad_files_name_line_and_field() {
        let r3 = "\n[tiers.R3]\nmemory = 0\ndisk = 0\nstreams = 1\nconsumers = 1\n";
        let cases = [
            (FLAT.replace("\"300MiB\"", "\"300MB\""), "plans/x.toml:14: jetstream.disk: '300MB' is no amount"),
            (FLAT.replace("\"300MiB\"", "true"), "plans/x.toml:14: jetstream.disk: invalid type: boolean"),
            (FLAT.replace("\"300MiB\"", "\"200MiB\""), "plans/x.toml:14: jetstream.disk: 200MiB is too little"),
            (
                FLAT.replace("streams = 20", "streams = 9"),
                "plans/x.toml:15: jetstream.streams: 5 environment(s) need 10",
            ),
            (FLAT.replace("streams = 20", "streams = 0"), "plans/x.toml:15: jetstream.streams: 0 would mean unlimited"),
            (
                FLAT.replace("connections = 10", "connections = -2"),
                "plans/x.toml:5: limits.connections: -2 is negative",
            ),
            (
                FLAT.replace("\nconnections = 10", "\nconnectons = 10"),
                "plans/x.toml:5: limits.connectons: unknown field",
            ),
            (FLAT.replace("exports = 0\n", ""), "plans/x.toml:4: limits.exports: is missing"),
            (FLAT.replace("name = \"x\"\n", ""), "plans/x.toml:1: name: is missing"),
            (FLAT.replace("\"x\"", "\"y\""), "plans/x.toml:1: name: 'y' must be the file's name"),
            (FLAT.replace("\"x\"", "\"custom\""), "plans/x.toml:1: name: 'custom' is reserved"),
            (FLAT.replace("\"x\"", "\"X y\""), "plans/x.toml:1: name: 'X y' is no name"),
            (format!("{FLAT}{r3}"), "plans/x.toml:23: tiers: flat and tiered"),
            (
                FLAT.replace("[jetstream]", "[tiers.R9]") + r3,
                "plans/x.toml:12: tiers.R9: is no tier; write R1, R2, R3, R4 or R5",
            ),
            (FLAT.replace("[jetstream]", "[tiers.R1]"), "plans/x.toml:12: tiers: lacks R3"),
            (FLAT.replace("disk = ", "disk : "), "plans/x.toml:14: jetstream"),
        ];
        for (text, expected) in cases {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{expected}\n{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
