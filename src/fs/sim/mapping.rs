//! Files as memory.

use std::fmt;
use std::sync::Arc;

use super::{Op, SimDir, write};
use crate::fs::Mapping;

/// A mapped file: each store is an operation of the trace, as a write is, but no call that could fail.
pub(super) struct SimMapping {
    pub(super) dir: SimDir,
    pub(super) inode: usize,
    pub(super) bytes: usize,
}

impl fmt::Debug for SimMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimMapping(#{})", self.inode)
    }
}

impl Mapping for SimMapping {
    fn store(&self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() || offset + bytes.len() > self.bytes {
            return;
        }
        let mut state = self.dir.state();
        let inode = self.inode;
        write(Arc::make_mut(&mut state.inodes[inode].cache), offset, bytes);
        state.trace.push(Op::Write { inode, offset, data: bytes.into() });
    }

    fn load(&self, offset: usize, buffer: &mut [u8]) {
        let state = self.dir.state();
        let cache = &state.inodes[self.inode].cache;
        if let Some(bytes) = cache.get(offset..offset + buffer.len()) {
            buffer.copy_from_slice(bytes);
        }
    }
}
