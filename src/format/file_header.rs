//! The header of a segment file and its copy (section 2 of the specification).

use std::ops::Range;

use super::{Fields, FormatError, MAX_SEQUENCE};

const MAGIC: [u8; 6] = *b"KEYWAL";
const VERSION: u16 = 1;
const FLAG_REMOVED: u32 = 1;
const FLAG_LIMITS: u32 = 2;
const RESERVED_BYTES: usize = 8;
const FIXED_BYTES: usize = 128;
const CHECKSUM_BYTES: usize = 4;
const COPY_ALIGN_BYTES: usize = 512;

/// Longest key.
pub(crate) const MAX_KEY_BYTES: usize = 65_535;
/// Longest metadata of a key.
pub(crate) const MAX_METADATA_BYTES: usize = 65_535;
const MAX_HEADER_BYTES: usize = FIXED_BYTES + MAX_METADATA_BYTES + MAX_KEY_BYTES + CHECKSUM_BYTES;
const MAX_COPY_OFFSET: usize = MAX_HEADER_BYTES.next_multiple_of(COPY_ALIGN_BYTES);
const _: () = assert!(MAX_COPY_OFFSET == 131_584, "the specification names this offset");

/// No header and copy together are longer than this.
pub(crate) const LARGEST_HEADER_AREA_BYTES: usize = MAX_COPY_OFFSET + MAX_HEADER_BYTES;

/// A limit that is none.
pub(crate) const NO_LIMIT: u64 = u64::MAX;

/// What is kept of a key. Each limit may be [`NO_LIMIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) max_age_ms: u64,
    pub(crate) max_entries: u64,
    pub(crate) max_bytes: u64,
    /// Never fewer, whatever the limits say.
    pub(crate) min_entries: u64,
}

/// The facts in the header of a segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileHeader {
    /// The key was removed; see section 6.
    pub(crate) removed: bool,
    pub(crate) nonce: u64,
    pub(crate) directory_id: u64,
    pub(crate) key_hash: u64,
    pub(crate) sequence: u32,
    /// 0: this is the key's first segment.
    pub(crate) previous_sequence: u32,
    pub(crate) previous_end: u32,
    pub(crate) base_index: u64,
    pub(crate) created_ms: u64,
    pub(crate) expiration_ms: u64,
    /// `None`: the key has no limits of its own.
    pub(crate) limits: Option<Limits>,
    pub(crate) metadata: Box<[u8]>,
    pub(crate) key: Box<[u8]>,
}

impl FileHeader {
    fn header_bytes(&self) -> usize {
        FIXED_BYTES
            .saturating_add(self.metadata.len())
            .saturating_add(self.key.len())
            .saturating_add(CHECKSUM_BYTES)
    }

    /// Offset of the first frame.
    pub(crate) fn frames_start(&self) -> u32 {
        let bytes = self.header_bytes();
        let start = bytes.next_multiple_of(COPY_ALIGN_BYTES).saturating_add(bytes);
        u32::try_from(start).unwrap_or(u32::MAX)
    }

    /// Where the header and its copy stand in the file.
    pub(crate) fn places(&self) -> [Range<usize>; 2] {
        let bytes = self.header_bytes();
        [0, bytes.next_multiple_of(COPY_ALIGN_BYTES)].map(|at| at..at.saturating_add(bytes))
    }

