//! For fuzzing: what a parser makes of any bytes, as its writer writes it again.

use super::{FileHeader, FrameHeader, Meta, Seed, SegmentName, find_header};

/// The header in the first bytes of a file, and its copy.
pub fn file_header(file: &[u8]) -> Option<Vec<u8>> {
    find_header(file, |_| true).ok().as_ref().map(FileHeader::to_bytes)
}

/// The frame header at this offset of a segment with this nonce.
pub fn frame_header(bytes: &[u8; 32], nonce: u64, offset: u32) -> Option<[u8; 32]> {
    let seed = Seed::of_nonce(nonce);
    FrameHeader::from_bytes(bytes, seed, offset).ok().map(|header| header.to_bytes(seed, offset))
}

/// A slot of `META`.
pub fn meta(slot: &[u8; 128]) -> Option<Vec<u8>> {
    Meta::from_bytes(slot).ok().as_ref().map(Meta::to_bytes)
}

/// The name of a segment file.
pub fn segment_name(name: &str) -> Option<String> {
    SegmentName::parse(name).as_ref().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{FrameFlags, key_hash, label};

    /// What the fuzzer compares is not nothing.
    #[test]
    fn what_a_writer_wrote_is_written_again() {
        let header = FileHeader {
            removed: true,
            nonce: 1,
            directory_id: 2,
            key_hash: 3,
            sequence: 4,
            previous_sequence: 1,
            previous_end: 5,
            base_index: 6,
            created_ms: 7,
            expiration_ms: 8,
            limits: None,
            metadata: Box::default(),
            key: Box::from(*b"key"),
        };
        let file = header.to_bytes();
        assert_eq!(file_header(&file), Some(file));

        let frame = FrameHeader {
            flags: FrameFlags::MARK.with(FrameFlags::SEAL),
            header_bytes: 0,
            content_bytes: 0,
            index: 1,
            timestamp: 2,
            watermark: 3,
            payload_checksum: 4,
        };
        let bytes = frame.to_bytes(Seed::of_nonce(9), 700);
        assert_eq!(frame_header(&bytes, 9, 700), Some(bytes));
        assert_eq!(frame_header(&bytes, 8, 700), None);

        let slot = Meta { clean: true, floor: 3, ..Meta::default() }.to_bytes();
        assert_eq!(meta(slot.first_chunk().unwrap()), Some(slot));

        let label = label(b"key");
        let name = SegmentName { label: &label, key_hash: key_hash(b"key"), sequence: 4 };
        let name = name.to_string();
        assert_eq!(segment_name(&name), Some(name));
        assert_eq!(segment_name("LOCK"), None);
    }
}
