//! The one error type: two messages (what the caller may know, what the log must know) and one
//! kind, which `api::problem` alone maps to a status.
//!
//! `Display` is the public message and never repeats its source; the internal one and the source
//! are logged once, at the boundary.

use std::fmt;

/// What went wrong, in the terms that decide how it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is malformed or breaks a rule; the same request will fail again.
    Invalid,
    /// The body, a JWT or an account would grow past a limit.
    TooLarge,
    /// No caller, or one that cannot be believed.
    Unauthenticated,
    /// The caller is known and may not do this.
    Forbidden,
    /// There is no such thing, or the caller may not know of it.
    NotFound,
    /// The request contradicts the present state.
    Conflict,
    /// What the caller wants to change is no longer as it last saw it.
    Changed,
    /// Too many requests.
    Busy,
    /// Something that we need is not there now; the same request may succeed later.
    Unavailable,
    /// A defect of ours.
    Internal,
}

/// A field of a refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// JSON pointer into the body, or the name of a path or query parameter.
    pub pointer: String,
    /// Why it is refused and what to do.
    pub detail: String,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    code: &'static str,
    public: String,
    fields: Vec<FieldError>,
    internal: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with its stable kebab-case `code` and the public message.
    pub fn new(kind: Kind, code: &'static str, public: impl Into<String>) -> Self {
        Self { kind, code, public: public.into(), fields: Vec::new(), internal: None, source: None }
    }

    /// A refused field; `pointer` is its JSON pointer, such as `/ttl`.
    pub fn field(code: &'static str, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut error = Self::new(Kind::Invalid, code, detail.clone());
        error.fields.push(FieldError { pointer: pointer.into(), detail });
        error
    }

    /// A request that breaks a rule which no single field carries.
    pub fn invalid(code: &'static str, public: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, code, public)
    }

    /// The request contradicts the present state.
    pub fn conflict(code: &'static str, public: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, code, public)
    }

    /// There is no such thing.
    pub fn not_found(code: &'static str, public: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, code, public)
    }

    /// Something that we need is not there now.
    pub fn unavailable(code: &'static str, public: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, code, public)
    }

    /// A defect of ours; `internal` goes to the log only.
    pub fn internal(internal: impl Into<String>) -> Self {
        let mut error = Self::new(
            Kind::Internal,
            "internal",
            "something went wrong on our side; the log has it under the request id",
        );
        error.internal = Some(internal.into());
        error
    }

    /// Adds what only the log may know.
    #[must_use]
    pub fn with_internal(mut self, internal: impl Into<String>) -> Self {
        self.internal = Some(internal.into());
        self
    }

    /// Adds the cause; it goes to the log only.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds refused fields.
    #[must_use]
    pub fn with_fields(mut self, fields: impl IntoIterator<Item = FieldError>) -> Self {
        self.fields.extend(fields);
        self
    }

    /// Puts `prefix` in front of every field pointer: an error about an item becomes one about the list.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        for field in &mut self.fields {
            field.pointer.insert_str(0, prefix);
        }
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The stable kebab-case code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The refused fields.
    pub fn fields(&self) -> &[FieldError] {
        &self.fields
    }

    /// What only the log may know: the internal message and the chain of causes.
    pub fn internal_report(&self) -> String {
        let mut report = self.internal.clone().unwrap_or_default();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            if !report.is_empty() {
                report.push_str(": ");
            }
            report.push_str(&cause.to_string());
            source = cause.source();
        }
        report
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
