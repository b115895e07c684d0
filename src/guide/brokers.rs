//! Brokers: topics in partitions, a key for each partition.
//!
//! A partition is a key, and its offsets are the key's indexes: dense, from 0, never given twice, going on
//! across restarts and retention. The log does what is hard on disk; who may read what, and the network, are
//! the broker's. `examples/messaging.rs` is one with priorities, groups, retries, dead letters.
//!
//! # Options
//!
//! | option | for a broker | because |
//! |---|---|---|
//! | [`max_open_files`] | twice the partitions in use, with `ulimit -n` above it | beyond it an append closes the file of another partition, and syncs it where it has `Disk` entries. Twice, as the segment that a window has ended stays open until the journal has let go of it |
//! | [`journal_bytes`] | 64 MiB with thousands of partitions | the more of a partition's entries go to its segment with one write, the better |
//! | [`maintenance_thread`] | `true` | appends move the journal on only if the thread falls behind: shorter tails of latency |
//! | [`check_on_open`] | `false` with very many | after a crash, a partition is checked when it is first used |
//! | [`segments_per_retention_period`] | as it is | more segments: expired entries go sooner, there are more files, and ending a segment costs a sync in the append that does: of partitions that were begun together, one after the other |
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use keywal::{KeyOptions, Retention, Wal, WalOptions};
//! use std::time::Duration;
//!
//! let options = WalOptions::default()
//!     .max_open_files(4096)
//!     .journal_bytes(64 << 20)
//!     .maintenance_thread(true)
//!     .check_on_open(false);
//! let wal = Wal::new(dir.path(), options)?;
//!
//! // A topic: its partitions, with a retention of their own, and bytes that say what they are.
//! let day = Retention::keep_for(Duration::from_secs(24 * 60 * 60)).max_bytes(10 << 30);
//! for partition in 0..8 {
//!     let options = KeyOptions::default().retention(day).metadata("topic=orders partitions=8");
//!     wal.create_key(format!("orders/{partition}"), options)?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Producing
//!
//! The hash that chooses a partition has to be the same for ever: write it down, do not take
//! `DefaultHasher`, which the next version of Rust may change. What belongs together goes into one batch: one
//! write, all there after a crash or none. Which durability? `Os` where a broker that dies must lose nothing,
//! `Disk` where the machine may; those who wait for the disk at one moment share its sync, of whatever
//! partition. In async programs append with `Os` and await `Wal::when_durable` (feature `async`), with a thread in
//! `Wal::serve_syncs`, which does the syncs.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use bytes::Bytes;
//! # use keywal::{Wal, WalOptions};
//! # let wal = Wal::new(dir.path(), WalOptions::default())?;
//! /// FNV-1a.
//! fn partition_of(routing_key: &str, partitions: u64) -> u64 {
//!     let hash = routing_key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
//!         (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
//!     });
//!     hash % partitions
//! }
//!
//! let partition = format!("orders/{}", partition_of("customer-7", 8));
//! let header = Some(Bytes::from("type=ordered"));
//! let (offset, reference) = wal.append_indexed(&partition, header.clone(), "three pens", true)?;
//! assert_eq!(wal.get(&partition, offset)?, Some(wal.read_entry(reference)?));
//! let batch = ["two books", "a lamp"].map(|content| (header.clone(), Bytes::from(content)));
//! // With the offset of the first, if the producer wants to know it.
//! let (offset, references) = wal.append_batch_indexed(&partition, batch, true)?;
//! assert_eq!(wal.read_entry(references[1])?.index, offset + 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Consuming
//!
//! [`follow`](crate::Wal::follow) yields what is there from an offset on and then waits for more: no polling,
//! no thread behind it. With [`durable_only`](crate::Follow::durable_only) a consumer never sees what a power
//! cut could still take back. How far a group has come is a key that keeps its last entry. A group that comes
//! after its entries have been dropped is told [`Behind`](crate::WalError::Behind), once, and goes on with
//! the oldest there is.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! use keywal::{Retention, Wal, WalError, WalOptions};
//! use std::time::Duration;
//!
//! let wal = Wal::new(dir.path(), WalOptions::default())?;
//! # wal.log_entry("orders/3", None, "three pens")?;
//! # wal.log_entry("orders/3", None, "two books")?;
//! let committed = "groups/billing/orders/3";
//! wal.set_retention(committed, Retention::keep_last(1))?;
//!
//! let from = match wal.last(committed)? {
//!     Some(entry) => u64::from_le_bytes(entry.content[..].try_into()?),
//!     None => 0,
//! };
//! let mut orders = wal.follow("orders/3", from)?.durable_only();
//! loop {
//!     match orders.next_timeout(Duration::from_millis(10)) {
//!         Ok(Some(order)) => println!("{}: {} bytes", order.index, order.content.len()),
//!         Ok(None) => break, // nothing new: a moment to commit
//!         Err(WalError::Behind { wanted, oldest }) => println!("{wanted}..{oldest} are gone"),
//!         Err(error) => return Err(error.into()),
//!     }
//! }
//! wal.append_entry(committed, None, orders.next_index().to_le_bytes(), false)?;
//! # assert_eq!(orders.next_index(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Set that retention before the first commit: else the commit goes with the retention of the log, and the group starts
//! again. (Segments go whole: some tens of kilobytes of commits stay, of which [`last`](crate::Wal::last) is the newest.)
//!
//! A consumer that fails before it commits sees its entries again: at least once. Where what it makes goes to
//! the same log, [`append_many`](crate::Wal::append_many) writes result and offset together, and each order
//! has its effect in the log once:
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # use bytes::Bytes;
//! # use keywal::{Wal, WalOptions};
//! # let wal = Wal::new(dir.path(), WalOptions::default())?;
//! # let next: u64 = 2;
//! let committed = Bytes::copy_from_slice(&next.to_le_bytes());
//! let invoice = ("invoices/3", None, Bytes::from("two books: 30.00"));
//! wal.append_many([invoice, ("groups/billing/orders/3", None, committed)], false)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`append_many_indexed`](crate::Wal::append_many_indexed) says the offsets. With `Os`, whoever reads or follows one of
//! these entries before a sync does that sync first: a group that follows closely pays one for each call, unless somebody
//! else syncs ([`SyncPolicy`](crate::SyncPolicy), or `Disk` appends). A group that sees only what is durable
//! (`durable_only`, as above) sees nothing of `Os` entries until somebody syncs them.
//!
//! A consumer in another process on the machine reads with a [`WalReader`](crate::WalReader) and commits by way
//! of the broker: one process writes. Of many partitions, it calls [`refresh`](crate::WalReader::refresh) once, which
//! lists the directory and reads the journal, and then `entries(key)?.starting_at(next)?` for each. Replay for a
//! new group is `follow` from [`first_index`], or from [`index_at`] a moment; [`merge`](crate::Wal::merge) reads all
//! partitions of a topic in time order. (These are calls of the `Wal`; a reader has `entries(key)?.time_range(..)`.)
//!
//! # Deleting a topic
//!
//! [`remove_key`](crate::Wal::remove_key) for each of its partitions, and for what each group has committed of them. Who
//! follows a partition is told [`Expired`](crate::WalError::Expired). A partition that is used again starts at offset 0,
//! without its retention and metadata: [`create_key`](crate::Wal::create_key) again. A consumer that comes with an offset
//! of the first life is not told, and waits until the new one gets there: where topics are created again, put a
//! generation into the key (`orders#2/3`).
//!
//! # Running it
//!
//! Call [`compact`](crate::Wal::compact) about once a segment window, [`health`](crate::Wal::health) every few
//! seconds; lag is [`next_index`](crate::Wal::next_index) less what is committed. See
//! [`operations`](super::operations) for both, and for a second copy on another machine.
//!
//! [`max_open_files`]: crate::WalOptions::max_open_files
//! [`journal_bytes`]: crate::WalOptions::journal_bytes
//! [`maintenance_thread`]: crate::WalOptions::maintenance_thread
//! [`check_on_open`]: crate::WalOptions::check_on_open
//! [`segments_per_retention_period`]: crate::WalOptions::segments_per_retention_period
//! [`first_index`]: crate::Wal::first_index
//! [`index_at`]: crate::Wal::index_at
