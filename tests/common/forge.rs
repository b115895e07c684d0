//! Files with checksums that are right and everything else as hostile as wanted. Written from the
//! specification in `src/format.rs`.

pub const SIGNATURE: [u8; 4] = [0xF7, 0x4B, 0x57, 0xE5];
pub const FRAME_HEADER_BYTES: usize = 32;
pub const RECORD_SIGNATURE: [u8; 4] = *b"KWJR";
const RECORD_HEADER_BYTES: usize = 64;
const SLOT_BYTES: usize = 128;
const SLOT_OFFSETS: [usize; 2] = [0, 4096];

/// The fields of a frame that a writer chooses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Frame {
    pub flags: u16,
    pub header_bytes: u16,
    pub content_bytes: u32,
    pub index: u32,
    pub timestamp: u32,
    pub watermark: u32,
}

impl Frame {
    /// The frame for the end of this segment. Its lengths need not be those of the payload.
    pub fn append_to(self, segment: &mut Vec<u8>, payload: &[u8]) {
        let at = segment.len();
        segment.extend(SIGNATURE);
        segment.extend(self.flags.to_le_bytes());
        segment.extend(self.header_bytes.to_le_bytes());
        for field in [self.content_bytes, self.index, self.timestamp, self.watermark, 0, 0] {
            segment.extend(field.to_le_bytes());
        }
        segment.extend(payload);
        let seed = seed(segment) ^ as_seed(at);
        put(segment, at + 24, checksum(payload, seed));
        reseal_frame_header(segment, at, seed);
    }
}

/// Puts right the checksums of a file that was tampered with.
pub fn reseal(name: &str, file: &mut [u8]) {
    if name == "META" {
        for at in SLOT_OFFSETS {
            file.get_mut(at..at + SLOT_BYTES).map(reseal_with);
        }
    } else if let Some(frames_start) = reseal_headers(file) {
        let seed = seed(file);
        if let Some(frames) = file.get_mut(frames_start..) {
            reseal_frames(frames, seed, frames_start);
        }
    }
}

/// The same of the journal of the directory with this number: every record that does not go round its end.
pub fn reseal_journal(file: &mut [u8], directory_id: u64) {
    for at in (0..file.len()).step_by(8) {
        let Some((header, body)) = file[at..].split_at_mut_checked(RECORD_HEADER_BYTES) else {
            return;
        };
        if !header.starts_with(&RECORD_SIGNATURE) {
            continue;
        }
        let [offset, seed, body_bytes] = [28, 32, 36].map(|at| word(header, at).unwrap_or(0));
        if let Some(body) = body.get_mut(..body_bytes as usize) {
            let sum = match header[60] {
                1 => reseal_frames(body, seed, offset as usize),
                2 => {
                    reseal_headers(body);
                    body.last_chunk().map_or(0, |copy| u32::from_le_bytes(*copy))
                }
                _ => 0,
            };
            put(header, 40, sum);
        }
        let seed = halves(&directory_id.to_le_bytes(), 0);
        put(header, 4, checksum(&header[8..], seed));
    }
}

/// Header and copy, as far as there are any; returns where the first frame starts.
pub fn reseal_headers(file: &mut [u8]) -> Option<usize> {
    let bytes = usize::try_from(word(file, 12)?).ok().filter(|bytes| *bytes >= 132)?;
    let copy = bytes.next_multiple_of(512);
    for at in [0, copy] {
        reseal_with(file.get_mut(at..at + bytes)?);
    }
    Some(copy + bytes)
}

/// Every frame whose signature is where one is looked for; lengths decide where that is. The first one
/// is meant for this offset. Returns the sum of the checksums of their headers.
fn reseal_frames(frames: &mut [u8], seed: u32, offset: usize) -> u32 {
    let (mut at, mut sum) = (0, 0_u32);
    while let Some(header) = frames.get(at..at + FRAME_HEADER_BYTES) {
        if !header.starts_with(&SIGNATURE) {
            at += 1;
            continue;
        }
        let lengths =
            [u32::from(header[6]) | u32::from(header[7]) << 8, word(header, 8).unwrap_or(0)];
        let payload = at + FRAME_HEADER_BYTES;
        let end = lengths.iter().fold(payload, |end, length| end.saturating_add(*length as usize));
        let seed = seed ^ as_seed(offset.saturating_add(at));
        if let Some(payload) = frames.get(payload..end) {
            put(frames, at + 24, checksum(payload, seed));
        }
        sum = sum.wrapping_add(reseal_frame_header(frames, at, seed));
        at = if end <= frames.len() { end } else { payload };
    }
    sum
}

fn reseal_frame_header(file: &mut [u8], at: usize, seed: u32) -> u32 {
    let sum = checksum(&file[at..at + 28], seed);
    put(file, at + 28, sum);
    sum
}

/// The last four bytes become the checksum of those before.
fn reseal_with(whole: &mut [u8]) {
    let checked = whole.len() - 4;
    put(whole, checked, checksum(&whole[..checked], 0));
}

/// Of the checksums of a segment; those of a frame also take its offset.
fn seed(segment: &[u8]) -> u32 {
    halves(segment, 16)
}

/// Of the number at `at`, both in one.
fn halves(bytes: &[u8], at: usize) -> u32 {
    word(bytes, at).unwrap_or(0) ^ word(bytes, at + 4).unwrap_or(0)
}

fn as_seed(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn checksum(bytes: &[u8], seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn put(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
}
