//! Lists: one page of items and the cursor of the next. A cursor is opaque to callers: the key of
//! the last item, base64url.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Result as Outcome},
    store::page::Page,
};

/// Items in a page when the caller does not say.
const DEFAULT_LIMIT: i64 = 100;

/// The most items in a page.
const MAX_LIMIT: i64 = 1000;

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// The `cursor` of the next page; null: this is the last one.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A list that is never cut.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }

    /// A page; `key` is what the next one continues behind.
    pub fn page(items: Vec<T>, more: bool, key: impl FnOnce(&T) -> String) -> Self {
        let next_cursor = items.last().filter(|_| more).map(|last| cursor(&key(last)));
        Self { items, next_cursor }
    }
}

/// What the next page continues behind.
pub(super) fn cursor(key: &str) -> String {
    B64.encode(key)
}

/// `?limit=`, 1 to 1,000.
#[derive(Clone, Copy, Debug)]
pub struct Limit(i64);

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(limit) if (1..=MAX_LIMIT).contains(&limit) => Ok(Self(limit)),
            _ => Err(serde::de::Error::custom(format!("a limit is a number from 1 to {MAX_LIMIT}"))),
        }
    }
}

/// The page that a request asks for; `key` reads the key of a cursor.
pub(super) fn page<K>(
    limit: Option<Limit>,
    cursor: Option<&str>,
    key: impl FnOnce(&str) -> Option<K>,
) -> Outcome<Page<K>> {
    let limit = limit.map_or(DEFAULT_LIMIT, |limit| limit.0);
    let Some(cursor) = cursor else { return Ok(Page { limit, after: None }) };
    let text = B64.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match text.as_deref().and_then(key) {
        Some(key) => Ok(Page { limit, after: Some(key) }),
        None => Err(Error::field(
            "invalid-cursor",
            "cursor",
            "this is no cursor of this list; take `nextCursor` of the page before as it is",
        )),
    }
}
