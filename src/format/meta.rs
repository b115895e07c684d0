//! A slot of `META` (section 5 of the specification).

use super::{Fields, FormatError};

const MAGIC: [u8; 8] = *b"KEYWMETA";
const VERSION: u16 = 1;
const FLAG_CLEAN: u16 = 1;
const FLAG_COPY: u16 = 2;
const FLAG_INCOMPLETE: u16 = 4;
const RESERVED_BYTES: usize = 48;

/// Where the two slots are. A slot lies in one sector, the two in different pages.
pub(crate) const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// Facts about the directory as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Meta {
    /// Everything was synced and marked, and nothing was written since.
    pub(crate) clean: bool,
    /// The directory was put together from the files of another one, and never opened since.
    pub(crate) copy: bool,
    /// That is not finished: some of it is missing, or may be lost with the power.
    pub(crate) incomplete: bool,
    /// New segments get a sequence above this.
    pub(crate) floor: u32,
    pub(crate) generation: u64,
    pub(crate) directory_id: u64,
    /// Retention may have dropped segments that expired up to this moment.
    pub(crate) dropped_through_ms: u64,
    /// Which files are creations cut off by a crash, a bit for each.
    pub(crate) interrupted: u64,
    pub(crate) segments: u64,
    pub(crate) digest: u64,
    /// Length of the journal, 0 = there is none.
    pub(crate) journal_bytes: u64,
    /// Of the records in the journal: how often the directory has been opened.
    pub(crate) epoch: u32,
}

impl Meta {
    pub(crate) const BYTES: usize = 128;

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        let flags =
            [(self.clean, FLAG_CLEAN), (self.copy, FLAG_COPY), (self.incomplete, FLAG_INCOMPLETE)];
        let flags = flags.iter().fold(0, |all, (set, flag)| if *set { all | flag } else { all });
        out.extend(flags.to_le_bytes());
        out.extend(self.floor.to_le_bytes());
        out.extend(self.generation.to_le_bytes());
        out.extend(self.directory_id.to_le_bytes());
        out.extend(self.dropped_through_ms.to_le_bytes());
        out.extend(self.interrupted.to_le_bytes());
        out.extend(self.segments.to_le_bytes());
        out.extend(self.digest.to_le_bytes());
        out.extend(self.journal_bytes.to_le_bytes());
        out.extend(self.epoch.to_le_bytes());
        out.extend([0; RESERVED_BYTES]);
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Result<Self, FormatError> {
        let (checked, stored) = bytes.split_last_chunk::<4>().ok_or(FormatError::Short)?;
        let mut fields = Fields(checked);
        if fields.array::<{ MAGIC.len() }>()? != MAGIC {
            return Err(FormatError::Signature);
        }
        if crc32fast::hash(checked) != u32::from_le_bytes(*stored) {
            return Err(FormatError::Checksum);
        }
        let version = fields.u16()?;
        let flags = fields.u16()?;
        let meta = Self {
            clean: flags & FLAG_CLEAN != 0,
            copy: flags & FLAG_COPY != 0,
            incomplete: flags & FLAG_INCOMPLETE != 0,
            floor: fields.u32()?,
            generation: fields.u64()?,
            directory_id: fields.u64()?,
            dropped_through_ms: fields.u64()?,
            interrupted: fields.u64()?,
            segments: fields.u64()?,
            digest: fields.u64()?,
            journal_bytes: fields.u64()?,
            epoch: fields.u32()?,
        };
        let reserved = fields.array::<RESERVED_BYTES>()?;
        let known = FLAG_CLEAN | FLAG_COPY | FLAG_INCOMPLETE;
        if version != VERSION || flags & !known != 0 || reserved != [0; RESERVED_BYTES] {
            return Err(FormatError::Newer(version));
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Meta {
        Meta {
            clean: true,
            copy: true,
            incomplete: true,
            floor: 9,
            generation: 1 << 33,
            directory_id: 2,
            dropped_through_ms: 3,
            interrupted: 5,
            segments: 6,
            digest: 7,
            journal_bytes: 8,
            epoch: 9,
        }
    }

    #[test]
    fn a_slot_reads_back_and_every_flipped_bit_is_caught() {
        let bytes: [u8; Meta::BYTES] = sample().to_bytes().try_into().unwrap();
        assert_eq!(Meta::from_bytes(&bytes), Ok(sample()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::from_bytes(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn newer_formats_are_told_from_damage() {
        for (at, value) in [(8, 2), (10, 8), (76, 1)] {
            let mut bytes: [u8; Meta::BYTES] = sample().to_bytes().try_into().unwrap();
            bytes[at] = value;
            let checksum = crc32fast::hash(&bytes[..124]).to_le_bytes();
            bytes[124..].copy_from_slice(&checksum);
            assert!(matches!(Meta::from_bytes(&bytes), Err(FormatError::Newer(_))), "byte {at}");
        }
    }
}
