//! Does the simulation lose, keep and fail what it says?

use super::*;
use std::collections::HashSet;

const EIO: i32 = 5;

fn create(dir: &SimDir, name: &str) -> Box<dyn File> {
    dir.open(name, OpenMode::CreateNew).unwrap()
}

fn put(file: &dyn File, offset: u64, data: &[u8]) -> io::Result<usize> {
    file.write_at(&[IoSlice::new(data)], offset)
}

fn all(file: &dyn File) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    assert_eq!(file.read_at(&mut content, 0).unwrap(), content.len());
    content
}

fn fault(call: CallKind, nth: u64, kind: FaultKind) -> Fault {
    Fault { call, nth, kind, forever: false, name_contains: None }
}

/// A directory with the durable file `a`.
fn synced(content: &[u8]) -> (SimDir, Box<dyn File>) {
    let mut image = Image::default();
    image.set("a", content);
    let dir = SimDir::from_image(&image, 1);
    let file = dir.open("a", OpenMode::Write).unwrap();
    (dir, file)
}

/// What `name` may hold after a crash now; checks the count, and each choice on the way.
fn outcomes(dir: &SimDir, name: &str) -> HashSet<Option<Vec<u8>>> {
    let at = dir.trace_len();
    let mut found = HashSet::new();
    let visits = dir.crash_images(at, &CrashBudget::default(), &mut |image, choice| {
        assert_eq!(dir.crash_image(at, choice), *image, "{choice}");
        found.insert(image.get(name).map(<[u8]>::to_vec));
    });
    assert_eq!(visits, 1 << dir.crash_units(at));
    found
}

fn set<const N: usize>(contents: [Option<&[u8]>; N]) -> HashSet<Option<Vec<u8>>> {
    contents.into_iter().map(|content| content.map(<[u8]>::to_vec)).collect()
}

#[test]
fn unsynced_name_may_be_missing_though_its_data_is_durable() {
    let dir = SimDir::new(1);
    let file = create(&dir, "a");
    assert_eq!(outcomes(&dir, "a"), set([None, Some(b"")]));
    put(&*file, 0, b"x").unwrap();
    file.sync_data().unwrap();
    assert_eq!(outcomes(&dir, "a"), set([None, Some(b"x")]));
    dir.sync().unwrap();
    assert_eq!(outcomes(&dir, "a"), set([Some(b"x")]));
    assert_eq!(dir.durable_image(), dir.image());
}

#[test]
fn removed_name_may_be_back_until_the_directory_is_synced() {
    let (dir, _) = synced(b"old");
    dir.remove("a").unwrap();
    assert_eq!(outcomes(&dir, "a"), set([None, Some(b"old")]));
    put(&*create(&dir, "a"), 0, b"new").unwrap();
    let new: &[u8] = b"new";
    assert_eq!(
        outcomes(&dir, "a"),
        set([None, Some(b"old"), Some(b""), Some(b"\0\0\0"), Some(new)])
    );
    dir.remove("a").unwrap();
    dir.sync().unwrap();
    assert_eq!(dir.crash_units(dir.trace_len()), 0, "nothing leads to the second file");
    assert_eq!(outcomes(&dir, "a"), set([None]));
}

#[test]
fn length_may_be_ahead_of_the_data_or_behind_it() {
    let (dir, file) = synced(b"ab");
    put(&*file, 1, b"XY").unwrap();
    // Nothing; the length alone; the bytes alone, of which only the first is inside; both.
    assert_eq!(outcomes(&dir, "a"), set([Some(b"ab"), Some(b"ab\0"), Some(b"aX"), Some(b"aXY")]));
    file.sync_data().unwrap();
    assert_eq!(outcomes(&dir, "a"), set([Some(b"aXY")]));
}