    /// The header and its copy: the first `frames_start` bytes of the file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let bytes = self.header_bytes();
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let mut out =
            Vec::with_capacity(bytes.next_multiple_of(COPY_ALIGN_BYTES).saturating_add(bytes));
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        let removed = if self.removed { FLAG_REMOVED } else { 0 };
        let limited = if self.limits.is_some() { FLAG_LIMITS } else { 0 };
        out.extend((removed | limited).to_le_bytes());
        out.extend(length(bytes));
        out.extend(self.nonce.to_le_bytes());
        out.extend(self.directory_id.to_le_bytes());
        out.extend(self.key_hash.to_le_bytes());
        out.extend(self.sequence.to_le_bytes());
        out.extend(self.previous_sequence.to_le_bytes());
        out.extend(self.previous_end.to_le_bytes());
        out.extend([0; 4]);
        out.extend(self.base_index.to_le_bytes());
        out.extend(self.created_ms.to_le_bytes());
        out.extend(self.expiration_ms.to_le_bytes());
        let limits = self.limits.map_or([0; 4], |limits| {
            [limits.max_age_ms, limits.max_entries, limits.max_bytes, limits.min_entries]
        });
        out.extend(limits.into_iter().flat_map(u64::to_le_bytes));
        out.extend([0; RESERVED_BYTES]);
        out.extend(length(self.metadata.len()));
        out.extend(length(self.key.len()));
        out.extend_from_slice(&self.metadata);
        out.extend_from_slice(&self.key);
        out.extend(crc32fast::hash(&out).to_le_bytes());
        let header = out.clone();
        out.resize(bytes.next_multiple_of(COPY_ALIGN_BYTES), 0);
        out.extend(header);
        out
    }

    /// Reads one header from the front of `bytes`, which may go on behind it.
    ///
    /// [`FormatError::Short`] says that the header seems to be longer than `bytes`.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields(bytes);
        if fields.array::<{ MAGIC.len() }>()? != MAGIC {
            return Err(FormatError::Signature);
        }
        let version = fields.u16()?;
        let flags = fields.u32()?;
        let header_bytes = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
        if !(FIXED_BYTES.saturating_add(CHECKSUM_BYTES)..=MAX_HEADER_BYTES).contains(&header_bytes)
        {
            return Err(FormatError::Field);
        }
        let whole = bytes.get(..header_bytes).ok_or(FormatError::Short)?;
        let (checked, stored) =
            whole.split_last_chunk::<CHECKSUM_BYTES>().ok_or(FormatError::Short)?;
        if crc32fast::hash(checked) != u32::from_le_bytes(*stored) {
            return Err(FormatError::Checksum);
        }
        if version != VERSION {
            return Err(FormatError::Newer(version));
        }
        let nonce = fields.u64()?;
        let directory_id = fields.u64()?;
        let key_hash = fields.u64()?;
        let sequence = fields.u32()?;
        let previous_sequence = fields.u32()?;
        let previous_end = fields.u32()?;
        let zero = fields.u32()?;
        let base_index = fields.u64()?;
        let created_ms = fields.u64()?;
        let expiration_ms = fields.u64()?;
        let limits = [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
        let reserved = fields.array::<RESERVED_BYTES>()?;
        let limited = flags & FLAG_LIMITS != 0;
        if flags & !(FLAG_REMOVED | FLAG_LIMITS) != 0
            || zero != 0
            || (!limited && limits != [0; 4])
            || reserved != [0; RESERVED_BYTES]
        {
            return Err(FormatError::Newer(version));
        }
        let metadata_bytes = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
        let key_bytes = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
        let [max_age_ms, max_entries, max_bytes, min_entries] = limits;
        let limits = Limits { max_age_ms, max_entries, max_bytes, min_entries };
        let header = Self {
            removed: flags & FLAG_REMOVED != 0,
            nonce,
            directory_id,
            key_hash,
            sequence,
            previous_sequence,
            previous_end,
            base_index,
            created_ms,
            expiration_ms,
            limits: limited.then_some(limits),
            metadata: fields.bytes(metadata_bytes)?.into(),
            key: fields.bytes(key_bytes)?.into(),
        };
        let in_range = (1..=MAX_SEQUENCE).contains(&sequence)
            && previous_sequence < sequence
            && (!limited || (max_age_ms > 0 && max_entries > 0 && max_bytes > 0))
            && header.header_bytes() == header_bytes;
        if in_range { Ok(header) } else { Err(FormatError::Field) }
    }
}

