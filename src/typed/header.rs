//! Entry headers of typed streams, as specified in [`crate::typed`]: total functions over bytes.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use bytes::Bytes;

use crate::entry::EntryRef;
use crate::error::WalError;

const EVENT: [u8; 2] = *b"KE";
const SNAPSHOT: [u8; 2] = *b"KS";
const FORMAT_VERSION: u8 = 1;
const CORRELATION: u8 = 1;
const CAUSATION: u8 = 2;

/// What the header of an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventHeader<'a> {
    pub(super) schema_version: u32,
    pub(super) event_type: &'a str,
    pub(super) correlation_id: Option<&'a str>,
    pub(super) causation_id: Option<&'a str>,
}

/// What the header of a snapshot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SnapshotHeader<'a> {
    pub(super) schema_version: u32,
    /// Number of events that the snapshot covers, from the first one on.
    pub(super) version: u64,
    /// Where the last of them is.
    pub(super) last: EntryRef,
    pub(super) aggregate: &'a str,
}

impl<'a> EventHeader<'a> {
    pub(super) fn to_bytes(&self) -> Result<Bytes, WalError> {
        let ids = [(CORRELATION, self.correlation_id), (CAUSATION, self.causation_id)];
        let present = ids.iter().filter(|(_, id)| id.is_some());
        let flags = present.fold(0, |flags, (flag, _)| flags | flag);
        let mut bytes = vec![EVENT[0], EVENT[1], FORMAT_VERSION, flags];
        bytes.extend_from_slice(&self.schema_version.to_le_bytes());
        put_text(&mut bytes, self.event_type)?;
        for id in ids.iter().filter_map(|(_, id)| *id) {
            put_text(&mut bytes, id)?;
        }
        Ok(bytes.into())
    }

    pub(super) fn from_bytes(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut rest = Rest(bytes);
        let flags = rest.start(EVENT, "its header is not that of an event")?;
        if flags & !(CORRELATION | CAUSATION) != 0 {
            return Err("its header has flags that this program does not know");
        }
        let schema_version = u32::from_le_bytes(rest.take()?);
        let event_type = rest.text()?;
        let mut id = |flag| (flags & flag != 0).then(|| rest.text()).transpose();
        let (correlation_id, causation_id) = (id(CORRELATION)?, id(CAUSATION)?);
        rest.end()?;
        Ok(Self { schema_version, event_type, correlation_id, causation_id })
    }
}

impl<'a> SnapshotHeader<'a> {
    pub(super) fn to_bytes(&self) -> Result<Bytes, WalError> {
        let mut bytes = vec![SNAPSHOT[0], SNAPSHOT[1], FORMAT_VERSION, 0];
        bytes.extend_from_slice(&self.schema_version.to_le_bytes());
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.last.to_bytes());
        put_text(&mut bytes, self.aggregate)?;
        Ok(bytes.into())
    }

    pub(super) fn from_bytes(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut rest = Rest(bytes);
        if rest.start(SNAPSHOT, "its header is not that of a snapshot")? != 0 {
            return Err("its header has flags that this program does not know");
        }
        let schema_version = u32::from_le_bytes(rest.take()?);
        let version = u64::from_le_bytes(rest.take()?);
        let last = EntryRef::from_bytes(rest.take()?);
        let aggregate = rest.text()?;
        rest.end()?;
        Ok(Self { schema_version, version, last, aggregate })
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) -> Result<(), WalError> {
    let too_long = |_| WalError::HeaderTooLarge { bytes: bytes.len().saturating_add(text.len()) };
    let length = u16::try_from(text.len()).map_err(too_long)?;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    Ok(())
}

const CUT_OFF: &str = "its header ends too early";

