//! The frame header: 32 bytes in front of every entry (section 3 of the specification).

use super::FormatError;

/// First four bytes of every frame.
pub(crate) const SIGNATURE: [u8; 4] = [0xF7, 0x4B, 0x57, 0xE5];

/// What the checksums of one segment's frames start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "the halves are wanted"
    )]
    pub(crate) fn of_nonce(nonce: u64) -> Self {
        Self(nonce as u32 ^ (nonce >> 32) as u32)
    }

    pub(crate) fn to_bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(bytes))
    }

    /// The checksum, of nothing yet, for the frame at `offset`.
    pub(crate) fn hasher(self, offset: u32) -> crc32fast::Hasher {
        crc32fast::Hasher::new_with_initial(self.0 ^ offset)
    }

    /// Checksum of `bytes` for the frame at `offset`.
    pub(crate) fn checksum(self, offset: u32, bytes: &[u8]) -> u32 {
        let mut hasher = self.hasher(offset);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// The flags of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FrameFlags(u16);

impl FrameFlags {
    pub(crate) const CONTINUES: Self = Self(1);
    pub(crate) const HEADER: Self = Self(2);
    pub(crate) const MARK: Self = Self(4);
    pub(crate) const SEAL: Self = Self(8);
    const ALL: u16 = 15;

    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A frame header, in host form. The signature and the header checksum exist only in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) flags: FrameFlags,
    pub(crate) header_bytes: u16,
    pub(crate) content_bytes: u32,
    /// Relative to the segment's base index; of a mark, the number of entries before it.
    pub(crate) index: u32,
    /// Milliseconds since the segment's creation.
    pub(crate) timestamp: u32,
    pub(crate) watermark: u32,
    pub(crate) payload_checksum: u32,
}

impl FrameHeader {
    pub(crate) const BYTES: usize = 32;
    /// [`Self::BYTES`] as the type of offsets.
    pub(crate) const BYTES_U32: u32 = 32;

    pub(crate) fn is_mark(&self) -> bool {
        self.flags.has(FrameFlags::MARK)
    }

