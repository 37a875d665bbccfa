//! A policy file as people see it: its name, its lines and its fields. What is wrong in it is said
//! in one line, `file:line: field: reason`. What the fields mean lives in `plan` and `role`.

use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    model::size,
};

/// One policy file.
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text }
    }

    /// Reads the file into `T`, which refuses unknown fields.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(self.text).map_err(|error| {
            let reason = error.message().trim().replace('\n', ", ");
            // A missing field has no place of its own: the span is its table's.
            match (missing_field(&reason), error.span()) {
                (Some(field), span) => {
                    let (line, table) = self.table_at(&span.unwrap_or_default());
                    self.refuse(line, &join(&table, field), "is missing")
                }
                (None, Some(span)) => self.error(&span, &reason),
                (None, None) => self.refuse(1, "", &reason),
            }
        })
    }

    /// What is wrong with the value at `span`.
    pub(super) fn error(&self, span: &Range<usize>, reason: &str) -> Error {
        self.refuse(self.line(span.start), &self.field_at(span.start), reason)
    }

    /// What is wrong with `field` when no value of it is at fault; the line is the field's if it is written.
    pub(super) fn error_in(&self, field: &str, reason: &str) -> Error {
        let (table, key) = field.rsplit_once('.').unwrap_or(("", field));
        let mut current = "";
        let mut line = None;
        for (index, text) in self.text.lines().enumerate() {
            if let Some(header) = header(text) {
                current = header;
                // A table stands for the fields that are missing in it.
                let inside = current.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
                if current == table || inside {
                    line = line.or(Some(index + 1));
                }
            } else if current == table && key_of(text) == Some(key) {
                line = Some(index + 1);
                break;
            }
        }
        self.refuse(line.unwrap_or(1), field, reason)
    }

    /// Resolves an amount at its place.
    pub(super) fn amount(&self, amount: &toml::Spanned<Amount>, zero: Zero) -> Result<i64> {
        amount.get_ref().resolve(zero).map_err(|reason| self.error(&amount.span(), &reason))
    }

    /// Like [`Self::amount`]; an absent one is `default`.
    pub(super) fn amount_or(&self, amount: Option<&toml::Spanned<Amount>>, zero: Zero, default: i64) -> Result<i64> {
        amount.map_or(Ok(default), |amount| self.amount(amount, zero))
    }

    fn refuse(&self, line: usize, field: &str, reason: &str) -> Error {
        let place = if field.is_empty() { String::new() } else { format!("{field}: ") };
        Error::invalid("invalid-policy", format!("{}:{line}: {place}{reason}", self.file))
    }

    fn line(&self, offset: usize) -> usize {
        self.before(offset).matches('\n').count() + 1
    }

    fn before(&self, offset: usize) -> &str {
        self.text.get(..offset).unwrap_or(self.text)
    }

    /// The dotted name of the field whose key or value is at `offset`.
    fn field_at(&self, offset: usize) -> String {
        let end = self.text.get(offset..).and_then(|rest| rest.find('\n')).map_or(self.text.len(), |at| offset + at);
        let mut key = "";
        for text in self.before(end).lines().rev() {
            if let Some(table) = header(text) {
                return join(table, key);
            }
            if key.is_empty() {
                key = key_of(text).unwrap_or_default();
            }
        }
        key.to_owned()
    }

    fn table_at(&self, span: &Range<usize>) -> (usize, String) {
        let text = self.text.get(span.start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        (self.line(span.start), header(text).unwrap_or_default().to_owned())
    }
}

fn join(table: &str, key: &str) -> String {
    match (table, key) {
        ("", key) => key.to_owned(),
        (table, "") => table.to_owned(),
        (table, key) => format!("{table}.{key}"),
    }
}

fn header(line: &str) -> Option<&str> {
    line.trim().strip_prefix('[')?.split_once(']').map(|(table, _)| table.trim())
}

fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    plain.then_some(key)
}

fn missing_field(reason: &str) -> Option<&str> {
    reason.strip_prefix("missing field `")?.strip_suffix('`')
}

/// An amount as people write it: `"10GiB"`, `100`, `"unlimited"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Amount {
    /// A plain number; -1 is unlimited.
    Number(i64),
    /// A size such as `10GiB`, digits, or `unlimited`.
    Text(String),
}

/// The largest amount, 8 PiB less a byte: what every JSON reader knows exactly, and what can be added up.
pub const MAX_AMOUNT: i64 = (1 << 53) - 1;

/// What 0 means where the amount stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zero {
    /// None.
    Nothing,
    /// Not what somebody who writes 0 wants; why.
    Refused(&'static str),
}

/// Servers read 0 streams, consumers and stream bytes as unlimited.
pub(super) const ZERO_IS_UNLIMITED: Zero = Zero::Refused("0 would mean unlimited to servers; write 'unlimited'");

/// With 0 of it nobody can use the account.
pub(super) const ZERO_LOCKS_OUT: Zero = Zero::Refused("0 would lock every user out; suspend the organization instead");

impl Amount {
    /// The number, -1 for unlimited, or why it is none.
    pub(super) fn resolve(&self, zero: Zero) -> Result<i64, String> {
        let number = match self {
            Self::Number(number) if *number >= -1 => *number,
            Self::Number(number) => return Err(format!("{number} is negative; -1 or 'unlimited' is unlimited")),
            Self::Text(text) => size::parse_size(text)
                .ok_or_else(|| format!("'{text}' is no amount; write 10GiB, 512MiB, a number or unlimited"))?,
        };
        match zero {
            _ if number > MAX_AMOUNT => Err(format!("{number} is more than {MAX_AMOUNT}; write 'unlimited'")),
            Zero::Refused(why) if number == 0 => Err(why.to_owned()),
            _ => Ok(number),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Amount;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, a size such as \"10GiB\" or \"unlimited\"")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Amount, E> {
                Ok(Amount::Number(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Amount, E> {
                i64::try_from(number).map(Amount::Number).map_err(|_| E::custom("the number is too large"))
            }

            fn visit_str<E>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Checks the name of a plan or role against its file's name and the reserved names.
pub(super) fn check_name(
    source: &Source<'_>,
    name: &toml::Spanned<String>,
    stem: &str,
    reserved: &[&str],
) -> Result<()> {
    let text = name.get_ref().as_str();
    let well_formed = (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let reason = if !well_formed {
        format!("'{text}' is no name; write 1 to 32 characters of a-z, 0-9 and '-', a letter first")
    } else if reserved.contains(&text) {
        format!("'{text}' is reserved; choose another name")
    } else if text != stem {
        format!("'{text}' must be the file's name; rename the file to {text}.toml")
    } else {
        return Ok(());
    };
    Err(source.error(&name.span(), &reason))
}
