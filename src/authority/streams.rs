//! Further streams of environments: what may be asked for. JetStream lets no two streams have overlapping
//! subjects, and all subjects of an environment belong to its event stream. So a further stream has none of its
//! own: it copies from the event stream what its filters say, and keeps that in its own way. The provision task
//! makes and removes it.

use uuid::Uuid;

use super::{
    consumers::{bounded, filters},
    items::ItemKind,
    requests::NewStream,
};
use crate::{
    error::{Error, Result},
    model::{
        Environment, ItemName, ItemState, StreamConfig,
        size::{format_duration, parse_duration, parse_size},
        view::StreamView,
    },
    store::{
        Connection,
        items::{CONSUMERS, Item, STREAMS, Table},
    },
};

/// The smallest stream, bytes.
const MIN_BYTES: i64 = 1024;

/// The longest time to keep a message, seconds.
const MAX_AGE: i64 = 10 * 365 * 86_400;

/// Further streams.
#[derive(Debug)]
pub struct Streams;

impl ItemKind for Streams {
    type Config = StreamConfig;
    type Request = NewStream;
    type View = StreamView;

    const TABLE: &'static Table<StreamConfig> = &STREAMS;
    const NAME: &'static str = "stream";
    const FULL_NAME: &'static str = "further stream";
    const CODES: [&'static str; 3] = ["stream-deleting", "stream-exists", "no-stream"];
    const EVENTS: [&'static str; 2] = ["stream.create", "stream.delete"];

    fn config(environment: &Environment, name: &ItemName, request: &NewStream) -> Result<StreamConfig> {
        if environment.further_stream(name) == environment.stream() {
            let detail = "this is the name of the environment's event stream; choose another one";
            return Err(Error::field("reserved-name", "name", detail));
        }
        config(environment, request)
    }

    fn stream(environment: &Environment, name: &ItemName, _config: &StreamConfig) -> String {
        environment.further_stream(name)
    }

    async fn may_begin(_rows: &mut Connection, _environment: Uuid, _config: &StreamConfig) -> Result<()> {
        Ok(())
    }

    async fn may_end(rows: &mut Connection, environment: Uuid, name: &ItemName) -> Result<()> {
        let consumers = CONSUMERS.list(rows, environment).await?;
        let reading = consumers.iter().filter(|consumer| consumer.config.stream.as_ref() == Some(name));
        let reading: Vec<_> = reading.map(|consumer| consumer.name.as_str()).collect();
        if reading.is_empty() {
            return Ok(());
        }
        let detail = format!("consumers read from it: {}; delete them first", reading.join(", "));
        Err(Error::conflict("stream-in-use", detail))
    }

    fn view(environment: &Environment, row: &Item<StreamConfig>) -> StreamView {
        StreamView {
            name: row.name.to_string(),
            stream: environment.further_stream(&row.name),
            source: environment.stream(),
            filter_subjects: row.config.filter_subjects.clone(),
            max_bytes: row.config.max_bytes,
            max_age: row.config.max_age_seconds.map(format_duration),
            max_messages_per_subject: row.config.max_messages_per_subject,
            retention: row.config.retention,
            state: row.state,
            error: row.error.clone(),
        }
    }

    fn progress(view: &mut StreamView) -> (&mut ItemState, &mut Option<String>) {
        (&mut view.state, &mut view.error)
    }
}

/// What was asked for, checked, with every default filled in.
fn config(environment: &Environment, request: &NewStream) -> Result<StreamConfig> {
    let max_bytes = parse_size(&request.max_bytes)
        .filter(|bytes| *bytes >= MIN_BYTES)
        .ok_or_else(|| Error::field("invalid-size", "/maxBytes", "this is a size of at least 1KiB, such as 16MiB"))?;
    let max_age_seconds = request.max_age.as_deref().map(|text| parse_duration("/maxAge", text)).transpose()?;
    if max_age_seconds.is_some_and(|age| age > MAX_AGE) {
        return Err(Error::field("invalid-duration", "/maxAge", "a stream keeps messages at most 3650d"));
    }
    let per_subject = request.max_messages_per_subject;
    Ok(StreamConfig {
        filter_subjects: filters(environment, &request.filter_subjects)?,
        max_bytes,
        max_age_seconds,
        max_messages_per_subject: per_subject.map(|count| bounded("/maxMessagesPerSubject", count)).transpose()?,
        retention: request.retention.unwrap_or_default(),
    })
}
