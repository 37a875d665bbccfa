//! Looks at a token or creds file for people: what is wrong with it and, in `words`, what it allows.
//! Pure: the time comes in as a number, and trust is not decided here: a valid report says that the
//! token is sound in itself, not that any server trusts its issuer. Seeds never come out.

mod words;

use serde::Serialize;
use serde_json::Value;

pub use words::words;

use super::{
    claims::{Claims, Payload},
    creds,
    envelope::{self, AnyDecoded, Decoded},
    lint,
};
use crate::nkey::KeyError;

/// What is to be said about a token.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Nothing is wrong with it.
    pub valid: bool,
    /// What is wrong with it.
    pub problems: Vec<String>,
    /// Its header; null when it cannot be read.
    pub header: Value,
    /// Its claims, as they stand there; null when they cannot be read.
    pub claims: Value,
}

/// Looks at `text`, a token or a creds file, as of `now_unix`.
pub fn inspect(text: &str, now_unix: i64) -> Report {
    let text = text.trim();
    let mut problems = Vec::new();
    let token = if creds::is_creds(text) { token_of_creds(text, &mut problems) } else { Some(text) };
    let (mut header, mut claims) = (Value::Null, Value::Null);
    match token.map(envelope::read_unverified) {
        None => {}
        Some(Err(_)) if is_seed(text) => problems.push(KeyError::Seed.to_string()),
        Some(Err(error)) => problems.push(error.to_string()),
        Some(Ok(unverified)) => {
            (header, claims) = (unverified.header, unverified.claims);
            look_at_token(token.unwrap_or_default(), &mut problems);
            look_at_times(&claims, now_unix, &mut problems);
        }
    }
    let problems: Vec<String> = problems.iter().map(|problem| printable(problem)).collect();
    Report { valid: problems.is_empty(), problems, header, claims }
}

fn token_of_creds<'a>(text: &'a str, problems: &mut Vec<String>) -> Option<&'a str> {
    let token = match creds::token_of(text) {
        Ok(token) => token,
        Err(error) => {
            problems.push(format!("creds file: {error}"));
            return None;
        }
    };
    match creds::parse(text) {
        Err(error) => problems.push(format!("creds file: {error}")),
        Ok((token, seed)) => {
            let subject = envelope::read_unverified(&token).ok().map(|token| token.claims["sub"].clone());
            let key = seed.key_pair().public().to_string();
            if subject.is_some_and(|subject| subject != key.as_str()) {
                problems.push(format!("creds file: the seed is that of {key}, not of the token's subject"));
            }
        }
    }
    Some(token)
}

fn look_at_token(token: &str, problems: &mut Vec<String>) {
    match envelope::decode_any(token) {
        Err(error) => problems.push(error.to_string()),
        Ok(AnyDecoded::Operator(decoded)) => look_at_claims(&decoded, token, problems),
        Ok(AnyDecoded::Account(decoded)) => look_at_claims(&decoded, token, problems),
        Ok(AnyDecoded::User(decoded)) => look_at_claims(&decoded, token, problems),
        Ok(AnyDecoded::Activation(decoded)) => look_at_claims(&decoded, token, problems),
        Ok(AnyDecoded::Generic(decoded)) => look_at_claims(&decoded, token, problems),
    }
}

fn look_at_claims<T: Payload>(decoded: &Decoded<T>, token: &str, problems: &mut Vec<String>) {
    let claims: &Claims<T> = &decoded.claims;
    problems.extend(lint::of_signed(claims, token.len()).iter().map(ToString::to_string));
}

fn look_at_times(claims: &Value, now: i64, problems: &mut Vec<String>) {
    if let Some(expires) = claims["exp"].as_i64().filter(|time| *time != 0 && *time <= now) {
        problems.push(format!("expired on {}", words::moment(expires)));
    }
    if let Some(begins) = claims["nbf"].as_i64().filter(|time| *time > now) {
        problems.push(format!("not valid before {}", words::moment(begins)));
    }
}

fn is_seed(text: &str) -> bool {
    text.len() == 58 && text.starts_with('S') && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Claims are the words of strangers: what could move a terminal's cursor or turn the direction of
/// its text is written out.
fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() || turns(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        out
    })
}

#[cfg(test)]
mod tests;
