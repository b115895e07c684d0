//! A record of the journal: 64 bytes of header, then what goes to a segment (section 7 of the
//! specification).

use super::{Fields, FileHeader, FormatError, FrameHeader, Seed, SegmentId};

const SIGNATURE: [u8; 4] = *b"KWJR";
/// Records start at multiples of this.
const ALIGN_BYTES: u64 = 8;
/// The flag that says that the next record belongs to the same batch.
const CONTINUES: u16 = 1;

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// Frames of a segment, in a row.
    Frames,
    /// The header of a segment file and its copy: the segment was created.
    Created,
    /// Segments of the key up to this one were dropped. No bytes.
    Dropped,
    /// Only that everything before `tail` has left the journal. No bytes.
    Nothing,
}

impl Body {
    fn number(self) -> u16 {
        match self {
            Self::Frames => 1,
            Self::Created => 2,
            Self::Dropped => 3,
            Self::Nothing => 4,
        }
    }

    fn from_number(number: u16) -> Result<Self, FormatError> {
        [Self::Frames, Self::Created, Self::Dropped, Self::Nothing]
            .into_iter()
            .find(|body| body.number() == number)
            .ok_or(FormatError::Field)
    }
}

/// What a record says, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) body: Body,
    pub(crate) continues: bool,
    pub(crate) segment: SegmentId,
    /// Where the bytes go in the segment's file.
    pub(crate) offset: u32,
    /// The seed of the segment's checksums.
    pub(crate) seed: Seed,
    pub(crate) body_bytes: u32,
    /// See [`Record::check`].
    pub(crate) body_checksum: u32,
}

/// A record's header: the record, and where it stands in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) record: Record,
    /// Bytes written to the journal before this record since it was begun.
    pub(crate) position: u64,
    /// How often the directory has been opened.
    pub(crate) epoch: u32,
    /// How far back the segment's record before this one starts; 0: there is none.
    pub(crate) back: u32,
    /// How far back the oldest record starts that has not left the journal.
    pub(crate) tail_back: u32,
    /// How far back everything was known durable; the greatest value: nothing was.
    pub(crate) durable_back: u32,
}

impl Record {
    /// Where the bytes end in the segment's file.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset).saturating_add(u64::from(self.body_bytes))
    }

    /// Bytes of the whole record in the journal.
    pub(crate) fn bytes(&self) -> u64 {
        Self::bytes_for(u64::from(self.body_bytes))
    }

    /// Bytes of a record with so many bytes behind its header.
    pub(crate) fn bytes_for(body_bytes: u64) -> u64 {
        body_bytes
            .saturating_add(RecordHeader::BYTES_U64)
            .checked_next_multiple_of(ALIGN_BYTES)
            .unwrap_or(u64::MAX)
    }

    /// Whether `body` is what was put behind the header.
    pub(crate) fn check(&self, body: &[u8]) -> bool {
        match self.body {
            Body::Created => FileHeader::from_bytes(body).is_ok_and(|header| {
                Self::header_area_checksum(body) == self.body_checksum && header.to_bytes() == body
            }),
            Body::Frames => self.frames_checksum(body) == Some(self.body_checksum),
            Body::Dropped | Body::Nothing => body.is_empty(),
        }
    }

    /// The checksum of a file header, as its copy at the end of the area has it. (One of the whole area
    /// would be the same whatever it holds, as that ends with its own checksum.)
    pub(crate) fn header_area_checksum(area: &[u8]) -> u32 {
        area.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    /// The wrapping sum of the header checksums of all frames in `body`, if they are valid.
    fn frames_checksum(&self, mut body: &[u8]) -> Option<u32> {
        let mut sum: u32 = 0;
        let mut offset = self.offset;
        while !body.is_empty() {
            let (bytes, rest) = body.split_first_chunk::<{ FrameHeader::BYTES }>()?;
            let header = FrameHeader::from_bytes(bytes, self.seed, offset).ok()?;
            let payload_bytes = usize::try_from(header.payload_bytes()).ok()?;
            let (payload, rest) = rest.split_at_checked(payload_bytes)?;
            if self.seed.checksum(offset, payload) != header.payload_checksum {
                return None;
            }
            sum = sum.wrapping_add(FrameHeader::checksum_in(bytes));
            offset = offset.checked_add(u32::try_from(header.frame_bytes()).ok()?)?;
            body = rest;
        }
        Some(sum)
    }
}

