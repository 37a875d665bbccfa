//! Subjects: syntax, matching and containment, as nats-server decides them.

/// A subject without wildcards that a message can be published to.
pub fn is_literal(subject: &str) -> bool {
    is_valid(subject) && !subject.split('.').any(|token| token == "*" || token == ">")
}

/// A well-formed subject: no empty token, no white space or control character, `>` only as the last token.
/// `*` and `>` are wildcards only where they are a whole token.
pub fn is_valid(subject: &str) -> bool {
    if subject.is_empty() || subject.bytes().any(|b| b.is_ascii_whitespace() || b.is_ascii_control()) {
        return false;
    }
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        if token.is_empty() || (token == ">" && tokens.peek().is_some()) {
            return false;
        }
    }
    true
}

/// Everything that `inner` can match, `outer` matches as well. With a literal `inner` this is the
/// question whether the pattern `outer` matches it.
pub fn contains(outer: &str, inner: &str) -> bool {
    let mut inner = inner.split('.');
    for token in outer.split('.') {
        match (token, inner.next()) {
            (">", Some(_)) => return true,
            (_, None | Some(">")) => return false,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    inner.next().is_none()
}

/// Some subject is matched by both patterns.
pub fn overlap(left: &str, right: &str) -> bool {
    let (mut left, mut right) = (left.split('.'), right.split('.'));
    loop {
        match (left.next(), right.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax() {
        for good in ["a", "a.b", "a.*", "a.>", "*", ">", "a*b.c>", "$KV.b.k/v"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.>.b", "a\tb", "a\nb"] {
            assert!(!is_valid(bad), "{bad:?}");
        }
        assert!(is_literal("a*b") && !is_literal("a.*"));
    }

    #[test]
    fn prefixes_end_at_dots() {
        assert!(contains("ws.acme-prod.>", "ws.acme-prod.a.b"));
        assert!(!contains("ws.acme-prod.>", "ws.acme-prod-dev.a"));
        assert!(!contains("ws.acme-prod.>", "ws.acme-prod"));
        assert!(contains("a.*", "a.*") && !contains("a.*", "a.>") && contains("a.>", "a.*.b"));
        assert!(overlap("a.*.c", "a.b.*") && overlap("a.>", "a.b") && !overlap("a.b", "a.c"));
    }
}
