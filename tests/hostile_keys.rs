//! Does any key reach a path, another key's entries, or a file outside the directory?

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::COLLIDING;
use keywal::fs::sim::SimDir;
use keywal::fs::{Dir, File, Lock, OpenMode};
use keywal::{EntryRef, Wal, WalError, WalOptions};

/// Each with a neighbour that some file system, program or careless reader takes for the same.
fn keys() -> Vec<Vec<u8>> {
    let short: [&[u8]; 34] = [
        b"",
        b".",
        b"..",
        b"../../etc/passwd",
        b"../log/META",
        b"/abs",
        b"C:\\abs",
        b"\\\\host\\share",
        b"a/b",
        b"a\0b",
        b"a\0",
        b"a\nb",
        b"CON",
        b"con",
        b"NUL.txt",
        b"a",
        b"A",
        b"a ",
        b"a.",
        b".a",
        b"-",
        b"-rf",
        b"%2e%2e",
        b"$HOME",
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        "\u{202e}gol".as_bytes(),
        b"\xff",
        b"\xff\xfe",
        b"LOCK",
        b"META",
        // The name of a file of the key "a".
        b"a-af63dc4c8601ec8c-0001.log",
        COLLIDING[0],
        COLLIDING[1],
    ];
    // Labels of these are the same, names of 255 bytes the longest a file can have.
    let long = [32, 33, 34, 255, 256, 65_534, 65_535].map(|length| vec![b'k'; length]);
    short.map(<[u8]>::to_vec).into_iter().chain(long).collect()
}

fn content(number: usize, round: usize) -> String {
    format!("key {number}, round {round}")
}

/// What every key has to hold: so many rounds, or nothing at all.
fn check(wal: &Wal, keys: &[Vec<u8>], refs: &[Vec<EntryRef>]) {
    for (number, key) in keys.iter().enumerate() {
        let wanted: Vec<_> = (0..refs[number].len()).map(|round| content(number, round)).collect();
        let name = key.escape_ascii();
        let found: Result<Vec<_>, _> = wal.enumerate_records(key).unwrap().collect();
        assert_eq!(found.unwrap(), wanted, "{name}");
        for (round, reference) in refs[number].iter().enumerate() {
            assert_eq!(wal.read_entry_at(*reference).unwrap(), wanted[round], "{name}");
            let got = wal.get(key, u64::try_from(round).unwrap()).unwrap().unwrap();
            assert_eq!((got.content, got.reference), (wanted[round].clone().into(), *reference));
        }
    }
    let mut listed: Vec<_> =
        wal.enumerate_keys().unwrap().map(|key| key.as_bytes().to_vec()).collect();
    listed.sort();
    let all = keys.iter().zip(refs).filter(|(_, refs)| !refs.is_empty());
    let mut wanted: Vec<_> = all.map(|(key, _)| key.clone()).collect();
    wanted.sort();
    assert_eq!(listed, wanted);
}

/// Every call with every key; `open` opens the directory again.
fn every_call(open: &dyn Fn() -> Wal) {
    let keys = keys();
    let mut refs = vec![Vec::new(); keys.len()];
    let mut wal = open();
    for round in 0..3 {
        for (number, key) in keys.iter().enumerate() {
            let durable = number % 2 == 0;
            refs[number]
                .push(wal.append_entry(key, None, content(number, round), durable).unwrap());
        }
        check(&wal, &keys, &refs);
        if round == 1 {
            wal.shutdown().unwrap();
        }
        drop(wal);
        wal = open();
        assert!(wal.recovery_report().damaged.is_empty(), "{:?}", wal.recovery_report());
        check(&wal, &keys, &refs);
    }
    for key in [vec![b'k'; 65_536], vec![0; 1 << 20]] {
        let refused = wal.append_entry(&key, None, "x", false);
        assert!(matches!(refused, Err(WalError::KeyTooLong { bytes }) if bytes == key.len()));
        assert!(matches!(wal.entries(&key), Err(WalError::KeyTooLong { .. })));
        assert!(matches!(wal.remove_key(&key), Err(WalError::KeyTooLong { .. })));
    }
    for (number, key) in keys.iter().enumerate() {
        wal.remove_key(key).unwrap();
        for reference in refs[number].drain(..) {
            let gone = wal.read_entry_at(reference);
            assert!(matches!(gone, Err(WalError::Expired | WalError::InvalidRef)), "{gone:?}");
        }
        if number % 8 == 0 {
            drop(wal);
            wal = open();
        }
        check(&wal, &keys, &refs);
    }
    assert_eq!(wal.active_segment_count(), 0);
}

/// Every file below a directory but the log's own, with its content.
fn tree(root: &Path, log: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path != log {
                folders.push(path.clone());
            }
            let bytes = path.is_file().then(|| fs::read(&path).unwrap());
            all.insert(path, bytes);
        }
    }
    all
}

#[test]
fn no_key_leaves_the_directory() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("srv").join("log");
    for decoy in ["etc/passwd", "srv/log.bak", "srv/META", "srv/a", "srv/b", "CON", "abs"] {
        let path = root.path().join(decoy);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("the decoy {decoy}")).unwrap();
    }
    fs::create_dir_all(&log).unwrap();
    let before = tree(root.path(), &log);
    let abs = Path::new("/abs").exists();
    every_call(&|| {
        let wal = Wal::new(&log, WalOptions::default()).unwrap();
        for entry in fs::read_dir(&log).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
            assert!((1..=64).contains(&name.len()) && name.bytes().all(plain), "{name}");
            assert!(!name.starts_with(['.', '-']), "{name}");
        }
        wal
    });
    assert_eq!(tree(root.path(), &log), before);
    assert_eq!(Path::new("/abs").exists(), abs);
}

/// A directory where names are the same that differ in case only, or in how an accent is composed; it
/// keeps each as it was made.
#[derive(Debug)]
struct FoldingDir(SimDir);

fn fold(name: &str) -> String {
    name.to_lowercase().replace("e\u{301}", "\u{e9}")
}

impl FoldingDir {
    /// The name that the file has, if there is one.
    fn made(&self, name: &str) -> io::Result<String> {
        let mut made = name.to_owned();
        self.0.list(&mut |other| {
            let other = other.to_str().unwrap();
            if fold(other) == fold(name) {
                other.clone_into(&mut made);
            }
        })?;
        Ok(made)
    }
}

impl Dir for FoldingDir {
    fn path(&self) -> &Path {
        Dir::path(&self.0)
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.0.lock()
    }

    fn list(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        self.0.list(each)
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        Dir::open(&self.0, &self.made(name)?, mode)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(&self.made(name)?)
    }

    fn sync(&self) -> io::Result<()> {
        Dir::sync(&self.0)
    }

    fn random(&self) -> u64 {
        self.0.random()
    }
}

#[test]
fn no_key_is_taken_for_another_where_names_are_folded() {
    let sim = SimDir::new(1);
    every_call(&|| {
        let dir = FoldingDir(sim.clone());
        Wal::open_in(Arc::new(dir), WalOptions::default()).unwrap()
    });
    // The directory does fold.
    let dir = FoldingDir(SimDir::new(1));
    let create = |name| Dir::open(&dir, name, OpenMode::CreateNew).map(drop);
    create("\u{c9}.LOG").unwrap();
    assert_eq!(create("e\u{301}.log").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
}
