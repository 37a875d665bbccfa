//! What one organization gets beyond or below its plan: single limits, named as the API names them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_with::serde_as;
use utoipa::ToSchema;

use super::{
    plan::{Plan, room},
    source::{Amount, ZERO_IS_UNLIMITED, ZERO_LOCKS_OUT, Zero},
};
use crate::{
    error::{Error, Result},
    jwt::limits::{AccountLimits, JetStreamLimits},
    model::object::Object,
};

const CODE: &str = "invalid-limit";

/// Single limits over those of the plan; what is absent stays the plan's. Amounts are numbers, sizes
/// such as `10GiB`, or `unlimited`.
#[serde_as]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsOverride {
    /// Subscriptions a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subs: Option<Amount>,
    /// Bytes a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Amount>,
    /// Client connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conn: Option<Amount>,
    /// Leaf node connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaf: Option<Amount>,
    /// Imports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imports: Option<Amount>,
    /// Exports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exports: Option<Amount>,
    /// Exports may hold wildcards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wildcards: Option<bool>,
    /// Bearer users are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disallow_bearer: Option<bool>,
    /// Bytes in memory, replicas counted; only on a plan without tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_storage: Option<Amount>,
    /// Bytes on disk, replicas counted; only on a plan without tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_storage: Option<Amount>,
    /// Streams; only on a plan without tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<Amount>,
    /// Consumers; only on a plan without tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Amount>,
    /// Unacknowledged messages a consumer; only on a plan without tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ack_pending: Option<Amount>,
    /// Bytes a memory stream; only on a plan without tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_max_stream_bytes: Option<Amount>,
    /// Bytes a file stream; only on a plan without tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_max_stream_bytes: Option<Amount>,
    /// Every stream has to say its `max_bytes`; only on a plan without tiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_required: Option<bool>,
    /// Limits of the plan's tiers, `R1`, `R3`; only on a plan with tiers.
    #[serde_as(as = "BTreeMap<_, Object>")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tiered_limits: BTreeMap<String, TierOverride>,
}

/// Single limits of one replica tier; bytes count once, without replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TierOverride {
    /// Bytes in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_storage: Option<Amount>,
    /// Bytes on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_storage: Option<Amount>,
    /// Streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<Amount>,
    /// Consumers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Amount>,
    /// Unacknowledged messages a consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ack_pending: Option<Amount>,
    /// Bytes a memory stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_max_stream_bytes: Option<Amount>,
    /// Bytes a file stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_max_stream_bytes: Option<Amount>,
    /// Every stream has to say its `max_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes_required: Option<bool>,
}

impl LimitsOverride {
    /// Nothing is overridden.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The limits of an account on `plan` with these overrides. Refused is what could not hold even
    /// one environment; whether the cluster has what they promise is decided elsewhere.
    pub fn apply(&self, plan: &Plan) -> Result<AccountLimits> {
        let mut limits = plan.limits.clone();
        let root = "/limits";
        set(&mut limits.subs, self.subs.as_ref(), ZERO_LOCKS_OUT, root, "subs")?;
        set(&mut limits.payload, self.payload.as_ref(), ZERO_LOCKS_OUT, root, "payload")?;
        set(&mut limits.conn, self.conn.as_ref(), ZERO_LOCKS_OUT, root, "conn")?;
        set(&mut limits.leaf, self.leaf.as_ref(), Zero::Nothing, root, "leaf")?;
        set(&mut limits.imports, self.imports.as_ref(), Zero::Nothing, root, "imports")?;
        set(&mut limits.exports, self.exports.as_ref(), Zero::Nothing, root, "exports")?;
        limits.wildcards = self.wildcards.unwrap_or(limits.wildcards);
        limits.disallow_bearer = self.disallow_bearer.unwrap_or(limits.disallow_bearer);

        let flat = self.flat();
        if plan.limits.tiered_limits.is_empty() {
            flat.apply(&mut limits.jetstream, root)?;
        } else if let Some(name) = flat.first() {
            let detail = format!("plan '{}' limits JetStream by replica tier; override tieredLimits", plan.name);
            return Err(Error::field(CODE, format!("{root}/{name}"), detail));
        }
        for (tier, change) in &self.tiered_limits {
            // A tier that the plan lacks is not added: taking it away again would break its streams.
            let pointer = format!("{root}/tieredLimits/{}", tier.replace('~', "~0").replace('/', "~1"));
            let Some(limits) = limits.tiered_limits.get_mut(tier) else {
                return Err(Error::field(CODE, pointer, format!("plan '{}' has no tier '{tier}'", plan.name)));
            };
            change.apply(limits, &pointer)?;
        }
        room(&limits, plan.environment, 1).map_err(|lack| {
            let tier = if limits.tiered_limits.is_empty() { "" } else { "/tieredLimits/R3" };
            Error::field(CODE, format!("{root}{tier}/{}", lack.pointer), lack.reason)
        })?;
        Ok(limits)
    }

    fn flat(&self) -> TierOverride {
        TierOverride {
            mem_storage: self.mem_storage.clone(),
            disk_storage: self.disk_storage.clone(),
            streams: self.streams.clone(),
            consumers: self.consumers.clone(),
            max_ack_pending: self.max_ack_pending.clone(),
            mem_max_stream_bytes: self.mem_max_stream_bytes.clone(),
            disk_max_stream_bytes: self.disk_max_stream_bytes.clone(),
            max_bytes_required: self.max_bytes_required,
        }
    }
}

