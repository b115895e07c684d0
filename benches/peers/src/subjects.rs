//! Who is measured? The one list of subjects.

mod commitlog;
mod fjall;
mod keywal;
mod mrecordlog;
mod nano_wal_0;
mod nano_wal_1;
mod okaywal;
mod raft_engine;
mod redb;
mod seglog;
mod wal_db;
mod walrus;

use std::path::Path;

use crate::floors::buffer::Buffer;
use crate::floors::journal::Journal;
use crate::floors::mapped::Mapped;
use crate::floors::write::Write;
use crate::subject::{Result, Subject, Survives};
use crate::workloads::{self, Step, Workload};

/// A subject without its type.
pub struct Listed {
    pub name: &'static str,
    pub survives: Survives,
    pub reads_from_memory: bool,
    pub run: fn(&Workload, Step, &Path) -> Result<f64>,
}

const fn listed<S: Subject>() -> Listed {
    Listed {
        name: S::NAME,
        survives: S::SURVIVES,
        reads_from_memory: S::READS_FROM_MEMORY,
        run: workloads::run::<S>,
    }
}

pub const KEYWAL: &str = keywal::Keywal::NAME;
const FLOORS: usize = 5;

/// Floors, keywal, peers.
pub static SUBJECTS: [Listed; FLOORS + 13] = [
    listed::<Write>(),
    listed::<Mapped>(),
    listed::<Buffer>(),
    listed::<Journal<false>>(),
    listed::<Journal<true>>(),
    listed::<keywal::Keywal>(),
    listed::<nano_wal_0::NanoWal0>(),
    listed::<nano_wal_1::NanoWal1>(),
    listed::<seglog::Seglog>(),
    listed::<walrus::Walrus<false>>(),
    listed::<walrus::Walrus<true>>(),
    listed::<raft_engine::RaftEngine>(),
    listed::<wal_db::WalDb>(),
    listed::<commitlog::Commitlog>(),
    listed::<mrecordlog::Mrecordlog>(),
    listed::<okaywal::Okaywal>(),
    listed::<fjall::Fjall>(),
    listed::<redb::Redb>(),
];

/// The peers among the subjects.
pub fn is_peer(subject: usize) -> bool {
    subject > FLOORS
}
