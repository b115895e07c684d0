//! Migration from nano-wal 0.4.
//!
//! The calls have nano-wal's names and the order of its arguments. The README, under *Coming from nano-wal*, has
//! the table of what differs and why, and the defects that are gone. This page is the way over.
//!
//! # The data
//!
//! The program (`cargo install --locked --path . --features cli`) reads the files of nano-wal 0.4 and leaves them as they
//! are:
//!
//! ```console
//! $ keywal import ./new-log --from-nano-wal ./old-log
//! $ keywal verify ./new-log
//! ```
//!
//! - Keys, headers, contents and their order come over. A header of length 0 cannot be told from none there, and
//!   becomes none.
//! - References, indexes and times are new: nano-wal stored no times of entries, and their retention counts from
//!   the import. Whoever has stored references makes the index again: [`refs`](super::refs#the-index-after-a-restart).
//! - An import that was cut off goes on with `--resume`, and has each entry once in the end.
//! - There are no checksums in the old files, so what has the form of an entry is taken for one.
//! - Stop the program that writes to the old directory first. Its `shutdown` removes all files: end it without
//!   calling that.
//!
//! # The code
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use bytes::Bytes;
//! use keywal::{Key, Wal, WalOptions};
//! use std::time::Duration;
//!
//! // Fields that are not named: `..Default::default()`.
//! let options =
//!     WalOptions { entry_retention: Duration::from_secs(60 * 60), ..Default::default() };
//! // No `mut`, and an `Arc<Wal>` where there was an `Arc<Mutex<Wal>>`.
//! let wal = Wal::new(dir.path(), options)?;
//! let reference = wal.append_entry("hits", None, Bytes::from("GET /"), false)?;
//! wal.log_entry("hits", None, Bytes::from("GET /about"))?;
//! assert_eq!(wal.read_entry_at(reference)?, "GET /");
//!
//! // Items are results: at damage there is an error, not an early end.
//! let records: Vec<Bytes> = wal.enumerate_records("hits")?.collect::<Result<_, _>>()?;
//! // Keys are bytes. Where strings are wanted:
//! let keys: Vec<String> = wal.enumerate_keys()?.map(|key: Key| key.to_string()).collect();
//! # assert_eq!((records.len(), keys.len()), (2, 1));
//!
//! // What could not be dropped, and why.
//! let report = wal.compact()?;
//! # assert!(report.failures.is_empty());
//! // Keeps the data. Where they are to go: `wal.destroy()`, instead of it.
//! wal.shutdown()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What behaves differently though it compiles
//!
//! - **Entries live as long as the retention says**, where nano-wal dropped them a segment's time after they were
//!   written. The disk has to hold up to eleven tenths of the retention by default: check the space.
//! - **`shutdown` keeps the files.** A program that relied on it to clean up calls
//!   [`destroy`](crate::Wal::destroy).
//! - **After a restart a log goes on** where it was, and old references stay valid.
//! - **A second process is refused** with [`Locked`](crate::WalError::Locked); readers take
//!   [`WalReader`](crate::WalReader).
//! - **Headers can be read back**: [`read_entry`](crate::Wal::read_entry) and [`entries`](crate::Wal::entries) have
//!   them.
//! - **Errors are told apart**: [`WalError`](crate::WalError) has one variant for each thing that a caller can do.
//!
//! # Worth taking up afterwards
//!
//! [`append_batch`](crate::Wal::append_batch) for several entries at once,
//! [`follow`](crate::Wal::follow) instead of reading again and again, a [`Retention`](crate::Retention) for each
//! kind of key instead of a directory for each, [`health`](crate::Wal::health) for whoever runs it.