/// What of a header is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CUT_OFF)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// Checks kind and version; returns the flags.
    fn start(&mut self, kind: [u8; 2], other_kind: &'static str) -> Result<u8, &'static str> {
        if self.take().ok() != Some(kind) {
            return Err(other_kind);
        }
        let [version, flags] = self.take()?;
        if version != FORMAT_VERSION {
            return Err("its header has a format that this program does not know");
        }
        Ok(flags)
    }

    fn text(&mut self) -> Result<&'a str, &'static str> {
        let length = usize::from(u16::from_le_bytes(self.take()?));
        let (text, rest) = self.0.split_at_checked(length).ok_or(CUT_OFF)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| "its header has text that is not UTF-8")
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err("its header goes on behind its end") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REFERENCE: EntryRef = EntryRef { key_hash: 7, sequence_number: 8, offset: 9 };

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let header = EventHeader {
            schema_version: 0x0102,
            event_type: "moved",
            correlation_id: None,
            causation_id: Some("a@1"),
        };
        let bytes = header.to_bytes().unwrap();
        assert_eq!(bytes, &b"KE\x01\x02\x02\x01\0\0\x05\0moved\x03\0a@1"[..]);
        assert_eq!(EventHeader::from_bytes(&bytes), Ok(header));

        let header =
            SnapshotHeader { schema_version: 1, version: 258, last: REFERENCE, aggregate: "user" };
        let bytes = header.to_bytes().unwrap();
        let expected = b"KS\x01\0\x01\0\0\0\x02\x01\0\0\0\0\0\0\
            \0\0\0\0\0\0\0\x07\0\0\0\x08\0\0\0\x09\x04\0user";
        assert_eq!(bytes, &expected[..]);
        assert_eq!(SnapshotHeader::from_bytes(&bytes), Ok(header));
    }

    #[test]
    fn what_is_not_known_is_refused_with_a_reason() {
        let table: [(&[u8], &str); 8] = [
            (b"", "not that of an event"),
            (b"K", "not that of an event"),
            (b"KS\x01\0\0\0\0\0\0\0", "not that of an event"),
            (b"KE", "ends too early"),
            (b"KE\x02\0\0\0\0\0\0\0", "a format"),
            (b"KE\x01\x04\0\0\0\0\0\0", "flags"),
            (b"KE\x01\0\0\0\0\0\x01\0\xff", "UTF-8"),
            (b"KE\x01\0\0\0\0\0\0\0x", "behind its end"),
        ];
        for (bytes, reason) in table {
            let refused = EventHeader::from_bytes(bytes).unwrap_err();
            assert!(refused.contains(reason), "{bytes:?}: {refused}");
        }
    }

    #[test]
    fn texts_that_do_not_fit_are_refused() {
        let long = "x".repeat(65_536);
        let header = EventHeader {
            schema_version: 1,
            event_type: &long,
            correlation_id: None,
            causation_id: None,
        };
        assert!(matches!(header.to_bytes(), Err(WalError::HeaderTooLarge { bytes: 65_544 })));
    }

    proptest! {
        #[test]
        fn headers_come_back(
            schema_version: u32,
            event_type in ".{0,9}",
            correlation in proptest::option::of(".{0,9}"),
            causation in proptest::option::of(".{0,9}"),
        ) {
            let header = EventHeader {
                schema_version,
                event_type: &event_type,
                correlation_id: correlation.as_deref(),
                causation_id: causation.as_deref(),
            };
            let bytes = header.to_bytes().unwrap();
            prop_assert_eq!(EventHeader::from_bytes(&bytes), Ok(header));
            for cut in 0..bytes.len() {
                prop_assert!(EventHeader::from_bytes(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn no_bytes_are_fatal(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = EventHeader::from_bytes(&bytes);
            let _ = SnapshotHeader::from_bytes(&bytes);
            for kind in [EVENT, SNAPSHOT] {
                if let Some(start) = bytes.first_chunk_mut() {
                    *start = [kind[0], kind[1], 1, 3];
                }
                let _ = EventHeader::from_bytes(&bytes);
                let _ = SnapshotHeader::from_bytes(&bytes);
            }
        }
    }
}
