//! The event store: appending and reading events.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;

use super::error::TypedError;
use super::header::EventHeader;
use super::snapshot::SNAPSHOT_PREFIX;
use super::upcast::{Upcasters, newest};
use super::{Aggregate, Codec, Event};
use crate::entries::Entries;
use crate::entry::{Entry, EntryRef};
use crate::error::WalError;
use crate::options::Durability;
use crate::wal::Wal;

/// Streams of events of one kind in a log. Cheap to make; a log can have many, of one kind or of several.
pub struct EventStore<E, C> {
    pub(super) wal: Arc<Wal>,
    pub(super) codec: C,
    pub(super) durability: Durability,
    upcasters: Upcasters<C>,
    event: PhantomData<fn() -> E>,
}

/// What an append expects of the version of its stream: the number of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Nothing.
    Any,
    /// There is no event yet: version 0.
    NoStream,
    /// This version. A number converts to this.
    Exact(u64),
}

impl From<u64> for ExpectedVersion {
    fn from(version: u64) -> Self {
        Self::Exact(version)
    }
}

/// Where an event came from. Stored in its entry's header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// The same for all that one request set off.
    pub correlation_id: Option<String>,
    /// The event or command that this event follows from.
    pub causation_id: Option<String>,
}

impl Metadata {
    fn of(header: &EventHeader<'_>) -> Self {
        Self {
            correlation_id: header.correlation_id.map(str::to_owned),
            causation_id: header.causation_id.map(str::to_owned),
        }
    }

    /// With a correlation id.
    pub fn correlated(correlation_id: impl Into<String>) -> Self {
        Self { correlation_id: Some(correlation_id.into()), causation_id: None }
    }

    /// The same correlation, caused by something else.
    #[must_use]
    pub fn caused_by(&self, causation_id: impl Into<String>) -> Self {
        Self {
            correlation_id: self.correlation_id.clone(),
            causation_id: Some(causation_id.into()),
        }
    }
}

/// An event as it was appended, with what the log knows about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded<E> {
    /// The event, in the newest version of its schema.
    pub event: E,
    /// Its number within the stream, from 0. After it, the stream had version `index + 1`.
    pub index: u64,
    /// Where its entry is.
    pub reference: EntryRef,
    /// When it was appended: milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The version of its schema when it was appended.
    pub schema_version: u32,
    /// Where it came from.
    pub metadata: Metadata,
}

/// What the header of an event says, without the event: to filter by type, to trace what a request set off, to
/// count the events of an old schema.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// The event's type.
    pub event_type: String,
    /// The version of its schema when it was appended.
    pub schema_version: u32,
    /// Where it came from.
    pub metadata: Metadata,
}

impl Envelope {
    /// That of an entry of any stream of events.
    ///
    /// # Errors
    /// [`NotAnEvent`](TypedError::NotAnEvent).
    pub fn of(entry: &Entry) -> Result<Self, TypedError> {
        let header = header_of(entry)?;
        Ok(Self {
            event_type: header.event_type.to_owned(),
            schema_version: header.schema_version,
            metadata: Metadata::of(&header),
        })
    }
}

fn header_of(entry: &Entry) -> Result<EventHeader<'_>, TypedError> {
    let header = entry.header.as_deref().ok_or("it has no header");
    header
        .and_then(EventHeader::from_bytes)
        .map_err(|reason| TypedError::NotAnEvent { index: entry.index, reason })
}

/// Where events went.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The stream's version behind them: what the next append expects.
    pub version: u64,
    /// One reference for each event.
    pub references: Vec<EntryRef>,
}

impl<E: Event, C: Codec> EventStore<E, C> {
    /// A store whose events are written by this codec.
    pub fn new(wal: Arc<Wal>, codec: C) -> Self {
        let upcasters = Upcasters::new();
        Self { wal, codec, upcasters, durability: Durability::Disk, event: PhantomData }
    }

    /// Sets how old versions of events are read.
    ///
    /// # Errors
    /// [`Upcasters`](TypedError::Upcasters) if a step leads nowhere.
    pub fn upcasters(mut self, upcasters: Upcasters<C>) -> Result<Self, TypedError> {
        upcasters.check::<E>()?;
        self.upcasters = upcasters;
        Ok(self)
    }

    /// Sets where events are when an append returns. Default: `Disk`. With `Os`, events can be lost with the
    /// power; those that are left are still a prefix.
    #[must_use]
    pub fn durability(mut self, durability: impl Into<Durability>) -> Self {
        self.durability = durability.into();
        self
    }

    /// The log.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// Number of the stream's events, those dropped included: what an append would have to expect now.
    ///
    /// # Errors
    /// As [`Wal::next_index`].
    pub fn version(&self, stream: impl AsRef<[u8]>) -> Result<u64, TypedError> {
        Ok(self.wal.next_index(stream)?)
    }

    // ---- appending ----

