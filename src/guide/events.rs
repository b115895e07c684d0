//! Event sourcing: a stream of events for each entity.
//!
//! An entity is a key, an event an entry, the version of the entity its key's
//! [`next_index`](crate::Wal::next_index). State is what comes out when the events are applied in order.
//!
//! With the feature `serde`, `typed::EventStore` does what this page does by hand, with events as Rust types:
//! schema versions and upcasters, aggregates, snapshots, correlation. Take it unless you have a format of
//! your own. `examples/event_sourcing_cqrs.rs`, `bank_account.rs` and `schema_evolution.rs` use it;
//! `event_index.rs` does without.
//!
//! # Options
//!
//! | option | here | because |
//! |---|---|---|
//! | [`entry_retention`](crate::WalOptions::entry_retention) | [`Duration::MAX`](std::time::Duration::MAX) | the default drops events after a week, once `compact` is called; the events are the truth |
//! | [`check_on_open`](crate::WalOptions::check_on_open) | `false` with very many entities | opening takes no longer for a million of them; each is checked when it is first used |
//! | [`max_open_files`](crate::WalOptions::max_open_files) | twice the entities in use at once | an append to one that is not open opens a file |
//! | [`journal_bytes`](crate::WalOptions::journal_bytes) | 64 MiB with thousands in use | new entities need no sync of their own, and all share that of the journal |
//!
//! Each entity costs a file, of at least one block of the file system. Entities without end, each with a few
//! events, are too many files: see [`when_not`](super::when_not).
//!
//! # Decide, append, again if somebody was faster
//!
//! [`append_if`](crate::Wal::append_if) appends only if the entity is still at the version that was decided on;
//! [`append_batch_if`](crate::Wal::append_batch_if) several events, all or none.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use keywal::{Wal, WalError, WalOptions};
//! use std::time::Duration;
//!
//! /// The balance, and the version it belongs to.
//! fn load(wal: &Wal, account: &str) -> Result<(i64, u64), Box<dyn std::error::Error>> {
//!     let (mut balance, mut version) = (0, 0);
//!     for event in wal.entries_from(account, 0)? { // strict: an error if any was dropped
//!         let event = event?;
//!         balance += std::str::from_utf8(&event.content)?.parse::<i64>()?;
//!         version = event.index + 1;
//!     }
//!     Ok((balance, version))
//! }
//!
//! fn withdraw(wal: &Wal, account: &str, amount: i64) -> Result<i64, Box<dyn std::error::Error>> {
//!     loop {
//!         let (balance, version) = load(wal, account)?;
//!         if balance < amount {
//!             return Err("not enough".into());
//!         }
//!         match wal.append_if(account, version, None, (-amount).to_string(), true) {
//!             Ok(_) => return Ok(balance - amount),
//!             Err(WalError::Conflict { .. }) => {} // read what is new, decide again
//!             Err(error) => return Err(error.into()),
//!         }
//!     }
//! }
//!
//! let wal = Wal::new(dir.path(), WalOptions::with_retention(Duration::MAX))?;
//! wal.append_if("account:7", 0, None, "100", true)?;
//! assert_eq!(withdraw(&wal, "account:7", 30)?, 70);
//! assert!(withdraw(&wal, "account:7", 90).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Snapshots of the state
//!
//! A long history loads faster from a snapshot: an entry of a key of its own that says how many events it
//! covers. The events it covers have to survive whatever it survives: make them durable first.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use bytes::Bytes;
//! # use keywal::{Retention, Wal, WalOptions};
//! # let wal = Wal::new(dir.path(), WalOptions::default())?;
//! # wal.append_entry("account:7", None, "100", true)?;
//! # wal.append_entry("account:7", None, "-30", true)?;
//! let (balance, covered) = (70_i64, 2_u64);
//! wal.sync_key("account:7")?;
//! wal.set_retention("snapshots/account:7", Retention::keep_last(1))?;
//! let header = Some(Bytes::copy_from_slice(&covered.to_le_bytes()));
//! wal.append_entry("snapshots/account:7", header, balance.to_le_bytes(), true)?;
//!
//! // Loading: the snapshot, and what came later.
//! # wal.append_entry("account:7", None, "5", true)?;
//! let snapshot = wal.last("snapshots/account:7")?.ok_or("none: all events, then")?;
//! let mut balance = i64::from_le_bytes(snapshot.content[..].try_into()?);
//! let covered = u64::from_le_bytes(snapshot.header.ok_or("no header")?[..].try_into()?);
//! for event in wal.entries_from("account:7", covered)? {
//!     balance += std::str::from_utf8(&event?.content)?.parse::<i64>()?;
//! }
//! assert_eq!(balance, 75);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Events that snapshots cover may go with [`truncate_before`](crate::Wal::truncate_before), if nobody asks for
//! the history any more.
//!
//! # Projections over all entities
//!
//! What reads the events of all entities needs an order of all. Either it reads keys in time order with
//! [`merge`](crate::Wal::merge), which suits rebuilding. Or there is a feed: a key to which each event is
//! announced, in one step with the event, so that neither is there without the other:
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use bytes::Bytes;
//! # use keywal::{Wal, WalOptions};
//! # let wal = Wal::new(dir.path(), WalOptions::default())?;
//! // `append_many` looks at no versions: one writer for an entity at a time, held by the application.
//! let event = ("account:7", None, Bytes::from("100"));
//! let notice = ("feed", None, Bytes::from("account:7 0"));
//! wal.append_many([event, notice], true)?;
//!
//! // The projection follows the feed from where it stopped, and reads the event that each notice names.
//! let mut feed = wal.follow("feed", 0)?.durable_only();
//! let notice = feed.try_next()?.ok_or("nothing new")?;
//! let (entity, index) = std::str::from_utf8(&notice.content)?.split_once(' ').ok_or("damaged")?;
//! assert_eq!(wal.get(entity, index.parse()?)?.ok_or("missing")?.content, "100");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The feed can have a retention of its own, and may be the place to put the whole event, too, where the
//! projection should need one read only. A projection of one entity just [follows](crate::Wal::follow) its key.
//!
//! # The end of an entity
//!
//! An event that says so, or [`remove_key`](crate::Wal::remove_key), after which its versions start from 0 and
//! old references are [`Expired`](crate::WalError::Expired). Deleting is not erasing: see
//! [`when_not`](super::when_not#what-must-be-erased).