#[test]
fn sectors_come_and_go_independently() {
    let (dir, file) = synced(&[1; 1_600]);
    put(&*file, 500, &[2; 600]).unwrap();
    assert_eq!(dir.crash_units(1), 3);
    let found = outcomes(&dir, "a");
    for mask in 0..8 {
        let mut content = vec![1; 1_600];
        for (bit, range) in [500..512, 512..1_024, 1_024..1_100].into_iter().enumerate() {
            content[range].fill(if mask >> bit & 1 == 1 { 2 } else { 1 });
        }
        assert!(found.contains(&Some(content)), "{mask}");
    }
    assert_eq!(found.len(), 8);
}

#[test]
fn cut_and_allocation_are_pending_until_the_file_is_synced() {
    let (dir, file) = synced(b"abcd");
    file.set_len(1).unwrap();
    file.allocate(3).unwrap();
    let expected = set([Some(b"abcd"), Some(b"a"), Some(b"abc"), Some(b"a\0\0")]);
    assert_eq!(outcomes(&dir, "a"), expected);
    dir.sync().unwrap();
    assert_eq!(outcomes(&dir, "a"), expected, "a sync of the directory covers no file");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&dir, "a"), set([Some(b"a\0\0")]));
}

#[test]
fn each_point_of_the_trace_has_its_own_base() {
    let (dir, file) = synced(b"");
    for (index, byte) in (0..3).zip(*b"abc") {
        put(&*file, index, &[byte]).unwrap();
        file.sync_data().unwrap();
    }
    let none = CrashChoice::Mask { at: 0, mask: 0 };
    let lens = (0..=6).map(|at| dir.crash_image(at, &none).get("a").map(<[u8]>::len));
    assert_eq!(lens.flatten().collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2, 3]);
    let units: Vec<usize> = (0..=6).map(|at| dir.crash_units(at)).collect();
    assert_eq!(units, [0, 2, 0, 2, 0, 2, 0]);
}

#[test]
fn failed_sync_loses_the_pages_and_the_next_one_lies() {
    let (dir, file) = synced(b"old");
    put(&*file, 0, b"lost!").unwrap();
    let before = dir.trace_len();
    dir.inject(fault(CallKind::SyncData, 0, FaultKind::Error(EIO)));
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    file.sync_data().unwrap();
    assert_eq!(all(&*file), b"lost!", "the cache still shows it");
    put(&*file, 4, b"?").unwrap();
    assert_eq!(dir.after_kill().image().get("a"), Some(&b"lost?"[..]));
    assert_eq!(outcomes(&dir, "a"), set([Some(b"old"), Some(b"old\0\0"), Some(b"old\0?")]));
    file.drop_cache().unwrap();
    assert_eq!(all(&*file), b"old\0?", "durable and still pending");
    assert_eq!(dir.crash_units(before), 2, "before the failure it could have come");
    file.sync_data().unwrap();
    assert_eq!(outcomes(&dir, "a"), set([Some(b"old\0?")]));
}

#[test]
fn kill_keeps_everything_and_old_handles_reach_nothing() {
    let dir = SimDir::new(1);
    let file = create(&dir, "a");
    put(&*file, 0, b"kept").unwrap();
    let _lock = dir.lock().unwrap();
    dir.inject(fault(CallKind::Any, 0, FaultKind::Error(EIO)));
    let next = dir.after_kill();
    dir.clear_faults();
    put(&*file, 0, b"late").unwrap();
    dir.remove("a").unwrap();
    let _next_lock = next.lock().unwrap();
    assert_eq!(all(&*next.open("a", OpenMode::Read).unwrap()), b"kept");
    assert_eq!(next.trace_len(), 2);
    assert_eq!(outcomes(&next, "a").len(), 4, "missing, empty, zeros, kept");
    assert_eq!(outcomes(&next, "a"), outcomes(&next.after_kill(), "a"));
}

