//! What a key has of its own: its retention and its metadata.

use bytes::Bytes;

use super::Wal;
use super::read::check_key;
use crate::error::{Result, WalError};
use crate::format::{Limits, MAX_METADATA_BYTES, key_hash};
use crate::retention::Retention;
use crate::store::Store;
use crate::stream::{Phase, Stream, Writer};

/// What a key is created with; see [`Wal::create_key`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct KeyOptions {
    /// What is kept of it. `None`: what the [`WalOptions`](crate::WalOptions) say.
    pub retention: Option<Retention>,
    /// Bytes of the caller's, stored in each of its segments; at most 65,535.
    pub metadata: Bytes,
}

impl KeyOptions {
    /// Sets [`retention`](Self::retention).
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Sets [`metadata`](Self::metadata).
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Bytes>) -> Self {
        self.metadata = metadata.into();
        self
    }
}

impl Wal {
    /// Creates a key without entries, unless it exists; says whether it did. The key survives power loss
    /// when this returns. Appending to a key that does not exist creates it, too, with nothing of its own.
    ///
    /// # Errors
    /// [`InvalidOptions`](WalError::InvalidOptions) if the metadata are too long or the retention is not
    /// possible: see [`set_retention`](Self::set_retention); else those of a
    /// [`Disk`](crate::Durability::Disk) append. After one, the key may exist.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for the call")]
    pub fn create_key(&self, key: impl AsRef<[u8]>, options: KeyOptions) -> Result<bool> {
        self.store.check_writable()?;
        check_key(key.as_ref())?;
        let limits = self.limits_of(options.retention)?;
        let bytes = options.metadata.len();
        if bytes > MAX_METADATA_BYTES {
            let text =
                format!("metadata of {bytes} bytes; at most {MAX_METADATA_BYTES} are allowed");
            return Err(WalError::InvalidOptions(text));
        }
        self.change(key.as_ref(), |store, stream, writer| {
            stream.create_key(store, writer, limits, &options.metadata)
        })
    }

    /// Gives the key a retention of its own, or, with `None`, takes it back, so that what the
    /// [`WalOptions`](crate::WalOptions) say counts. Creates the key if it does not exist. The change
    /// survives power loss when this returns, and counts from the next [`compact`](Self::compact) on, for
    /// entries that are there, too; one that is on its way drops nothing more of the key. Only
    /// [`remove_key`](Self::remove_key) forgets it.
    ///
    /// The key starts a new segment, which costs as much as one that is full; nothing where the key has this
    /// retention already. Segments are dropped whole, so what shares one with an entry that stays does, too.
    ///
    /// ```
    /// # use keywal::{Retention, Wal, WalOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::new(dir.path(), WalOptions::default())?;
    /// wal.set_retention("audit", Retention::FOREVER)?;
    /// assert_eq!(wal.retention("audit")?, Some(Retention::FOREVER));
    /// wal.set_retention("audit", None)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidOptions`](WalError::InvalidOptions): a limit of 0, or an age that gives windows under a
    /// millisecond; nothing was changed. Else those of a [`Disk`](crate::Durability::Disk) append; after
    /// one, reopening the directory may find the old retention or the new one.
    pub fn set_retention(
        &self,
        key: impl AsRef<[u8]>,
        retention: impl Into<Option<Retention>>,
    ) -> Result<()> {
        self.store.check_writable()?;
        check_key(key.as_ref())?;
        let limits = self.limits_of(retention.into())?;
        // The old segment goes if it is empty.
        let _discarding = self.store.discarding();
        self.change(key.as_ref(), |store, stream, writer| stream.set_limits(store, writer, limits))
    }

    /// The key's own retention; `None` if it has none, or does not exist.
    ///
    /// # Errors
    /// Those of reading the header of its newest segment.
    pub fn retention(&self, key: impl AsRef<[u8]>) -> Result<Option<Retention>> {
        let Some(stream) = self.find(key.as_ref())? else { return Ok(None) };
        let newest = stream.newest(&self.store)?;
        Ok(newest.and_then(|newest| newest.limits.as_ref().map(Retention::of)))
    }

    /// What the key was [created](Self::create_key) with, empty if it was by an append; `None` if it does
    /// not exist.
    ///
    /// # Errors
    /// As [`retention`](Self::retention).
    pub fn key_metadata(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        let Some(stream) = self.find(key.as_ref())? else { return Ok(None) };
        let newest = stream.newest(&self.store)?;
        Ok(newest.map(|newest| Bytes::copy_from_slice(&newest.metadata)))
    }

    fn limits_of(&self, retention: Option<Retention>) -> Result<Option<Limits>> {
        retention.map(|retention| retention.limits(&self.store.options)).transpose()
    }

    /// Changes a key under its writer lock; one that does not exist is created, and forgotten again if
    /// nothing came of it. That the key and the log can be used has been checked.
    pub(super) fn change<T>(
        &self,
        key: &[u8],
        change: impl FnOnce(&Store, &Stream, &mut Writer) -> Result<T>,
    ) -> Result<T> {
        let store = &self.store;
        loop {
            let stream = self.streams.find_or_create(store, key)?;
            let mut writer = stream.writer();
            if writer.phase == Phase::Gone {
                continue;
            }
            let is_new = writer.phase == Phase::Empty;
            let result = store.check_open().and_then(|()| change(store, &stream, &mut writer));
            self.forget_if_empty(&stream, &mut writer);
            // Who waits for a key that does not exist knows nothing but its own hash.
            let hash = if is_new { key_hash(key) } else { stream.hash };
            let watched = store.watch.is_watched(hash);
            drop(writer);
            if watched {
                store.watch.wake(hash);
            }
            return result;
        }
    }
}
