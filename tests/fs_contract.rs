//! Do the real and the simulated file system keep the same contract, call by call?

use std::io::{self, ErrorKind, IoSlice};

use keywal::fs::sim::SimDir;
use keywal::fs::{Dir, File, OpenMode, OsDir};

/// Runs each case on a fresh directory of both kinds.
macro_rules! contract {
    ($($case:ident)*) => {
        mod real {
            $(#[test]
            fn $case() {
                let temp = tempfile::tempdir().unwrap();
                let open = || super::OsDir::open(&temp.path().join("wal"), 0o700, 0o600).unwrap();
                super::$case(&|| Box::new(open()));
            })*
        }
        mod simulated {
            $(#[test]
            fn $case() {
                let dir = super::SimDir::new(1);
                super::$case(&|| Box::new(dir.clone()));
            })*
        }
    };
}

contract! {
    create_is_exclusive
    open_needs_the_file
    names_are_listed_once
    removed_name_is_free_and_handle_lives_on
    remove_needs_the_file
    reads_end_with_the_file
    sparse_write_reads_zeros
    overwrite_keeps_the_rest
    parts_are_written_in_order
    writing_nothing_changes_nothing
    set_len_cuts_and_extends
    bytes_cut_off_do_not_come_back
    allocate_only_extends
    wild_lengths_are_refused
    handles_share_one_file
    read_handle_cannot_change
    dropping_the_cache_loses_nothing
    sync_changes_nothing_visible
    lock_is_exclusive_until_dropped
    directories_share_one_place
    links_share_one_file
    random_differs
}

/// Opens the one directory of a case, every time it is called.
type Open<'a> = &'a dyn Fn() -> Box<dyn Dir>;

fn create(dir: &dyn Dir, name: &str, content: &[u8]) -> Box<dyn File> {
    let file = dir.open(name, OpenMode::CreateNew).unwrap();
    assert_eq!(put(&*file, content, 0).unwrap(), content.len());
    file
}

fn put(file: &dyn File, content: &[u8], offset: u64) -> io::Result<usize> {
    file.write_at(&[IoSlice::new(content)], offset)
}

/// Up to `bytes` bytes at `offset`.
fn get(file: &dyn File, offset: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0xEE; bytes];
    let read = file.read_at(&mut buffer, offset).unwrap();
    assert!(buffer[read..].iter().all(|byte| *byte == 0xEE), "touched the buffer behind {read}");
    buffer.truncate(read);
    buffer
}

/// All of a file, whose length must agree.
fn all(file: &dyn File) -> Vec<u8> {
    let content = get(file, 0, 100_000);
    assert_eq!(file.len().unwrap(), content.len() as u64);
    content
}

/// The names but for the lock, which only a real directory keeps as a file.
fn names(dir: &dyn Dir) -> Vec<String> {
    let mut names = Vec::new();
    dir.list(&mut |name| names.push(name.to_str().unwrap().to_owned())).unwrap();
    names.retain(|name| name != "LOCK");
    names.sort();
    names
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("must be refused").kind()
}

fn create_is_exclusive(open: Open) {
    let dir = open();
    let file = create(&*dir, "a", b"first");
    assert_eq!(kind(dir.open("a", OpenMode::CreateNew)), ErrorKind::AlreadyExists);
    assert_eq!(all(&*file), b"first", "the refused creation touched the file");
    assert_eq!(all(&*create(&*dir, "b", b"")), b"");
}

fn open_needs_the_file(open: Open) {
    let dir = open();
    assert_eq!(kind(dir.open("a", OpenMode::Read)), ErrorKind::NotFound);
    assert_eq!(kind(dir.open("a", OpenMode::Write)), ErrorKind::NotFound);
    assert!(names(&*dir).is_empty(), "a refused open made a file");
    create(&*dir, "a", b"content");
    assert_eq!(all(&*dir.open("a", OpenMode::Read).unwrap()), b"content");
    assert_eq!(all(&*dir.open("a", OpenMode::Write).unwrap()), b"content");
}

fn names_are_listed_once(open: Open) {
    let dir = open();
    assert!(names(&*dir).is_empty());
    let longest = "x".repeat(255);
    for name in ["b", ".hidden", "a", &longest] {
        create(&*dir, name, b"");
    }
    assert_eq!(names(&*dir), [".hidden", "a", "b", &longest]);
    assert_eq!(names(&*dir).len(), 4, "the second listing starts anew");
}

