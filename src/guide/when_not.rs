//! When not to use this crate.
//!
//! A log is for what is appended in order and read again by reference, by number, by time or from an end. Below
//! is what it is bad at, and what to take instead.
//!
//! # Questions about content
//!
//! There is no query, no secondary index, no update in place. Whoever mostly asks "which ones have ...?" wants
//! an SQL database; whoever mostly overwrites values, a key-value store. A log beneath one's own
//! index, as in [`refs`](super::refs), is worth it where data are written once and the index is simple.
//!
//! # Very many keys with very few entries
//!
//! A key is at least one file, and a file at least a block of the file system and an inode; a key in use is an
//! open file; one that is idle takes memory, too ([what it costs](crate#what-it-costs)). Thousands of keys are
//! ordinary, but a key for every request, session or line is wrong: put them into one key, or into a few by hash,
//! with the identifier in the header. For the same reason keeping the latest value of
//! each of a billion things is a table's work: [`keep_last(1)`](crate::Retention::keep_last) works on a key, there
//! is none that looks for identifiers inside it.
//!
//! Keys chosen by strangers: they may choose them so that their 64-bit hashes collide, which makes finding them
//! slow, never wrong. Hash them with a secret first.
//!
//! # Several writers
//!
//! One process writes to a directory. Others can read it with [`WalReader`](crate::WalReader). Who has many
//! writing processes needs a server in front, or a directory for each.
//!
//! # A copy on another machine, without work
//!
//! The log replicates nothing, elects nobody, and knows no network. It gives what a
//! [replica](super::operations#replication) is made of. Who wants a cluster ready to run wants Kafka, NATS or
//! a database that replicates.
//!
//! # Transactions that read
//!
//! [`append_many`](crate::Wal::append_many) writes to several keys, all or nothing; it does not check what they
//! held. [`append_if`](crate::Wal::append_if) checks, for one key. Isolation between transactions that read and
//! write several keys is the application's, or a database's.
//!
//! # An order of everything
//!
//! Order is by key. Between keys there are timestamps of milliseconds, and [`merge`](crate::Wal::merge) sorts by
//! them. Where the order of all entries matters, put them into one key, or announce them in one as
//! [`events`](super::events#projections-over-all-entities) does.
//!
//! # What must be erased
//!
//! Entries are dropped in whole segments, from the oldest on, never from the middle. What was dropped may still
//! be found on the disk, in snapshots, in archives. Data that somebody may ask to have deleted are encrypted
//! before they are appended, with a key for each person; deleting is then to destroy that key.
//!
//! An entry is also not gone at the second: it outlives its retention by up to one window. A reader that must not
//! see expired entries looks at their [time](crate::Entry::timestamp_ms).
//!
//! # Protection from people
//!
//! Checksums find accidents. Whoever may write to the directory can forge entries: sign above the log, as the
//! [audit log](super::recipes#an-audit-log) does. Nothing is encrypted.
//!
//! # Large objects
//!
//! An entry is one piece of memory when it is written and when it is read. Up to 16 MiB by default, and below
//! 4 GiB in any case. What is larger than 64 KiB does not go through the journal. Put videos into files or an
//! object store, and their names into the log.
//!
//! # A cache
//!
//! What may be lost costs too much here: every append is kept from the death of the process, and every entry
//! carries 32 bytes and two checksums. What need not survive belongs into memory.
//!
//! # Other file systems, other platforms
//!
//! NFS, FUSE, overlay: best effort. A disk that lies about flushes: no promise holds. Windows: it does not build.
//! A controller without an operating system: not this crate.
//!
//! # The last word in speed
//!
//! One log for everything, without keys, without checksums when reading, or without a promise for `kill -9`, can
//! be faster. The README has the figures of this crate against the floor of the system calls, with those that
//! missed their targets.