impl TierOverride {
    fn apply(&self, limits: &mut JetStreamLimits, at: &str) -> Result<()> {
        set(&mut limits.mem_storage, self.mem_storage.as_ref(), Zero::Nothing, at, "memStorage")?;
        set(&mut limits.disk_storage, self.disk_storage.as_ref(), Zero::Nothing, at, "diskStorage")?;
        set(&mut limits.streams, self.streams.as_ref(), ZERO_IS_UNLIMITED, at, "streams")?;
        set(&mut limits.consumer, self.consumers.as_ref(), ZERO_IS_UNLIMITED, at, "consumers")?;
        set(&mut limits.max_ack_pending, self.max_ack_pending.as_ref(), ZERO_IS_UNLIMITED, at, "maxAckPending")?;
        for (limit, amount, name) in [
            (&mut limits.mem_max_stream_bytes, &self.mem_max_stream_bytes, "memMaxStreamBytes"),
            (&mut limits.disk_max_stream_bytes, &self.disk_max_stream_bytes, "diskMaxStreamBytes"),
        ] {
            set(limit, amount.as_ref(), ZERO_IS_UNLIMITED, at, name)?;
            // These two know no -1: 0 is unlimited.
            *limit = (*limit).max(0);
        }
        limits.max_bytes_required = self.max_bytes_required.unwrap_or(limits.max_bytes_required);
        Ok(())
    }

    /// The first limit that is overridden.
    fn first(&self) -> Option<&'static str> {
        [
            ("memStorage", self.mem_storage.is_some()),
            ("diskStorage", self.disk_storage.is_some()),
            ("streams", self.streams.is_some()),
            ("consumers", self.consumers.is_some()),
            ("maxAckPending", self.max_ack_pending.is_some()),
            ("memMaxStreamBytes", self.mem_max_stream_bytes.is_some()),
            ("diskMaxStreamBytes", self.disk_max_stream_bytes.is_some()),
            ("maxBytesRequired", self.max_bytes_required.is_some()),
        ]
        .into_iter()
        .find_map(|(name, is_some)| is_some.then_some(name))
    }
}

fn set(limit: &mut i64, amount: Option<&Amount>, zero: Zero, at: &str, name: &str) -> Result<()> {
    if let Some(amount) = amount {
        *limit = amount.resolve(zero).map_err(|why| Error::field(CODE, format!("{at}/{name}"), why))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policies;

    fn apply(plan: &str, json: serde_json::Value) -> Result<AccountLimits> {
        serde_json::from_value::<LimitsOverride>(json).unwrap().apply(&Policies::builtin().unwrap().plans[plan])
    }

    #[test]
    fn single_limits_replace_those_of_the_plan() {
        let limits = apply("s", serde_json::json!({"diskStorage": "1GiB", "conn": 7, "leaf": "unlimited"})).unwrap();
        let plan = &Policies::builtin().unwrap().plans["s"];
        assert_eq!((limits.jetstream.disk_storage, limits.conn, limits.leaf), (1 << 30, 7, -1));
        assert_eq!((limits.subs, limits.payload), (plan.limits.subs, plan.limits.payload));
        let limits = apply("flexi", serde_json::json!({"tieredLimits": {"R3": {"diskStorage": "2GiB"}}})).unwrap();
        assert_eq!(limits.tiered_limits["R3"].disk_storage, 2 << 30);
        assert_eq!(apply("m", serde_json::json!({})).unwrap(), Policies::builtin().unwrap().plans["m"].limits);
    }

    #[test]
    fn refusals_name_the_field() {
        for (plan, json, pointer) in [
            ("s", serde_json::json!({"diskStorage": "10GB"}), "/limits/diskStorage"),
            ("s", serde_json::json!({"diskStorage": "1MiB"}), "/limits/diskStorage"),
            ("s", serde_json::json!({"payload": -2}), "/limits/payload"),
            ("s", serde_json::json!({"conn": 0}), "/limits/conn"),
            ("s", serde_json::json!({"streams": 0}), "/limits/streams"),
            ("s", serde_json::json!({"streams": 1}), "/limits/streams"),
            ("s", serde_json::json!({"diskMaxStreamBytes": 1}), "/limits/diskMaxStreamBytes"),
            ("s", serde_json::json!({"tieredLimits": {"R3": {}}}), "/limits/tieredLimits/R3"),
            ("flexi", serde_json::json!({"consumers": 5}), "/limits/consumers"),
            ("flexi", serde_json::json!({"tieredLimits": {"R2": {}}}), "/limits/tieredLimits/R2"),
            ("flexi", serde_json::json!({"tieredLimits": {"R1": {"streams": 0}}}), "/limits/tieredLimits/R1/streams"),
            (
                "flexi",
                serde_json::json!({"tieredLimits": {"R3": {"diskStorage": 0}}}),
                "/limits/tieredLimits/R3/diskStorage",
            ),
        ] {
            let error = apply(plan, json.clone()).unwrap_err();
            assert_eq!(error.fields()[0].pointer, pointer, "{json}");
        }
        assert!(serde_json::from_value::<LimitsOverride>(serde_json::json!({"disk": 1})).is_err());
    }

    #[test]
    fn an_override_survives_storage() {
        let json = serde_json::json!({"diskStorage": "1GiB", "conn": 7, "tieredLimits": {"R1": {"streams": 3}}});
        let parsed: LimitsOverride = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(parsed).unwrap(), json);
        assert!(LimitsOverride::default().is_empty());
    }
}
