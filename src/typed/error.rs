//! What can go wrong with typed streams, beyond what can go wrong with a log.

use crate::error::WalError;

/// The error of a codec or an upcaster.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Every error of this module. Unless a variant says otherwise, nothing was appended.
///
/// An event that cannot be read is never passed over: state made of half the events is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedError {
    /// The log's own error.
    #[error(transparent)]
    Wal(WalError),

    /// The stream is not at the expected version: somebody else appended. Read the events from `expected`
    /// on (or [`catch_up`](crate::typed::EventStore::catch_up)), decide again, append at `actual`.
    #[error("expected the stream at version {expected}, but it is at {actual}")]
    Conflict {
        /// What the caller expected.
        expected: u64,
        /// The stream's version: the number of its events, and the index that the next one gets.
        actual: u64,
    },

    /// The entry was not appended as an event, or by a newer program.
    #[error("entry {index} is no event that can be read: {reason}")]
    NotAnEvent {
        /// The entry's index.
        index: u64,
        /// What is wrong with its header.
        reason: &'static str,
    },

    /// The event's type is not one of [`Event::TYPES`](crate::typed::Event::TYPES). Upgrade this program, or
    /// read the stream as what it is.
    #[error("event {index} is of type {event_type:?}, which this program does not know")]
    UnknownType {
        /// The event's index.
        index: u64,
        /// Its type.
        event_type: String,
    },

    /// The event was written with a newer schema. Upgrade this program.
    #[error(
        "event {index} is {event_type} version {schema_version}, this program knows up to {known}"
    )]
    NewerSchema {
        /// The event's index.
        index: u64,
        /// Its type.
        event_type: String,
        /// The version of its schema.
        schema_version: u32,
        /// The newest version that the program knows.
        known: u32,
    },

    /// The event was written with an old schema, and no upcaster starts from that.
    #[error("event {index} is {event_type} version {schema_version}, which nothing upcasts")]
    NoUpcaster {
        /// The event's index.
        index: u64,
        /// Its type.
        event_type: String,
        /// The version of its schema.
        schema_version: u32,
    },

    /// An upcaster could not take the event from its version of the schema to the next.
    #[error("event {index} is {event_type} version {schema_version}, which cannot be upcast")]
    Upcast {
        /// The event's index.
        index: u64,
        /// Its type.
        event_type: String,
        /// The version from which the step that failed starts.
        schema_version: u32,
        /// What the upcaster, or the codec before or behind it, says.
        source: BoxError,
    },

    /// The codec could not decode the event.
    #[error("event {index} of type {event_type} cannot be decoded")]
    Decode {
        /// The event's index.
        index: u64,
        /// Its type.
        event_type: String,
        /// What the codec says.
        source: BoxError,
    },

    /// The codec could not encode an event or a snapshot, or an event's type is not in
    /// [`Event::TYPES`](crate::typed::Event::TYPES).
    #[error("{what} cannot be encoded")]
    Encode {
        /// The event's type, or the aggregate's name.
        what: String,
        /// What the codec says.
        source: BoxError,
    },

    /// Events that are needed are no longer there: retention or truncation dropped them, and there is no
    /// snapshot that covers them.
    #[error("the events from {expected} on are needed, but the oldest one kept is {found}")]
    Gone {
        /// Index of the first event needed.
        expected: u64,
        /// Index of the oldest one there is.
        found: u64,
    },

    /// A snapshot that cannot be used; loading falls back to an older one, or to all events.
    #[error("snapshot {index} is of no use: {reason}")]
    Snapshot {
        /// The snapshot's index in its own stream.
        index: u64,
        /// Why.
        reason: String,
    },

    /// A snapshot was to be saved of a version that the stream has not reached.
    #[error("a snapshot of version {version}, but the stream is at {actual}")]
    SnapshotAhead {
        /// The version of the aggregate.
        version: u64,
        /// The stream's version.
        actual: u64,
    },

    /// A stream cannot be named like those that hold snapshots: see
    /// [`SNAPSHOT_PREFIX`](crate::typed::SNAPSHOT_PREFIX).
    #[error("the name of a stream of events must not start with \"snapshots/\"")]
    ReservedName,

    /// The name of an aggregate must not have a slash: its snapshots could be under the same key as those of
    /// another aggregate of another stream.
    #[error("the name of an aggregate must not have a slash")]
    AggregateName,

    /// The upcasters have a step for a type or version that there is none of, two steps from one version, or
    /// a gap before the newest version.
    #[error("upcasters: {0}")]
    Upcasters(String),
}

impl From<WalError> for TypedError {
    fn from(error: WalError) -> Self {
        match error {
            WalError::Conflict { expected, actual } => Self::Conflict { expected, actual },
            error => Self::Wal(error),
        }
    }
}
