//! Followers of the keys of a run: of each key one of what is visible, and one of what is durable.

use std::sync::Arc;
use std::time::Duration;

use keywal::{Entry, Follow, Wal, WalError};

use super::Check;
use super::ops::Op;
use super::oracle::{KeyModel, index};
use super::run::Run;
use crate::ensure;

/// One follower. It goes on where it was when the log is opened again.
pub struct Follower {
    follow: Option<Follow<Arc<Wal>>>,
    durable_only: bool,
    /// Everything before this was shown, or told to be missing.
    next: u64,
    /// Everything before this was shown, or told to be missing before something that was.
    shown: u64,
    /// Of the key, as in its model.
    life: u32,
}

/// Those of each key.
pub fn of_keys(keys: usize) -> Vec<[Follower; 2]> {
    let new = |durable_only| Follower { follow: None, durable_only, next: 0, shown: 0, life: 0 };
    (0..keys).map(|_| [new(false), new(true)]).collect()
}

impl Run {
    /// Shows the followers what there is after an operation; what is shown as durable counts as acknowledged
    /// from now on. The inner error is one that can be where calls fail.
    pub fn let_follow(&mut self, op: Op) -> Check<Result<(), WalError>> {
        let Some(wal) = self.wal.clone() else { return Ok(Ok(())) };
        let mut result = Ok(());
        for (key, followers) in self.followers.iter_mut().enumerate() {
            let (name, model) = (self.setup.keys[key], &mut self.keys[key]);
            for follower in followers {
                if follower.life != model.life {
                    let existed = self.before[key].used;
                    follower.begin_anew(model.life, existed).map_err(|text| {
                        format!("{op}: a follower of key {key}, which was removed: {text}")
                    })?;
                }
                let kind = if follower.durable_only { "durable " } else { "" };
                let told = follower.catch_up(&wal, name, model);
                let told = told.map_err(|text| format!("a {kind}follower of key {key}: {text}"))?;
                result = result.and(told);
            }
        }
        Ok(result)
    }

    /// Ends all followers, as the log is shut down or the process has died.
    pub fn end_following(&mut self, shut_down: bool) -> Check {
        for follower in self.followers.iter_mut().flatten() {
            let Some(mut follow) = follower.follow.take() else { continue };
            if shut_down {
                let told = follow.try_next();
                ensure!(
                    matches!(told, Err(WalError::Closed)),
                    "a follower after shutdown: {told:?}"
                );
            }
        }
        Ok(())
    }
}

impl Follower {
    /// The key that it followed is gone, and what has its name is another one.
    fn begin_anew(&mut self, life: u32, existed: bool) -> Check {
        // Of a key whose first append failed, it has met nothing that could be gone.
        let existed = existed && self.next > 0;
        (self.life, self.next, self.shown) = (life, 0, 0);
        let Some(mut follow) = self.follow.take() else { return Ok(()) };
        match follow.try_next() {
            Ok(None) if !existed => Ok(()),
            Err(WalError::Expired | WalError::Poisoned { .. }) => Ok(()),
            told => Err(format!("{told:?}")),
        }
    }

    /// Begins where the last one has ended, of a log that may have lost some of it since.
    fn begin(
        &mut self,
        wal: &Arc<Wal>,
        name: &[u8],
        model: &KeyModel,
    ) -> Check<Result<Follow<Arc<Wal>>, WalError>> {
        let lost = self.durable_only && self.shown > model.count() && !model.maybe_removed;
        ensure!(!lost, "shown and not there: next {} of {}", self.shown, model.count());
        self.next = self.next.min(model.count());
        let follow = Follow::new(Arc::clone(wal), name, self.next);
        Ok(follow.map(|follow| if self.durable_only { follow.durable_only() } else { follow }))
    }

    /// Takes all that there is, and compares it.
    fn catch_up(
        &mut self,
        wal: &Arc<Wal>,
        name: &[u8],
        model: &mut KeyModel,
    ) -> Check<Result<(), WalError>> {
        let begun =
            self.follow.take().map_or_else(|| self.begin(wal, name, model), |on| Ok(Ok(on)))?;
        let mut follow = match begun {
            Ok(follow) => follow,
            Err(error) => return Ok(Err(error)),
        };
        let acknowledged = model.durable;
        let told = loop {
            let found = if self.durable_only {
                follow.next_timeout(Duration::ZERO)
            } else {
                follow.try_next()
            };
            match found {
                Ok(Some(entry)) => self.take(&entry, model)?,
                Ok(None) => break Ok(()),
                Err(WalError::Behind { wanted, oldest }) => {
                    let first = model.first.0.max(wanted + 1)..=model.first.1;
                    let right = wanted == self.next && first.contains(&oldest);
                    ensure!(right, "behind at {wanted}, oldest {oldest}, not in {first:?}");
                    self.next = oldest;
                }
                Err(error) => break Err(error),
            }
        };
        let next = follow.next_index();
        match &told {
            // What it could not read, it has given up.
            Err(error) if cannot_read(error) => {
                ensure!((self.next..=model.count()).contains(&next), "{} to {next}", self.next);
                self.next = next;
            }
            _ => ensure!(next == self.next, "at {next} and not {}", self.next),
        }
        let least = if self.durable_only { acknowledged } else { model.count() };
        let complete = matches!(told, Ok(()) | Err(WalError::Poisoned { .. }));
        let missing = complete && self.next < least && !model.maybe_removed;
        ensure!(!missing, "not shown: next {}, {least} there, {told:?}", self.next);
        if told.as_ref().err().is_none_or(cannot_read) {
            self.follow = Some(follow);
        }
        Ok(told)
    }

    fn take(&mut self, entry: &Entry, model: &mut KeyModel) -> Check {
        let at = entry.index;
        ensure!(at == self.next, "index {at} where {} is next", self.next);
        ensure!(at < model.count(), "invented: {at} of {}", model.count());
        let item = &model.items[index(at)];
        let same = entry.header == item.header && entry.content == item.content;
        ensure!(same, "entry {at} is altered: {entry:?}, issued {item:?}");
        let same = item.reference.is_none_or(|reference| reference == entry.reference);
        ensure!(same, "entry {at} is at {:?} and not {:?}", entry.reference, item.reference);
        (self.next, self.shown) = (at + 1, at + 1);
        if self.durable_only {
            model.durable = model.durable.max(self.next);
        }
        Ok(())
    }
}

/// Whether the next call may have what comes next.
fn cannot_read(error: &WalError) -> bool {
    // A read for which there is no space: such a disk is not known, but made here.
    matches!(error, WalError::Io { .. } | WalError::StorageFull { .. })
}
