//! Subjects against a naive model: every subject of a small alphabet, matched by the definition.

use nats_authority::jwt::subject;
use proptest::prelude::*;

/// The subjects of up to four tokens from a small alphabet that a pattern matches, by trying them all.
fn matched(pattern: &str) -> Vec<String> {
    let mut all = vec![Vec::<&str>::new()];
    let mut subjects = Vec::new();
    for _ in 0..4 {
        all = all
            .iter()
            .flat_map(|tokens| ["a", "b", "c"].map(|token| tokens.iter().copied().chain([token]).collect()))
            .collect();
        subjects.extend(all.iter().map(|tokens| tokens.join(".")));
    }
    subjects.retain(|subject| {
        naive_match(&pattern.split('.').collect::<Vec<_>>(), &subject.split('.').collect::<Vec<_>>())
    });
    subjects
}

/// Matching by its definition: `*` is one token, `>` is one or more.
fn naive_match(pattern: &[&str], subject: &[&str]) -> bool {
    match (pattern, subject) {
        ([], []) | ([">"], [_, ..]) => true,
        (["*", pattern @ ..], [_, subject @ ..]) => naive_match(pattern, subject),
        ([token, pattern @ ..], [other, subject @ ..]) => token == other && naive_match(pattern, subject),
        _ => false,
    }
}

/// Patterns of up to three tokens, so that four tokens tell every two of them apart.
fn patterns() -> impl Strategy<Value = String> {
    ("(a|b|\\*)(\\.(a|b|\\*)){0,2}", any::<bool>()).prop_map(|(pattern, open)| match pattern.rsplit_once('.') {
        Some((start, _)) if open => format!("{start}.>"),
        None if open => ">".to_owned(),
        _ => pattern,
    })
}

proptest! {
    #[test]
    fn containing_and_overlapping_are_what_matching_makes_them(left in patterns(), right in patterns()) {
        let (by_left, by_right) = (matched(&left), matched(&right));
        prop_assert_eq!(subject::contains(&left, &right), by_right.iter().all(|subject| by_left.contains(subject)));
        prop_assert_eq!(subject::overlap(&left, &right), by_right.iter().any(|subject| by_left.contains(subject)));
        prop_assert_eq!(subject::overlap(&left, &right), subject::overlap(&right, &left));
        for literal in &by_left {
            prop_assert!(subject::contains(&left, literal) && subject::is_literal(literal));
        }
        prop_assert!(subject::is_valid(&left) && subject::is_valid(&right));
    }

    #[test]
    fn validity_is_about_tokens(tokens in proptest::collection::vec("[a>* \t]{0,2}", 0..4)) {
        let text = tokens.join(".");
        let whole = |token: &String| !token.is_empty() && !token.contains([' ', '\t']);
        let early = tokens.iter().rev().skip(1).any(|token| token == ">");
        prop_assert_eq!(subject::is_valid(&text), !tokens.is_empty() && tokens.iter().all(whole) && !early);
    }

    #[test]
    fn any_text_can_be_asked_about(left in "\\PC{0,20}", right in "\\PC{0,20}") {
        let _ = (subject::is_valid(&left), subject::contains(&left, &right), subject::overlap(&left, &right));
        prop_assert!(!subject::is_literal(&left) || subject::is_valid(&left));
        prop_assert!(subject::contains(&left, &left) || !subject::is_valid(&left));
    }
}
