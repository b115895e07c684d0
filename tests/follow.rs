//! Does a follower see every entry once, in order, and does it never wait for what cannot come?

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::{COLLIDING, EPOCH_MS};
use keywal::fs::sim::{CallKind, CrashChoice, Fault, FaultKind, SimDir};
use keywal::{Entry, Follow, ManualClock, Wal, WalError, WalOptions};

/// Longer than any test takes: who waits so long has not been woken.
const FOR_EVER: Duration = Duration::from_secs(60);
const EIO: FaultKind = FaultKind::Error(5);

/// Without a journal, unless a test gives it one.
fn direct() -> WalOptions {
    WalOptions::default().journal_bytes(0)
}

/// Two entries fill a segment.
fn small_segments() -> WalOptions {
    direct().max_segment_bytes(4_096)
}

fn content(number: u64) -> String {
    format!("{number}:{}", "x".repeat(1_200))
}

fn open(options: WalOptions) -> (SimDir, Arc<Wal>) {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    (sim, Arc::new(wal))
}

fn fail(sim: &SimDir, call: CallKind, nth: u64, name_contains: Option<&str>) {
    let name_contains = name_contains.map(str::to_owned);
    sim.inject(Fault { call, nth, kind: EIO, forever: false, name_contains });
}

/// Asserts that there is an entry now, and which.
fn expect(follow: &mut Follow<Arc<Wal>>, index: u64) -> Entry {
    let entry = follow.try_next().unwrap().unwrap_or_else(|| panic!("{index} is not there"));
    assert_eq!(entry.index, index);
    assert_eq!(follow.next_index(), index + 1);
    entry
}

fn expect_nothing(follow: &mut Follow<Arc<Wal>>) {
    assert!(follow.try_next().unwrap().is_none());
}

/// Waits for everything a follower says, in a thread of its own.
fn listen(follow: Follow<Arc<Wal>>) -> Receiver<Option<Result<Entry, WalError>>> {
    let heard = begin_to_listen(follow);
    let_wait();
    heard
}

fn begin_to_listen(mut follow: Follow<Arc<Wal>>) -> Receiver<Option<Result<Entry, WalError>>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let said = follow.next();
            let over = said.is_none();
            if send.send(said).is_err() || over {
                return;
            }
        }
    });
    receive
}

/// Time to come to wait, so that it is a wake-up that is tested.
fn let_wait() {
    thread::sleep(Duration::from_millis(10));
}

fn hear(receiver: &Receiver<Option<Result<Entry, WalError>>>) -> Option<Result<Entry, WalError>> {
    receiver.recv_timeout(FOR_EVER).expect("it waits for ever")
}

/// The error that ends it, once, and then for ever.
fn assert_over(follow: &mut Follow<Arc<Wal>>, is: fn(&WalError) -> bool) {
    for _ in 0..2 {
        let error = follow.try_next().unwrap_err();
        assert!(is(&error), "{error}: {error:?}");
        let error = follow.next_timeout(FOR_EVER).unwrap_err();
        assert!(is(&error), "{error}: {error:?}");
    }
    if !matches!(follow.try_next(), Err(WalError::Cancelled)) {
        assert!(follow.next().unwrap().is_err());
    }
    assert!(follow.next().is_none());
}

#[test]
fn it_shows_what_is_there_and_then_what_comes() {
    for journal_bytes in [0, 4_096] {
        let (_, wal) = open(small_segments().journal_bytes(journal_bytes));
        for number in 0..5 {
            wal.append_entry("k", None, content(number), false).unwrap();
        }
        let mut follow = Follow::new(Arc::clone(&wal), "k", 1).unwrap();
        for index in 1..5 {
            assert_eq!(expect(&mut follow, index).content, content(index));
        }
        expect_nothing(&mut follow);
        assert!(follow.next_timeout(Duration::from_millis(1)).unwrap().is_none());
        // Across the ends of segments, and a batch at once.
        for round in 0..20 {
            let index = 5 + round * 3;
            wal.append_entry("k", Some("header".into()), content(index), round % 2 == 0).unwrap();
            assert_eq!(expect(&mut follow, index).header.as_deref(), Some(&b"header"[..]));
            let batch = [index + 1, index + 2].map(|number| (None, number.to_string().into()));
            wal.append_batch("k", batch, false).unwrap();
            expect(&mut follow, index + 1);
            expect(&mut follow, index + 2);
            expect_nothing(&mut follow);
        }
        // As everybody else reads it.
        let whole: Vec<Entry> = wal.entries("k").unwrap().collect::<Result<_, _>>().unwrap();
        let follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
        let followed: Vec<Entry> = follow.take(65).collect::<Result<_, _>>().unwrap();
        assert_eq!(followed, whole);
    }
}

