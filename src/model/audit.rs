//! The chain that binds audit events together: how a link is computed and how a chain is checked.
//! Pure; where events and links are kept stands in `store`, who writes them in `authority`.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What separates these hashes from all others, and this way of computing them from later ones.
const DOMAIN: &[u8] = b"nats-authority audit chain 1";

/// The hash of a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// What the first link is bound to.
    pub const START: Self = Self([0; 32]);

    /// Reads 64 hexadecimal characters.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An event as the chain binds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainedEvent {
    /// Identifier.
    pub id: Uuid,
    /// Number in the table.
    pub seq: i64,
    /// When, to the microsecond.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// Who vouches for the actor.
    pub issuer: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
    /// What was done.
    pub action: String,
    /// On which organization.
    pub org: Option<String>,
    /// On what.
    pub target: String,
    /// The request that caused it.
    pub request_id: Option<String>,
    /// Public parts of the change, the very text that the database keeps.
    pub detail: String,
}

impl ChainedEvent {
    /// The hash of the link that binds this event at `position` to everything before it.
    pub fn link(&self, before: ChainHash, position: i64) -> ChainHash {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(before.0);
        hash.update(position.to_be_bytes());
        hash.update(self.id.as_bytes());
        hash.update(self.seq.to_be_bytes());
        hash.update(self.at.timestamp_micros().to_be_bytes());
        let optional = [&self.issuer, &self.address, &self.org, &self.request_id];
        for text in [&self.actor, &self.action, &self.target, &self.detail] {
            part(&mut hash, Some(text));
        }
        for text in optional {
            part(&mut hash, text.as_deref());
        }
        ChainHash(hash.finalize().into())
    }
}

/// Lengths before texts: no two events are the same sequence of bytes. Nothing and an empty text differ.
fn part(hash: &mut Sha256, text: Option<&str>) {
    match text {
        None => hash.update([0]),
        Some(text) => {
            hash.update([1]);
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
    }
}

/// A link as it was found: what stands in the chain, and the event if it is there.
#[derive(Clone, Debug)]
pub struct FoundLink {
    /// Its position.
    pub position: i64,
    /// The event that it names.
    pub event_id: Uuid,
    /// The hash that it carries.
    pub hash: ChainHash,
    /// The event, if it is there.
    pub event: Option<ChainedEvent>,
}

/// A link with its event as it is exported and published: one line of JSON, from which the chain can be
/// checked without the database.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExportedLink {
    position: i64,
    hash: String,
    id: Uuid,
    /// Absent where the event was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<ExportedEvent>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExportedEvent {
    seq: i64,
    at: DateTime<Utc>,
    actor: String,
    issuer: Option<String>,
    address: Option<String>,
    action: String,
    org: Option<String>,
    target: String,
    request_id: Option<String>,
    /// The very text: the hash is over it.
    detail: Box<RawValue>,
}

impl From<FoundLink> for ExportedLink {
    fn from(link: FoundLink) -> Self {
        let event = link.event.and_then(|event| {
            let ChainedEvent { id: _, seq, at, actor, issuer, address, action, org, target, request_id, detail } =
                event;
            // The database takes nothing else than JSON there.
            let detail = RawValue::from_string(detail).ok()?;
            Some(ExportedEvent { seq, at, actor, issuer, address, action, org, target, request_id, detail })
        });
        Self { position: link.position, hash: link.hash.to_string(), id: link.event_id, event }
    }
}

impl ExportedLink {
    /// Where it stands in the chain.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The link that was exported; none when the hash is no hash.
    pub fn into_found(self) -> Option<FoundLink> {
        let id = self.id;
        let event = self.event.map(|event| {
            let ExportedEvent { seq, at, actor, issuer, address, action, org, target, request_id, detail } = event;
            let detail = detail.get().to_owned();
            ChainedEvent { id, seq, at, actor, issuer, address, action, org, target, request_id, detail }
        });
        Some(FoundLink { position: self.position, event_id: id, hash: ChainHash::parse(&self.hash)?, event })
    }
}

/// What is wrong at a place of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The position at which it shows.
    pub position: i64,
    /// The event that stands there, if one does.
    pub event: Option<Uuid>,
    /// What is wrong, in words.
    pub reason: &'static str,
}

/// A check that goes along the chain from its start.
#[derive(Clone, Debug)]
pub struct ChainCheck {
    position: i64,
    hash: ChainHash,
    /// A position whose hash is known from elsewhere.
    anchor: Option<(i64, ChainHash)>,
}

impl ChainCheck {
    /// A check from the start; with an anchor, the chain has to have that hash at that position.
    pub fn new(anchor: Option<(i64, ChainHash)>) -> Self {
        Self { position: 0, hash: ChainHash::START, anchor }
    }

    /// A check of a part, behind a link that is believed.
    pub fn behind(position: i64, hash: ChainHash) -> Self {
        Self { position, hash, anchor: None }
    }

    /// The last link that was found right.
    pub fn head(&self) -> (i64, ChainHash) {
        (self.position, self.hash)
    }

    /// Goes on by one link.
    pub fn step(&mut self, link: &FoundLink) -> Result<(), Broken> {
        let expected = self.position + 1;
        let broken = |reason| Err(Broken { position: expected, event: Some(link.event_id), reason });
        if link.position != expected {
            return Err(Broken { position: expected, event: None, reason: "the link at this position was removed" });
        }
        let Some(event) = &link.event else { return broken("the event was removed") };
        if event.link(self.hash, expected) != link.hash {
            return broken("the event or the links before it were changed or reordered");
        }
        if let Some((position, hash)) = self.anchor
            && position == expected
            && hash != link.hash
        {
            return broken("the chain was written anew: the anchor has another hash here");
        }
        (self.position, self.hash) = (expected, link.hash);
        Ok(())
    }

