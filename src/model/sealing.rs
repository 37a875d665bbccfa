//! Sealing keys as callers see them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the signing keys in the database are sealed with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SealingView {
    /// The configured sealing keys, the one that seals first; then those that are not configured and that rows are
    /// sealed with all the same.
    pub keys: Vec<SealingKeyView>,
    /// Rows that are not sealed with the first one, counted in the database after everything else was done.
    pub left: i64,
    /// How many rows this request has sealed again; absent where it only looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resealed: Option<i64>,
    /// Rows that could not be opened, and why; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A sealing key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SealingKeyView {
    /// Its public identifier, a hash of the key.
    #[schema(example = "9f86d081884c7d65")]
    pub id: String,
    /// Rows that are sealed with it.
    pub rows: i64,
    /// It seals.
    pub first: bool,
    /// The replica that answers has it.
    pub configured: bool,
}