#[test]
fn an_append_wakes_who_waits() {
    for journal_bytes in [0, 4_096] {
        let (_, wal) = open(small_segments().journal_bytes(journal_bytes));
        let follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
        let durable = Follow::new(Arc::clone(&wal), "k", 0).unwrap().durable_only();
        let (visible, durable) = (listen(follow), listen(durable));
        for index in 0..50 {
            wal.append_entry("k", None, content(index), index % 2 == 1).unwrap();
            assert_eq!(hear(&visible).unwrap().unwrap().index, index);
            if index % 2 == 1 {
                assert_eq!(hear(&durable).unwrap().unwrap().index, index - 1);
                assert_eq!(hear(&durable).unwrap().unwrap().index, index);
            }
        }
        wal.append_entry("k", None, "x", false).unwrap();
        wal.sync().unwrap();
        assert_eq!(hear(&durable).unwrap().unwrap().index, 50);
        wal.append_entry("k", None, "x", false).unwrap();
        wal.sync_key("k").unwrap();
        assert_eq!(hear(&durable).unwrap().unwrap().index, 51);
    }
}

#[test]
fn it_waits_for_a_key_and_for_an_index_that_do_not_exist_yet() {
    let (_, wal) = open(direct());
    let mut follow = Follow::new(Arc::clone(&wal), "k", 3).unwrap();
    expect_nothing(&mut follow);
    let heard = listen(Follow::new(Arc::clone(&wal), "k", 3).unwrap());
    for index in 0..6 {
        wal.append_entry("k", None, index.to_string(), false).unwrap();
        if index < 3 {
            expect_nothing(&mut follow);
            assert_eq!(follow.next_index(), 3);
        } else {
            assert_eq!(expect(&mut follow, index).content, index.to_string());
            assert_eq!(hear(&heard).unwrap().unwrap().index, index);
        }
    }
    // A creation that fails is none.
    let (sim, wal) = open(direct());
    let heard = listen(Follow::new(Arc::clone(&wal), "k", 0).unwrap());
    fail(&sim, CallKind::Create, 0, None);
    wal.append_entry("k", None, "x", false).unwrap_err();
    wal.append_entry("k", None, "y", false).unwrap();
    assert_eq!(hear(&heard).unwrap().unwrap().content, "y");
}

#[test]
fn keys_with_one_hash_have_followers_of_their_own() {
    let (_, wal) = open(direct());
    let heard = COLLIDING.map(|key| listen(Follow::new(Arc::clone(&wal), key, 0).unwrap()));
    for index in 0..10 {
        for (key, heard) in COLLIDING.iter().zip(&heard) {
            let_wait();
            wal.append_entry(key, None, key, index % 2 == 0).unwrap();
            let entry = hear(heard).unwrap().unwrap();
            assert_eq!((entry.index, &*entry.content), (index, *key));
        }
    }
    // The first one leaves a tombstone, because the other one is found past it.
    wal.remove_key(COLLIDING[0]).unwrap();
    assert!(matches!(hear(&heard[0]), Some(Err(WalError::Expired))));
    assert!(hear(&heard[0]).is_none());
    wal.append_entry(COLLIDING[1], None, "x", false).unwrap();
    assert_eq!(hear(&heard[1]).unwrap().unwrap().index, 10);
    let again = listen(Follow::new(Arc::clone(&wal), COLLIDING[0], 0).unwrap());
    wal.append_entry(COLLIDING[0], None, "again", false).unwrap();
    assert_eq!(hear(&again).unwrap().unwrap().content, "again");
    wal.remove_key(COLLIDING[1]).unwrap();
    assert!(matches!(hear(&heard[1]), Some(Err(WalError::Expired))));
    wal.append_entry(COLLIDING[0], None, "on", false).unwrap();
    assert_eq!(hear(&again).unwrap().unwrap().content, "on");
}