/// Finds the header in the first [`LARGEST_HEADER_AREA_BYTES`] of a file (fewer where the file ends
/// there): the one at offset 0 or, where that does not validate or belongs to another file, its copy.
/// Where neither belongs here, the first that validates.
///
/// The error is the one that the header at offset 0 gave. [`FormatError::Newer`] is passed on at once.
pub(crate) fn find_header(
    bytes: &[u8],
    belongs: impl Fn(&FileHeader) -> bool,
) -> Result<FileHeader, FormatError> {
    let first = FileHeader::from_bytes(bytes);
    match &first {
        Err(FormatError::Newer(_)) => return first,
        Ok(header) if belongs(header) => return first,
        _ => {}
    }
    let mut found = first;
    let mut at = COPY_ALIGN_BYTES;
    while at <= MAX_COPY_OFFSET {
        let Some(rest) = bytes.get(at..) else { break };
        match FileHeader::from_bytes(rest) {
            // Where a copy may stand depends on its length: this drops copies inside payloads.
            Ok(header) if header.header_bytes().next_multiple_of(COPY_ALIGN_BYTES) == at => {
                if belongs(&header) {
                    return Ok(header);
                }
                if found.is_err() {
                    found = Ok(header);
                }
            }
            Err(error @ FormatError::Newer(_)) => return Err(error),
            _ => {}
        }
        at = at.saturating_add(COPY_ALIGN_BYTES);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample(key: &[u8]) -> FileHeader {
        FileHeader {
            removed: false,
            nonce: 0x0123_4567_89AB_CDEF,
            directory_id: 11,
            key_hash: 22,
            sequence: 7,
            previous_sequence: 5,
            previous_end: 4711,
            base_index: 1 << 40,
            created_ms: 1_700_000_000_000,
            expiration_ms: 1_700_000_060_000,
            limits: None,
            metadata: Box::from(*b"meta"),
            key: key.into(),
        }
    }

    #[test]
    fn a_header_of_any_key_length_reads_back() {
        for length in [0, 1, 10, 376, 377, 4096, MAX_KEY_BYTES] {
            let header = sample(&vec![b'k'; length]);
            let bytes = header.to_bytes();
            assert_eq!(bytes.len(), usize::try_from(header.frames_start()).unwrap());
            assert_eq!(find_header(&bytes, |_| true).as_ref(), Ok(&header));
            assert!(bytes.len() <= LARGEST_HEADER_AREA_BYTES);
        }
    }

    const LIMITS: Limits =
        Limits { max_age_ms: 60_000, max_entries: NO_LIMIT, max_bytes: 1 << 40, min_entries: 3 };

    #[test]
    fn limits_read_back_and_where_there_are_none_every_byte_is_zero() {
        let header = FileHeader { limits: Some(LIMITS), ..sample(b"key") };
        let bytes = header.to_bytes();
        assert_eq!(FileHeader::from_bytes(&bytes), Ok(header.clone()));
        assert_eq!(bytes[8], 2);
        let removed = FileHeader { removed: true, ..header };
        assert_eq!(FileHeader::from_bytes(&removed.to_bytes()), Ok(removed));
        assert_eq!(sample(b"key").to_bytes()[80..120], [0; 40]);
    }

    #[test]
    fn any_one_bad_sector_is_survived() {
        for length in [10, 600, MAX_KEY_BYTES] {
            let header = sample(&vec![b'k'; length]);
            let good = header.to_bytes();
            for sector in 0..good.len().div_ceil(512) {
                let mut bytes = good.clone();
                let end = bytes.len().min(sector * 512 + 512);
                bytes[sector * 512..end].fill(0);
                assert_eq!(find_header(&bytes, |_| true).as_ref(), Ok(&header), "sector {sector}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_one_header_is_caught() {
        let good = sample(b"key").to_bytes();
        let single = &good[..sample(b"key").header_bytes()];
        for bit in 0..single.len() * 8 {
            let mut bytes = single.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::from_bytes(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn newer_formats_are_told_from_damage() {
        let good = sample(b"key").to_bytes();
        let bytes = sample(b"key").header_bytes();
        for (at, value) in [(6, 2), (8, 4), (11, 1), (52, 1), (80, 1), (111, 1), (119, 9)] {
            let mut newer = good[..bytes].to_vec();
            newer[at] = value;
            let checksum = crc32fast::hash(&newer[..bytes - 4]);
            newer[bytes - 4..].copy_from_slice(&checksum.to_le_bytes());
            assert!(
                matches!(find_header(&newer, |_| true), Err(FormatError::Newer(_))),
                "byte {at}"
            );
        }
    }

    /// One header, without its copy, with an edit and the checksum that goes with that.
    fn forged(header: &FileHeader, edit: impl Fn(&mut [u8])) -> Vec<u8> {
        let bytes = header.header_bytes();
        let mut forged = header.to_bytes();
        forged.truncate(bytes);
        edit(&mut forged);
        let (checked, checksum) = forged.split_last_chunk_mut::<CHECKSUM_BYTES>().unwrap();
        *checksum = crc32fast::hash(checked).to_le_bytes();
        forged
    }

    #[test]
    fn the_largest_header_reads_back() {
        let mut header = sample(&vec![b'k'; MAX_KEY_BYTES]);
        header.metadata = vec![b'm'; MAX_METADATA_BYTES].into();
        let bytes = header.to_bytes();
        assert_eq!(header.header_bytes(), 131_202);
        assert_eq!(bytes.len(), LARGEST_HEADER_AREA_BYTES);
        assert_eq!(FileHeader::from_bytes(&bytes).as_ref(), Ok(&header));
        // The copy alone, at the last place where one may stand.
        let mut copy = bytes;
        copy[..MAX_COPY_OFFSET].fill(0);
        assert_eq!(find_header(&copy, |_| true), Ok(header));
    }

    #[test]
    fn fields_no_writer_produces_are_refused() {
        let with = |sequence, previous_sequence| {
            let header = FileHeader { sequence, previous_sequence, ..sample(b"key") };
            FileHeader::from_bytes(&header.to_bytes()).map(drop)
        };
        for (sequence, previous) in [(1, 0), (7, 6), (MAX_SEQUENCE, MAX_SEQUENCE - 1)] {
            assert_eq!(with(sequence, previous), Ok(()), "{sequence} after {previous}");
        }
        for (sequence, previous) in [(0, 0), (MAX_SEQUENCE + 1, 0), (7, 7), (7, 8)] {
            let read = with(sequence, previous);
            assert_eq!(read, Err(FormatError::Field), "{sequence} after {previous}");
        }
        // Limits that would keep nothing.
        for limits in [
            Limits { max_age_ms: 0, ..LIMITS },
            Limits { max_entries: 0, ..LIMITS },
            Limits { max_bytes: 0, ..LIMITS },
        ] {
            let header = FileHeader { limits: Some(limits), ..sample(b"key") };
            assert_eq!(FileHeader::from_bytes(&header.to_bytes()), Err(FormatError::Field));
        }
        // Lengths that do not add up to `header_bytes`.
        for (at, value) in [(120, 3), (124, 2)] {
            let short = forged(&sample(b"key"), |bytes| bytes[at] = value);
            assert_eq!(FileHeader::from_bytes(&short), Err(FormatError::Field), "byte {at}");
        }
    }

    #[test]
    fn a_copy_counts_only_where_it_may_stand_and_only_after_the_header() {
        let header = sample(b"key");
        let one = forged(&header, |_| {});
        let newer = forged(&header, |bytes| bytes[6] = 2);
        let file = |parts: &[(usize, &[u8])]| {
            let mut file = vec![0; 2048];
            for (at, part) in parts {
                file[*at..*at + part.len()].copy_from_slice(part);
            }
            find_header(&file, |_| true)
        };
        assert_eq!(file(&[(512, &one)]), Ok(header.clone()));
        assert_eq!(file(&[(1024, &one)]), Err(FormatError::Signature), "one inside a payload");
        assert_eq!(file(&[(0, &one), (512, &newer)]), Ok(header));
        assert_eq!(file(&[(512, &newer)]), Err(FormatError::Newer(2)));
    }

    #[test]
    fn lengths_are_checked_before_they_are_used() {
        let mut bytes = sample(b"key").to_bytes();
        for huge in [0_u32, 131, 131_203, u32::MAX] {
            bytes[12..16].copy_from_slice(&huge.to_le_bytes());
            assert_eq!(FileHeader::from_bytes(&bytes), Err(FormatError::Field));
        }
        assert_eq!(FileHeader::from_bytes(b"KEYWAL"), Err(FormatError::Short));
    }
}