    /// Appends events, all or none, if the stream has the expected version. Without events, it only checks
    /// that.
    ///
    /// # Errors
    /// [`Conflict`](TypedError::Conflict), [`Encode`](TypedError::Encode),
    /// [`ReservedName`](TypedError::ReservedName), and those of [`Wal::append_batch_if`].
    pub fn append<'e>(
        &self,
        stream: impl AsRef<[u8]>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = &'e E>,
        metadata: &Metadata,
    ) -> Result<Appended, TypedError>
    where
        E: 'e,
    {
        let stream = stream.as_ref();
        if stream.starts_with(SNAPSHOT_PREFIX) {
            return Err(TypedError::ReservedName);
        }
        let entries = events
            .into_iter()
            .map(|event| self.encode(event, metadata))
            .collect::<Result<Vec<_>, _>>()?;
        let expected = match expected.into() {
            ExpectedVersion::Any => None,
            ExpectedVersion::NoStream => Some(0),
            ExpectedVersion::Exact(version) => Some(version),
        };
        loop {
            let first = expected.map_or_else(|| self.version(stream), Ok)?;
            // Handles of bytes: a retry costs no copy of them.
            let batch = entries.iter().cloned();
            match self.wal.append_batch_if(stream, first, batch, self.durability) {
                Err(WalError::Conflict { .. }) if expected.is_none() => {}
                result => {
                    let references = result?;
                    let version = first.saturating_add(crate::fs::len_u64(references.len()));
                    return Ok(Appended { version, references });
                }
            }
        }
    }

    /// Loads the aggregate, lets `decide` say what happens, and appends that. If somebody else appended
    /// meanwhile, takes in what is new and decides again, as often as need be. Deciding on no events
    /// appends none.
    ///
    /// # Errors
    /// What `decide` returns; and those of [`load`](Self::load) and [`append`](Self::append), as its error.
    pub fn execute<A: Aggregate<Event = E>, X: From<TypedError>>(
        &self,
        stream: impl AsRef<[u8]>,
        metadata: &Metadata,
        mut decide: impl FnMut(&A) -> Result<Vec<E>, X>,
    ) -> Result<Appended, X> {
        let stream = stream.as_ref();
        let mut loaded = self.load::<A>(stream)?;
        loop {
            let events = decide(&loaded.aggregate)?;
            match self.append(stream, loaded.version, &events, metadata) {
                Err(TypedError::Conflict { .. }) => self.catch_up(stream, &mut loaded)?,
                result => return Ok(result?),
            }
        }
    }

    fn encode(&self, event: &E, metadata: &Metadata) -> Result<(Option<Bytes>, Bytes), TypedError> {
        let event_type = event.event_type();
        let error = |source| TypedError::Encode { what: event_type.to_owned(), source };
        let Some(schema_version) = newest::<E>(event_type) else {
            return Err(error("it is not in `Event::TYPES`".into()));
        };
        let header = EventHeader {
            schema_version,
            event_type,
            correlation_id: metadata.correlation_id.as_deref(),
            causation_id: metadata.causation_id.as_deref(),
        };
        let header = header.to_bytes()?;
        Ok((Some(header), self.codec.encode(event).map_err(error)?.into()))
    }

    // ---- reading ----

    /// The event that a reference leads to: one read of the file.
    ///
    /// # Errors
    /// Those of [`Wal::read_entry`], and those of decoding: [`NotAnEvent`](TypedError::NotAnEvent),
    /// [`UnknownType`](TypedError::UnknownType), [`NewerSchema`](TypedError::NewerSchema),
    /// [`NoUpcaster`](TypedError::NoUpcaster), [`Upcast`](TypedError::Upcast),
    /// [`Decode`](TypedError::Decode).
    pub fn read(&self, reference: EntryRef) -> Result<Recorded<E>, TypedError> {
        self.decode(&self.wal.read_entry(reference)?)
    }

    /// Makes an event of an entry that was read from the log: for projections that read many streams.
    ///
    /// # Errors
    /// Those of decoding, as [`read`](Self::read).
    pub fn decode(&self, entry: &Entry) -> Result<Recorded<E>, TypedError> {
        let index = entry.index;
        let header = header_of(entry)?;
        let EventHeader { schema_version, event_type, .. } = header;
        let owned = || event_type.to_owned();
        let known = newest::<E>(event_type)
            .ok_or_else(|| TypedError::UnknownType { index, event_type: owned() })?;
        let decoded = match schema_version {
            version if version == known => self.codec.decode::<E>(&entry.content),
            version if version > known => {
                return Err(TypedError::NewerSchema {
                    index,
                    event_type: owned(),
                    schema_version,
                    known,
                });
            }
            old => {
                let (codec, content) = (&self.codec, &entry.content);
                let content =
                    self.upcasters.upcast(codec, index, event_type, old..known, content)?;
                codec.decode(&content)
            }
        };
        let decoded = decoded.and_then(|event| match event.event_type() {
            same if same == event_type => Ok(event),
            other => Err(format!("its content is of type {other}").into()),
        });
        let event =
            decoded.map_err(|source| TypedError::Decode { index, event_type: owned(), source })?;
        let metadata = Metadata::of(&header);
        let Entry { reference, timestamp_ms, .. } = *entry;
        Ok(Recorded { event, index, reference, timestamp_ms, schema_version, metadata })
    }

    /// Events of a stream, oldest first; those that exist now. As with [`Wal::entries`], what was dropped
    /// before is no error.
    ///
    /// # Errors
    /// Those of [`Wal::entries`]; each event may have its own: those of [`read`](Self::read).
    pub fn events(
        &self,
        stream: impl AsRef<[u8]>,
        indexes: impl RangeBounds<u64>,
    ) -> Result<Events<'_, E, C>, TypedError> {
        Ok(Events { store: self, entries: self.wal.entries(stream)?.range(indexes) })
    }
}

/// Events of a stream; see [`EventStore::events`].
pub struct Events<'a, E, C> {
    store: &'a EventStore<E, C>,
    entries: Entries<'a>,
}

impl<E: Event, C: Codec> Iterator for Events<'_, E, C> {
    type Item = Result<Recorded<E>, TypedError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next()?;
        Some(entry.map_err(TypedError::from).and_then(|entry| self.store.decode(&entry)))
    }
}

impl<E: Event, C: Codec> DoubleEndedIterator for Events<'_, E, C> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next_back()?;
        Some(entry.map_err(TypedError::from).and_then(|entry| self.store.decode(&entry)))
    }
}

impl<E, C> fmt::Debug for Events<'_, E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl<E, C> fmt::Debug for EventStore<E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStore")
            .field("upcasters", &self.upcasters)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}
