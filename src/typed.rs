//! Typed streams: events as serde types, aggregates made of them, and their snapshots. A layer over
//! [`Wal`](crate::Wal)'s public calls that keeps nothing in memory.
//!
//! A *stream* is the log of one key. Its events are entries: the content is the event as the [`Codec`] of
//! your choice writes it, the entry header says type and schema version. The *version* of a stream is the
//! number of its events, which is the index that the next one gets; [`EventStore::append`] checks it.
//!
//! ```
//! # #[cfg(feature = "json")] {
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! use keywal::typed::{Aggregate, Event, EventStore, Json, Metadata, TypedError};
//! use keywal::{Wal, WalOptions};
//! use serde::{Deserialize, Serialize};
//! use std::sync::Arc;
//!
//! #[derive(Serialize, Deserialize)]
//! enum AccountEvent {
//!     Opened { owner: String },
//!     Deposited { cents: u64 },
//! }
//!
//! impl Event for AccountEvent {
//!     // Each type of event with the newest version of its schema.
//!     const TYPES: &'static [(&'static str, u32)] = &[("opened", 1), ("deposited", 1)];
//!
//!     fn event_type(&self) -> &'static str {
//!         match self {
//!             Self::Opened { .. } => "opened",
//!             Self::Deposited { .. } => "deposited",
//!         }
//!     }
//! }
//!
//! #[derive(Serialize, Deserialize, Default)]
//! struct Account {
//!     owner: String,
//!     cents: u64,
//! }
//!
//! impl Aggregate for Account {
//!     type Event = AccountEvent;
//!     const NAME: &'static str = "account";
//!
//!     fn apply(&mut self, event: AccountEvent) {
//!         match event {
//!             AccountEvent::Opened { owner } => self.owner = owner,
//!             AccountEvent::Deposited { cents } => self.cents += cents,
//!         }
//!     }
//! }
//!
//! let wal = Arc::new(Wal::new(dir.path(), WalOptions::default())?);
//! let store: EventStore<AccountEvent, _> = EventStore::new(wal, Json);
//! let request = Metadata::correlated("request-1");
//!
//! // Several events, all or none, if the stream is at version 0.
//! let opened = AccountEvent::Opened { owner: "Ada".to_owned() };
//! let deposited = AccountEvent::Deposited { cents: 500 };
//! store.append("account:7", 0, [&opened, &deposited], &request)?;
//! let late = store.append("account:7", 1, [&deposited], &request);
//! assert!(matches!(late, Err(TypedError::Conflict { expected: 1, actual: 2 })));
//!
//! // Load, decide, append; again if somebody else was faster.
//! store.execute("account:7", &request, |account: &Account| {
//!     let cents = account.cents / 100;
//!     Ok::<_, TypedError>(vec![AccountEvent::Deposited { cents }])
//! })?;
//!
//! // A snapshot, which the next load starts from.
//! let loaded = store.load::<Account>("account:7")?;
//! assert_eq!((loaded.aggregate.cents, loaded.version, loaded.replayed), (505, 3, 3));
//! store.save_snapshot("account:7", &loaded)?;
//! let again = store.load::<Account>("account:7")?;
//! assert_eq!((again.aggregate.cents, again.version, again.replayed), (505, 3, 0));
//! # Ok(()) }
//! # main().unwrap();
//! # }
//! ```
//!
//! Events of one aggregate that are dropped (by [`compact`](crate::Wal::compact), once they outlive the
//! retention) are gone for good: give a log of events a retention that is as long as you need them, or
//! do not call `compact`, and drop what snapshots cover with [`EventStore::drop_covered`].
//!
//! # Schema evolution
//!
//! When the schema of a type changes so that the codec cannot read what was written before, raise its
//! version in [`Event::TYPES`] and add a step to the [`Upcasters`]: a function from the old version to the
//! new one. Steps are chained while reading; nothing on the disk is rewritten. A version that is newer than
//! the program, a type it does not know, a header of another kind: each is an error of its own, with the
//! event's index.
//!
//! # What survives a crash
//!
//! The events of one [`EventStore::append`] survive together or not at all. By default they are durable when
//! the call returns ([`Durability::Disk`](crate::Durability::Disk)); see [`EventStore::durability`].
//! A snapshot is in a stream of its own, and is written only once the events it covers survive power loss: so
//! it is never ahead of them. Loading moreover checks that the last event it covers is where the snapshot
//! says. A snapshot that is missing, damaged, of another schema or of another history is passed over, and
//! [`Loaded::passed_over`] says why; an older one, or all events, are used instead.
//!
//! # The format of the headers
//!
//! Integers are little-endian; a *text* is a `u16` length and as many bytes of UTF-8. A header has no more
//! bytes than these.
//!
//! | event | bytes | snapshot | bytes |
//! |---|---|---|---|
//! | `KE` | 2 | `KS` | 2 |
//! | format version, 1 | 1 | format version, 1 | 1 |
//! | flags: 1 = has a correlation id, 2 = has a causation id | 1 | flags: 0 | 1 |
//! | version of the event's schema | 4 | version of the snapshot's schema | 4 |
//! | the event's type | text | number of events covered | 8 |
//! | correlation id, if there is one | text | last of them, as [`EntryRef::to_bytes`](crate::EntryRef::to_bytes) | 16 |
//! | causation id, if there is one | text | the aggregate's name | text |
//!
//! Snapshots of the aggregate `account` of the stream `account:7` are entries of the key
//! `snapshots/account/account:7`.