#[test]
fn samples_can_be_made_again_and_are_what_they_are_said_to_be() {
    let (dir, file) = synced(&[1; 512]);
    put(&*file, 0, &[2; 512 * 20]).unwrap();
    let (at, budget) = (1, CrashBudget { samples: 500, ..CrashBudget::default() });
    let (old, new) = (dir.durable_image(), dir.image());
    assert_eq!(dir.crash_units(at), 21);
    let mut found = HashSet::new();
    let mut garbled = 0;
    let visits = dir.crash_images(at, &budget, &mut |image, choice| {
        assert_eq!(dir.crash_image(at, choice), *image, "{choice}");
        let content = image.get("a").unwrap();
        let odd = content.chunks(512).filter(|sector| sector.iter().any(|byte| *byte > 2));
        let odd = odd.count();
        match *choice {
            CrashChoice::Sample { sample: 0, .. } => assert_eq!(*image, old),
            CrashChoice::Sample { sample: 1, .. } => assert_eq!(*image, new),
            CrashChoice::Sample { sample: 4.., .. } if odd == 1 => garbled += 1,
            _ => assert_eq!(odd, 0, "{choice}"),
        }
        found.insert(content.to_vec());
    });
    assert_eq!(visits, 500);
    for sectors in 0..=20 {
        let torn: Vec<u8> = (0..20).flat_map(|i| [if i < sectors { 2 } else { 0 }; 512]).collect();
        assert!(sectors == 0 || found.contains(&torn), "first {sectors}");
    }
    assert!(garbled > 30 && found.len() > 100, "{garbled} {}", found.len());
}

#[test]
fn garbling_spares_durable_bytes() {
    let (dir, file) = synced(&[1; 1_000]);
    put(&*file, 100, &[2; 100]).unwrap();
    let budget = CrashBudget { garbled: 50, ..CrashBudget::default() };
    let mut odd = 0;
    let visits = dir.crash_images(1, &budget, &mut |image, _| {
        let content = image.get("a").unwrap();
        assert!(content[..100].iter().chain(&content[200..]).all(|byte| *byte == 1));
        odd += usize::from(content[100..200].iter().any(|byte| *byte > 2));
    });
    assert_eq!((visits, odd), (52, 50));
}

#[test]
fn every_call_can_be_made_to_fail() {
    let workload = |dir: &SimDir| -> io::Result<()> {
        let _lock = dir.lock()?;
        let file = dir.open("a", OpenMode::CreateNew)?;
        file.allocate(10)?;
        file.write_at(&[IoSlice::new(b"abc")], 0)?;
        file.sync_data()?;
        dir.sync()?;
        file.set_len(3)?;
        file.drop_cache()?;
        file.len()?;
        file.read_at(&mut [0; 3], 0)?;
        dir.list(&mut |_| ())?;
        dir.open("a", OpenMode::Read)?;
        dir.remove("a")
    };
    let good = SimDir::new(1);
    workload(&good).unwrap();
    let kinds = good.call_kinds();
    assert_eq!(kinds.iter().collect::<HashSet<_>>().len(), 13, "one of each kind");
    for (nth, kind) in (0..good.calls()).zip(kinds) {
        for (call, nth) in [(CallKind::Any, nth), (kind, 0)] {
            let dir = SimDir::new(1);
            dir.inject(fault(call, nth, FaultKind::Error(EIO)));
            assert_eq!(workload(&dir).unwrap_err().raw_os_error(), Some(EIO), "{kind:?}");
            assert_eq!((dir.faults_hit(), dir.call_kinds().last()), (1, Some(&kind)));
        }
    }
}

#[test]
fn faults_count_matching_calls_only() {
    let dir = SimDir::new(1);
    let (a, b) = (create(&dir, "a"), create(&dir, "b"));
    let kind = FaultKind::ShortThenError { bytes: 2, error: ENOSPC };
    let name_contains = Some("b".to_owned());
    dir.inject(Fault { name_contains, forever: true, ..fault(CallKind::Write, 1, kind) });
    assert_eq!(put(&*b, 0, b"1234").unwrap(), 4);
    assert_eq!(put(&*a, 0, b"1234").unwrap(), 4);
    assert_eq!(put(&*b, 0, b"5678").unwrap(), 2);
    for _ in 0..3 {
        assert_eq!(put(&*b, 2, b"78").unwrap_err().raw_os_error(), Some(ENOSPC));
    }
    assert_eq!(put(&*a, 0, b"1234").unwrap(), 4);
    assert_eq!(all(&*b), b"5634");
    dir.clear_faults();
    dir.inject(fault(CallKind::Read, 0, FaultKind::Short(0)));
    assert_eq!(b.read_at(&mut [0; 4], 0).unwrap(), 1, "0 would be the end of the file");
    dir.inject(fault(CallKind::SyncData, 0, FaultKind::Interrupted));
    assert_eq!(b.sync_data().unwrap_err().kind(), io::ErrorKind::Interrupted);
    b.sync_data().unwrap();
    b.drop_cache().unwrap();
    assert_eq!(all(&*b), b"5634", "an interrupted sync loses nothing");
}

