//! What is the least that a machine can do for each call? Raw system calls, with a checksum over the
//! same bytes, as subjects like any other.

pub mod buffer;
mod files;
mod group_sync;
pub mod journal;
pub mod mapped;
pub mod write;

use crate::subject::{Content, Failure, Result};

/// Length and checksum, the least that an entry can be read back with.
const HEADER_BYTES: usize = 8;

/// Where an entry is: key, offset, length of the frame.
#[derive(Clone, Copy)]
pub struct Place {
    key: usize,
    offset: u64,
    frame_bytes: usize,
}

fn encode(frame: &mut Vec<u8>, content: &[u8]) {
    let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&bytes);
    checksum.update(content);
    frame.extend_from_slice(&bytes);
    frame.extend_from_slice(&checksum.finalize().to_le_bytes());
    frame.extend_from_slice(content);
}

fn encode_all(frame: &mut Vec<u8>, contents: &[Content]) {
    for content in contents {
        encode(frame, content);
    }
}

/// The content of the frame that `bytes` start with, if all of it is there.
fn decode(bytes: &[u8]) -> Result<Option<&[u8]>> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let [a, b, c, d, stored @ ..] = *header;
    let Some(content) = rest.get(..u32::from_le_bytes([a, b, c, d]) as usize) else {
        return Ok(None);
    };
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&[a, b, c, d]);
    checksum.update(content);
    if checksum.finalize() == u32::from_le_bytes(stored) {
        Ok(Some(content))
    } else {
        Err(Failure::Failed("a checksum does not match".into()))
    }
}
