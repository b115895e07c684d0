//! What goes into a log and comes out of it: keys, entries and references to entries.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// A durable handle of one entry: good for one direct read, across restarts, until the entry's
/// segment is dropped.
///
/// Afterwards reading it gives [`Expired`](crate::WalError::Expired), never other data: segment
/// numbers are not used twice. Any other bytes in place of a reference give
/// [`InvalidRef`](crate::WalError::InvalidRef). A reference does not say which directory it belongs
/// to; keep it with its directory.
///
/// ```
/// use keywal::EntryRef;
///
/// let reference = EntryRef { key_hash: 0xfeed, sequence_number: 3, offset: 654 };
/// assert_eq!(EntryRef::from_bytes(reference.to_bytes()), reference);
/// // An index that knows the key needs 8 bytes an entry.
/// assert_eq!(EntryRef::from_position(0xfeed, reference.position()), reference);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EntryRef {
    /// The hash that names the key's files; see the format in `src/format.rs`.
    pub key_hash: u64,
    /// The segment's number within its key, from 1 to 4,294,967,294.
    pub sequence_number: u64,
    /// Byte offset of the entry's frame in the segment file; behind the file header and below 4 GiB.
    pub offset: u64,
}

impl EntryRef {
    /// Packs the reference into 16 bytes that sort like references.
    ///
    /// Numbers above 32 bits, which no append returns, become the largest 32-bit number, which no
    /// entry has.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        let (hash, position) = out.split_at_mut(8);
        hash.copy_from_slice(&self.key_hash.to_be_bytes());
        position.copy_from_slice(&self.position().to_be_bytes());
        out
    }

    /// Unpacks [`to_bytes`](Self::to_bytes). Any bytes are accepted; reading checks them.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (hash, position) = bytes.split_at(8);
        let word = |half: &[u8]| half.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        Self::from_position(word(hash), word(position))
    }

    /// Segment number and offset in one word, which grows with every append to the key: all that an
    /// index by key has to keep. The rule of [`to_bytes`](Self::to_bytes) for large numbers holds.
    pub fn position(self) -> u64 {
        let sequence = self.sequence_number.min(u64::from(u32::MAX));
        let offset = self.offset.min(u64::from(u32::MAX));
        (sequence << 32) | offset
    }

    /// The reference with this key hash (that of any reference of the key) and
    /// [`position`](Self::position).
    pub fn from_position(key_hash: u64, position: u64) -> Self {
        Self { key_hash, sequence_number: position >> 32, offset: position & u64::from(u32::MAX) }
    }
}

/// An entry as it was appended, with what the log knows about it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where the entry is.
    pub reference: EntryRef,
    /// Its dense number within the key: 0, 1, 2, ...
    pub index: u64,
    /// When it was appended: milliseconds since 1970, never less than that of the entry before.
    pub timestamp_ms: u64,
    /// The optional header; `None` and an empty header are different things.
    pub header: Option<Bytes>,
    /// The content.
    pub content: Bytes,
}

impl Entry {
    /// The entry in memory of its own, for who keeps it: one that was read in order shares a chunk of 64 KiB
    /// with its neighbours, which stays as long as any of them does. Copies header and content.
    #[must_use]
    pub fn into_owned(self) -> Self {
        let header = self.header.as_deref().map(Bytes::copy_from_slice);
        Self { header, content: Bytes::copy_from_slice(&self.content), ..self }
    }
}

/// An entry that borrows from a caller's buffer; see
/// [`read_entry_into`](crate::Wal::read_entry_into).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EntrySlice<'a> {
    /// Where the entry is.
    pub reference: EntryRef,
    /// As [`Entry::index`].
    pub index: u64,
    /// As [`Entry::timestamp_ms`].
    pub timestamp_ms: u64,
    /// As [`Entry::header`].
    pub header: Option<&'a [u8]>,
    /// As [`Entry::content`].
    pub content: &'a [u8],
}

/// Entries may hold secrets: only lengths are shown.
macro_rules! debug_lengths {
    ($type:ty) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!(Entry))
                    .field("reference", &self.reference)
                    .field("index", &self.index)
                    .field("timestamp_ms", &self.timestamp_ms)
                    .field("header_bytes", &self.header.as_ref().map(|header| header.len()))
                    .field("content_bytes", &self.content.len())
                    .finish()
            }
        }
    };
}

debug_lengths!(Entry);
debug_lengths!(EntrySlice<'_>);

/// A key, byte for byte. Displays and compares like a string where it is one.
///
/// ```
/// use keywal::Key;
///
/// let key = Key::from(b"topic-7".to_vec());
/// assert_eq!(key, "topic-7");
/// assert_eq!(key.to_string(), "topic-7");
/// // Bytes that are not UTF-8 are shown as escapes, and never make two keys one.
/// assert_eq!(Key::from(vec![0xff, b'k']).to_string(), r"\xffk");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Key(Bytes);

impl Key {
    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key as a string, where it is one.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Bytes> for Key {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Key> for Bytes {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl PartialEq<str> for Key {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Key {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<[u8]> for Key {
    fn eq(&self, other: &[u8]) -> bool {
        self.0 == other
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_pack_and_numbers_that_do_not_fit_stay_invalid() {
        let reference = EntryRef { key_hash: u64::MAX - 1, sequence_number: 7, offset: 4096 };
        assert_eq!(EntryRef::from_bytes(reference.to_bytes()), reference);
        let later = EntryRef { sequence_number: 8, offset: 700, ..reference };
        assert!(later.position() > reference.position());
        assert!(later.to_bytes() > reference.to_bytes());
        let absurd = EntryRef { key_hash: 1, sequence_number: u64::MAX, offset: 1 << 40 };
        let packed = EntryRef::from_bytes(absurd.to_bytes());
        assert_eq!(packed.sequence_number, u64::from(u32::MAX));
        assert_eq!(packed.offset, u64::from(u32::MAX));
    }

    #[test]
    fn debug_shows_no_payload() {
        let entry = Entry {
            reference: EntryRef { key_hash: 1, sequence_number: 1, offset: 654 },
            index: 0,
            timestamp_ms: 5,
            header: None,
            content: Bytes::from_static(b"secret"),
        };
        let shown = format!("{entry:?}");
        assert!(shown.contains("content_bytes: 6") && !shown.contains("secret"), "{shown}");
    }
}