#[test]
fn full_disk_writes_short_and_removal_frees() {
    let dir = SimDir::new(1);
    let (a, b) = (create(&dir, "a"), create(&dir, "b"));
    dir.set_capacity(Some(10));
    assert_eq!(put(&*a, 0, &[1; 8]).unwrap(), 8);
    assert_eq!(put(&*b, 0, &[1; 8]).unwrap(), 2);
    let trace = dir.trace_len();
    for result in [put(&*b, 2, &[1; 6]).map(drop), b.allocate(3)] {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
    assert_eq!((dir.trace_len(), all(&*b).len()), (trace, 2), "a failed call left a mark");
    assert_eq!(put(&*a, 0, &[2; 8]).unwrap(), 8, "in place needs no room");
    a.set_len(5).unwrap();
    assert_eq!(b.allocate(9).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(all(&*b).len(), 5, "what there was room for stays");
    b.allocate(5).unwrap();
    dir.remove("a").unwrap();
    assert_eq!(put(&*b, 5, &[1; 6]).unwrap(), 5);
    dir.set_capacity(None);
    assert_eq!(put(&*b, 10, &[1; 6]).unwrap(), 6);
}

#[test]
fn special_file_is_listed_and_refused() {
    let dir = SimDir::new(1);
    dir.plant_special("fifo");
    for mode in [OpenMode::Read, OpenMode::Write] {
        assert_eq!(dir.open("fifo", mode).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    let error = dir.open("fifo", OpenMode::CreateNew).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    let mut names = Vec::new();
    dir.list(&mut |name| names.push(name.to_owned())).unwrap();
    assert_eq!(names, ["fifo"]);
    dir.remove("fifo").unwrap();
    create(&dir, "fifo");
}

#[test]
fn choices_and_operations_print_short() {
    let (dir, file) = synced(b"");
    put(&*file, 3, &[0; 100]).unwrap();
    assert_eq!(format!("{:?} {dir:?}", dir.trace()), r#"[write #0 3+100] SimDir({"a": 103})"#);
    let mask = CrashChoice::Mask { at: 3, mask: 5 };
    let sample = CrashChoice::Sample { at: 3, sample: 5, seed: 9 };
    assert_eq!(format!("{mask}; {sample}"), "at=3 mask=0x5; at=3 sample=5 seed=9");
}

#[test]
fn folders_lose_power_together_and_sync_their_names_apart() {
    let dir = SimDir::new(1);
    let folder = dir.folder("copy");
    let file = dir.open("a", OpenMode::CreateNew).unwrap();
    put(&*file, 0, b"x").unwrap();
    file.sync_data().unwrap();
    Dir::sync(&dir).unwrap();
    folder.link(&dir, "a").unwrap();
    Dir::sync(&dir).unwrap();
    let both = |image: &Image| (image.get("a").is_some(), image.get("copy/a").is_some());
    assert_eq!(both(&dir.durable_image()), (true, false));
    Dir::sync(&folder).unwrap();
    assert_eq!(both(&folder.durable_image()), (true, true));
    let booted = SimDir::from_image(&dir.durable_image(), 2);
    let mut names = Vec::new();
    booted.list(&mut |name| names.push(name.to_owned())).unwrap();
    assert_eq!(names, ["a"]);
    assert!(booted.folder("copy").open("a", OpenMode::Read).is_ok());
}
