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
