//! Aggregates: made of all events of a stream, or of a snapshot and the events behind it.

use super::error::TypedError;
use super::header::SnapshotHeader;
use super::store::EventStore;
use super::{Aggregate, Codec, Event};
use crate::entry::Entry;
use crate::error::WalError;

/// What the keys of snapshots start with. Streams of events must not; readers of all keys pass them over.
pub const SNAPSHOT_PREFIX: &[u8] = b"snapshots/";

/// An aggregate with what loading it took.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded<A> {
    /// The aggregate.
    pub aggregate: A,
    /// Number of events it is made of: the version that an append of what was decided on it expects.
    pub version: u64,
    /// The version of the snapshot that loading started from; `None`: it started from the first event.
    pub snapshot: Option<u64>,
    /// Number of events that were read and applied.
    pub replayed: u64,
    /// Why the newest snapshot was of no use, if there is one.
    pub passed_over: Option<TypedError>,
}

impl<A: Default> Loaded<A> {
    fn nothing(passed_over: Option<TypedError>) -> Self {
        Self { aggregate: A::default(), version: 0, snapshot: None, replayed: 0, passed_over }
    }
}

/// A snapshot that can be used.
struct Snapshot<A> {
    /// In its own stream.
    index: u64,
    version: u64,
    aggregate: A,
}

impl<E: Event, C: Codec> EventStore<E, C> {
    /// The aggregate as it is now: the newest snapshot that can be used, and the events behind it; all
    /// events if there is none.
    ///
    /// # Errors
    /// Those of reading snapshots that are no damage, those of [`events`](Self::events),
    /// [`Gone`](TypedError::Gone) if events that are needed were dropped, and
    /// [`AggregateName`](TypedError::AggregateName).
    pub fn load<A: Aggregate<Event = E>>(
        &self,
        stream: impl AsRef<[u8]>,
    ) -> Result<Loaded<A>, TypedError> {
        let stream = stream.as_ref();
        let (snapshot, passed_over) = self.newest_snapshot::<A>(stream)?;
        let mut loaded = Loaded::nothing(passed_over);
        if let Some(Snapshot { version, aggregate, .. }) = snapshot {
            (loaded.aggregate, loaded.version, loaded.snapshot) =
                (aggregate, version, Some(version));
        }
        self.apply_until(stream, &mut loaded, u64::MAX)?;
        Ok(loaded)
    }

    /// The aggregate as it was after its first `version` events (all, if there are fewer), made of events
    /// alone.
    ///
    /// # Errors
    /// Those of [`events`](Self::events), and [`Gone`](TypedError::Gone).
    pub fn replay<A: Aggregate<Event = E>>(
        &self,
        stream: impl AsRef<[u8]>,
        version: u64,
    ) -> Result<Loaded<A>, TypedError> {
        let mut loaded = Loaded::nothing(None);
        self.apply_until(stream.as_ref(), &mut loaded, version)?;
        Ok(loaded)
    }

    /// Takes in the events that were appended since.
    ///
    /// # Errors
    /// As [`replay`](Self::replay). The events before the one that failed have been applied.
    pub fn catch_up<A: Aggregate<Event = E>>(
        &self,
        stream: impl AsRef<[u8]>,
        loaded: &mut Loaded<A>,
    ) -> Result<(), TypedError> {
        self.apply_until(stream.as_ref(), loaded, u64::MAX)
    }

    fn apply_until<A: Aggregate<Event = E>>(
        &self,
        stream: &[u8],
        loaded: &mut Loaded<A>,
        version: u64,
    ) -> Result<(), TypedError> {
        let events = self.events(stream, loaded.version..version)?;
        // The iterator starts at the oldest entry kept: asked after it was made, whether that is ours.
        let found = self.wal.first_index(stream)?;
        if found > loaded.version && version > loaded.version {
            return Err(TypedError::Gone { expected: loaded.version, found });
        }
        for recorded in events {
            let recorded = recorded?;
            loaded.aggregate.apply(recorded.event);
            loaded.version = recorded.index.saturating_add(1);
            loaded.replayed = loaded.replayed.saturating_add(1);
        }
        Ok(())
    }

    // ---- snapshots ----

    /// Saves the aggregate, so that loading it starts from here. First makes the events it is made of
    /// survive power loss. At version 0 there is nothing to save.
    ///
    /// # Errors
    /// [`SnapshotAhead`](TypedError::SnapshotAhead), [`Encode`](TypedError::Encode),
    /// [`ReservedName`](TypedError::ReservedName), [`AggregateName`](TypedError::AggregateName), and those of [`Wal::get`](crate::Wal::get),
    /// [`Wal::sync_key`](crate::Wal::sync_key) and [`Wal::append_entry`](crate::Wal::append_entry).
    pub fn save_snapshot<A: Aggregate<Event = E>>(
        &self,
        stream: impl AsRef<[u8]>,
        loaded: &Loaded<A>,
    ) -> Result<(), TypedError> {
        let (stream, version) = (stream.as_ref(), loaded.version);
        if stream.starts_with(SNAPSHOT_PREFIX) {
            return Err(TypedError::ReservedName);
        }
        let snapshots = snapshots::<A>(stream)?;
        let Some(last) = version.checked_sub(1) else { return Ok(()) };
        let Some(last) = self.wal.get(stream, last)? else {
            return Err(TypedError::SnapshotAhead { version, actual: self.version(stream)? });
        };
        let header = SnapshotHeader {
            schema_version: A::SNAPSHOT_VERSION,
            version,
            last: last.reference,
            aggregate: A::NAME,
        };
        let error = |source| TypedError::Encode { what: A::NAME.to_owned(), source };
        let (header, content) =
            (header.to_bytes()?, self.codec.encode(&loaded.aggregate).map_err(error)?);
        self.wal.sync_key(stream)?;
        self.wal.append_entry(snapshots, Some(header), content, self.durability)?;
        Ok(())
    }

