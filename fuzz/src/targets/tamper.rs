//! Bytes as what befalls a directory: accidents, and files that somebody made on purpose.

use keywal::fs::sim::Image;

use super::Input;
use crate::common::forge::{self, Frame, RECORD_SIGNATURE, SIGNATURE};

const MAX_EDITS: usize = 64;
const MAX_FILES: usize = 32;
const MAX_FILE_BYTES: usize = 64 << 10;

/// Names of files that are not there yet; the last ones are none of ours.
const NAMES: [&str; 9] = [
    "META",
    "JOURNAL",
    "k-af63e64c8601fd8a-0001.log",
    "k-af63e64c8601fd8a-0009.log",
    "x-af63e64c8601fd8a-0002.log",
    "_-cbf29ce484222325-4294967294.log",
    "k-af63e64c8601fd8a-4294967295.log",
    "k-af63e64c8601fd8a-00001.log",
    "..-af63e64c8601fd8a-0001.log",
];

/// Does to the directory what the input says. Returns whether checksums were made for it, so that what
/// is read need not be what was written.
pub fn tamper(image: &mut Image, mut input: Input) -> bool {
    let mut forged = false;
    for _ in 0..MAX_EDITS {
        if input.is_empty() {
            break;
        }
        let names: Vec<String> = image.files().map(|(name, _)| name.to_owned()).collect();
        let what = input.byte();
        let number = usize::from(input.byte());
        let Some(name) = names.get(number % names.len().max(1)).filter(|_| what % 16 < 12) else {
            let count = usize::from(input.short());
            let name = NAMES[number % NAMES.len()];
            if names.len() < MAX_FILES {
                image.set(name, input.bytes(count));
            }
            // The bytes may be those of a whole, sound file.
            forged = true;
            continue;
        };
        let mut file = image.get(name).unwrap_or_default().to_vec();
        match what % 16 {
            0 => drop(image.remove(name)),
            1 => image.set(&names[usize::from(input.byte()) % names.len()], file),
            2 => image.set(&renamed(name, input.short()), file),
            _ => {
                forged |= edit(&mut file, what % 16, &mut input);
                if what >= 128 {
                    if name == "JOURNAL" {
                        forge::reseal_journal(&mut file, directory_id(image));
                    } else {
                        forge::reseal(name, &mut file);
                    }
                    forged = true;
                }
                file.truncate(MAX_FILE_BYTES);
                image.set(name, file);
            }
        }
    }
    forged
}

/// Changes a file. Returns whether it now has a frame that nobody wrote.
fn edit(file: &mut Vec<u8>, what: u8, input: &mut Input) -> bool {
    let place = place(file, input);
    match what {
        3 => file.truncate(place),
        4 | 5 => {
            let count = usize::from(input.byte());
            for (to, byte) in file.iter_mut().skip(place).zip(input.bytes(count)) {
                *to ^= byte;
            }
        }
        6 | 7 => {
            let word = input.word().to_le_bytes();
            file.iter_mut().skip(place).zip(word).for_each(|(to, byte)| *to = byte);
        }
        8 => {
            let noise = vec![input.byte(); usize::from(input.short())];
            drop(file.splice(place..place, noise));
        }
        9 => {
            let end = file.len().min(place + usize::from(input.short()));
            let moved = file[place..end].to_vec();
            let to = self::place(file, input);
            drop(file.splice(to..to, moved));
        }
        _ => {
            let frame = Frame {
                flags: input.byte().into(),
                header_bytes: input.byte().into(),
                content_bytes: input.word(),
                index: input.byte().into(),
                timestamp: input.byte().into(),
                watermark: input.short().into(),
            };
            let count = usize::from(input.byte());
            frame.append_to(file, input.bytes(count));
            return true;
        }
    }
    false
}

fn directory_id(image: &Image) -> u64 {
    let id = image.get("META").and_then(|meta| meta.get(24..32));
    id.map_or(0, |id| u64::from_le_bytes(id.try_into().unwrap()))
}

/// A place in a file: counted from its start, from its end, from one of its frames or records.
fn place(file: &[u8], input: &mut Input) -> usize {
    let (from, distance) = (input.byte(), usize::from(input.byte()));
    let place = match from % 4 {
        0 => distance,
        1 => usize::from(from / 4) * 256 + distance,
        2 => file.len().saturating_sub(distance),
        _ => {
            let starts = file.windows(SIGNATURE.len()).enumerate();
            let starts =
                starts.filter(|(_, bytes)| [&SIGNATURE[..], &RECORD_SIGNATURE].contains(bytes));
            starts.map(|(at, _)| at).nth(usize::from(from / 4)).unwrap_or(0) + distance
        }
    };
    place.min(file.len())
}

/// The name with another sequence.
fn renamed(name: &str, sequence: u16) -> String {
    let stem = name.rsplit_once('-').map_or(name, |(stem, _)| stem);
    format!("{stem}-{sequence:04}.log")
}
