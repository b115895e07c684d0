//! Recipes: a short program for each kind of use, the options that belong to it, and where to see more.
//!
//! Topics and partitions: [`brokers`](super::brokers). Event sourcing: [`events`](super::events). An index in
//! little memory: [`refs`](super::refs). Replication, archives, moments of the past, schemas:
//! [`operations`](super::operations).
//!
//! # The log of a database
//!
//! Changes go to the log before they go to the tables. A transaction is a batch: after a crash all of it is
//! there or nothing. Once the tables are on the disk, with the index up to which they are (the checkpoint), the
//! log is cut. *Options:* [`entry_retention`](crate::WalOptions::entry_retention) `Duration::MAX`, so that only
//! the checkpoint drops; a batch fits into [`max_segment_bytes`](crate::WalOptions::max_segment_bytes). A
//! transaction over several keys is [`append_many`](crate::Wal::append_many), and fits into a quarter of
//! [`journal_bytes`](crate::WalOptions::journal_bytes).
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use bytes::Bytes;
//! use keywal::{Wal, WalOptions};
//! use std::collections::BTreeMap;
//! use std::time::Duration;
//!
//! let wal = Wal::new(dir.path(), WalOptions::with_retention(Duration::MAX))?;
//! let transfer = [("alice", "70"), ("bob", "30")];
//! wal.append_batch("changes", transfer.map(|(row, to)| (Some(row.into()), to.into())), true)?;
//!
//! // At the start: the tables as they are on the disk, and what the log has from their checkpoint on.
//! let (mut table, checkpoint) = (BTreeMap::<Bytes, Bytes>::new(), 0);
//! for change in wal.entries_from("changes", checkpoint)? {
//!     let change = change?;
//!     table.insert(change.header.ok_or("no row")?, change.content);
//! }
//! assert_eq!(table.len(), 2);
//!
//! // Now and then: the tables are synced, together with this number; then the log may go.
//! let checkpoint = wal.next_index("changes")?;
//! wal.truncate_before("changes", checkpoint)?;
//! # assert_eq!(wal.len("changes")?, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A queue
//!
//! Jobs go in at one end; a worker takes them from where it stopped. The next attempt at a job that failed, or
//! its dead letter, goes in together with how far the worker has come, so that no job is lost and none is there
//! twice. A worker that dies before that does the job again: what it does must bear that. *Options:* `Disk` for jobs
//! that must not be lost with the power;
//! [`truncate_before`](crate::Wal::truncate_before) instead of an age drops what is done. More workers: a key
//! for each, as for [partitions](super::brokers). *More:* `examples/messaging.rs`.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use bytes::Bytes;
//! # use keywal::{Retention, Wal, WalOptions};
//! # use std::time::Duration;
//! let wal = Wal::new(dir.path(), WalOptions::with_retention(Duration::MAX))?;
//! wal.log_entry("jobs", Some(Bytes::from_static(&[1])), "paint the fence")?;
//! wal.set_retention("jobs/done", Retention::keep_last(1))?;
//!
//! # fn work(_: &[u8]) -> Result<(), ()> { Err(()) }
//! let done = wal.last("jobs/done")?;
//! let done = done.map_or(Ok(0), |entry| entry.content[..].try_into().map(u64::from_le_bytes))?;
//! let mut jobs = wal.follow("jobs", done)?.durable_only();
//! while let Some(job) = jobs.next_timeout(Duration::from_millis(10))? {
//!     let done = ("jobs/done", None, Bytes::copy_from_slice(&(job.index + 1).to_le_bytes()));
//!     let attempt = job.header.as_ref().and_then(|header| header.first()).copied().unwrap_or(1);
//!     let next = Some(Bytes::copy_from_slice(&[attempt.saturating_add(1)]));
//!     let steps = match work(&job.content) {
//!         Ok(()) => vec![done],
//!         Err(()) if attempt < 3 => vec![("jobs", next, job.content), done],
//!         Err(()) => vec![("jobs/dead", None, job.content), done],
//!     };
//!     wal.append_many(steps, true)?;
//! }
//! wal.truncate_before("jobs", jobs.next_index())?;
//! # assert_eq!((wal.len("jobs/dead")?, wal.next_index("jobs")?, wal.len("jobs")?), (1, 3, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # An audit log
//!
//! Every line on the disk before the action is done, kept for ever, readable by its owner only (the default of
//! [`file_mode`](crate::WalOptions::file_mode)). *Options:* [`Retention::FOREVER`](crate::Retention::FOREVER),
//! which is stored with the key, so that no option of a later program shortens it. A checksum finds accidents;
//! against those who may write to the disk, put a MAC into the header, made of the content and of the MAC
//! before it, and keep the last one elsewhere.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use bytes::Bytes;
//! use keywal::{KeyOptions, Retention, Wal, WalOptions};
//!
//! let wal = Wal::new(dir.path(), WalOptions::default())?;
//! wal.create_key("audit", KeyOptions::default().retention(Retention::FOREVER))?;
//! wal.log_entry("audit", Some(Bytes::from("actor=ada")), "opened the vault")?;
//!
//! let (from_ms, to_ms) = (0, 4_102_444_800_000);
//! for entry in wal.entries("audit")?.time_range(from_ms..to_ms)? {
//!     let entry = entry?;
//!     println!("{} {}: {:?} {:?}", entry.index, entry.timestamp_ms, entry.header, entry.content);
//! }
//! # assert_eq!(wal.len("audit")?, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Time series
//!
//! A key for each sensor. Raw values for a short time, summaries for a long one. The
//! [timestamp](crate::Entry::timestamp_ms) of an entry is that of its append: where values come late, their own
//! time belongs into the content. *Options:* `Os` appends, and [`sync`](crate::Wal::sync) every second or so,
//! which with the [journal](crate::WalOptions::journal_bytes) is one sync for all sensors; `max_open_files`
//! at twice their number. *More:* `examples/realtime_analytics.rs`.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use bytes::Bytes;
//! # use keywal::{Retention, Wal, WalOptions};
//! # use std::time::Duration;
//! let wal = Wal::new(dir.path(), WalOptions::with_retention(Duration::from_secs(60 * 60)))?;
//! let year = Retention::keep_for(Duration::from_secs(365 * 24 * 60 * 60));
//! wal.set_retention("sensor:7/minutes", year)?;
//! for value in [20.5_f64, 21.5] {
//!     wal.append_entry("sensor:7", None, value.to_le_bytes(), false)?;
//! }
//! wal.sync()?;
//!
//! let now_ms = wal.last("sensor:7")?.ok_or("no values")?.timestamp_ms;
//! let (mut sum, mut count) = (0.0, 0.0);
//! for value in wal.entries("sensor:7")?.time_range(now_ms - 60_000..=now_ms)? {
//!     sum += f64::from_le_bytes(value?.content[..].try_into()?);
//!     count += 1.0;
//! }
//! wal.append_entry("sensor:7/minutes", None, f64::to_le_bytes(sum / count), false)?;
//! # assert_eq!(sum / count, 21.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The log of a web server
//!
//! One key for a site; the header says what kind of line it is, so that a reader tells it before it parses the
//! content. *Options:* an age, and [`max_bytes_per_key`](crate::WalOptions::max_bytes_per_key), so that a bad day
//! does not fill the disk; `Os` is enough. Call `compact` about once a window. *More:* `examples/web_log.rs`.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use bytes::Bytes;
//! # use keywal::{Wal, WalOptions};
//! # use std::time::Duration;
//! let week = WalOptions::with_retention(Duration::from_secs(7 * 24 * 60 * 60));
//! let wal = Wal::new(dir.path(), week.max_bytes_per_key(1 << 30))?;
//! wal.append_entry("example.org", Some(Bytes::from("request")), "GET / 200", false)?;
//! wal.append_entry("example.org", Some(Bytes::from("error")), "upstream timed out", false)?;
//!
//! let is_error = |entry: &keywal::Entry| entry.header.as_deref() == Some(b"error");
//! for entry in wal.entries("example.org")?.last_n(1000).rev() {
//!     let entry = entry?;
//!     if is_error(&entry) {
//!         println!("{}", String::from_utf8_lossy(&entry.content));
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Users
//!
//! A key for each user: the newest entry is the state, the others are the history. A stale writer is refused.
//! *Options:* [`min_entries_per_key`](crate::WalOptions::min_entries_per_key) 1: history goes with age, the
//! state stays. *More:* `examples/user_management.rs`.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use keywal::{Wal, WalError, WalOptions};
//! # use std::time::Duration;
//! let month = WalOptions::with_retention(Duration::from_secs(30 * 24 * 60 * 60));
//! let wal = Wal::new(dir.path(), month.min_entries_per_key(1))?;
//! wal.append_if("user:7", 0, None, "Ada", true)?; // create: it must not exist
//! let user = wal.last("user:7")?.ok_or("no such user")?;
//! wal.append_if("user:7", user.index + 1, None, "Ada King", true)?; // update what was read
//! let stale = wal.append_if("user:7", user.index + 1, None, "Adah", true);
//! assert!(matches!(stale, Err(WalError::Conflict { .. })));
//!
//! let users = wal.enumerate_keys()?.filter(|key| key.as_bytes().starts_with(b"user:")).count();
//! let history: Vec<_> = wal.enumerate_records("user:7")?.collect::<Result<_, _>>()?;
//! assert_eq!((users, history.len()), (1, 2));
//! wal.remove_key("user:7")?; // or an entry that says so, and keeps the history
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
