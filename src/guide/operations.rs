//! Running a log: upkeep, backup, replication, archives, moments of the past, schemas.
//!
//! # Upkeep
//!
//! Nothing is dropped behind your back: somebody calls [`compact`](crate::Wal::compact), about once a segment
//! window ([`entry_retention`](crate::WalOptions::entry_retention) divided by
//! [`segments_per_retention_period`](crate::WalOptions::segments_per_retention_period)), and looks at
//! [`health`](crate::Wal::health). *More:* `examples/alerting.rs`, with a rule for each trouble.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use keywal::{Health, Wal, WalOptions};
//!
//! fn troubles(health: &Health) -> Vec<String> {
//!     let mut troubles = Vec::new();
//!     if health.free_bytes.is_some_and(|free| free < health.needed_bytes) {
//!         troubles.push(format!("disk space: {} bytes are needed", health.needed_bytes));
//!     }
//!     troubles.extend(health.poisoned.iter().map(|key| format!("reopen: {}", key.why)));
//!     troubles.extend(health.damaged.iter().map(|found| format!("damage: {found:?}")));
//!     if health.compactions_failed > 3 {
//!         troubles.push(format!("nothing is dropped: {:?}", health.last_compaction));
//!     }
//!     troubles
//! }
//!
//! let wal = Wal::new(dir.path(), WalOptions::default())?;
//! let opened = wal.recovery_report();
//! println!("torn: {:?}, damaged: {:?}", opened.torn, opened.damaged);
//! wal.compact()?;
//! assert!(troubles(&wal.health()).is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Backup
//!
//! [`snapshot`](crate::Wal::snapshot) while the log is in use; [`verify`](crate::verify()) the copy; take it
//! elsewhere, since a copy on the same disk does not outlive that disk. A snapshot that is taken again brings the
//! earlier one up to date and is incomplete meanwhile: take two in turn. Where the log has lost something that the
//! earlier one may have, that is left alone, and the answer is [`Corrupted`](crate::WalError::Corrupted).
//!
//! ```
//! # let home = tempfile::tempdir()?;
//! # let (dir, backups) = (home.path().join("log"), home.path());
//! # use keywal::{Wal, WalOptions};
//! let wal = Wal::new(&dir, WalOptions::default())?;
//! wal.append_entry("orders", None, "three pens", false)?;
//! for day in 0..4 {
//!     let backup = backups.join(if day % 2 == 0 { "even" } else { "odd" });
//!     wal.snapshot(&backup)?;
//!     let report = keywal::verify(&backup)?;
//!     assert!(report.damaged.is_empty() && report.entries == 1);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Replication
//!
//! A follower's own log knows how far it has come: it asks for what is behind its end. With
//! [`durable_only`](crate::Follow::durable_only) it is never ahead of what its leader has after a power cut, and
//! [`append_if`](crate::Wal::append_if) accepts each entry once, at the index it has with the leader. The network
//! between the two is yours. A follower that is new when the leader has dropped entries, or that is
//! [`Behind`](crate::WalError::Behind), begins with a snapshot, which keeps the indexes. *Options:* a retention
//! of the leader that covers the longest absence. *More:* `examples/replication.rs`.
//!
//! ```
//! # let home = tempfile::tempdir()?;
//! # use keywal::{Wal, WalOptions};
//! let leader = Wal::new(home.path().join("leader"), WalOptions::default())?;
//! let follower = Wal::new(home.path().join("follower"), WalOptions::default())?;
//! leader.log_entry("orders", None, "three pens")?;
//!
//! let mut coming = leader.follow("orders", follower.next_index("orders")?)?.durable_only();
//! while let Some(entry) = coming.try_next()? { // or wait: `for entry in coming`
//!     follower.append_if("orders", entry.index, entry.header, &entry.content, false)?;
//! }
//! follower.sync()?;
//! assert_eq!(follower.next_index("orders")?, leader.next_index("orders")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Indexes and contents are the same; references and timestamps are the follower's own. For one process beside
//! the writer on the same machine, [`WalReader`](crate::WalReader) is enough.
//!
//! # Archives
//!
//! [`before_drop`](crate::WalOptions::before_drop) is asked about each segment before retention drops it, and
//! whatever fails in it keeps the segment. It is told about a segment again if a crash comes between: give the
//! copy the name of the segment. A [`WalReader`](crate::WalReader) reads a directory of such copies, and
//! [`verify`](crate::verify()) checks it (its report says that `META` is missing, which the copies do not need);
//! do not open it with `Wal::new`, which writes. Compress in the hook, if at all: the segments of the log stay as
//! they are.
//!
//! ```
//! # let home = tempfile::tempdir()?;
//! # let (dir, archive) = (home.path().join("log"), home.path().join("archive"));
//! # std::fs::create_dir(&archive)?;
//! # let archived = archive.clone();
//! use keywal::{ManualClock, Verdict, Wal, WalOptions, WalReader};
//! use std::fs::File;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! let clock = Arc::new(ManualClock::new(1_000_000)); // so that this need not take a minute
//! let options = WalOptions::with_retention(Duration::from_secs(60)).clock(clock.clone());
//! let options = options.before_drop(move |segment| {
//!     let name = segment.path.file_name().ok_or("no name")?;
//!     let mut copy = File::create(archive.join(name))?;
//!     let checksum = segment.copy_to(&mut copy)?; // to be kept with it
//!     copy.sync_all()?;
//!     println!("{checksum:08x}: entries {} to {}", segment.first_index, segment.next_index);
//!     Ok(Verdict::Drop) // it may go; `Keep`, or an error, asks again next time
//! });
//! let wal = Wal::new(&dir, options)?;
//! wal.append_entry("orders", None, "three pens", false)?;
//! clock.advance(Duration::from_secs(120));
//! assert_eq!(wal.compact()?.dropped_entries, 1);
//! # assert_eq!(keywal::verify(&archived)?.entries, 1);
//!
//! let old = WalReader::open(&archived)?;
//! assert_eq!(old.enumerate_records("orders")?.next().ok_or("missing")??, "three pens");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A moment of the past
//!
//! [`time_range`](crate::Entries::time_range)`(..=moment)` of one key, or of several as one; the state is what
//! comes out when they are applied. [`restore`](crate::restore()) makes a directory of that moment: the way back
//! after a mistake. Entries are there as long as the retention says. *More:* `examples/time_travel.rs`.
//!
//! ```
//! # let home = tempfile::tempdir()?;
//! # use keywal::{ManualClock, Wal, WalOptions};
//! # let clock = std::sync::Arc::new(ManualClock::new(1_000_000));
//! # let live = home.path().join("live");
//! # let wal = Wal::new(&live, WalOptions::default().clock(clock.clone()))?;
//! let good = wal.append_entry("orders", None, "three pens", false)?;
//! let moment_ms = wal.read_entry(good)?.timestamp_ms;
//! # clock.set(1_000_010);
//! wal.append_entry("stock", None, "a mistake, later", false)?;
//!
//! let known = wal.merge(["orders", "stock"])?.time_range(..=moment_ms)?.count();
//! assert_eq!(known, 1);
//! # let backup = home.path().join("backup");
//! # let restored = home.path().join("restored");
//! wal.snapshot(&backup)?;
//! keywal::restore(&backup, &restored, Some(moment_ms))?;
//! # assert_eq!(keywal::verify(&restored)?.entries, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Schemas that change
//!
//! Nothing on the disk is rewritten: the header says which version an entry has, and a reader turns old ones
//! into new ones, a step for each version. A version it does not know is an error, not a guess. With the feature
//! `serde`, `typed::Upcasters` are such steps; `examples/schema_evolution.rs` uses them. What is the same for all
//! entries of a key can be its [metadata](crate::KeyOptions::metadata).
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use bytes::Bytes;
//! # use keywal::{Entry, Wal, WalOptions};
//! /// Version 1 had a name; version 2 has a family name first.
//! fn user(entry: &Entry) -> Result<String, Box<dyn std::error::Error>> {
//!     let content = std::str::from_utf8(&entry.content)?;
//!     match entry.header.as_deref() {
//!         Some(b"user 1") => {
//!             let (given, family) = content.split_once(' ').ok_or("one name only")?;
//!             Ok(format!("{family}, {given}"))
//!         }
//!         Some(b"user 2") => Ok(content.to_owned()),
//!         header => Err(format!("entry {}: {header:?} is not known", entry.index).into()),
//!     }
//! }
//!
//! let wal = Wal::new(dir.path(), WalOptions::default())?;
//! wal.append_entry("users", Some(Bytes::from("user 1")), "Ada King", false)?;
//! wal.append_entry("users", Some(Bytes::from("user 2")), "Hopper, Grace", false)?;
//! let users: Vec<String> = wal.entries("users")?.map(|entry| user(&entry?)).collect::<Result<_, _>>()?;
//! assert_eq!(users, ["King, Ada", "Hopper, Grace"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
