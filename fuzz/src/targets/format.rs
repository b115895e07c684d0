//! Bytes as a file header, a frame header, a slot of `META` and a file name: what a parser accepts, its
//! writer writes again, bit for bit.

use keywal::rewrite;

use super::Input;
use crate::common::forge::{self, FRAME_HEADER_BYTES, Frame};

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let reseal = input.byte() % 2 == 0;
    match input.byte() % 4 {
        0 => file_header(input.0.to_vec(), reseal),
        1 => frame_header(input, reseal),
        2 => meta(&input.array(), reseal),
        _ => {
            let name = String::from_utf8_lossy(input.0);
            assert!(rewrite::segment_name(&name).is_none_or(|written| written == name));
        }
    }
}

fn file_header(mut file: Vec<u8>, reseal: bool) {
    if reseal {
        forge::reseal_headers(&mut file);
    }
    let Some(written) = rewrite::file_header(&file) else { return };
    let bytes = u32::from_le_bytes(written[12..16].try_into().unwrap()) as usize;
    let (header, copy) = (&written[..bytes], bytes.next_multiple_of(512));
    assert_eq!(header, &written[copy..]);
    assert!(file.starts_with(header) || file[copy..].starts_with(header));
}

fn frame_header(mut input: Input, reseal: bool) {
    // All of a segment that a frame header depends on: the nonce, and its own offset.
    let nonce = input.long();
    let mut segment = [&[0; 16], &nonce.to_le_bytes()[..]].concat();
    segment.resize(segment.len() + usize::from(input.byte()), 0);
    let offset = segment.len();
    if reseal {
        Frame {
            flags: input.short(),
            header_bytes: input.short(),
            content_bytes: input.word(),
            index: input.word(),
            timestamp: input.word(),
            watermark: input.word(),
        }
        .append_to(&mut segment, input.0);
    } else {
        segment.extend(input.array::<FRAME_HEADER_BYTES>());
    }
    let bytes = segment[offset..offset + FRAME_HEADER_BYTES].try_into().unwrap();
    let written = rewrite::frame_header(bytes, nonce, u32::try_from(offset).unwrap());
    assert!(written.is_none_or(|written| written == *bytes));
}

fn meta(slot: &[u8; 128], reseal: bool) {
    let mut slot = *slot;
    if reseal {
        forge::reseal("META", &mut slot);
    }
    assert!(rewrite::meta(&slot).is_none_or(|written| written == slot));
}
