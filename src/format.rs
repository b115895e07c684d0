//! # The keywal directory format, version 1
//!
//! This page is the specification. Whoever reads it can list and verify a directory without the
//! crate; `tests/verify.py` is a program that was written from it alone.
//!
//! Every integer is little-endian and unsigned. *Checksum* means CRC-32 as in zlib, gzip and PNG
//! (reflected polynomial `0xEDB88320`); `crc32(data, seed)` continues from `seed` exactly as zlib's
//! `crc32` function does, so `crc32(data, 0)` is the plain CRC-32 of `data`. *Milliseconds* count
//! from 1970-01-01T00:00:00Z. An *offset* is a byte position counted from the start of a file; in a
//! segment it is below 2^32.
//!
//! ## 1. The directory
//!
//! A directory is flat. It holds
//!
//! | name | is |
//! |---|---|
//! | `LOCK` | an empty file, locked with `flock` while a `Wal` is open; its content means nothing |
//! | `META` | facts about the directory as a whole, section 5 |
//! | `{label}-{key_hash}-{sequence}.log` | one segment, sections 2 to 4 |
//! | `JOURNAL` | entries on their way to their segments, section 7; there need not be one |
//!
//! Anything else is foreign and is left alone.
//!
//! * `key_hash` is sixteen lower-case hexadecimal digits: the 64-bit FNV-1a hash of the key's bytes
//!   (offset basis `0xcbf29ce484222325`, prime `0x100000001b3`; test vectors: the empty key gives
//!   `cbf29ce484222325`, `a` gives `af63dc4c8601ec8c`, `foobar` gives `85944171f73967e8`). When
//!   another key already has this value, the key takes the next value (plus one, wrapping) that no
//!   key has. The key in the header of section 2 decides, never the hash.
//! * `sequence` is decimal, padded with zeros to at least four digits, from 1 to 4,294,967,294.
//! * `label` is for people: the first 32 bytes of the key, ASCII letters in lower case, digits,
//!   `_` and `.` as they are (a leading `.` excepted), each other byte as `_`; the empty key has the
//!   label `_`. Where files with one `key_hash` have different labels, those with the label of their
//!   key count and the others are ignored.
//!
//! The segments with one `key_hash`, in order of their sequence, are the *stream* of one key. Only
//! the segment with the highest sequence is ever appended to.
//!
//! ## 2. The file header
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 6 | magic `KEYWAL` |
//! | 6 | 2 | version, 1 |
//! | 8 | 4 | flags: 1 = `REMOVED` (section 6), 2 = `LIMITS`; every other bit is zero in version 1 |
//! | 12 | 4 | `header_bytes`: length of this header, from the magic through the checksum; in every version 132 to 131,202 |
//! | 16 | 8 | nonce: random, drawn anew for every segment |
//! | 24 | 8 | `directory_id`: random, drawn once per directory, also in `META` |
//! | 32 | 8 | `key_hash`, as in the file name |
//! | 40 | 4 | `sequence`, as in the file name |
//! | 44 | 4 | `previous_sequence`: sequence of the segment before this one, 0 = this is the key's first |
//! | 48 | 4 | `previous_end`: offset behind the last valid frame of the segment before, 0 = none |
//! | 52 | 4 | zero |
//! | 56 | 8 | `base_index`: index of the first entry of this segment |
//! | 64 | 8 | `created_ms` |
//! | 72 | 8 | `expiration_ms`: from this moment on no entry is appended here |
//! | 80 | 8 | with `LIMITS`, else zero: `max_age_ms` |
//! | 88 | 8 | with `LIMITS`, else zero: `max_entries` |
//! | 96 | 8 | with `LIMITS`, else zero: `max_bytes` |
//! | 104 | 8 | with `LIMITS`, else zero: `min_entries` |
//! | 112 | 8 | zero |
//! | 120 | 4 | `metadata_bytes`, at most 65,535 |
//! | 124 | 4 | `key_bytes`, at most 65,535 |
//! | 128 | `metadata_bytes` | metadata of the key |
//! | ... | `key_bytes` | the key |
//! | ... | 4 | checksum of all bytes of the header before it, seed 0 |
//!
//! A second, identical *copy* of the header starts at `header_bytes` rounded up to a multiple of 512;
//! the bytes between are zero. The first frame starts right behind the copy (`frames_start`). Header
//! and copy are written together, before anything else. A reader takes the header at offset 0, or,
//! where that one does not validate or belongs to another file, the first valid copy at a multiple of 512
//! up to 131,584 that stands where its own `header_bytes` puts it, and belongs to this file if any does:
//! one bad or misdirected sector must not cost a segment. Lengths that do not add
//! up to `header_bytes`, or a `previous_sequence` that is not below `sequence`, make a header invalid. A
//! valid header that does not belong to its directory or to its file's name is damage.
//!
//! A header with `LIMITS` says what is kept of its key; without, that is up to the program. The newest segment
//! decides, and its limits and metadata go on to the next one. Of the first three fields all ones means *no
//! limit*, and 0 is not valid.
//!
//! A header whose checksum is right, but with a version above 1, or with a bit or byte set that
//! version 1 has as zero, belongs to a newer program: the file is to be left alone. Later versions
//! keep the first 16 bytes, and the checksum at the end, as they are here.
//!
//! ## 3. Frames
//!
//! Frames follow one another without gaps. A frame is 32 bytes of frame header, then the entry's
//! header, then its content:
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | signature `F7 4B 57 E5` |
//! | 4 | 2 | flags: 1 = `CONTINUES`, 2 = `HEADER`, 4 = `MARK`, 8 = `SEAL`; the others are zero |
//! | 6 | 2 | `header_bytes` of the entry |
//! | 8 | 4 | `content_bytes` of the entry |
//! | 12 | 4 | `index`: the entry's index minus `base_index` |
//! | 16 | 4 | `timestamp`: milliseconds since `created_ms` |
//! | 20 | 4 | `watermark`: every byte of this file before this offset was known durable when the frame was written |
//! | 24 | 4 | payload checksum: `crc32(header and content, seed)` |
//! | 28 | 4 | header checksum: `crc32(the 28 bytes before, seed)` |
//!
//! with `seed = (low half of the nonce) xor (high half of the nonce) xor (offset of the frame)`. So
//! bytes that were copied, moved, misdirected or left over from another file never validate, not even
//! when a payload is the exact copy of a segment.
//!
//! * `HEADER`: the entry has a header (which may be empty). Without it `header_bytes` is 0.
//! * `CONTINUES`: the next frame belongs to the same batch. The frames of a batch are valid together
//!   or, when its last frame is missing, not at all.
//! * `MARK`: not an entry. Lengths are 0; `index` is the number of entries in the segment so far,
//!   `timestamp` that of the last of them. A mark is written at the end of a segment when the directory
//!   is closed, so that this end can be proven; the next frame is written over it.
//! * `MARK` and `SEAL`: the mark that stays, as the last frame of a segment that takes no more entries.
//!
//! Indexes of entries are dense (0, 1, 2, ...); timestamps never fall within a key.
//!
//! ## 4. Where a segment ends
//!
//! The valid part of a segment that has a successor ends at the successor's `previous_end`; what lies
//! behind is left over from a crash and means nothing. A file shorter than that is damaged.
//!
//! The valid part of a stream's last segment is found by walking the frames up to the first offset
//! `B` where no valid frame starts (signature, header checksum, lengths within the file, payload
//! checksum). Then every frame behind `B` with a valid header is looked for, byte by byte. If one of
//! them has a `watermark` above `B`, the bytes at `B` had been durable: this is *damage*, from `B` to
//! the next valid frame header, and the walk goes on there; the other frames of a batch stay valid.
//! Otherwise the end is `B` or, where `B` or the end of the file cuts a batch off, the start of that
//! batch. What follows is reserved space if it is all zeros, else a *torn tail*: an unfinished write that
//! nobody was promised, and behind which nothing is ever appended. If `META` says that the directory was
//! closed, the valid part ends with a `MARK`, with `SEAL` or without, and what lies behind that means
//! nothing; everything else is damage.
//!
//! ## 5. `META`
//!
//! Two slots of 128 bytes, at offsets 0 and 4096. The valid slot with the higher generation counts; a
//! new state is written to the other one. The directory was *closed* if that slot says `CLEAN` and the
//! other one is valid, too: else a newer state may have been lost. No valid slot where there are
//! segments is damage. What section 2 says of newer versions holds here for the whole directory. A slot:
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | magic `KEYWMETA` |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | flags: 1 = `CLEAN` (every segment was synced and marked, and nothing was written since), 2 = `COPY` (put together from the files of another directory, and not opened since), 4 = `INCOMPLETE` (that is not finished: there is no log here yet) |
//! | 12 | 4 | `floor`: every new segment, whatever its key, gets a sequence above this |
//! | 16 | 8 | generation |
//! | 24 | 8 | `directory_id` |
//! | 32 | 8 | `dropped_through_ms`: segments with `expiration_ms` up to this may have been dropped by retention; 0 where nothing is left of those that were |
//! | 40 | 8 | `interrupted`, meaningful with `CLEAN`: the files known to be interrupted creations (section 6); bit `mix(FNV-1a(file name)) % 64` is set for each |
//! | 48 | 8 | number of segment files, going by their names alone; meaningful with `CLEAN` |
//! | 56 | 8 | digest of the same files, with `CLEAN`: the wrapping sum over all of them of `mix(key_hash xor mix(sequence))`, where `mix(x)` is the finalizer of `SplitMix64`: `x ^= x >> 30; x *= 0xbf58476d1ce4e5b9; x ^= x >> 27; x *= 0x94d049bb133111eb; x ^= x >> 31` |
//! | 64 | 8 | length of `JOURNAL`, 0 = there is none |
//! | 72 | 4 | `epoch`: raised whenever a directory with a journal is opened, before anything is appended |
//! | 76 | 48 | zero |
//! | 124 | 4 | checksum of the 124 bytes before, seed 0 |
//!
//! ## 6. Gaps, left-overs and removed keys
//!
//! A segment's `previous_sequence` names its predecessor (numbers in between hold no entries). If the
//! predecessor is missing while older segments exist, and the `expiration_ms` of all of those is at most
//! `dropped_through_ms`, they are left over from a retention run that a crash cut off; otherwise the
//! missing segment is damage. It always is where the stream's last segment has `LIMITS`: such a stream loses
//! one segment after the other, the oldest first. Segments older than one with `previous_sequence` 0 are
//! left over from a removed key.
//!
//! A last segment with the flag `REMOVED` says that the key was removed: it and all older segments of
//! the stream count as absent, and the next writer deletes them. A `REMOVED` segment without others
//! stays where a key with the next hash value exists, so that the rule of section 1 still finds that
//! key.
//!
//! A last segment without any valid header, or shorter than its `frames_start`, is a creation that a
//! crash cut off: it counts as absent, and its number stays used. The file stays, so that it may later
//! stand between two segments, the newer of which names the older one, or before all of them, behind a `REMOVED`
//! one or none. As the
//! last segment of a directory that `META` says was closed, it is damage, unless its bit in `interrupted`
//! is set. (So one in 64 damaged ones passes for each interrupted creation that lies about.)
//!
//! ## 7. The journal
//!
//! `JOURNAL` has a length that is a power of two, from 4 KiB to 1 GiB, and is written round and round. A
//! *position* counts the bytes written to it in one epoch, from 0; the byte at a position stands in the file
//! at the position modulo the length. Where `META` says that the directory was closed, the journal means
//! nothing. Else, whoever opens the directory first *replays* it: its records say what has to stand where in
//! which segment. Records follow one another at positions that are multiples of 8:
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 4 | signature `KWJR` |
//! | 4 | 4 | checksum of bytes 8 to 63, seed (low half of `directory_id`) xor (high half of `directory_id`) |
//! | 8 | 8 | position of this record |
//! | 16 | 8 | `key_hash` of the segment |
//! | 24 | 4 | `sequence` of the segment |
//! | 28 | 4 | offset in the segment at which the body belongs |
//! | 32 | 4 | (low half) xor (high half) of the segment's nonce |
//! | 36 | 4 | length of the body |
//! | 40 | 4 | body checksum |
//! | 44 | 4 | how far back the record before this one of the same segment starts, 0 = there is none |
//! | 48 | 4 | how far back the `tail` is: the oldest record that is not in its segment for good |
//! | 52 | 4 | how far back everything was known durable when this was written, `FFFFFFFF` = nothing was |
//! | 56 | 4 | epoch |
//! | 60 | 2 | kind: 1 = frames, 2 = creation, 3 = drop, 4 = nothing |
//! | 62 | 2 | flags: 1 = the next record belongs to the same batch; the others are zero |
//! | 64 | ... | the body, then up to 7 bytes that mean nothing |
//!
//! * *Frames*: the body is frames of the segment, in a row. Its checksum is the sum, modulo 2^32, of their
//!   header checksums. It is valid if all of the frames are.
//! * *Creation*: the body is the header and its copy, with which the segment's file begins; its checksum is
//!   the copy's. Replaying creates the file if it is missing. Larger entries go past the journal: in a
//!   journal without damage, frames of a segment whose creation is there count only up to the first whose
//!   offset lies behind the end of the file, which was lost with its name.
//! * *Drop*: segments of the `key_hash` up to this `sequence` may have been unlinked; replaying creates
//!   none of them.
//! * *Nothing*: only the tail counts.
//!
//! Only records of the highest epoch in the journal count, and only if that is not below `META`'s. They
//! are walked from the highest `tail` that any of them has to the first position `P` where none is valid. If any
//! record knows of durable bytes beyond `P`, this is *damage* from `P` to the next record, and the walk goes
//! on there. Otherwise the journal ends at `P` or, where that cuts a batch off, at the start of this batch.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod file_header;
mod frame;
mod meta;
mod name;
mod record;
#[cfg(any(test, feature = "sim"))]
pub mod rewrite;