    /// What the end of the chain says: it has to reach the anchor and what is known to have been there.
    pub fn finish(&self, known: i64) -> Result<(), Broken> {
        let least = self.anchor.map_or(0, |(position, _)| position).max(known);
        if self.position < least {
            let reason = "the end of the chain was removed: it was longer once";
            return Err(Broken { position: self.position + 1, event: None, reason });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(n: u8) -> ChainedEvent {
        ChainedEvent {
            id: Uuid::from_bytes([n; 16]),
            seq: i64::from(n) + 1,
            at: DateTime::from_timestamp(1_700_000_000 + i64::from(n), 0).unwrap(),
            actor: "token:admin".to_owned(),
            issuer: None,
            address: Some("127.0.0.1".to_owned()),
            action: "organization.onboard".to_owned(),
            org: Some(format!("org{n}")),
            target: format!("org{n}"),
            request_id: None,
            detail: format!("{{\"n\":{n}}}"),
        }
    }

    fn chain(length: u8) -> Vec<FoundLink> {
        let mut hash = ChainHash::START;
        (0..length)
            .map(|n| {
                let event = event(n);
                let position = i64::from(n) + 1;
                hash = event.link(hash, position);
                FoundLink { position, event_id: event.id, hash, event: Some(event) }
            })
            .collect()
    }

    fn check(links: &[FoundLink], known: i64, anchor: Option<(i64, ChainHash)>) -> Result<(i64, ChainHash), Broken> {
        let mut check = ChainCheck::new(anchor);
        links.iter().try_for_each(|link| check.step(link))?;
        check.finish(known)?;
        Ok(check.head())
    }

    type Change = fn(&mut ChainedEvent);

    const CHANGES: [Change; 11] = [
        |e| e.id = Uuid::from_bytes([99; 16]),
        |e| e.seq += 1,
        |e| e.at += chrono::TimeDelta::microseconds(1),
        |e| e.actor.push('x'),
        |e| e.issuer = Some(String::new()),
        |e| e.address = None,
        |e| e.action.push('x'),
        |e| e.org = None,
        |e| e.target.push('x'),
        |e| e.request_id = Some("r".to_owned()),
        |e| e.detail.push(' '),
    ];

    proptest! {
        #[test]
        fn the_first_broken_event_is_named(length in 2_u8..20, at: prop::sample::Index, other: prop::sample::Index, kind in 0_usize..14) {
            let mut links = chain(length);
            let at = at.index(links.len());
            let expected = i64::try_from(at).unwrap() + 1;
            let known = i64::from(length);
            prop_assert_eq!(check(&links, known, None).unwrap().0, known);
            match kind {
                0..=10 => CHANGES[kind](links[at].event.as_mut().unwrap()),
                11 => links[at].event = None,
                12 => drop(links.remove(at)),
                _ => {
                    // Two events change their places, their links stay.
                    let other = (at + 1 + other.index(links.len() - 1)) % links.len();
                    let (a, b) = (links[at].event.take(), links[other].event.take());
                    (links[at].event, links[other].event) = (b, a);
                    let first = i64::try_from(at.min(other)).unwrap() + 1;
                    prop_assert_eq!(check(&links, known, None).unwrap_err().position, first);
                    return Ok(());
                }
            }
            prop_assert_eq!(check(&links, known, None).unwrap_err().position, expected);
        }

        #[test]
        fn a_chain_that_was_written_anew_differs_from_its_anchor(length in 2_u8..20, at: prop::sample::Index) {
            let links = chain(length);
            let anchor = links.last().map(|link| (link.position, link.hash));
            let at = at.index(links.len());
            let mut forged: Vec<FoundLink> = links.clone();
            forged[at].event.as_mut().unwrap().actor = "somebody else".to_owned();
            let mut hash = ChainHash::START;
            for link in &mut forged {
                hash = link.event.as_ref().unwrap().link(hash, link.position);
                link.hash = hash;
            }
            prop_assert!(check(&forged, i64::from(length), None).is_ok());
            prop_assert_eq!(check(&forged, 0, anchor).unwrap_err().position, i64::from(length));
        }
    }

    #[test]
    fn an_export_proves_itself() {
        let mut links = chain(4);
        for link in &mut links {
            // As Postgres writes it, not as serde would.
            let event = link.event.as_mut().unwrap();
            event.detail = "{\"a\" : 1.0,  \"b\":[] }".to_owned();
            event.at += chrono::TimeDelta::microseconds(120);
        }
        let mut hash = ChainHash::START;
        for link in &mut links {
            hash = link.event.as_ref().unwrap().link(hash, link.position);
            link.hash = hash;
        }
        let text: Vec<_> =
            links.iter().map(|link| serde_json::to_string(&ExportedLink::from(link.clone())).unwrap()).collect();
        assert!(!text.iter().any(|line| line.contains('\n')));
        let read = |line: &String| serde_json::from_str::<ExportedLink>(line).unwrap().into_found().unwrap();
        let found: Vec<_> = text.iter().map(read).collect();
        assert_eq!(check(&found, 4, None).unwrap(), (4, hash));
        let forged: Vec<_> = text.iter().map(|line| read(&line.replace("1.0", "1.1"))).collect();
        assert_eq!(check(&forged, 4, None).unwrap_err().position, 1);
    }

    #[test]
    fn texts_cannot_move_from_one_field_to_the_next() {
        let (a, mut b) = (event(1), event(1));
        b.actor.push_str(&b.action);
        b.action.clear();
        assert_ne!(a.link(ChainHash::START, 1), b.link(ChainHash::START, 1));
    }
}