#[test]
fn durable_only_means_it() {
    for journal_bytes in [0, 4_096] {
        let (sim, wal) = open(small_segments().journal_bytes(journal_bytes));
        let new = || Follow::new(Arc::clone(&wal), "k", 0).unwrap().durable_only();
        let mut follow = new();
        wal.append_entry("k", None, "0", false).unwrap();
        expect_nothing(&mut follow);
        wal.append_entry("k", None, "1", true).unwrap();
        wal.append_entry("k", None, "2", false).unwrap();
        for follow in [&mut follow, &mut new()] {
            expect(follow, 0);
            expect(follow, 1);
            expect_nothing(follow);
        }
        // In every state the power could leave behind, what was shown is there.
        let mut shown = 2;
        for number in 3..60 {
            wal.append_entry("k", None, content(number), number % 7 == 0).unwrap();
            while let Some(entry) = follow.try_next().unwrap() {
                assert_eq!(entry.index, shown);
                shown += 1;
            }
            let at = sim.trace_len();
            for sample in [0, 1, 2, 6, 7, 8] {
                let image = sim.crash_image(at, &CrashChoice::Sample { at, sample, seed: number });
                let options = small_segments().journal_bytes(journal_bytes);
                let disk = Arc::new(SimDir::from_image(&image, number));
                let after = Wal::open_in(disk, options).unwrap();
                let kept = after.next_index("k").unwrap();
                assert!(kept >= shown, "{shown} entries were shown, {kept} are kept");
            }
        }
        assert!(shown > 50, "full segments are durable, too: {shown}");
        wal.sync().unwrap();
        for index in shown..60 {
            expect(&mut follow, index);
        }
    }
}

/// Which entries are durable does not depend on what is remembered of a file that was closed.
#[test]
fn durable_entries_of_closed_files_and_earlier_lives_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let options = direct().max_open_files(1);
    for life in 0..3 {
        let wal = Arc::new(Wal::new(dir.path(), options.clone()).unwrap());
        // Of another segment, and not synced.
        wal.append_entry(format!("other {life}"), None, "x", false).unwrap();
        let mut follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap().durable_only();
        for index in 0..life {
            expect(&mut follow, index);
        }
        wal.append_entry("k", None, "x", true).unwrap();
        wal.append_entry(format!("more {life}"), None, "x", false).unwrap();
        expect(&mut follow, life);
        expect_nothing(&mut follow);
        if life == 1 {
            wal.shutdown().unwrap();
        }
    }
}

