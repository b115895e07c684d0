//! A FUSE server with one file, [`FILE`], in its root: the disk. Speaks as much of the kernel's protocol
//! (`include/uapi/linux/fuse.h`) as a loop device on that file needs.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Mutex;

use rustix::io::Errno;

use crate::disk::{Disk, hold};

pub const FILE: &str = "disk";
const ROOT_NODE: u64 = 1;
const FILE_NODE: u64 = 2;
const MAX_WRITE: usize = 1 << 20;
/// Seconds the kernel may remember attributes: nothing ever changes.
const VALID_S: u64 = 3600;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const FSYNC: u32 = 20;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Every request begins with this many bytes, and a write with 40 more.
const REQUEST_HEADER_BYTES: usize = 40;
const WRITE_HEADER_BYTES: usize = 40;
/// In the answer to `OPEN`: past the page cache, so that the disk sees what the loop device does.
const DIRECT_IO: u32 = 1;

/// Answers until the file system is unmounted.
pub fn serve(mut fuse: &File, disk: &Mutex<Disk>) -> io::Result<()> {
    let mut buffer = vec![0; MAX_WRITE + 4096];
    loop {
        let bytes = match fuse.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // A request was withdrawn while it was being read.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => continue,
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
                return Ok(());
            }
            result => result?,
        };
        let request = &buffer[..bytes];
        if matches!(u32_at(request, 4), FORGET | INTERRUPT | BATCH_FORGET) {
            continue;
        }
        let (error, body) = match answer(request, disk) {
            Ok(body) => (0, body),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let mut reply = u32::try_from(16 + body.len()).map_or(vec![], |n| n.to_le_bytes().to_vec());
        reply.extend(error.to_le_bytes());
        reply.extend(u64_at(request, 8).to_le_bytes());
        reply.extend(body);
        // Nobody waits for the answer to a withdrawn request.
        let _ = fuse.write(&reply);
    }
}

fn answer(request: &[u8], disk: &Mutex<Disk>) -> Result<Vec<u8>, Errno> {
    let (opcode, node) = (u32_at(request, 4), u64_at(request, 16));
    let body = &request[REQUEST_HEADER_BYTES..];
    let mut disk = hold(disk);
    match opcode {
        INIT => {
            let (readahead, max_pages_flag) = (u32_at(body, 8), 1 << 22);
            let mut out = words(&[7, 31, readahead, max_pages_flag]);
            out.extend(words(&[16 | 12 << 16, 1 << 20, 1, 256]));
            out.resize(64, 0);
            Ok(out)
        }
        LOOKUP if body.strip_suffix(&[0]) == Some(FILE.as_bytes()) => {
            let mut out = longs(&[FILE_NODE, 0, VALID_S, VALID_S, 0]);
            out.extend(attributes(FILE_NODE, disk.bytes()));
            Ok(out)
        }
        LOOKUP => Err(Errno::NOENT),
        GETATTR => {
            let mut out = longs(&[VALID_S, 0]);
            out.extend(attributes(node, disk.bytes()));
            Ok(out)
        }
        OPEN => Ok([longs(&[0]), words(&[DIRECT_IO, 0])].concat()),
        READ => Ok(disk.read(u64_at(body, 8), u32_at(body, 16))),
        WRITE => {
            let bytes = u32_at(body, 16);
            disk.write(u64_at(body, 8), &body[WRITE_HEADER_BYTES..])?;
            Ok(words(&[bytes, 0]))
        }
        FSYNC => {
            disk.flush();
            Ok(Vec::new())
        }
        _ => Err(Errno::NOSYS),
    }
}

fn attributes(node: u64, bytes: u64) -> Vec<u8> {
    let (mode, bytes) = if node == ROOT_NODE { (0o40_700, 0) } else { (0o100_600, bytes) };
    let mut out = longs(&[node, bytes, bytes / 512, 0, 0, 0]);
    out.extend(words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]));
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}
