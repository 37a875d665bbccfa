//! Pages of lists: a limit and the last id of the page before.

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<C> {
    /// At most so many, 1 to 1,000.
    pub limit: i64,
    /// Everything behind this one.
    pub after: Option<C>,
}

/// Cuts a list that was read with one row more than the limit; the flag says that there is more.
pub fn cut<T>(mut rows: Vec<T>, limit: i64) -> (Vec<T>, bool) {
    let limit = usize::try_from(limit).unwrap_or_default();
    let more = rows.len() > limit;
    rows.truncate(limit);
    (rows, more)
}
