//! The role `custom`: allow and deny lists that a caller writes for one credential. What may stand in them
//! is what may stand in a strict role of the environment; how a role is made of them is in `role`.

use super::{explain::Direction, territory::outside};
use crate::{
    error::{Error, FieldError, Result},
    jwt::subject,
    model::{Environment, view::PermissionsView},
};

/// Its name. No file may be called so.
pub const CUSTOM: &str = "custom";

/// The most subjects in one list. The credential's size is bounded as well.
const MAX_SUBJECTS: usize = 64;

/// The longest subject, bytes.
const MAX_SUBJECT: usize = 255;

/// Refuses what a strict role of `environment` could not have, each subject with its pointer.
pub fn check(own: &PermissionsView, environment: &Environment) -> Result<()> {
    let mut wrong = Vec::new();
    for (direction, side, part) in
        [(Direction::Publish, "publish", &own.publish), (Direction::Subscribe, "subscribe", &own.subscribe)]
    {
        for (list, subjects) in [("allow", &part.allow), ("deny", &part.deny)] {
            if subjects.len() > MAX_SUBJECTS {
                let detail = format!("{} subjects; a list has at most {MAX_SUBJECTS}", subjects.len());
                wrong.push(FieldError { pointer: format!("/permissions/{side}/{list}"), detail });
                continue;
            }
            for (index, text) in subjects.iter().enumerate() {
                let detail = if text.len() > MAX_SUBJECT || text.contains("{{") || !subject::is_valid(text) {
                    Some(format!("this is no subject of at most {MAX_SUBJECT} bytes without spaces and templates"))
                } else if list == "allow" {
                    outside(direction, text, environment)
                } else {
                    None
                };
                if let Some(detail) = detail {
                    wrong.push(FieldError { pointer: format!("/permissions/{side}/{list}/{index}"), detail });
                }
            }
        }
    }
    if wrong.is_empty() && own.publish.allow.is_empty() && own.subscribe.allow.is_empty() {
        let detail = "nothing is allowed; name at least one subject to publish or to subscribe".to_owned();
        wrong.push(FieldError { pointer: "/permissions".to_owned(), detail });
    }
    match wrong.first() {
        None => Ok(()),
        Some(first) => Err(Error::invalid("invalid-permissions", first.detail.clone()).with_fields(wrong)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::PermissionView;

    #[test]
    fn only_what_a_strict_role_could_have() {
        let environment = Environment::new("acme".parse().unwrap(), "prod".parse().unwrap());
        let list = |subjects: &[&str]| subjects.iter().map(ToString::to_string).collect::<Vec<_>>();
        let pointers = |publish: [&[&str]; 2], subscribe: [&[&str]; 2]| {
            let part = |[allow, deny]: [&[&str]; 2]| PermissionView { allow: list(allow), deny: list(deny) };
            let own = PermissionsView { publish: part(publish), subscribe: part(subscribe) };
            let fields = |error: Error| error.fields().iter().map(|field| field.pointer.clone()).collect::<Vec<_>>();
            check(&own, &environment).map_err(fields).err().unwrap_or_default()
        };
        let none: [&[&str]; 2] = [&[], &[]];
        let fine: [&[&str]; 2] = [&["ws.acme-prod.orders.>"], &["ws.acme-prod.orders.secret"]];
        assert_eq!(pointers(fine, none), [""; 0]);
        assert_eq!(pointers(none, fine), [""; 0]);
        assert_eq!(pointers(none, none), ["/permissions"]);
        assert_eq!(pointers([&["ws.acme-dev.>"], &[]], none), ["/permissions/publish/allow/0"]);
        assert_eq!(pointers(none, [&["ws.acme-prod.>", "_INBOX.>"], &[]]), ["/permissions/subscribe/allow/1"]);
        assert_eq!(pointers([&["ws.acme-prod.{{name()}}"], &[]], none), ["/permissions/publish/allow/0"]);
        assert_eq!(pointers([&["ws.acme-prod.a"], &["a b"]], none), ["/permissions/publish/deny/0"]);
        assert_eq!(pointers([&["$JS.API.CONSUMER.CREATE.ws-acme-prod-jobs"], &[]], none).len(), 1);
        assert_eq!(pointers([&["$JS.API.CONSUMER.MSG.NEXT.ws-acme-prod-jobs.*"], &[]], none).len(), 0);
        let many = vec!["ws.acme-prod.a"; MAX_SUBJECTS + 1];
        assert_eq!(pointers([&many, &[]], none), ["/permissions/publish/allow"]);
    }
}
