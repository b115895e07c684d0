//! Frequently asked questions.
//!
//! # Is an `Os` append safe against `kill -9`?
//!
//! Yes. When it returns, the entry is in memory that belongs to the kernel: copied into the mapped journal, or
//! written to the segment. The kernel keeps both when the process dies, however it dies, and writes them to the
//! disk in its own time. What `Os` does not survive is the machine: a power cut or a crash of the kernel may take
//! what was not synced, of each key a suffix. [`Disk`](crate::Durability::Disk) survives that as well;
//! [`sync`](crate::Wal::sync) makes it so for all that was appended before.
//!
//! # Why is there a file `JOURNAL`?
//!
//! Small entries go to it first, and later, many at a time, to their segments. So an append is a copy and no
//! system call, one sync serves all keys that wait for the disk, and entries of several keys can be all there or
//! none ([`append_many`](crate::Wal::append_many)). It has a fixed size and is used again from the start. It is a
//! part of the log: never remove it, back it up with the rest (or use [`snapshot`](crate::Wal::snapshot)), and
//! never cut it while the log is open. [`journal_bytes`](crate::WalOptions::journal_bytes) 0 does without; several keys
//! cannot be appended to together then.
//!
//! # How large should journal and segments be?
//!
//! The journal: 4 MiB suits most; 64 MiB, thousands of keys in use at once. All of it is reserved on the disk and
//! read after a crash. An [`append_many`](crate::Wal::append_many) may fill a quarter of it.
//!
//! A segment ends when its window is over or at [`max_segment_bytes`](crate::WalOptions::max_segment_bytes).
//! Smaller ones: less to read of each key after a crash, and disk space comes back in smaller steps. Larger ones:
//! fewer files. 64 MiB, the default, is right unless the disk is small; for limits by bytes and count it takes
//! care of itself, since a segment also ends at its share of those.
//! [`preallocate_bytes`](crate::WalOptions::preallocate_bytes) pays for few keys with much in them.
//!
//! # How many keys can there be?
//!
//! As many as the file system has room for files, and the memory for keys: [what it costs](crate#what-it-costs).
//! Set [`check_on_open`](crate::WalOptions::check_on_open) to `false` for very many, so that opening after a crash
//! does not read a segment of each. More matter the keys that are appended to in turn:
//! [`max_open_files`](crate::WalOptions::max_open_files) should be twice their number, and `ulimit -n` above that.
//! If they are many because each has a few entries only, read [`when_not`](super::when_not).
//!
//! # What does `Poisoned` mean?
//!
//! As a rule, that a sync failed. (Or that a file could be neither made nor removed.) The system may have thrown
//! away what it could not write, and reports that once; trying again would succeed and prove nothing. So nobody is
//! told "durable" after it: the key refuses to go on with
//! [`Poisoned`](crate::WalError::Poisoned), reads still work. Close the log and open it again: recovery finds out
//! what the disk has. Then look for the reason, since a disk that fails a sync is rarely well;
//! [`health`](crate::Wal::health) names the file.
//!
//! # Why `Corrupted`, and not just the end of the data?
//!
//! Because the bytes had been stored safely, and somebody was promised they were. A log that ends in silence where
//! it is damaged loses what is behind the damage without anybody knowing. So the error names file, offset and
//! length; an iterator goes on behind it if it is asked to; all other entries stay readable. An unfinished write
//! that nobody was promised is no damage: it is dropped when the directory is opened, and the
//! [report](crate::Wal::recovery_report) lists it as torn.
//!
//! Restore the file from a backup if there is one. If there is none and the end of a key's log is hit, which takes
//! no appends then, [`accept_loss`](crate::Wal::accept_loss), or `keywal repair`, gives that end up.
//!
//! # How do I back up?
//!
//! [`snapshot`](crate::Wal::snapshot), while the log is in use, [`verify`](crate::verify()) of the copy, and the
//! copy to another disk: [`operations`](super::operations#backup). Copying the files of a log that is open, with
//! other tools, gives each file at a different moment. Of one that is closed they can be copied, all of them
//! together.
//!
//! # Why did my disk usage not shrink?
//!
//! - Nobody calls [`compact`](crate::Wal::compact): nothing is dropped without it.
//! - It refused because of the clock, failed, or the hook keeps segments:
//!   [the report](crate::CompactionReport) has `refused`, `failures`, `held_segments`.
//! - Segments go whole, from the oldest on, up to a window after the retention; the newest of a key stays.
//! - [`min_entries_per_key`](crate::WalOptions::min_entries_per_key), or a [`Retention`](crate::Retention) of the
//!   key's own, which is stored and counts whatever the options say.
//! - A snapshot on the same file system shares the files of sealed segments: their space comes back when the
//!   snapshot has been taken again or removed, too.
//! - The journal, and what [`preallocate_bytes`](crate::WalOptions::preallocate_bytes) reserves, are there from
//!   the start.
//!
//! # The clock was wrong. What now?
//!
//! Set back, it deletes nothing, and timestamps of a key never fall: they wait until the clock has caught up.
//! When it jumps ahead while the log is open, `compact` refuses to drop anything for its age and
//! [says so](crate::ClockTrouble); if the new time is right, reopen the directory, which accepts it. Opening
//! with a clock that is wrong, and compacting then, is what no program can tell: keep the clock in step.
//! Limits by count and by bytes never ask it.
//!
//! # Can two processes write?
//!
//! No: the second gets [`Locked`](crate::WalError::Locked). Nor can a child after `fork`, which gets
//! [`Forked`](crate::WalError::Forked). Any number of processes can read, with [`WalReader`](crate::WalReader)
//! or the program `keywal`, beside the one that writes.
//!
//! # Can entries be encrypted or compressed?
//!
//! Above the log: encrypt or compress content and header before appending, and say in the header which key or
//! method it was. Compress a batch in one entry where entries are small. The log itself does neither, so that a
//! reference is one read, and damage costs the entries it hit only. File names have a readable label of the key:
//! put no secrets into keys.
//! Segments that are to go can be compressed on their way out: `examples/archive.rs` puts them into an archive, with
//! [`before_drop`](crate::WalOptions::before_drop), and reads them from there.
//!
//! # Do I have to call `shutdown`?
//!
//! No; nothing is lost without it. After it, opening reads no segment, damage to the last batch is told from
//! an unfinished write, and files that went missing are noticed. A process that can, should.
//!
//! # Which index does my entry get when it is appended?
//!
//! [`append_indexed`](crate::Wal::append_indexed) says it. With [`append_if`](crate::Wal::append_if) it is the one
//! that was expected, and [`read_entry`](crate::Wal::read_entry) of a reference tells it later.
//!
//! # How do I use it in an async program?
//!
//! An `Os` append is as a rule a copy of memory, and can be called from a task. Now and then it creates a file,
//! or moves a part of the journal on; a [`maintenance_thread`](crate::WalOptions::maintenance_thread) does most of
//! the latter. `Disk` appends and reads wait for the disk: call them on threads that may block. With the feature
//! `async`, `Wal::when_durable` is a future of an entry's durability, for which a thread of yours has to be in
//! `Wal::serve_syncs`, and [`Follow`](crate::Follow) is a `futures_core::Stream`. Any runtime will do.