mod error;
mod header;
mod snapshot;
mod store;
mod upcast;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::error::{BoxError, TypedError};
pub use self::snapshot::{Loaded, SNAPSHOT_PREFIX};
pub use self::store::{
    Appended, Envelope, EventStore, Events, ExpectedVersion, Metadata, Recorded,
};
pub use self::upcast::Upcasters;

/// How events and snapshots become bytes, and the other way round: any format that serde knows.
///
/// ```
/// use keywal::typed::{BoxError, Codec};
///
/// struct MyJson;
///
/// impl Codec for MyJson {
///     fn encode<T: serde::Serialize>(&self, value: &T) -> Result<Vec<u8>, BoxError> {
///         Ok(serde_json::to_vec(value)?)
///     }
///     fn decode<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, BoxError> {
///         Ok(serde_json::from_slice(bytes)?)
///     }
/// }
/// ```
pub trait Codec {
    /// Writes a value.
    ///
    /// # Errors
    /// What the format gives; becomes [`TypedError::Encode`].
    fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>, BoxError>;

    /// Reads a value. The bytes are what was written, unless somebody else writes to the log, too.
    ///
    /// # Errors
    /// What the format gives; becomes [`TypedError::Decode`].
    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, BoxError>;
}

/// [`Codec`] for JSON.
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl Codec for Json {
    fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_vec(value)?)
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// The events of a kind of stream; an enum, as a rule.
pub trait Event: Serialize + DeserializeOwned {
    /// Each type of event, and the newest version of its schema. Types are never renamed; versions only rise.
    const TYPES: &'static [(&'static str, u32)];

    /// Which of [`TYPES`](Self::TYPES) this one is.
    fn event_type(&self) -> &'static str;
}

/// State that is made of the events of one stream. Its [`Default`] is the state before the first one.
pub trait Aggregate: Default + Serialize + DeserializeOwned {
    /// Its events.
    type Event: Event;

    /// Tells its snapshots from those of other aggregates of the same stream. Up to 65,535 bytes, together
    /// with the stream's name; no slash.
    const NAME: &'static str;

    /// Version of the schema of its snapshots. Raise it when `Self` or [`apply`](Self::apply) changes: then
    /// snapshots of before are passed over. Default 1.
    const SNAPSHOT_VERSION: u32 = 1;

    /// Takes in an event. What happened, happened: rules belong before the append.
    fn apply(&mut self, event: Self::Event);
}