    /// Drops whole segments of events that the newest snapshot covers, and of older snapshots. Returns how
    /// many entries that were. Other aggregates of the stream then have to have snapshots, too, and earlier
    /// versions can no longer be replayed.
    ///
    /// # Errors
    /// Those of [`load`](Self::load) and of [`Wal::truncate_before`](crate::Wal::truncate_before).
    pub fn drop_covered<A: Aggregate<Event = E>>(
        &self,
        stream: impl AsRef<[u8]>,
    ) -> Result<u64, TypedError> {
        let stream = stream.as_ref();
        let Some(Snapshot { index, version, .. }) = self.newest_snapshot::<A>(stream)?.0 else {
            return Ok(0);
        };
        let snapshots = snapshots::<A>(stream)?;
        self.wal.sync_key(&snapshots)?;
        let events = self.wal.truncate_before(stream, version)?.dropped_entries;
        let older = self.wal.truncate_before(&snapshots, index)?.dropped_entries;
        Ok(events.saturating_add(older))
    }

    /// Removes a stream with the aggregate's snapshots, as [`Wal::remove_key`](crate::Wal::remove_key) does;
    /// the snapshots first. Snapshots of other aggregates remain, and are passed over if the stream is used
    /// again; but once exactly as many of its new events have been dropped as one covers, nothing tells it from
    /// one of those events. So call this for each aggregate that has snapshots.
    ///
    /// # Errors
    /// As [`Wal::remove_key`](crate::Wal::remove_key), and [`AggregateName`](TypedError::AggregateName).
    pub fn remove<A: Aggregate<Event = E>>(
        &self,
        stream: impl AsRef<[u8]>,
    ) -> Result<(), TypedError> {
        let stream = stream.as_ref();
        self.wal.remove_key(snapshots::<A>(stream)?)?;
        Ok(self.wal.remove_key(stream)?)
    }

    /// The newest snapshot that can be used, and why the newest of all cannot.
    fn newest_snapshot<A: Aggregate<Event = E>>(
        &self,
        stream: &[u8],
    ) -> Result<(Option<Snapshot<A>>, Option<TypedError>), TypedError> {
        let mut passed_over = None;
        for entry in self.wal.entries(snapshots::<A>(stream)?)?.rev() {
            let unusable = match entry {
                Ok(entry) => match self.restore(stream, &entry)? {
                    Ok(snapshot) => return Ok((Some(snapshot), passed_over)),
                    Err(reason) => TypedError::Snapshot { index: entry.index, reason },
                },
                Err(
                    damage @ (WalError::Corrupted { .. }
                    | WalError::Expired
                    | WalError::TooLarge { .. }),
                ) => damage.into(),
                Err(error) => return Err(error.into()),
            };
            passed_over.get_or_insert(unusable);
        }
        Ok((None, passed_over))
    }

    /// Makes an aggregate of a snapshot, or says why that cannot be.
    fn restore<A: Aggregate<Event = E>>(
        &self,
        stream: &[u8],
        entry: &Entry,
    ) -> Result<Result<Snapshot<A>, String>, TypedError> {
        let header = entry.header.as_deref().ok_or("it has no header");
        let header = match header.and_then(SnapshotHeader::from_bytes) {
            Ok(header) => header,
            Err(reason) => return Ok(Err(reason.to_owned())),
        };
        let SnapshotHeader { schema_version, version, last, aggregate } = header;
        if aggregate != A::NAME {
            return Ok(Err(format!("it is one of {aggregate:?}")));
        }
        if schema_version != A::SNAPSHOT_VERSION {
            let known = A::SNAPSHOT_VERSION;
            return Ok(Err(format!("its schema has version {schema_version}, not {known}")));
        }
        let oldest = self.wal.first_index(stream)?;
        if oldest > version {
            return Ok(Err(format!("the events behind it are gone; the oldest is {oldest}")));
        }
        let same_history = match self.wal.read_entry(last) {
            Ok(last) => last.index.checked_add(1) == Some(version),
            // Dropped, if all that it covers is; else it is of a stream that was removed.
            Err(WalError::Expired) => oldest == version,
            // Damaged, but there: what is made of it is all the more of use.
            Err(WalError::Corrupted { .. }) => self.version(stream)? >= version,
            Err(WalError::InvalidRef) => false,
            Err(error) => return Err(error.into()),
        };
        if !same_history {
            return Ok(Err("the events it is made of are not those of the stream".to_owned()));
        }
        let decoded = self.codec.decode(&entry.content);
        let snapshot = |aggregate| Snapshot { index: entry.index, version, aggregate };
        Ok(decoded.map(snapshot).map_err(|error| error.to_string()))
    }
}

/// The key of an aggregate's snapshots.
fn snapshots<A: Aggregate>(stream: &[u8]) -> Result<Vec<u8>, TypedError> {
    if A::NAME.contains('/') {
        return Err(TypedError::AggregateName);
    }
    Ok([SNAPSHOT_PREFIX, A::NAME.as_bytes(), b"/", stream].concat())
}