    /// Bytes of the entry behind the frame header.
    pub(crate) fn payload_bytes(&self) -> u64 {
        u64::from(self.header_bytes).saturating_add(u64::from(self.content_bytes))
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame_bytes(&self) -> u64 {
        self.payload_bytes().saturating_add(u64::from(Self::BYTES_U32))
    }

    /// The bytes of this header for a frame at `offset`.
    pub(crate) fn to_bytes(self, seed: Seed, offset: u32) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..4].copy_from_slice(&SIGNATURE);
        out[4..6].copy_from_slice(&self.flags.0.to_le_bytes());
        out[6..8].copy_from_slice(&self.header_bytes.to_le_bytes());
        out[8..12].copy_from_slice(&self.content_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.index.to_le_bytes());
        out[16..20].copy_from_slice(&self.timestamp.to_le_bytes());
        out[20..24].copy_from_slice(&self.watermark.to_le_bytes());
        out[24..28].copy_from_slice(&self.payload_checksum.to_le_bytes());
        let checksum = seed.checksum(offset, &out[..28]);
        out[28..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// The header checksum in the bytes of a frame header.
    pub(crate) fn checksum_in(bytes: &[u8; Self::BYTES]) -> u32 {
        let [.., k0, k1, k2, k3] = *bytes;
        u32::from_le_bytes([k0, k1, k2, k3])
    }

    /// Reads the header of a frame at `offset`. `Ok` means: this is a frame header that was written
    /// to this offset of this segment.
    #[inline]
    pub(crate) fn from_bytes(
        bytes: &[u8; Self::BYTES],
        seed: Seed,
        offset: u32,
    ) -> Result<Self, FormatError> {
        if bytes[..4] != SIGNATURE {
            return Err(FormatError::Signature);
        }
        #[rustfmt::skip]
        let [_, _, _, _, f0, f1, h0, h1, c0, c1, c2, c3, i0, i1, i2, i3, t0, t1, t2, t3,
            w0, w1, w2, w3, p0, p1, p2, p3, k0, k1, k2, k3] = *bytes;
        if seed.checksum(offset, &bytes[..28]) != u32::from_le_bytes([k0, k1, k2, k3]) {
            return Err(FormatError::Checksum);
        }
        let header = Self {
            flags: FrameFlags(u16::from_le_bytes([f0, f1])),
            header_bytes: u16::from_le_bytes([h0, h1]),
            content_bytes: u32::from_le_bytes([c0, c1, c2, c3]),
            index: u32::from_le_bytes([i0, i1, i2, i3]),
            timestamp: u32::from_le_bytes([t0, t1, t2, t3]),
            watermark: u32::from_le_bytes([w0, w1, w2, w3]),
            payload_checksum: u32::from_le_bytes([p0, p1, p2, p3]),
        };
        let flags = header.flags;
        let stray_header = header.header_bytes != 0 && !flags.has(FrameFlags::HEADER);
        let stray_payload = header.is_mark() && header.payload_bytes() != 0;
        let stray_seal = flags.has(FrameFlags::SEAL) && !header.is_mark();
        if flags.0 & !FrameFlags::ALL != 0 || stray_header || stray_payload || stray_seal {
            return Err(FormatError::Field);
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed(0x1234_5678);

    fn sample() -> FrameHeader {
        FrameHeader {
            flags: FrameFlags::HEADER.with(FrameFlags::CONTINUES),
            header_bytes: 7,
            content_bytes: 100,
            index: 3,
            timestamp: 5000,
            watermark: 640,
            payload_checksum: 0xDEAD_BEEF,
        }
    }

    #[test]
    fn a_header_reads_back_where_it_was_written_and_nowhere_else() {
        let bytes = sample().to_bytes(SEED, 654);
        assert_eq!(FrameHeader::from_bytes(&bytes, SEED, 654), Ok(sample()));
        for offset in [0, 653, 655, 654 + 4096, u32::MAX] {
            let read = FrameHeader::from_bytes(&bytes, SEED, offset);
            assert_eq!(read, Err(FormatError::Checksum), "at {offset}");
        }
        let read = FrameHeader::from_bytes(&bytes, Seed::of_nonce(1), 654);
        assert_eq!(read, Err(FormatError::Checksum));
    }

    #[test]
    fn every_flipped_bit_is_caught() {
        let good = sample().to_bytes(SEED, 654);
        for bit in 0..good.len() * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::from_bytes(&bytes, SEED, 654).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn fields_no_writer_produces_are_refused() {
        let refuse = |edit: fn(&mut FrameHeader)| {
            let mut header = sample();
            edit(&mut header);
            let bytes = header.to_bytes(SEED, 0);
            assert_eq!(FrameHeader::from_bytes(&bytes, SEED, 0), Err(FormatError::Field));
        };
        refuse(|h| h.flags = FrameFlags(16));
        refuse(|h| h.flags = FrameFlags(16).with(FrameFlags::HEADER));
        refuse(|h| h.flags = FrameFlags::default());
        refuse(|h| h.flags = FrameFlags::SEAL.with(FrameFlags::HEADER));
        refuse(|h| h.flags = FrameFlags::MARK.with(FrameFlags::HEADER));
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        assert_eq!(FrameFlags::HEADER.with(FrameFlags(3)), FrameFlags(3));
        assert_eq!(Seed::of_nonce(0x0F0F_0001_FF00_0001), Seed(0xF00F_0000));
        let bytes = sample().to_bytes(Seed(0), 0);
        assert_eq!(bytes[..4], [0xF7, b'K', b'W', 0xE5]);
        assert_eq!(bytes[4..12], [3, 0, 7, 0, 100, 0, 0, 0]);
        assert_eq!(bytes[12..20], [3, 0, 0, 0, 0x88, 0x13, 0, 0]);
        assert_eq!(bytes[20..28], [0x80, 2, 0, 0, 0xEF, 0xBE, 0xAD, 0xDE]);
        assert_eq!(bytes[28..], crc32fast::hash(&bytes[..28]).to_le_bytes());
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
        let header = FrameHeader::from_bytes(&bytes, Seed(0), 0).unwrap();
        assert_eq!(header.frame_bytes(), 139);
    }
}