#[test]
fn what_was_dropped_is_an_error_and_then_it_goes_on() {
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    let retention = Duration::from_secs(10);
    let options = WalOptions::with_retention(retention).journal_bytes(0).clock(clock.clone());
    let (_, wal) = open(options.max_segment_bytes(4_096));
    for number in 0..10 {
        wal.append_entry("k", None, content(number), false).unwrap();
    }
    let mut follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
    expect(&mut follow, 0);
    wal.truncate_before("k", 6).unwrap();
    // What it has begun to read it can read to the end.
    expect(&mut follow, 1);
    let mut behind = 2;
    for oldest in [6, 10] {
        let first_index = wal.first_index("k").unwrap();
        assert_eq!(first_index, oldest);
        match follow.next() {
            Some(Err(WalError::Behind { wanted, oldest })) => {
                assert_eq!((wanted, oldest), (behind, first_index));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(follow.next_index(), first_index);
        if oldest == 6 {
            expect(&mut follow, 6);
            clock.advance(3 * retention);
            wal.compact().unwrap();
            expect(&mut follow, 7);
            behind = 8;
        }
    }
    expect_nothing(&mut follow);
    wal.append_entry("k", None, "on", false).unwrap();
    assert_eq!(expect(&mut follow, 10).content, "on");
    // An idle follower is none of those.
    clock.advance(3 * retention);
    wal.compact().unwrap();
    expect_nothing(&mut follow);
    wal.append_entry("k", None, "on", false).unwrap();
    expect(&mut follow, 11);
}

#[test]
fn the_end_of_the_key_is_told() {
    let (_, wal) = open(direct());
    for number in 0..3 {
        wal.append_entry("k", None, number.to_string(), false).unwrap();
    }
    let mut reading = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
    let mut ahead = Follow::new(Arc::clone(&wal), "k", 100).unwrap();
    let waiting = listen(Follow::new(Arc::clone(&wal), "k", 3).unwrap());
    expect(&mut reading, 0);
    wal.remove_key("k").unwrap();
    assert!(matches!(hear(&waiting), Some(Err(WalError::Expired))));
    assert!(hear(&waiting).is_none());
    for number in 0..200 {
        wal.append_entry("k", None, number.to_string(), false).unwrap();
    }
    // Entries of another log are not shown for those that are gone.
    assert_over(&mut reading, |error| matches!(error, WalError::Expired));
    assert_over(&mut ahead, |error| matches!(error, WalError::Expired));
    // Removing what is not there is no end.
    let mut follow = Follow::new(Arc::clone(&wal), "new", 0).unwrap();
    wal.remove_key("new").unwrap();
    wal.append_entry("new", None, "x", false).unwrap();
    expect(&mut follow, 0);
}

#[test]
fn shutting_down_ends_it() {
    let (_, wal) = open(direct());
    wal.append_entry("k", None, "x", false).unwrap();
    let mut late = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
    let waiting = ["k", "no such key"].map(|key| Follow::new(Arc::clone(&wal), key, 1).unwrap());
    let waiting = waiting.map(listen);
    wal.shutdown().unwrap();
    for heard in &waiting {
        assert!(matches!(hear(heard), Some(Err(WalError::Closed))));
        assert!(hear(heard).is_none());
    }
    assert_over(&mut late, |error| matches!(error, WalError::Closed));
    assert!(matches!(wal.follow("k", 0), Err(WalError::Closed)));
}

#[test]
fn whoever_has_a_canceller_ends_it() {
    let (_, wal) = open(direct());
    wal.append_entry("k", None, "x", false).unwrap();
    let follow = Follow::new(Arc::clone(&wal), "k", 1).unwrap();
    let mut other = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
    let canceller = follow.canceller();
    let heard = listen(follow);
    canceller.clone().cancel();
    assert!(hear(&heard).is_none(), "no error");
    canceller.cancel();
    expect(&mut other, 0);
    let mut follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
    follow.canceller().cancel();
    assert_over(&mut follow, |error| matches!(error, WalError::Cancelled));
}

#[test]
fn keys_that_are_too_long_are_refused() {
    let (_, wal) = open(direct());
    let refused = wal.follow(vec![0; 65_536], 0);
    assert!(matches!(refused, Err(WalError::KeyTooLong { bytes: 65_536 })));
}

/// The one thing a follower must never do is to wait for an entry that cannot come.
#[test]
fn a_failed_sync_ends_it_behind_what_is_visible() {
    let poisoned = |error: &WalError| matches!(error, WalError::Poisoned { .. });
    for journal_bytes in [0, 4_096] {
        for (call, name) in [(CallKind::SyncData, None), (CallKind::SyncData, Some("k-"))] {
            let (sim, wal) = open(WalOptions::default().journal_bytes(journal_bytes));
            wal.append_entry("k", None, "0", true).unwrap();
            let new = || Follow::new(Arc::clone(&wal), "k", 0).unwrap();
            let heard = [new(), new().durable_only()].map(listen);
            for heard in &heard {
                assert_eq!(hear(heard).unwrap().unwrap().index, 0);
            }
            let in_journal = journal_bytes > 0;
            fail(&sim, call, 0, name);
            let failed = wal.append_entry("k", None, "1", true);
            if in_journal && name.is_some() {
                // The journal is all that is synced.
                failed.unwrap();
                continue;
            }
            failed.unwrap_err();
            let [visible, durable] = &heard;
            assert_eq!(hear(visible).unwrap().unwrap().index, 1, "it is visible");
            for heard in [visible, durable] {
                let said = hear(heard).unwrap();
                assert!(said.as_ref().is_err_and(poisoned), "{said:?}");
                assert!(hear(heard).is_none());
            }
            // One that comes later is told the same.
            let mut late = new().durable_only();
            expect(&mut late, 0);
            assert_over(&mut late, poisoned);
        }
    }
}

type Call = fn(&Wal) -> Result<(), WalError>;

#[test]
fn a_sync_that_fails_on_behalf_of_others_ends_it_too() {
    let poisoned = |error: &WalError| matches!(error, WalError::Poisoned { .. });
    let calls: [(&str, bool, Call); 4] = [
        ("sync", false, Wal::sync),
        ("sync_key", false, |wal| wal.sync_key("k")),
        // Then another one has to be closed, as soon as no follower has it in hand: one of which the journal
        // has what was promised.
        ("a file that is opened", true, |wal| wal.append_entry("other", None, "x", true).map(drop)),
        ("a full segment", false, |wal| wal.append_entry("k", None, content(1), false).map(drop)),
    ];
    for (what, promised, call) in calls {
        let journal_bytes = if promised { 1 << 20 } else { 0 };
        let (sim, wal) = open(small_segments().max_open_files(1).journal_bytes(journal_bytes));
        wal.append_entry("k", None, "0", promised).unwrap();
        let follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
        let durable = listen(Follow::new(Arc::clone(&wal), "k", 0).unwrap().durable_only());
        let visible = listen(follow);
        assert_eq!(hear(&visible).unwrap().unwrap().index, 0);
        assert!(!promised || hear(&durable).unwrap().unwrap().index == 0);
        fail(&sim, CallKind::SyncData, 0, Some("k-"));
        let mut tries = 0;
        while sim.faults_hit() == 0 {
            tries += 1;
            assert!(tries < 10_000, "{what}: nothing is synced");
            let _ = call(&wal);
            let _ = wal.remove_key("other");
        }
        let end = loop {
            match hear(&visible) {
                Some(Ok(_)) => {}
                said => break said,
            }
        };
        assert!(end.as_ref().unwrap().as_ref().is_err_and(poisoned), "{what}: {end:?}");
        let said = hear(&durable).unwrap();
        assert!(said.as_ref().is_err_and(poisoned), "{what}: {said:?}");
    }
}

/// The journal makes room for others by syncing the segment.
#[test]
fn what_the_journal_makes_durable_on_the_way_is_shown() {
    for fails in [false, true] {
        let (sim, wal) = open(WalOptions::default().journal_bytes(4_096));
        let durable = listen(Follow::new(Arc::clone(&wal), "k", 0).unwrap().durable_only());
        wal.append_entry("k", None, "0", true).unwrap();
        wal.append_entry("k", None, "1", false).unwrap();
        assert_eq!(hear(&durable).unwrap().unwrap().index, 0);
        let_wait();
        if fails {
            fail(&sim, CallKind::SyncData, 0, Some("k-"));
        }
        for number in 0..200 {
            wal.append_entry("busy", None, number.to_string(), true).unwrap();
        }
        match hear(&durable).unwrap() {
            Ok(entry) => assert!(!fails && entry.index == 1, "{entry:?}"),
            Err(error) => assert!(fails && matches!(error, WalError::Poisoned { .. }), "{error}"),
        }
    }
}

/// Whichever call fails, once or for ever: as long as the key takes entries its followers show them, and
/// when it does not any more they end.
#[test]
fn whatever_fails_followers_go_on_or_end() {
    let mut hit = 0;
    for (journal_bytes, forever) in [(0, false), (0, true), (4_096, false), (4_096, true)] {
        for nth in 0..120 {
            let (sim, wal) = open(small_segments().journal_bytes(journal_bytes).max_open_files(1));
            let new = || Follow::new(Arc::clone(&wal), "k", 0).unwrap();
            let followers = [(false, new()), (true, new().durable_only())];
            let heard = followers.map(|(durable, follow)| (durable, begin_to_listen(follow)));
            sim.inject(Fault { call: CallKind::Any, nth, kind: EIO, forever, name_contains: None });
            for number in 0..7 {
                let _ = wal.append_entry("k", None, content(number), number % 2 == 1);
                let _ = wal.append_entry("other", None, "x", number == 5);
            }
            let _ = wal.truncate_before("k", 3);
            hit += sim.faults_hit().min(1);
            sim.clear_faults();
            for (durable, heard) in &heard {
                let last = || wal.append_entry("k", None, "last", *durable);
                // The first to be told of a failed sync, and then those who come later.
                let ended = match last().or_else(|_| last()) {
                    Ok(_) => false,
                    Err(WalError::Poisoned { .. }) if wal.len("k").is_ok_and(|len| len > 0) => true,
                    Err(_) => continue,
                };
                loop {
                    match hear(heard) {
                        Some(Ok(entry)) if entry.content == "last" && !ended => break,
                        Some(Ok(_) | Err(WalError::Io { .. } | WalError::Behind { .. })) => {}
                        Some(Err(WalError::Poisoned { .. })) if ended => {}
                        None if ended => break,
                        said => {
                            panic!("call {nth}, for ever {forever}, durable {durable}: {said:?}")
                        }
                    }
                }
            }
            // Lets the threads end.
            let _ = wal.shutdown();
        }
    }
    assert!(hit > 300, "{hit} calls failed");
}

#[test]
fn a_directory_that_cannot_be_synced_ends_only_who_waits_for_it() {
    let (sim, wal) = open(small_segments());
    fail(&sim, CallKind::SyncDir, 0, None);
    let heard = [false, true].map(|durable| {
        let follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
        listen(if durable { follow.durable_only() } else { follow })
    });
    wal.append_entry("k", None, "0", true).unwrap_err();
    wal.append_entry("k", None, "1", false).unwrap();
    let [visible, durable] = &heard;
    for index in 0..2 {
        assert_eq!(hear(visible).unwrap().unwrap().index, index);
    }
    let end = loop {
        match hear(durable) {
            Some(Err(WalError::Io { .. })) => {}
            said => break said,
        }
    };
    assert!(matches!(end, Some(Err(WalError::Poisoned { .. }))), "{end:?}");
    assert!(hear(durable).is_none());
    // The others until the segment is full: there can be no other one.
    let mut next_index = 2;
    while wal.append_entry("k", None, content(next_index), false).is_ok() {
        assert_eq!(hear(visible).unwrap().unwrap().index, next_index);
        next_index += 1;
    }
    let end = hear(visible);
    assert!(matches!(end, Some(Err(WalError::Poisoned { .. }))), "{end:?}");
    assert!(hear(visible).is_none());
}

/// Nobody has to touch the key for that.
#[test]
fn a_directory_that_another_key_could_not_sync_ends_it_too() {
    let (sim, wal) = open(direct());
    wal.append_entry("k", None, "0", false).unwrap();
    let durable = listen(Follow::new(Arc::clone(&wal), "k", 0).unwrap().durable_only());
    fail(&sim, CallKind::SyncDir, 0, None);
    wal.append_entry("other", None, "x", true).unwrap_err();
    let end = hear(&durable);
    assert!(matches!(end, Some(Err(WalError::Poisoned { .. }))), "{end:?}");
    assert!(hear(&durable).is_none());
}

#[test]
fn a_key_that_is_stuck_ends_it() {
    let poisoned = |error: &WalError| matches!(error, WalError::Poisoned { .. });
    // A creation that fails and cannot be undone.
    let (sim, wal) = open(small_segments());
    for number in 0..2 {
        wal.append_entry("k", None, content(number), false).unwrap();
    }
    let heard = listen(Follow::new(Arc::clone(&wal), "k", 1).unwrap());
    assert_eq!(hear(&heard).unwrap().unwrap().index, 1);
    // The second sync of data is that of the new file.
    fail(&sim, CallKind::Write, 1, Some("k-"));
    fail(&sim, CallKind::Remove, 0, Some("k-"));
    while wal.append_entry("k", None, content(2), false).is_ok() {}
    assert!(matches!(wal.append_entry("k", None, "x", false), Err(WalError::Poisoned { .. })));
    let end = loop {
        match hear(&heard) {
            Some(Ok(_)) => {}
            said => break said,
        }
    };
    assert!(end.as_ref().unwrap().as_ref().is_err_and(poisoned), "{end:?}");
    let mut late = Follow::new(Arc::clone(&wal), "k", wal.next_index("k").unwrap()).unwrap();
    assert_over(&mut late, poisoned);

    // A removal that is cut off.
    let (sim, wal) = open(small_segments());
    wal.append_entry("k", None, "x", false).unwrap();
    let heard = listen(Follow::new(Arc::clone(&wal), "k", 1).unwrap());
    fail(&sim, CallKind::SyncData, 0, None);
    wal.remove_key("k").unwrap_err();
    let end = hear(&heard).unwrap();
    assert!(end.as_ref().is_err_and(poisoned), "{end:?}");
}

#[test]
fn damage_is_told_once_and_a_lost_end_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    let refs: Vec<_> =
        (0..6).map(|n| wal.append_entry("k", None, content(n), false).unwrap()).collect();
    let path = wal.segments("k").unwrap()[0].path.clone();
    wal.shutdown().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(refs[2].offset).unwrap() + 100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let wal = Arc::new(Wal::new(dir.path(), WalOptions::default()).unwrap());
    let mut follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
    expect(&mut follow, 0);
    expect(&mut follow, 1);
    assert!(matches!(follow.next(), Some(Err(WalError::Corrupted { .. }))));
    for index in 3..6 {
        expect(&mut follow, index);
    }
    expect_nothing(&mut follow);
    wal.append_entry("k", None, "on", false).unwrap();
    expect(&mut follow, 6);
    drop(follow);
    wal.shutdown().unwrap();
    drop(wal);

    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 40]).unwrap();
    let wal = Arc::new(Wal::new(dir.path(), WalOptions::default()).unwrap());
    let mut follow = Follow::new(Arc::clone(&wal), "k", 5).unwrap();
    expect(&mut follow, 5);
    assert_over(&mut follow, |error| matches!(error, WalError::Corrupted { .. }));
}

