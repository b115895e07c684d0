//! Giving up what the end of a key's log has lost.

use super::Wal;
use crate::error::Result;
use crate::report::Finding;
use crate::stream::Phase;

impl Wal {
    /// Gives up the end of a key's log that is damaged although it had been stored safely, so that the key
    /// takes appends again; returns what was given up. `None`, and nothing changes, if the end is sound.
    ///
    /// Such a key answers [`Corrupted`](crate::WalError::Corrupted) to appends, because going on would hide
    /// the loss: restore the file from a backup if there is one. This is for when there is none. Nothing is
    /// cut off or written over: a new segment starts behind the last entry that can be read, and takes its
    /// index from there, so entries that were lost and new ones may have the same index. References to lost
    /// entries never meet new ones. Damage before the end is none of its business, since it keeps nobody from
    /// appending, and nor is a key that cannot be told because all of its headers are damaged.
    ///
    /// When it returns, the new segment survives power loss. A crash meanwhile gives up the end, too, or
    /// leaves it as it was.
    ///
    /// # Errors
    /// Those of creating a file: the end is still damaged then. [`Io`](crate::WalError::Io) of a sync: as for
    /// an append, reopening finds out what was kept.
    pub fn accept_loss(&self, key: impl AsRef<[u8]>) -> Result<Option<Finding>> {
        let store = &self.store;
        store.check_writable()?;
        let _discarding = store.discarding();
        let Some(stream) = self.find(key.as_ref())? else { return Ok(None) };
        let mut writer = stream.writer();
        store.check_open()?;
        if writer.phase != Phase::Damaged {
            return Ok(None);
        }
        let Some(newest) = stream.newest(store)? else { return Ok(None) };
        let successor = stream.rotate(store, &mut writer, &newest, store.now_ms())?;
        let lost = store.lost_tails.remove(stream.hash).map(|lost| Finding {
            path: lost.path,
            offset: u64::from(lost.offset),
            bytes: u64::from(lost.bytes),
            what: lost.reason.to_owned(),
        });
        store.make_durable(&successor, successor.extent().end)?;
        Ok(lost)
    }
}