fn removed_name_is_free_and_handle_lives_on(open: Open) {
    let dir = open();
    let old = create(&*dir, "a", b"old");
    dir.remove("a").unwrap();
    assert!(names(&*dir).is_empty());
    assert_eq!(kind(dir.open("a", OpenMode::Read)), ErrorKind::NotFound);
    let new = create(&*dir, "a", b"new one");
    assert_eq!(put(&*old, b"er", 3).unwrap(), 2);
    old.sync_data().unwrap();
    assert_eq!(all(&*old), b"older");
    assert_eq!(all(&*new), b"new one");
}

fn remove_needs_the_file(open: Open) {
    let dir = open();
    assert_eq!(kind(dir.remove("a")), ErrorKind::NotFound);
    create(&*dir, "a", b"");
    dir.remove("a").unwrap();
    assert_eq!(kind(dir.remove("a")), ErrorKind::NotFound);
}

fn reads_end_with_the_file(open: Open) {
    let file = create(&*open(), "a", b"0123456789");
    assert_eq!(get(&*file, 0, 4), b"0123");
    assert_eq!(get(&*file, 7, 3), b"789");
    assert_eq!(get(&*file, 7, 100), b"789");
    assert_eq!(get(&*file, 10, 1), b"");
    assert_eq!(get(&*file, 1 << 40, 1), b"");
    assert_eq!(get(&*file, 3, 0), b"");
}

fn sparse_write_reads_zeros(open: Open) {
    let file = create(&*open(), "a", b"head");
    assert_eq!(put(&*file, b"tail", 9_000).unwrap(), 4);
    let mut expected = vec![0; 9_000];
    expected[..4].copy_from_slice(b"head");
    expected.extend_from_slice(b"tail");
    assert_eq!(all(&*file), expected);
}

fn overwrite_keeps_the_rest(open: Open) {
    let file = create(&*open(), "a", b"0123456789");
    put(&*file, b"ab", 3).unwrap();
    assert_eq!(all(&*file), b"012ab56789");
    put(&*file, b"cdef", 8).unwrap();
    assert_eq!(all(&*file), b"012ab567cdef");
}

fn parts_are_written_in_order(open: Open) {
    let file = create(&*open(), "a", b"________________");
    let parts: [&[u8]; 5] = [b"one", b"", b"two", b"three", b""];
    assert_eq!(file.write_at(&parts.map(IoSlice::new), 2).unwrap(), 11);
    assert_eq!(all(&*file), b"__onetwothree___");
}

fn writing_nothing_changes_nothing(open: Open) {
    let file = create(&*open(), "a", b"abc");
    assert_eq!(put(&*file, b"", 100).unwrap(), 0);
    assert_eq!(file.write_at(&[IoSlice::new(b""), IoSlice::new(b"")], 100).unwrap(), 0);
    assert_eq!(all(&*file), b"abc");
}

fn set_len_cuts_and_extends(open: Open) {
    let file = create(&*open(), "a", b"0123456789");
    file.set_len(4).unwrap();
    assert_eq!(all(&*file), b"0123");
    file.set_len(4).unwrap();
    assert_eq!(all(&*file), b"0123");
    file.set_len(6).unwrap();
    assert_eq!(all(&*file), b"0123\0\0");
    file.set_len(0).unwrap();
    assert_eq!(all(&*file), b"");
}

fn bytes_cut_off_do_not_come_back(open: Open) {
    let file = create(&*open(), "a", &[7; 2_000]);
    file.sync_data().unwrap();
    file.set_len(600).unwrap();
    put(&*file, &[8], 1_999).unwrap();
    file.sync_data().unwrap();
    let mut expected = vec![0; 2_000];
    expected[..600].fill(7);
    expected[1_999] = 8;
    assert_eq!(all(&*file), expected);
}

fn allocate_only_extends(open: Open) {
    let file = create(&*open(), "a", b"0123456789");
    file.allocate(5).unwrap();
    assert_eq!(all(&*file), b"0123456789");
    file.allocate(12).unwrap();
    assert_eq!(all(&*file), b"0123456789\0\0");
    file.sync_data().unwrap();
    file.set_len(3).unwrap();
    file.allocate(5).unwrap();
    assert_eq!(all(&*file), b"012\0\0");
}

fn wild_lengths_are_refused(open: Open) {
    let file = create(&*open(), "a", b"abc");
    assert!(file.set_len(u64::MAX).is_err());
    assert!(file.allocate(u64::MAX).is_err());
    assert!(put(&*file, b"x", u64::MAX).is_err());
    assert_eq!(all(&*file), b"abc");
}

