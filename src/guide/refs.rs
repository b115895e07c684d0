//! References in memory, data on disk: applications with more data than memory.
//!
//! The log keeps nothing in memory for an entry. What the application keeps is its own index, from its own
//! identifiers to where the entries are, as small as it likes:
//!
//! | kept for an entry | bytes | when |
//! |---|---:|---|
//! | [`EntryRef`](crate::EntryRef) | 24, as [`to_bytes`](crate::EntryRef::to_bytes) 16 | entries of many keys in one index |
//! | [`position`](crate::EntryRef::position) | 8 | the index knows the key |
//! | nothing | 0 | entries are found by their [dense number](crate::Wal::get), by [time](crate::Wal::index_at), or as the [`last`](crate::Wal::last) of their key |
//!
//! `examples/ref_index.rs` counts what each of them takes from the heap.
//!
//! # Options
//!
//! | option | here | because |
//! |---|---|---|
//! | [`max_entry_bytes`](crate::WalOptions::max_entry_bytes) | what your entries need | the most that reading allocates for one |
//! | [`max_open_files`](crate::WalOptions::max_open_files) | twice the keys in use at once | an open file costs memory, opening one costs time |
//! | [`journal_bytes`](crate::WalOptions::journal_bytes) | 64 KiB to 1 MiB on small devices; 0 where a directory must be tiny | it is reserved on the disk, and mapped; what is lost is speed, not safety |
//! | [`max_bytes_per_key`](crate::WalOptions::max_bytes_per_key) | what the disk can spare | the oldest go, whatever their age |
//!
//! # Writing and reading
//!
//! The identifier goes into the header, so that the index can be made again from the log. Reading needs one
//! buffer for all entries, and as a rule one read of the file.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use bytes::Bytes;
//! use keywal::{EntryRef, Wal, WalError, WalOptions};
//! use std::collections::HashMap;
//!
//! let options = WalOptions::default().journal_bytes(256 << 10).max_entry_bytes(64 << 10);
//! let wal = Wal::new(dir.path(), options)?;
//! let (mut key_hash, mut index) = (0, HashMap::<u32, u64>::new());
//! for id in 0..100_u32 {
//!     let header = Some(Bytes::copy_from_slice(&id.to_le_bytes()));
//!     let reference = wal.append_entry("documents", header, format!("document {id}"), false)?;
//!     key_hash = reference.key_hash; // of all entries of the key
//!     index.insert(id, reference.position());
//! }
//!
//! let mut buffer = Vec::new(); // used again and again
//! let reference = EntryRef::from_position(key_hash, index[&42]);
//! match wal.read_entry_into(reference, &mut buffer) {
//!     Ok(document) => assert_eq!(document.content, b"document 42"),
//!     // Retention has dropped it: never other data in its place.
//!     Err(WalError::Expired) => drop(index.remove(&42)),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Entries of an iterator share the chunk of 64 KiB they were read with:
//! [`into_owned`](crate::Entry::into_owned) for those that are kept.
//! [`next_slice`](crate::Entries::next_slice) does not allocate for an entry at all.
//!
//! # The index after a restart
//!
//! Either it is made again, by reading the log once; or it is stored with the number of entries it covers, and
//! only what came later is read. Entries in a stored index have to be in the log after a power cut: `sync`
//! before storing. (If that is forgotten, a reference to an entry that was lost answers
//! [`InvalidRef`](crate::WalError::InvalidRef) or [`Expired`](crate::WalError::Expired), never other data; but
//! the index claims to cover entries that were appended since, and does not know them.)
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use bytes::Bytes;
//! # use keywal::{Wal, WalError, WalOptions};
//! use std::collections::HashMap;
//!
//! # let wal = Wal::new(dir.path(), WalOptions::default())?;
//! # for id in 0..10_u32 {
//! #     let header = Some(Bytes::copy_from_slice(&id.to_le_bytes()));
//! #     wal.append_entry("documents", header, format!("document {id}"), false)?;
//! # }
//! /// Takes in the entries from `covered` on; returns how far it came.
//! fn catch_up(
//!     wal: &Wal,
//!     index: &mut HashMap<u32, u64>,
//!     mut covered: u64,
//! ) -> Result<u64, Box<dyn std::error::Error>> {
//!     let mut entries = wal.entries("documents")?.range(covered..);
//!     while let Some(entry) = entries.next_slice() {
//!         let entry = entry?;
//!         let id = u32::from_le_bytes(entry.header.ok_or("no identifier")?.try_into()?);
//!         index.insert(id, entry.reference.position());
//!         covered = entry.index + 1;
//!     }
//!     Ok(covered)
//! }
//!
//! let mut index = HashMap::new();
//! let covered = catch_up(&wal, &mut index, 0)?;
//! wal.sync()?;
//! // Here the index and `covered` would be stored.
//! assert_eq!((covered, index.len()), (10, 10));
//! wal.append_entry("documents", Some(Bytes::copy_from_slice(&[10, 0, 0, 0])), "new", false)?;
//! assert_eq!(catch_up(&wal, &mut index, covered)?, 11);
//! # assert_eq!(index.len(), 11);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # No index at all
//!
//! With a key for each document its newest version is [`last`](crate::Wal::last), and older ones are there as
//! long as the retention says. That costs a file for each document: good for thousands, and for documents that
//! change; for many small ones that do not, one key and an index are better ([`when_not`](super::when_not)).
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use keywal::{Wal, WalOptions};
//! let wal = Wal::new(dir.path(), WalOptions::default().min_entries_per_key(1))?;
//! wal.append_entry("document:7", None, "first version", false)?;
//! wal.append_entry("document:7", None, "second version", false)?;
//! let newest = wal.last("document:7")?.ok_or("missing")?;
//! assert_eq!((newest.index, &newest.content[..]), (1, &b"second version"[..]));
//! assert_eq!(wal.get("document:7", 0)?.ok_or("missing")?.content, "first version");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
