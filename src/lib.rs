//! A write-ahead log for every key, in one directory.
//!
//! Each key has an append-only log of its own, in its own segment files. An append returns an
//! [`EntryRef`], a small handle that reads this entry back directly, across restarts, until retention
//! drops it. So references stay in memory and data on disk: the log keeps nothing in memory for an
//! entry. It is for one key or for many: topic-partitions, event streams of entities, tables, devices.
//! A [`Wal`] is used through `&self` from any number of threads; it keeps no thread of its own unless asked to, and
//! prints nothing.
//!
//! [`guide`] shows how to build on it: brokers, indexes in little memory, event sourcing; a recipe for each kind
//! of use; when to take something else.
//!
//! # Quick start
//!
//! ```
//! # let home = tempfile::tempdir()?;
//! # std::env::set_current_dir(&home)?;
//! use bytes::Bytes;
//! use keywal::{EntryRef, Key, Wal, WalOptions};
//!
//! // Create a log, or open what the directory holds.
//! let wal = Wal::new("./my_wal", WalOptions::default())?;
//!
//! // Append an entry and get its reference.
//! let content = Bytes::from("Hello, World!");
//! let entry_ref: EntryRef = wal.append_entry("my_key", None, content, false)?;
//!
//! // Append an entry with a header.
//! let header = Some(Bytes::from("metadata:version=1"));
//! let content_with_header = Bytes::from("Data with metadata");
//! let header_ref = wal.append_entry("my_key", header, content_with_header, false)?;
//!
//! // Append an entry that survives power loss.
//! let durable_content = Bytes::from("Important data");
//! let durable_ref = wal.log_entry("important_key", None, durable_content)?;
//!
//! // Random access: one entry by its reference; the content alone, or with all that is known.
//! let retrieved_content = wal.read_entry_at(entry_ref)?;
//! assert_eq!(retrieved_content, "Hello, World!");
//! assert_eq!(wal.read_entry(header_ref)?.header.as_deref(), Some(&b"metadata:version=1"[..]));
//! assert_eq!(wal.read_entry_at(durable_ref)?, "Important data");
//!
//! // Sequential access: what a key holds, oldest first.
//! let records: Vec<Bytes> = wal.enumerate_records("my_key")?.collect::<Result<_, _>>()?;
//! assert_eq!(records, ["Hello, World!", "Data with metadata"]);
//!
//! // All keys, byte for byte, in no order.
//! let mut keys: Vec<Key> = wal.enumerate_keys()?.collect();
//! keys.sort();
//! assert_eq!(keys, ["important_key", "my_key"]);
//!
//! // Drop what has outlived the retention.
//! let report = wal.compact()?;
//! assert_eq!(report.dropped_segments, 0);
//!
//! // Sync, close and keep the data. (`destroy` is the call that removes it.)
//! wal.shutdown()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Configuration
//!
//! [`WalOptions`] is plain data with chainable setters. Each field says what it is by default, and why.
//!
//! ```
//! use keywal::{Wal, WalOptions};
//! use std::time::Duration;
//! # let home = tempfile::tempdir()?;
//! # std::env::set_current_dir(&home)?;
//!
//! let options = WalOptions {
//!     entry_retention: Duration::from_secs(60 * 60 * 24), // one day
//!     segments_per_retention_period: 24,                  // a segment an hour
//!     ..Default::default()
//! };
//! let wal = Wal::new("./custom_wal", options)?;
//!
//! let options = WalOptions::with_retention(Duration::from_secs(60 * 60 * 24));
//! assert_eq!(options.segments_per_retention_period, 10);
//! let options = WalOptions::with_segments_per_retention_period(24);
//! assert_eq!(options.entry_retention, Duration::from_secs(60 * 60 * 24 * 7));
//! let options = options.retention(Duration::from_secs(60 * 60)).segments_per_retention_period(6);
//! options.validate()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Examples
//!
//! The repository's `examples/` has these as programs, and more.
//!
//! ## Basic usage
//!
//! ```
//! use bytes::Bytes;
//! use keywal::{Wal, WalOptions};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     # let home = tempfile::tempdir()?;
//!     # std::env::set_current_dir(&home)?;
//!     let wal = Wal::new("./example_wal", WalOptions::default())?;
//!
//!     // Store some data and get references.
//!     let alice_ref =
//!         wal.append_entry("user:123", None, Bytes::from(r#"{"name": "Alice"}"#), false)?;
//!     let bob_ref = wal.append_entry("user:456", None, Bytes::from(r#"{"name": "Bob"}"#), true)?;
//!
//!     // Random access by reference.
//!     let alice_data = wal.read_entry_at(alice_ref)?;
//!     println!("Alice's data: {:?}", String::from_utf8_lossy(&alice_data));
//!     assert_eq!(wal.read_entry_at(bob_ref)?, r#"{"name": "Bob"}"#);
//!
//!     // Sequential access by key.
//!     let alice_records: Vec<Bytes> =
//!         wal.enumerate_records("user:123")?.collect::<Result<_, _>>()?;
//!     assert_eq!(alice_records, [alice_data]);
//!
//!     wal.shutdown()?;
//!     Ok(())
//! }
//! ```
//!
//! ## Event sourcing with random access
//!
//! ```
//! use bytes::Bytes;
//! use keywal::{EntryRef, Wal, WalOptions};
//! use serde_json::json;
//! use std::collections::HashMap;
//!
//! type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
//!
//! fn store_event(wal: &Wal, entity_id: &str, event: serde_json::Value) -> Result<EntryRef> {
//!     let event_data = Bytes::from(event.to_string());
//!     let entry_ref = wal.log_entry(entity_id, None, event_data)?;
//!     Ok(entry_ref)
//! }
//!
//! fn store_event_with_metadata(
//!     wal: &Wal,
//!     entity_id: &str,
//!     event: serde_json::Value,
//!     metadata: &str,
//! ) -> Result<EntryRef> {
//!     let event_data = Bytes::from(event.to_string());
//!     let header = Some(Bytes::from(metadata.to_owned()));
//!     let entry_ref = wal.log_entry(entity_id, header, event_data)?;
//!     Ok(entry_ref)
//! }
//!
//! fn replay_events(wal: &Wal, entity_id: &str) -> Result<Vec<serde_json::Value>> {
//!     wal.enumerate_records(entity_id)?.map(|record| Ok(serde_json::from_slice(&record?)?)).collect()
//! }
//!
//! fn get_specific_event(wal: &Wal, event_ref: EntryRef) -> Result<serde_json::Value> {
//!     let event_data = wal.read_entry_at(event_ref)?;
//!     Ok(serde_json::from_slice(&event_data)?)
//! }
//!
//! // Only references are kept in memory.
//! fn build_event_index(
//!     wal: &Wal,
//!     events: Vec<serde_json::Value>,
//! ) -> Result<HashMap<String, EntryRef>> {
//!     let mut index = HashMap::new();
//!     for event in events {
//!         let event_id = event["id"].as_str().ok_or("no id")?.to_owned();
//!         let entity_id = event["entity_id"].as_str().ok_or("no entity_id")?.to_owned();
//!         index.insert(event_id, store_event(wal, &entity_id, event)?);
//!     }
//!     Ok(index)
//! }
//!
//! # fn main() -> Result<()> {
//! # let home = tempfile::tempdir()?;
//! # std::env::set_current_dir(&home)?;
//! let wal = Wal::new("./events", WalOptions::default())?;
//! let opened = json!({"id": "e1", "entity_id": "account:7", "type": "opened"});
//! let closed = json!({"id": "e2", "entity_id": "account:7", "type": "closed"});
//! let index = build_event_index(&wal, vec![opened.clone(), closed.clone()])?;
//! assert_eq!(get_specific_event(&wal, index["e2"])?, closed);
//!
//! let audit = json!({"type": "audited"});
//! store_event_with_metadata(&wal, "account:7", audit.clone(), "correlation=42")?;
//! assert_eq!(replay_events(&wal, "account:7")?, [opened, closed, audit]);
//! # Ok(())
//! # }
//! ```
//!
//! ## Headers for metadata
//!
//! ```
//! use bytes::Bytes;
//! use keywal::{Wal, WalOptions};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     # let home = tempfile::tempdir()?;
//!     # std::env::set_current_dir(&home)?;
//!     let wal = Wal::new("./header_example", WalOptions::default())?;
//!
//!     // Store data with a header, and without.
//!     let user_data = Bytes::from(r#"{"name": "Alice", "age": 30}"#);
//!     let metadata = Some(Bytes::from(r#"{"version": "1.0", "schema": "user"}"#));
//!     let user_ref = wal.append_entry("user:123", metadata.clone(), user_data, true)?;
//!     let simple_data = Bytes::from("Simple log message");
//!     let simple_ref = wal.append_entry("logs", None, simple_data, true)?;
//!
//!     // Reading the content is the same; headers come with the whole entry.
//!     let retrieved_user = wal.read_entry_at(user_ref)?;
//!     println!("User data: {}", String::from_utf8_lossy(&retrieved_user));
//!     assert_eq!(wal.read_entry(user_ref)?.header, metadata);
//!     assert_eq!(wal.read_entry(simple_ref)?.header, None);
//!
//!     // Versions, schemas, content types, identifiers: whatever it is, 65,535 bytes of it.
//!     let order_data = Bytes::from(r#"{"order_id": 12345, "amount": 99.99}"#);
//!     let order_header = Some(Bytes::from(r#"{"content_type": "application/json"}"#));
//!     wal.log_entry("orders", order_header.clone(), order_data)?;
//!     for entry in wal.entries("orders")? {
//!         assert_eq!(entry?.header, order_header);
//!     }
//!
//!     wal.shutdown()?;
//!     Ok(())
//! }
//! ```
//!
//! # What is promised
//!
//! [`Durability`] says where an entry is when the call returns. `durable = false` means `Os`, `true`
//! means `Disk`. There is no level that a process death can lose.
//!
//! | [`Durability`] | when `append` returns `Ok`, the entry | survives |
//! |---|---|---|
//! | `Os` | has been accepted whole by the kernel | death of the process, `kill -9` |
//! | `Disk` | and every earlier entry of its key, the segment file and its directory entry are on stable storage as far as the operating system can know | process death, kernel crash, power loss on hardware that honours flushes |
//!
//! - **Prefix.** What survives of a key is always a prefix: if an entry survives, so does every earlier
//!   unexpired entry of its key.
//! - **Errors.** `Err` before any sync: the entry is not in the log and will not appear; the key stays
//!   usable (disk full included, as soon as space returns). `Err` from a sync: the entry's fate is
//!   unknown until reopen; every caller sharing that sync gets the error; the key refuses appends
//!   with [`Poisoned`](WalError::Poisoned) until the `Wal` is reopened. `Ok` is never returned on behalf
//!   of a sync that failed.
//! - **Reads.** An entry is returned whole and checksum-correct, or an error is returned. Never another
//!   entry's bytes, never a silent skip: an iterator that meets damage yields one typed error that says
//!   which span is lost, and goes on behind it if asked to.
//! - **[`EntryRef`].** Valid until its segment is dropped, across restarts and compactions; afterwards
//!   [`Expired`](WalError::Expired), never other data. Any 16 random bytes:
//!   [`InvalidRef`](WalError::InvalidRef), or `Expired` where a segment that was dropped may have had their
//!   numbers. A ref carries no directory identity: keep refs with their directory.
//! - **Retention, two-sided.** No entry is dropped before `entry_retention` has passed since it was
//!   appended; once [`compact`](Wal::compact) runs, none outlives `entry_retention` plus one segment
//!   window. Idle keys too. Limits by count and by bytes never leave less than they say, nor more than that
//!   and one segment; each key can have [its own](Retention), which survives power loss.
//! - **Open.** Recovers every entry acknowledged at `Disk` and not expired, or names file and offset. It
//!   never deletes or overwrites bytes it cannot prove were unacknowledged. It returns a
//!   [report](Wal::recovery_report): segments, entries, torn bytes with file and offset, files ignored
//!   and why.
//! - **Containment.** Damage in one segment costs the entries it hit: other keys, other segments and the
//!   frames behind it stay readable.
//! - **Honest limit.** Damage to the last synced batch of an active segment after an unclean stop looks
//!   like a torn write; it is dropped and reported. A clean [`shutdown`](Wal::shutdown) closes this
//!   window for what is there by then, unless the first entry that the key gets afterwards is cut off by a crash, or
//!   refused by a full disk.
//! - **Locking.** One `Wal` per directory, across processes and within one; a second open:
//!   [`Locked`](WalError::Locked).
//!
//! A process that dies without `shutdown` loses nothing either: the next open has more to check.
//!
//! # What that rests on: the fault model
//!
//! *Assumed:* an `fdatasync` that returns 0, with no earlier failure on that file, made all earlier
//! writes to it and its length durable; an `fsync` of the directory makes the names in it durable; a
//! write damages no bytes outside its range; the device honours flushes; the file system is a local
//! one (ext4, XFS, Btrfs; tmpfs without power loss).
//!
//! *Tolerated:*
//! - death of the process at any instruction: every completed write is there, at most one entry per
//!   file is partial;
//! - crash of the machine: of each file on its own, any subset of the unsynced sectors is there, in any
//!   order, some of them garbled; its length is ahead of its data or behind; names of files that were
//!   created are missing, removed ones are back; and all this again during recovery;
//! - errors of every call to the system: failed and short reads and writes, a failed sync (which throws
//!   away what it should have stored, and is reported once), a full disk, no more descriptors;
//! - decay of stored bytes: flipped bits, zeroed sectors; files that are missing, cut off, copied, or
//!   swapped with those of another key or directory. Such bytes are never returned as entries;
//! - a clock that is set back or ahead, by any amount;
//! - hostile keys, contents, references, and file contents: an error, never a panic, and no more memory
//!   than the options allow.
//!
//! # What is not promised
//!
//! - **Checksums find accidents, not attackers.** A CRC is not a MAC: whoever can write to the directory
//!   can forge entries. Sign or encrypt above the log if that matters.
//! - **Deletion is not erasure.** What `compact`, `remove_key` and `destroy` remove may still be found on
//!   the disk.
//! - **The last synced batch** of a key, if damage hits it after an unclean stop: see *Honest limit*. A
//!   newest segment that somebody cuts off, or that is zeroed to its end, may lose more: nothing is left
//!   behind the damage that could tell.
//! - **What only the journal has**, if damage hits a record of it after an unclean stop and no record behind it
//!   proves that it had been durable: what comes from there on, of any key, is then a torn end. The same of all of it,
//!   if all of it is overwritten.
//! - **Two damages at once, and some of a header.** A lost segment may then look dropped. A newest segment
//!   without a header looks like a creation that a crash cut off: after an unclean stop it is only
//!   [listed as ignored](RecoveryReport::ignored), and after a clean one it is damage, which is missed with a
//!   chance of 1 in 64 for each cut-off creation that lies about in the directory.
//! - **Space from a disk without a free block.** `compact` and `truncate_before` drop all that needs no
//!   successor; `remove_key` needs room for a note that the key is removed.
//! - **Limits of file size** (`RLIMIT_FSIZE`): a process dies of `SIGXFSZ` unless it ignores that signal,
//!   and then gets [`StorageFull`](WalError::StorageFull). Nothing is lost either way.
//! - **Files that somebody removed.** A missing segment with a newer one behind it is reported. After an
//!   unclean stop, a missing newest segment, or a key of which every file is missing, cannot be noticed;
//!   references into it may then meet newer entries. After a clean shutdown the report says that files
//!   are missing, but not which.
//! - **NFS, FUSE, overlay** and other file systems that are not local: best effort.
//! - Disks that lie about flushes, faults of the memory, loss of the whole directory. A log is one copy:
//!   see [Backup](#backup).
//! - **A journal that is cut off while it is mapped**, whose pages the disk cannot read back, or whose blocks a copy
//!   shares that was made while the log was open (`cp --reflink`, as `cp` does on XFS; not [`snapshot`](Wal::snapshot)),
//!   once the disk is full: the process dies of `SIGBUS`. Nothing is lost that the disk still has.
//! - A forked child may read, if no other thread was in a call of the log at the moment of the fork: such a thread's
//!   locks stay locked in the child. It may not write: [`Forked`](WalError::Forked).
//!
//! # Retention
//!
//! A segment is appended to until `expiration = created + entry_retention /
//! segments_per_retention_period`, or until it is full ([`max_segment_bytes`](WalOptions::max_segment_bytes)).
//! It may be dropped when `expiration + entry_retention <= now`. So no entry goes before it is
//! `entry_retention` old, and none outlives that by more than one window. Nothing is dropped but by
//! [`compact`](Wal::compact), [`truncate_before`](Wal::truncate_before), [`remove_key`](Wal::remove_key)
//! and [`destroy`](Wal::destroy): call `compact` about once a window.
//!
//! A key can have a [`Retention`] of its own: another age or none, limits by count and by bytes, a number of
//! entries that are left whatever the limits say. It is stored in the key's segments, and
//! [`set_retention`](Wal::set_retention) changes it. The [options](WalOptions::max_entries_per_key) have the
//! same limits for all other keys. Before a segment goes, [a hook](WalOptions::before_drop) can archive it or
//! keep it for now; what it was told about goes only after it has said so.
//!
//! ```
//! # let home = tempfile::tempdir()?;
//! # std::env::set_current_dir(&home)?;
//! use keywal::{KeyOptions, Retention, Wal, WalOptions};
//! use std::time::Duration;
//!
//! let wal = Wal::new("./streams", WalOptions::default())?; // a week
//! wal.set_retention("clicks", Retention::keep_for(Duration::from_secs(60 * 60)))?;
//! wal.set_retention("balances", Retention::keep_last(1))?;
//! // With bytes of your own, stored with the key.
//! let options = KeyOptions::default().retention(Retention::FOREVER).metadata("schema=4");
//! wal.create_key("audit", options)?;
//! wal.append_entry("audit", None, "is never dropped", true)?;
//!
//! assert_eq!(wal.retention("audit")?, Some(Retention::FOREVER));
//! assert_eq!(wal.key_metadata("audit")?.as_deref(), Some(&b"schema=4"[..]));
//! assert_eq!(wal.retention("orders")?, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A key's newest segment is never dropped; an idle expired one is first succeeded by an empty segment
//! that carries the numbers on. So indexes go on for ever, and the key stays until it is removed.
//!
//! A clock that went back deletes nothing. A clock that jumped ahead while the directory was open makes
//! `compact` refuse, and [say so](CompactionReport::refused); until the directory is reopened, which accepts the new time.
//! Limits by count and by bytes do not ask the clock.
//!
//! # Backup
//!
//! [`Wal::snapshot`] copies a log that is in use to another directory, as it was at one moment; again and
//! again into the same one, only what is new. The copy is a log like any other. Sealed segments are hard links
//! where that can be had: then the copy protects from mistakes, but not from loss of the disk, until it
//! is copied elsewhere. [`verify`] reads all of a directory and says what is damaged; [`restore`] makes a new
//! directory from another one, up to a moment in time.
//!
//! # Another process
//!
//! [`WalReader`] reads a directory beside the process that writes to it, and follows it: no lock, no repair,
//! no write. Of each key it sees a prefix, whole batches only.
//!
//! # What it costs
//!
//! | | |
//! |---|---|
//! | memory for an entry | nothing |
//! | memory for an idle key | at most 256 bytes beyond the key's own, with up to ten segments |
//! | descriptors | at most [`max_open_files`](WalOptions::max_open_files) (512), one for the directory, two for its `LOCK` and `META`, one for a thread that reads; a file with a failed sync stays open beyond that |
//! | disk space for an entry | 32 bytes beyond header and content |
//! | disk space for a segment | two copies of its header and a seal: about 0.7 KiB with a short key |
//! | disk space for a directory | the [journal](WalOptions::journal_bytes)'s 4 MiB, and one descriptor more |
//! | append, `Os`, up to 64 KiB | a copy into a mapped file, which the kernel keeps when the process dies. One in some hundred or thousand appends also moves on to its segments what up to 32 of them have in the journal: a quarter or half of it at most, in writes of up to 256 KiB, which takes milliseconds if all of it is of one busy key; or a [thread](WalOptions::maintenance_thread) does |
//! | append, `Disk` | and one `fdatasync` of the journal, shared by everyone who waits, whatever their keys; none more for a new segment. If `Os` entries of the key have left the journal unsynced before, first one of the segment, and one of the directory if its name is not durable either |
//! | [`append_many`](Wal::append_many) | for all keys together one copy, and one `fdatasync` with `Disk`. With `Os`, who reads or follows one of the entries before anybody has synced the journal does that first |
//! | space in the journal, before it is used again | an `fdatasync` of each segment that was promised to be durable, of the directory if it has new segments, and of the journal; none as long as nobody was ever promised anything since the directory was opened: after the first promise, one of the journal each time that a quarter of it is freed. Memory: some 50 bytes for each segment that has entries in it |
//! | reading what is in the journal only | moves the key's entries to the segment first |
//! | append of more than 64 KiB | a write to the segment; `Disk`: an `fdatasync` of it, and in a new segment one `fsync` of the directory |
//! | first append of a key; a full or expired segment | creates a file; a segment that ends is synced: by way of the journal if that has all of it, else it and the directory |
//! | append to a key whose file is not open | opens it; beyond `max_open_files` keys that are appended to in turn, it also closes another, and syncs it if entries of it were appended with `Disk`: then raise `max_open_files` |
//! | [`read_entry_at`](Wal::read_entry_at) | one read of the file, if it is open and the length is guessed right from entries read before; no lock that an append holds |
//! | [`get`](Wal::get) by index, [`time_range`](Entries::time_range) | a search of one segment: a logarithmic number of reads |
//! | [`entries`](Wal::entries), [`enumerate_records`](Wal::enumerate_records) | a read for every 64 KiB; memory for that much, backwards also for the entries in it |
//! | [`merge`](Wal::merge) | as `entries` for each key, and a step of a heap for each entry |
//! | [`follow`](Wal::follow) | one read for a new entry; some hundred bytes while it waits. An append to a key that is not followed pays a relaxed load for it, one that is followed a lock and a wake-up |
//! | [`enumerate_keys`](Wal::enumerate_keys) | about two reads for each key not used since the directory was opened |
//! | [`new`](Wal::new) after a shutdown | lists the directory |
//! | [`new`](Wal::new) after a crash | reads the journal, and moves what is in it to the segments; reads the newest segment of every key, at most `max_segment_bytes` each, now or [when the key is used](WalOptions::check_on_open) |
//! | [`compact`](Wal::compact) | looks at every key; for a segment dropped one `unlink`, for an idle key's last one also a new, synced file; two syncs of the directory in all, and with other limits than an age for all keys, one more for each segment that one key loses |
//! | [`set_retention`](Wal::set_retention) | a new segment, synced |
//! | [`snapshot`](Wal::snapshot) | for each sealed segment a link and reading it once, for each newest one a copy and an `fdatasync`; of what an earlier snapshot has already, three short reads |
//! | [`WalReader::refresh`] | lists the directory; of each key used, reads what is new when it is used again |
//!
//! Without a journal (`journal_bytes` 0), an append is a system call, and `Disk` an `fdatasync` of the segment,
//! shared by everyone who waits for the same key, and in a new segment one `fsync` of the directory.
//!
//! # Seeing what it does
//!
//! [`Wal::health`] is plain data for alerting, [`Wal::stats`] counts, [`Wal::recovery_report`] says what opening
//! found. All that is off by default:
//!
//! | feature | is |
//! |---|---|
//! | `serde` | options, references and reports as serde types; typed streams, the module `typed` |
//! | `json` | `typed::Json`, with `serde_json` |
//! | `tracing` | spans `keywal.open` and `keywal.compact`; events of what they did and found, of segments started (debug), of failed syncs, what they poison, damage that is met, and appends that waited for the journal. None for an append that goes well. Some are told while the log holds locks: a subscriber must not use the log itself |
//! | `metrics` | `Wal::publish_metrics` publishes counters and health; each sync adds to the histogram `keywal_sync_seconds` |
//!
//! # Keys
//!
//! A key is any bytes, up to 65,535 of them; the empty key is one, too. Keys are compared byte for byte:
//! nothing is normalised, no case is folded, bytes need not be UTF-8. No byte of a key reaches a path: a
//! file name has a label made of letters, digits, `_` and `.`, for people, and the key's 64-bit hash.
//!
//! Two keys with one hash both work: the key in the file header decides, and the second takes the next
//! free value. Only finding them takes longer, by a step for each key on the way: whoever lets strangers
//! choose keys should not let them choose by the million.
//!
//! The format of the directory is specified in `src/format.rs`, for readers that do not use this crate.