pub(crate) use file_header::{
    FileHeader, LARGEST_HEADER_AREA_BYTES, Limits, MAX_KEY_BYTES, MAX_METADATA_BYTES, NO_LIMIT,
    find_header,
};
pub(crate) use frame::{FrameFlags, FrameHeader, SIGNATURE, Seed};
pub(crate) use meta::{Meta, SLOT_OFFSETS};
pub(crate) use name::{SegmentId, SegmentName, key_hash, label, mix};
pub(crate) use record::{Body, Record, RecordHeader};

/// Largest sequence a segment can have; the value above it is never valid.
pub(crate) const MAX_SEQUENCE: u32 = u32::MAX - 1;

/// Why bytes are not what they should be. Callers add the file and the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// Fewer bytes than the structure needs.
    #[error("too short")]
    Short,
    /// The magic or the signature is not there.
    #[error("no signature")]
    Signature,
    /// The checksum does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// The checksum matches, but a field has a value no writer of this version produces.
    #[error("a field is out of range")]
    Field,
    /// The checksum matches, and the version or a reserved field is of a later format.
    #[error("format version {0} is newer than 1")]
    Newer(u16),
}

/// Fixed-width reads from the front of a slice.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(FormatError::Short)?;
        self.0 = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(FormatError::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }
}
