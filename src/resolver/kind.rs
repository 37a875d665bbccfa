//! Pure: which kind of account resolver a server has.
//!
//! Servers do not say. But what they listen to gives it away (`$SYS.REQ.SERVER.<id>.SUBSZ`; seen with
//! nats-server 2.15.1, subscriptions as in `server/accounts.go` and `server/events.go`):
//!
//! | kind | PACK | LIST, DELETE, `CLAIMS.UPDATE` | `ACCOUNT.<id>.CLAIMS.UPDATE` |
//! |---|---|---|---|
//! | full | yes | yes | yes, stores it |
//! | cache | no | yes | yes, if the account is loaded; else "skipped" |
//! | URL, memory | no | no | yes, if the account is loaded; else "skipped" |

use serde_json::Value;

use super::answers::{ServerRef, server_of};

/// Which kind of account resolver a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolverKind {
    /// Stores every account and compares with the other servers of its cluster.
    Full,
    /// Keeps what it looked up.
    Cache,
    /// Asks a URL, or has its accounts in its configuration: stores nothing.
    Url,
}

/// What only full resolvers listen to.
pub(super) const PACK: &str = "$SYS.REQ.CLAIMS.PACK";
/// What only resolvers with a directory listen to.
pub(super) const LIST: &str = "$SYS.REQ.CLAIMS.LIST";

/// The question whether a server listens to `subject`.
pub(super) fn question(subject: &str, system_account: Option<String>) -> String {
    let mut question = serde_json::json!({ "subscriptions": true, "test": subject });
    if let Some(account) = system_account {
        // Without it the server looks through the subscriptions of all its accounts.
        question["account"] = account.into();
    }
    question.to_string()
}

/// Reads the answer to [`question`]: which server, and whether it listens.
pub(super) fn listens(json: &[u8]) -> Option<(ServerRef, bool)> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let data = value.get("data").filter(|data| data.is_object())?;
    let list = data["subscriptions_list"].as_array().map(Vec::as_slice).unwrap_or_default();
    Some((server_of(&value), !list.is_empty()))
}

/// What is known so far of what a server listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ears {
    /// It listens to [`PACK`].
    pub pack: Option<bool>,
    /// It listens to [`LIST`].
    pub list: Option<bool>,
}

impl Ears {
    /// The kind, as soon as enough is known.
    pub fn kind(self) -> Option<ResolverKind> {
        match (self.pack, self.list) {
            (Some(true), _) => Some(ResolverKind::Full),
            (Some(false), Some(true)) => Some(ResolverKind::Cache),
            (Some(false), Some(false)) => Some(ResolverKind::Url),
            (None, _) | (_, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_listens_to_tells_its_kind() {
        // Recorded from 2.15.1, shortened.
        let full = br#"{"server":{"name":"n1","id":"NA"},"data":{"num_subscriptions":61,"total":1,"subscriptions_list":
            [{"account":"ADIZ","account_tag":"SYS","subject":"$SYS.REQ.CLAIMS.PACK","qgroup":"responder","sid":"59","cid":1}]}}"#;
        let other = br#"{"server":{"name":"u1","id":"NB"},"data":{"num_subscriptions":44,"total":0}}"#;
        assert!(listens(full).unwrap().1);
        assert_eq!(listens(other).unwrap(), (ServerRef { name: "u1".to_owned(), id: "NB".to_owned() }, false));
        let kind = |pack, list| Ears { pack, list }.kind();
        assert_eq!(kind(Some(true), None), Some(ResolverKind::Full));
        assert_eq!(kind(Some(false), Some(true)), Some(ResolverKind::Cache));
        assert_eq!(kind(Some(false), Some(false)), Some(ResolverKind::Url));
        assert_eq!(kind(Some(false), None), None);
        assert_eq!(kind(None, Some(true)), None);
    }
}