#![deny(unsafe_code)]

mod bell;
mod cache;
mod chains;
mod clock;
mod cuts;
mod entries;
mod entry;
mod error;
mod fork;
mod format;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub mod fs;
#[cfg(not(any(test, feature = "sim")))]
mod fs;
#[cfg(any(doc, doctest))]
pub mod guide;
mod hook;
mod maintenance;
mod observe;
mod options;
mod parallel;
mod primitives;
mod recovery;
mod replica;
mod report;
mod restore;
mod retention;
mod ring;
mod scan;
mod segment;
mod snapshot;
mod store;
mod stream;
mod streams;
mod sync;
#[cfg(feature = "serde")]
pub mod typed;
mod verify;
mod wal;
mod watch;

pub use clock::{Clock, ManualClock, SystemClock};
pub use entries::{Entries, Merge, Records};
pub use entry::{Entry, EntryRef, EntrySlice, Key};
pub use error::{Result, SizeLimit, WalError};
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub use format::rewrite;
pub use hook::{DropHook, DueSegment, HookResult, Verdict};
pub use options::{Durability, SyncPolicy, WalOptions};
pub use report::{
    CompactionReport, Finding, Health, KeyStats, LastCompaction, Poisoned, RecoveryReport,
    SegmentInfo, SnapshotReport, Stats, VerifiedKey, VerifyReport,
};
pub use restore::restore;
pub use retention::{ClockTrouble, Retention};
pub use verify::verify;
#[cfg(feature = "async")]
pub use wal::WhenDurable;
pub use wal::{Canceller, Follow, KeyOptions, Keys, Wal, WalReader};
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub use {restore::restore_in, verify::verify_in};

/// The programs in the README compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
