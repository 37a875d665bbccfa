//! Pure: what differs between two versions of an account's claims, for people. Nothing here decides
//! whether a difference matters.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Account;

/// A place in the claims with what stands there before and after; null: nothing.
pub type Difference = (String, Value, Value);

/// What differs, by JSON pointer. Signing keys are compared by key. Those that are only in `after` are called
/// `(new 1)` and so on: a trial makes other keys than the change itself.
pub fn difference(before: Option<&Account>, after: &Account) -> Vec<Difference> {
    let mut found = Vec::new();
    let old = before.map_or_else(|| json!({}), |before| keyed(before, before));
    walk("/nats", &old, &keyed(after, before.unwrap_or(after)), &mut found);
    found
}

/// Claims as JSON with the signing keys as an object: key to scope, `{}` for a plain one.
fn keyed(account: &Account, known: &Account) -> Value {
    let mut value = serde_json::to_value(account).unwrap_or_default();
    let mut fresh = 0;
    let mut keys = BTreeMap::new();
    for (key, scope) in &account.signing_keys.0 {
        let name = if known.signing_keys.0.contains_key(key) {
            key.to_string()
        } else {
            fresh += 1;
            format!("(new {fresh})")
        };
        let scope = scope.as_ref().map_or_else(|| json!({}), |scope| serde_json::to_value(scope).unwrap_or_default());
        keys.insert(name, scope);
    }
    if let Value::Object(object) = &mut value {
        object.insert("signing_keys".to_owned(), json!(keys));
    }
    value
}

fn walk(pointer: &str, before: &Value, after: &Value, found: &mut Vec<Difference>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let inner = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                let get = |object: &Map<String, Value>| object.get(name).cloned().unwrap_or_default();
                walk(&inner, &get(old), &get(new), found);
            }
        }
        _ => found.push((pointer.to_owned(), before.clone(), after.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entropy::SeededEntropy,
        jwt::{
            account::{SigningKeys, UserScope},
            limits::AccountLimits,
        },
        nkey,
    };

    #[test]
    fn places_are_named_and_keys_stand_by_key() {
        let entropy = SeededEntropy::new(1);
        let keys = [0, 1].map(|_| nkey::KeyPair::<nkey::Account>::generate(&entropy).public());
        let mut before = Account::new(AccountLimits { conn: 10, ..AccountLimits::unlimited() });
        before.signing_keys =
            SigningKeys([(keys[0], Some(UserScope { role: "a".into(), ..UserScope::default() }))].into());
        assert_eq!(difference(Some(&before), &before), []);
        let mut after = before.clone();
        after.limits.conn = 5;
        after.revocations.insert("U1".into(), 7);
        after.signing_keys.0.get_mut(&keys[0]).unwrap().as_mut().unwrap().role = "b/c".into();
        after.signing_keys.0.insert(keys[1], None);
        let expected = [
            ("/nats/limits/conn".to_owned(), json!(10), json!(5)),
            ("/nats/revocations".to_owned(), Value::Null, json!({"U1": 7})),
            ("/nats/signing_keys/(new 1)".to_owned(), Value::Null, json!({})),
            (format!("/nats/signing_keys/{}/role", keys[0]), json!("a"), json!("b/c")),
        ];
        assert_eq!(difference(Some(&before), &after), expected);
        assert!(difference(None, &after).iter().all(|(_, before, _)| before.is_null()));
    }
}