impl RecordHeader {
    pub(crate) const BYTES: usize = 64;
    /// [`Self::BYTES`] as the type of positions.
    pub(crate) const BYTES_U64: u64 = 64;
    /// Records start at multiples of this.
    pub(crate) const ALIGN: usize = 8;

    /// `key` is the directory's number.
    pub(crate) fn to_bytes(self, key: u64) -> [u8; Self::BYTES] {
        let record = &self.record;
        let mut out = [0; Self::BYTES];
        out[..4].copy_from_slice(&SIGNATURE);
        out[8..16].copy_from_slice(&self.position.to_le_bytes());
        out[16..24].copy_from_slice(&record.segment.key_hash.to_le_bytes());
        out[24..28].copy_from_slice(&record.segment.sequence.to_le_bytes());
        out[28..32].copy_from_slice(&record.offset.to_le_bytes());
        out[32..36].copy_from_slice(&record.seed.to_bytes());
        out[36..40].copy_from_slice(&record.body_bytes.to_le_bytes());
        out[40..44].copy_from_slice(&record.body_checksum.to_le_bytes());
        out[44..48].copy_from_slice(&self.back.to_le_bytes());
        out[48..52].copy_from_slice(&self.tail_back.to_le_bytes());
        out[52..56].copy_from_slice(&self.durable_back.to_le_bytes());
        out[56..60].copy_from_slice(&self.epoch.to_le_bytes());
        out[60..62].copy_from_slice(&record.body.number().to_le_bytes());
        let flags = if record.continues { CONTINUES } else { 0 };
        out[62..].copy_from_slice(&flags.to_le_bytes());
        let checksum = Seed::of_nonce(key).checksum(0, &out[8..]);
        out[4..8].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a header. `Ok` means: a record of this directory's journal once started like this.
    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES], key: u64) -> Result<Self, FormatError> {
        let mut fields = Fields(bytes);
        if fields.array::<4>()? != SIGNATURE {
            return Err(FormatError::Signature);
        }
        if fields.u32()? != Seed::of_nonce(key).checksum(0, &bytes[8..]) {
            return Err(FormatError::Checksum);
        }
        let position = fields.u64()?;
        let segment = SegmentId { key_hash: fields.u64()?, sequence: fields.u32()? };
        let offset = fields.u32()?;
        let seed = Seed::from_bytes(fields.array()?);
        let (body_bytes, body_checksum) = (fields.u32()?, fields.u32()?);
        let (back, tail_back) = (fields.u32()?, fields.u32()?);
        let (durable_back, epoch) = (fields.u32()?, fields.u32()?);
        let body = Body::from_number(fields.u16()?)?;
        let flags = fields.u16()?;
        if flags & !CONTINUES != 0 || u64::from(tail_back) > position {
            return Err(FormatError::Field);
        }
        let continues = flags & CONTINUES != 0;
        let record = Record { body, continues, segment, offset, seed, body_bytes, body_checksum };
        Ok(Self { record, position, epoch, back, tail_back, durable_back })
    }

    /// Whether bytes that are no header look as if a record had been begun at this position: the signature is right,
    /// or position and epoch are. (One of an older epoch may have stood there, too, and be written over in part. And
    /// position 0 says nothing: older bodies have zeros.)
    pub(crate) fn was_begun(bytes: &[u8; Self::BYTES], position: u64, epoch: u32) -> bool {
        let (there, then) = (position.to_le_bytes(), epoch.to_le_bytes());
        bytes[..4] == SIGNATURE || position > 0 && bytes[8..16] == there && bytes[56..60] == then
    }

    /// Where the next record starts.
    pub(crate) fn next(&self) -> u64 {
        self.position.saturating_add(self.record.bytes())
    }

    /// Everything before this had left the journal when the record was written.
    pub(crate) fn tail(&self) -> u64 {
        self.position.saturating_sub(u64::from(self.tail_back))
    }

    /// Everything before this was known durable when the record was written.
    pub(crate) fn durable(&self) -> u64 {
        if self.durable_back == u32::MAX {
            0
        } else {
            self.position.saturating_sub(u64::from(self.durable_back))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RecordHeader {
        RecordHeader {
            record: Record {
                body: Body::Frames,
                continues: true,
                segment: SegmentId { key_hash: 1 << 60, sequence: 7 },
                offset: 640,
                seed: Seed::of_nonce(99),
                body_bytes: 33,
                body_checksum: 5,
            },
            position: 1 << 33,
            epoch: 3,
            back: 104,
            tail_back: 208,
            durable_back: 64,
        }
    }

    #[test]
    fn a_header_reads_back_and_every_flipped_bit_is_caught() {
        let bytes = sample().to_bytes(11);
        assert_eq!(RecordHeader::from_bytes(&bytes, 11), Ok(sample()));
        assert!(RecordHeader::from_bytes(&bytes, 12).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordHeader::from_bytes(&flipped, 11).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn positions_are_told_from_distances() {
        let header = sample();
        assert_eq!(header.record.bytes(), 104);
        assert_eq!(header.next(), (1 << 33) + 104);
        assert_eq!(header.tail(), (1 << 33) - 208);
        assert_eq!(header.durable(), (1 << 33) - 64);
        assert_eq!(RecordHeader { durable_back: u32::MAX, ..header }.durable(), 0);
    }

    #[test]
    fn what_an_older_epoch_has_left_is_no_record_that_was_begun() {
        let header = sample();
        let (position, epoch) = (header.position, header.epoch);
        let mut bytes = header.to_bytes(11);
        // The tail of a record before it.
        bytes[..8].copy_from_slice(b"old body");
        assert!(RecordHeader::was_begun(&bytes, position, epoch));
        assert!(!RecordHeader::was_begun(&bytes, position, epoch + 1));
        assert!(!RecordHeader::was_begun(&bytes, position + 8, epoch));
        // The first frame of an entry without bytes, at the start of the journal.
        let mut bytes = [0; RecordHeader::BYTES];
        bytes[..4].copy_from_slice(&[0xF7, 0x4B, 0x57, 0xE5]);
        bytes[56] = 1;
        assert!(!RecordHeader::was_begun(&bytes, 0, 1));
        bytes[..4].copy_from_slice(&SIGNATURE);
        assert!(RecordHeader::was_begun(&bytes, 0, 1));
    }

    #[test]
    fn frames_are_checked_with_their_payloads() {
        let seed = Seed::of_nonce(5);
        let frame = |offset: u32, content: &[u8]| {
            let header = FrameHeader {
                flags: super::super::FrameFlags::default(),
                header_bytes: 0,
                content_bytes: u32::try_from(content.len()).unwrap(),
                index: 0,
                timestamp: 0,
                watermark: 0,
                payload_checksum: seed.checksum(offset, content),
            };
            [&header.to_bytes(seed, offset)[..], content].concat()
        };
        let body = [frame(100, b"first"), frame(137, b"second")].concat();
        let sum = [0, 37].iter().fold(0_u32, |sum, at| {
            sum.wrapping_add(FrameHeader::checksum_in(body[*at..].first_chunk().unwrap()))
        });
        let body_bytes = u32::try_from(body.len()).unwrap();
        let record =
            Record { offset: 100, seed, body_bytes, body_checksum: sum, ..sample().record };
        assert!(record.check(&body));
        for bit in 0..body.len() * 8 {
            let mut flipped = body.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!record.check(&flipped), "bit {bit}");
        }
        assert!(!Record { offset: 101, ..record }.check(&body));
    }
}