fn handles_share_one_file(open: Open) {
    let dir = open();
    let first = create(&*dir, "a", b"first");
    let second = dir.open("a", OpenMode::Write).unwrap();
    let reader = dir.open("a", OpenMode::Read).unwrap();
    put(&*second, b"F", 0).unwrap();
    assert_eq!(all(&*first), b"First");
    put(&*first, b"!", 5).unwrap();
    assert_eq!(all(&*second), b"First!");
    assert_eq!(all(&*reader), b"First!");
    first.set_len(1).unwrap();
    drop(first);
    assert_eq!(all(&*reader), b"F");
}

fn read_handle_cannot_change(open: Open) {
    let dir = open();
    create(&*dir, "a", b"abc");
    let reader = dir.open("a", OpenMode::Read).unwrap();
    assert!(put(&*reader, b"x", 0).is_err());
    assert!(reader.set_len(1).is_err());
    assert!(reader.allocate(10).is_err());
    assert_eq!(all(&*reader), b"abc");
    reader.sync_data().unwrap();
    reader.drop_cache().unwrap();
}

fn dropping_the_cache_loses_nothing(open: Open) {
    let dir = open();
    let content: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
    let file = create(&*dir, "a", &content);
    file.drop_cache().unwrap();
    assert_eq!(all(&*file), content, "dirty pages stay");
    file.sync_data().unwrap();
    file.drop_cache().unwrap();
    assert_eq!(all(&*file), content);
    put(&*file, b"tail", 20_000).unwrap();
    file.drop_cache().unwrap();
    assert_eq!(get(&*file, 19_999, 100), [&content[19_999..], b"tail"].concat());
}

fn sync_changes_nothing_visible(open: Open) {
    let dir = open();
    dir.sync().unwrap();
    let file = create(&*dir, "a", b"abc");
    file.sync_data().unwrap();
    file.sync_data().unwrap();
    dir.sync().unwrap();
    assert_eq!(all(&*file), b"abc");
    dir.remove("a").unwrap();
    dir.sync().unwrap();
    assert!(names(&*dir).is_empty());
}

fn lock_is_exclusive_until_dropped(open: Open) {
    let (dir, other) = (open(), open());
    for _ in 0..3 {
        let lock = dir.lock().unwrap();
        assert_eq!(kind(dir.lock()), ErrorKind::WouldBlock);
        assert_eq!(kind(other.lock()), ErrorKind::WouldBlock);
        create(&*other, "a", b"the lock is advice");
        other.remove("a").unwrap();
        drop(lock);
    }
    let lock = other.lock().unwrap();
    drop((dir, other));
    assert_eq!(kind(open().lock()), ErrorKind::WouldBlock, "the lock outlives its directory");
    drop(lock);
    drop(open().lock().unwrap());
}

fn directories_share_one_place(open: Open) {
    let (dir, other) = (open(), open());
    assert_eq!(dir.path(), other.path());
    create(&*dir, "a", b"abc");
    assert_eq!(names(&*other), ["a"]);
    assert_eq!(all(&*other.open("a", OpenMode::Read).unwrap()), b"abc");
    assert_eq!(kind(other.open("a", OpenMode::CreateNew)), ErrorKind::AlreadyExists);
}

fn random_differs(open: Open) {
    let (dir, other) = (open(), open());
    let mut drawn: Vec<u64> = (0..100).flat_map(|_| [dir.random(), other.random()]).collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 200);
}

/// What only a real directory can show.
mod real_only {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::{ErrorKind, Open, OpenMode, OsDir, all, create, kind, names};
    use keywal::fs::Dir;

    fn fresh() -> (tempfile::TempDir, OsDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = OsDir::open(&temp.path().join("wal"), 0o700, 0o600).unwrap();
        (temp, dir)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Fails rather than hangs.
    fn promptly<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = mpsc::channel();
        thread::spawn(move || done.send(call()));
        wait.recv_timeout(Duration::from_secs(5)).expect("must not block")
    }

    /// Opens what was planted as `name` in every mode; returns the kinds of the three errors.
    fn refusals(dir: OsDir, name: &'static str) -> [ErrorKind; 3] {
        let modes = [OpenMode::Read, OpenMode::Write, OpenMode::CreateNew];
        promptly(move || modes.map(|mode| kind(dir.open(name, mode))))
    }

    #[test]
    fn links_are_refused_and_not_followed() {
        for dangling in [false, true] {
            let (temp, dir) = fresh();
            let target = temp.path().join("target");
            if !dangling {
                fs::write(&target, b"precious").unwrap();
            }
            symlink(&target, temp.path().join("wal/link")).unwrap();
            let [read, write, new] = refusals(dir, "link");
            assert_ne!(read, ErrorKind::NotFound, "a dangling link is not a missing file");
            assert_ne!(write, ErrorKind::NotFound, "a dangling link is not a missing file");
            assert_eq!(new, ErrorKind::AlreadyExists);
            assert_eq!(target.exists(), !dangling);
        }
    }