#[test]
fn an_error_of_reading_is_no_end() {
    let (sim, wal) = open(small_segments());
    for number in 0..6 {
        wal.append_entry("k", None, content(number), false).unwrap();
    }
    let mut follow = Follow::new(Arc::clone(&wal), "k", 0).unwrap();
    expect(&mut follow, 0);
    let mut seen = vec![0];
    fail(&sim, CallKind::Read, 0, None);
    let mut errors = 0;
    loop {
        match follow.try_next() {
            Ok(Some(entry)) => seen.push(entry.index),
            Ok(None) => break,
            Err(WalError::Io { .. }) => errors += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(errors, 1);
    assert!(seen.is_sorted() && seen.ends_with(&[5]), "{seen:?}");
    wal.append_entry("k", None, "on", false).unwrap();
    expect(&mut follow, 6);
}

#[test]
fn idle_followers_keep_no_file_open() {
    let (_, wal) = open(direct().max_open_files(4));
    let keys = || (0..100).map(|key| format!("key {key}"));
    let mut followers: Vec<_> =
        keys().map(|key| Follow::new(Arc::clone(&wal), key, 0).unwrap()).collect();
    for index in 0..3 {
        for (key, follow) in keys().zip(&mut followers) {
            wal.append_entry(key, None, "x", true).unwrap();
            expect(follow, index);
            expect_nothing(follow);
        }
        assert!(wal.stats().open_files <= 4, "{:?}", wal.stats());
    }
}

/// Appenders, a compacting and a removing thread, and followers from everywhere.
#[test]
fn followers_keep_up_with_many_threads() {
    const APPENDS: u64 = 400;
    let dir = tempfile::tempdir().unwrap();
    for journal_bytes in [0, 65_536] {
        let options = WalOptions::default().max_segment_bytes(20_000).max_open_files(3);
        let path = dir.path().join(journal_bytes.to_string());
        let wal = Arc::new(Wal::new(path, options.journal_bytes(journal_bytes)).unwrap());
        let keys = ["shared", "8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];
        thread::scope(|scope| {
            for key in keys {
                for durable_only in [false, true] {
                    let follow = Follow::new(Arc::clone(&wal), key, 0).unwrap();
                    let follow = if durable_only { follow.durable_only() } else { follow };
                    scope.spawn(move || {
                        for (index, entry) in (0..3 * APPENDS).zip(follow) {
                            assert_eq!(entry.unwrap().index, index);
                        }
                    });
                }
            }
            for thread in 0..3_usize {
                let wal = &wal;
                scope.spawn(move || {
                    for number in 0..3 * APPENDS {
                        let key = keys[(thread + usize::try_from(number).unwrap()) % 3];
                        let durable = number % 40 == 0;
                        wal.append_entry(key, None, "x".repeat(100), durable).unwrap();
                    }
                    wal.sync().unwrap();
                });
            }
        });
        wal.shutdown().unwrap();
    }
}

#[test]
fn entries_of_several_keys_wake_the_followers_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    thread::scope(|scope| {
        let followers: Vec<_> = ["a", "b"]
            .into_iter()
            .flat_map(|key| [(key, false), (key, true)])
            .map(|(key, durable)| {
                let follow = wal.follow(key, 0).unwrap();
                let mut follow = if durable { follow.durable_only() } else { follow };
                scope.spawn(move || follow.next().unwrap().unwrap().content)
            })
            .collect();
        thread::sleep(Duration::from_millis(20));
        let entries = ["a", "b"].map(|key| (key, None, Bytes::from(key)));
        wal.append_many(entries, true).unwrap();
        let seen: Vec<Bytes> = followers.into_iter().map(|one| one.join().unwrap()).collect();
        assert_eq!(seen, ["a", "a", "b", "b"]);
    });
}