    #[test]
    fn link_in_place_of_the_lock_is_refused() {
        let (temp, dir) = fresh();
        let target = temp.path().join("target");
        symlink(&target, temp.path().join("wal/LOCK")).unwrap();
        assert_ne!(kind(dir.lock()), ErrorKind::WouldBlock);
        assert!(!target.exists());
    }

    #[test]
    fn fifo_is_refused_without_blocking() {
        let (temp, dir) = fresh();
        let path = temp.path().join("wal/fifo");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let expected = [ErrorKind::InvalidInput, ErrorKind::InvalidInput, ErrorKind::AlreadyExists];
        assert_eq!(refusals(dir, "fifo"), expected);
    }

    #[test]
    fn directory_is_refused() {
        let (temp, dir) = fresh();
        fs::create_dir(temp.path().join("wal/sub")).unwrap();
        assert_eq!(names(&dir), ["sub"]);
        assert!(dir.remove("sub").is_err());
        let [read, write, new] = refusals(dir, "sub");
        assert_eq!(read, ErrorKind::InvalidInput);
        assert_ne!(write, ErrorKind::NotFound);
        assert_eq!(new, ErrorKind::AlreadyExists);
    }

    #[test]
    fn modes_are_private_from_the_start() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("parent/wal");
        let dir = OsDir::open(&path, 0o700, 0o600).unwrap();
        create(&dir, "a", b"");
        let _lock = dir.lock().unwrap();
        assert_eq!(mode(&temp.path().join("parent")), 0o700);
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("a")), 0o600);
        assert_eq!(mode(&path.join("LOCK")), 0o600);
    }

    #[test]
    fn existing_directory_keeps_its_mode_and_content() {
        let (temp, dir) = fresh();
        create(&dir, "a", b"abc");
        let path = temp.path().join("wal");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let again = OsDir::open(&path, 0o700, 0o600).unwrap();
        assert_eq!(mode(&path), 0o750);
        assert_eq!(all(&*again.open("a", OpenMode::Read).unwrap()), b"abc");
    }

    #[test]
    fn second_lock_in_one_process_is_refused() {
        let (temp, dir) = fresh();
        let lock = dir.lock().unwrap();
        let path = temp.path().join("wal");
        let open: Open = &|| Box::new(OsDir::open(&path, 0o700, 0o600).unwrap());
        assert_eq!(kind(open().lock()), ErrorKind::WouldBlock);
        drop(lock);
        drop(open().lock().unwrap());
        assert!(path.join("LOCK").exists(), "the lock's file is never removed");
    }

    #[test]
    fn renamed_directory_stays_open() {
        let (temp, dir) = fresh();
        create(&dir, "a", b"abc");
        fs::rename(temp.path().join("wal"), temp.path().join("moved")).unwrap();
        assert_eq!(all(&*dir.open("a", OpenMode::Read).unwrap()), b"abc");
        create(&dir, "b", b"");
        dir.sync().unwrap();
        assert!(temp.path().join("moved/b").exists());
        assert!(!temp.path().join("wal").exists());
    }

    #[test]
    fn file_in_place_of_the_directory_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("wal");
        fs::write(&path, b"").unwrap();
        assert!(OsDir::open(&path, 0o700, 0o600).is_err());
    }
}

/// A folder next to the directory: of the same disk.
fn links_share_one_file(open: Open) {
    let dir = open();
    let other: Box<dyn Dir> = match dir.as_any().and_then(|dir| dir.downcast_ref::<SimDir>()) {
        Some(sim) => Box::new(sim.folder("other")),
        None => Box::new(OsDir::open(&dir.path().with_file_name("other"), 0o700, 0o600).unwrap()),
    };
    assert_eq!(kind(other.link(&*dir, "a")), ErrorKind::NotFound);
    let file = create(&*dir, "a", b"content");
    other.link(&*dir, "a").unwrap();
    assert_eq!((names(&*dir), names(&*other)), (vec!["a".into()], vec!["a".into()]));
    assert_eq!(kind(other.link(&*dir, "a")), ErrorKind::AlreadyExists);
    put(&*file, b"C", 0).unwrap();
    assert_eq!(all(&*other.open("a", OpenMode::Read).unwrap()), b"Content");
    dir.remove("a").unwrap();
    assert_eq!(all(&*other.open("a", OpenMode::Read).unwrap()), b"Content");
    other.sync().unwrap();
    let elsewhere = SimDir::new(2);
    assert_eq!(kind(elsewhere.link(&*other, "a")), ErrorKind::CrossesDevices);
}
